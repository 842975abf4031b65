"""aasist_lib.audit.acoustics

| what | test |
|---|---|
| the sample: so many of each class in each split, the same whatever else there is | test_sample |
| families: every vocoder with few recordings, other speakers where it can be, the recording first | test_families |
| level, peak and spectrum of signals whose values are known | test_measured |
| a tone stands in its place of a spectrogram, what is quieter stands lower | test_spectrogram |
| recordings of people, two of them copied; written, the same bytes again, read without pickles | test_saved |
| a corpus without copies, silence | test_nothing_to_show |
"""

import numpy as np
import pandas as pd
import pytest
import soundfile

from aasist_lib import corpora
from aasist_lib.audit import acoustics

RATE = 16000


def table_of(rows):
    table = pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="").fillna("")
    return table.assign(path=table["path"].where(table["path"] != "", table["utt_id"] + ".wav"))


def tone(hertz, level, seconds=1.0):
    """A sine of a level in dB below full scale (of its RMS)."""
    time = np.arange(int(seconds * RATE)) / RATE
    return (np.sqrt(2) * 10 ** (level / 20) * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def test_sample():
    rows = [
        {"utt_id": f"{split}-{label}-{i}", "split": split, "label": label}
        for split in ("train", "narrow") for label in ("bonafide", "spoof") for i in range(9)
    ]  # fmt: skip
    table = table_of(rows)
    drawn = acoustics.sample(table, 4)
    assert drawn.groupby(["split", "label"]).size().tolist() == [4] * 4
    assert drawn.index.is_monotonic_increasing
    again = acoustics.sample(table.sample(frac=1, random_state=1), 4)
    assert set(again["utt_id"]) == set(drawn["utt_id"])
    half = table[table["utt_id"].isin(drawn["utt_id"]) | (table.index % 2 == 0)]  # others gone: those stay
    assert set(acoustics.sample(half, 4)["utt_id"]) == set(drawn["utt_id"])


def test_families():
    copied = {"a1": "wgh", "a2": "wg", "b1": "wl", "b2": "w", "c1": "gh"}
    rows = [{"utt_id": name, "label": "bonafide", "speaker": name[0]} for name in copied]
    rows += [
        {"utt_id": f"{attack}-{name}", "label": "spoof", "attack": attack, "speaker": name[0], "pair_id": name}
        for name, attacks in copied.items() for attack in attacks
    ]  # fmt: skip
    rows += [{"utt_id": "read", "label": "spoof", "attack": "tts", "speaker": "robot"}]

    def families(rows, most=10):
        return [found["utt_id"].tolist() for found in acoustics.families(table_of(rows), most)]

    # a1 shows three of the four; of what is left, b1 alone shows l; c1 would show nothing new
    assert families(rows) == [["a1", "g-a1", "h-a1", "w-a1"], ["b1", "l-b1", "w-b1"]]
    assert families(rows, 4) == families(rows)[:1]
    assert families(rows[::-1]) == families(rows)
    # every recording with one copy: each kind once, and each by somebody else
    single = {f"{speaker}{i}": kind for speaker in "abc" for i, kind in enumerate("wgl")}
    rows = [{"utt_id": name, "label": "bonafide", "speaker": name[0]} for name in single]
    rows += [
        {"utt_id": f"{kind}-{name}", "label": "spoof", "attack": kind, "pair_id": name} for name, kind in single.items()
    ]
    found = families(rows)
    assert sorted(pair[1][0] for pair in found) == ["g", "l", "w"] and sorted(pair[0][0] for pair in found) == list(
        "abc"
    )
    assert len(families([row | {"speaker": ""} for row in rows])) == 3  # nobody knows who speaks
    assert families(rows[:3]) == []


def test_measured():
    low, high = tone(1000, -20), tone(5000, -30)
    level, peak, spectrum = acoustics._measured(np.concatenate([low + high, np.zeros(RATE, np.float32)]), RATE)
    assert level == pytest.approx(10 * np.log10(10**-2 + 10**-3), abs=0.1)  # the silence does not count
    assert peak == pytest.approx(20 * np.log10(np.abs(low + high).max()), abs=0.01)
    # bands of 125 Hz: both tones are where they should be, 10 dB apart, and nothing is elsewhere
    power = 10 ** (spectrum / 10)
    assert power.sum() == pytest.approx(1, abs=0.01)
    near_low, near_high = power[7:9].sum(), power[39:41].sum()
    assert 10 * np.log10(near_low / near_high) == pytest.approx(10, abs=0.1)
    assert near_low + near_high > 0.999


def test_spectrogram():
    loud, quiet = acoustics._pictures([tone(2000, -20, 3), tone(2000, -52, 0.5)], RATE)
    assert loud.shape == quiet.shape == (161, 200)
    assert set(loud.argmax(axis=0)) == {40}  # 50 Hz a bin
    assert loud.max() == acoustics.RANGE / acoustics.STEP and loud.max() - quiet.max() == 32 / acoustics.STEP
    assert quiet[:, :40].any() and not quiet[:, 50:].any()  # it ends after half a second


@pytest.fixture(scope="module")
def corpus(speech, speech_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for i, path in enumerate(speech_files[:6]):
        wave, rate = soundfile.read(path, always_2d=True)
        for attack in ("", "softer")[: 1 + (i < 2)]:
            name = f"{attack}{path.stem}"
            soundfile.write(folder / f"{name}.wav", wave[:, 0] * (0.1 if attack else 1), rate)
            row = {"utt_id": name, "label": "spoof" if attack else "bonafide", "attack": attack, "split": "eval"}
            rows.append(row | {"pair_id": path.stem if attack else "", "speaker": path.stem})
    return folder, table_of(rows)


def test_saved(corpus, tmp_path):
    folder, table = corpus
    measured = acoustics.measure(table, folder, RATE)
    assert measured["spectrum"].shape == (8, 64) and sorted(set(measured["label"])) == ["bonafide", "spoof"]
    # the copy is ten times softer, and its colour the same
    level = dict(zip(acoustics.sample(table)["utt_id"], measured["level"], strict=True))
    colour = dict(zip(acoustics.sample(table)["utt_id"], measured["spectrum"], strict=True))
    for row in table[table["label"] == "spoof"].itertuples():
        assert level[row.utt_id] - level[row.pair_id] == pytest.approx(-20, abs=0.1)
        loud = colour[row.pair_id] > -50  # below, 16 bits round
        assert np.abs(colour[row.utt_id] - colour[row.pair_id])[loud].max() < 1
    assert measured["family"].tolist() == [0, 0] and measured["attack"].tolist() == ["", "softer"]
    acoustics.save(tmp_path / "new/acoustics.npz", measured)
    first = (tmp_path / "new/acoustics.npz").read_bytes()
    acoustics.save(tmp_path / "new/acoustics.npz", acoustics.measure(table, folder, RATE))
    assert (tmp_path / "new/acoustics.npz").read_bytes() == first
    with np.load(tmp_path / "new/acoustics.npz", allow_pickle=False) as arrays:
        for name, values in measured.items():
            np.testing.assert_array_equal(arrays[name], values)


def test_nothing_to_show(corpus, tmp_path):
    folder, table = corpus
    measured = acoustics.measure(table[table["label"] == "bonafide"], folder, RATE)
    assert not len(measured["family"]) and not len(measured["spectrogram"]) and len(measured["level"]) == 6
    acoustics.save(tmp_path / "acoustics.npz", measured)
    with np.load(tmp_path / "acoustics.npz", allow_pickle=False) as arrays:
        assert arrays["attack"].shape == (0,)
    assert all(np.isfinite(x).all() for x in acoustics._measured(np.zeros(RATE, np.float32), RATE))
