"""Scores of very many recordings: on all cores, kept as they come, gone on with after a stop.

Beside the file that is asked for, `scores.csv`, lies a folder while the work goes on, `scores.csv.partial`. In it a
table of the same name grows; `tail -f` shows it. Whoever starts again with the same detector goes on from there.
"""

import hashlib
import os
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aasist_lib import audio, detector
from aasist_lib.base import files
from aasist_lib.base.errors import UserError, full_disk_told
from aasist_lib.base.progress import progress
from aasist_lib.base.workers import in_processes

PIECE = 32  # recordings that a process scores before it asks for more
TEXT = {"path": str, "decision": str, "error": str}
_loaded: dict[str, detector.Detector] = {}  # of this process


@dataclass(frozen=True)
class Job:
    """Some of the recordings. Done when its file is there."""

    paths: tuple[str, ...]
    folder: str  # from which the paths start
    detector: str
    file: Path


def score(paths, detector_path, output, *, jobs: int = 0, cluster: str = "") -> pd.DataFrame:
    """Score recordings and folders of them into a file, which appears when all are scored.

    Parameters
    ----------
    paths : path or iterable of paths
        As for `Detector.score`.
    detector_path : path
        Folder, or ONNX file.
    output : path
        `.csv` or `.parquet`. What a run that was stopped has done lies in `<output>.partial`, and is gone on from
        where the detector is the same. A recording that was replaced meanwhile keeps its score.
    jobs : int
        Processes of one thread each; 0: one for each core.
    cluster : str
        Address of a Dask scheduler whose workers are to do it; they see the same files by the same names.

    Returns
    -------
    DataFrame
        Columns of `Detector.score`, in its order.

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
    detector.Detector.load(detector_path)  # what is wrong with it is said before any process starts
    with _partial(output) as partial, full_disk_told(output):
        partial = Path(partial)
        table = partial / f"{Path(output).stem}.csv"
        _start_or_go_on(partial, table, _key(Path(detector_path)))
        there = set(_read(table)["path"])
        waiting = [str(path) for path, name in zip(recordings, found, strict=True) if name not in there]
        pieces = [waiting[at : at + PIECE] for at in range(0, len(waiting), PIECE)]
        todo = [
            Job(tuple(piece), os.getcwd(), str(Path(detector_path).absolute()), partial / f"piece-{at:06d}.csv")
            for at, piece in enumerate(pieces)
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


def _partial(output):
    """The folder for what is done; for an output that is no file, one that goes with this run."""
    file = files.target(output)
    return nullcontext(file.with_name(f"{file.name}.partial")) if file else tempfile.TemporaryDirectory()


def _work(job: Job) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch or onnxruntime is there: the processes are the threads
    if job.detector not in _loaded:
        _loaded[job.detector] = detector.Detector.load(job.detector)
    rows = _loaded[job.detector].score([os.path.join(job.folder, path) for path in job.paths])
    rows["path"] = [detector.printable(path) for path in job.paths]
    beside = job.file.with_suffix(".new")
    rows.to_csv(beside, index=False)
    os.replace(beside, job.file)


def _start_or_go_on(partial: Path, table: Path, key: str) -> None:
    """An empty table, or what is whole of the one that this detector has begun."""
    mark = partial / "detector"
    if mark.is_file() and mark.read_text() == key and table.is_file():
        text = table.read_bytes()
        table.write_bytes(text[: text.rfind(b"\n") + 1])  # a kill can cut the last line
        for piece in partial.glob("piece-*"):
            piece.unlink()
        return
    if partial.is_dir() and not mark.is_file() and any(partial.iterdir()):
        raise UserError(f"{partial} is in the way, and not from scoring: move it, or choose another --output")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    table.write_text(",".join(detector.COLUMNS) + "\n", "utf-8")
    mark.write_text(key)


def _key(path: Path) -> str:
    """Which detector it is, whatever its name."""
    key = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.*")):
        key.update(f"{'' if path.is_file() else file.name}\n".encode() + file.read_bytes())
    return key.hexdigest()


def _read(table: Path) -> pd.DataFrame:
    rows = pd.read_csv(table, dtype=TEXT | {"seconds": float, "llr": float}, keep_default_na=False, na_values={
        "seconds": [""], "llr": [""]
    })  # fmt: skip
    return rows.drop_duplicates("path")


def _write(rows: pd.DataFrame, output) -> None:
    with files.whole(output) as beside:
        if Path(output).suffix.lower() == ".parquet":
            rows.to_parquet(beside, index=False)
        else:
            rows.round({"seconds": 3, "llr": 6}).to_csv(beside, index=False, lineterminator="\n")
