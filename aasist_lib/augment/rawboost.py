"""RawBoost: the nuisances of telephone channels, made from a recording alone, without any noise or room on record.

H. Tak, M. Kamble, J. Patino, M. Todisco and N. Evans: RawBoost, a raw data boosting and augmentation method applied to
automatic speaker verification anti-spoofing, ICASSP 2022, arXiv 2111.04433. Of its three kinds each is a function
here; defaults are the paper's, and so are the symbols in brackets.

A function takes a waveform, (samples,) float32 with full scale at 1, and gives a new one that lies on it. Nothing is
clipped and nothing turned down: peaks may pass full scale, for a limit would leave some recordings softer than others,
and by their peaks a vocoder's output could be told. Digital silence stays as it is. How much is drawn from the
generator never depends on the signal.
"""

import numpy as np
from scipy import fft

from aasist_lib.augment.effects import rms

Range = tuple[float, float]

NOTCHES = 5  # [N_notch]
CENTRE = (20.0, 8000.0)  # Hz [f_c]; from half the rate on there is nothing to take away
WIDTH = (100.0, 1000.0)  # Hz [delta f]
TAPS = (10, 100)  # of the filter of one notch [N_fil]


def notch_filter(
    rate: int, rng, notches: int = NOTCHES, centre: Range = CENTRE, width: Range = WIDTH, taps: Range = TAPS
) -> np.ndarray:
    """Filter with gaps at random frequencies: as many band-stop filters in a row, each a windowed sinc.

    Short filters cannot cut narrow bands out: there, a gap is a dent.

    Parameters
    ----------
    rate : int
        Hz.
    rng : np.random.Generator
    notches : int
        How many gaps.
    centre, width : (float, float)
        Ranges that the middles and the widths of the gaps are drawn from, in Hz.
    taps : (int, int)
        Range that the length of each gap's filter is drawn from; an even one gets one more, to have a middle.

    Returns
    -------
    np.ndarray
        (odd number of taps,), float64, symmetric about the middle one. Its largest gain is 1.
    """
    whole = np.ones(1)
    for _ in range(notches):
        middle = rng.uniform(min(centre[0], rate / 2), min(centre[1], rate / 2))
        half = rng.uniform(*width) / 2
        count = int(rng.integers(taps[0], taps[1], endpoint=True)) // 2  # on either side of the middle
        low, high = max(middle - half, 0) / rate, min(middle + half, rate / 2) / rate  # cycles a sample
        time = np.arange(-count, count + 1)
        band = 2 * high * np.sinc(2 * high * time) - 2 * low * np.sinc(2 * low * time)
        whole = np.convolve(whole, (time == 0) - band * np.hamming(2 * count + 1))
    return whole / np.abs(fft.rfft(whole, 2048)).max()


def convolutive(
    x: np.ndarray,
    rate: int,
    rng,
    *,
    orders: int = 5,
    gain_db: Range = (-20.0, -5.0),
    notches: int = NOTCHES,
    centre: Range = CENTRE,
    width: Range = WIDTH,
    taps: Range = TAPS,
) -> np.ndarray:
    """Linear and non-linear convolutive noise: what amplifiers and loudspeakers add, harmonics and a colour.

    The recording and its powers go through filters of their own and are added up. Powers are taken of the recording
    with its peak at 1, so that a soft one is distorted as much as a loud one.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    rng : np.random.Generator
    orders : int
        The highest power [N_f]; 1 leaves the linear part alone.
    gain_db : (float, float)
        Range that the gains of the powers from the second up are drawn from, in dB [g_cn]: the higher the power, the
        lower the gain. The linear part has 0 dB.
    notches, centre, width, taps
        As for `notch_filter`.

    Returns
    -------
    np.ndarray
        (samples,), float32, as loud as before.
    """
    gains = np.append(0.0, np.sort(rng.uniform(*gain_db, orders - 1))[::-1])
    filters = [notch_filter(rate, rng, notches, centre, width, taps) for _ in gains]
    peak = np.abs(x).max(initial=0)
    if not peak:
        return _as_float32(x)
    scaled = x.astype(np.float64) / peak
    power, total = np.ones(len(x)), np.zeros(len(x))
    for order, (gain, filtering) in enumerate(zip(gains, filters, strict=True), 1):
        power = power * scaled
        # even powers have a mean, which no amplifier passes on
        total += 10 ** (gain / 20) * _filtered(power - (power.mean() if order > 1 else 0), filtering)
    return _as_float32(total * (rms(x) / max(rms(total), 1e-12)))


def impulsive(x: np.ndarray, rng, *, share: float = 0.1, gain: float = 2.0) -> np.ndarray:
    """Impulsive signal-dependent noise: clicks on single samples, as quantisers and bad contacts make them.

    A touched sample gets gain x D times itself on top, D between -1 and 1 and small more often than large (the
    product of two uniform numbers).

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rng : np.random.Generator
    share : float
        Of the samples that are touched at most; how many is drawn, uniformly [P_rel].
    gain : float
        How large a click can be against its sample [g_sd].

    Returns
    -------
    np.ndarray
        (samples,), float32.
    """
    count = round(rng.uniform(0, share) * len(x))
    touched = rng.choice(len(x), count, replace=False) if count else np.zeros(0, dtype=int)
    sizes = rng.uniform(-1, 1, count) * rng.uniform(-1, 1, count)
    found = x.astype(np.float64)
    found[touched] *= 1 + gain * sizes
    return _as_float32(found)


def stationary(
    x: np.ndarray,
    rate: int,
    rng,
    *,
    snr_db: Range = (10.0, 40.0),
    notches: int = NOTCHES,
    centre: Range = CENTRE,
    width: Range = WIDTH,
    taps: Range = TAPS,
) -> np.ndarray:
    """Stationary signal-independent noise: the hiss of a channel, white noise with a random colour.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    rng : np.random.Generator
    snr_db : (float, float)
        Range that the ratio of the recording's mean power to the noise's is drawn from, in dB.
    notches, centre, width, taps
        As for `notch_filter`.

    Returns
    -------
    np.ndarray
        (samples,), float32.
    """
    snr = rng.uniform(*snr_db)
    filtering = notch_filter(rate, rng, notches, centre, width, taps)
    added = _filtered(rng.standard_normal(len(x)), filtering)
    return _as_float32(x + added * (rms(x) / max(rms(added), 1e-12) * 10 ** (-snr / 20)))


KINDS = {
    "convolutive": convolutive,
    "impulsive": lambda x, rate, rng: impulsive(x, rng),
    "stationary": stationary,
}  # each called with (samples,), the rate in Hz and a generator


def _filtered(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Through a symmetric filter, shifted back by its delay: (samples,) to (samples,)."""
    size = fft.next_fast_len(len(x) + len(taps) - 1, real=True)
    found = fft.irfft(fft.rfft(x, size) * fft.rfft(taps, size), size)
    return found[len(taps) // 2 :][: len(x)]


def _as_float32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32)
