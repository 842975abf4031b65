"""Damage to waveforms: what is tested.

| what | against |
|---|---|
| every function | float32, finite, contiguous, the length it says, the original untouched, twice the same |
| edge cases | a tenth of a second, ten samples, one sample, digital silence |
| noise | the SNR asked for, to 0.01 dB; colours by their spectra; babble is in proportion made of what it was given |
| codecs | change speech, keep it (correlation), lie on the original to the sample, also at another rate |
| room | decays by 60 dB in rt60 (Schroeder's integral), direct to reverberant as the theory of diffuse fields has it |
| clipped | the share of samples at the ceiling |
| band removed | 40 dB or more away inside, as it was outside |
| coloured | the gains asked for, at their frequencies and in between |
| speed | pitch of a tone, and length |
| cut, lasting | a piece of the original; repeated from the start |
| silence | trimming removes what was added, lengths given are found, pauses too, noise as loud as the background |
| level | the level asked for |
"""

import numpy as np
import pytest

from aasist_lib import audio
from aasist_lib.augment import effects
from aasist_lib.base.errors import UserError

RATE = 16000


def rng(seed=1):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def waveforms(speech_files) -> list[np.ndarray]:
    return [audio.read(path, RATE) for path in speech_files]


@pytest.fixture(scope="module")
def x(speech) -> np.ndarray:
    """A sentence of some seconds."""
    found = audio.read(speech / "festvox-ru_0039.wav", RATE)
    assert len(found) > 2 * RATE
    return found


def band_db(x, low, high):
    """Power in a band, in dB."""
    spectrum = np.abs(np.fft.rfft(x.astype(float))) ** 2
    frequency = np.arange(len(spectrum)) * RATE / len(x)
    return 10 * np.log10(spectrum[(frequency >= low) & (frequency < high)].sum() / len(x) + 1e-30)


def lag(x, y):
    """By how many samples y is later than x."""
    size = len(x) + len(y)
    found = np.fft.irfft(np.fft.rfft(y, size) * np.conj(np.fft.rfft(x, size)), size)
    best = int(np.argmax(found))
    return best if best < size // 2 else best - size


def correlation(x, y):
    return float(np.corrcoef(x, y)[0, 1])


EVERY = {
    "white": lambda x: effects.noise(x, 10, rng()),
    "pink": lambda x: effects.noise(x, 10, rng(), "pink"),
    "babble": lambda x: effects.noise(x, 10, rng(), "babble", [np.sin(np.arange(n) / 3) for n in (50, 90000)]),
    "room": lambda x: effects.room(x, RATE, 0.5, rng()),
    **{name: lambda x, name=name: effects.codec(x, RATE, name) for name in effects.CODECS},
    "resampled": lambda x: effects.resampled(x, RATE, 8000),
    "clipped": lambda x: effects.clipped(x, 0.1),
    "band_stop": lambda x: effects.band_stop(x, RATE, 500, 1000),
    "coloured": lambda x: effects.equalise(x, RATE, [-6, 0, 6]),
    "levelled": lambda x: effects.normalise_level(x, RATE, -20),
}
OTHER_LENGTH = {
    "speed": lambda x: effects.speed(x, 1.05),
    "cut": lambda x: effects.cut(x, RATE, 1.0, rng()),
    "lasting": lambda x: effects.fix_length(x, RATE, 1.0, rng()),
    "trimmed": lambda x: effects.trim(x, RATE),
    "trimmed inside": lambda x: effects.trim(x, RATE, pauses=True),
    "with_silence": lambda x: effects.with_silence(x, RATE, 0.1, 0.2, rng()),
    "with_pause": lambda x: effects.with_pause(x, RATE, 0.3, rng()),
}


@pytest.mark.parametrize("name", [*EVERY, *OTHER_LENGTH])
def test_every_function(name, x):
    function = (EVERY | OTHER_LENGTH)[name]
    before = x.copy()
    found = function(x)
    assert found.dtype == np.float32 and found.ndim == 1 and found.flags.c_contiguous and np.isfinite(found).all()
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(found, function(x))
    if name in EVERY:
        assert len(found) == len(x)
    assert len(found) != len(x) or not np.array_equal(found, x)
    for short in (x[8000:9600], x[8000:8010], x[8000:8001], np.zeros(4000, np.float32)):
        small = function(short)
        assert small.dtype == np.float32 and np.isfinite(small).all()
        if name in EVERY:
            assert len(small) == len(short)


@pytest.mark.parametrize("colour", ["white", "pink", "babble"])
@pytest.mark.parametrize("snr", [20, 0])
def test_the_signal_to_noise_ratio_is_what_it_says(colour, snr, x, waveforms):
    added = effects.noise(x, snr, rng(), colour, waveforms[:4]).astype(float) - x
    measured = 10 * np.log10(np.mean(x.astype(float) ** 2) / np.mean(added**2))
    assert measured == pytest.approx(snr, abs=0.01)


