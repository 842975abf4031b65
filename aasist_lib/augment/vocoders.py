"""Vocoder copies: every recording is resynthesised by a vocoder drawn at random.

A corpus has few vocoders, and networks learn those. Here spectral resolution, phases, excitation and upsampling
artefacts are drawn per recording, so that the copies share only what all vocoders lose: fine structure of the spectrum,
phases, single pitch pulses.

- D. W. Griffin and J. S. Lim: Signal estimation from modified short-time Fourier transform (1984)
- N. Perraudin, P. Balazs, P. Sondergaard: A fast Griffin-Lim algorithm (2013)
- A. Oppenheim and R. Schafer: Discrete-Time Signal Processing, on the real cepstrum and minimum phase
- J. Pons and others: Upsampling artifacts in neural audio synthesis (2021)
"""

import numpy as np
from scipy import fft, ndimage, signal

from aasist_lib.augment.effects import rms

SIZES = (256, 512, 1024, 2048)  # samples of a window; at 16 kHz 16 to 128 ms
OVERLAPS = (2, 4, 8)  # windows over each sample
MAX_ITERATIONS = 24  # of Griffin-Lim
F0 = (60.0, 400.0)  # Hz
BANDS, MOST = 80, 10.0  # for matching the long-term spectrum, and the largest gain
QUIETEST = 1e-5  # of a magnitude: -100 dB


