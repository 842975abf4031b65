"""Metrics of a detector from its scores: numpy and scipy, nothing else.

In every function a higher score means bona fide. Two things can go wrong, and here they are named for what
happens to the speech, because papers disagree on which of them is the "false alarm":

- *bona fide rejected*: a real voice called fake (``miss`` in the ASVspoof papers);
- *spoof accepted*: a fake let through (``false alarm`` in the ASVspoof papers).

The costs keep the ASVspoof names: ``cost_miss`` for a real voice rejected, ``cost_false_alarm`` for a fake
accepted. Accuracy, precision, recall and F1 take *spoof* as the positive class. Scores are sequences of any
length, (n,) of bona fide and (m,) of spoofed trials, in any order; every function raises `UserError` when a class
is missing or a score is not a number.

Sources: ASVspoof 5 evaluation plan (minDCF, actDCF, Cllr, a-DCF); Kinnunen et al. 2018 and 2020 (t-DCF);
Brümmer and du Preez 2006 (Cllr and its minimum by pool-adjacent-violators); Owen 2007 (bootstrap over crossed
clusters).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from aasist_lib.errors import UserError


class EER(NamedTuple):
    """Equal error rate, a fraction, and the highest score that is still rejected there."""

    value: float
    threshold: float


class MinCost(NamedTuple):
    """Lowest cost that any threshold reaches, and the highest score that is still rejected there."""

    value: float
    threshold: float


@dataclass(frozen=True)
class DET:
    """Both error rates at every threshold: what EER, minDCF and AUC are read from.

    Attributes
    ----------
    thresholds : (n,) ascending; point i rejects every score <= thresholds[i], the first rejects nothing.
    bonafide_rejected, spoof_accepted : (n,) fractions, one rising from 0, the other falling to 0.
    """

    thresholds: np.ndarray
    bonafide_rejected: np.ndarray
    spoof_accepted: np.ndarray

    def eer(self) -> EER:
        """Mean of the two rates at the point where they are closest: not interpolated, as in ASVspoof."""
        best = np.argmin(np.abs(self.bonafide_rejected - self.spoof_accepted))
        value = (self.bonafide_rejected[best] + self.spoof_accepted[best]) / 2
        return EER(float(value), float(self.thresholds[best]))

    def min_dcf(self, prior_spoof=0.05, cost_miss=1.0, cost_false_alarm=10.0) -> MinCost:
        """See `metrics.min_dcf`."""
        miss, false_alarm = _dcf_weights(prior_spoof, cost_miss, cost_false_alarm)
        return _lowest(miss * self.bonafide_rejected + false_alarm * self.spoof_accepted, self.thresholds)

    def auc(self) -> float:
        """See `metrics.auc`."""
        return float(np.trapezoid(self.bonafide_rejected - 1, self.spoof_accepted))


def det(bonafide, spoof, ties: str = "grouped") -> DET:
    """Detection error trade-off curve.

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) scores.
    ties : "grouped" keeps trials of one score on one side of every threshold, as a real threshold does;
        "reference" does as the ASVspoof packages do, where a threshold may part trials of the very same
        score, rejecting bona fide first (so that a constant score has an EER of 1 instead of 0.5).

    Returns
    -------
    DET
        Of k+1 points, k being how many distinct scores (or, for "reference", trials) there are.

    Raises
    ------
    UserError
        A class is missing, a score is not a number, or `ties` is neither of the two.
    """
    if ties not in ("grouped", "reference"):
        raise UserError(f"ties: {ties!r} is not one of grouped, reference")
    bonafide, spoof = _checked(bonafide, spoof)
    scores = np.concatenate([bonafide, spoof])
    order = np.argsort(scores, kind="stable")  # timsort: nearly free on the sorted samples of the bootstrap
    scores = scores[order]
    rejected = np.cumsum(order < len(bonafide))  # bona fide among the i lowest scores
    index = np.arange(len(scores))
    if ties == "grouped":
        index = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # last trial of each score
    rejected, scores = rejected[index], scores[index]
    return DET(
        np.append(scores[0] - 0.001, scores),
        np.append(0.0, rejected / len(bonafide)),
        np.append(1.0, (len(spoof) - (index + 1 - rejected)) / len(spoof)),
    )


def eer(bonafide, spoof, ties: str = "grouped") -> EER:
    """Equal error rate: where real voices are rejected as often as fakes are accepted.

    0 is perfect, 0.5 is guessing, 1 is a detector upside down. Not interpolated, as in the ASVspoof packages.

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) scores.
    ties : as in `det`.

    Returns
    -------
    EER
        Its value, a fraction, and the highest score that is still rejected there.

    >>> eer([0.5, 1, 2, 3], [-3, -1, 0, 1.5])
    EER(value=0.25, threshold=0.5)
    """
    return det(bonafide, spoof, ties).eer()


def rocch_eer(bonafide, spoof) -> float:
    """Equal error rate on the convex hull of the ROC curve (Brümmer and du Preez 2006), a fraction.

    Never above 0.5: it hides an inverted detector.

    >>> round(rocch_eer([0.5, 1, 2, 3], [-3, -1, 0, 1.5]), 6)
    0.166667
    """
    n_bonafide, n_spoof, _, corners = _pav(bonafide, spoof)
    rejected = np.append(0, np.cumsum(n_bonafide))[corners] / n_bonafide.sum()
    accepted = 1 - np.append(0, np.cumsum(n_spoof))[corners] / n_spoof.sum()
    after = np.argmax(rejected >= accepted)  # the rates cross between this corner and the one before
    (x0, x1), (y0, y1) = rejected[after - 1 : after + 1], accepted[after - 1 : after + 1]
    return float(x0 + (x1 - x0) * (y0 - x0) / ((y0 - x0) + (x1 - y1)))


def auc(bonafide, spoof) -> float:
    """Area under the ROC curve, a fraction: how often a real voice outscores a fake (a tie counts one half).

    >>> auc([1, 2], [0, 1])
    0.875
    """
    return det(bonafide, spoof).auc()


def min_dcf(bonafide, spoof, prior_spoof=0.05, cost_miss=1.0, cost_false_alarm=10.0) -> MinCost:
    """Normalised detection cost at the best threshold: 0 is perfect, 1 is one answer for everything.

    min over t of [C_miss (1-p) P_rejected(t) + C_fa p P_accepted(t)] / min(C_miss (1-p), C_fa p), with p the
    prior probability of a spoof. Formula and defaults are those of the ASVspoof 5 evaluation plan.

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) scores.
    prior_spoof : between 0 and 1.
    cost_miss, cost_false_alarm : of a real voice rejected and of a fake accepted, above 0.

    Returns
    -------
    MinCost
        The cost, without unit, and the highest score that is still rejected there.

    Raises
    ------
    UserError
        A class is missing, a score is not a number, or the prior or a cost is out of range.
    """
    return det(bonafide, spoof).min_dcf(prior_spoof, cost_miss, cost_false_alarm)


def act_dcf(bonafide, spoof, prior_spoof=0.05, cost_miss=1.0, cost_false_alarm=10.0) -> float:
    """The cost of `min_dcf` at the threshold that calibrated scores ask for: -log(C_miss (1-p) / (C_fa p)).

    What it exceeds minDCF by is the price of bad calibration.

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) natural-log likelihood ratios.
    prior_spoof, cost_miss, cost_false_alarm : as in `min_dcf`, which also says what is raised.
    """
    bonafide, spoof = _checked(bonafide, spoof)
    miss, false_alarm = _dcf_weights(prior_spoof, cost_miss, cost_false_alarm)
    threshold = -np.log(miss / false_alarm)
    return float(miss * np.mean(bonafide < threshold) + false_alarm * np.mean(spoof >= threshold))


def cllr(bonafide, spoof) -> float:
    """Cost of log-likelihood ratios, in bits: 0 is perfect, 1 says nothing, more than 1 misleads.

    [mean of log2(1 + e^-x) over bona fide + mean of log2(1 + e^x) over spoofs] / 2 (Brümmer and du Preez 2006).

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) natural-log likelihood ratios.

    >>> cllr([0, 0], [0])
    1.0
    """
    bonafide, spoof = _checked(bonafide, spoof)
    bits = np.mean(np.logaddexp(0, -bonafide)) + np.mean(np.logaddexp(0, spoof))  # log(1 + e^x), no overflow
    return float(bits / (2 * np.log(2)))


def min_cllr(bonafide, spoof) -> float:
    """`cllr`, in bits, after the best monotonic calibration there can be on these scores: discrimination alone.

    The calibration is that of pool-adjacent-violators (Brümmer and du Preez 2006); any scores will do.
    """
    n_bonafide, n_spoof, share, _ = _pav(bonafide, spoof)
    odds = n_spoof.sum() / n_bonafide.sum()
    real, fake = n_bonafide > 0, n_spoof > 0
    bits = n_bonafide[real] @ np.log2(1 + (1 - share[real]) / share[real] / odds) / n_bonafide.sum()
    bits += n_spoof[fake] @ np.log2(1 + share[fake] / (1 - share[fake]) * odds) / n_spoof.sum()
    return float(bits / 2)


def confusion(bonafide, spoof, threshold: float) -> dict[str, int]:
    """Counts at a threshold: called spoof if and only if score < threshold, and positive means spoof.

    Returns
    -------
    dict
        tp (spoofs found), fp (real voices called fake), fn (spoofs let through), tn (real voices let through).

    Raises
    ------
    UserError
        A class is missing, or a score or the threshold is not a number.

    >>> confusion([0.5, 1, 2, 3], [-3, -1, 0, 1.5], threshold=0.75)
    {'tp': 3, 'fp': 1, 'fn': 1, 'tn': 3}
    """
    bonafide, spoof = _checked(bonafide, spoof)
    if np.isnan(threshold):
        raise UserError("the threshold is not a number: calibrate first")
    tp, fp = int(np.sum(spoof < threshold)), int(np.sum(bonafide < threshold))
    return {"tp": tp, "fp": fp, "fn": len(spoof) - tp, "tn": len(bonafide) - fp}


def rates(bonafide, spoof, threshold: float) -> dict[str, float]:
    """Accuracy, precision, recall, F1 (positive: spoof) and the two error rates at a threshold, as fractions.

    Precision is 0 when nothing is called spoof. Accuracy, precision and F1 change with the share of spoofs in
    the set; recall and the two error rates do not.

    Returns
    -------
    dict
        accuracy, precision, recall, f1, bonafide_rejected, spoof_accepted.

    Raises
    ------
    UserError
        A class is missing, or a score or the threshold is not a number.
    """
    tp, fp, fn, tn = confusion(bonafide, spoof, threshold).values()
    return {
        "accuracy": (tp + tn) / (tp + fp + fn + tn),
        "precision": tp / max(tp + fp, 1),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "bonafide_rejected": fp / (fp + tn),
        "spoof_accepted": fn / (tp + fn),
    }


class ASVRates(NamedTuple):
    """Errors of a speaker verifier: other speakers accepted, the right one rejected, spoofs accepted."""

    false_alarm: float
    miss: float
    spoof_false_alarm: float


def asv_rates(target, spoof, nontarget) -> ASVRates:
    """Errors of a speaker verifier from its scores, at the threshold of its equal error rate, as fractions.

    Parameters
    ----------
    target, spoof, nontarget : (k,), (m,) and (n,) scores of the verifier: the right speaker, fakes of that
        speaker, other speakers. Higher means the right speaker.
    """
    target, spoof = _checked(target, spoof)
    threshold, nontarget = eer(target, nontarget).threshold, _checked(target, nontarget)[1]
    accepted = [float(np.mean(scores >= threshold)) for scores in (nontarget, spoof)]
    return ASVRates(accepted[0], float(np.mean(target < threshold)), accepted[1])


def min_tdcf(bonafide, spoof, asv: ASVRates, year: int = 2021) -> MinCost:
    """Lowest normalised tandem cost of this detector in front of a speaker verifier with the errors `asv`.

    year 2021: (C0 + C1 P_rejected + C2 P_accepted) / (C0 + min(C1, C2)), also ASVspoof 5's; 2019: the first
    form, without C0. Priors .9405 target, .0095 nontarget, .05 spoof; costs 1 for a miss, 10 for the others
    (Kinnunen et al. 2018 and 2020).

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) scores of the detector.
    asv : what `asv_rates` gave.
    year : 2019 or 2021.

    Returns
    -------
    MinCost
        The cost, without unit, and the highest score that is still rejected there.

    Raises
    ------
    UserError
        A class is missing, a score is not a number, or there is no such year.
    """
    if year not in (2019, 2021):
        raise UserError(f"year: {year!r} is not one of 2019, 2021")
    of_asv = 0.9405 * asv.miss, 0.0095 * 10 * asv.false_alarm
    c0 = sum(of_asv) if year == 2021 else 0.0
    c1, c2 = 0.9405 - sum(of_asv), 0.05 * 10 * asv.spoof_false_alarm
    curve = det(bonafide, spoof)
    costs = c0 + c1 * curve.bonafide_rejected + c2 * curve.spoof_accepted
    return _lowest(costs / (c0 + min(c1, c2)), curve.thresholds)


def a_dcf(target, spoof, nontarget, *, priors=(0.9, 0.05, 0.05), costs=(1.0, 20.0, 10.0)) -> MinCost:
    """Lowest normalised cost of one system that verifies the speaker and rejects spoofs (Shim et al. 2024).

    ASVspoof 5 uses priors (.9405, .05, .0095) and costs (1, 10, 10).

    Parameters
    ----------
    target, spoof, nontarget : (k,), (m,) and (n,) scores of that system, higher for what it should accept.
    priors, costs : three each, in the order of the scores.

    Returns
    -------
    MinCost
        The cost, without unit, and the highest score that is still rejected there.

    Raises
    ------
    UserError
        A class is missing, or a score is not a number.
    """
    target, spoof = _checked(target, spoof)
    nontarget = _checked(target, nontarget)[1]
    scores = np.unique(np.concatenate([target, spoof, nontarget]))
    thresholds = np.append(scores[0] - 0.001, scores)
    classes = (np.sort(x) for x in (target, spoof, nontarget))
    below = [np.searchsorted(x, thresholds, side="right") / len(x) for x in classes]
    miss, from_spoof, from_nontarget = np.multiply(priors, costs)
    cost = miss * below[0] + from_spoof * (1 - below[1]) + from_nontarget * (1 - below[2])
    return _lowest(cost / min(miss, from_spoof + from_nontarget), thresholds)


def bootstrap(
    statistics: Callable[[np.ndarray, np.ndarray], Mapping[str, float]],
    bonafide,
    spoof,
    *,
    clusters: Mapping[str, tuple] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of any statistics of the scores: name -> (low, high).

    Parameters
    ----------
    statistics : function of (bona fide scores, spoof scores), both sorted, to a dict of numbers.
    clusters : None draws trials independently of each other. Otherwise factors by name, each with the group
        of every bona fide and of every spoofed trial (None: does not apply), such as
        ``{"speaker": (bonafide_speakers, spoof_speakers), "attack": (None, attacks)}``. The groups of each
        factor are drawn with replacement; a trial counts as often as the product of the counts of its groups.
        Trials of one speaker or attack resemble each other, so these intervals tell what other speakers and
        attacks of this sort would give, where independent draws only tell what more of the same would.
    replicates, seed, level : number of samples, seed of their random generator, coverage.

    Raises
    ------
    UserError
        A class is missing, a score is not a number, or speakers and attacks are so few that samples have none of
        one class.

    Notes
    -----
    Groups with bona fide trials are drawn apart from those without, so that every sample has as many human
    speakers as the data; a sample left without spoofs is drawn again. A trial with an empty name is a group
    of its own. A class of one group is drawn trial by trial, which understates its uncertainty.

    >>> bootstrap(lambda b, s: {"eer": eer(b, s).value}, range(4), range(-2, 2), replicates=200)
    {'eer': (0.0, 0.5)}
    """
    classes = _checked(bonafide, spoof)
    orders = [np.argsort(scores, kind="stable") for scores in classes]
    ranked = [scores[order] for scores, order in zip(classes, orders, strict=True)]
    factors = [_factor(names, orders) for names in (clusters or {}).values()]
    factors = [factor for factor in factors if any(groups is not None for groups in factor[1])]
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < replicates:
        for _ in range(100):
            counts = _draw(rng, factors, ranked)
            if counts[0].any() and counts[1].any():
                break
        else:
            raise UserError("too few speakers and attacks to draw samples from: use clusters=None")
        # sorted scores stay sorted when repeated, so that no statistic has to sort from scratch
        found.append(statistics(*(np.repeat(x, count) for x, count in zip(ranked, counts, strict=True))))
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {name: tuple(np.quantile([one[name] for one in found], ends).tolist()) for name in found[0]}


