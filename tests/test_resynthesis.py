"""Copies by random vocoders: what is tested.

| what | test |
|---|---|
| float32, as long and as loud as the recording, the recording untouched, one seed one copy | test_copy |
| silence, one sample, a tenth of a second | test_short |
| analysis and synthesis undo each other | test_inverse |
| Griffin and Lim's iterations bring magnitudes nearer to what was asked, as librosa's do | test_griffin_lim |
| the pitch of a voice is that of another method | test_pitch |
| a source-filter copy keeps the envelope and loses the waveform | test_source_filter |
| images lie where theory has them, and as far below | test_images |
"""

import librosa
import numpy as np
import pytest

from aasist_lib import audio
from aasist_lib.augment import effects
from aasist_lib.augment import vocoders as resynthesis

RATE = 16000


def rng(seed=1):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def x(speech) -> np.ndarray:
    return audio.read(speech / "festvox-ru_0039.wav", RATE)[: 3 * RATE]


def test_copy(speech_files):
    for path in speech_files:
        x = audio.read(path, RATE)[: 2 * RATE]
        before = x.copy()
        for seed in range(6):
            y = resynthesis.vocode(x, RATE, rng(seed))
            assert y.dtype == np.float32 and y.shape == x.shape and np.isfinite(y).all() and y.flags.c_contiguous
            assert effects.rms(y) == pytest.approx(effects.rms(x), rel=1e-4)
            np.testing.assert_array_equal(y, resynthesis.vocode(x, RATE, rng(seed)))
            assert np.abs(y - x).max() > 1e-3
            assert np.abs(y - resynthesis.vocode(x, RATE, rng(seed + 100))).max() > 1e-4
        np.testing.assert_array_equal(x, before)


def test_short(x):
    for seed in range(12):
        assert not resynthesis.vocode(np.zeros(1000, np.float32), RATE, rng(seed)).any()
        for length in (1, 10, 1600):
            y = resynthesis.vocode(x[8000 : 8000 + length], RATE, rng(seed))
            assert y.shape == (length,) and np.isfinite(y).all()


@pytest.mark.parametrize("size", resynthesis.SIZES)
@pytest.mark.parametrize("overlap", resynthesis.OVERLAPS)
def test_inverse(x, size, overlap):
    again = resynthesis.istft(resynthesis.stft(x, size, size // overlap), size // overlap, len(x))
    np.testing.assert_allclose(again, x, atol=1e-5)


def test_griffin_lim(x):
    magnitude = np.abs(resynthesis.stft(x, 512, 128))
    phases = rng().uniform(-np.pi, np.pi, magnitude.shape)

    def error(y):
        return np.linalg.norm(np.abs(resynthesis.stft(y, 512, 128)) - magnitude) / np.linalg.norm(magnitude)

    errors = [error(resynthesis.griffin_lim(magnitude, phases, 128, len(x), n, 0.9)) for n in (0, 4, 16)]
    assert errors[0] > errors[1] > errors[2]
    theirs = librosa.griffinlim(magnitude.T, n_iter=16, hop_length=128, momentum=0.9, random_state=1, center=False)
    other = np.abs(librosa.stft(theirs, n_fft=512, hop_length=128, center=False))
    reference = np.linalg.norm(other - magnitude.T[:, : other.shape[1]]) / np.linalg.norm(magnitude)
    assert errors[2] == pytest.approx(reference, abs=0.1)


def test_pitch(x):
    hop = RATE // 200
    found = resynthesis._pitch(x, RATE, hop)
    theirs, voiced, _ = librosa.pyin(x, fmin=60, fmax=400, sr=RATE, hop_length=hop)
    both = voiced[: len(found)] & (found[: len(voiced)] > 0)
    assert both.sum() > 50
    apart = np.abs(np.log2(found[: len(voiced)][both] / theirs[: len(found)][both]))
    assert np.median(apart) < 0.03 and np.mean(apart < 0.1) > 0.75  # the rest: onsets, and octaves


def test_source_filter(x):
    y = resynthesis.source_filter(x, RATE, rng())
    power = [librosa.power_to_db(librosa.feature.melspectrogram(y=z.astype(np.float32), sr=RATE)) for z in (x, y)]
    loud = power[0] > power[0].max() - 40
    assert np.corrcoef(power[0][loud], power[1][loud])[0, 1] > 0.7
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.3


def test_images():
    time = np.arange(RATE) / RATE
    x = np.sin(2 * np.pi * 1000 * time)
    for seed in range(40):
        y = resynthesis.upsampled(x, rng(seed))
        spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y))))
        level = 20 * np.log10(spectrum / spectrum.max() + 1e-12)
        assert np.argmax(spectrum) == 1000
        if -41 < level[7000] < -5 and level[6500] < -60:
            return
    raise AssertionError("in forty draws no image of 1 kHz at 7 kHz")
