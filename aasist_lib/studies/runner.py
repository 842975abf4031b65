"""Long runs of many trainings that go on where they were stopped: each result is kept by the key of what decides it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

from aasist_lib import evaluation
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import single_threaded
from aasist_lib.base.progress import at_hand, progress
from aasist_lib.base.workers import in_processes
from aasist_lib.store import Store, indexes
from aasist_lib.studies.systems import System


@dataclass(frozen=True)
class Job:
    """A system to train with a seed on a store of waveforms; `key` hashes what its result in `folder` depends on."""

    system: System
    seed: int
    store: Path
    folder: Path
    key: str

    @property
    def name(self) -> str:
        return f"{self.system.name}-{self.seed}"

    @property
    def words(self) -> str:
        """What the progress says of it."""
        return f"{self.system.name} with seed {self.seed}"

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def done(self, row: dict) -> bool:
        """Whether a result is valid for this job."""
        return row.get("key") == self.key


def run(
    jobs: Sequence[Job], measure: Callable[[Job], dict], *, doing: str, kept: Iterable[dict] = (),
    save: Callable[[list[dict]], None] = lambda results: None, workers: int = 1,
) -> list[dict]:  # fmt: skip
    """Results of all jobs in their order; valid ones, in their files or in `kept`, are not made again.

    Parameters
    ----------
    measure : module-level function.
    doing : title of the progress.
    kept : results of an earlier run, perhaps on another machine.
    save : called with the results so far, at the start and after each one.
    workers : processes of one thread each; only the times depend on it.

    Raises
    ------
    UserError
        A training fails, or a process was killed.
    """
    kept = list(kept)
    results = {job: row for job in jobs if (row := result(job, kept))}
    # the first seed of every system first
    waiting = sorted((job for job in jobs if job not in results), key=lambda job: job.system.seeds.index(job.seed))

    def so_far() -> list[dict]:
        return [results[job] for job in jobs if job in results]

    with progress(total=len(jobs), desc=doing, unit="run") as bar:
        bar.skip(len(results))
        save(so_far())
        work, workers = partial(_work, measure), min(workers, len(waiting))
        finished = in_processes(work, waiting, workers, "--workers") if waiting else ()
        for job in at_hand(bar, finished, waiting, workers, attrgetter("words")):
            results[job] = read(job.path)
            save(so_far())
            bar.update()
    return so_far()


def result(job: Job, kept: Iterable[dict]) -> dict | None:
    """Valid result of a job, from its file or from `kept`."""
    return next(filter(job.done, [read(job.path), *kept]), None)


def read(path: Path) -> dict:
    """Content of a JSON file; {} where it is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def kept(board: Path) -> list[dict]:
    """Results in a board's file, perhaps of another machine; UserError where it is broken."""
    try:
        return json.loads(board.read_text("utf-8"))["results"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError) as error:
        raise UserError(f"{board} cannot be read ({error}): take it from git, or remove it to begin anew") from None


def of_store(store: Path) -> str:
    """Hash of a store's table and samples, independent of time and place."""
    key = hashlib.sha256()
    for piece in indexes.text(indexes.read(store)):
        key.update(piece)
    for path in sorted(Path(store).glob("shard-*.npy")):
        with open(path, "rb") as file:
            key.update(hashlib.file_digest(file, "sha256").digest())
    return key.hexdigest()[:16]


def check_waveforms(store: Path, users: str) -> None:
    """UserError where a store holds features, or there is none; `users` (systems, trials) name who shares it."""
    if Store(store).content != "waveforms":
        raise UserError(
            f"{store} holds features, and {users} differ in theirs: extract with extract.content: waveforms"
        )


def _work(measure: Callable[[Job], dict], job: Job) -> None:
    os.environ["AASIST_TERMINAL"] = ""  # the bar over runs is enough
    with single_threaded():
        found = measure(job)
    evaluation.save_json(job.path, found)
