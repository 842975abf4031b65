"""Metrics of spoofing detection, computed from scores with numpy and scipy alone.

A higher score means bona fide; scores are (n,) of bona fide and (m,) of spoof trials. The positive class is spoof:
`bonafide_rejected` is the false positive rate, called miss rate in ASVspoof, and `spoof_accepted` is the false negative
rate, called false alarm rate there. Costs keep the ASVspoof names: `cost_miss` of a rejected bona fide trial,
`cost_false_alarm` of an accepted spoof. Every function raises `UserError` if a class is missing or a score is not
finite.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import norm, t

from aasist_lib.base.errors import UserError
from aasist_lib.base.progress import progress

# ASVspoof 5, for target, spoof and nontarget: prior probabilities, and costs of a wrong decision
PRIORS, COSTS = (0.9405, 0.05, 0.0095), (1.0, 10.0, 10.0)


class EER(NamedTuple):
    """Equal error rate, a fraction, and its threshold: the highest score that is rejected there."""

    value: float
    threshold: float


class MinCost(NamedTuple):
    """Lowest cost over all thresholds, and its threshold: the highest score that is rejected there."""

    value: float
    threshold: float


@dataclass(frozen=True)
class DET:
    """Detection error trade-off: both error rates, as fractions, at every threshold.

    `thresholds` (k,) ascend; point i rejects every score <= thresholds[i], and the first point rejects nothing. Methods
    are the functions of the same names.
    """

    thresholds: np.ndarray
    bonafide_rejected: np.ndarray
    spoof_accepted: np.ndarray

    def eer(self) -> EER:
        """Mean of the two rates where they are closest; not interpolated, as in ASVspoof."""
        # one rate rises and the other falls, so the closest point is one of the two around the crossing
        after = int(np.searchsorted(self.bonafide_rejected - self.spoof_accepted, 0))
        points = np.arange(max(after - 1, 0), min(after + 1, len(self.thresholds)))
        best = points[np.argmin(np.abs(self.bonafide_rejected[points] - self.spoof_accepted[points]))]
        value = (self.bonafide_rejected[best] + self.spoof_accepted[best]) / 2
        return EER(float(value), float(self.thresholds[best]))

    def min_dcf(self, prior_spoof=0.05, cost_miss=1.0, cost_false_alarm=10.0) -> MinCost:
        miss, false_alarm = _dcf_weights(prior_spoof, cost_miss, cost_false_alarm)
        return _lowest(miss * self.bonafide_rejected + false_alarm * self.spoof_accepted, self.thresholds)

    def min_tdcf(self, asv: "ASVRates", year: int = 2021, *, priors=PRIORS, costs=COSTS) -> MinCost:
        if year not in (2019, 2021):
            raise UserError(f"year: {year!r} is not one of 2019, 2021")
        target, spoof, nontarget = np.multiply(priors, costs)
        c0 = target * asv.miss + nontarget * asv.false_alarm
        c1, c2 = target - c0, spoof * asv.spoof_false_alarm
        if min(c1, c2) <= 0:
            raise UserError("t-DCF: this speaker verifier errs too much, or accepts no spoof: no detector can help it")
        c0 = c0 if year == 2021 else 0.0
        cost = c0 + c1 * self.bonafide_rejected + c2 * self.spoof_accepted
        return _lowest(cost / (c0 + min(c1, c2)), self.thresholds)

    def auc(self) -> float:
        return float(np.trapezoid(self.bonafide_rejected - 1, self.spoof_accepted))


@dataclass(frozen=True)
class Counts:
    """Number of trials of each class at each distinct score; methods are the functions of the same names.

    A bootstrap sample has the same ascending `scores` (k,) with other counts, so nothing is sorted again.
    """

    scores: np.ndarray
    bonafide: np.ndarray
    spoof: np.ndarray

    @classmethod
    def of(cls, bonafide, spoof) -> "Counts":
        """Count (n,) bona fide and (m,) spoof scores; `UserError` for a missing class or a score that is not finite."""
        bonafide, spoof = checked(bonafide, spoof)
        scores, rows = _distinct(np.concatenate([bonafide, spoof]))
        return cls(scores, *(np.bincount(i, minlength=len(scores)) for i in np.split(rows, [len(bonafide)])))

    @property
    def tied(self) -> float:
        """Fraction of trials that share their score with another trial."""
        together = self.bonafide + self.spoof
        return float(together[together > 1].sum() / together.sum())

    def det(self) -> DET:
        rejected, detected = np.cumsum(self.bonafide, dtype=float), np.cumsum(self.spoof, dtype=float)
        return DET(
            np.append(self.scores[0] - 0.001, self.scores),
            np.append(0.0, rejected / rejected[-1]),
            np.append(1.0, (detected[-1] - detected) / detected[-1]),
        )

    def eer(self) -> EER:
        return self.det().eer()

    def auc(self) -> float:
        return self.det().auc()

    def min_dcf(self, prior_spoof=0.05, cost_miss=1.0, cost_false_alarm=10.0) -> MinCost:
        return self.det().min_dcf(prior_spoof, cost_miss, cost_false_alarm)

    def act_dcf(self, prior_spoof=0.05, cost_miss=1.0, cost_false_alarm=10.0) -> float:
        miss, false_alarm = _dcf_weights(prior_spoof, cost_miss, cost_false_alarm)
        _, rejected, accepted, _ = self._at(-np.log(miss / false_alarm))
        return float(miss * rejected / self.bonafide.sum() + false_alarm * accepted / self.spoof.sum())

    def cllr(self) -> float:
        # log(1 + e^x) without overflow
        bits = self.bonafide @ np.logaddexp(0, -self.scores) / self.bonafide.sum()
        bits += self.spoof @ np.logaddexp(0, self.scores) / self.spoof.sum()
        return float(bits / (2 * np.log(2)))

    def min_cllr(self) -> float:
        bonafide, spoof, share, _ = self._pav()
        odds = spoof.sum() / bonafide.sum()
        real, fake = bonafide > 0, spoof > 0
        bits = bonafide[real] @ np.log2(1 + (1 - share[real]) / share[real] / odds) / bonafide.sum()
        bits += spoof[fake] @ np.log2(1 + share[fake] / (1 - share[fake]) * odds) / spoof.sum()
        return float(bits / 2)

    def rocch_eer(self) -> float:
        bonafide, spoof, _, corners = self._pav()
        rejected = np.append(0, np.cumsum(bonafide))[corners] / bonafide.sum()
        accepted = 1 - np.append(0, np.cumsum(spoof))[corners] / spoof.sum()
        after = np.argmax(rejected >= accepted)  # the rates cross between this corner and the one before
        (x0, x1), (y0, y1) = rejected[after - 1 : after + 1], accepted[after - 1 : after + 1]
        return float(x0 + (x1 - x0) * (y0 - x0) / ((y0 - x0) + (x1 - y1)))

    def confusion(self, threshold: float) -> dict[str, int]:
        return dict(zip(("tp", "fp", "fn", "tn"), map(int, self._at(threshold)), strict=True))

    def rates(self, threshold: float) -> dict[str, float]:
        tp, fp, fn, tn = self._at(threshold)
        return {
            "accuracy": float((tp + tn) / (tp + fp + fn + tn)),
            "precision": float(tp / max(tp + fp, 1)),
            "recall": float(tp / (tp + fn)),
            "f1": float(2 * tp / (2 * tp + fp + fn)),
            "bonafide_rejected": float(fp / (fp + tn)),
            "spoof_accepted": float(fn / (tp + fn)),
        }

    def _at(self, threshold: float):
        """True positives, false positives, false negatives and true negatives; score < threshold is called spoof."""
        if np.isnan(threshold):
            raise UserError("the threshold is not a number: calibrate first")
        below = np.searchsorted(self.scores, threshold)
        tp, fp = self.spoof[:below].sum(), self.bonafide[:below].sum()
        return tp, fp, self.spoof[below:].sum(), self.bonafide[below:].sum()

    def _pav(self):
        """Pool adjacent violators: counts of both classes, fitted bona fide fraction, corners of the convex hull."""
        total = self.bonafide + self.spoof
        drawn = total > 0
        bonafide, spoof, total = self.bonafide[drawn], self.spoof[drawn], total[drawn]
        fit = isotonic_regression(bonafide / total, weights=total)
        return bonafide, spoof, fit.x, fit.blocks


def det(bonafide, spoof, ties: str = "grouped") -> DET:
    """Detection error trade-off curve: k + 1 points for k distinct scores.

    Parameters
    ----------
    ties : "grouped" keeps trials of equal score on one side of every threshold; "reference" separates them, bona fide
        rejected first, as the ASVspoof packages do: a constant score then has an EER of 1, not 0.5.
    """
    if ties not in ("grouped", "reference"):
        raise UserError(f"ties: {ties!r} is not one of grouped, reference")
    counts = Counts.of(bonafide, spoof)
    if ties == "reference":  # one row per trial
        each = np.stack([counts.bonafide, counts.spoof], axis=1).ravel()
        is_bonafide = np.repeat(np.tile([1, 0], len(counts.scores)), each)
        counts = Counts(np.repeat(np.repeat(counts.scores, 2), each), is_bonafide, 1 - is_bonafide)
    return counts.det()


def eer(bonafide, spoof, ties: str = "grouped") -> EER:
    """Equal error rate, a fraction: 0 is perfect, 0.5 is chance, 1 is an inverted detector. `ties` as in `det`.

    >>> eer([0.5, 1, 2, 3], [-3, -1, 0, 1.5])
    EER(value=0.25, threshold=0.5)
    """
    return det(bonafide, spoof, ties).eer()


def rocch_eer(bonafide, spoof) -> float:
    """Equal error rate on the convex hull of the ROC curve (Brümmer and du Preez 2006), a fraction.

    It is never above 0.5, so it hides inverted scores. It has no threshold of its own.

    >>> round(rocch_eer([0.5, 1, 2, 3], [-3, -1, 0, 1.5]), 6)
    0.166667
    """
    return Counts.of(bonafide, spoof).rocch_eer()


def auc(bonafide, spoof) -> float:
    """Area under the ROC curve: probability that a bona fide trial scores above a spoof; a tie counts one half.

    >>> auc([1, 2], [0, 1])
    0.875
    """
    return Counts.of(bonafide, spoof).auc()


def min_dcf(bonafide, spoof, prior_spoof=0.05, cost_miss=1.0, cost_false_alarm=10.0) -> MinCost:
    """Normalised minimum detection cost (ASVspoof 5 evaluation plan): 0 is perfect, 1 is a constant decision.

    min over t of [C_miss (1-p) P_rejected(t) + C_fa p P_accepted(t)] / min(C_miss (1-p), C_fa p).

    Parameters
    ----------
    prior_spoof : p, the prior probability of a spoof, between 0 and 1.
    cost_miss, cost_false_alarm : C_miss and C_fa, above 0.
    """
    return Counts.of(bonafide, spoof).min_dcf(prior_spoof, cost_miss, cost_false_alarm)


def act_dcf(bonafide, spoof, prior_spoof=0.05, cost_miss=1.0, cost_false_alarm=10.0) -> float:
    """Detection cost as `min_dcf`, but at the Bayes threshold -log(C_miss (1-p) / (C_fa p)).

    Scores must be natural-log likelihood ratios. The difference to minDCF is the cost of miscalibration.
    """
    return Counts.of(bonafide, spoof).act_dcf(prior_spoof, cost_miss, cost_false_alarm)


def cllr(bonafide, spoof) -> float:
    """Cost of log-likelihood ratios (Brümmer and du Preez 2006), in bits: 0 is perfect, 1 carries no information.

    [mean of log2(1 + e^-x) over bona fide + mean of log2(1 + e^x) over spoof] / 2, of natural-log likelihood ratios x.

    >>> cllr([0, 0], [0])
    1.0
    """
    return Counts.of(bonafide, spoof).cllr()


def min_cllr(bonafide, spoof) -> float:
    """`cllr`, in bits, after optimal monotonic calibration by pool-adjacent-violators: discrimination alone."""
    return Counts.of(bonafide, spoof).min_cllr()


def confusion(bonafide, spoof, threshold: float) -> dict[str, int]:
    """Confusion counts at a threshold: score < threshold is called spoof, and spoof is the positive class.

    >>> confusion([0.5, 1, 2, 3], [-3, -1, 0, 1.5], threshold=0.75)
    {'tp': 3, 'fp': 1, 'fn': 1, 'tn': 3}
    """
    return Counts.of(bonafide, spoof).confusion(threshold)


def rates(bonafide, spoof, threshold: float) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and the two error rates at a threshold, as fractions; spoof is positive.

    Accuracy, precision and F1 depend on the class balance. Precision is 0 where no trial is called spoof.
    """
    return Counts.of(bonafide, spoof).rates(threshold)


