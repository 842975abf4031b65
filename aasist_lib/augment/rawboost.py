"""RawBoost: channel noise made from the recording alone, without recorded noise or rooms.

H. Tak, M. Kamble, J. Patino, M. Todisco and N. Evans: RawBoost, a raw data boosting and augmentation method applied to
automatic speaker verification anti-spoofing, ICASSP 2022, arXiv 2111.04433. Defaults are the paper's, as are the
symbols in brackets.

Waveforms are as in `effects`. Results are neither clipped nor scaled to their peak, since peaks could reveal a
vocoder's output. Digital silence stays as it is. Draws do not depend on the signal.
"""

import numpy as np
from scipy import fft

from aasist_lib.augment.effects import rms

Range = tuple[float, float]

NOTCHES = 5  # [N_notch]
CENTRE = (20.0, 8000.0)  # Hz [f_c], limited to half the rate
WIDTH = (100.0, 1000.0)  # Hz [delta f]
TAPS = (10, 100)  # per notch [N_fil]


def notch_filter(
    rate: int, rng, notches: int = NOTCHES, centre: Range = CENTRE, width: Range = WIDTH, taps: Range = TAPS
) -> np.ndarray:
    """Cascade of `notches` random band-stop filters, windowed sincs: symmetric taps, float64, largest gain 1.

    `centre` and `width` (Hz) and `taps` are ranges to draw from; an even length gets one tap more. A short filter only
    attenuates a narrow band.
    """
    whole = np.ones(1)
    for _ in range(notches):
        middle = rng.uniform(min(centre[0], rate / 2), min(centre[1], rate / 2))
        half = rng.uniform(*width) / 2
        count = int(rng.integers(taps[0], taps[1], endpoint=True)) // 2  # taps on either side of the middle
        low, high = max(middle - half, 0) / rate, min(middle + half, rate / 2) / rate  # cycles per sample
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
    """Linear and non-linear convolutive noise: harmonics and colour, as of amplifiers and loudspeakers.

    The sum of the signal (peak 1) and its powers up to `orders` [N_f], each through its own notch filter, scaled to the
    level of `x`. Powers from 2 on have gains [g_cn] from the range `gain_db`, sorted to fall with the power.
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
    """Impulsive signal-dependent noise: up to `share` [P_rel] of the samples times 1 + `gain` [g_sd] u v.

    u and v are uniform from -1 to 1, and the number of samples is drawn uniformly.
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
    """Stationary signal-independent noise: white noise through a notch filter, SNR from the range `snr_db`."""
    snr = rng.uniform(*snr_db)
    filtering = notch_filter(rate, rng, notches, centre, width, taps)
    added = _filtered(rng.standard_normal(len(x)), filtering)
    return _as_float32(x + added * (rms(x) / max(rms(added), 1e-12) * 10 ** (-snr / 20)))


KINDS = {
    "convolutive": convolutive,
    "impulsive": lambda x, rate, rng: impulsive(x, rng),
    "stationary": stationary,
}  # each called with x, rate and rng


def _filtered(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Through a symmetric filter, without its delay: (samples,) to (samples,)."""
    size = fft.next_fast_len(len(x) + len(taps) - 1, real=True)
    found = fft.irfft(fft.rfft(x, size) * fft.rfft(taps, size), size)
    return found[len(taps) // 2 :][: len(x)]


def _as_float32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32)
