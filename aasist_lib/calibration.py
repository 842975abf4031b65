"""Calibration: from network scores to log-likelihood ratios (LLR, natural log) and decision thresholds.

An LLR of 2 means that such a score is e^2 = 7.4 times as frequent for bona fide as for spoof. A trial is called spoof
if and only if llr < threshold. Dev has few attacks, mostly those of training, so a plain fit is overconfident on unseen
attacks: `fit_held_out` fits with leave-one-attack-out and shrinks the LLRs accordingly.
Scoring imports no scipy: only the fits do.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aasist_lib.base import files
from aasist_lib.base.errors import UserError

POLICIES = ("equal_error", "min_cost", "max_fpr", "min_tpr")
SHRINKAGES = np.round(np.arange(1.0, 0.199, -0.05), 2)
FOLDS = 5  # of bona fide speakers


def uncalibrated_llr(scores, prior_spoof: float) -> np.ndarray:
    """LLRs that logits claim by themselves: score - log((1 - prior_spoof) / prior_spoof), with `training_prior`."""
    return np.asarray(scores, dtype=np.float64) - np.log((1 - prior_spoof) / prior_spoof)


def training_prior(network: Path) -> float:
    """Fraction of spoofs among the training draws, from network.json; `UserError` where it is missing or invalid."""
    path = Path(network) / "network.json"
    try:
        prior = json.loads(path.read_text(encoding="utf-8"))["prior_spoof"]
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run the train stage (dvc repro train)") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} does not say how many spoofs training drew (prior_spoof): train again") from None
    if not _is_number(prior) or not 0 < prior < 1:
        raise UserError(f"{path}: prior_spoof is {prior!r}, not between 0 and 1: train again")
    return float(prior)


@dataclass(frozen=True)
class Affine:
    """llr = scale * score + offset, in natural-log units, for scores of any shape.

    >>> Affine(scale=2.0, offset=-1.0)([0.5, 1.5])
    array([0., 2.])
    """

    scale: float
    offset: float

    def __call__(self, scores) -> np.ndarray:
        return self.scale * np.asarray(scores, dtype=np.float64) + self.offset

    @property
    def inverted(self) -> bool:
        """Whether a higher score means spoof."""
        return self.scale <= 0

    def describe(self) -> str:
        text = f"llr = {self.scale:.3f} x score {'+' if self.offset >= 0 else '-'} {abs(self.offset):.3f}"
        if self.inverted:
            text += (
                ". Warning: on these recordings a higher score means a fake. Calibration turns the scores"
                " round, but a detector that is upside down here cannot be trusted elsewhere:"
                " check the labels and the training."
            )
        return text

    def to_dict(self) -> dict:
        return {"kind": "affine", "scale": self.scale, "offset": self.offset}


@dataclass(frozen=True)
class Isotonic:
    """Monotonic piecewise linear map from scores to LLRs, constant beyond the outer knots.

    Lines instead of steps, so that different scores get different LLRs except where the map is flat.

    Attributes
    ----------
    scores, llrs : (k,) knots; scores strictly increase, llrs do not decrease. One knot is a constant.
    upside_down : whether bona fide had the lower mean score.

    >>> Isotonic((0.0, 1.0), (-2.0, 2.0))([-5, 0.5, 5])
    array([-2.,  0.,  2.])
    """

    scores: tuple[float, ...]
    llrs: tuple[float, ...]
    upside_down: bool = False

    def __call__(self, scores) -> np.ndarray:
        return np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.llrs)

    @property
    def inverted(self) -> bool:
        """Whether the scores are inverted or the fitted LLRs are constant."""
        return self.upside_down or not self.llrs[0] < self.llrs[-1]

    def describe(self) -> str:
        text = f"llr rises from {self.llrs[0]:.2f} to {self.llrs[-1]:.2f} over {len(self.scores)} knots"
        if self.inverted:
            text += (
                ". Warning: on these recordings a higher score does not mean a real voice. A rising curve cannot turn"
                " the scores round, so these LLRs say next to nothing: check the labels and the training."
            )
        return text

    def to_dict(self) -> dict:
        knots = {"scores": list(self.scores), "llrs": list(self.llrs)}
        return {"kind": "isotonic", "upside_down": self.upside_down} | knots


def _is_number(x) -> bool:
    """Whether x is a finite number; bool, a subclass of int in Python, is excluded."""
    return isinstance(x, int | float) and not isinstance(x, bool) and bool(np.isfinite(x))


def from_dict(values: dict) -> Affine | Isotonic:
    """Calibration from its `to_dict`; `UserError` for another kind, or numbers that make none."""
    kind = values.get("kind")
    if kind == "affine":
        scale, offset = values.get("scale"), values.get("offset")
        if not _is_number(scale) or not _is_number(offset):
            raise UserError(f"calibration: scale {scale!r} and offset {offset!r} must be finite numbers")
        return Affine(float(scale), float(offset))
    if kind == "isotonic":
        knots, upside_down = [values.get(name) for name in ("scores", "llrs")], values.get("upside_down")
        numbers = all(isinstance(knot, list) and knot and all(map(_is_number, knot)) for knot in knots)
        if (
            not numbers
            or len(knots[0]) != len(knots[1])
            or (np.diff(knots[0]) <= 0).any()
            or (np.diff(knots[1]) < 0).any()
        ):
            raise UserError("calibration: scores and llrs must be equally long lists of finite, rising numbers")
        if not isinstance(upside_down, bool):
            raise UserError(f"calibration: upside_down is {upside_down!r}, neither true nor false")
        return Isotonic(*(tuple(map(float, knot)) for knot in knots), upside_down)
    raise UserError(f"calibration: kind is {kind!r}, not one of affine, isotonic")


def fit_affine(bonafide, spoof, prior_spoof: float = 0.5, attacks=None) -> Affine:
    """Fit LLRs by logistic regression, with both classes weighted to the prior.

    Targets are smoothed as by Platt (1999), (n+1)/(n+2) and 1/(m+2), which keeps the scale finite for separable
    classes: n trials without an error cannot support odds far beyond n to 1.

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) scores, higher for bona fide.
    prior_spoof : operating point of the fit; 0.5 is general-purpose.
    attacks : (m,) names, to give every attack the same weight; None weights every trial the same.

    Raises
    ------
    UserError
        A class is missing, a score is not finite, all scores are equal, or the prior is not between 0 and 1.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    bonafide, spoof, scores, weight = _weighted(bonafide, spoof, attacks, prior_spoof)
    centre, spread = scores.mean(), scores.std()
    x = np.column_stack([(scores - centre) / spread, np.ones(len(scores))])
    sizes = [len(bonafide), len(spoof)]
    target = np.repeat([(sizes[0] + 1) / (sizes[0] + 2), 1 / (sizes[1] + 2)], sizes)
    log_odds = np.log((1 - prior_spoof) / prior_spoof)

    def loss(w):
        z = x @ w + log_odds
        error = weight * (expit(z) - target)
        return weight @ (np.logaddexp(0, z) - target * z), x.T @ error

    def hessian(w):
        p = expit(x @ w + log_odds)
        return (x.T * (weight * p * (1 - p))) @ x

    slope, intercept = minimize(loss, [1.0, 0.0], jac=True, hess=hessian, method="trust-exact",
                                options={"gtol": 1e-12}).x  # fmt: skip
    return Affine(float(slope / spread), float(intercept - slope * centre / spread))


