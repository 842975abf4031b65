"""Effects on recordings: noise, rooms, codecs, cuts and levels, one function each.

`x` is a waveform, (samples,) float32, full scale 1; `rate` is in Hz; `rng` a numpy Generator that alone decides the
random samples. Results are new float32 waveforms, of the same length and aligned with `x` unless stated otherwise.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from G722 import G722
from scipy import fft, signal

from aasist_lib.base.errors import UserError

QUIET = 40.0  # dB below the loudest frame: silence from here on, as where the corpus is trimmed
VOICED = 30.0  # dB below the loudest frame: frames above count towards the speech level
FRAME, HOP = 0.025, 0.010  # seconds
FILTER = 512  # taps of the filter that shapes background noise


# Noise and rooms.


def noise(x: np.ndarray, snr_db: float, rng, colour: str = "white", others: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Add noise at a signal-to-noise ratio; digital silence stays as it is.

    Parameters
    ----------
    snr_db : dB
        Mean power over the whole recording against that of the noise.
    colour
        "white", "pink" (equal power per octave, from 50 Hz at 16 kHz), or "babble", the sum of `others` at equal levels
        from random starts.
    others
        Recordings of other speakers, for babble.

    Raises
    ------
    UserError
        For another colour, or babble without `others`.
    """
    if colour == "white":
        added = rng.standard_normal(len(x), dtype=np.float32)
    elif colour == "pink":
        added = _pink(len(x), rng)
    elif colour == "babble":
        others = [other for other in others if np.any(other)]
        if not others:
            raise UserError("noise: babble is made of other recordings, and none (or none with sound) was given")
        added = np.zeros(len(x))
        for other in others:
            added += np.resize(np.roll(other, -rng.integers(len(other))), len(x)) / rms(other)
    else:
        raise UserError(f"noise: the colour {colour!r} is not one of white, pink, babble")
    return _as_float32(x + added * (rms(x) / max(rms(added), 1e-12) * 10 ** (-snr_db / 20)))