def _factor(names, orders):
    """Of one factor: groups with and without bona fide trials; group of every trial by class, or None."""
    names = [np.asarray([] if given is None else given, dtype=object).astype(str) for given in names]
    flat = np.concatenate(names)
    unnamed = flat == ""
    flat = np.where(unnamed, [f"\n{i}" for i in range(len(flat))], flat)
    groups = np.unique(flat, return_inverse=True)[1]
    of_class = np.split(groups, [len(names[0])])
    strata = [np.unique(of_class[0]), np.setdiff1d(groups, of_class[0])]
    varying = [stratum for stratum in strata if len(stratum) > 1 and not unnamed.all()]
    varying = np.concatenate(varying or [[]])
    for i, order in enumerate(orders):
        of_class[i] = of_class[i][order] if np.isin(of_class[i], varying).any() else None
    return strata, of_class


def _draw(rng, factors, ranked):
    """How often every trial of each class counts in one bootstrap sample."""
    counts = [None, None]
    for strata, of_class in factors:
        drawn = np.zeros(sum(map(len, strata)), dtype=np.int64)
        for groups in filter(len, strata):
            drawn[groups] = _resample(rng, len(groups))
        for i, groups in enumerate(of_class):
            if groups is not None:
                counts[i] = drawn[groups] * (1 if counts[i] is None else counts[i])
    return [_resample(rng, len(x)) if n is None else n for x, n in zip(ranked, counts, strict=True)]


