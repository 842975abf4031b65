"""Work in pieces that are kept on disk, so that a run that was stopped goes on where it was."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aasist_lib.base import files
from aasist_lib.base.progress import at_hand, progress
from aasist_lib.base.workers import in_processes


def runs(rows: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    """The rows in runs.

    Parameters
    ----------
    rows : pd.DataFrame
    size : int
        Rows of a run; the last may have fewer.
    """
    return (rows.iloc[start : start + size] for start in range(0, len(rows), size))


def done(
    jobs: list, work: Callable, folder: Path, key: str, workers: int, words: str, name: Callable = lambda _: ""
) -> pd.DataFrame:
    """The results of jobs, done in processes unless they are already there: their rows, one after the other.

    Parameters
    ----------
    jobs : list
        Each with `path`, the file that `work` writes, and `utt_ids`.
    work : function of a job
        Ends with `write`.
    folder : path
        What is in it belongs to `key`, or is removed.
    key : str
        What `fingerprint` gave.
    workers : int
        Processes; 1 works in this one.
    words : str
        For the progress bar.
    name : callable, optional
        A job's name, to be shown while it is done.
    """
    mark = folder / "key"
    folder.mkdir(parents=True, exist_ok=True)
    if not mark.is_file() or mark.read_text() != key:
        for path in [mark, *folder.glob("piece-*")]:
            path.unlink(missing_ok=True)
        mark.write_text(key)
    waiting = [job for job in jobs if not job.path.exists()]
    with progress(total=sum(len(job.utt_ids) for job in jobs), desc=words, unit="recording") as bar:
        bar.skip(sum(len(job.utt_ids) for job in jobs) - sum(len(job.utt_ids) for job in waiting))
        workers = min(workers, len(waiting))
        if workers > 1:
            finished = in_processes(work, waiting, workers, "audit.workers")
        else:
            finished = (work(job) or job for job in waiting)
        for job in at_hand(bar, finished, waiting, workers, name):
            bar.update(len(job.utt_ids))
    return pd.DataFrame([row for job in jobs for row in json.loads(job.path.read_text("utf-8"))])


def write(path: Path, rows: list[dict]) -> None:
    """Writes rows of a table with their numbers in full, whole or not at all.

    Parameters
    ----------
    path : Path
        A JSON file in a folder that exists.
    rows : list of dict
    """
    files.write(path, json.dumps(rows))


@contextmanager
def one_thread():
    """One thread of torch, in a process of its own or in this one: more threads, other bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_memory()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_memory() -> None:
    """Let this process keep the memory that it frees, up to 64 MB, for what it allocates next.

    The C library of Linux otherwise returns the arrays of every batch to the kernel and gets them back page by page,
    which costs a tenth of the time or more. Once a block of up to 32 MB has been freed, it keeps blocks of that size.
    """
    np.empty(2**25 - 2**16, np.uint8)
