"""Metrics against values computed elsewhere.

| what | against |
|---|---|
| golden cases A to G (Gaussian, ties, inverted, tiny, constant, separable, tandem) | the ASVspoof packages' own code |
| ties: grouped by default, reference on request | both definitions on the same scores |
| AUC, accuracy, precision, recall, F1 | scikit-learn |
| random scores | 50 %, within sampling error |
| intervals by trials | cover a known truth as often as they say |
| intervals by speakers and attacks | cover a known truth, with few and with many; wider where speakers differ |
| differences of two systems | the better one is found where each one's own interval would not tell |
| a sample of many trials | the same from threads as from a plain loop over trials |
| scores that cannot be measured | one line that says why |
"""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from numpy.random import RandomState
from scipy.stats import norm
from sklearn import metrics as sklearn_metrics

from aasist_lib import metrics
from aasist_lib.base.errors import UserError

A = RandomState(1).normal(2, 1, 1000), RandomState(0).normal(-2, 1, 9000)
B = RandomState(14).normal(2, 1, 1500), RandomState(15).normal(-1.5, 1.5, 800)
C = tuple(np.round(scores) for scores in B)
D = C[1], C[0]
E = [0.5, 1, 2, 3], [-3, -1, 0, 1.5]
CONSTANT = [0, 0, 0], [0, 0, 0]
SEPARABLE = [1, 2, 3, 4], [-1, -2, -3, -4]
TARGET, NONTARGET, SPOOF = (
    RandomState(11).normal(3, 1, 500),
    RandomState(12).normal(-1, 1, 1000),
    RandomState(13).normal(0.5, 1, 800),
)

# printed by the reference code: metric, trials, value, digits that were printed
GOLDEN = [
    ("eer", "A", A, 0.023, 15),
    ("min_dcf", "A", A, 0.05962222222222219, 15),
    ("act_dcf", "A", A, 0.09562222222222222, 15),
    ("cllr", "A", A, 0.2555435341845122, 14),
    ("rocch_eer", "A", A, 0.022226744186, 12),
    ("min_cllr", "A", A, 0.078319628702, 12),
    ("eer", "B", B, 0.082583333333, 12),
    ("min_dcf", "B", B, 0.205666666667, 12),
    ("act_dcf", "B", B, 0.292666666667, 12),
    ("cllr", "B", B, 0.396124298845, 12),
    ("rocch_eer", "B", B, 0.082051709737, 12),
    ("min_cllr", "B", B, 0.279740435644, 12),
    ("eer_reference", "C", C, 0.088708333333, 12),
    ("min_dcf", "C", C, 0.230616666667, 12),
    ("act_dcf", "C", C, 0.271483333333, 12),
    ("cllr", "C", C, 0.403866452115, 12),
    ("rocch_eer", "C", C, 0.085768539897, 12),
    ("min_cllr", "C", C, 0.310799590950, 12),
    ("eer_reference", "D", D, 0.925, 3),
    ("rocch_eer", "D", D, 0.5, 15),
    ("act_dcf", "D", D, 2.408541666667, 12),
    ("min_dcf", "D", D, 1.0, 15),
    ("eer", "E", E, 0.25, 15),
    ("min_dcf", "E", E, 0.25, 15),
    ("act_dcf", "E", E, 0.5, 15),
    ("cllr", "E", E, 0.6707203816628767, 15),
    ("rocch_eer", "E", E, 0.1666666667, 10),
    ("min_cllr", "E", E, 0.344360937770, 12),
    ("eer_reference", "constant", CONSTANT, 1.0, 15),
    ("eer", "constant", CONSTANT, 0.5, 15),
    ("cllr", "constant", CONSTANT, 1.0, 15),
    ("min_dcf", "constant", CONSTANT, 1.0, 15),
    ("rocch_eer", "constant", CONSTANT, 0.5, 15),
    ("eer", "separable", SEPARABLE, 0.0, 15),
    ("min_dcf", "separable", SEPARABLE, 0.0, 15),
    ("act_dcf", "separable", SEPARABLE, 0.0, 15),
    ("cllr", "separable", SEPARABLE, 0.1828352593323817, 15),
    ("rocch_eer", "separable", SEPARABLE, 0.0, 15),
    ("min_cllr", "separable", SEPARABLE, 0.0, 15),
]


def _value(name, trials):
    if name == "eer_reference":
        return metrics.eer(*trials, ties="reference").value
    found = getattr(metrics, name)(*trials)
    return found.value if isinstance(found, tuple) else found


