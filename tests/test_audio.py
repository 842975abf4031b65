"""aasist_lib.audio

| what | test |
|---|---|
| any format, rate and number of channels as librosa.load reads them | test_read |
| windows, put together, are what read gives | test_windows |
| every kind of unusable file has its reason | test_bad_files, test_unreadable, test_truncated |
"""

import os

import librosa
import numpy as np
import pytest
import soundfile

from aasist_lib import audio


def test_read(speech_files):
    for path in speech_files:
        for rate in 16000, 22050:
            found, wanted = audio.read(path, rate), librosa.load(path, sr=rate, mono=True)[0]
            assert found.dtype == np.float32 and abs(len(found) - len(wanted)) <= 1, path.name
            count = min(len(found), len(wanted))
            assert np.abs(found[:count] - wanted[:count]).max() < 1e-3, path.name


def test_windows(speech_files):
    for path in speech_files:
        windows = list(audio.read_windows(path, 16000, 0.5))
        assert all(len(window) == 8000 for window in windows[:-1]) and 0 < len(windows[-1]) <= 8000
        np.testing.assert_array_equal(np.concatenate(windows), audio.read(path, 16000))


def test_info(speech_files):
    for path in speech_files:
        assert audio.info(path) == pytest.approx(len(audio.read(path, 16000)) / 16000, abs=0.01)


def test_bad_files(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.flac").write_text("this is not audio")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    wave = np.zeros(16000, np.float32)
    wave[5000] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, 16000, subtype="FLOAT")
    wave[5000] = np.inf
    soundfile.write(tmp_path / "inf.wav", wave, 16000, subtype="FLOAT")
    expected = {
        "empty.wav": "empty", "text.flac": "not audio", "none.wav": "empty", "nan.wav": "not finite",
        "inf.wav": "not finite", "absent.wav": "missing",
    }  # fmt: skip
    for name, reason in expected.items():
        with pytest.raises(audio.BadAudio) as error:
            audio.read(tmp_path / name, 16000)
        assert error.value.reason == reason, name
        assert name in str(error.value) and "\n" not in str(error.value)


def test_unreadable(tmp_path, monkeypatch, speech_files):
    for use in (lambda path: audio.read(path, 16000), audio.info):
        with pytest.raises(audio.BadAudio, match="unreadable .*name too long"):
            use(tmp_path / ("x" * 300 + ".wav"))
    ogg = next(path for path in speech_files if path.suffix == ".ogg")

    def broken(*_):
        raise OSError(5, "Input/output error")

    with soundfile.SoundFile(ogg) as file, monkeypatch.context() as patch:
        patch.setattr("builtins.open", broken)
        with pytest.raises(audio.BadAudio, match="unreadable .*Input/output error"):
            audio.cut_short(ogg, file)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path, speech_files):
    (tmp_path / "locked").mkdir()
    for path in (tmp_path / "a.wav", tmp_path / "locked/a.wav"):
        path.write_bytes(speech_files[0].read_bytes())
        (path if path.parent == tmp_path else path.parent).chmod(0)
        with pytest.raises(audio.BadAudio, match="unreadable .*Permission denied"):
            audio.read(path, 16000)
    (tmp_path / "locked").chmod(0o700)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_truncated(tmp_path, speech_files, suffix):
    wave = audio.read(speech_files[0], 16000)
    whole = tmp_path / f"whole.{suffix}"
    soundfile.write(whole, wave, 16000)
    data = whole.read_bytes()
    for share in 0.3, 0.7:
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(audio.BadAudio) as error:
            audio.read(cut, 16000)
        assert error.value.reason in {"truncated", "not audio"}