def _resample(rng, n):
    return np.bincount(rng.integers(n, size=n), minlength=n)


def _checked(bonafide, spoof):
    """Both classes as float64 vectors, neither empty, no score NaN."""
    arrays = [np.asarray(scores, dtype=np.float64).ravel() + 0.0 for scores in (bonafide, spoof)]  # no -0.0
    for name, scores in zip(("bona fide", "spoofed"), arrays, strict=True):
        if not len(scores):
            raise UserError(f"no {name} scores: a metric needs trials of both classes")
        if np.isnan(scores).any():
            raise UserError(f"{np.isnan(scores).sum()} of {len(scores)} {name} scores are not numbers")
    return arrays


def _dcf_weights(prior_spoof, cost_miss, cost_false_alarm):
    """Normalised weights of bona fide rejected and of spoof accepted."""
    if not 0 < prior_spoof < 1 or min(cost_miss, cost_false_alarm) <= 0:
        raise UserError("a detection cost needs 0 < prior_spoof < 1 and costs above 0")
    weights = np.array([cost_miss * (1 - prior_spoof), cost_false_alarm * prior_spoof])
    return weights / weights.min()


def _lowest(costs, thresholds):
    best = np.argmin(costs)
    return MinCost(float(costs[best]), float(thresholds[best]))


def _pav(bonafide, spoof):
    """Pool adjacent violators over the distinct scores, ascending.

    Returns trials of each class at each score, the share of bona fide fitted there, and where the pools begin
    and end: the corners of the convex hull of the ROC curve.
    """
    bonafide, spoof = _checked(bonafide, spoof)
    scores, index = np.unique(np.concatenate([bonafide, spoof]), return_inverse=True)
    n_bonafide, n_spoof = (np.bincount(i, minlength=len(scores)) for i in np.split(index, [len(bonafide)]))
    total = n_bonafide + n_spoof
    fit = isotonic_regression(n_bonafide / total, weights=total)
    return n_bonafide, n_spoof, fit.x, fit.blocks
