"""Scores many recordings on all cores; a stopped run is resumed.

Until all are scored, results grow in `<output>.partial/` (a CSV that `tail -f` can show). A new run with the same
detector continues from there.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aasist_lib import audio, detector
from aasist_lib.base import files
from aasist_lib.base.errors import UserError, full_disk_told
from aasist_lib.base.progress import progress
from aasist_lib.base.workers import in_processes
from aasist_lib.detector.output import as_csv

PIECE = 32  # recordings per job
TEXT = {"path": str, "decision": str, "error": str}
_loaded: dict[str, detector.Detector] = {}  # per process


@dataclass(frozen=True)
class Job:
    """A piece of the recordings; done when its file exists."""

    paths: tuple[str, ...]
    folder: str  # base of relative paths
    detector: str
    file: Path


def score(paths, detector_path, output, *, jobs: int = 0, cluster: str = "") -> pd.DataFrame:
    """Score recordings into a file, which appears when all are scored.

    Parameters
    ----------
    paths
        Files and folders, as for `Detector.score`.
    detector_path
        Folder or ONNX file.
    output
        `.csv` or `.parquet`. A stopped run is resumed from `<output>.partial` if the detector is the same; a recording
        that was replaced in between keeps its score.
    jobs
        Number of processes with one thread each; 0: one per core.
    cluster
        Address of a Dask scheduler to use instead; its workers must see the same files under the same names.

    Returns
    -------
    scores
        As `Detector.score`.

    Raises
    ------
    UserError
        The detector cannot be loaded, the output cannot be written, the disk is full, or a process was killed.
    """
    files.check(output)
    recordings, _ = detector.find(paths)
    if pipes := [path for path in recordings if audio.is_pipe(path)]:
        raise UserError(f"{pipes[0]} is a pipe, which other processes cannot read: leave out --jobs")
    found = [detector.printable(path) for path in recordings]
    detector.Detector.load(detector_path)  # report a broken detector before any process starts
    with _partial(output) as partial, full_disk_told(output):
        table = partial / f"{Path(output).stem}.csv"
        _start_or_go_on(partial, table, _key(Path(detector_path)))
        scored = set(_read(table)["path"])
        waiting = [str(path) for path, name in zip(recordings, found, strict=True) if name not in scored]
        here, detector_path = os.getcwd(), str(Path(detector_path).absolute())
        todo = [
            Job(tuple(waiting[at : at + PIECE]), here, detector_path, partial / f"piece-{at:06d}.csv")
            for at in range(0, len(waiting), PIECE)
        ]
        processes = min(jobs or os.cpu_count() or 1, len(todo))
        with progress(total=len(found), desc="score", unit="file") as bar, open(table, "a", encoding="utf-8") as grown:
            bar.skip(len(found) - len(waiting))
            compute = {"backend": "dask" if cluster else "local", "address": cluster}
            for job in in_processes(_work, todo, processes, "--jobs", compute) if todo else ():
                grown.write(job.file.read_text("utf-8").partition("\n")[2])
                grown.flush()
                job.file.unlink()
                bar.update(len(job.paths))
        rows = _read(table).set_index("path").loc[found].reset_index()[detector.COLUMNS]
        _write(rows, output)
        shutil.rmtree(partial)
    return rows


@contextmanager
def _partial(output) -> Iterator[Path]:
    """Folder for partial results; temporary if the output is not a regular file."""
    if file := files.target(output):
        yield file.with_name(f"{file.name}.partial")
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "partial"


def _work(job: Job) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # set before torch or onnxruntime is loaded: one core per process
    if job.detector not in _loaded:
        _loaded[job.detector] = detector.Detector.load(job.detector)
    rows = _loaded[job.detector].score([os.path.join(job.folder, path) for path in job.paths])
    rows["path"] = [detector.printable(path) for path in job.paths]
    with files.replacing(job.file) as beside:
        rows.to_csv(beside, index=False)


def _start_or_go_on(partial: Path, table: Path, key: str) -> None:
    """Start an empty table, or keep the complete lines of the one that this detector began."""
    mark = partial / "detector"
    if mark.is_file() and mark.read_text() == key and table.is_file():
        text = table.read_bytes()
        table.write_bytes(text[: text.rfind(b"\n") + 1])  # a kill can cut the last line
        for piece in partial.glob("piece-*"):
            piece.unlink()
        return
    if not mark.is_file() and partial.is_dir() and any(partial.iterdir()):
        raise UserError(f"{partial} is in the way, and not from scoring: move it, or choose another --output")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    table.write_text(",".join(detector.COLUMNS) + "\n", "utf-8")
    mark.write_text(key)


def _key(path: Path) -> str:
    """Identify the detector by content, whatever its name."""
    key = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.*")):
        key.update(f"{'' if path.is_file() else file.name}\n".encode() + file.read_bytes())
    return key.hexdigest()


def _read(table: Path) -> pd.DataFrame:
    empty = {"seconds": [""], "llr": [""]}  # as text, "" is no missing value
    rows = pd.read_csv(table, dtype=TEXT | {"seconds": float, "llr": float}, keep_default_na=False, na_values=empty)
    return rows.drop_duplicates("path")


def _write(rows: pd.DataFrame, output) -> None:
    with files.whole(output) as beside:
        if Path(output).suffix.lower() == ".parquet":
            rows.to_parquet(beside, index=False)
        else:
            beside.write_text(as_csv(rows), "utf-8", newline="")
