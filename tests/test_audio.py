"""Reading audio.

| what | test |
|---|---|
| the same samples as librosa.load, whatever rate, channels and format | test_same_as_librosa |
| channels are averaged | test_channels_are_averaged |
| windows together are the whole file, all but the last of one length | test_windows |
| blocks leave no seams | test_blocks_leave_no_seams |
| every kind of unusable file is named as what it is | test_unusable |
| real recordings cut short are noticed, in each format | test_cut_short |
| files written by programs that cannot seek back are whole | test_written_to_a_pipe |
| errors survive the way from another process | test_error_can_be_pickled |
"""

import pickle
import struct

import librosa
import numpy as np
import pytest
import soundfile

from aasist_lib import audio


def test_same_as_librosa(speech_files):
    rates = set()
    for path in speech_files:
        expected, _ = librosa.load(path, sr=16000)
        found = audio.read(path, 16000)
        assert found.dtype == np.float32 and abs(len(found) - len(expected)) <= 1  # librosa rounds lengths up
        both = min(len(found), len(expected))
        np.testing.assert_array_equal(found[:both], expected[:both])
        rates.add(soundfile.info(path).samplerate)
    assert len(rates) >= 5


def test_channels_are_averaged(tmp_path):
    left, right = np.linspace(-0.5, 0.5, 1000), np.full(1000, 0.25)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(audio.read(tmp_path / "two.wav", 16000), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("seconds", [0.05, 0.31, 3.0])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_windows(speech_files, seconds, rate):
    for path in speech_files[::5]:
        whole = audio.read(path, rate)
        windows = list(audio.read_windows(path, rate, seconds))
        assert {len(window) for window in windows[:-1]} <= {round(seconds * rate)}
        assert 0 < len(windows[-1]) <= round(seconds * rate)
        np.testing.assert_array_equal(np.concatenate(windows), whole)


def test_blocks_leave_no_seams(speech_files, monkeypatch):
    for path in speech_files[::3]:
        whole = audio.read(path, 16000)
        monkeypatch.setattr(audio, "BLOCK", 1000)
        np.testing.assert_array_equal(audio.read(path, 16000), whole)
        monkeypatch.undo()


def test_unusable(speech_files, tmp_path):
    good = audio.read(speech_files[0], 16000)
    nan, infinite = good.copy(), good.copy()
    nan[100], infinite[-1] = np.nan, -np.inf
    (tmp_path / "text.wav").write_text("these are words, not samples" * 100)
    (tmp_path / "samples.raw").write_bytes(b"\0" * 1000)
    (tmp_path / "nothing.ogg").write_bytes(b"")
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "no_samples.flac", good[:0], 16000)
    soundfile.write(tmp_path / "nan.wav", nan, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "infinite.wav", infinite, 44100, subtype="DOUBLE")
    reasons = {
        "text.wav": "not audio", "samples.raw": "not audio", "nothing.ogg": "empty", "folder.wav": "missing",
        "no_samples.flac": "empty", "nan.wav": "not finite", "infinite.wav": "not finite", "absent.flac": "missing",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(audio.BadAudio, match=reason) as caught:
            audio.read(tmp_path / name, 16000)
        assert caught.value.reason == reason and caught.value.path == tmp_path / name
        assert name in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(audio.BadAudio, match=reason):
            list(audio.read_windows(tmp_path / name, 16000, 1.0))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "w64", "caf"])
def test_cut_short(speech_files, tmp_path, kind):
    speech = np.concatenate([audio.read(path, 48000) for path in speech_files[:2]])
    written = {"opus": dict(format="OGG", subtype="OPUS"), "mp3": dict(format="MP3")}.get(kind, {})
    whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    soundfile.write(whole, speech, 48000, **written)
    assert len(audio.read(whole, 16000)) == pytest.approx(len(speech) / 3, abs=2)
    data = whole.read_bytes()
    for size in (len(data) // 5, len(data) // 2, len(data) - len(data) // 10):
        cut.write_bytes(data[:size])
        with pytest.raises(audio.BadAudio) as caught:
            audio.read(cut, 16000)
        assert caught.value.reason == "truncated" or kind == "caf"  # libsndfile takes such a CAF for malformed
        with pytest.raises(audio.BadAudio):
            list(audio.read_windows(cut, 16000, 0.5))


def test_written_to_a_pipe(speech_files, tmp_path):
    speech = audio.read(speech_files[0], 16000)
    path = tmp_path / "piped.wav"
    soundfile.write(path, speech, 16000)
    expected = audio.read(path, 16000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    np.testing.assert_array_equal(audio.read(path, 16000), expected)

    flac = tmp_path / "piped.flac"
    soundfile.write(flac, speech, 16000)
    data = bytearray(flac.read_bytes())
    data[21] &= 0xF0  # the number of samples: 36 bits of STREAMINFO, which begins at byte 8
    data[22:26] = b"\0\0\0\0"
    flac.write_bytes(data)
    np.testing.assert_array_equal(audio.read(flac, 16000), expected)


def test_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(audio.BadAudio("a/b.wav", "truncated", "3 of 5 frames")))
    assert str(error) == "a/b.wav: truncated (3 of 5 frames)" and error.reason == "truncated"


def test_info(speech_files):
    for path in speech_files:
        assert audio.info(path) == pytest.approx(len(audio.read(path, 16000)) / 16000, abs=1e-3)
