"""Attacks on purpose: what is tested.

| what | against |
|---|---|
| gradient | finite differences along a direction, through front end and network, in windows too |
| bounds | no sample moves beyond the bound, nor beyond full scale |
| strength 0, silence | nothing changes |
| FGSM, PGD | both raise the llr, PGD more on average, random changes of that size do not; more strength, more rise |
| an inverted calibration | the llr rises all the same |
| attack | rows by fake, method and strength; "none" is the detector's llr; the same with two workers; goes on |
| fakes | every attack, in proportion |
| summary | success, shares and EER counted by hand |
"""

import numpy as np
import pandas as pd
import pytest
import soundfile

from aasist_lib import audio, calibration, metrics
from aasist_lib.audit import adversarial, robustness
from aasist_lib.audit.adversarial import fgsm, pgd, slope
from aasist_lib.augment import effects
from aasist_lib.base.errors import UserError
from aasist_lib.detector import Detector

RATE = 16000


@pytest.fixture(scope="module")
def waveforms(speech_files):
    return [audio.read(path, RATE) for path in speech_files[:8]]


@pytest.mark.parametrize("seconds", [1, 13])
def test_gradients_reach_the_waveform(seconds, detector, waveforms):
    x = np.resize(np.concatenate(waveforms), seconds * RATE)
    value, gradient = slope(detector, x)
    assert gradient.shape == x.shape and gradient.dtype == np.float32 and np.count_nonzero(gradient) > 0.95 * len(x)
    assert float(detector.calibrated(value)) == pytest.approx(robustness.llr(detector, x), abs=1e-5)
    rng = np.random.default_rng(0)
    for direction in (np.sign(gradient), np.sign(gradient) * (rng.random(len(x)) < 0.3)):
        step = 2e-6 * direction.astype(np.float32)
        rise = slope(detector, x + step)[0] - slope(detector, x - step)[0]
        assert rise == pytest.approx(2 * float(step @ gradient), rel=0.15)


def test_changes_stay_within_their_bound(detector, waveforms):
    loud = waveforms[0] / np.abs(waveforms[0]).max()
    for x in (waveforms[1], loud):
        bound = effects.rms(x) / 100
        gradient = slope(detector, x)[1]
        for changed in (
            fgsm(x, gradient, bound),
            pgd(detector, x, bound, gradient),
            pgd(detector, x, bound, gradient, 3),
        ):
            assert changed.dtype == np.float32 and changed.shape == x.shape
            moved = np.abs(changed.astype(float) - x)
            assert moved.max() <= bound + 1e-7 and np.abs(changed).max() <= 1
            assert np.median(moved) > bound / 10


def test_strength_0_and_silence_change_nothing(detector, waveforms):
    for x, bound in ((waveforms[0], 0.0), (np.zeros(RATE, np.float32), effects.rms(np.zeros(RATE, np.float32)))):
        gradient = slope(detector, x)[1]
        for changed in (fgsm(x, gradient, bound), pgd(detector, x, bound, gradient)):
            np.testing.assert_array_equal(changed, x)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, waveforms):
    root = tmp_path_factory.mktemp("data")
    rows = []
    for i, waveform in enumerate(waveforms):
        soundfile.write(root / f"{i}.flac", waveform[: 2 * RATE], RATE)
        rows.append({"utt_id": f"u{i}", "path": f"{i}.flac", "label": "spoof", "speaker": "s", "attack": f"a{i % 2}"})
    return root, pd.DataFrame(rows)


@pytest.fixture(scope="module")
def attacked(corpus, folder, tmp_path_factory):
    root, table = corpus
    return adversarial.attack(table, root, folder, tmp_path_factory.mktemp("kept"), strengths=(60.0, 50.0), steps=5)


def test_attack(corpus, detector, attacked):
    root, table = corpus
    expected = detector.score([root / path for path in table["path"]])["llr"]
    none = attacked[attacked["method"] == "none"]
    assert none["utt_id"].tolist() == table["utt_id"].tolist() and none["db"].isna().all()
    np.testing.assert_allclose(none["llr"], expected, atol=1e-6)
    np.testing.assert_allclose(none["llr_16bit"], expected, atol=1e-6)  # they came from files of 16 bits
    assert len(attacked) == len(table) * (1 + 3 * 2) and attacked[["llr", "llr_16bit"]].notna().all(axis=None)
    before = none.set_index("utt_id")["llr"]
    rise = attacked.assign(rise=attacked["llr"] - attacked["utt_id"].map(before)).pivot(
        index="utt_id", columns=["method", "db"], values="rise"
    )
    assert (rise["fgsm"] > 0).mean().min() > 0.7 and (rise["pgd"] > 0).all(axis=None)
    assert (rise["pgd"].mean() > rise["fgsm"].mean()).all()
    assert (rise["pgd", 50.0] > rise["pgd", 60.0]).all()
    assert (rise["random"].mean().abs() < rise["fgsm"].mean() / 2).all()
    last = attacked[attacked["method"] == "pgd"]
    assert (last["llr"] != last["llr_16bit"]).any() and last["llr"].corr(last["llr_16bit"]) > 0.9


