"""Leaderboard: systems trained with several seeds on one corpus, calibrated on dev and evaluated on eval.

A system is a change of params.yaml (`experiments/leaderboard.yaml`); all compute their features from one store of
waveforms. A result is valid, on any machine, while the system's settings, the content of the store and the scoring code
stay the same. After a change of the measuring code, scores that are present are measured again; without them the result
stands.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aasist_lib import calibration, evaluation, metrics
from aasist_lib.base import provenance
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline import standings
from aasist_lib.store import Store
from aasist_lib.studies import plans, runner
from aasist_lib.studies.systems import SPLITS, System, scored, share

# of `evaluation.headline`; the second of eval only
MEASURES = ("eer", "min_dcf", "act_dcf", "cllr", "accuracy")
DECISIONS = ("precision", "recall", "f1", "bonafide_rejected", "spoof_accepted")
MEASURING = (calibration.__name__, evaluation.__name__, metrics.__name__)  # code that measures depend on
COUNTS = ("n_bonafide", "n_spoof")
SYSTEMS = Path("experiments/leaderboard.yaml")
RUNS = Path("build/leaderboard/runs")


@dataclass(frozen=True)
class Job(runner.Job):
    """One system with one seed.

    `scores`, `key` and `measured_by` hash what the scores, the result and the measures depend on; the first two are ""
    where published weights are missing.
    """

    corpus: str
    utterances: int
    scores: str
    measured_by: str

    @property
    def record(self) -> Path:
        """File beside the scores with their key and the cost of scoring."""
        return self.folder / f"{self.name}.scores.json"

    def scores_file(self, split: str) -> Path:
        return self.folder / f"{self.name}-{split}.csv"

    def has_scores(self) -> bool:
        there = all(self.scores_file(split).is_file() for split in SPLITS)
        return there and runner.read(self.record).get("scores") == self.scores

    def done(self, row: dict) -> bool:
        """Whether a result is valid for this job."""
        if (row.get("system"), row.get("seed")) != (self.system.name, self.seed):
            return False
        if not self.key:  # cannot be made here, so the result from elsewhere stands
            return (row["corpus"], row["utterances"]) == (self.corpus, self.utterances)
        return row["key"] == self.key and (row["measured_by"] == self.measured_by or not self.has_scores())

    def forget(self) -> None:
        for path in (self.path, self.record):
            path.unlink(missing_ok=True)
        for ending in (".checkpoints", ".pieces"):
            shutil.rmtree(self.folder / f"{self.name}{ending}", ignore_errors=True)


def command(root: Path, workers: int = 2, path: Path | None = None, again: bool = False) -> Path:
    """Train what is missing; write `metrics/leaderboard.json` and `.csv` after every result, and return the csv path.

    Valid results in the json file are not made again, so another machine can continue from git.

    Parameters
    ----------
    root : project folder.
    path : instead of `experiments/leaderboard.yaml`; results are named after it.
    again : train everything again.

    Raises
    ------
    UserError
        The file or a setting in it is invalid, or as `run`.
    """
    path = path or root / SYSTEMS
    content, systems = plans.read(path, root / "params.yaml")
    store = plans.waveforms(root, workers, systems)
    board = root / f"metrics/{path.stem}.json"
    by_split = Store(store).recordings.groupby("split")
    about = {
        "systems": {name: entry.shown() for name, entry in content.systems.items()},
        "data": plans.data(root),
        "counts": {split: rows["label"].value_counts().to_dict() for split, rows in by_split},
    }

    def save(results: list[dict]) -> None:
        evaluation.save_json(board, about | {"results": results})
        evaluation.save_csv(board.with_suffix(".csv"), standings.table(results))

    run(
        systems, store, root / RUNS, kept=runner.kept(board), save=save, utterances=content.utterances,
        workers=workers, again=again,
    )  # fmt: skip
    return board.with_suffix(".csv")


def run(
    systems: Sequence[System], store: Path, folder: Path, *, kept: Iterable[dict] = (),
    save: Callable[[list[dict]], None] = lambda results: None, utterances: int = plans.UTTERANCES, workers: int = 1,
    again: bool = False,
) -> list[dict]:  # fmt: skip
    """Results of all systems, one per seed, in the order of `systems`; see `measured` and `runner.run`.

    Networks, scores and results are in `folder`. `again` discards all results that can be made here. Published weights
    that are missing and have no earlier result are left out, with a line on standard error.
    """
    names = [system.name for system in systems]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"leaderboard: two systems are called {twice}: give one another name")
    runner.check_waveforms(store, "systems")
    folder.mkdir(parents=True, exist_ok=True)
    measured_by = provenance.code_key(*MEASURING, alone=[__name__]).hex()[:16]
    every = Path(store), folder, runner.of_store(store), utterances, measured_by
    jobs, kept, about = [], list(kept), {system.name: system.about for system in systems}
    for job in (_job(system, seed, *every) for system in systems for seed in system.seeds):
        if again and job.key:
            job.forget()
            kept = [row for row in kept if not job.done(row)]
        if job.key or runner.result(job, kept):
            jobs.append(job)
        else:
            print(
                f"leaderboard: {job.system.name} is left out: {job.system.published} is missing; it is published with "
                f"clovaai/aasist (MIT licence) as models/weights/{job.system.published.name}",
                file=sys.stderr,
            )

    def told(results: list[dict]) -> list[dict]:
        return [row | {"about": about[row["system"]]} for row in results]

    found = runner.run(
        jobs, measured, doing="leaderboard", kept=kept, save=lambda results: save(told(results)), workers=workers
    )
    return told(found)


def measured(job: Job) -> dict:
    """Train and score if needed, calibrate and measure, with intervals.

    Dev sets calibration and threshold, so its Cllr and accuracy are optimistic. `by_attack` is the EER against all bona
    fide of eval, `share` that on the utterances that published weights are scored on.
    """
    system, settings = job.system, job.system.settings
    if not job.has_scores():
        job.record.unlink(missing_ok=True)
        stem = job.folder / job.name
        about, scores = scored(system, job.seed, job.store, stem, utterances=job.utterances, key=job.scores)
        for split in SPLITS:
            evaluation.save_csv(job.scores_file(split), scores[scores["split"] == split])
        made = {
            "made_with": provenance.made_with() | {"processor": provenance.processor()},
            "commit": provenance.commit(),
        }
        evaluation.save_json(job.record, about | made | {"scores": job.scores})
    # from the files, so that a repeated measurement is identical
    dev, test = (_read_scores(job.scores_file(split)) for split in SPLITS)
    fit = _calibrated(dev, settings["calibrate"]["method"])
    for split, table in (("dev", dev), ("eval", test)):
        table["llr"] = fit(table["score"])
        evaluation.save_csv(job.scores_file(split), table)
    row = {"key": job.key, "measured_by": job.measured_by, "corpus": job.corpus, "utterances": job.utterances}
    row |= {"system": system.name, "about": system.about, "kind": system.kind, "seed": job.seed}
    row |= {key: value for key, value in runner.read(job.record).items() if key != "scores"}
    table = Store(job.store).table
    compared = table["utt_id"].iloc[share(table, "eval", job.utterances)]
    return row | _measures(dev, test, test[test["utt_id"].isin(set(compared))], settings, job.seed)


def _measures(dev: pd.DataFrame, test: pd.DataFrame, compared: pd.DataFrame, settings: dict, seed: int) -> dict:
    costs = settings["calibrate"]
    limits = {name: costs[name] for name in ("max_fpr", "min_tpr")}
    prices = {name: costs[name] for name in ("prior_spoof", "cost_miss", "cost_false_alarm")}
    threshold = calibration.thresholds(*evaluation.split_classes(dev), **prices, **limits)[costs["policy"]]
    drawn = {"replicates": settings["evaluate"]["bootstrap"], "seed": seed}
    of_dev = evaluation.headline(dev, threshold, **drawn, **prices)["all"]
    of_eval = evaluation.headline(test, threshold, **drawn, **prices)
    real, attacks = test[test["label"] == "bonafide"], test[test["label"] == "spoof"].groupby("attack", sort=True)
    by_attack = {
        name: {"condition": fakes["condition"].iloc[0], "n_spoof": len(fakes)}
        | _eer(pd.concat([real, fakes]), ("speaker",), drawn)  # a single attack cannot be resampled
        for name, fakes in attacks
    }
    shares = {condition: evaluation.select(compared, condition) for condition in of_eval}
    return {
        "threshold": float(threshold),
        "dev": _wanted(of_dev, MEASURES),
        "eval": {name: _wanted(row, (*MEASURES, *DECISIONS)) for name, row in of_eval.items()},
        "by_attack": by_attack,
        "share": {name: _eer(rows, ("speaker", "attack"), drawn) for name, rows in shares.items()},
    }


def _wanted(row: dict, names: Sequence[str]) -> dict:
    wanted = {*COUNTS, *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))}
    return {key: value for key, value in row.items() if key in wanted}


def _eer(trials: pd.DataFrame, factors: Sequence[str], drawn: dict) -> dict:
    """Equal error rate with its interval over the given factors; without one where there are too few groups."""
    counts = {name: len(scores) for name, scores in zip(COUNTS, evaluation.split_classes(trials), strict=True)}
    try:
        return counts | evaluation.with_interval(evaluation.only_eer, trials, factors=factors, **drawn)
    except UserError:
        return counts | evaluation.with_interval(evaluation.only_eer, trials, replicates=0)


def _calibrated(dev: pd.DataFrame, method: str):
    fakes = dev["label"] == "spoof"
    speakers = dev.loc[~fakes, "speaker"], dev.loc[fakes, "speaker"]
    classes = evaluation.split_classes(dev, "score")
    return calibration.fit_held_out(*classes, dev.loc[fakes, "attack"], *speakers, method=method).fit


def _job(system: System, seed: int, store: Path, folder: Path, corpus: str, utterances: int, measured_by: str) -> Job:
    scores, settings = system.key(seed, corpus, utterances), system.settings
    rest = [scores, settings["calibrate"], settings["evaluate"]["bootstrap"], utterances]
    key = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16] if scores else ""
    return Job(system, seed, store, folder, key, corpus, utterances, scores, measured_by)


def _read_scores(path: Path) -> pd.DataFrame:
    names = pd.read_csv(path, nrows=0).columns
    text = {name: str for name in names if name not in ("seconds", "score", "llr")}
    return pd.read_csv(path, dtype=text, keep_default_na=False)