def test_colours_of_noise(x, waveforms):
    white, pink = (effects.noise(x, 0, rng(), colour) - x for colour in ("white", "pink"))
    octaves = [(250, 500), (500, 1000), (1000, 2000), (2000, 4000)]
    assert np.diff([band_db(white, *octave) for octave in octaves]) == pytest.approx([3, 3, 3], abs=1)
    assert np.diff([band_db(pink, *octave) for octave in octaves]) == pytest.approx([0, 0, 0], abs=1)
    assert band_db(pink, 0, 40) < band_db(pink, 50, 100) - 25
    # babble is the sum of both, equally loud, from some moment on
    one, other = waveforms[2], waveforms[4]
    babble = effects.noise(x, 0, rng(), "babble", [one, 5 * other]) - x
    draws = rng()
    parts = [np.resize(np.roll(y, -draws.integers(len(y))), len(x)) / effects.rms(y) for y in (one, other)]
    assert correlation(babble, parts[0] + parts[1]) > 0.999


def test_what_noise_refuses(x):
    with pytest.raises(UserError, match="'brown' is not one of white, pink, babble"):
        effects.noise(x, 10, rng(), "brown")
    with pytest.raises(UserError, match="babble is made of other recordings"):
        effects.noise(x, 10, rng(), "babble", [np.zeros(100)])
    silence = np.zeros(1000, np.float32)
    np.testing.assert_array_equal(effects.noise(silence, 0, rng()), silence)


@pytest.mark.parametrize("name", effects.CODECS)
def test_codecs_change_speech_and_keep_it_in_its_place(name, x):
    for waveform in (x, x[: len(x) - 1], x[3000 : 3000 + RATE]):
        found = effects.codec(waveform, RATE, name)
        assert lag(waveform, found) == 0
        assert 0.9 < correlation(waveform, found) < 0.9999999
        assert np.abs(found - waveform).max() > 1e-3
    if effects.CODECS[name].rate == 8000:
        assert band_db(effects.codec(x, RATE, name), 4200, 8000) < band_db(x, 4200, 8000) - 20


def test_codecs_at_another_rate_and_beyond_full_scale(x):
    slow = effects.resampled(x, RATE, 8000)[::2].copy()
    for name in effects.CODECS:
        found = effects.codec(slow, 8000, name)
        assert len(found) == len(slow) and correlation(slow, found) > 0.85, name
    loud = effects.codec(x * (4 / np.abs(x).max()), RATE, "g711")
    assert np.abs(loud).max() < 2.5  # as a filter rings after a clipped peak
    with pytest.raises(UserError, match="'mp5' is not one of mp3, mp3_low"):
        effects.codec(x, RATE, "mp5")


def test_resampling_takes_away_the_upper_half(x):
    found = effects.resampled(x, RATE, 8000)
    assert lag(x, found) == 0
    assert band_db(found, 4200, 8000) < band_db(x, 4200, 8000) - 40
    assert band_db(found, 100, 3600) == pytest.approx(band_db(x, 100, 3600), abs=0.1)


@pytest.mark.parametrize("rt60", [0.3, 1.0])
def test_rooms_reverberate_as_long_as_asked(rt60, x):
    response = effects.impulse_response(RATE, rt60, rng())
    assert response[0] == 1 and not response[1:30].any()
    left = 10 * np.log10(np.cumsum(response[:0:-1] ** 2)[::-1] / np.sum(response[1:] ** 2))  # Schroeder's integral
    first, last = (np.flatnonzero(left < -db)[0] for db in (5, 25))
    assert 3 * (last - first) / RATE == pytest.approx(rt60, rel=0.12)
    # the direct sound is as strong as the reverberation at the critical distance
    critical = 0.057 * np.sqrt(60 / rt60)
    assert np.sum(effects.impulse_response(RATE, rt60, rng(), 60, critical)[1:] ** 2) == pytest.approx(1, rel=1e-6)
    wet = effects.room(x, RATE, rt60, rng())
    assert effects.rms(wet) == pytest.approx(effects.rms(x), rel=1e-4)
    assert lag(x, wet) == 0 and 0.2 < correlation(x, wet) < 0.95
    with pytest.raises(UserError, match="rt60 must be above 0 s, not 0"):
        effects.room(x, RATE, 0, rng())


def test_clipping_flattens_the_share_asked_for(x):
    found = effects.clipped(x, 0.1)
    ceiling = np.abs(found).max()
    assert np.mean(np.abs(x) > ceiling) == pytest.approx(0.1, abs=0.005)
    kept = np.abs(x) <= ceiling
    np.testing.assert_array_equal(found[kept], x[kept])


@pytest.mark.parametrize("low, high", [(0, 500), (1000, 2000), (5500, 7000)])
def test_a_band_removed_is_gone_and_the_rest_is_there(low, high, x):
    noisy = x + 0.01 * rng().standard_normal(len(x)).astype(np.float32)
    found = effects.band_stop(noisy, RATE, low, high)
    assert band_db(found, low, high) < band_db(noisy, low, high) - 40
    for outside in ((0, low - 60), (high + 60, 8000)):
        if outside[0] < outside[1]:
            assert band_db(found, *outside) == pytest.approx(band_db(noisy, *outside), abs=0.1)
    assert lag(found, noisy) == 0