@pytest.mark.parametrize("name, case, trials, expected, digits", GOLDEN, ids=[f"{g[1]}-{g[0]}" for g in GOLDEN])
def test_golden(name, case, trials, expected, digits):
    # the last digit printed is rounded, and sums of thousands of terms differ in the last bit
    tolerance = max(0.5 * 10.0**-digits, 4e-16 * 10)
    if name == "rocch_eer":  # solved there with an error of 2e-11: exact fractions are below
        tolerance = max(tolerance, 3e-11)
    assert _value(name, trials) == pytest.approx(expected, abs=tolerance, rel=0)


def test_hull_eer_is_where_the_segment_meets_the_diagonal():
    # B's hull has a side from (101/1500, 71/800) to (17/125, 23/400): bona fide rejected, spoof accepted
    x0, x1, y0, y1 = Fraction(101, 1500), Fraction(17, 125), Fraction(71, 800), Fraction(23, 400)
    exact = x0 + (x1 - x0) * (y0 - x0) / ((y0 - x0) + (x1 - y1))
    assert metrics.rocch_eer(*B) == pytest.approx(float(exact), abs=1e-15)


def test_golden_thresholds():
    assert metrics.eer(*A).threshold == -0.039086255685533366
    assert metrics.min_dcf(*A).threshold == -0.14475379057952087
    assert metrics.eer(*E).threshold == 0.5


def test_golden_tandem():
    assert metrics.eer(TARGET, NONTARGET) == pytest.approx((0.0225, 0.9509427395308103), abs=1e-15)
    asv = metrics.asv_rates(TARGET, SPOOF, NONTARGET)
    assert asv == pytest.approx((0.023, 0.02, 1 - 0.68125), abs=1e-15)
    assert metrics.min_tdcf(*B, asv).value == pytest.approx(0.3500464554342001, abs=1e-15)
    assert metrics.min_tdcf(*B, asv, year=2019).value == pytest.approx(0.26442590849673203, abs=1e-15)
    challenge = metrics.a_dcf(TARGET, SPOOF, NONTARGET)
    assert challenge == pytest.approx((0.22533949579831933, 1.4425397724411324), abs=1e-15)
    own = metrics.a_dcf(TARGET, SPOOF, NONTARGET, priors=(0.9, 0.05, 0.05), costs=(1, 20, 10))
    assert own == pytest.approx((0.20827777777777778, 1.8116180465656415), abs=1e-15)


def test_ties_only_matter_where_there_are_ties():
    assert metrics.eer(*B) == metrics.eer(*B, ties="reference")
    # no threshold on whole numbers reaches the reference's point: it rejects 5 of the trials that scored 1
    curve = metrics.det(*C)
    assert len(curve.thresholds) == 1 + len(np.unique(np.concatenate(C)))
    assert metrics.eer(*C).value != metrics.eer(*C, ties="reference").value
    with pytest.raises(UserError, match="nearest"):
        metrics.det(*B, ties="nearest")


def test_det_rates_are_what_thresholds_do():
    curve = metrics.det(*C)
    for threshold, rejected, accepted in zip(
        curve.thresholds, curve.bonafide_rejected, curve.spoof_accepted, strict=True
    ):
        assert rejected == np.mean(C[0] <= threshold)
        assert accepted == np.mean(C[1] > threshold)


def test_swapping_the_classes_turns_the_curve_round():
    assert metrics.eer(B[1], B[0]).value == pytest.approx(1 - metrics.eer(*B).value, abs=1e-12)
    assert metrics.auc(B[1], B[0]) == pytest.approx(1 - metrics.auc(*B), abs=1e-12)
    assert metrics.rocch_eer(B[1], B[0]) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_random_scores_are_guesses(seed):
    rng = np.random.default_rng(seed)
    bonafide, spoof = rng.normal(size=4000), rng.normal(size=6000)
    sampling_error = np.sqrt(0.25 / 4000 + 0.25 / 6000) / 2  # of the mean of two shares near one half
    assert metrics.eer(bonafide, spoof).value == pytest.approx(0.5, abs=4 * sampling_error)
    assert metrics.auc(bonafide, spoof) == pytest.approx(0.5, abs=4 * np.sqrt((1 / 4000 + 1 / 6000) / 12))
    assert metrics.min_dcf(bonafide, spoof).value > 0.97
    assert metrics.min_cllr(bonafide, spoof) > 0.99


