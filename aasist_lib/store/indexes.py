"""The index of a store: a row for each utterance, in a file that is mapped into memory and not read.

`index.arrow` is an Arrow IPC file of one uncompressed batch. What is asked of a row or a column touches no other, so a
store of millions of utterances opens as quickly as one of a hundred. Older stores have the same table as `index.csv`.
"""

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
PLACE = ["shard", "start", "frames", "seconds"]  # what the index adds to the table; of waveforms, frames are samples
NUMBERS = {"shard": "int64", "start": "int64", "frames": "int64", "seconds": "float64"}
ROWS = 100_000  # turned into text at a time


def write(folder: Folder, table: pd.DataFrame) -> None:
    """Write index.arrow: numbers where the store adds them, text for the rest, empty where there is none."""
    columns = {}
    for name in table.columns:
        column = table[name].astype(NUMBERS.get(name, "str"))
        kind = pa.from_numpy_dtype(NUMBERS[name]) if name in NUMBERS else pa.large_string()
        column = pa.array(column if name in NUMBERS else column.fillna(""), kind)
        columns[name] = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    batch = pa.RecordBatch.from_pydict(columns)  # one, so that its numbers need not be put together when it is read
    with folder.writing(NAME) as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def read(folder: Folder) -> pd.DataFrame:
    """The index of a store. Its columns cannot be written to; a copy of them can.

    Raises
    ------
    UserError
        If there is none, or it cannot be read.
    """
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
    """The file of the index in a store on this machine, whichever it has."""
    found = Path(folder) / NAME
    return found if found.exists() else Path(folder) / OLDER


def content(folder) -> Iterator[bytes]:
    """The index of a store on this machine as CSV in pieces: the same bytes, whichever file it has."""
    found = file_of(folder)
    return text(read(Folder(folder))) if found.name == NAME else iter([found.read_bytes()])


def text(table: pd.DataFrame) -> Iterator[bytes]:
    """The table as CSV in pieces, the same bytes as `to_csv` without an index gives in one: to hash a large one."""
    for start in range(0, max(len(table), 1), ROWS):
        yield table.iloc[start : start + ROWS].to_csv(index=False, header=start == 0).encode()


def from_csv(content: bytes) -> pd.DataFrame:
    """Numbers for what the store adds, text for the rest; empty fields stay empty text."""
    names = next(csv.reader(io.StringIO(content.partition(b"\n")[0].decode())))
    kinds = {name: NUMBERS.get(name, "str") for name in names}
    return pd.read_csv(io.BytesIO(content), dtype=kinds, keep_default_na=False)