def test_the_same_with_two_workers_and_going_on(corpus, folder, attacked, tmp_path, monkeypatch):
    root, table = corpus
    monkeypatch.setattr(adversarial, "PIECE", 4)
    options = dict(strengths=(60.0, 50.0), steps=5)
    again = adversarial.attack(table, root, folder, tmp_path, workers=2, **options)
    pd.testing.assert_frame_equal(again, attacked, check_exact=True)
    monkeypatch.setattr(adversarial, "_attack", None)  # nothing is left to do
    pd.testing.assert_frame_equal(adversarial.attack(table, root, folder, tmp_path, **options), again)


def test_calibration_upside_down(folder, waveforms):
    turned = Detector.load(folder)
    turned.calibrated = calibration.Affine(-2.0, 0.25)
    x = waveforms[0]
    before = robustness.llr(turned, x)
    bound = effects.rms(x) / 100
    assert robustness.llr(turned, fgsm(x, slope(turned, x)[1], bound / 10)) > before
    assert robustness.llr(turned, pgd(turned, x, bound, slope(turned, x)[1], 3)) > before


def test_unusable_recordings_and_real_voices(corpus, folder, tmp_path):
    root, table = corpus
    soundfile.write(root / "short.wav", np.full(1000, 0.1), RATE)
    bad = table.iloc[:2].assign(utt_id=["short", "missing"], path=["short.wav", "missing.wav"])
    table = pd.concat([bad, table.iloc[:1]])
    found = adversarial.attack(table, root, folder, tmp_path, strengths=(40.0,), steps=1)
    assert set(found["utt_id"]) == {"u0"}
    with pytest.raises(UserError, match="none of the fakes can be scored"):
        adversarial.attack(bad, root, folder, tmp_path)
    for wrong in (table.assign(label="bonafide"), table.iloc[:0]):
        with pytest.raises(UserError, match="fakes alone, at least one"):
            adversarial.attack(wrong, root, folder, tmp_path)


def test_fakes_of_every_attack():
    labels = ["bonafide"] * 50 + ["spoof"] * 301
    attacks = [""] * 50 + ["a"] * 200 + ["b"] * 100 + ["c"]
    names = [f"u{i}" for i in range(351)]
    found = adversarial.fakes(pd.DataFrame({"utt_id": names, "label": labels, "attack": attacks}), 30)
    assert found["attack"].value_counts().to_dict() == {"a": 20, "b": 10, "c": 1}


def test_summary_counts_what_passes():
    table = pd.DataFrame({"utt_id": [f"r{i}" for i in range(20)] + [f"f{i}" for i in range(10)]})
    table["label"] = ["bonafide"] * 20 + ["spoof"] * 10
    table["speaker"] = [f"s{i % 4}" for i in range(30)]
    table["attack"] = [""] * 20 + [f"a{i % 3}" for i in range(10)]
    real = pd.Series(np.linspace(0.5, 3, 20), table["utt_id"][:20])
    before, after = np.arange(-8.0, 2.0), np.arange(-4.0, 6.0)  # 2 of 10 pass, then 6; of the 8 caught, 4
    rows = [
        {"utt_id": f"f{i}", "method": method, "db": db, "llr": llr[i], "llr_16bit": before[i]}
        for method, db, llr in (("pgd", 60.0, before), ("pgd", 40.0, after), ("none", np.nan, before))
        for i in range(10)
    ]
    scores = pd.concat([real, pd.Series([99.0], ["f0"])])  # fakes among the scores do not count
    found = adversarial.summary(table, pd.DataFrame(rows), scores, 0.0, replicates=50)
    assert list(zip(found["method"], found["db"].fillna(0), strict=True)) == [("none", 0), ("pgd", 60), ("pgd", 40)]
    assert found["success"].tolist() == [0, 0, 0.5] and found["success_16bit"].tolist() == [0, 0, 0]
    assert found["spoof_accepted"].tolist() == [0.2, 0.2, 0.6] and found["llr_change"].tolist() == [0, 0, 4]
    assert found["eer"].tolist() == [metrics.eer(real, llr).value for llr in (before, before, after)]
    assert (found["eer_low"] <= found["eer"]).all() and (found["eer"] <= found["eer_high"]).all()
    text = adversarial.readable(found)
    assert text["Attack"].tolist() == ["Unchanged", "PGD, 60 dB below", "PGD, 40 dB below"]
    assert text["Fakes caught before that pass now (%)"].tolist() == ["0.0", "0.0", "50.0"]
    assert text["Fakes let through (%)"][2].startswith("60.0 (")
