"""Work in pieces that are kept on disk, so that a stopped run resumes."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aasist_lib.base import files, provenance
from aasist_lib.base.progress import at_hand, progress
from aasist_lib.base.workers import in_processes


def runs(rows: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    """The rows in runs of `size`; the last may be shorter."""
    return (rows.iloc[start : start + size] for start in range(0, len(rows), size))


def done(
    jobs: list, work: Callable, folder: Path, key: str, workers: int, words: str, name: Callable = lambda _: ""
) -> pd.DataFrame:
    """The rows of all jobs in order; jobs whose piece exists in `folder` under the same `key` are not run again."""
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


def cache_key(module: str, settings, *, contents: Iterable[Path] = (), states: Iterable[Path] = ()) -> str:
    """Hash of all that results depend on.

    Parameters
    ----------
    module
        Name of the module that computes them: its code, and that of what it imports.
    settings
        Anything whose repr says it all.
    contents
        Files that are read for it.
    states
        Files of which size and time of change are enough; they may be missing.
    """
    key = hashlib.sha256(repr(settings).encode())
    key.update(provenance.code_key(module))
    for path in sorted(contents):
        key.update(path.read_bytes())
    for path in states:
        stat = path.stat() if path.is_file() else None
        key.update(b"%d %d\n" % (stat.st_size, stat.st_mtime_ns) if stat else b"missing\n")
    return key.hexdigest()


def write(path: Path, rows: list[dict]) -> None:
    """Write rows of a table as JSON in full precision, atomically."""
    files.write(path, json.dumps(rows))


@contextmanager
def single_threaded():
    """One thread of torch, in worker processes and here alike: other thread counts give other bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_memory()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_memory() -> None:
    """Let this process keep up to 64 MB of freed memory for reuse, which saves a tenth of the time or more."""
    # glibc returns freed arrays to the kernel until a block of up to 32 MB has been freed: then it keeps such blocks
    np.empty(2**25 - 2**16, np.uint8)


@contextmanager
def reproducible(threads: int, seed: int | None = None, strictly: bool = True):
    """Fixed threads, deterministic algorithms and seed; the caller's settings are restored."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strictly)  # some GPU operations have no deterministic version
            # nothing is read before it is written, and filling takes a tenth of a step
            torch.utils.deterministic.fill_uninitialized_memory = False
            if seed is not None:
                torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            torch.utils.deterministic.fill_uninitialized_memory = filled