def fit_isotonic(bonafide, spoof, prior_spoof: float = 0.5, attacks=None) -> Isotonic:
    """Fit LLRs by pool-adjacent-violators (Brümmer and du Preez 2006), with finite ends.

    One pseudo-trial of the other class at each end bounds the LLRs: n trials without an error cannot support odds
    beyond n to 1. Parameters and errors are as in `fit_affine`; the prior only weights the two pseudo-trials.
    """
    from scipy.optimize import isotonic_regression

    bonafide, spoof, scores, weight = _weighted(bonafide, spoof, attacks, prior_spoof)
    scores = np.concatenate([scores, [scores.min(), scores.max()]])
    real = np.repeat([1.0, 0.0, 1.0, 0.0], [len(bonafide), len(spoof), 1, 1])
    weight = np.concatenate([weight, [(1 - prior_spoof) / len(bonafide), prior_spoof / len(spoof)]])
    distinct, row = np.unique(scores, return_inverse=True)
    total = np.bincount(row, weight)
    share = isotonic_regression(np.bincount(row, weight * real) / total, weights=total)
    llr = np.log(share.x / (1 - share.x)) - np.log((1 - prior_spoof) / prior_spoof)
    # one knot per pool, at its mean score
    at = np.add.reduceat(distinct * total, share.blocks[:-1]) / np.add.reduceat(total, share.blocks[:-1])
    upside_down = bool(np.average(scores[real == 1], weights=weight[real == 1])
                       < np.average(scores[real == 0], weights=weight[real == 0]))  # fmt: skip
    return Isotonic(tuple(at.tolist()), tuple(llr[share.blocks[:-1]].tolist()), upside_down)