def vocode(x: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A vocoder copy of a recording.

    Parameters
    ----------
    x : (samples,), float32, full scale 1
    rate : Hz
    rng
        Draws the vocoder; the same state gives the same copy.

    Returns
    -------
    (samples,), float32
        At the level of `x`; silence stays silence.
    """
    if not np.any(x):
        return np.array(x, dtype=np.float32)
    way = rng.choice(4, p=[0.3, 0.25, 0.3, 0.15])
    if way == 0:
        found = rebuilt(x, rate, rng)
    elif way == 1:
        found = blurred(x, rate, rng)
    elif way == 2:
        found = source_filter(x, rate, rng)
    else:
        found = np.array(x, dtype=float)
    if way == 3 or rng.random() < 0.4:
        found = upsampled(found, rng)
    found = _coloured_like(found, x) + _background(x, rate, rng)
    found = found * (rms(x) / max(rms(found), 1e-12))
    return np.ascontiguousarray(found, dtype=np.float32)


def _coloured_like(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Match the long-term spectrum of the recording, so that no missing band tells the two apart."""
    ours, theirs = fft.rfft(y), fft.rfft(x)
    edges = np.linspace(0, len(ours), min(BANDS, len(ours)) + 1).astype(int)[:-1]
    power = [np.add.reduceat(np.abs(z) ** 2, edges) for z in (theirs, ours)]
    gain = np.sqrt(power[0] / np.maximum(power[1], 1e-12 * max(power[1].max(), 1e-30)))
    gain = np.interp(np.arange(len(ours)), edges, np.minimum(gain, MOST))
    return fft.irfft(ours * gain, len(y))


def _background(x: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of up to the level of the softest 5 % of the recording; vocoders leave no background."""
    size = min(len(x), rate // 50)
    level = np.sqrt(np.mean(x[: len(x) // size * size].reshape(-1, size).astype(float) ** 2, axis=1))
    return rng.standard_normal(len(x)) * np.quantile(level, 0.05) * rng.uniform(0.0, 1.0)


def rebuilt(x: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Magnitude-only resynthesis, at times through a filter bank, with new phases by Griffin-Lim."""
    size = int(rng.choice(SIZES[:-1] if rng.random() < 0.7 else SIZES))
    hop = size // int(rng.choice(OVERLAPS[1:]))
    spectrum = stft(x, size, hop)
    magnitude = np.abs(spectrum)
    if rng.random() < 0.6:
        magnitude = _through_bands(magnitude, rate, rng)
    start = rng.choice(3)
    if start == 0:
        phases = rng.uniform(-np.pi, np.pi, magnitude.shape)
    elif start == 1:
        phases = np.zeros(magnitude.shape)
    else:  # as networks predict them: worse at high frequencies
        rise = np.linspace(0, 1, magnitude.shape[1])
        phases = np.angle(spectrum) + rng.standard_normal(magnitude.shape) * rng.uniform(0.3, 2.5) * rise
    iterations = int(MAX_ITERATIONS ** rng.random()) - (rng.random() < 0.3)
    momentum = 0.0 if rng.random() < 0.5 else rng.uniform(0.5, 0.99)
    return griffin_lim(magnitude, phases, hop, len(x), max(0, iterations), momentum)


def blurred(x: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Phases mostly kept, magnitudes through a filter bank: like a good neural vocoder."""
    size = int(rng.choice(SIZES[1:3]))
    spectrum = stft(x, size, size // 4)
    magnitude, rise = _through_bands(np.abs(spectrum), rate, rng), np.linspace(0, 1, spectrum.shape[1])
    noise = rng.standard_normal(magnitude.shape) * rng.uniform(0.0, 1.0) * rise ** rng.uniform(0.5, 2.0)
    found = magnitude * np.exp(1j * (np.angle(spectrum) + noise))
    cut = rng.uniform(0.0, 0.5) if rng.random() < 0.5 else 0.0  # below it everything is kept
    kept = rise < cut
    found[:, kept] = spectrum[:, kept]
    return istft(found, size // 4, len(x))


def source_filter(x: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Classical source-filter vocoder: pulses and noise through the spectral envelope."""
    size = int(rng.choice(SIZES[1:3]))
    hop = size // int(rng.choice(OVERLAPS[1:]))
    excitation = _excitation(x, rate, rng)
    order = int(rng.integers(20, 60)) * rate // 16000
    lower = rng.random() < 0.5
    target, own = stft(x, size, hop), stft(excitation, size, hop)
    envelope = _envelope(target, order) - _envelope(own, order)
    gain = np.exp(envelope)
    if lower:
        gain = _minimum_phase(envelope, size)
    return istft(own * gain, hop, len(x))


def upsampled(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Artefacts of upsampling layers: spectral images of low bands, and periodic ripple."""
    found = np.array(x, dtype=float)
    if rng.random() < 0.6:
        factor = int(rng.choice([2, 4]))
        low = signal.resample_poly(found, 1, factor)
        images = np.zeros(len(low) * factor)
        images[::factor] = low * factor
        images = images[: len(found)]
        if len(images) < len(found):
            images = np.pad(images, (0, len(found) - len(images)))
        through = signal.resample_poly(low, factor, 1)[: len(found)]
        through = np.pad(through, (0, len(found) - len(through)))
        keep = rng.uniform(0.0, 1.0)  # of what was above the low band
        found = through + keep * (found - through) + (images - through) * 10 ** (-rng.uniform(6, 40) / 20)
    if rng.random() < 0.6:
        period = int(rng.choice([2, 4, 5, 8, 10, 16, 20, 32, 40, 64, 80, 128, 160, 256]))
        ripple = np.resize(rng.standard_normal(period), len(found))
        found = found * (1 + ripple * 10 ** (-rng.uniform(20, 45) / 20))
    return found


# Short-time spectra, (frames, bins).


def stft(x: np.ndarray, size: int, hop: int) -> np.ndarray:
    """Hann-windowed spectra, (frames, size // 2 + 1), from before the first sample to after the last."""
    padded = np.pad(np.asarray(x, np.float32), (size, size + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return fft.rfft(frames * _window(size), axis=1)


def istft(spectrum: np.ndarray, hop: int, length: int) -> np.ndarray:
    """The signal whose spectra are nearest to these in least squares (Griffin and Lim, 1984, equation 6)."""
    size = 2 * (spectrum.shape[1] - 1)
    window, count = _window(size), len(spectrum)
    frames = fft.irfft(spectrum, size, axis=1) * window
    laps = size // hop
    added, weight = np.zeros((count + laps - 1, hop)), np.zeros((count + laps - 1, hop))
    for lap in range(laps):
        part = slice(lap * hop, (lap + 1) * hop)
        added[lap : lap + count] += frames[:, part]
        weight[lap : lap + count] += window[part] ** 2
    return (added / np.maximum(weight, 1e-8)).ravel()[size : size + length]


def griffin_lim(
    magnitude: np.ndarray, phases: np.ndarray, hop: int, length: int, iterations: int, momentum: float = 0.0
) -> np.ndarray:
    """Fast Griffin-Lim from `phases` (radians); `momentum` from 0 to below 1 (Perraudin et al., 2013)."""
    size = 2 * (magnitude.shape[1] - 1)
    angles, before = np.exp(1j * phases), 0.0
    for _ in range(iterations):
        again = stft(istft(magnitude * angles, hop, length), size, hop)
        moved = again + momentum * (again - before)
        before, angles = again, moved / np.maximum(np.abs(moved), 1e-9)
    return istft(magnitude * angles, hop, length)


def _window(size: int) -> np.ndarray:
    return signal.get_window("hann", size).astype(np.float32)


def _through_bands(magnitude: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Magnitudes through a random mel or linear filter bank and back, at times smoothed over time."""
    bins = magnitude.shape[1]
    count = int(rng.integers(32, 129))
    count = min(count, bins // 2)
    edges = np.linspace(0, 1, count + 2)
    if rng.random() < 0.75:  # mel
        top = 2595 * np.log10(1 + rate / 2 / 700)
        edges = 700 * (10 ** (edges * top / 2595) - 1) / (rate / 2)
    centres = np.arange(bins) / (bins - 1)
    widths = np.maximum(np.diff(edges), 1.0 / (bins - 1))  # no band is narrower than a bin
    rising = (centres - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - centres) / widths[1:, None]
    bank = np.maximum(0, np.minimum(rising, falling)) + 1e-9
    share = bank / bank.sum(axis=1, keepdims=True)
    back = bank / bank.sum(axis=0, keepdims=True)
    logs = rng.random() < 0.5
    values = np.log(np.maximum(magnitude, QUIETEST)) if logs else magnitude
    values = values @ share.T
    if rng.random() < 0.5:
        width = rng.uniform(0.3, 1.5)
        reach = np.arange(-3, 4)
        kernel = np.exp(-0.5 * (reach / width) ** 2)
        values = signal.convolve(values, (kernel / kernel.sum())[:, None], mode="same", method="direct")
    if rng.random() < 0.5:  # prediction errors of a network
        values = values + rng.standard_normal(values.shape) * rng.uniform(0.02, 0.15) * (1 if logs else values)
    values = values @ back
    return np.exp(values) if logs else np.maximum(values, 0)


def _envelope(spectrum: np.ndarray, order: int) -> np.ndarray:
    """Natural log of the spectral envelope: the cepstrum up to `order`."""
    cepstrum = fft.irfft(np.log(np.maximum(np.abs(spectrum), QUIETEST)), axis=1)
    cepstrum[:, order : cepstrum.shape[1] - order + 1] = 0
    return fft.rfft(cepstrum, axis=1).real


def _minimum_phase(envelope: np.ndarray, size: int) -> np.ndarray:
    cepstrum = fft.irfft(envelope, size, axis=1)
    cepstrum[:, 1 : size // 2] *= 2
    cepstrum[:, size // 2 + 1 :] = 0
    return np.exp(fft.rfft(cepstrum, axis=1))


def _excitation(x: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Pulses at the pitch where voiced, noise where unvoiced, and at times a mixture above a cutoff."""
    hop = rate // 200
    pitch = _pitch(x, rate, hop)
    if rng.random() < 0.5:  # vocoders smooth it
        pitch = np.where(pitch > 0, ndimage.median_filter(pitch, 2 * int(rng.integers(1, 5)) + 1), 0)
    pitch = np.repeat(pitch, hop)[: len(x)]
    pitch = np.pad(pitch, (0, len(x) - len(pitch)))
    cycles = np.cumsum(pitch / rate)
    pulses = np.diff(np.floor(cycles), prepend=0) > 0
    strength = np.sqrt(rate / np.maximum(pitch, F0[0]))  # same power as the noise
    voiced = np.where(pulses, strength, 0.0)
    noise = rng.standard_normal(len(x))
    if rng.random() < 0.7:
        cut = rng.uniform(1500, 0.45 * rate)
        taps = signal.firwin(127, cut, fs=rate)
        mixed = signal.oaconvolve(voiced, taps, mode="same")
        mixed = mixed + noise - signal.oaconvolve(noise, taps, mode="same")
        voiced = np.where(pitch > 0, mixed, 0)
    else:
        voiced = voiced + (noise * rng.uniform(0, 0.1)) * (pitch > 0)
    return voiced + np.where(pitch > 0, 0.0, noise)


def _pitch(x: np.ndarray, rate: int, hop: int) -> np.ndarray:
    """Pitch in Hz per hop, 0 where unvoiced: the highest autocorrelation peak over 40 ms."""
    size = 2 * round(0.02 * rate)
    padded = np.pad(np.asarray(x, float), (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[: len(x) : hop]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * signal.get_window("hann", size)
    long = fft.next_fast_len(2 * size, real=True)
    power = np.abs(fft.rfft(frames, long, axis=1)) ** 2
    against = fft.irfft(power, long, axis=1)
    window = fft.irfft(np.abs(fft.rfft(signal.get_window("hann", size), long)) ** 2, long)
    first, last = int(rate / F0[1]), int(rate / F0[0])
    lags = np.arange(first, last)
    whole = against[:, :1] + 1e-12
    likeness = against[:, lags] / whole / (window[lags] / window[0])
    best = (likeness - 0.2 * lags / last).argmax(axis=1)  # prefers one period, since multiples correlate as well
    loud = np.sqrt(np.mean(frames**2, axis=1))
    voiced = (likeness[np.arange(len(best)), best] > 0.5) & (loud > 0.02 * loud.max())
    return np.where(voiced, rate / lags[best], 0.0)