@pytest.mark.parametrize("trials", [B, C, E], ids=["B", "C", "E"])
def test_agrees_with_scikit_learn(trials):
    bonafide, spoof = map(np.asarray, trials)
    scores = np.concatenate([bonafide, spoof])
    is_spoof = np.repeat([False, True], [len(bonafide), len(spoof)])
    assert metrics.auc(bonafide, spoof) == pytest.approx(sklearn_metrics.roc_auc_score(~is_spoof, scores), abs=1e-12)
    called = scores < 0.5
    rates = metrics.rates(bonafide, spoof, 0.5)
    for name in ("accuracy", "precision", "recall", "f1"):
        assert rates[name] == pytest.approx(getattr(sklearn_metrics, f"{name}_score")(is_spoof, called), abs=1e-12)
    tn, fp, fn, tp = sklearn_metrics.confusion_matrix(is_spoof, called).ravel()
    assert metrics.confusion(bonafide, spoof, 0.5) == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    assert rates["bonafide_rejected"] == fp / (fp + tn) and rates["spoof_accepted"] == fn / (fn + tp)


def test_a_score_at_the_threshold_is_bona_fide():
    assert metrics.confusion([1.0], [1.0], threshold=1.0) == {"tp": 0, "fp": 0, "fn": 1, "tn": 1}
    assert metrics.rates([1.0], [1.0], threshold=1.0)["precision"] == 0  # nothing was called spoof


def test_cllr_of_huge_scores_is_finite():
    assert metrics.cllr([1e4, 2e4], [-1e4]) == 0
    assert metrics.cllr([-1e4], [-1e4]) == pytest.approx(1e4 / (2 * np.log(2)))


@pytest.mark.parametrize("trials", [A, B, C, D], ids="ABCD")
def test_a_minimum_is_not_above_the_actual_value(trials):
    assert metrics.min_dcf(*trials).value <= metrics.act_dcf(*trials)
    assert metrics.min_cllr(*trials) <= metrics.cllr(*trials)


def test_intervals_by_trials_cover_the_truth():
    truth, hits, widths = norm.cdf(1 / np.sqrt(2)), 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        bonafide, spoof = rng.normal(1, 1, 120), rng.normal(0, 1, 150)
        low, high = metrics.bootstrap(_auc, bonafide, spoof, replicates=150, seed=seed)["auc"]
        hits += low <= truth <= high
        widths.append(high - low)
    assert 51 <= hits  # 57 are expected; fewer than 51 come up once in 100 times
    assert 0.08 < np.mean(widths) < 0.16


def test_intervals_by_speakers_are_wider_where_speakers_differ():
    rng = np.random.default_rng(5)
    speakers, attacks = np.repeat(np.arange(8), 50), np.repeat(np.arange(6), 70)
    bonafide = rng.normal(1, 1, 8)[speakers] + rng.normal(0, 0.5, 400)
    spoof = rng.normal(-1, 1, 6)[attacks] + rng.normal(0, 0.5, 420)
    voices = np.array([f"voice{i % 10}" for i in range(420)])
    clusters = {"speaker": (speakers, voices), "attack": (None, attacks)}
    by_trials = metrics.bootstrap(_eer, bonafide, spoof, replicates=300)["eer"]
    by_clusters = metrics.bootstrap(_eer, bonafide, spoof, replicates=300, clusters=clusters)["eer"]
    assert np.ptp(by_clusters) > 2 * np.ptp(by_trials)
    assert by_clusters[0] < metrics.eer(bonafide, spoof).value < by_clusters[1]


def test_a_speaker_brings_real_and_faked_recordings_along():
    # every speaker's real and faked scores share an offset: drawn together, the difference of means stays put
    offset = np.random.default_rng(1).normal(0, 10, 12)
    speakers = np.repeat(np.arange(12), 5)
    bonafide, spoof = offset[speakers] + 1, offset[speakers] - 1
    clusters = {"speaker": (speakers, speakers), "attack": (None, np.repeat("a", 60))}
    gap = metrics.bootstrap(_gap, bonafide, spoof, clusters=clusters)["gap"]
    assert gap == pytest.approx((2, 2))