def _weighted(bonafide, spoof, attacks, prior_spoof: float) -> tuple[np.ndarray, ...]:
    """Both classes, all scores, bona fide first, and their weights; those of a class sum to its prior."""
    from aasist_lib.metrics import checked

    bonafide, spoof = checked(bonafide, spoof)
    if not 0 < prior_spoof < 1:
        raise UserError(f"prior_spoof: {prior_spoof} is not between 0 and 1")
    scores = np.concatenate([bonafide, spoof])
    if scores.min() == scores.max():
        raise UserError("calibration: all scores are the same; train the network first")
    of_spoof = np.full(len(spoof), 1 / len(spoof))
    if attacks is not None:
        _, group, size = np.unique(np.asarray(attacks, dtype=str), return_inverse=True, return_counts=True)
        of_spoof = 1 / size[group] / len(size)
    weight = np.concatenate([np.full(len(bonafide), (1 - prior_spoof) / len(bonafide)), prior_spoof * of_spoof])
    return bonafide, spoof, scores, weight


@dataclass(frozen=True)
class HeldOutCalibration:
    """Result of `fit_held_out`: the shrunk fit of all trials, and the shrinkage (0.2 to 1) of its LLRs.

    `held_out` are (bona fide, spoof) shrunk LLRs from fits without the trial's attack and, with several speakers, its
    speaker. With fewer than 2 `attacks`, nothing is held out or shrunk.
    """

    fit: Affine | Isotonic
    shrinkage: float
    held_out: tuple[np.ndarray, np.ndarray]
    attacks: int

    def describe(self) -> str:
        if self.attacks < 2:
            return (
                f"{self.fit.describe()}; dev has too few kinds of attack to hold one out: expect it to claim too much"
            )
        shrunk = "not shrunk" if self.shrinkage == 1 else f"shrunk to {self.shrinkage:g} of what they say together"
        return f"{self.fit.describe()}; {self.attacks} attacks, held out in turn: {shrunk}"


def fit_held_out(
    bonafide,
    spoof,
    attacks,
    speakers=None,
    spoof_speakers=None,
    *,
    method: str = "affine",
    prior_spoof: float = 0.5,
) -> HeldOutCalibration:
    """Fit a calibration with leave-one-attack-out and shrink it to fit unseen attacks.

    For every attack and every fifth of the bona fide speakers, a fit to the rest gives held-out LLRs; a spoof is held
    out together with its speaker, since a vocoder copy shares the recording. A trial gets the mean over the fits
    without it. The shrinkage with the lowest Cllr on these LLRs, with equal weight for each attack, is applied to the
    fit of all trials, but only if the gain is above one standard error over attacks.

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) dev scores, higher for bona fide.
    attacks : (m,) attack of each spoof.
    speakers : (n,) speaker of each bona fide trial; None keeps all speakers in every fit.
    spoof_speakers : (m,) speaker of each spoof; None means that none of them is a bona fide speaker.
    method : affine or isotonic.
    prior_spoof : as `fit_affine`.
    """
    from aasist_lib.metrics import checked

    bonafide, spoof = checked(bonafide, spoof)
    attacks = np.asarray(attacks, dtype=str)
    fit = {"affine": fit_affine, "isotonic": fit_isotonic}[method]
    names, (fold, spoof_fold) = np.unique(attacks), _folds(speakers, spoof_speakers, len(bonafide), len(spoof))
    of_all = fit(bonafide, spoof, prior_spoof, attacks)
    if len(names) < 2:
        return HeldOutCalibration(of_all, 1.0, (of_all(bonafide), of_all(spoof)), len(names))
    real, fake = np.zeros(len(bonafide)), np.zeros(len(spoof))  # mean LLRs over the fits without the trial
    folds = np.unique(fold)
    for name in names:
        of_attack = attacks == name
        for number in folds:
            kept = (fold != number) | (len(folds) == 1)
            kept_spoof = ~of_attack & ((spoof_fold != number) | (len(folds) == 1))
            kept_spoof = kept_spoof if kept_spoof.any() else ~of_attack  # all other attacks are of these speakers
            without = fit(bonafide[kept], spoof[kept_spoof], prior_spoof, attacks[kept_spoof])
            real[fold == number] += without(bonafide[fold == number]) / len(names)
            same_fold, no_fold = of_attack & (spoof_fold == number), of_attack & (spoof_fold < 0)
            fake[same_fold] = without(spoof[same_fold])
            fake[no_fold] += without(spoof[no_fold]) / len(folds)
    # (shrinkages, attacks): the bona fide part is the same for every attack
    costs = np.array([
        [np.logaddexp(0, -by * real).mean() + np.logaddexp(0, by * fake[attacks == name]).mean() for name in names]
        for by in SHRINKAGES
    ])  # fmt: skip
    best = int(np.argmin(costs.mean(axis=1)))
    gain = costs[0] - costs[best]
    by = float(SHRINKAGES[best]) if gain.mean() > gain.std(ddof=1) / np.sqrt(len(names)) else 1.0
    return HeldOutCalibration(_shrunk(of_all, by), by, (by * real, by * fake), len(names))


