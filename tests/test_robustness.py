"""Robustness: what is tested.

| what | against |
|---|---|
| clean | the llr of `Detector.score`, to 1e-6, long recordings in windows included |
| every condition | a finite llr on real speech; the waveform changes (clean does not) |
| a condition | the llr that `Detector` gives to a file of the waveform that the condition makes |
| workers, order of pieces | the same numbers to the last bit; other seeds, others |
| killed and called again | goes on from what is done; afresh with another detector, seed, recording or table |
| unusable recordings | NaN, and the rest goes on; too little left is NaN |
| silence swapped | lengths at the edges of fakes are those of real voices afterwards, and the other way round |
| sample | every speaker and attack, in proportion, half real; the same whatever the order of the table |
| summary | EER, cost and rates of `metrics`; the change of a condition made worse on purpose, and clean's is 0 |
"""

import zlib

import numpy as np
import pandas as pd
import pytest
import soundfile
from test_detector import make_detector

from aasist_lib import audio, metrics
from aasist_lib.audit import robustness
from aasist_lib.audit.robustness import CONDITIONS, Context
from aasist_lib.augment import effects
from aasist_lib.base.errors import UserError
from aasist_lib.detector import Detector

RATE = 16000
FEW = ["clean", "white_10", "babble_5", "room_0.6", "silence_swapped", "cut_1"]
COSTS = {"prior_spoof": 0.05, "cost_miss": 1.0, "cost_false_alarm": 10.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, speech_files):
    """Real recordings, every second one called a fake; one of 30 s; dev has some, too."""
    root = tmp_path_factory.mktemp("data")
    waveforms = [audio.read(path, RATE) for path in speech_files[:12]]
    waveforms.append(np.concatenate([audio.read(path, RATE) for path in speech_files])[: 30 * RATE])
    rows = []
    for i, waveform in enumerate(waveforms):
        soundfile.write(root / f"{i}.wav", waveform, RATE)
        label = "spoof" if i % 2 else "bonafide"
        rows.append(
            {
                "utt_id": f"u{i}", "path": f"{i}.wav", "label": label, "speaker": f"s{i % 3}",
                "attack": f"a{i % 4}" if i % 2 else "", "split": "dev" if i in (2, 4, 6) else "eval",
                "condition": ("known" if i % 4 == 1 else "unseen") if i % 2 else "",
            }
        )  # fmt: skip
    return root, pd.DataFrame(rows)


def score(corpus, folder, kept, conditions=FEW, rows=slice(None), **options):
    root, table = corpus
    return robustness.score(table[rows], root, folder, kept, conditions=conditions, voices=table, **options)


@pytest.fixture(scope="module")
def scores(corpus, folder, tmp_path_factory):
    return score(corpus, folder, tmp_path_factory.mktemp("kept"))


def test_clean_is_what_the_detector_says(corpus, folder, scores):
    root, table = corpus
    expected = Detector.load(folder).score([root / path for path in table["path"]])
    assert expected["seconds"].max() > 20
    assert scores.index.tolist() == table["utt_id"].tolist() and scores.columns.tolist() == FEW
    np.testing.assert_allclose(scores["clean"], expected["llr"], atol=1e-6, rtol=0)