class ASVRates(NamedTuple):
    """Error rates of a speaker verifier: nontarget accepted, target rejected, spoof accepted."""

    false_alarm: float
    miss: float
    spoof_false_alarm: float


def asv_rates(target, spoof, nontarget) -> ASVRates:
    """Error rates of a speaker verifier at its EER threshold, from its target, spoof and nontarget scores."""
    target, spoof = checked(target, spoof)
    threshold, nontarget = eer(target, nontarget).threshold, checked(target, nontarget)[1]
    accepted = [float(np.mean(scores >= threshold)) for scores in (nontarget, spoof)]
    return ASVRates(accepted[0], float(np.mean(target < threshold)), accepted[1])


def min_tdcf(bonafide, spoof, asv: ASVRates, year: int = 2021, *, priors=PRIORS, costs=COSTS) -> MinCost:
    """Normalised minimum tandem detection cost, t-DCF (Kinnunen et al. 2018 and 2020).

    (C0 + C1 P_rejected + C2 P_accepted) / (C0 + min(C1, C2)) for 2021 and ASVspoof 5; 2019 leaves out C0.
    C0 = p_tar c_tar miss + p_non c_non false_alarm, C1 = p_tar c_tar - C0, C2 = p_spoof c_spoof spoof_false_alarm.
    `UserError` where C1 or C2 is not above 0: no detector can help such a verifier.

    Parameters
    ----------
    asv : from `asv_rates`, of the same corpus and split.
    year : 2019 or 2021.
    priors : of (target, spoof, nontarget).
    costs : of (target rejected, spoof accepted, nontarget accepted).
    """
    return det(bonafide, spoof).min_tdcf(asv, year, priors=priors, costs=costs)


