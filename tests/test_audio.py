"""aasist_lib.audio

| what | test |
|---|---|
| any format, rate and number of channels as librosa.load reads them | test_read |
| windows, put together, are what read gives | test_windows |
| every kind of unusable file has its reason | test_bad_files, test_unreadable, test_truncated |
| what is read is never a part: recordings in a row, MP3 that libsndfile reads in part | test_parts, test_mp3_in_part |
| honest MP3 files, with tags, pictures and junk, are read | test_honest_mp3 |
| a header and what follows it disagree | test_headers_that_disagree |
| a pipe; a name that is no text | test_pipe, test_name_that_is_no_text |
"""

import os
import threading

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
            audio._promised(ogg, file)


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


def spoken(speech_files, rate: int = 16000) -> tuple[np.ndarray, np.ndarray]:
    """Four seconds, and another eight."""
    wave = np.concatenate([audio.read(path, rate) for path in speech_files])
    return wave[: 4 * rate], wave[4 * rate : 12 * rate]


def written(path, wave, rate=16000, **options) -> bytes:
    soundfile.write(path, wave, rate, **options)
    return path.read_bytes()


@pytest.mark.parametrize(
    "options", [dict(format="OGG", subtype="VORBIS"), dict(format="OGG", subtype="OPUS"), dict(format="MP3")]
)
def test_parts(tmp_path, speech_files, options):
    path = tmp_path / "a"
    parts = [written(path, wave, **options) for wave in spoken(speech_files)]
    for part, seconds in zip(parts, (4, 8), strict=True):
        path.write_bytes(part)
        assert len(audio.read(path, 16000)) == pytest.approx(16000 * seconds, abs=800)
    for between in b"", b"ID3\4\0\0\0\0\x10\0" + bytes(2048), bytes(5000):
        path.write_bytes(between.join(parts))
        with pytest.raises(audio.BadAudio, match="partly readable .*convert it"):
            audio.read(path, 16000)


def without_count(mp3: bytes) -> bytes:
    """An MP3 file without its first frame, which says how many there are."""
    return mp3[mp3.index(mp3[:2], 4) :]


def test_mp3_in_part(tmp_path, speech_files):
    """Without a count, libsndfile takes the first frame's bit rate for that of all and leaves out what is beyond."""
    (tmp_path / "a.mp3").write_bytes(without_count(written(tmp_path / "a.mp3", spoken(speech_files)[1])))
    with pytest.raises(audio.BadAudio, match=r"partly readable \(4.4 of 8.1 s"):
        audio.read(tmp_path / "a.mp3", 16000)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_honest_mp3(tmp_path, speech_files, rate):
    path = tmp_path / "a.mp3"
    counted = written(path, spoken(speech_files, rate)[0], rate, bitrate_mode="CONSTANT", compression_level=0.4)
    uncounted = without_count(counted)
    picture = np.random.default_rng(0).integers(0, 256, 2**16, np.uint8).tobytes()
    tag = b"ID3\4\0\0\0\4\0\0" + picture
    for mp3 in (counted, uncounted):
        for whole in (tag + mp3, mp3 + b"TAG" + bytes(125), mp3 + b"APETAGEX" + bytes(300), mp3 + mp3[:50]):
            path.write_bytes(whole)
            assert len(audio.read(path, rate)) == pytest.approx(4 * rate, abs=0.25 * rate)
    path.write_bytes(counted + picture)
    assert len(audio.read(path, rate)) == pytest.approx(4 * rate, abs=100)
    path.write_bytes(counted[: len(counted) // 2])
    with pytest.raises(audio.BadAudio, match="truncated"):
        audio.read(path, rate)


def test_headers_that_disagree(tmp_path, speech_files):
    path = tmp_path / "a.wav"
    whole = written(path, spoken(speech_files)[0], subtype="PCM_U8")
    for lost, read in {1: True, 2: False}.items():
        path.write_bytes(whole[:-lost])
        if read:
            assert len(audio.read(path, 16000)) == 64000 - lost
        else:
            with pytest.raises(audio.BadAudio, match="truncated"):
                audio.read(path, 16000)
    size = whole.index(b"data") + 4
    for said in b"\xff" * 4, bytes(4):
        path.write_bytes(whole[:size] + said + whole[size + 4 :])
        if said == bytes(4):
            with pytest.raises(audio.BadAudio, match="empty .*no samples.*mend the header"):
                audio.read(path, 16000)
        else:
            assert len(audio.read(path, 16000)) == 64000


def test_pipe(tmp_path, speech_files):
    os.mkfifo(tmp_path / "pipe")
    for content in (speech_files[0].read_bytes(), b"no sound"):
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content])
        writer.start()
        try:
            found = audio.read(tmp_path / "pipe", 16000)
            np.testing.assert_array_equal(found, audio.read(speech_files[0], 16000))
        except audio.BadAudio as error:
            assert (content, error.path, error.reason) == (b"no sound", tmp_path / "pipe", "not audio")
        writer.join()
    with pytest.raises(audio.BadAudio, match="unreadable .*neither a file nor a pipe"):
        audio.read("/dev/null", 16000)


def test_name_that_is_no_text(tmp_path, speech_files):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(speech_files[0].read_bytes())
    np.testing.assert_array_equal(audio.read(path, 16000), audio.read(speech_files[0], 16000))
