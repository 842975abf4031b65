"""The index of a store, index.arrow: memory-mapped, so that millions of utterances open at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.ipc

from aasist_lib.base import files
from aasist_lib.base.errors import UserError

NAME = "index.arrow"
PLACE = ["shard", "start", "frames", "seconds"]  # columns that the index adds; for waveforms, frames are samples
NUMBERS = {"shard": "int64", "start": "int64", "frames": "int64", "seconds": "float64"}
ROWS = 100_000  # converted to text at a time


def write(folder, table: pd.DataFrame) -> None:
    """Write index.arrow: numbers in the columns that the store adds, text in the others, missing values as ''."""
    columns = {}
    for name in table.columns:
        column = table[name].astype(NUMBERS.get(name, "str"))
        kind = pa.from_numpy_dtype(NUMBERS[name]) if name in NUMBERS else pa.large_string()
        column = pa.array(column if name in NUMBERS else column.fillna(""), kind)
        columns[name] = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    batch = pa.RecordBatch.from_pydict(columns)  # one batch, so that its columns are mapped without a copy
    with files.replacing(Path(folder) / NAME) as partial, pa.ipc.new_file(str(partial), batch.schema) as writer:
        writer.write_batch(batch)


def read(folder) -> pd.DataFrame:
    """The index of a store, read-only columns; UserError if it is missing or cannot be read."""
    path = Path(folder) / NAME
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_pandas(split_blocks=True)
    except FileNotFoundError:
        raise UserError(f"{path}: missing, so this is no store; `dvc repro extract` makes one") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: cannot be read ({error}); extract again") from None


def text(table: pd.DataFrame) -> Iterator[bytes]:
    """The table as CSV in pieces, to hash a large one."""
    for start in range(0, max(len(table), 1), ROWS):
        yield table.iloc[start : start + ROWS].to_csv(index=False, header=start == 0).encode()