def test_what_is_drawn():
    # two people with two recordings each, and two recordings by nobody known; fakes of three voices by two attacks
    people = np.array(["ana", "ana", "ben", "ben", "", ""])
    voices, attacks = np.repeat(["v1", "v2", "v3"], 4), np.tile(["a1", "a1", "a2", "a2"], 3)
    clusters = {"speaker": (people, voices), "attack": (None, attacks)}
    trials = metrics.Trials.of([(np.arange(6), np.arange(6, 18))], clusters)
    real, fake = np.split([trials.draw(np.random.default_rng(seed)) for seed in range(200)], [6], axis=1)
    assert (real[:, 0] == real[:, 1]).all() and (real[:, 2] == real[:, 3]).all()  # a person comes as a whole
    assert (real[:, 4] != real[:, 5]).any()  # the unnamed are not taken for one person
    groups = real[:, 0] + real[:, 2] + real[:, 4] + real[:, 5]
    assert (groups == 3).all()  # one fewer than there are (two by name, two without), whatever voices are drawn
    by_voice_and_attack = fake.reshape(-1, 3, 2, 2)
    assert (by_voice_and_attack[..., 0] == by_voice_and_attack[..., 1]).all()
    table = by_voice_and_attack[..., 0]
    assert (np.linalg.matrix_rank(table) == 1).all()  # count of the voice times count of the attack
    for axis in (1, 2):  # both are drawn anew
        assert len(np.unique(table.sum(axis=axis), axis=0)) >= 2
    assert (table.max(axis=(1, 2)) == 2).any()  # two of three voices and one of two attacks in each sample


def test_intervals_with_hardly_any_clusters():
    bonafide, spoof = B[0][:40], B[1][:40]
    by_trials = metrics.bootstrap(_auc, bonafide, spoof, replicates=100)["auc"]
    # one speaker, one attack, or no names at all: nothing to draw but trials
    for names in ("one", ""):
        clusters = {"speaker": ([names] * 40, [names] * 40), "attack": (None, [names] * 40)}
        assert metrics.bootstrap(_auc, bonafide, spoof, replicates=100, clusters=clusters)["auc"] == by_trials
    # each attack by a voice of its own: many a sample has no spoof left and is drawn again
    names = np.repeat(["x", "y"], 20)
    clusters = {"speaker": (names, np.char.add("voice ", names)), "attack": (None, names)}
    low, high = metrics.bootstrap(_auc, bonafide, spoof, replicates=100, clusters=clusters)["auc"]
    assert 0 <= low <= high <= 1


def test_bootstrap_depends_on_the_seed_alone():
    shuffled = RandomState(3).permutation(len(B[0]))
    first = metrics.bootstrap(_auc, *B, replicates=20, seed=1)
    assert first == metrics.bootstrap(_auc, B[0][shuffled], B[1], replicates=20, seed=1)
    assert first != metrics.bootstrap(_auc, *B, replicates=20, seed=2)


def test_a_sample_is_what_a_plain_loop_over_its_trials_gives():
    rng = np.random.default_rng(4)
    bonafide, spoof = np.round(rng.normal(1, 1, 300), 1), np.round(rng.normal(-1, 1, 500), 1)
    samples = []
    metrics.bootstrap(lambda counts: samples.append(counts) or {}, bonafide, spoof, replicates=5)
    for counts in samples:
        real, fake = (np.repeat(counts.scores, of.astype(int)) for of in (counts.bonafide, counts.spoof))
        assert (len(real), len(fake)) == (300, 500)
        for name in ("eer", "min_dcf", "act_dcf", "cllr", "min_cllr", "rocch_eer", "auc"):
            assert getattr(counts, name)() == pytest.approx(getattr(metrics, name)(real, fake), abs=1e-12)
        assert counts.rates(0.2) == pytest.approx(metrics.rates(real, fake, 0.2), abs=1e-12)


def test_threads_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    bonafide, spoof = rng.normal(1, 1, 20_000), rng.normal(-1, 1, 31_000)
    many = metrics.bootstrap(_eer, bonafide, spoof, replicates=8)
    monkeypatch.setattr(metrics, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))
    assert metrics.bootstrap(_eer, bonafide, spoof, replicates=8) == many


@pytest.mark.slow
@pytest.mark.parametrize("speakers, attacks", [(5, 4), (10, 8), (20, 13)])
def test_intervals_by_speakers_and_attacks_cover_the_truth(speakers, attacks):
    """Of a world with a known EER: score = class + speaker + attack + noise, all normal, speakers and attacks drawn."""
    of_speaker, of_attack, apart, runs = 0.6, 0.8, 2.4, 300
    spread = np.hypot(1, of_speaker) + np.hypot(np.hypot(1, of_attack), of_speaker)
    truth = norm.cdf(-apart / spread)
    hits = {"clusters": 0, "trials": 0}
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        offset, who = rng.normal(0, of_speaker, speakers), np.repeat(np.arange(speakers), 30)
        how = np.repeat(np.arange(attacks), 40)
        whom = rng.integers(speakers, size=len(how))
        bonafide = apart / 2 + offset[who] + rng.normal(size=len(who))
        spoof = -apart / 2 + offset[whom] + rng.normal(0, of_attack, attacks)[how] + rng.normal(size=len(how))
        clusters = {"speaker": (who, whom), "attack": (None, how)}
        for name, given in (("clusters", clusters), ("trials", None)):
            low, high = metrics.bootstrap(_eer, bonafide, spoof, clusters=given, replicates=200, seed=seed)["eer"]
            hits[name] += low <= truth <= high
    sampling_error = np.sqrt(0.95 * 0.05 / runs)
    assert hits["clusters"] / runs > 0.95 - 3 * sampling_error
    assert hits["trials"] / runs < 0.75  # what calls itself 95 % where trials are taken for independent


