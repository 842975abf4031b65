"""The index of a store, index.arrow (older: index.csv): memory-mapped, so that millions of utterances open at once."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.ipc

from aasist_lib.base.errors import UserError
from aasist_lib.store.folders import Folder

NAME, OLDER = "index.arrow", "index.csv"
PLACE = ["shard", "start", "frames", "seconds"]  # columns that the index adds; for waveforms, frames are samples
NUMBERS = {"shard": "int64", "start": "int64", "frames": "int64", "seconds": "float64"}
ROWS = 100_000  # converted to text at a time


def write(folder: Folder, table: pd.DataFrame) -> None:
    """Write index.arrow: numbers in the columns that the store adds, text in the others, missing values as ''."""
    columns = {}
    for name in table.columns:
        column = table[name].astype(NUMBERS.get(name, "str"))
        kind = pa.from_numpy_dtype(NUMBERS[name]) if name in NUMBERS else pa.large_string()
        column = pa.array(column if name in NUMBERS else column.fillna(""), kind)
        columns[name] = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    batch = pa.RecordBatch.from_pydict(columns)  # one batch, so that its columns are mapped without a copy
    with folder.writing(NAME) as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def read(folder: Folder) -> pd.DataFrame:
    """The index of a store, read-only columns; UserError if it is missing or cannot be read."""
    try:
        if folder.has(NAME):
            source = pa.memory_map(str(folder.path / NAME)) if folder.path else pa.BufferReader(folder.read(NAME))
            return pa.ipc.open_file(source).read_all().to_pandas(split_blocks=True)
        return from_csv(folder.read(OLDER))
    except FileNotFoundError:
        raise UserError(f"{folder}/{NAME}: missing, so this is no store; `dvc repro extract` makes one") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{folder}/{NAME}: cannot be read ({error}); extract again") from None


def file_of(folder) -> Path:
    """The index file of a local store, index.arrow or index.csv."""
    found = Path(folder) / NAME
    return found if found.exists() else Path(folder) / OLDER


def content(folder) -> Iterator[bytes]:
    """The index of a local store as CSV in pieces, the same bytes for both kinds of file."""
    found = file_of(folder)
    return text(read(Folder(folder))) if found.name == NAME else iter([found.read_bytes()])


def text(table: pd.DataFrame) -> Iterator[bytes]:
    """The table as CSV in pieces, to hash a large one."""
    for start in range(0, max(len(table), 1), ROWS):
        yield table.iloc[start : start + ROWS].to_csv(index=False, header=start == 0).encode()


def from_csv(content: bytes) -> pd.DataFrame:
    """Numbers in the columns that the store adds, text in the others; empty fields stay ''."""
    names = next(csv.reader(io.StringIO(content.partition(b"\n")[0].decode())))
    kinds = {name: NUMBERS.get(name, "str") for name in names}
    return pd.read_csv(io.BytesIO(content), dtype=kinds, keep_default_na=False)
