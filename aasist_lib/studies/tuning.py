"""Hyperparameter search: many short trainings, each judged by its equal error rate on dev. Eval is never read.

Optuna's tree-structured Parzen estimator proposes the settings (Bergstra et al. 2011); the median rule stops trials
early. The study is a SQLite file, so a killed search continues, and interrupted trials resume from their last epoch.
With one process, the sequence of trials does not depend on interruptions.
"""

import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytorch_lightning as pl
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from aasist_lib import training
from aasist_lib.base import provenance
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import one_thread
from aasist_lib.base.progress import progress
from aasist_lib.base.workers import in_processes
from aasist_lib.corpora.copies import beyond
from aasist_lib.store import Store, indexes

DONE = (TrialState.COMPLETE, TrialState.PRUNED)  # states that count as tried; killed trials do not
DIGITS = 3  # significant digits of sampled numbers, so that settings stay readable
FEWEST_FOR_IMPORTANCE = 8  # complete trials; importance is unreliable even then


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, integers if `low` is one; `log` samples their logarithms uniformly.

    >>> Range(1.0e-4, 1.0e-2, log=True).value(0.00123456)
    0.00123
    """

    low: float
    high: float
    log: bool = False

    def distribution(self) -> BaseDistribution:
        kind = IntDistribution if isinstance(self.low, int) else FloatDistribution
        return kind(self.low, self.high, log=self.log)

    def value(self, drawn: float) -> float:
        """Setting: the sampled value to three significant digits."""
        if isinstance(self.low, int):
            return int(drawn)
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)

    def drawn(self, value: Any) -> Any:
        """Sample that gives this setting, or None."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and self.low <= value <= self.high else None

    def examples(self) -> tuple:
        """Settings to validate before any training."""
        # the second integer, too, to catch settings that must be a multiple of another one
        between = (min(self.low + 1, self.high),) if isinstance(self.low, int) else ()
        return (self.low, *between, self.high)


@dataclass(frozen=True)
class Choices:
    """One of these YAML values, which are JSON in the study because Optuna takes no lists."""

    values: tuple

    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution([json.dumps(value) for value in self.values])

    def value(self, drawn: str) -> Any:
        return json.loads(drawn)

    def drawn(self, value: Any) -> str | None:
        return json.dumps(value) if value in self.values else None

    def examples(self) -> tuple:
        return self.values


@dataclass(frozen=True)
class Search:
    """Space and settings of a search.

    `settings` maps tried settings to those of a training, as in params.yaml, and must be picklable. `first` are those
    of the first trial ({} samples them). `seed` is that of the sampler; trainings use their own. `about` is everything
    else that results depend on: another text is another study.
    """

    space: Mapping[str, Range | Choices]
    settings: Callable[[Mapping[str, Any]], dict]
    first: Mapping[str, Any]
    seed: int
    draws: int
    prune_trials: int
    prune_epochs: int
    store: Path
    folder: Path
    about: str = ""

    def name(self) -> str:
        """Name of the study: hash of everything that results depend on, so that its trials are comparable."""
        space = {key: str(part) for key, part in self.space.items()}
        about = [space, self.seed, self.draws, self.prune_trials, self.prune_epochs, self.about]
        key = hashlib.sha256(json.dumps([*about, torch.__version__, pl.__version__], sort_keys=True).encode())
        key.update((self.store / indexes.NAME).read_bytes())
        for shard in sorted(self.store.glob("shard-*.npy")):
            key.update(b"%d %d\n" % (shard.stat().st_size, shard.stat().st_mtime_ns))
        key.update(provenance.code_key(training.__name__))
        return key.hexdigest()[:12]

    def tried(self, trial: FrozenTrial) -> dict[str, Any]:
        """Settings of a trial."""
        return {key: part.value(trial.params[key]) for key, part in self.space.items() if key in trial.params}


@dataclass(frozen=True)
class Job:
    """One trial; `place` is the number of trials before it."""

    search: Search
    name: str
    place: int


