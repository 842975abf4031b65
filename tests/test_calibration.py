"""Calibration of scores and thresholds.

| what | against |
|---|---|
| the fit | the known log-likelihood ratio of two Gaussians; scikit-learn's logistic regression |
| class imbalance | the same fit with ten times the fakes |
| classes that do not overlap | a finite scale, and claims no bolder than the number of trials allows |
| an inverted detector | turned round, and said in plain words |
| Cllr after calibration | close to its minimum, never above the raw scores' |
| isotonic fit | the best monotonic calibration there is, with ends no bolder than the number of trials |
| attacks held out in turn | Cllr on new attacks: lower than the plain fit's, and foreseen on dev |
| speakers held out too | recordings and copies of a speaker change none of the speaker's own LLRs |
| what the network claims | Bayes: the same log odds from trainings of different shares of spoofs |
| thresholds of the policies | what they promise, on many random sets, with and without ties |
| the detector's folder | the same numbers to the last bit; mistakes in one line |
"""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from aasist_lib import calibration, metrics
from aasist_lib.base.errors import UserError
from aasist_lib.calibration import Affine, fit_affine, thresholds


def _gaussians(seed=0, n_bonafide=4000, n_spoof=6000, distance=2.0):
    rng = np.random.default_rng(seed)
    return rng.normal(distance / 2, 1, n_bonafide), rng.normal(-distance / 2, 1, n_spoof)


def test_recovers_a_known_likelihood_ratio():
    # of N(1, 1) against N(-1, 1) it is 2x; the detector's scale and zero are others
    bonafide, spoof = _gaussians(n_bonafide=40000, n_spoof=60000)
    affine = fit_affine(3 * bonafide + 7, 3 * spoof + 7)
    assert affine.scale == pytest.approx(2 / 3, rel=0.03)
    assert affine([7.0])[0] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("prior_spoof", [0.5, 0.05])
def test_agrees_with_scikit_learn(prior_spoof):
    bonafide, spoof = _gaussians()
    scores = np.concatenate([bonafide, spoof])[:, None]
    label = np.repeat([1, 0], [len(bonafide), len(spoof)])
    weight = np.where(label == 1, (1 - prior_spoof) / len(bonafide), prior_spoof / len(spoof)) * len(scores)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(scores, label, weight)
    affine = fit_affine(bonafide, spoof, prior_spoof)
    # Platt's targets differ from 1 and 0 by 1/4000
    assert affine.scale == pytest.approx(model.coef_[0, 0], rel=0.01)
    assert affine.offset == pytest.approx(model.intercept_[0] - np.log((1 - prior_spoof) / prior_spoof), abs=0.02)


def test_does_not_depend_on_how_many_fakes_there_are():
    bonafide, spoof = _gaussians()
    once, often = fit_affine(bonafide, spoof), fit_affine(bonafide, np.tile(spoof, 10))
    assert (once.scale, once.offset) == pytest.approx((often.scale, often.offset), abs=0.005)


def test_classes_that_do_not_overlap():
    bonafide, spoof = np.linspace(5, 6, 30), np.linspace(-6, -5, 30)
    llr = fit_affine(bonafide, spoof)(np.concatenate([bonafide, spoof]))
    assert np.all(np.isfinite(llr)) and llr[0] > 2 > -2 > llr[-1]
    assert np.abs(llr).max() < np.log(31) + 0.5  # 30 trials without an error do not show odds of a million


def test_an_inverted_detector_is_turned_round_and_told():
    bonafide, spoof = _gaussians()
    affine = fit_affine(-bonafide, -spoof)
    assert affine.inverted and "Warning" in affine.describe() and "upside down" in affine.describe()
    assert metrics.eer(affine(-bonafide), affine(-spoof)).value < 0.2
    straight = fit_affine(bonafide, spoof)
    assert not straight.inverted and "Warning" not in straight.describe()


@pytest.mark.parametrize("scale, offset", [(0.1, 0), (10, 0), (1, 5), (3, -20)])
def test_mends_what_calibration_can_mend(scale, offset):
    bonafide, spoof = _gaussians()
    raw = scale * bonafide + offset, scale * spoof + offset
    affine = fit_affine(*raw)
    after = affine(raw[0]), affine(raw[1])
    assert metrics.cllr(*after) <= metrics.cllr(*raw)
    assert metrics.cllr(*after) == pytest.approx(metrics.min_cllr(*raw), abs=0.01)
    assert metrics.act_dcf(*after) == pytest.approx(metrics.min_dcf(*raw).value, abs=0.03)
    assert metrics.eer(*after).value == metrics.eer(*raw).value