def test_a_condition_is_the_detector_on_a_file_of_what_it_makes(corpus, folder, scores, tmp_path):
    root, table = corpus
    path = tmp_path / "changed.wav"
    for name in ("white_10", "room_0.6", "cut_1"):
        rng = np.random.default_rng((0, zlib.crc32(f"u3 {name}".encode())))
        changed = CONDITIONS[name].apply(audio.read(root / "3.wav", RATE), RATE, rng, Context())
        soundfile.write(path, changed, RATE, subtype="FLOAT")
        expected = Detector.load(folder).score(path)["llr"][0]
        assert scores.loc["u3", name] == pytest.approx(expected, abs=1e-6)
    assert (scores.drop(columns="clean").sub(scores["clean"], axis=0).abs() > 1e-3).mean().min() > 0.7


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition(name, corpus, folder, speech):
    condition = CONDITIONS[name]
    assert condition.name == name and condition.words and condition.kind
    assert condition.family in robustness.FAMILIES
    x = audio.read(speech / "festvox-ru_0039.wav", RATE)[: 4 * RATE + 1000]
    context = Context([x[::-1].copy()], effects.Silences(0.4, 0.3, 0.2), effects.Silences(0.1, 0.2, 0.3))
    for waveform in (x, x[RATE : RATE + RATE // 2]):
        changed = condition.apply(waveform, RATE, np.random.default_rng(1), context)
        assert changed.dtype == np.float32 and np.isfinite(changed).all()
        assert np.isfinite(robustness.llr(Detector.load(folder), changed))
    changed = condition.apply(x, RATE, np.random.default_rng(1), context)
    assert np.array_equal(changed, x) == (name == "clean") == (name == next(iter(CONDITIONS)))
    # a click and digital silence: nothing that may end a run
    for odd in (np.zeros(RATE, np.float32), np.eye(1, 5000, 2500, dtype=np.float32)[0]):
        found = robustness.llr(Detector.load(folder), condition.apply(odd, RATE, np.random.default_rng(1), context))
        assert np.isfinite(found) or len(odd) != RATE


def test_a_band_removed_leaves_a_noise_floor(speech):
    x = audio.read(speech / "festvox-ru_0039.wav", RATE)
    found = CONDITIONS["without_1000_2000"].apply(x, RATE, np.random.default_rng(1), Context())
    spectrum = np.abs(np.fft.rfft(found)) ** 2
    frequency = np.arange(len(spectrum)) * RATE / len(found)
    inside = spectrum[(frequency > 1000) & (frequency < 2000)].sum() * 2 / len(found) ** 2
    # a whole noise is 40 dB below, an eighth of its band 9 dB less
    assert 10 * np.log10(inside / effects.rms(x) ** 2) == pytest.approx(-49, abs=0.5)


def test_the_same_with_any_number_of_workers(corpus, folder, scores, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "PIECE", 4)
    again = score(corpus, folder, tmp_path / "two", workers=2)
    pd.testing.assert_frame_equal(again, scores, check_exact=True)
    other = score(corpus, folder, tmp_path / "seed", ["clean", "white_10"], seed=1)
    pd.testing.assert_series_equal(other["clean"], scores["clean"], check_exact=True)
    assert (other["white_10"] != scores["white_10"]).all()


def test_goes_on_from_what_is_done(corpus, folder, tmp_path, monkeypatch):
    root, table = corpus
    monkeypatch.setattr(robustness, "PIECE", 5)
    kept, work, scored = tmp_path / "kept", robustness._score, []

    def counted(job, stop_at=99):
        if len(scored) >= stop_at:
            raise KeyboardInterrupt
        scored.extend(job.utt_ids)
        work(job)

    monkeypatch.setattr(robustness, "_score", lambda job: counted(job, 5))
    with pytest.raises(KeyboardInterrupt):
        score(corpus, folder, kept, ["clean"])
    assert len(scored) == 5
    monkeypatch.setattr(robustness, "_score", counted)
    first = score(corpus, folder, kept, ["clean"])
    assert len(scored) == len(table) and first["clean"].notna().all()
    (kept / "notes.txt").write_text("not ours")
    pd.testing.assert_frame_equal(score(corpus, folder, kept, ["clean"]), first, check_exact=True)
    assert len(scored) == len(table)
    for change in (
        lambda: score(corpus, folder, kept, ["clean"], seed=2),
        lambda: score(corpus, folder, kept, ["clean", "cut_1"], seed=2),
        lambda: score(corpus, make_detector(tmp_path / "other"), kept, ["clean"]),
        lambda: (
            soundfile.write(root / "0.wav", audio.read(root / "0.wav", RATE)[:-5], RATE)
            or score(corpus, folder, kept, ["clean"])
        ),
    ):
        scored.clear()
        change()
        assert len(scored) == len(table)
    scored.clear()
    score(corpus, folder, kept, ["clean"], slice(0, 10))
    assert len(scored) == 10 and (kept / "notes.txt").exists()


def test_unusable_recordings(corpus, folder, tmp_path):
    root, table = corpus
    (root / "bad.wav").write_bytes(b"no audio")
    soundfile.write(root / "short.wav", np.full(3000, 0.1), RATE)
    bad = table.iloc[:3].assign(utt_id=["bad", "missing", "short"], path=["bad.wav", "missing.wav", "short.wav"])
    table = pd.concat([table, bad], ignore_index=True)
    found = score((root, table), folder, tmp_path, ["clean", "silence_swapped", "babble_0"])
    assert found.loc[["bad", "missing"]].isna().all(axis=None) and np.isnan(found.loc["short", "clean"])
    assert found.iloc[:-3].notna().all(axis=None)
    summary = robustness.summary(table, found, 0.3, COSTS, replicates=0)
    assert summary["unscored"].tolist() == [3, 3, 3]


def test_what_score_refuses(corpus, folder, tmp_path):
    with pytest.raises(UserError, match="'wihte_10' is not one of clean, white_20"):
        score(corpus, folder, tmp_path, ["wihte_10"])
    with pytest.raises(UserError, match="no utterances to score"):
        score(corpus, folder, tmp_path, rows=slice(0, 0))
    fakes = corpus[1][corpus[1]["label"] == "spoof"]
    with pytest.raises(UserError, match="no real voice"):
        robustness.score(fakes, corpus[0], folder, tmp_path, conditions=["babble_5"])


def test_silence_is_swapped_between_the_classes(tmp_path, speech_files):
    """Real voices begin with 0.5 s and end with 0.1 s of silence, fakes the other way round."""
    rows, lengths = [], {"bonafide": (0.5, 0.1), "spoof": (0.1, 0.5)}
    for i, path in enumerate(speech_files[:8]):
        label = ["bonafide", "spoof"][i % 2]
        x = effects.with_silence(effects.trim(audio.read(path, RATE), RATE), RATE, *lengths[label])
        soundfile.write(tmp_path / f"{i}.wav", x, RATE)
        rows.append({"utt_id": f"u{i}", "path": f"{i}.wav", "label": label})
    table = pd.DataFrame(rows)
    contexts = robustness._contexts(table, tmp_path, RATE, seed=0)
    for row in table.itertuples():
        x = audio.read(tmp_path / row.path, RATE)
        context = Context([], *contexts[row.utt_id])
        other = lengths["spoof" if row.label == "bonafide" else "bonafide"]
        for name, expected in (("silence_swapped", other), ("silence_shuffled", lengths[row.label])):
            found = CONDITIONS[name].apply(x, RATE, np.random.default_rng(1), context)
            speech = len(effects.trim(x, RATE)) / RATE
            pause, given = effects.silences(x, RATE).pause, getattr(context, name.split("_")[1]).pause
            assert len(found) / RATE == pytest.approx(
                speech + sum(expected) + (given - pause if pause else 0), abs=0.05
            )
            # what was put before speech is noise of its background, and speech comes after it
            start = round((expected[0] - 0.03) * RATE)
            inside = effects.rms(found[round((expected[0] + 0.01) * RATE) :][: round(speech * RATE)])
            assert effects.rms(found[:start]) < inside / 5
            if effects.rms(found[:start]) < inside / 300:  # so faint that frames of it count as silence
                assert effects.silences(found, RATE).before == pytest.approx(expected[0], abs=0.03)
                assert effects.silences(found, RATE).after == pytest.approx(expected[1], abs=0.03)


def some_table(speakers=6, attacks=5, each=40):
    rows = [("bonafide", f"s{i}", "", "") for i in range(speakers) for _ in range(each * (i + 1) // 2)]
    rows += [
        ("spoof", f"s{i % speakers}", f"a{i}", "known" if i % 2 else "unseen")
        for i in range(attacks)
        for _ in range(each * (i + 1))
    ]
    table = pd.DataFrame(rows, columns=["label", "speaker", "attack", "condition"]).assign(split="eval")
    table["utt_id"] = [f"u{i}" for i in range(len(table))]
    return table


def test_sample_has_everybody_in_proportion():
    table = some_table()
    table.loc[len(table)] = ["spoof", "s0", "rare", "unseen", "eval", "once"]
    train = some_table().assign(split="train", utt_id=lambda t: "t" + t["utt_id"])
    both = pd.concat([train, table], ignore_index=True)
    found = robustness.sample(both, 200, seed=3)
    assert (found["split"] == "eval").all() and found["utt_id"].is_unique and "once" in set(found["utt_id"])
    assert len(found) == pytest.approx(200, abs=5)
    for label, column in (("bonafide", "speaker"), ("spoof", "attack")):
        was, now = (t[t["label"] == label][column].value_counts(normalize=True) for t in (table, found))
        assert len(now) == len(was) and (now - was).abs().max() < 0.02
    assert (found["label"] == "bonafide").mean() == pytest.approx(0.5, abs=0.03)
    shuffled = robustness.sample(both.sample(frac=1, random_state=1), 200, seed=3)
    assert set(shuffled["utt_id"]) == set(found["utt_id"])
    assert set(robustness.sample(both, 200, seed=4)["utt_id"]) != set(found["utt_id"])
    assert len(robustness.sample(both, 10**6)) == len(table)
    assert set(robustness.sample(table[table["label"] == "spoof"], 50)["label"]) == {"spoof"}
    assert robustness.sample(train).empty


@pytest.fixture(scope="module")
def made():
    table = some_table()
    rng = np.random.default_rng(1)
    clean = np.where(table["label"] == "bonafide", 2.0, -2.0) + rng.normal(0, 1.5, len(table))
    worse = clean + rng.normal(0, 6, len(table))
    return table, pd.DataFrame({"clean": clean, "white_0": worse, "gsm": clean}, index=table["utt_id"])


def test_summary(made):
    table, scores = made
    found = robustness.summary(table, scores, 0.5, COSTS, replicates=100).set_index("condition")
    real = (table["label"] == "bonafide").to_numpy()
    for name in scores:
        llr, row = scores[name].to_numpy(), found.loc[name]
        assert row["eer"] == metrics.eer(llr[real], llr[~real]).value
        assert row["act_dcf"] == metrics.act_dcf(llr[real], llr[~real])
        assert row["bonafide_rejected"] == np.mean(llr[real] < 0.5)
        assert row["spoof_accepted"] == np.mean(llr[~real] >= 0.5)
        known = (table["condition"] == "known").to_numpy()
        assert row["eer_known"] == metrics.eer(llr[real], llr[known]).value
        for measure in ("eer", "act_dcf", "bonafide_rejected", "spoof_accepted", "eer_change"):
            assert row[f"{measure}_low"] <= row[measure] <= row[f"{measure}_high"]
    assert found.loc["clean", ["eer_change", "eer_change_low", "eer_change_high"]].tolist() == [0, 0, 0]
    assert found.loc["gsm", "eer_change"] == 0 and found.loc["white_0", "eer_change_low"] > 0.1
    assert found.loc["white_0", "eer_change"] == found.loc["white_0", "eer"] - found.loc["clean", "eer"]
    with pytest.raises(UserError, match="lack the condition clean"):
        robustness.summary(table, scores[["gsm"]], 0.5, COSTS)


def test_summary_without_scores_of_a_class(made):
    table, scores = made
    scores = scores.assign(gsm=scores["gsm"].where((table["label"] == "spoof").to_numpy()))
    found = robustness.summary(table, scores, 0.5, COSTS, replicates=20).set_index("condition")
    assert np.isnan(found.loc["gsm", "eer"]) and found.loc["gsm", "n_bonafide"] == 0
    assert np.isfinite(found.loc["white_0", "eer"])
    spoofs = table[table["label"] == "spoof"]
    assert "eer" not in robustness.summary(spoofs, scores.loc[spoofs["utt_id"]], 0.5, COSTS)


def test_for_people(made):
    table, scores = made
    summary = robustness.summary(table, scores.rename(columns={"gsm": "level_equal"}), 0.5, COSTS, replicates=50)
    found = robustness.readable(summary, "robustness")
    assert found["Condition"].tolist() == ["As they are", "White noise, SNR 0 dB"]
    assert found["Equal error rate (%)"][0].startswith(f"{100 * summary['eer'][0]:.1f} (")
    assert robustness.readable(summary, "uses")["Condition"].tolist() == ["As they are", "All at -26 dBFS"]
    assert "(" not in "".join(robustness.readable(summary, "uses")["actDCF"])