def test_a_paired_difference_sees_what_two_intervals_hide():
    rng = np.random.default_rng(0)
    who, how = np.repeat(np.arange(10), 60), np.repeat(np.arange(8), 60)
    bonafide = rng.normal(1.0, 0.8, 10)[who] + rng.normal(size=600)
    spoof = rng.normal(-1.0, 0.8, 8)[how] + rng.normal(size=480)
    better = bonafide + 0.3, spoof - 0.3  # the same trials, a little farther apart
    clusters = {"speaker": (who, how), "attack": (None, how)}
    difference = metrics.paired(_eer, (bonafide, spoof), better, clusters=clusters)["eer"]
    assert difference.value == metrics.eer(*better).value - metrics.eer(bonafide, spoof).value
    assert difference.low < difference.value < difference.high < 0 and difference.probability > 0.98
    intervals = [metrics.bootstrap(_eer, *trials, clusters=clusters)["eer"] for trials in ((bonafide, spoof), better)]
    assert intervals[0][0] < intervals[1][1]  # they overlap
    same = metrics.paired(_eer, (bonafide, spoof), (bonafide, spoof), clusters=clusters)["eer"]
    assert same == (0, 0, 0, 0.5)
    with pytest.raises(UserError, match="600 bona fide trials of the first system, 599"):
        metrics.paired(_eer, (bonafide, spoof), (bonafide[1:], spoof))


def test_ties_are_counted():
    assert metrics.Counts.of([1, 2, 3], [0, 1, 4]).tied == pytest.approx(2 / 6)
    assert metrics.Counts.of(*B).tied == 0 and metrics.Counts.of(*CONSTANT).tied == 1


def test_tandem_costs_can_be_changed():
    asv = metrics.ASVRates(0.02, 0.02, 0.3)
    dearer = metrics.min_tdcf(*B, asv, costs=(1, 20, 10)).value
    c0, c2 = 0.9405 * 0.02 + 0.0095 * 10 * 0.02, 0.05 * 20 * 0.3
    curve = metrics.det(*B)
    costs = c0 + (0.9405 - c0) * curve.bonafide_rejected + c2 * curve.spoof_accepted
    assert dearer == pytest.approx(costs.min() / (c0 + min(0.9405 - c0, c2)), abs=1e-15)
    with pytest.raises(UserError, match="no detector can help"):
        metrics.min_tdcf(*B, metrics.ASVRates(0.02, 0.02, 0.0))


@pytest.mark.parametrize(
    "bonafide, spoof, message",
    [
        ([], [1.0], "no bona fide"),
        ([1.0], [], "no spoofed"),
        ([1.0, np.nan], [0.0], "1 of 2 bona fide"),
        ([1.0], [-np.inf], "1 of 1 spoofed"),
    ],
)
@pytest.mark.parametrize("name", ["eer", "rocch_eer", "auc", "min_dcf", "act_dcf", "cllr", "min_cllr"])
def test_what_cannot_be_measured(name, bonafide, spoof, message):
    with pytest.raises(UserError, match=message):
        getattr(metrics, name)(bonafide, spoof)


def test_settings_that_make_no_sense():
    with pytest.raises(UserError, match="prior_spoof"):
        metrics.min_dcf(*B, prior_spoof=1.0)
    with pytest.raises(UserError, match="threshold"):
        metrics.rates(*B, threshold=np.nan)
    with pytest.raises(UserError, match="2020"):
        metrics.min_tdcf(*B, metrics.ASVRates(0.02, 0.02, 0.3), year=2020)


def _auc(counts):
    return {"auc": counts.auc()}


def _eer(counts):
    return {"eer": counts.eer().value}


def _gap(counts):
    """Difference of the classes' means."""
    return {"gap": np.average(counts.scores, weights=counts.bonafide) - np.average(counts.scores, weights=counts.spoof)}
