"""`make tune`: hyperparameter search by many short trainings, each judged by its EER on dev. Eval is never read.

Optuna's tree-structured Parzen estimator proposes the settings of experiments/tune.yaml (Bergstra et al. 2011); the
median rule stops trials early. The study is a SQLite file, so a killed search continues, and interrupted trials resume
from their last epoch. With one process, the sequence of trials does not depend on interruptions.

The best settings become experiments/tuned.yaml and a `dvc exp run -S ...` command. The best of many short trials is
optimistic on dev: only that run shows what a setting is worth.
"""

import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.trial import BaseTrial, FrozenTrial, TrialState
from pydantic import Field, model_validator
from ruamel.yaml import YAML

from aasist_lib import params, training
from aasist_lib.augment import Augment
from aasist_lib.base import files, paths, provenance
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import single_threaded
from aasist_lib.base.progress import progress
from aasist_lib.base.workers import in_processes
from aasist_lib.corpora.copies import excess_copies
from aasist_lib.store import Store, indexes
from aasist_lib.studies import plans, runner

SPACE = Path("experiments/tune.yaml")
BEST = Path("experiments/tuned.yaml")
WORK = Path("build/tune")
SECTIONS = ("features", "model", "augment", "train")  # settings that a trial's result depends on
EXTRACT = ("extract.content", "extract.copies")  # and these of extract
DONE = (TrialState.COMPLETE, TrialState.PRUNED)  # states that count as tried; killed trials do not
DIGITS = 3  # significant digits of sampled numbers, so that settings stay readable
FEWEST_FOR_IMPORTANCE = 8  # complete trials; importance is unreliable even then


class Range(params.Section):
    """Numbers from `low` to `high`, integers if both are; `log` samples their logarithms uniformly."""

    low: Any
    high: Any
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self):
        if any(type(end) not in (int, float) for end in (self.low, self.high)):
            raise ValueError("low and high must be numbers such as 3.0e-4")
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"{self.low} to {self.high} is no range{' of logarithms' if self.log else ''}")
        return self

    def suggest(self, trial: BaseTrial, key: str) -> float:
        """Setting of a trial: an integer, or a number of three significant digits."""
        if isinstance(self.low, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        drawn = trial.suggest_float(key, self.low, self.high, log=self.log)
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)

    def drawn(self, value: Any) -> Any:
        """What Optuna draws for this setting, or None."""
        return value if type(value) in (int, float) and self.low <= value <= self.high else None

    def examples(self) -> list:
        """Settings to validate before any training."""
        # the second integer, too, to catch settings that must be a multiple of another one
        between = [min(self.low + 1, self.high)] if isinstance(self.low, int) else []
        return [self.low, *between, self.high]


class Choices(params.Section):
    """One of these YAML values, which are JSON in the study because Optuna takes no lists."""

    choices: list

    @model_validator(mode="after")
    def _differ(self):
        if not self.choices or any(self.choices.count(value) > 1 for value in self.choices):
            raise ValueError(f"choices must be a list of different values, not {self.choices!r}")
        return self

    def suggest(self, trial: BaseTrial, key: str) -> Any:
        return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in self.choices]))

    def drawn(self, value: Any) -> str | None:
        return json.dumps(value) if value in self.choices else None

    def examples(self) -> list:
        return self.choices


class Prune(params.Section):
    """When the median rule stops a trial: after so many complete trials, and so many epochs of its own."""

    trials: params.Count
    epochs: params.Count


class Request(params.Section):
    """A file such as experiments/tune.yaml: `change` is laid over params.yaml for every trial."""

    trials: params.Count
    seed: params.WholeNumber
    epochs: params.Count
    draws: Annotated[int, Field(ge=2)]
    prune: Prune
    change: dict[str, Any] = {}
    space: Annotated[dict[str, Any], Field(min_length=1)]