def a_dcf(target, spoof, nontarget, *, priors=PRIORS, costs=COSTS) -> MinCost:
    """Normalised minimum a-DCF of one system that verifies the speaker and rejects spoofs (Shim et al. 2024).

    Scores are higher for target; `priors` and `costs` are as in `min_tdcf`. The defaults are those of ASVspoof 5; the
    paper uses priors (.9, .05, .05) and costs (1, 20, 10).
    """
    target, spoof = checked(target, spoof)
    nontarget = checked(target, nontarget)[1]
    scores = np.unique(np.concatenate([target, spoof, nontarget]))
    thresholds = np.append(scores[0] - 0.001, scores)
    classes = (np.sort(x) for x in (target, spoof, nontarget))
    below = [np.searchsorted(x, thresholds, side="right") / len(x) for x in classes]
    miss, from_spoof, from_nontarget = np.multiply(priors, costs)
    cost = miss * below[0] + from_spoof * (1 - below[1]) + from_nontarget * (1 - below[2])
    return _lowest(cost / min(miss, from_spoof + from_nontarget), thresholds)


Statistic = Callable[[Counts], Mapping[str, float]]


class Difference(NamedTuple):
    """Second system minus first, its confidence interval, and the probability that the second has the lower value."""

    value: float
    low: float
    high: float
    probability: float


