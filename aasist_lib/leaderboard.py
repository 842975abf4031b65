"""Many systems on one corpus: each trained with several seeds, calibrated on dev, read on eval.

A system is a change of params.yaml (`experiments/leaderboard.yaml`). All share one store of waveforms, from which each
makes its own features. What is done is kept: called again, it goes on from there, and a run counts as done as long as
its settings, the store and the code that it goes through are what they were.
"""

import hashlib
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aasist_lib import augment, baselines, calibration, effects, evaluation, features, losses, metrics, models, training
from aasist_lib.errors import UserError
from aasist_lib.progress import progress
from aasist_lib.robustness import one_thread
from aasist_lib.store import Store
from aasist_lib.workers import in_processes

SECONDS = 4.0  # of the utterance whose scoring is timed
REPEATS = 15  # of the timing: their median counts
MEASURES = ("eer", "min_dcf", "act_dcf", "cllr", "accuracy")  # that the table keeps, with their intervals


@dataclass(frozen=True)
class System:
    """What is to be compared.

    Attributes
    ----------
    name, about : str
        The second in a few words, for the table.
    settings : dict
        Sections features, model, augment, train, calibrate and evaluate, as `pipeline.params` gives them.
    seeds : tuple of int
    baseline : str
        One of `baselines.BASELINES`, or "" for a network.
    """

    name: str
    about: str
    settings: dict = field(hash=False)
    seeds: tuple[int, ...] = (1,)
    baseline: str = ""


@dataclass(frozen=True)
class Job:
    """One training and its scores. It counts as done when its file exists and bears its key."""

    system: System
    seed: int
    store: Path
    folder: Path
    key: str

    @property
    def path(self) -> Path:
        return self.folder / f"{self.system.name}-{self.seed}.json"

    def done(self) -> bool:
        try:
            return json.loads(self.path.read_text("utf-8"))["key"] == self.key
        except (OSError, ValueError, KeyError):
            return False


def run(systems: Sequence[System], store: Path, folder: Path, *, workers: int = 1) -> list[dict]:
    """Results of all systems, one for each seed.

    Parameters
    ----------
    systems : sequence of System
    store : path
        Of waveforms.
    folder : path
        Keeps the networks, their scores and the results.
    workers : int
        Processes, of one thread each. Results do not depend on it; the times do, a little.

    Returns
    -------
    list of dict
        See `measured`, in the order of `systems`.

    Raises
    ------
    UserError
        There is no store, it holds features, two systems have one name, or a training goes wrong.
    """
    names = [system.name for system in systems]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"leaderboard: two systems are called {twice}: give one another name")
    if Store(store).holds != "waveforms":
        raise UserError(f"{store} holds features, and systems differ in theirs: extract with extract.holds: waveforms")
    folder.mkdir(parents=True, exist_ok=True)
    held = _of_store(store)
    jobs = [Job(system, seed, store, folder, _key(system, seed, held)) for system in systems for seed in system.seeds]
    waiting = [job for job in jobs if not job.done()]
    with progress(total=len(jobs), desc="leaderboard", unit="run") as bar:
        bar.update(len(jobs) - len(waiting))
        for _ in in_processes(_work, waiting, min(workers, len(waiting)), "workers") if waiting else ():
            bar.update()
    return [json.loads(job.path.read_text("utf-8")) for job in jobs]


def measured(job: Job) -> dict:
    """Trains, scores, calibrates and measures.

    Returns
    -------
    dict
        key, system, about, seed; parameters (None of a baseline); minutes of training; milliseconds on one core for an
        utterance of 4 s, from the waveform (None of a baseline); best_epoch; dev_eer; eval: condition -> measures with
        intervals; by_attack: attack -> equal error rate on eval, against all its real voices.
    """
    system, settings = job.system, job.system.settings
    store = Store(job.store, settings["features"])
    rows = {split: store.select(split) for split in ("dev", "eval")}
    row = {"key": job.key, "system": system.name, "about": system.about, "seed": job.seed}
    start = time.monotonic()
    if system.baseline:
        both = np.concatenate(list(rows.values()))
        values = baselines.BASELINES[system.baseline](store, both, seed=job.seed)
        found = store.table.iloc[both].assign(score=values)
        tables = {split: found[found["split"] == split].reset_index(drop=True) for split in rows}
        row |= {"parameters": None, "milliseconds": None, "best_epoch": None}
        row["minutes"] = (time.monotonic() - start) / 60
    else:
        network = job.folder / f"{system.name}-{job.seed}"
        parts = {name: settings[name] for name in ("model", "train", "augment")}
        checkpoints = job.folder / f"{system.name}-{job.seed}.checkpoints"
        training.fit(store, network, seed=job.seed, threads=1, checkpoints=checkpoints, **parts)
        row["minutes"] = (time.monotonic() - start) / 60
        tables = {split: training.scores(network, store, split, threads=1) for split in rows}
        loaded, about = models.load(network)
        row |= {"parameters": about["parameters"], "best_epoch": about["best_epoch"]}
        row["milliseconds"] = milliseconds(loaded, settings["features"])
    fit = _calibrated(tables["dev"], settings["calibrate"]["method"])
    for split, table in tables.items():
        tables[split] = table.assign(llr=fit(table["score"]))
        evaluation.save_csv(job.folder / f"{system.name}-{job.seed}-{split}.csv", tables[split])
    return row | _measures(tables["dev"], tables["eval"], settings, job.seed)