def _pink(count: int, rng) -> np.ndarray:
    size = fft.next_fast_len(count, real=True)
    spectrum = fft.rfft(rng.standard_normal(size))
    bins = np.arange(len(spectrum))
    lowest = max(1, size // 320)  # inaudible below 50 Hz, but half of the power of pink noise
    gain = np.where(bins < lowest, 0, 1 / np.sqrt(np.maximum(bins, 1)))
    return fft.irfft(spectrum * gain, size)[:count]


def room(x: np.ndarray, rate: int, rt60: float, rng) -> np.ndarray:
    """Reverberate with a simulated impulse response, same level as before; `rt60` in seconds."""
    wet = signal.fftconvolve(x, impulse_response(rate, rt60, rng))[: len(x)]
    return _as_float32(wet * (rms(x) / max(rms(wet), 1e-12)))


def impulse_response(rate: int, rt60: float, rng, volume: float = 60.0, distance: float = 1.0) -> np.ndarray:
    """Room impulse response (J.-D. Polack, 1988), direct sound 1, float64; `volume` in m3, `distance` in m."""
    if not rt60 > 0:
        raise UserError(f"room: rt60 must be above 0 s, not {rt60}")
    count = max(2, round(rt60 * rate))
    time = np.arange(1, count) / rate
    tail = rng.standard_normal(count - 1) * np.exp(-time * 3 * np.log(10) / rt60)
    tail[: round(0.0025 * rate)] = 0  # no wall is nearer than that
    # equal at the critical distance of a diffuse field (H. Kuttruff, Room Acoustics)
    direct_to_reverberant = 0.057**2 * volume / rt60 / distance**2
    tail /= max(np.sqrt(np.sum(tail**2) * direct_to_reverberant), 1e-12)
    return np.append(1.0, tail)


# Codecs and distortion.


class Codec(NamedTuple):
    """A codec: its sampling rate in Hz and libsndfile's names; an empty format stands for libg722."""

    rate: int
    format: str
    subtype: str
    settings: dict


CODECS = {
    "mp3": Codec(16000, "MP3", "MPEG_LAYER_III", {"bitrate_mode": "CONSTANT", "compression_level": 0.7}),  # 56 kbit/s
    "mp3_low": Codec(16000, "MP3", "MPEG_LAYER_III", {"bitrate_mode": "CONSTANT", "compression_level": 0.9}),  # 24
    "vorbis": Codec(16000, "OGG", "VORBIS", {"compression_level": 1.0}),  # about 36
    "opus": Codec(16000, "OGG", "OPUS", {"compression_level": 0.95}),  # about 20
    "g711": Codec(8000, "WAV", "ULAW", {}),  # 64, of telephones
    "gsm": Codec(8000, "WAV", "GSM610", {}),  # 13, of mobile phones
    "g722": Codec(16000, "", "g722", {}),  # 64, of wide-band telephones
}
MP3_DELAY = 1105  # samples: 576 of LAME, 529 of decoders
G722_DELAY = 22  # samples: of the filters that split and join the two bands


def codec(x: np.ndarray, rate: int, name: str) -> np.ndarray:
    """Encode and decode with a codec of `CODECS`, resampled to its rate and back: clipped, delay removed."""
    if name not in CODECS:
        raise UserError(f"codec: {name!r} is not one of {', '.join(CODECS)}")
    how = CODECS[name]
    sent = np.clip(_resample(x, rate, how.rate), -1, 1)
    if how.format:
        file = io.BytesIO()
        soundfile.write(file, sent, how.rate, format=how.format, subtype=how.subtype, **how.settings)
        file.seek(0)
        found = soundfile.read(file, dtype="float32")[0]
        # at low bit rates a frame has no room for the header that tells decoders delay and length
        if how.format == "MP3" and len(found) != len(sent):
            found = found[MP3_DELAY:]
    else:
        found = _g722(sent)
    return _fit(_resample(found, how.rate, rate), len(x))


def _g722(x: np.ndarray) -> np.ndarray:
    padded = np.append(x, np.zeros(G722_DELAY + 2))  # it codes pairs of samples
    data = G722(16000, 64000).encode(np.round(padded * 32767).astype(np.int16))
    found = np.asarray(G722(16000, 64000).decode(data), np.float32)
    return found[G722_DELAY:] / 32767


def resampled(x: np.ndarray, rate: int, through: int) -> np.ndarray:
    """Resample to the rate `through` and back, which removes what lies above half of the lower one."""
    return _fit(_resample(_resample(x, rate, through), through, rate), len(x))


def clipped(x: np.ndarray, share: float) -> np.ndarray:
    """Clip the loudest `share` (0 to 1) of the samples, as an overdriven microphone does."""
    if not len(x):
        return _as_float32(x)
    ceiling = np.quantile(np.abs(x), 1 - share)
    return _as_float32(np.clip(x, -ceiling, ceiling))


def band_stop(x: np.ndarray, rate: int, low: float, high: float) -> np.ndarray:
    """Zero-phase band-stop: nothing is left from `low` to `high` Hz; transitions of 50 Hz outside."""
    size = fft.next_fast_len(len(x) + rate // 16, real=True)  # zero padding: no circular wrap-around
    frequency = np.arange(size // 2 + 1) * (rate / size)
    away = np.maximum(low - frequency, frequency - high)  # Hz outside of the band
    gain = np.sin(np.clip(away / 50, 0, 1) * np.pi / 2) ** 2  # a steeper edge would ring for longer
    return _as_float32(fft.irfft(fft.rfft(x, size) * gain, size)[: len(x)])


def equalise(x: np.ndarray, rate: int, gains_db: Sequence[float], lowest: float = 60.0) -> np.ndarray:
    """Zero-phase equaliser: `gains_db` at knots equally spaced in octaves from `lowest` Hz to half the rate."""
    size = fft.next_fast_len(len(x) + rate // 16, real=True)  # zero padding: no circular wrap-around
    frequency = np.arange(size // 2 + 1) * (rate / size)
    knots = np.linspace(np.log(lowest), np.log(rate / 2), len(gains_db))
    gain = 10 ** (np.interp(np.log(np.maximum(frequency, lowest)), knots, gains_db) / 20)
    return _as_float32(fft.irfft(fft.rfft(x, size) * gain, size)[: len(x)])


# Length, level and silence.


def speed(x: np.ndarray, factor: float) -> np.ndarray:
    """Speed and pitch times `factor`: (samples,) to (samples / factor,)."""
    return _as_float32(soxr.resample(x, factor, 1.0, quality="HQ"))


def cut(x: np.ndarray, rate: int, seconds: float, rng) -> np.ndarray:
    """A random crop of that length; the whole recording if it is not longer."""
    count = round(seconds * rate)
    start = rng.integers(max(len(x) - count, 0) + 1)
    return _as_float32(x[start : start + count])


def fix_length(x: np.ndarray, rate: int, seconds: float, rng) -> np.ndarray:
    """Exactly that length: a random crop, or repeated from the start."""
    return np.resize(cut(x, rate, seconds, rng), round(seconds * rate))


def normalise_level(x: np.ndarray, rate: int, dbfs: float) -> np.ndarray:
    """Scale to the speech level `dbfs` (see `level`); silence stays as it is, and peaks may exceed full scale."""
    return _as_float32(x * (10 ** ((dbfs - level(x, rate)) / 20) if np.any(x) else 1))


def level(x: np.ndarray, rate: int) -> float:
    """Speech level in dB re mean power 1: mean over the frames within 30 dB of the loudest."""
    levels = _levels(x, rate)
    return float(10 * np.log10(np.mean(10 ** (levels[levels > levels.max() - VOICED] / 10))))


def rms(x: np.ndarray) -> float:
    """Root mean square; 0 of an empty signal."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if len(x) else 0.0


class Silences(NamedTuple):
    """Seconds of silence before speech, in its longest pause (0 if none), and after it."""

    before: float
    pause: float
    after: float


def silences(x: np.ndarray, rate: int) -> Silences:
    """Durations of silence: frames of 25 ms more than 40 dB below the loudest."""
    start, end = _speech(x, rate)
    first, last = _pause(x, rate)
    return Silences(start / rate, (last - first) / rate, (len(x) - end) / rate)


def trim(x: np.ndarray, rate: int, pauses: bool = False) -> np.ndarray:
    """Remove leading and trailing silence and, if asked, pauses; length varies."""
    start, end = _speech(x, rate)
    if not pauses:
        return _as_float32(x[start:end])
    loud = np.repeat(~_quiet(x, rate), _samples(HOP, rate))
    keep = np.zeros(len(x), dtype=bool)
    keep[: len(loud)] = loud[: len(x)]  # the first 10 ms of each frame, up to the next one
    keep[max(end - _samples(FRAME, rate), 0) : end] = True  # and the whole last frame
    return _as_float32(x[keep])


def with_silence(x: np.ndarray, rate: int, before: float, after: float, rng=None) -> np.ndarray:
    """Add `before` and `after` seconds of silence: background noise drawn from `rng`, digital silence without it."""
    counts = [round(max(seconds, 0) * rate) for seconds in (before, after)]
    parts = [np.zeros(n) if rng is None else background(x, n, rng) for n in counts]
    return _as_float32(np.concatenate([parts[0], x, parts[1]]))


def with_pause(x: np.ndarray, rate: int, seconds: float, rng) -> np.ndarray:
    """Set the longest pause to `seconds` with background noise; a recording without a pause stays as it is."""
    first, last = _pause(x, rate)
    if first == last:
        return _as_float32(x)
    more = round(max(seconds, 0) * rate) - (last - first)
    middle = (first + last) // 2
    if more >= 0:
        return _as_float32(np.concatenate([x[:middle], background(x, more, rng), x[middle:]]))
    start = middle + more // 2
    return _as_float32(np.concatenate([x[:start], x[start - more :]]))


def background(x: np.ndarray, count: int, rng) -> np.ndarray:
    """`count` samples of noise with the level and spectrum of the quietest tenth, float64."""
    if not count or not len(x):
        return np.zeros(count)
    size = min(FILTER, len(x))
    frames = np.lib.stride_tricks.sliding_window_view(x, size)[:: max(1, size // 2)].astype(np.float64)
    order = np.argsort(np.mean(frames**2, axis=1), kind="stable")
    quiet = frames[order[: max(1, len(order) // 10)]]
    power = np.mean(np.abs(fft.rfft(quiet * signal.windows.hann(size, sym=False))) ** 2, axis=0)
    taps = np.roll(fft.irfft(np.sqrt(power), size), size // 2)
    made = signal.fftconvolve(rng.standard_normal(count + size - 1), taps, mode="valid")
    # scaled by the expected level: a short piece may be louder or softer
    return made * (rms(quiet) / max(np.sqrt(np.sum(taps**2)), 1e-12))


def _levels(x: np.ndarray, rate: int) -> np.ndarray:
    """Level in dB of frames of 25 ms every 10 ms; a shorter recording is one frame."""
    size = min(_samples(FRAME, rate), len(x))
    if not size:
        return np.array([-120.0])
    total = np.append(0.0, np.cumsum(np.square(x, dtype=np.float64)))
    starts = np.arange(0, len(x) - size + 1, _samples(HOP, rate))
    return 10 * np.log10(np.maximum(total[starts + size] - total[starts], 0) / size + 1e-12)


def _quiet(x: np.ndarray, rate: int) -> np.ndarray:
    levels = _levels(x, rate)
    return levels <= levels.max() - QUIET


def _speech(x: np.ndarray, rate: int) -> tuple[int, int]:
    """Start and end of speech, in samples."""
    loud = np.flatnonzero(~_quiet(x, rate))
    start, end = (int(frame) * _samples(HOP, rate) for frame in (loud[0], loud[-1]))
    ends = loud[-1] == len(_levels(x, rate)) - 1  # samples after the last whole frame belong to it
    return start, len(x) if ends else end + _samples(FRAME, rate)


def _pause(x: np.ndarray, rate: int) -> tuple[int, int]:
    """Start and end of the longest pause, in samples; (0, 0) if there is none."""
    quiet = _quiet(x, rate)
    loud = np.flatnonzero(~quiet)
    gaps = np.diff(loud)  # frames between loud ones
    if not len(gaps) or gaps.max() == 1:
        return 0, 0
    longest = int(np.argmax(gaps))
    first, last = int(loud[longest]) + 1, int(loud[longest + 1]) - 1
    return first * _samples(HOP, rate), last * _samples(HOP, rate) + _samples(FRAME, rate)


def _samples(seconds: float, rate: int) -> int:
    return round(seconds * rate)


def _resample(x: np.ndarray, rate: int, to: int) -> np.ndarray:
    return x if rate == to else soxr.resample(x, rate, to, quality="HQ")


def _fit(x: np.ndarray, count: int) -> np.ndarray:
    """Crop or zero-pad to so many samples."""
    return _as_float32(np.pad(x[:count], (0, max(count - len(x), 0))))


def _as_float32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32)