class Factor(NamedTuple):
    """What trials have in common that are drawn together, such as their speaker.

    `group` (n,) is the number of each trial's group, -1 where this factor does not draw; groups with and groups without
    bona fide trials are separate `strata`, each (groups,).
    """

    group: np.ndarray
    strata: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Trials:
    """The n trials that a bootstrap draws from: bona fide first, each class sorted by score.

    `systems` are the distinct scores of each system, ascending, and the index of each trial's score among them (n,).
    `ungrouped` are the classes that no factor draws: their trials are drawn one by one.
    """

    systems: list[tuple[np.ndarray, np.ndarray]]
    bonafide: slice
    spoof: slice
    factors: list[Factor]
    ungrouped: list[slice]

    @classmethod
    def of(cls, systems, clusters: Mapping[str, tuple] | None) -> "Trials":
        systems = [checked(*system) for system in systems]
        sizes = [len(scores) for scores in systems[0]]
        scores = [np.concatenate(system) for system in systems]
        # sorted, so that the result does not depend on the order of the trials
        order = np.lexsort([*reversed(scores), np.repeat([0, 1], sizes)])
        factors = [_factor(names, sizes, order) for names in (clusters or {}).values()]
        factors = [factor for factor in factors if (factor.group >= 0).any()]
        classes = slice(sizes[0]), slice(sizes[0], sum(sizes))
        ungrouped = [trials for trials in classes if all((group[trials] < 0).all() for group, _ in factors)]
        return cls([_distinct(x[order]) for x in scores], *classes, factors, ungrouped)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Number of times that each trial occurs in one bootstrap sample (n,)."""
        drawn = np.ones(self.spoof.stop, dtype=np.int64)
        for group, strata in self.factors:
            of_group = np.ones(sum(map(len, strata)) + 1, dtype=np.int64)  # the last is that of group -1
            for groups in filter(len, strata):
                of_group[groups] = _resample(rng, len(groups), max(len(groups) - 1, 1))
            drawn *= of_group[group]
        for trials in self.ungrouped:
            drawn[trials] = _resample(rng, len(drawn[trials]), len(drawn[trials]))
        return drawn

    def counts(self, drawn: np.ndarray) -> list[Counts]:
        """A sample as the `Counts` of each system."""
        classes = self.bonafide, self.spoof
        return [
            Counts(scores, *(np.bincount(row[trials], drawn[trials], len(scores)) for trials in classes))
            for scores, row in self.systems
        ]

    @property
    def groups(self) -> int:
        """Number of groups of the factor that has fewest; at least 2."""
        sizes = [self.bonafide.stop, self.spoof.stop - self.bonafide.stop]
        return max(2, min([max(map(len, strata)) for _, strata in self.factors] or sizes))


def bootstrap(
    statistic: Statistic,
    bonafide,
    spoof,
    *,
    clusters: Mapping[str, tuple] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap confidence intervals of a statistic of the scores: name -> (low, high).

    With few groups, plain percentile intervals are too narrow: in a simulation, 85 % coverage instead of 95 % for 5
    speakers and 4 attacks. Two corrections give 94 to 97 % for 5 to 40 groups: G - 1 of G groups are drawn (Rao and Wu
    1988), and Student's t with G - 1 degrees of freedom replaces the normal quantiles (Hesterberg 2015); the smallest
    factor sets G.

    Parameters
    ----------
    statistic : maps `Counts` to numbers by name.
    clusters : None resamples single trials. Otherwise factors by name, each with the group of every bona fide and every
        spoof trial (None: not applicable): ``{"speaker": (bonafide, spoof), "attack": (None, spoof)}``.
        Groups are resampled, and a trial counts as often as the product of its groups' counts (Owen 2007). Trials of
        one speaker or attack are correlated, so only these intervals hold for new speakers and attacks. A trial with an
        empty name is its own group. A class with a single group is resampled by trial, which understates its
        uncertainty.

    Raises
    ------
    UserError
        As every metric, or too few groups leave samples without one of the classes.

    >>> low, high = bootstrap(lambda counts: {"auc": counts.auc()}, range(40), range(-20, 20))["auc"]
    >>> low < auc(range(40), range(-20, 20)) < high
    True
    """
    trials = Trials.of([(bonafide, spoof)], clusters)
    samples = _samples(statistic, trials, replicates, seed)
    return {name: _interval([one[name] for (one,) in samples], trials.groups, level) for name in samples[0][0]}