@pytest.mark.parametrize("decimals", [8, 0], ids=["no ties", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_policies_keep_their_promises(seed, decimals):
    bonafide, spoof = (np.round(x, decimals) for x in _gaussians(seed, 90 + seed, 60, distance=1.5))
    policies = thresholds(bonafide, spoof, max_fpr=0.1)
    assert tuple(policies) == calibration.POLICIES
    rates = {name: metrics.rates(bonafide, spoof, value) for name, value in policies.items()}
    # the decision at the threshold is the point of the curve that the metric speaks of
    errors = rates["equal_error"]["bonafide_rejected"], rates["equal_error"]["spoof_accepted"]
    assert np.mean(errors) == pytest.approx(metrics.eer(bonafide, spoof).value)
    cost = 1.9 * rates["min_cost"]["bonafide_rejected"] + rates["min_cost"]["spoof_accepted"]
    assert cost == pytest.approx(metrics.act_dcf(bonafide, spoof))
    assert policies["min_cost"] == pytest.approx(-0.6418538861723947, abs=1e-15)
    # as many real voices rejected as allowed, and not one score more
    assert rates["max_fpr"]["bonafide_rejected"] <= 0.1
    higher = np.concatenate([bonafide, spoof])
    higher = higher[higher > policies["max_fpr"]].min() + 1e-9
    following = np.sort(bonafide)[np.sum(bonafide < policies["max_fpr"])] + 1e-9
    assert max(np.mean(bonafide < higher), np.mean(bonafide < following)) > 0.1
    # as many fakes caught as promised, and no real voice rejected for more
    assert np.mean(spoof < policies["min_tpr"]) >= 0.95
    assert np.mean(spoof < np.max(spoof[spoof < policies["min_tpr"]])) < 0.95
    # no score lies on a threshold
    assert not np.isin(list(policies.values()), np.concatenate([bonafide, spoof])).any()


def test_no_real_voice_rejected_at_all():
    trials = _gaussians()
    threshold = thresholds(*trials, max_fpr=0)["max_fpr"]
    assert metrics.rates(*trials, threshold)["bonafide_rejected"] == 0


def test_costs_move_the_cheapest_threshold():
    trials = _gaussians()
    cheap_misses = thresholds(*trials, cost_miss=0.1)["min_cost"]
    dear_misses = thresholds(*trials, cost_miss=10)["min_cost"]
    assert dear_misses < thresholds(*trials)["min_cost"] < cheap_misses


def test_what_the_network_claims_does_not_depend_on_how_training_drew():
    # trained on 9 spoofs to a bona fide, the log odds of the same likelihood ratio lie log(9) lower
    llr = np.array([-1.0, 0.0, 3.0])
    for prior_spoof in (0.5, 0.9, 0.05):
        log_odds = llr + np.log((1 - prior_spoof) / prior_spoof)
        assert calibration.uncalibrated_llr(log_odds, prior_spoof) == pytest.approx(llr)


def test_isotonic_is_the_best_monotonic_calibration():
    bonafide, spoof = _gaussians()
    fit = calibration.fit_isotonic(3 * bonafide + 7, 3 * spoof + 7)
    llr = fit(3 * bonafide + 7), fit(3 * spoof + 7)
    assert metrics.cllr(*llr) == pytest.approx(metrics.min_cllr(bonafide, spoof), abs=0.01)
    assert np.abs(np.concatenate(llr)).max() < np.log(6001) + 0.1
    grid = fit(np.linspace(-20, 40, 500))
    assert (np.diff(grid) >= 0).all() and grid[0] == min(fit.llrs) and not fit.inverted
    assert fit(7.0) == pytest.approx(0, abs=0.2)


def test_isotonic_bends_where_a_line_cannot():
    # spoofs on both sides would need a fold, but a plateau is within reach: beyond a point the score says nothing
    rng = np.random.default_rng(0)
    bonafide = np.concatenate([rng.normal(0, 1, 500), rng.uniform(5, 6, 2000)])
    spoof = np.concatenate([rng.normal(-2, 1, 2000), rng.uniform(5, 6, 500)])
    line, bent = fit_affine(bonafide, spoof), calibration.fit_isotonic(bonafide, spoof)
    assert metrics.cllr(bent(bonafide), bent(spoof)) < metrics.cllr(line(bonafide), line(spoof)) - 0.01


@pytest.mark.parametrize("distance", [1.0, 12.0], ids=["overlapping", "apart"])
def test_an_isotonic_fit_of_an_inverted_detector_says_so(distance):
    bonafide, spoof = (-x for x in _gaussians(distance=distance))
    fit = calibration.fit_isotonic(bonafide, spoof)
    assert fit.inverted and "Warning" in fit.describe()
    assert metrics.cllr(fit(bonafide), fit(spoof)) > 0.95
    assert calibration.from_dict(json.loads(json.dumps(fit.to_dict()))) == fit  # one knot, perhaps, but a calibration
    assert "Warning" not in calibration.fit_isotonic(spoof, bonafide).describe()


def test_an_inverted_detector_is_told_though_a_few_trials_lie_right():
    # the lowest are fakes and the highest real: the curve rises, and yet the detector is upside down
    bonafide, spoof = _gaussians()
    bonafide, spoof = np.append(-bonafide, [50.0] * 20), np.append(-spoof, [-50.0] * 20)
    fit = calibration.fit_isotonic(bonafide, spoof)
    assert fit.llrs[0] < fit.llrs[-1] and fit.inverted


def test_a_calibration_survives_json():
    for fit in (fit_affine(*_gaussians(n_bonafide=50, n_spoof=70)), calibration.fit_isotonic(*_gaussians())):
        assert calibration.from_dict(json.loads(json.dumps(fit.to_dict()))) == fit


def _world(seed, attacks=6):
    """Scores of dev with some attacks, the easy ones with five times the trials, and of eval with other ones."""
    rng = np.random.default_rng(seed)
    speakers, centres = np.repeat(np.arange(8), 60), rng.normal(-2, 1.5, attacks)
    sizes = np.where(centres < -2.5, 300, 60)
    names = np.repeat([f"A{i}" for i in range(attacks)], sizes)
    dev = (
        rng.normal(2, 0.7, 8)[speakers] + rng.normal(size=480),
        np.repeat(centres, sizes) + rng.normal(size=len(names)),
    )
    new = (
        rng.normal(2, 0.7, (20, 1)) + rng.normal(size=(20, 60)),
        rng.normal(-2, 1.5, (12, 1)) + rng.normal(size=(12, 100)),
    )
    return dev, names, speakers, tuple(map(np.ravel, new))


@pytest.mark.parametrize("method", ["affine", "isotonic"])
def test_held_out_attacks_keep_a_fit_from_promising_too_much(method):
    plain, fit_held_out, foreseen, flattering = [], [], [], []
    for seed in range(40):
        dev, attacks, speakers, new = _world(seed)
        fit = {"affine": fit_affine, "isotonic": calibration.fit_isotonic}[method](*dev)
        careful = calibration.fit_held_out(*dev, attacks, speakers, method=method)
        assert careful.attacks == 6 and 0.2 <= careful.shrinkage <= 1
        plain.append(metrics.cllr(*map(fit, new)))
        fit_held_out.append(metrics.cllr(*map(careful.fit, new)))
        foreseen.append(metrics.cllr(*careful.held_out))
        flattering.append(metrics.cllr(*map(fit, dev)))
    assert np.mean(fit_held_out) < np.mean(plain) - 0.01
    assert abs(np.mean(foreseen) - np.mean(fit_held_out)) < abs(np.mean(flattering) - np.mean(plain)) - 0.03


def test_every_attack_weighs_the_same():
    dev, attacks, speakers, _ = _world(3)
    again = np.concatenate([np.repeat(np.flatnonzero(attacks == "A0"), 10), np.flatnonzero(attacks != "A0")])
    once = calibration.fit_held_out(*dev, attacks, speakers)
    often = calibration.fit_held_out(dev[0], dev[1][again], attacks[again], speakers)
    assert (once.fit.scale, once.fit.offset) == pytest.approx((often.fit.scale, often.fit.offset), abs=0.01)


def test_held_out_means_that_the_fit_has_not_seen_it():
    dev, attacks, _, _ = _world(5)
    careful = calibration.fit_held_out(*dev, attacks)
    out = attacks == "A2"
    alone = fit_affine(dev[0], dev[1][~out], attacks=attacks[~out])
    assert careful.held_out[1][out] == pytest.approx(careful.shrinkage * alone(dev[1][out]))


@pytest.mark.parametrize("method", ["affine", "isotonic"])
def test_fakes_of_a_speaker_are_held_out_with_the_speaker(method):
    rng = np.random.default_rng(0)
    speakers = np.repeat(["anna", "jan", "eva"], 40)
    spoof_speakers, attacks = np.tile(np.append(speakers, ["robot"] * 40), 2), np.repeat(["A1", "A2"], 160)
    bonafide, spoof = rng.normal(2, 1, 120), rng.normal(-2, 1, 320)

    def held_out(bonafide, spoof):
        careful = calibration.fit_held_out(bonafide, spoof, attacks, speakers, spoof_speakers, method=method)
        return [llr / careful.shrinkage for llr in careful.held_out]

    before = held_out(bonafide, spoof)
    # whatever becomes of jan's other recordings and their copies, no score of jan's is worth another LLR for it
    jan, his = speakers == "jan", spoof_speakers == "jan"
    other = his & (attacks == "A2")
    after = held_out(bonafide + 3 * (jan & (np.arange(120) > 50)), spoof + 3 * other)
    assert after[0][50] == pytest.approx(before[0][50])
    assert after[1][his & ~other] == pytest.approx(before[1][his & ~other])
    # those of others have seen them; so has a voice that nobody has
    for name in ("anna", "robot"):
        theirs = (spoof_speakers == name) & (attacks == "A1")
        assert np.abs(after[1][theirs] - before[1][theirs]).max() > 0.01


def test_one_attack_cannot_be_held_out():
    (bonafide, spoof), _, speakers, _ = _world(1)
    careful = calibration.fit_held_out(bonafide, spoof, ["unnamed"] * len(spoof), speakers)
    assert careful.fit == fit_affine(bonafide, spoof) and "too few kinds of attack" in careful.describe()


def test_a_detector_folder_holds_the_same_numbers(tmp_path):
    network = tmp_path / "network"
    network.mkdir()
    (network / "network.safetensors").write_bytes(b"\x00weights")
    (network / "network.json").write_text("{}")
    bonafide, spoof = _gaussians(n_bonafide=50, n_spoof=70)
    affine = fit_affine(bonafide, spoof)
    policies = thresholds(affine(bonafide), affine(spoof))
    folder = tmp_path / "detector"
    calibration.save_detector(folder, network, affine, policies, policy="min_cost", prior_spoof=0.05)
    calibration.save_detector(folder, network, affine, policies, policy="min_cost", prior_spoof=0.05)  # over itself
    loaded, threshold, content = calibration.load(folder)
    assert loaded == affine and threshold == policies["min_cost"] and content["thresholds"] == policies
    assert content["prior_spoof"] == 0.05 and content["kind"] == "affine"
    names = ["calibration.json", "network.json", "network.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "network.safetensors").read_bytes() == b"\x00weights"


def test_the_prior_of_training_is_read_and_never_guessed(tmp_path):
    file = tmp_path / "network.json"
    with pytest.raises(UserError, match="train stage"):
        calibration.training_prior(tmp_path)
    file.write_text(json.dumps({"prior_spoof": 0.9}))
    assert calibration.training_prior(tmp_path) == 0.9
    for content in ("{}", "[]", "no json", '{"prior_spoof": 1}', '{"prior_spoof": "half"}'):
        file.write_text(content)
        with pytest.raises(UserError, match=r"network\.json.*train again"):
            calibration.training_prior(tmp_path)


@pytest.mark.parametrize("method", ["affine", "isotonic"])
def test_the_fit_undoes_whatever_training_drew(method):
    dev, attacks, speakers, _ = _world(2)
    llrs = []
    for prior_spoof in (0.5, 0.9):
        logits = [llr + np.log((1 - prior_spoof) / prior_spoof) for llr in dev]
        careful = calibration.fit_held_out(*logits, attacks, speakers, method=method)
        llrs.append(np.concatenate([careful.fit(logits[0]), careful.held_out[1]]))
    np.testing.assert_allclose(*llrs, atol=1e-6)


ISOTONIC = {"kind": "isotonic", "upside_down": False, "scores": [0, 1], "llrs": [0, 1]}
MISTAKES = {
    "all scores are the same": lambda: fit_affine([1, 1], [1, 1]),
    "no spoofed": lambda: fit_affine([1, 2], []),
    "prior_spoof": lambda: fit_affine([1, 2], [0], prior_spoof=0),
    "pickle.*affine, isotonic": lambda: calibration.from_dict({"kind": "pickle"}),
    "offset 'high'": lambda: calibration.from_dict({"kind": "affine", "scale": 1.0, "offset": "high"}),
    "upside_down is None": lambda: calibration.from_dict(ISOTONIC | {"upside_down": None}),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told(message):
    with pytest.raises(UserError, match=message):
        MISTAKES[message]()


@pytest.mark.parametrize(
    "knots",
    [
        {"llrs": None},
        {"scores": [1, 0]},
        {"llrs": [0, float("nan")]},
        {"scores": [0, 0]},
        {"llrs": [1, 0]},
        {"scores": [False, True]},
        {"scores": [], "llrs": []},
        {"llrs": [0, 1, 2]},
    ],
)
def test_knots_that_make_no_curve(knots):
    with pytest.raises(UserError, match="rising numbers"):
        calibration.from_dict(ISOTONIC | knots)


def test_mistakes_in_folders_are_told(tmp_path):
    with pytest.raises(UserError, match="calibrate stage"):
        calibration.load(tmp_path)
    (tmp_path / "calibration.json").write_text(json.dumps({"kind": "affine"}))
    with pytest.raises(UserError, match="not a calibration"):
        calibration.load(tmp_path)
    with pytest.raises(UserError, match="train stage"):
        calibration.save_detector(tmp_path, tmp_path, Affine(1, 0), {"min_cost": 0.0}, policy="min_cost")
