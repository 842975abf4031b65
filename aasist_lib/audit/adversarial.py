"""Adversarial examples: spoofs with an inaudible perturbation that raises their log-likelihood ratio.

White-box attacks on the waveform: FGSM takes one step along the sign of the gradient, PGD several smaller ones
(`augment.adversarial`). The bound on every sample is given in dB below the recording's rms: 40 dB is a hundredth of it.
A random perturbation of the same size is the control.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from aasist_lib import audio, evaluation
from aasist_lib.audit.robustness import llr, logit
from aasist_lib.augment import adversarial as perturb
from aasist_lib.augment import effects
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import cache_key, done, runs, single_threaded, write
from aasist_lib.base.progress import progress
from aasist_lib.corpora.folds import in_proportion
from aasist_lib.detector import MIN_SECONDS, Detector

STRENGTHS = (60.0, 50.0, 40.0)  # bounds, in dB below the recording's rms
STEPS = 10
METHODS = {"none": "Unchanged", "random": "Random change", "fgsm": "FGSM", "pgd": "PGD"}
PIECE = 10  # spoofs per job


def fakes(table: pd.DataFrame, count: int = 100, seed: int = 0) -> pd.DataFrame:
    """About `count` spoofs of the table, in proportion to the attacks, with at least one of each."""
    return in_proportion(table[table["label"] == "spoof"], "attack", count, seed)


def slope(loaded: Detector, waveform: np.ndarray) -> tuple[float, np.ndarray]:
    """What an attack raises, `_rising`, and its gradient at a waveform (samples,) float32."""
    leaf = torch.from_numpy(waveform).clone().requires_grad_()
    value = _rising(loaded, leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient.numpy()


def _rising(loaded: Detector, waveform: Tensor) -> Tensor:
    """The logit, negated where the calibration is inverted, so that the LLR rises with it."""
    value = logit(loaded, waveform)
    return value if loaded.calibrated(1.0) >= loaded.calibrated(-1.0) else -value


def fgsm(waveform: np.ndarray, gradient: np.ndarray, bound: float) -> np.ndarray:
    """One step of size `bound` along the sign of the gradient, clipped to full scale."""
    return _changed(lambda _: torch.from_numpy(gradient), waveform, bound, 1)


def pgd(loaded: Detector, waveform: np.ndarray, bound: float, gradient: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """The most successful of `steps` projected steps; `gradient` is that at the waveform."""
    tried = []

    def ascent(changed: Tensor) -> Tensor:
        if not tried:  # the first step, whose gradient all bounds share
            tried.append((-np.inf, waveform))
            return torch.from_numpy(gradient)
        value, found = slope(loaded, changed.numpy())
        tried.append((value, changed.numpy()))
        return torch.from_numpy(found)

    last = _changed(ascent, waveform, bound, steps)
    with torch.inference_mode():
        tried.append((_rising(loaded, torch.from_numpy(last)).item(), last))
    return max(tried, key=lambda one: one[0])[1]


def _changed(gradient: Callable, waveform: np.ndarray, bound: float, steps: int) -> np.ndarray:
    peak = max(1.0, float(np.abs(waveform).max(initial=0)))  # full scale, unless the recording exceeds it itself
    return perturb.pgd(gradient, torch.from_numpy(waveform), bound, steps, peak=peak).numpy()


@dataclass(frozen=True)
class Job:
    """Some spoofs under every method and strength; done when its file exists."""

    path: Path
    utt_ids: list[str]
    paths: list[Path]
    detector: Path
    strengths: tuple[float, ...]
    steps: int
    seed: int


def attack(
    table: pd.DataFrame,
    root,
    detector_folder,
    folder,
    *,
    strengths: Sequence[float] = STRENGTHS,
    steps: int = STEPS,
    workers: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Attack spoofs with every method and strength; finished work is kept in `folder`, as by `robustness.score`.

    Parameters
    ----------
    table : spoofs only, such as from `fakes`.
    root : folder that the paths in the table are relative to.
    strengths : bounds in dB below the recording's rms; less is stronger.
    steps : of PGD.
    workers : processes of one thread each; the result does not depend on it.

    Returns
    -------
    One row per spoof, method and strength: utt_id, method (of `METHODS`), db (NaN for "none"), llr, and llr_16bit of
    the waveform rounded to 16 bits. Recordings that cannot be scored are left out.

    Raises
    ------
    UserError
        The table is empty or has bona fide trials, the detector cannot be loaded, or no spoof can be scored.
    """
    if table.empty or (table["label"] != "spoof").any():
        raise UserError("attack: takes fakes alone, at least one")
    root, folder, detector_folder = Path(root), Path(folder), Path(detector_folder)
    Detector.load(detector_folder)
    jobs = [
        Job(
            folder / f"piece-{number:04d}.json", rows["utt_id"].tolist(), [root / path for path in rows["path"]],
            detector_folder, tuple(strengths), steps, seed,
        )
        for number, rows in enumerate(runs(table, PIECE))
    ]  # fmt: skip
    recordings = [root / path for path in table["path"]]
    key = cache_key(__name__, jobs, contents=detector_folder.iterdir(), states=recordings)
    rows = done(jobs, _attack, folder, key, workers, "attack")
    if rows.empty:
        raise UserError("attack: none of the fakes can be scored")
    return rows.astype({"db": float})