class Plan:
    """What a file asks for over the settings in `base` (params.yaml), checked; UserError for a mistake in it.

    `fixed` maps the settings of `change` to values and `space` those to search to `Range` or `Choices`. `first` are the
    settings of the first trial ({} samples them), `about` is all else in `base` that results depend on.
    """

    def __init__(self, path: Path, base: Path):
        self.file, self.base = path.name, base
        self.asked = params.checked(Request, params.parse(path), path.name)
        self.fixed = _flat(self.asked.change)
        raw = params.parse(base)
        now = _flat(raw)
        self.space = {key: self._part(key, entry, now) for key, entry in self.asked.space.items()}
        self._check_values()
        for key in [*self.fixed, *self.space]:
            self._check_place(key)
        inside = all(part.drawn(now[key]) is not None for key, part in self.space.items())
        self.first = {key: now[key] for key in self.space} if inside else {}
        rest = _flat({name: raw[name] for name in SECTIONS}) | self.fixed
        rest = {key: value for key, value in rest.items() if key not in self.space}
        self.about = json.dumps([rest, raw["seed"], self.asked.epochs], sort_keys=True)

    def settings(self, tried: Mapping[str, Any]) -> dict:
        """All settings of a trial, checked."""
        changes = nested({**self.fixed, **tried, "train.max_epochs": self.asked.epochs})
        return params.overlaid(changes, self.base, self.file)

    def tried(self, trial: BaseTrial) -> dict[str, Any]:
        """Settings of a trial: drawn, if it runs; those that had been drawn, if it is done."""
        drawn = trial.params if isinstance(trial, FrozenTrial) else self.space
        return {key: part.suggest(trial, key) for key, part in self.space.items() if key in drawn}

    def _part(self, key: str, entry: Any, now: Mapping[str, Any]) -> Range | Choices:
        where = f"{self.file}: space: {key}"
        inner = next((name for name in now if name.startswith(f"{key}.")), None)
        if inner:
            raise UserError(f"{where} is a section: name a setting in it, such as {inner}")
        schema = Choices if isinstance(entry, dict) and "choices" in entry else Range
        part = params.checked(schema, entry, where)
        if schema is Range and float in map(type, (part.low, part.high, now.get(key))):
            return Range(low=float(part.low), high=float(part.high), log=part.log)
        return part

    def _check_place(self, key: str) -> None:
        section = key.split(".")[0]
        if key in self.fixed and key in self.space:
            raise UserError(f"{self.file}: {key} is in change and in space: take one of them away")
        if key == "features.sample_rate" or (section not in SECTIONS and key not in EXTRACT):
            raise UserError(f"{self.file}: {key}: trials have it from params.yaml: set it there")
        if key == "train.max_epochs":
            raise UserError(f"{self.file}: {key}: a trial has as many as `epochs` says: take this away")

    def _check_values(self) -> None:
        """Check every value of a setting, and all pairs within a section, since some are valid only together."""
        cases = [{key: value} for key, part in self.space.items() for value in part.examples()]
        for one, other in itertools.combinations(self.space, 2):
            if one.rpartition(".")[0] == other.rpartition(".")[0]:
                pairs = itertools.product(self.space[one].examples(), self.space[other].examples())
                cases += [{one: a, other: b} for a, b in pairs]
        for case in cases:
            settings = self.settings(case)
            changes = Augment(settings["augment"], settings["features"]["sample_rate"])
            if settings["extract"]["copies"] > plans.COPIES:
                raise UserError(
                    f"{self.file}: extract.copies: trials share a store that has {plans.COPIES}: ask for fewer"
                )
            if (changes or settings["train"]["adversarial"]) and settings["extract"]["content"] != "waveforms":
                raise UserError(
                    f"{self.file}: sound is to be changed ({', '.join(case)}), which needs waveforms: add "
                    "`extract: {content: waveforms}` to change"
                )


@dataclass(frozen=True)
class Search:
    """A plan, the store of waveforms to train on, and the folder that keeps the study."""

    plan: Plan
    store: Path
    folder: Path

    def name(self) -> str:
        """Name of the study: hash of everything that results depend on, so that its trials are comparable."""
        space, asked = {key: repr(part) for key, part in self.plan.space.items()}, self.plan.asked
        about = [space, asked.seed, asked.draws, asked.prune.trials, asked.prune.epochs, self.plan.about]
        key = hashlib.sha256(json.dumps([*about, torch.__version__], sort_keys=True).encode())
        key.update((self.store / indexes.NAME).read_bytes())
        for shard in sorted(self.store.glob("shard-*.npy")):
            key.update(b"%d %d\n" % (shard.stat().st_size, shard.stat().st_mtime_ns))
        key.update(provenance.code_key(training.__name__))
        return key.hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """One trial; `place` is the number of trials before it."""

    search: Search
    name: str
    place: int


def command(root: Path, workers: int = 2, path: Path | None = None, trials: int | None = None) -> str:
    """Continue or start the search; write `experiments/tuned.yaml` and `build/tune/trials.csv`; return a summary.

    Parameters
    ----------
    root : project folder.
    path : instead of `experiments/tune.yaml`.
    trials : instead of the number in the file.

    Raises
    ------
    UserError
        The file or a setting in it is invalid, no trial completed, or as `run`.
    """
    for name, number in (("--workers", workers), ("--trials", trials)):
        if number is not None and number < 1:
            raise UserError(f"{name} {number}: must be 1 or more")
    path, work = path or root / SPACE, root / WORK
    # a copy, so that edits of params.yaml do not affect later trials
    now = (root / "params.yaml").read_bytes()
    kept = work / f"params-{hashlib.sha256(now).hexdigest()[:12]}.yaml"
    files.write(kept, now)
    plan = Plan(path, kept)
    search = Search(plan, plans.waveforms(root, workers), work)
    study = run(search, trials or plan.asked.trials, workers)
    # significant digits: rates are small
    files.write(work / "trials.csv", table(study, search).to_csv(index=False, float_format="%.6g"))
    found = best(study)
    if found is None:
        raise UserError(f"{path.name}: no trial went to its end: lower train.lr in it, or ask for more trials")
    return _told(root, plan, study, found)