def run(search: Search, trials: int, workers: int = 1) -> optuna.Study:
    """Continue or start a study until `trials` trials, with earlier ones, are complete or pruned.

    With one worker the sequence of trials is reproducible; several share results in the order in which they finish.

    Raises
    ------
    UserError
        Another search uses the folder, `study.db` is broken, or a training fails.
    """
    if Store(search.store).holds != "waveforms":
        raise UserError(f"{search.store} holds features, and trials differ in theirs: extract waveforms")
    search.folder.mkdir(parents=True, exist_ok=True)
    name = search.name()
    with _alone(search.folder):
        study = _study(search, name)
        if not study.get_trials(deepcopy=False) and search.first:
            study.enqueue_trial({key: part.drawn(search.first[key]) for key, part in search.space.items()})
        for trial in study.get_trials(states=(TrialState.RUNNING,)):  # this process holds the lock, so they were killed
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={"again": _began_as(trial)})
        done = len(study.get_trials(deepcopy=False, states=DONE))
        jobs = [Job(search, name, place) for place in range(done, trials)]
        with progress(total=max(done, trials), desc="tune", unit="trial") as bar:
            bar.skip(done)
            for _ in in_processes(_work, jobs, min(workers, len(jobs)), "--workers") if jobs else ():
                bar.update()
                found = best(study)
                bar.set_description(f"tune: best dev EER {found.value:.1%}" if found else "tune")
        shutil.rmtree(search.folder / name, ignore_errors=True)
    return study


def best(study: optuna.Study) -> FrozenTrial | None:
    """Complete trial with the lowest equal error rate on dev, the first of equals; None without any."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def table(study: optuna.Study, search: Search) -> pd.DataFrame:
    """One row per trial: number, state, dev_eer (fraction) and best_epoch, epochs, minutes, and its settings."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        seen = trial.intermediate_values
        epoch = min(seen, key=lambda step: (seen[step], step), default=None)
        row = {"trial": trial.number, "state": trial.state.name.lower(), "dev_eer": seen.get(epoch)}
        row |= {"best_epoch": epoch, "epochs": len(seen)}
        row["minutes"] = round(trial.duration.total_seconds() / 60, 2) if trial.duration else None
        rows.append(row | search.tried(trial))
    columns = ["trial", "state", "dev_eer", "best_epoch", "epochs", "minutes", *search.space]
    return pd.DataFrame(rows, columns=columns).astype({"best_epoch": "Int64"})


def importance(study: optuna.Study) -> dict[str, float]:
    """Importance of each setting by PED-ANOVA (Watanabe et al. 2023): fractions of 1, the largest first.

    {} with too few complete trials or equal results.
    """
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < FEWEST_FOR_IMPORTANCE or len(set(values)) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study)


def _work(job: Job) -> None:
    os.environ["AASIST_TERMINAL"] = ""  # the bar over trials is enough
    search = job.search
    study = _study(search, job.name, job.place)
    trial = study.ask({key: part.distribution() for key, part in search.space.items()})
    settings = search.settings(search.tried(trial))
    folder = search.folder / job.name / f"trial-{_began_as(trial)}"

    def judge(row: dict) -> None:
        trial.report(row["dev_eer"], row["epoch"])
        if row["epoch"] < settings["train"]["max_epochs"] and trial.should_prune():
            raise optuna.TrialPruned

    held = Store(search.store, settings["features"])
    out = beyond(held.table, settings["extract"]["copies"])
    try:
        with one_thread():
            history = training.fit(
                held, folder / "network", model=settings["model"], train=settings["train"],
                augment=settings["augment"], seed=settings["seed"], threads=1, checkpoints=folder / "checkpoints",
                leave_out=out, draws=search.draws, on_epoch=judge,
            )  # fmt: skip
    except (optuna.TrialPruned, training.Diverged):  # divergence is a bad result, not an error
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, float(history["dev_eer"].min()))
    shutil.rmtree(folder, ignore_errors=True)


def _began_as(trial) -> int:
    """Number of the trial whose settings this one repeats, or its own."""
    return trial.user_attrs.get("again", trial.number)


def _study(search: Search, name: str, place: int = 0) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = search.folder / "study.db"
    # The sampler's state is lost with a killed process, and restarting it with the same seed would repeat its samples,
    # so every trial has its own seed.
    seed = int(np.random.SeedSequence((search.seed, place)).generate_state(1)[0])
    pruner = optuna.pruners.MedianPruner(n_startup_trials=search.prune_trials, n_warmup_steps=search.prune_epochs)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", {"connect_args": {"timeout": 60}})
        sampler = optuna.samplers.TPESampler(seed=seed)
        return optuna.create_study(
            study_name=name, storage=storage, sampler=sampler, pruner=pruner, load_if_exists=True
        )
    except Exception as error:  # of SQLite, SQLAlchemy, Alembic or Optuna
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no study that can be gone on with ({reason}): move it away") from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder: a second search would take running trials for killed ones."""
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another search goes on in {folder}: wait for its end, or stop it") from None
        yield
