"""Shortcuts: that cues are what they are called, and that a corpus broken on purpose is found out.

| what | against |
|---|---|
| cues | tones, noise and silences of known level, band and length; finite for the shortest and the most silent |
| cues: louder, longer in blocks, other rates | only levels move, nothing moves, all there |
| a corpus of real speech, classes dealt at random | no alarm |
| the same with silence, gain or a low-pass for one class, in all splits | the alarm names it, and not what is fine |
| the same with a source for each class | the source gives the class away; with one source there is no such baseline |
| random cues | about 50 % |
| eval | decides nothing: labels swapped there, the error rate is 100 % less it, and is not turned round |
| recordings that cannot be used, rows that do not fit, a class missing | left out; refused by name |
| folds of train | no speaker and no attack in two; the copies of a speaker held out are not learnt from |
| intervals | hold the value; none without replicates; those of speakers and attacks |
| measure | the same for any number of workers, interrupted or not; anew for what has changed; nothing left over |
| limits of alarms | one for cues alone, one for all together; the condition asked for |
"""

import os

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy import signal

from aasist_lib import audio, evaluation
from aasist_lib.audit import shortcuts
from aasist_lib.base.errors import UserError

RATE = 16000
PIECE = int(0.8 * RATE)


@pytest.fixture(scope="module")
def pieces(speech_files) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """A corpus that cannot be cheated: pieces of real recordings, of which every other one is called a fake."""
    rng = np.random.default_rng(3)
    rows, waveforms = [], []
    for number, file in enumerate(speech_files):
        speech = audio.read(file, RATE)
        split, attacks = ("eval", ("a", "b", "x", "y")) if number % 3 == 0 else ("train", ("a", "b", "c", "d"))
        for i in range(16):
            start = rng.integers(max(1, len(speech) - PIECE))
            piece = np.resize(speech[start : start + rng.integers(PIECE // 2, PIECE)], PIECE - rng.integers(PIECE // 4))
            waveforms.append(10 ** (rng.uniform(-15, -9) / 20) * piece / np.abs(piece).max())
            attack = "" if i % 2 else attacks[i // 2 % 4]
            condition = "" if split == "train" or not attack else "known" if attack in "ab" else "unseen"
            rows.append((f"{file.stem}-{i}", file.stem, "bonafide" if i % 2 else "spoof", attack, split, condition))
    table = pd.DataFrame(rows, columns=["utt_id", "speaker", "label", "attack", "split", "condition"])
    table["source"] = table["speaker"].str.split("-").str[0]
    table["path"] = table["utt_id"] + ".wav"
    return table, [waveform.astype(np.float32) for waveform in waveforms]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Fewer settings to choose from: minutes less."""
    monkeypatch.setattr(shortcuts, "PENALTIES", (1e-4, 1e-2))
    monkeypatch.setattr(shortcuts, "FOLDS", 3)


def written(table, waveforms, folder, change=None):
    """The corpus on disk, its fakes changed; gives the cues."""
    folder.mkdir(exist_ok=True)
    for path, label, waveform in zip(table["path"], table["label"], waveforms, strict=True):
        waveform = change(waveform) if change and label == "spoof" else waveform
        soundfile.write(folder / path, waveform, RATE, subtype="FLOAT")
    return shortcuts.measure(table, folder, RATE, folder / "kept")


@pytest.fixture(scope="module")
def fair(pieces, tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame]:
    table, waveforms = pieces
    return table, written(table, waveforms, tmp_path_factory.mktemp("fair"))


def named(results) -> set[str]:
    """The baselines that raise an alarm."""
    found = shortcuts.alarms(results)
    return {name for name in results if any(text.startswith(shortcuts.WORDS[name] + ":") for text in found)}


# Cues.


def test_every_cue_is_in_a_group():
    found = shortcuts.cues(np.sin(np.arange(RATE)), RATE)
    assert list(found) == list(shortcuts.GROUPS["all"]) and len(set(found)) == len(found)
    assert set(found) == {cue for name, group in shortcuts.GROUPS.items() if name != "all" for cue in group}
    assert {*shortcuts.GROUPS, "source"} == set(shortcuts.WORDS)


def test_levels_and_silences_of_a_tone():
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    parts = [np.zeros(RATE // 2), tone, np.zeros(RATE // 5), tone, np.zeros(RATE // 4)]
    found = shortcuts.cues(np.concatenate(parts), RATE)
    assert found["seconds"] == 2.95
    # a frame counts as speech as soon as it touches some
    assert found["leading"] == pytest.approx(0.48, abs=0.011) and found["trailing"] == pytest.approx(0.23, abs=0.02)
    assert found["longest_pause"] == pytest.approx(0.2, abs=0.03)
    assert found["quiet_share"] == pytest.approx(0.2 / 2.2, abs=0.02)
    assert found["peak"] == pytest.approx(-6.02, abs=0.01) and found["voiced_level"] == pytest.approx(-9.03, abs=0.1)
    assert found["rms"] == pytest.approx(-9.03 + 10 * np.log10(2 / 2.95), abs=0.05)
    assert found["crest_factor"] == pytest.approx(found["peak"] - found["rms"])
    assert found["floor_02"] == -120 and found["floor_below_speech"] == pytest.approx(found["voiced_level"] + 120)
    assert found["rolloff_95"] == pytest.approx(1000, abs=60)
    clipped = shortcuts.cues(np.clip(tone, -0.3, 0.3), RATE)
    assert clipped["clipped_share"] > 0.5 > 0.25 > shortcuts.cues(tone, RATE)["clipped_share"]


@pytest.mark.parametrize("cutoff", [2000, 4000])
def test_spectrum_of_noise(cutoff):
    white = 0.1 * np.random.default_rng(0).normal(size=3 * RATE)
    low = signal.sosfiltfilt(signal.butter(12, cutoff, fs=RATE, output="sos"), white)
    all_of_it, below = shortcuts.cues(white, RATE), shortcuts.cues(low, RATE)
    assert all_of_it["rolloff_95"] == pytest.approx(7600, abs=100) and abs(all_of_it["noise_tilt"]) < 1
    assert below["rolloff_95"] == pytest.approx(0.95 * cutoff, rel=0.05)
    assert below["tilt"] < all_of_it["tilt"] - 3 and below["noise_tilt"] < -3
    assert below["noise_flatness"] < all_of_it["noise_flatness"] - 6 and -1 < all_of_it["noise_flatness"] < 0
    bands = [all_of_it[f"band_{i:02}"] for i in range(24)]
    assert np.ptp(bands) < 1 and sum(bands) == pytest.approx(0, abs=1e-9)


def test_louder_moves_levels_alone(pieces):
    for waveform in pieces[1][:40:4]:
        found, louder = shortcuts.cues(waveform, RATE), shortcuts.cues(2 * waveform, RATE)
        for cue in found:
            absolute = cue in ("rms", "peak", "voiced_level", "floor_02", "floor_10", "floor_25")
            assert louder[cue] - found[cue] == pytest.approx(6.0206 if absolute else 0, abs=0.01), cue


def test_blocks_change_nothing(pieces, monkeypatch):
    long = np.concatenate(pieces[1][:6])
    before = shortcuts.cues(long, RATE)
    monkeypatch.setattr(shortcuts, "BLOCK", 7)
    assert shortcuts.cues(long, RATE) == pytest.approx(before)


@pytest.mark.parametrize("rate", [4000, 8000, 44100])
@pytest.mark.parametrize("waveform", [[0.0], [1.0], np.zeros(50000), [0.5] * 900, np.r_[np.zeros(4000), 1.0]])
def test_finite_for_anything(waveform, rate):
    assert np.isfinite(list(shortcuts.cues(np.array(waveform), rate).values())).all()


@pytest.mark.parametrize("waveform", [[], np.zeros((100, 2))])
def test_what_is_no_waveform(waveform):
    with pytest.raises(UserError, match="waveform of shape"):
        shortcuts.cues(np.array(waveform), RATE)


# A corpus that is fair, and the same broken.


def test_fair_corpus_raises_no_alarm(fair):
    results = shortcuts.baselines(*fair, replicates=0)
    assert list(results) == [*shortcuts.GROUPS, "source"]
    assert all(list(rows) == ["known", "unseen", "all"] for rows in results.values())
    assert shortcuts.alarms(results) == []


LOW_PASS = signal.butter(8, 3000, fs=RATE, output="sos")
BROKEN = {
    "silence": lambda x: np.concatenate([np.zeros(int(0.3 * RATE), np.float32), x]),
    "level": lambda x: 10 ** (-9 / 20) * x,
    "spectrum": lambda x: signal.sosfiltfilt(LOW_PASS, x),
}
UNTOUCHED = {  # what the change leaves as it was
    "silence": set(),
    "level": {"duration", "silence", "spectrum"},
    "spectrum": {"duration"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_corpus_is_found_out(name, pieces, fair, tmp_path):
    table, waveforms = pieces
    results = shortcuts.baselines(table, written(table, waveforms, tmp_path / name, BROKEN[name]), replicates=0)
    assert {name, "all"} <= named(results)
    assert not UNTOUCHED[name] & named(results)
    assert results[name]["all"]["eer"] < 0.1


def test_source_that_is_a_class(pieces, fair, tmp_path):
    table, waveforms = pieces
    table = table.assign(source=np.where(table["label"] == "spoof", "machine", table["source"]))
    cues = written(table, waveforms, tmp_path / "split", BROKEN["spectrum"])
    assert "source" in named(shortcuts.baselines(table, cues, replicates=0))
    assert "source" not in shortcuts.baselines(table.assign(source="one"), cues, replicates=0)


def test_random_cues_tell_nothing(fair):
    table, cues = fair
    many = pd.concat([table] * 4, ignore_index=True)
    many["utt_id"] += many.index.astype(str)
    random = np.random.default_rng(1).normal(size=(len(many), cues.shape[1]))
    results = shortcuts.baselines(many, pd.DataFrame(random, columns=cues.columns), replicates=0)
    for name, rows in results.items():
        assert rows["all"]["eer"] == pytest.approx(0.5, abs=0.08), name
    assert shortcuts.alarms(results) == []


def test_eval_decides_nothing(fair):
    table, cues = fair
    cues = cues.assign(seconds=cues["seconds"] + 0.3 * (table["label"] == "spoof"))
    swapped = table["label"].map({"spoof": "bonafide", "bonafide": "spoof"}).where(table["split"] == "eval")
    swapped = table.assign(label=swapped.fillna(table["label"]))
    one, other = (shortcuts.baselines(t, cues, replicates=0)["duration"]["all"]["eer"] for t in (table, swapped))
    assert one < 0.2 and other == pytest.approx(1 - one, abs=0.03)


def test_speakers_and_attacks_are_held_out(fair):
    table, cues = fair
    train = table[table["split"] == "train"].reset_index(drop=True)
    folds = shortcuts._folds(train)
    for label, column in (("bonafide", "speaker"), ("spoof", "attack")):
        of_class = (train["label"] == label).to_numpy()
        assert set(folds[of_class]) == {0, 1, 2}
        assert (pd.Series(folds[of_class]).groupby(train[column][of_class].to_numpy()).nunique() == 1).all()
    learnt = []

    def learn(columns, rows, penalty):
        learnt.append(rows)
        return lambda asked: asked[:, 0]

    shortcuts._chosen(learn, cues.loc[table["split"] == "train"].to_numpy(), train, folds)
    for number, rows in enumerate(learnt):
        held = train[folds == number // 4]  # two kinds of lines, two penalties
        assert not set(rows["speaker"]) & set(held.loc[held["label"] == "bonafide", "speaker"])
        assert not set(rows["attack"]) & set(held.loc[held["label"] == "spoof", "attack"])
    assert len(learnt) == 12


def test_intervals(fair):
    table, cues = fair
    results = shortcuts.baselines(table, cues, replicates=40, seed=5)
    bare = shortcuts.baselines(table, cues, replicates=0)
    for name, rows in results.items():
        for condition, row in rows.items():
            assert row["eer_low"] <= row["eer"] <= row["eer_high"]
            assert bare[name][condition].items() <= row.items() and "eer_low" not in bare[name][condition]
    trials = evaluation.select(table[table["split"] == "eval"], "known")
    counted = trials["label"].value_counts()
    assert (results["level"]["known"]["n_bonafide"], results["level"]["known"]["n_spoof"]) == (
        counted["bonafide"], counted["spoof"]
    )  # fmt: skip
    alone = table.assign(speaker=table["utt_id"], attack="")  # every trial a group of its own: narrower
    narrow = shortcuts.baselines(alone, cues, replicates=40, seed=5)
    assert all(row["eer_low"] > 0 for row in narrow["noise"].values())


def test_conditions_that_spoofs_lack(fair):
    table, cues = fair
    results = shortcuts.baselines(table.assign(condition=""), cues, replicates=0)
    assert all(list(rows) == ["all"] for rows in results.values())


@pytest.mark.parametrize("column", ["speaker", "attack"])
@pytest.mark.parametrize("value", ["", "one"])
def test_train_of_one_or_no_group(fair, column, value):
    table, cues = fair
    table = table.assign(**{column: table[column].where(table["split"] == "eval", value)})
    assert len(shortcuts.baselines(table, cues, replicates=0)) == len(shortcuts.GROUPS) + 1


def test_what_cannot_be_compared(fair):
    table, cues = fair
    with pytest.raises(UserError, match="not the same rows"):
        shortcuts.baselines(table, cues.iloc[1:])
    for split, label, words in (("train", "spoof", "spoofed"), ("eval", "bonafide", "bona fide")):
        kept = ~((table["split"] == split) & (table["label"] == label))
        with pytest.raises(UserError, match=f"{split} has no {words} recordings"):
            shortcuts.baselines(table[kept], cues[kept])


# Measuring.


@pytest.fixture
def corpus(pieces, tmp_path, monkeypatch) -> tuple[pd.DataFrame, object]:
    """Twenty recordings on disk, six to a piece of work."""
    table, waveforms = pieces[0].iloc[5:25], pieces[1][5:25]
    monkeypatch.setattr(shortcuts, "ROWS", 6)
    for path, waveform in zip(table["path"], waveforms, strict=True):
        soundfile.write(tmp_path / path, waveform, RATE)
    return table, tmp_path


def test_workers_decide_nothing(corpus):
    table, root = corpus
    one, two = (shortcuts.measure(table, root, RATE, root / f"kept{n}", workers=n) for n in (1, 2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert one.index.equals(table.index) and list(one) == list(shortcuts.CUES)
    expected = shortcuts.cues(audio.read(root / table["path"].iloc[7], RATE), RATE)
    assert one.iloc[7].to_dict() == expected
    kept = [sorted((file.name, file.read_bytes()) for file in (root / f"kept{n}").iterdir()) for n in (1, 2)]
    assert kept[0] == kept[1] and len(kept[0]) == 5  # four pieces and their key


def test_goes_on_where_it_was(corpus, monkeypatch):
    table, root = corpus
    whole = shortcuts.measure(table, root, RATE, root / "whole")
    read, calls = audio.read, []

    def counted(path, rate):
        calls.append(path)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return read(path, rate)

    monkeypatch.setattr(audio, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        shortcuts.measure(table, root, RATE, root / "kept")
    again = shortcuts.measure(table, root, RATE, root / "kept")
    pd.testing.assert_frame_equal(again, whole, check_exact=True)
    assert len(calls) == 15 + 20 - 12  # two pieces of six were done
    shortcuts.measure(table, root, RATE, root / "kept")
    assert len(calls) == 23


def test_what_has_changed_is_measured_anew(corpus):
    table, root = corpus
    before = shortcuts.measure(table, root, RATE, root / "kept")
    path = root / table["path"].iloc[8]
    soundfile.write(path, 0.5 * soundfile.read(path)[0], RATE)
    os.utime(path, (1, 1))
    after = shortcuts.measure(table, root, RATE, root / "kept")
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [8]
    assert after["rms"].iloc[8] == pytest.approx(before["rms"].iloc[8] - 6.02, abs=0.05)
    half = shortcuts.measure(table.iloc[:6], root, RATE // 2, root / "kept")
    assert len(list((root / "kept").glob("piece-*"))) == 1 and (half["rolloff_99"] <= RATE / 4).all()


def test_recordings_that_cannot_be_used(corpus, fair):
    table, root = corpus
    (root / table["path"].iloc[3]).write_bytes(b"no sound")
    (root / table["path"].iloc[4]).unlink()
    found = shortcuts.measure(table, root, RATE, root / "kept")
    assert np.flatnonzero(found.isna().any(axis=1)).tolist() == [3, 4] and found.isna().all(axis=1).sum() == 2
    table, cues = fair
    lacking = cues.mask(table["utt_id"].str.endswith("-2"))
    kept = lacking.notna().all(axis=1)
    assert shortcuts.baselines(table, lacking, replicates=0) == shortcuts.baselines(
        table[kept], cues[kept], replicates=0
    )


def test_nothing_to_measure(corpus):
    table, root = corpus
    with pytest.raises(UserError, match="no recording"):
        shortcuts.measure(table.assign(path="missing.wav"), root, RATE, root / "kept")
    with pytest.raises(UserError):
        shortcuts.measure(table.assign(path="../outside.wav"), root, RATE, root / "kept")


# Alarms.


def test_limits():
    def results(**rates):
        return {name: {"all": {"eer": rate, "eer_low": 0.1, "eer_high": 0.5}} for name, rate in rates.items()}

    assert shortcuts.alarms(results(duration=0.35, silence=0.36, all=0.30, source=0.7)) == []
    (text,) = shortcuts.alarms(results(silence=0.349, all=0.31))
    assert text.startswith("silence: ") and "34.9 % (10.0 to 50.0 %) on eval (limit: 35 %)" in text
    (text,) = shortcuts.alarms(results(all=0.29, noise=0.4))
    assert text.startswith("all of these cues: ") and "limit: 30 %" in text
    assert len(shortcuts.alarms(results(level=0.4, all=0.4), limit=0.45, limit_all=0.5)) == 2


def test_alarm_of_a_condition():
    results = {"level": {"unseen": {"eer": 0.2}, "all": {"eer": 0.4}}, "noise": {"all": {"eer": 0.4}}}
    assert shortcuts.alarms(results) == []
    (text,) = shortcuts.alarms(results, condition="unseen")
    assert text.startswith("level: ") and "20.0 % on eval, unseen attacks" in text