def paired(
    statistic: Statistic,
    first: tuple,
    second: tuple,
    *,
    clusters: Mapping[str, tuple] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Paired bootstrap of the difference between two systems on the same trials: name -> `Difference`, as `bootstrap`.

    Parameters
    ----------
    statistic : lower values are better.
    first, second : (bona fide scores, spoof scores) of each system, with equally many trials in the same order.

    >>> scores, better = (range(20), range(-10, 10)), (range(20), range(-15, 5))
    >>> paired(lambda counts: {"eer": counts.eer().value}, scores, better)["eer"].probability > 0.9
    True
    """
    for name, one, other in zip(("bona fide", "spoofed"), first, second, strict=True):
        if len(one) != len(other):
            raise UserError(f"paired: {len(one)} {name} trials of the first system, {len(other)} of the second")
    trials = Trials.of([first, second], clusters)
    samples, groups = _samples(statistic, trials, replicates, seed), trials.groups
    before, after = (statistic(Counts.of(*system)) for system in (first, second))
    differences = {}
    for name in before:
        change = np.array([two[name] - one[name] for one, two in samples])
        lower = np.mean(change < 0) + np.mean(change == 0) / 2
        # bounded by the number of replicates, and corrected by Student's t like the interval
        lower = t.cdf(norm.ppf(np.clip(lower, 0.5 / len(change), 1 - 0.5 / len(change))), groups - 1)
        value = float(after[name] - before[name])
        differences[name] = Difference(value, *_interval(change, groups, level), float(lower))
    return differences


def _samples(statistic: Statistic, trials: Trials, replicates: int, seed: int) -> list[list[Mapping[str, float]]]:
    """The statistic of every bootstrap sample, for each system; all systems get the same samples."""

    def sample(number: int):
        rng = np.random.default_rng((seed, number))
        for _ in range(100):  # few groups may leave a class without trials
            drawn = trials.draw(rng)
            if drawn[trials.bonafide].any() and drawn[trials.spoof].any():
                return [statistic(counts) for counts in trials.counts(drawn)]
        raise UserError("too few speakers and attacks to draw samples from: use clusters=None")

    if trials.spoof.stop < 50_000:  # too small for threads to help
        return [sample(number) for number in range(replicates)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # numpy releases the GIL in long operations
        return list(progress(pool.map(sample, range(replicates)), replicates, "bootstrap", "replicate"))


def _interval(values, groups: int, level: float) -> tuple[float, float]:
    tail = norm.cdf(t.ppf((1 - level) / 2, groups - 1))
    return tuple(np.quantile(values, [tail, 1 - tail]).tolist())


def _distinct(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct scores, ascending, and the index of each trial's score among them."""
    order = np.argsort(scores)
    ranked = scores[order]
    new = np.append(True, ranked[1:] != ranked[:-1])
    rows = np.empty(len(scores), dtype=np.int64)
    rows[order] = np.cumsum(new) - 1
    return ranked[new], rows


def _factor(names: tuple, sizes: Sequence[int], order: np.ndarray) -> Factor:
    """Number the groups named for the bona fide and the spoof trials; a class whose groups cannot vary gets -1."""
    given = [np.asarray([] if of_class is None else of_class, dtype=object).astype(str) for of_class in names]
    flat = np.concatenate(given)
    unnamed = flat == ""
    if unnamed.any():
        flat = np.where(unnamed, [f"\n{i}" for i in range(len(flat))], flat)
    numbers = np.unique(flat, return_inverse=True)[1]
    classes = np.split(numbers, [len(given[0])])
    strata = np.unique(classes[0]), np.setdiff1d(numbers, classes[0])
    varying = np.concatenate([[], *(groups for groups in strata if len(groups) > 1 and not unnamed.all())])
    group = [
        of_class if np.isin(of_class, varying).any() else np.full(size, -1)
        for of_class, size in zip(classes, sizes, strict=True)
    ]
    return Factor(np.concatenate(group)[order], strata)


def _resample(rng: np.random.Generator, n: int, draws: int) -> np.ndarray:
    return np.bincount(rng.integers(n, size=draws), minlength=n)


def checked(bonafide, spoof):
    """Both classes as float64 vectors; `UserError` where one is empty or has values that are not finite."""
    arrays = [np.asarray(scores, dtype=np.float64).ravel() + 0.0 for scores in (bonafide, spoof)]  # no -0.0
    for name, scores in zip(("bona fide", "spoofed"), arrays, strict=True):
        if not len(scores):
            raise UserError(f"no {name} scores: a metric needs trials of both classes")
        wrong = len(scores) - np.isfinite(scores).sum()
        if wrong:
            raise UserError(f"{wrong} of {len(scores)} {name} scores are not finite numbers")
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