def test_colours_have_the_gains_asked_for():
    click = np.zeros(RATE, np.float32)
    click[RATE // 2] = 1
    found = effects.equalise(click, RATE, [-6, 3, 0], lowest=500)
    gain = 20 * np.log10(np.abs(np.fft.rfft(found.astype(float))))  # one bin is one hertz
    assert gain[[100, 500, 1000, 2000, 4000, 7900]] == pytest.approx([-6, -6, -1.5, 3, 1.5, 0], abs=0.2)
    assert lag(click, found) == 0


def test_speed_changes_pitch_and_length():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    for factor in (0.95, 1.05):
        found = effects.speed(tone, factor)
        assert len(found) == pytest.approx(RATE / factor, abs=2)
        peak = np.argmax(np.abs(np.fft.rfft(found * np.hanning(len(found))))) * RATE / len(found)
        assert peak == pytest.approx(1000 * factor, abs=2)


def test_pieces(x):
    piece = effects.cut(x, RATE, 1.0, rng())
    assert len(piece) == RATE
    starts = np.flatnonzero(x == piece[0])
    assert any(np.array_equal(x[start : start + RATE], piece) for start in starts)
    assert not np.array_equal(piece, effects.cut(x, RATE, 1.0, rng(2)))
    np.testing.assert_array_equal(effects.cut(x, RATE, 1000.0, rng()), x)
    repeated = effects.fix_length(x[:10000], RATE, 2.0, rng())
    np.testing.assert_array_equal(repeated, np.tile(x[:10000], 4)[: 2 * RATE])
    assert len(effects.fix_length(x, RATE, 1.0, rng())) == RATE


def test_silences_that_were_added_are_found_and_trimmed(waveforms):
    for number, x in enumerate(waveforms):
        speech = effects.trim(x, RATE)
        assert effects.silences(speech, RATE)[::2] == pytest.approx((0, 0), abs=0.011)
        for filled in (None, rng()):
            found = effects.with_silence(speech, RATE, 0.4, 0.25, filled)
            assert len(found) == len(speech) + round(0.65 * RATE)
            start = round(0.4 * RATE)
            np.testing.assert_array_equal(found[start : start + len(speech)], speech)
            if filled is None:
                assert not found[:start].any() and not found[start + len(speech) :].any()
                before, _, after = effects.silences(found, RATE)
                assert (before, after) == pytest.approx((0.4, 0.25), abs=0.03), number
                trim = effects.trim(found, RATE)
                assert len(trim) == pytest.approx(len(speech), abs=0.055 * RATE)  # a frame at either end


def test_pauses_get_the_length_asked_for(x):
    parts = [effects.trim(piece, RATE, pauses=True) for piece in np.array_split(x, 2)]
    x = np.concatenate([parts[0], np.zeros(RATE // 2, np.float32), parts[1]])
    assert effects.silences(x, RATE).pause == pytest.approx(0.5, abs=0.06)
    for seconds in (0.2, 0.8):
        found = effects.with_pause(x, RATE, seconds, rng())
        assert effects.silences(found, RATE).pause == pytest.approx(seconds, abs=0.03)
        assert len(found) - len(x) == pytest.approx((seconds - effects.silences(x, RATE).pause) * RATE, abs=2)
    without = effects.trim(x, RATE, pauses=True)
    assert effects.silences(without, RATE).pause < 0.05
    assert len(without) < len(x) - 0.4 * RATE
    loud = np.sin(np.arange(RATE) / 5).astype(np.float32)  # without a pause there is nothing to change
    np.testing.assert_array_equal(effects.with_pause(loud, RATE, 0.5, rng()), loud)


def test_background_is_as_loud_and_as_coloured_as_that_of_the_recording():
    draws = rng(5)
    quiet = 0.001 * np.convolve(draws.standard_normal(2 * RATE), np.ones(8) / 8, mode="same")
    x = np.concatenate([quiet, draws.standard_normal(RATE) * 0.2])
    found = effects.background(x, 2 * RATE, rng())
    assert 20 * np.log10(effects.rms(found) / effects.rms(quiet)) == pytest.approx(-1, abs=1)  # its quietest
    for band in ((100, 1000), (1000, 1800), (3000, 3900)):
        assert band_db(found, *band) == pytest.approx(band_db(quiet, *band), abs=2)


def test_level(x):
    for dbfs in (-40, -26):
        found = effects.normalise_level(x, RATE, dbfs)
        assert effects.level(found, RATE) == pytest.approx(dbfs, abs=0.01)
        padded = effects.with_silence(found, RATE, 3, 3)  # silence counts for nothing
        assert effects.level(padded, RATE) == pytest.approx(dbfs, abs=0.2)
        assert correlation(found, x) > 0.99999
