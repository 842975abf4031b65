"""Fakes changed on purpose, so faintly that nobody hears it, to pass as real voices.

Whoever has the detector can follow its gradient back to the waveform: which way to move every sample so that the
log-likelihood ratio rises. FGSM takes one step of full size that way (Goodfellow, Shlens and Szegedy 2015), PGD several
smaller ones (Madry et al. 2018). No sample moves by more than a bound, which is given in dB below the recording's own
rms value: at 40 dB that is a hundredth of it. A change of that size in random directions shows what is due to the
direction.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aasist_lib import audio, evaluation, metrics
from aasist_lib.audit.robustness import fingerprint, llr, logit
from aasist_lib.augment import effects
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import done, one_thread, runs, write
from aasist_lib.base.progress import progress
from aasist_lib.corpora.folds import in_proportion
from aasist_lib.detector import MIN_SECONDS, Detector

STRENGTHS = (60.0, 50.0, 40.0)  # dB that the bound lies below the recording's rms value
STEPS = 10
METHODS = {"none": "Unchanged", "random": "Random change", "fgsm": "FGSM", "pgd": "PGD"}
PIECE = 10  # fakes that are attacked, and kept on disk, together


def fakes(table: pd.DataFrame, count: int = 100, seed: int = 0) -> pd.DataFrame:
    """About so many fakes of the table, every attack in proportion and at least once.

    Parameters
    ----------
    table : DataFrame
        Utterances, such as `robustness.sample` gives.
    count, seed : int

    Returns
    -------
    DataFrame
        Rows of `table`, in its order.
    """
    return in_proportion(table[table["label"] == "spoof"], "attack", count, seed)


def slope(loaded: Detector, waveform: np.ndarray) -> tuple[float, np.ndarray]:
    """The network's logit of a waveform, and how it changes with every sample.

    Parameters
    ----------
    loaded : Detector
    waveform : np.ndarray
        (samples,), float32.

    Returns
    -------
    float, np.ndarray
        Higher for bona fide; (samples,), float32. Both with their signs turned where calibration turns scores round.
    """
    way = 1.0 if loaded.calibrated(1.0) >= loaded.calibrated(-1.0) else -1.0
    leaf = torch.from_numpy(waveform).clone().requires_grad_()
    value = way * logit(loaded, leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), np.nan_to_num(gradient.numpy())


def fgsm(waveform: np.ndarray, gradient: np.ndarray, bound: float) -> np.ndarray:
    """One step of full size along the sign of the gradient, within full scale.

    Parameters
    ----------
    waveform, gradient : np.ndarray
        (samples,) each.
    bound : float
        That no sample moves beyond.

    Returns
    -------
    np.ndarray
        (samples,), float32.
    """
    return _within(waveform + np.float32(bound) * np.sign(gradient), waveform, bound)


def pgd(
    loaded: Detector, waveform: np.ndarray, bound: float, steps: int = STEPS, gradient: np.ndarray | None = None
) -> np.ndarray:
    """Steps of 2.5 / `steps` of the bound along the sign of the gradient, brought back to within the bound each time.

    Parameters
    ----------
    loaded : Detector
    waveform : np.ndarray
        (samples,), float32.
    bound : float
        That no sample moves beyond.
    steps : int
    gradient : np.ndarray, optional
        (samples,), at `waveform`, if it is known.

    Returns
    -------
    np.ndarray
        (samples,), float32: of all waveforms on the way, the one with the highest logit.
    """
    if not bound > 0:
        return waveform
    value, gradient = slope(loaded, waveform) if gradient is None else (-np.inf, gradient)
    best, highest = waveform, value
    changed = waveform
    for step in range(steps):
        changed = _within(changed + np.float32(2.5 / steps * bound) * np.sign(gradient), waveform, bound)
        if step < steps - 1:
            value, gradient = slope(loaded, changed)
        else:
            value = _value(loaded, changed)
        if value > highest:
            best, highest = changed, value
    return best


def _value(loaded: Detector, waveform: np.ndarray) -> float:
    way = 1.0 if loaded.calibrated(1.0) >= loaded.calibrated(-1.0) else -1.0
    with torch.inference_mode():
        return way * logit(loaded, torch.from_numpy(waveform)).item()


def _within(changed: np.ndarray, waveform: np.ndarray, bound: float) -> np.ndarray:
    """Within the bound around the waveform, and within full scale where the waveform is."""
    top = max(1.0, float(np.abs(waveform).max(initial=0)))
    near = np.clip(changed, waveform - np.float32(bound), waveform + np.float32(bound))
    return np.clip(near, -top, top).astype(np.float32)


@dataclass(frozen=True)
class Job:
    """Some fakes, by every method and at every strength. It counts as done when its file exists."""

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
    """Attack fakes, each by every method and at every strength. What is done is kept, as by `robustness.score`.

    Parameters
    ----------
    table : DataFrame
        The fakes, such as `fakes` gives.
    root : path
        What `path` in the table is relative to.
    detector_folder : path
        What `Detector.load` reads; attacked with full knowledge of it.
    folder : path
        For what is done; of nothing else.
    strengths : sequence of float
        How many dB the largest change of a sample lies below the recording's rms value: less is stronger.
    steps : int
        Of PGD.
    workers : int
        Processes, one thread each. The result does not depend on it.
    seed : int
        Of the random changes, together with the names of the fakes.

    Returns
    -------
    DataFrame
        A row for each fake, method and strength: utt_id; method, one of `METHODS`; db (NaN for "none"); llr;
        llr_16bit, of the same waveform rounded to the 16 bits of a usual file. Recordings that cannot be scored are
        left out.

    Raises
    ------
    UserError
        The table has real voices or is empty, or the detector cannot be loaded.
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
    key = fingerprint(__name__, detector_folder, [root / path for path in table["path"]], jobs)
    rows = done(jobs, _attack, folder, key, workers, "attack")
    if rows.empty:
        raise UserError("attack: none of the fakes can be scored")
    return rows.astype({"db": float})