def run(search: Search, trials: int, workers: int = 1) -> optuna.Study:
    """Continue or start a study until `trials` trials, with earlier ones, are complete or pruned.

    With one worker the sequence of trials is reproducible; several share results in the order in which they finish.
    """
    runner.check_waveforms(search.store, "trials")
    search.folder.mkdir(parents=True, exist_ok=True)
    name, plan = search.name(), search.plan
    with paths.alone(search.folder / "search.lock"):
        study = _study(search, name)
        if not study.get_trials(deepcopy=False) and plan.first:
            study.enqueue_trial({key: part.drawn(plan.first[key]) for key, part in plan.space.items()})
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
        rows.append(row | search.plan.tried(trial))
    columns = ["trial", "state", "dev_eer", "best_epoch", "epochs", "minutes", *search.plan.space]
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
    search, plan = job.search, job.search.plan
    study = _study(search, job.name, job.place)
    trial = study.ask()
    settings = plan.settings(plan.tried(trial))
    folder = search.folder / job.name / f"trial-{_began_as(trial)}"

    def judge(row: dict) -> None:
        trial.report(row["dev_eer"], row["epoch"])
        if row["epoch"] < settings["train"]["max_epochs"] and trial.should_prune():
            raise optuna.TrialPruned

    held = Store(search.store, settings["features"])
    out = excess_copies(held.table, settings["extract"]["copies"])
    try:
        with single_threaded():
            history = training.fit(
                held, folder / "network", model=settings["model"], train=settings["train"],
                augment=settings["augment"], seed=settings["seed"], threads=1, checkpoints=folder / "checkpoints",
                leave_out=out, draws=plan.asked.draws, on_epoch=judge,
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
    path, asked = search.folder / "study.db", search.plan.asked
    # The sampler's state is lost with a killed process, and restarting it with the same seed would repeat its samples,
    # so every trial has its own seed.
    seed = int(np.random.SeedSequence((asked.seed, place)).generate_state(1)[0])
    pruner = optuna.pruners.MedianPruner(n_startup_trials=asked.prune.trials, n_warmup_steps=asked.prune.epochs)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", {"connect_args": {"timeout": 60}})
        sampler = optuna.samplers.TPESampler(seed=seed)
        return optuna.create_study(
            study_name=name, storage=storage, sampler=sampler, pruner=pruner, load_if_exists=True
        )
    except Exception as error:  # of SQLite, SQLAlchemy, Alembic or Optuna
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no study that can be gone on with ({reason}): move it away") from None


def _told(root: Path, plan: Plan, study: optuna.Study, found: FrozenTrial) -> str:
    """Write the best trial's settings to a file, and return a summary."""
    tried = plan.tried(found)
    settings = plan.fixed | tried
    done = len(study.get_trials(deepcopy=False, states=DONE))
    made = f"found best of {done} short trials by `make tune` ({plan.file}): EER on dev {found.value:.2%}"
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    first = next((trial for trial in complete if plan.tried(trial) == plan.first), None)
    if first:
        made += f", of params.yaml itself {first.value:.2%}"
    yaml = YAML()
    yaml.width = 1000
    with files.replacing(root / BEST) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(f"# {made[0].upper()}{made[1:]}\n")
        yaml.dump(nested(settings), file)
    lines = [f"trial {found.number}, {made}", *(f"  {key}: {value}" for key, value in tried.items())]
    shares = importance(study)
    if shares:
        lines.append("what has most to do with it: " + ", ".join(f"{k} {v:.0%}" for k, v in list(shares.items())[:5]))
    lines.append(f"written: {BEST}, {WORK / 'trials.csv'}; to run the pipeline with it:")
    lines.append(runs(settings))
    return "\n".join(lines)


def runs(settings: Mapping[str, Any]) -> str:
    """Shell command that runs the pipeline with these settings.

    >>> print(runs({"train.lr": 3.0e-4, "features.kind": "mfcc+wavelet", "augment.codecs": ["mp3"]}))
    dvc exp run -S train.lr=0.0003 -S 'features.kind='"'"'mfcc+wavelet'"'"'' -S 'augment.codecs=[mp3]'
    """
    return "dvc exp run " + " ".join(f"-S {shlex.quote(f'{key}={_hydra(value)}')}" for key, value in settings.items())


def _hydra(value: Any) -> str:
    """Value in the syntax of Hydra, which parses -S."""
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)  # true, null and numbers are as in JSON
    if re.fullmatch(r"[A-Za-z]\w*", value) and value.lower() not in ("true", "false", "null", "nan", "inf"):
        return value
    return "'" + value.replace("'", r"\'") + "'"


def nested(settings: Mapping[str, Any]) -> dict:
    """Settings by section, as in params.yaml.

    >>> nested({"train.lr": 1.0, "train.mixup": 0.0})
    {'train': {'lr': 1.0, 'mixup': 0.0}}
    """
    found = {}
    for key, value in settings.items():
        *above, last = key.split(".")
        inner = found
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return found


def _flat(settings: Mapping[str, Any], above: str = "") -> dict:
    """Inverse of `nested`."""
    found = {}
    for key, value in settings.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found
