"""RawBoost: what is tested.

| what | against |
|---|---|
| every kind | float32, finite, the same length, the original untouched, one seed one result, lies on the original |
| edge cases | 0.25 s, ten samples, one sample, none, digital silence |
| level | ten times as loud is ten times as loud afterwards, also beyond full scale: nothing clips |
| draws | as many for every signal of a length: the generator ends in the same state |
| filter | symmetric, largest gain 1, length; a gap where it is asked for, as wide, and none elsewhere |
| convolutive | one order is a filter; a tone gets its harmonics, as strong as the gain says; loudness is kept |
| impulsive | the share of touched samples, uniform up to the limit; the size of clicks against their samples |
| stationary | the SNR in its range; the noise is independent of the signal and has the filter's colour |
"""

import numpy as np
import pytest

from aasist_lib import audio
from aasist_lib.augment import rawboost
from aasist_lib.augment.effects import rms

RATE = 16000
every_kind = pytest.mark.parametrize("kind", rawboost.KINDS)


def rng(seed=1):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def x(speech) -> np.ndarray:
    """Two seconds of speech."""
    return audio.read(speech / "festvox-ru_0039.wav", RATE)[: 2 * RATE]


def db(ratio):
    return 20 * np.log10(np.maximum(ratio, 1e-12))


def response(taps):
    """(4097,): gain from 0 Hz to half the rate."""
    return np.abs(np.fft.rfft(taps, 8192))


def at(hz):
    return round(hz * 8192 / RATE)


@every_kind
def test_every_kind(kind, x):
    before = x.copy()
    found = rawboost.KINDS[kind](x, RATE, rng())
    assert found.dtype == np.float32 and found.shape == x.shape and np.isfinite(found).all()
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(found, rawboost.KINDS[kind](x, RATE, rng()))
    assert not np.array_equal(found, rawboost.KINDS[kind](x, RATE, rng(2)))
    assert 0.3 < np.corrcoef(x, found)[0, 1] < 0.999999
    crossed = np.fft.irfft(np.fft.rfft(found, 2 * len(x)) * np.conj(np.fft.rfft(x, 2 * len(x))))
    assert np.argmax(np.abs(crossed)) == 0


@every_kind
def test_edge_cases(kind, x):
    for short in (x[8000:12000], x[8000:8010], x[8000:8001], x[:0], np.zeros(4000, np.float32)):
        found = rawboost.KINDS[kind](short, RATE, rng())
        assert found.dtype == np.float32 and found.shape == short.shape and np.isfinite(found).all()
    assert not found.any()
    slow = rawboost.KINDS[kind](x[::2].copy(), 8000, rng())
    assert slow.shape == x[::2].shape and np.isfinite(slow).all()


@every_kind
def test_level_changes_nothing(kind, x):
    for seed in range(5):
        soft, loud = (rawboost.KINDS[kind](x * np.float32(gain), RATE, rng(seed)) for gain in (1, 10))
        np.testing.assert_allclose(loud, 10 * soft, rtol=1e-4, atol=1e-5)


@every_kind
def test_draws_do_not_depend_on_the_signal(kind, x):
    states = []
    for signal in (x, x[::-1] * 5, np.zeros_like(x)):
        draws = rng()
        rawboost.KINDS[kind](signal, RATE, draws)
        states.append(draws.bit_generator.state)
    assert states[0] == states[1] == states[2]


def test_filters():
    for seed in range(50):
        taps = rawboost.notch_filter(RATE, rng(seed))
        assert len(taps) % 2 == 1 and 51 <= len(taps) <= 501
        np.testing.assert_allclose(taps, taps[::-1], atol=1e-12)
        assert response(taps).max() == pytest.approx(1, abs=0.01)
    depths = [db(response(rawboost.notch_filter(RATE, rng(seed))).min()) for seed in range(50)]
    assert np.median(depths) < -10


def test_a_gap_is_where_and_as_wide_as_it_says():
    gain = db(response(rawboost.notch_filter(RATE, rng(), 1, (3000, 3000), (1000, 1000), (100, 100))))
    assert gain[at(3000)] < -30
    assert gain[[at(2500), at(3500)]] == pytest.approx([-6, -6], abs=0.5)  # half the amplitude at the ends
    assert np.abs(gain[: at(2100)]).max() < 0.1 and np.abs(gain[at(3900) :]).max() < 0.1
    two = rawboost.notch_filter(RATE, rng(), 2, (3000, 3000), (1000, 1000), (100, 100))
    np.testing.assert_allclose(response(two), 10 ** (gain / 10), atol=0.01)  # one after the other