def _attack(job: Job) -> None:
    """Write the scores of a job's fakes under attack."""
    rows = []
    with one_thread():
        loaded = Detector.load(job.detector)
        loaded.network.requires_grad_(False)  # the waveform's gradients are wanted, not those of the weights
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
    """Yields (method, dB, changed waveform)."""
    yield "none", float("nan"), waveform
    gradient = slope(loaded, waveform)[1]  # the same for all strengths
    signs = np.random.default_rng((job.seed, zlib.crc32(name.encode()))).standard_normal(len(waveform))
    for db in job.strengths:
        bound = effects.rms(waveform) * 10 ** (-db / 20)
        yield "random", db, fgsm(waveform, signs, bound)
        yield "fgsm", db, fgsm(waveform, gradient, bound)
        yield "pgd", db, pgd(loaded, waveform, bound, job.steps, gradient)


def summary(
    table: pd.DataFrame,
    attacked: pd.DataFrame,
    bonafide: pd.Series,
    threshold: float,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How often attacks succeed.

    Parameters
    ----------
    table : DataFrame
        The table of utterances: label, speaker, attack of every utt_id in the two others.
    attacked : DataFrame
        What `attack` gave.
    bonafide : Series
        Log-likelihood ratios of real voices by utt_id, such as the column clean of `robustness.score`; fakes in it
        do not count.
    threshold : float
        Below it a recording is called fake.
    replicates, seed : int
        Of the bootstrap over speakers and attacks; 0 replicates give no intervals.

    Returns
    -------
    DataFrame
        A row for each method and strength: method, db, n_spoof; success, of the fakes that were called fake, the share
        that is called real now (NaN where none was); success_16bit, the same of waveforms saved with 16 bits;
        spoof_accepted, the share of all that is called real; eer of the real voices against these fakes, both with
        intervals; llr_change, the mean rise of the log-likelihood ratio.

    Raises
    ------
    UserError
        There are no real voices, or too few speakers and attacks to draw from.
    """
    known = table.set_index("utt_id")
    real = known.loc[bonafide.index].assign(llr=bonafide)
    real = evaluation.scored(real[real["label"] == "bonafide"])

    def statistics(counts):
        return {"eer": counts.eer().value, "spoof_accepted": counts.rates(threshold)["spoof_accepted"]}

    before = attacked[attacked["method"] == "none"].set_index("utt_id")["llr"]
    rows, groups = [], attacked.groupby(["method", "db"], sort=False, dropna=False)
    for (method, db), group in progress(groups, desc="intervals", unit="method"):
        group = group.set_index("utt_id")
        was = before.loc[group.index]
        caught = was < threshold
        trials = pd.concat([real, known.loc[group.index].assign(llr=group["llr"])])
        classes = evaluation.split_classes(trials)
        row = {"method": method, "db": db, "n_spoof": len(group)}
        for name, column in (("success", "llr"), ("success_16bit", "llr_16bit")):
            row[name] = float((group.loc[caught, column] >= threshold).mean()) if caught.any() else np.nan
        row |= statistics(metrics.Counts.of(*classes)) | {"llr_change": float((group["llr"] - was).mean())}
        if replicates:
            drawn = {"clusters": evaluation.factors(trials), "replicates": replicates, "seed": seed}
            for name, (low, high) in metrics.bootstrap(statistics, *classes, **drawn).items():
                row |= {f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    order = {method: i for i, method in enumerate(METHODS)}
    return pd.DataFrame(rows).sort_values(
        ["method", "db"], key=lambda x: x.map(order) if x.name == "method" else -x, ignore_index=True
    )


def readable(summary: pd.DataFrame) -> pd.DataFrame:
    """`summary` for people: text, in percent, with intervals.

    Parameters
    ----------
    summary : DataFrame
        What `summary` gave.

    Returns
    -------
    DataFrame
        Attack, and a column a measure.
    """
    rows = []
    for row in summary.to_dict("records"):
        strength = "" if np.isnan(row["db"]) else f", {row['db']:g} dB below"

        def cell(name, row=row):
            return evaluation.interval(*(row.get(name + end) for end in ("", "_low", "_high")))

        rows.append(
            {
                "Attack": METHODS[row["method"]] + strength,
                "Fakes caught before that pass now (%)": cell("success"),
                "The same, saved with 16 bits (%)": cell("success_16bit"),
                "Fakes let through (%)": cell("spoof_accepted"),
                "Equal error rate (%)": cell("eer"),
                "Rise of the LLR": f"{row['llr_change']:+.2f}",
            }
        )
    return pd.DataFrame(rows)
