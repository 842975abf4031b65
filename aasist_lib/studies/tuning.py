"""A search for better settings: many short trainings, each judged by its equal error rate on dev.

What a trial tries is drawn by Optuna's tree-structured Parzen estimator (Bergstra and others 2011), from the trials
before it: at random at first, then the more often where good ones lie. A trial that does worse after an epoch than half
of those that went to their end did at that time is stopped there. `eval` is never read.

The study is a SQLite file, which holds as it is at any moment: a search that was killed goes on. Trials that ran then
are tried again, each from its latest epoch. Chance depends on the seed and on a trial's place in the sequence alone, so
that with one process the sequence is the same however often the search was stopped.
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

DONE = (TrialState.COMPLETE, TrialState.PRUNED)  # what counts as tried; trials that were killed do not
DIGITS = 3  # of numbers that are drawn: a setting is to be read and typed
FEWEST_FOR_IMPORTANCE = 8  # complete trials: the importance of settings means little even then


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole ones if `low` is one; `log`: their logarithms are drawn evenly.

    Examples
    --------
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
        """The setting: what was drawn, to three digits."""
        if isinstance(self.low, int):
            return int(drawn)
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)

    def drawn(self, value: Any) -> Any:
        """What would have to be drawn for this setting, or None."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and self.low <= value <= self.high else None

    def examples(self) -> tuple:
        """Settings to check before anything is trained."""
        # of whole numbers the second, too: a multiple that another setting asks for shows there
        between = (min(self.low + 1, self.high),) if isinstance(self.low, int) else ()
        return (self.low, *between, self.high)


@dataclass(frozen=True)
class Choices:
    """One of these, which may be anything that YAML has. In the study they are JSON: Optuna takes no lists."""

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
    """What is searched, and by what trials.

    Attributes
    ----------
    space : mapping
        By setting, such as `train.lr`.
    settings : callable
        Given what a trial tries, setting to value, returns sections features, model, augment and train, and seed, as
        `pipeline.params` gives them. Pickled: a function of a module, or a `functools.partial` of one.
    first : mapping
        What the first trial tries, such as the settings that there are; {} for chance.
    seed : int
        Of what is drawn; trainings have the seed of their settings.
    draws : int
        Utterances that an epoch draws.
    prune_trials, prune_epochs : int
        Trials that are complete before another is stopped early, and epochs that each may have.
    store : Path
        Of waveforms.
    folder : Path
        Keeps the studies, `study.db`, and the trials that run.
    about : str
        All else that results depend on; another text is another study.
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
        """Of the study: a hash of everything that a trial's result depends on, where trials could not be compared."""
        space = {key: str(part) for key, part in self.space.items()}
        about = [space, self.seed, self.draws, self.prune_trials, self.prune_epochs, self.about]
        key = hashlib.sha256(json.dumps([*about, torch.__version__, pl.__version__], sort_keys=True).encode())
        key.update(indexes.file_of(self.store).read_bytes())
        for shard in sorted(self.store.glob("shard-*.npy")):
            key.update(b"%d %d\n" % (shard.stat().st_size, shard.stat().st_mtime_ns))
        key.update(provenance.code_key(training.__name__))
        return key.hexdigest()[:12]

    def tried(self, trial: FrozenTrial) -> dict[str, Any]:
        """The settings of a trial."""
        return {key: part.value(trial.params[key]) for key, part in self.space.items() if key in trial.params}


@dataclass(frozen=True)
class Job:
    """One trial; `place`: how many came before it."""

    search: Search
    name: str
    place: int


def run(search: Search, trials: int, workers: int = 1) -> optuna.Study:
    """Goes on with a study, or begins it, until so many trials are complete or were stopped early.

    Parameters
    ----------
    search : Search
    trials : int
        With those of earlier calls.
    workers : int
        Processes, of one thread each. With one, the same search always tries the same; several tell one another of
        their results in whatever order they come.

    Returns
    -------
    optuna.Study

    Raises
    ------
    UserError
        Another search goes on in the folder, `study.db` is broken, or a training cannot be done.
    """
    if Store(search.store).holds != "waveforms":
        raise UserError(f"{search.store} holds features, and trials differ in theirs: extract waveforms")
    search.folder.mkdir(parents=True, exist_ok=True)
    name = search.name()
    with _alone(search.folder):
        study = _study(search, name)
        if not study.get_trials(deepcopy=False) and search.first:
            study.enqueue_trial({key: part.drawn(search.first[key]) for key, part in search.space.items()})
        for trial in study.get_trials(states=(TrialState.RUNNING,)):  # nobody else is here: they were killed
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
    """The complete trial with the lowest equal error rate on dev, of these the first; None without any."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def table(study: optuna.Study, search: Search) -> pd.DataFrame:
    """One row a trial, in their order.

    Returns
    -------
    DataFrame
        trial (number), state (complete; pruned, when stopped early; fail, when killed; running, waiting), dev_eer
        (fraction, of the best epoch), best_epoch (from 1), epochs (how many it had), minutes, and a column a setting.
    """
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
    """How much each setting has to do with whether a trial is among the best: shares of 1, the largest first.

    By PED-ANOVA (Watanabe and others 2023), over complete trials; {} where there are few, or all came out alike.
    """
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < FEWEST_FOR_IMPORTANCE or len(set(values)) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study)


def _work(job: Job) -> None:
    os.environ["AASIST_TERMINAL"] = ""  # the bar that counts trials is enough
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
    except (optuna.TrialPruned, training.Diverged):  # a loss that is no number is as bad as can be, and no mistake
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, float(history["dev_eer"].min()))
    shutil.rmtree(folder, ignore_errors=True)


def _began_as(trial) -> int:
    """The number of the trial whose settings this one tries again, or its own."""
    return trial.user_attrs.get("again", trial.number)


def _study(search: Search, name: str, place: int = 0) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = search.folder / "study.db"
    # A sampler's own state would be lost with a killed process, and one that starts again with its seed would draw
    # again what it drew: every trial has a seed of its own.
    seed = int(np.random.SeedSequence((search.seed, place)).generate_state(1)[0])
    pruner = optuna.pruners.MedianPruner(n_startup_trials=search.prune_trials, n_warmup_steps=search.prune_epochs)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", {"connect_args": {"timeout": 60}})
        sampler = optuna.samplers.TPESampler(seed=seed)
        return optuna.create_study(
            study_name=name, storage=storage, sampler=sampler, pruner=pruner, load_if_exists=True
        )
    except Exception as error:  # of SQLite, SQLAlchemy, Alembic or Optuna, by what is wrong with the file
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no study that can be gone on with ({reason}): move it away") from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two searches would take one another's trials for killed ones."""
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another search goes on in {folder}: wait for its end, or stop it") from None
        yield