def test_one_order_is_a_filter_and_as_loud(x):
    how = dict(orders=1, notches=1, centre=(1000, 1000), width=(1000, 1000), taps=(100, 100))
    click = np.zeros(8192, np.float32)
    click[4000] = 0.5
    found = rawboost.convolutive(click, RATE, rng(), **how)
    gain = np.abs(np.fft.rfft(found))
    assert db(gain[at(1000)] / gain[at(4000)]) < -30 and np.argmax(np.abs(found)) == 4000
    for seed in range(5):
        assert rms(rawboost.convolutive(x, RATE, rng(seed))) == pytest.approx(rms(x), rel=1e-4)


@pytest.mark.parametrize("amplitude", [0.5, 0.01])
def test_powers_are_harmonics(amplitude):
    tone = (amplitude * np.cos(2 * np.pi * 500 * np.arange(RATE) / RATE)).astype(np.float32)
    open_wide = dict(notches=0)  # filters that do nothing
    found = rawboost.convolutive(tone, RATE, rng(), orders=3, gain_db=(-10, -10), **open_wide)
    spectrum = np.abs(np.fft.rfft(found.astype(float)))
    # cos^2 is half a cos of twice the frequency; cos^3 is 3/4 of the tone and a quarter of one three times as high
    gain = 10**-0.5
    expected = np.array([1 + 0.75 * gain, 0.5 * gain, 0.25 * gain])
    np.testing.assert_allclose(spectrum[[1000, 1500]] / spectrum[500], expected[1:] / expected[0], rtol=1e-3)
    assert spectrum[0] < 1e-3 * spectrum[500]
    linear = np.abs(np.fft.rfft(rawboost.convolutive(tone, RATE, rng(), orders=1, **open_wide)))
    assert db(linear[1000] / linear[500]) < -80
    falling = np.abs(np.fft.rfft(rawboost.convolutive(tone, RATE, rng(), **open_wide)))[500:3000:500]
    assert (np.diff(falling[:3]) < 0).all()


def test_share_and_size_of_clicks(x):
    x = np.where(x, x, np.float32(1e-4))  # no sample is 0
    shares, sizes = [], []
    for seed in range(200):
        change = (rawboost.impulsive(x, rng(seed)).astype(float) - x) / x
        touched = np.abs(change) > 1e-6
        shares.append(np.mean(touched))
        sizes.append(change[touched])
    assert max(shares) < 0.1 and max(shares) > 0.09 and np.mean(shares) == pytest.approx(0.05, abs=0.006)
    sizes = np.concatenate(sizes)
    assert 1.9 < np.abs(sizes).max() <= 2 and np.mean(sizes) == pytest.approx(0, abs=0.01)
    assert np.mean(np.abs(sizes)) == pytest.approx(0.5, abs=0.01)  # of the product of two uniform numbers, times 2
    np.testing.assert_array_equal(rawboost.impulsive(x, rng(), share=0.0), x)


def test_noise_has_the_ratio_and_the_colour_that_it_says(x):
    ratios = []
    for seed in range(100):
        added = rawboost.stationary(x, RATE, rng(seed)).astype(float) - x
        ratios.append(db(rms(x) / rms(added)))
        assert abs(np.corrcoef(x, added)[0, 1]) < 0.1
    assert 10 <= min(ratios) < 12 and 38 < max(ratios) <= 40 + 0.01
    how = dict(snr_db=(0, 0), notches=1, centre=(3000, 3000), width=(1000, 1000), taps=(100, 100))
    added = rawboost.stationary(x, RATE, rng(), **how).astype(float) - x
    assert db(rms(x) / rms(added)) == pytest.approx(0, abs=0.01)
    power = np.abs(np.fft.rfft(added)) ** 2
    inside, outside = (np.mean(power[2 * low : 2 * high]) for low, high in ((2900, 3100), (4000, 7000)))
    assert db(np.sqrt(inside / outside)) < -25