def milliseconds(network: torch.nn.Module, of: Mapping) -> float:
    """How long one core takes to score 4 s of speech, from the waveform: the median of several.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    of : mapping
        The section `features`.
    """
    front_end = features.build(dict(of)).eval()
    waveform = 0.1 * torch.randn(1, round(SECONDS * front_end.sample_rate), generator=torch.Generator().manual_seed(0))
    times = []
    with one_thread(), torch.inference_mode():
        for _ in range(REPEATS + 2):  # the first ones warm up
            start = time.perf_counter()
            network(front_end(waveform))
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[2:])


def table(results: Sequence[Mapping]) -> pd.DataFrame:
    """One row a system: means over its seeds, and how far apart those are.

    Parameters
    ----------
    results : sequence of mapping
        What `run` gave.

    Returns
    -------
    DataFrame
        system, about, seeds (how many), parameters, minutes, milliseconds; dev_eer; and for each condition of eval the
        measures, such as eer_unseen, with eer_unseen_low, _high (means of the intervals' ends) and _spread (largest
        less smallest over the seeds). Fractions. Sorted by eer_all where there is one.
    """
    rows = []
    for name, group in pd.DataFrame(results).groupby("system", sort=False):
        first = group.iloc[0]
        row = {"system": name, "about": first["about"], "seeds": len(group)}
        row |= {key: _mean(group[key]) for key in ("parameters", "minutes", "milliseconds", "dev_eer")}
        for condition in first["eval"]:
            for key in first["eval"][condition]:
                values = [result[condition][key] for result in group["eval"]]
                stem, _, end = key.rpartition("_")
                column = f"{stem}_{condition}_{end}" if end in ("low", "high") and stem else f"{key}_{condition}"
                row[column] = _mean(values)
                if key == "eer":
                    row[f"eer_{condition}_spread"] = max(values) - min(values)
        rows.append(row)
    found = pd.DataFrame(rows)
    return found.sort_values("eer_all", ignore_index=True) if "eer_all" in found else found


def _mean(values) -> float:
    numbers = [float(value) for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else float("nan")


def _calibrated(dev: pd.DataFrame, method: str):
    fakes = dev["label"] == "spoof"
    speakers = dev.loc[~fakes, "speaker"], dev.loc[fakes, "speaker"]
    classes = evaluation.split_classes(dev, "score")
    return calibration.cautious(*classes, dev.loc[fakes, "attack"], *speakers, method=method).fit


def _measures(dev: pd.DataFrame, test: pd.DataFrame, settings: Mapping, seed: int) -> dict:
    costs, classes = settings["calibrate"], evaluation.split_classes(dev)
    limits = {name: costs[name] for name in ("max_bonafide_rejected", "min_spoof_found")}
    prices = {name: costs[name] for name in ("prior_spoof", "cost_miss", "cost_false_alarm")}
    threshold = calibration.thresholds(*classes, **prices, **limits)[costs["policy"]]
    headline = evaluation.headline(test, threshold, replicates=settings["evaluate"]["bootstrap"], seed=seed, **prices)
    wanted = {f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")}
    attacks = evaluation.by_attack(test, threshold)
    return {
        "dev_eer": float(metrics.eer(*classes).value),
        "eval": {name: {key: row[key] for key in row if key in wanted} for name, row in headline.items()},
        "by_attack": dict(zip(attacks["attack"], attacks["eer"], strict=True)),
    }


def _work(job: Job) -> None:
    os.environ["AASIST_TERMINAL"] = ""  # the bar that counts runs is enough
    with one_thread():
        result = measured(job)
    evaluation.save_json(job.path, result)


def _of_store(store: Path) -> bytes:
    key = hashlib.sha256((store / "index.csv").read_bytes())
    for path in sorted(store.glob("shard-*.npy")):
        key.update(b"%d %d\n" % (path.stat().st_size, path.stat().st_mtime_ns))
    return key.digest()


def _key(system: System, seed: int, held: bytes) -> str:
    key = hashlib.sha256(held)
    key.update(json.dumps([system.baseline, system.settings, seed], sort_keys=True).encode())
    modules = [
        __file__,
        *(m.__file__ for m in (augment, baselines, calibration, effects, evaluation, losses, training)),
    ]
    for path in [*modules, *features.sources(), *sorted(Path(models.__file__).parent.glob("*.py"))]:
        key.update(Path(path).read_bytes())
    return key.hexdigest()[:16]