def _folds(speakers, spoof_speakers, bonafide: int, spoof: int) -> tuple[np.ndarray, np.ndarray]:
    """Speaker fold of each bona fide and spoof trial; -1 is a spoof of no bona fide speaker."""
    if speakers is None:
        return np.zeros(bonafide, dtype=int), np.full(spoof, -1)
    names, group = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    number = {name: i % FOLDS for i, name in enumerate(names)}
    fakes = [""] * spoof if spoof_speakers is None else np.asarray(spoof_speakers, dtype=str)
    return group % FOLDS, np.array([number.get(name, -1) if name else -1 for name in fakes])


def _shrunk(fit, by: float):
    if isinstance(fit, Affine):
        return Affine(by * fit.scale, by * fit.offset)
    return replace(fit, llrs=tuple(by * llr for llr in fit.llrs))


def thresholds(
    bonafide_llr,
    spoof_llr,
    *,
    prior_spoof: float = 0.05,
    cost_miss: float = 1.0,
    cost_false_alarm: float = 10.0,
    max_fpr: float = 0.05,
    min_tpr: float = 0.95,
) -> dict[str, float]:
    """Threshold, an LLR, of each policy in `POLICIES`, chosen on the given trials.

    equal_error: equal error rate. min_cost: Bayes threshold log(C_fa p / (C_miss (1 - p))) of `metrics.act_dcf`.
    max_fpr: the highest with a false positive rate (bona fide called spoof) of at most `max_fpr`. min_tpr: the lowest
    with a true positive rate (spoofs called spoof) of at least `min_tpr`. All but min_cost lie halfway between two
    scores, so rounding moves no trial across.

    Parameters
    ----------
    bonafide_llr, spoof_llr : (n,) and (m,) LLRs.
    prior_spoof, cost_miss, cost_false_alarm : of min_cost, as `metrics.min_dcf`.
    max_fpr, min_tpr : fractions, in [0, 1) and (0, 1].

    Raises
    ------
    UserError
        A class is missing, or a score is not finite.

    >>> policy = thresholds([0.5, 1, 2, 3], [-3, -1, 0, 1.5], max_fpr=0.25, min_tpr=0.75)
    >>> policy["equal_error"], policy["max_fpr"], policy["min_tpr"]
    (0.75, 0.75, 0.25)
    """
    from aasist_lib.metrics import det

    curve = det(bonafide_llr, spoof_llr)
    points = {
        "equal_error": int(np.flatnonzero(curve.thresholds == curve.eer().threshold)[0]),
        "max_fpr": int(np.flatnonzero(curve.bonafide_rejected <= max_fpr + 1e-12)[-1]),
        "min_tpr": int(np.flatnonzero(curve.spoof_accepted <= 1 - min_tpr + 1e-12)[0]),
    }
    following = np.append(curve.thresholds[1:], curve.thresholds[-1] + 0.001)
    halfway = curve.thresholds + (following - curve.thresholds) / 2
    read = {policy: float(halfway[point]) for policy, point in points.items()}
    cheapest = float(np.log(cost_false_alarm * prior_spoof) - np.log(cost_miss * (1 - prior_spoof)))
    return {policy: read.get(policy, cheapest) for policy in POLICIES}


def save_detector(
    folder: Path, network: Path, fit: Affine | Isotonic, policies: dict[str, float], *, policy: str, **settings
) -> None:
    """Write a detector folder: a copy of the network's two files, and calibration.json.

    Parameters
    ----------
    fit, policies : from `fit_held_out` and `thresholds`.
    policy : key of `policies` that decides.
    settings : further values to keep in calibration.json, such as prior_spoof.

    Raises
    ------
    UserError
        The network is missing.
    """
    folder, network = Path(folder), Path(network)
    content = {**settings, **fit.to_dict(), "thresholds": policies, "policy": policy}
    copied = {}
    for name in ("network.safetensors", "network.json"):
        if not (network / name).is_file():
            raise UserError(f"{network / name}: not there; run the train stage (dvc repro train)")
        copied[name] = (network / name).read_bytes()
    files.write_json(folder / "calibration.json", content)
    for name, network_file in copied.items():
        files.write(folder / name, network_file)


def load(folder: Path) -> tuple[Affine | Isotonic, float, dict]:
    """Calibration, decision threshold (LLR) and full content of calibration.json; `UserError` if invalid."""
    path = Path(folder) / "calibration.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        threshold = float(content["thresholds"][content["policy"]])
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run the calibrate stage (dvc repro calibrate)") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a calibration; run the calibrate stage again") from None
    return from_dict(content), threshold, content