def _attack(job: Job) -> None:
    """Write the scores of a job's spoofs under attack."""
    rows = []
    with single_threaded():
        loaded = Detector.load(job.detector)
        loaded.network.requires_grad_(False)  # only the waveform needs gradients
        rate = loaded.front_end.sample_rate
        for name, path in zip(job.utt_ids, job.paths, strict=True):
            try:
                waveform = audio.read(path, rate)
            except audio.BadAudio:  # the stages before have listed it
                continue
            if len(waveform) < MIN_SECONDS * rate or not np.isfinite(llr(loaded, waveform)):
                continue
            for method, db, changed in _attacks(loaded, waveform, name, job):
                saved = np.round(changed * 32768).clip(-32768, 32767).astype(np.float32) / 32768
                scores = {"llr": llr(loaded, changed), "llr_16bit": llr(loaded, saved)}
                rows.append({"utt_id": name, "method": method, "db": db, **scores})
    write(job.path, rows)


def _attacks(loaded: Detector, waveform: np.ndarray, name: str, job: Job):
    """Yield (method, dB, perturbed waveform)."""
    yield "none", float("nan"), waveform
    gradient = slope(loaded, waveform)[1]  # shared by all strengths
    rng = np.random.default_rng((job.seed, zlib.crc32(name.encode())))
    signs = rng.standard_normal(len(waveform)).astype(np.float32)
    for db in job.strengths:
        bound = effects.rms(waveform) * 10 ** (-db / 20)
        yield "random", db, fgsm(waveform, signs, bound)
        yield "fgsm", db, fgsm(waveform, gradient, bound)
        yield "pgd", db, pgd(loaded, waveform, bound, gradient, job.steps)


def summary(
    table: pd.DataFrame,
    attacked: pd.DataFrame,
    bonafide: pd.Series,
    threshold: float,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Success rates of the attacks, one row per method and strength.

    `attacked` is from `attack`; `bonafide` are clean LLRs by utt_id, and `threshold` is an LLR. Columns: success, the
    fraction of detected spoofs that are now accepted (NaN if none was detected), and success_16bit; spoof_accepted and
    eer with intervals; llr_change, the mean delta of the LLR.
    """
    known = table.set_index("utt_id")
    real = known.loc[bonafide.index].assign(llr=bonafide)
    real = evaluation.scored(real[real["label"] == "bonafide"])

    def statistic(counts):
        return {"eer": counts.eer().value, "spoof_accepted": counts.rates(threshold)["spoof_accepted"]}

    before = attacked[attacked["method"] == "none"].set_index("utt_id")["llr"]
    rows, groups = [], attacked.groupby(["method", "db"], sort=False, dropna=False)
    for (method, db), group in progress(groups, desc="intervals", unit="method"):
        group = group.set_index("utt_id")
        was = before.loc[group.index]
        caught = was < threshold
        trials = pd.concat([real, known.loc[group.index].assign(llr=group["llr"])])
        row = {"method": method, "db": db, "n_spoof": len(group)}
        for name, column in (("success", "llr"), ("success_16bit", "llr_16bit")):
            row[name] = float((group.loc[caught, column] >= threshold).mean()) if caught.any() else np.nan
        row |= {"llr_change": float((group["llr"] - was).mean())}
        row |= evaluation.with_interval(statistic, trials, replicates=replicates, seed=seed)
        rows.append(row)
    order = {method: i for i, method in enumerate(METHODS)}
    return pd.DataFrame(rows).sort_values(
        ["method", "db"], key=lambda x: x.map(order) if x.name == "method" else -x, ignore_index=True
    )


def readable(summary: pd.DataFrame) -> pd.DataFrame:
    """`summary` as text, in percent, with intervals."""
    strength = summary["db"].map(lambda db: "" if np.isnan(db) else f", {db:g} dB below")
    return evaluation.cells(
        summary.assign(
            attack=summary["method"].map(METHODS) + strength, llr_change=summary["llr_change"].map("{:+.2f}".format)
        ),
        {
            "attack": "Attack",
            "success": "Fakes caught before that pass now (%)",
            "success_16bit": "The same, saved with 16 bits (%)",
            "spoof_accepted": "Fakes let through (%)",
            "eer": "Equal error rate (%)",
            "llr_change": "Rise of the LLR",
        },
    )
