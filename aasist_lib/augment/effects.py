"""What the world does to a recording: noise, codecs, rooms, cuts and the like, one function each.

A function takes a waveform, (samples,) float32 with full scale at 1, and gives a new one of the same length unless
it says otherwise. Whatever delays (a codec, a filter) is shifted back, so that result and original lie on each other.
Chance comes from the generator that is handed in, so the same seed gives the same samples.
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

QUIET = 40.0  # dB below the loudest frame: from there on a frame is silence, as where the corpus is trimmed
VOICED = 30.0  # dB below the loudest frame: from there up a frame counts towards the level of speech
FRAME, HOP = 0.025, 0.010  # seconds
FILTER = 512  # samples: taps of the filter that gives noise the colour of a recording's background


# Noise and rooms.


def noise(x: np.ndarray, snr_db: float, rng, colour: str = "white", others: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Adds noise.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    snr_db : float
        Mean power of the recording over that of the noise, both over the whole recording, in dB.
    rng : np.random.Generator
    colour : {"white", "pink", "babble"}
        Pink has equal power in every octave, from 50 Hz on (at 16 kHz); babble is the sum of `others`, each equally
        loud and from a random moment on, repeated where too short.
    others : sequence of np.ndarray
        Recordings of other people, for babble alone.

    Returns
    -------
    np.ndarray
        (samples,), float32. Digital silence stays as it is: no noise is that much below nothing.

    Raises
    ------
    UserError
        For any other colour, or babble without `others`.
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
    lowest = max(1, size // 320)  # below 50 Hz there is nothing to hear, but in pink noise half of the power
    gain = np.where(bins < lowest, 0, 1 / np.sqrt(np.maximum(bins, 1)))
    return fft.irfft(spectrum * gain, size)[:count]


def room(x: np.ndarray, rate: int, rt60: float, rng) -> np.ndarray:
    """Says it in a room: the recording through a simulated impulse response, as loud as before.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    rt60 : float
        Seconds in which the reverberation falls by 60 dB.
    rng : np.random.Generator

    Returns
    -------
    np.ndarray
        (samples,), float32: the reverberation after the recording's end is cut off.
    """
    wet = signal.fftconvolve(x, impulse_response(rate, rt60, rng))[: len(x)]
    return _as_float32(wet * (rms(x) / max(rms(wet), 1e-12)))


def impulse_response(rate: int, rt60: float, rng, volume: float = 60.0, distance: float = 1.0) -> np.ndarray:
    """Impulse response of a room: direct sound, then noise that decays (J.-D. Polack's model, 1988).

    The reverberation is as strong against the direct sound as theory has it of a diffuse field: they are equal at the
    critical distance, 0.057 sqrt(volume / rt60) metres (H. Kuttruff, Room Acoustics), and the direct sound falls with
    the square of the distance.

    Parameters
    ----------
    rate : int
        Hz.
    rt60 : float
        Seconds in which the reverberation falls by 60 dB.
    rng : np.random.Generator
    volume : float
        Of the room, in cubic metres: 60 are 5 m x 4 m x 3 m.
    distance : float
        From mouth to microphone, in metres.

    Returns
    -------
    np.ndarray
        (samples,), float64; the direct sound is its first sample, 1.

    Raises
    ------
    UserError
        `rt60` is not above 0.
    """
    if not rt60 > 0:
        raise UserError(f"room: rt60 must be above 0 s, not {rt60}")
    count = max(2, round(rt60 * rate))
    time = np.arange(1, count) / rate
    tail = rng.standard_normal(count - 1) * np.exp(-time * 3 * np.log(10) / rt60)
    tail[: round(0.0025 * rate)] = 0  # the nearest wall is not that near
    direct_to_reverberant = 0.057**2 * volume / rt60 / distance**2
    tail /= max(np.sqrt(np.sum(tail**2) * direct_to_reverberant), 1e-12)
    return np.append(1.0, tail)


# Codecs and other damage.


class Codec(NamedTuple):
    """How a codec is run: `rate` of what is coded in Hz, and libsndfile's names; no format stands for libg722."""

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
G722_DELAY = 22  # samples: of the filters that part and join the two bands


def codec(x: np.ndarray, rate: int, name: str) -> np.ndarray:
    """Codes and decodes.

    Parameters
    ----------
    x : np.ndarray
        (samples,); what is beyond full scale is clipped.
    rate : int
        Hz; resampled to the codec's rate and back where they differ.
    name : str
        One of `CODECS`.

    Returns
    -------
    np.ndarray
        (samples,), float32, without the codec's delay.

    Raises
    ------
    UserError
        There is no such codec.
    """
    if name not in CODECS:
        raise UserError(f"codec: {name!r} is not one of {', '.join(CODECS)}")
    how = CODECS[name]
    sent = np.clip(_resample(x, rate, how.rate), -1, 1)
    if how.format:
        file = io.BytesIO()
        soundfile.write(file, sent, how.rate, format=how.format, subtype=how.subtype, **how.settings)
        file.seek(0)
        found = soundfile.read(file, dtype="float32")[0]
        # a frame of a low bit rate has no room for the note that tells decoders the delay and the length
        if how.format == "MP3" and len(found) != len(sent):
            found = found[MP3_DELAY:]
    else:
        found = _g722(sent)
    return _fit(_resample(found, how.rate, rate), len(x))


def _g722(x: np.ndarray) -> np.ndarray:
    padded = np.append(x, np.zeros(G722_DELAY + 2))  # it takes pairs of samples
    data = G722(16000, 64000).encode(np.round(padded * 32767).astype(np.int16))
    found = np.asarray(G722(16000, 64000).decode(data), np.float32)
    return found[G722_DELAY:] / 32767


def resampled(x: np.ndarray, rate: int, through: int) -> np.ndarray:
    """To another rate and back, which takes away what lies above half of the lower one.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate, through : int
        Its rate, and the one in between, in Hz.
    """
    return _fit(_resample(_resample(x, rate, through), through, rate), len(x))


def clipped(x: np.ndarray, share: float) -> np.ndarray:
    """Clips the loudest samples, as a microphone amplified too much does.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    share : float
        Of the samples that lie beyond the ceiling afterwards, between 0 and 1.
    """
    if not len(x):
        return _as_float32(x)
    ceiling = np.quantile(np.abs(x), 1 - share)
    return _as_float32(np.clip(x, -ceiling, ceiling))


def without_band(x: np.ndarray, rate: int, low: float, high: float) -> np.ndarray:
    """Takes a band of frequencies away, without shifting phases.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    low, high : float
        Ends of the band in Hz: nothing is left between them, and all is as it was from 50 Hz outside of them on.
    """
    size = fft.next_fast_len(len(x) + rate // 16, real=True)  # zeros after the end: it does not run into the start
    frequency = np.arange(size // 2 + 1) * (rate / size)
    away = np.maximum(low - frequency, frequency - high)  # Hz outside of the band
    gain = np.sin(np.clip(away / 50, 0, 1) * np.pi / 2) ** 2  # a steeper edge would ring for longer
    return _as_float32(fft.irfft(fft.rfft(x, size) * gain, size)[: len(x)])


def coloured(x: np.ndarray, rate: int, gains_db: Sequence[float], lowest: float = 60.0) -> np.ndarray:
    """Gives it the colour of a microphone or a line: gains that change slowly over frequency, phases as they were.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    gains_db : sequence of float
        In dB, at frequencies equally far apart in octaves from `lowest` to half the rate; straight lines in between.
    lowest : float
        Hz; below it the first gain holds.
    """
    size = fft.next_fast_len(len(x) + rate // 16, real=True)  # zeros after the end: it does not run into the start
    frequency = np.arange(size // 2 + 1) * (rate / size)
    knots = np.linspace(np.log(lowest), np.log(rate / 2), len(gains_db))
    gain = 10 ** (np.interp(np.log(np.maximum(frequency, lowest)), knots, gains_db) / 20)
    return _as_float32(fft.irfft(fft.rfft(x, size) * gain, size)[: len(x)])


# Length, level and silence.


def speed(x: np.ndarray, factor: float) -> np.ndarray:
    """Plays it faster or slower, pitch included: (samples,) to (samples / factor,).

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    factor : float
        Above 1 is faster and higher.
    """
    return _as_float32(soxr.resample(x, factor, 1.0, quality="HQ"))


def cut(x: np.ndarray, rate: int, seconds: float, rng) -> np.ndarray:
    """A piece of that length from a random place; the whole where it is no longer than that.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    seconds : float
    rng : np.random.Generator

    Returns
    -------
    np.ndarray
        (at most seconds x rate,), float32.
    """
    count = round(seconds * rate)
    start = rng.integers(max(len(x) - count, 0) + 1)
    return _as_float32(x[start : start + count])


def lasting(x: np.ndarray, rate: int, seconds: float, rng) -> np.ndarray:
    """Exactly that long: `cut`, or repeated from the start where it is shorter, as in training.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    seconds : float
    rng : np.random.Generator
        Draws where a longer recording is cut.

    Returns
    -------
    np.ndarray
        (seconds x rate,), float32.
    """
    return np.resize(cut(x, rate, seconds, rng), round(seconds * rate))


def levelled(x: np.ndarray, rate: int, dbfs: float) -> np.ndarray:
    """Makes speech so loud.

    Parameters
    ----------
    x : np.ndarray
        (samples,); silence stays as it is.
    rate : int
        Hz.
    dbfs : float
        Power of the frames within 30 dB of the loudest, in dB below that of a square wave at full scale. Peaks may
        pass full scale: a limit would leave some recordings softer than others.
    """
    return _as_float32(x * (10 ** ((dbfs - level(x, rate)) / 20) if np.any(x) else 1))


def level(x: np.ndarray, rate: int) -> float:
    """Level of speech: mean power of the frames within 30 dB of the loudest.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.

    Returns
    -------
    float
        dB, full scale being 0.
    """
    levels = _levels(x, rate)
    return float(10 * np.log10(np.mean(10 ** (levels[levels > levels.max() - VOICED] / 10))))


def rms(x: np.ndarray) -> float:
    """Root of the mean power.

    Parameters
    ----------
    x : np.ndarray
        (samples,), full scale at 1.

    Returns
    -------
    float
        On the same scale; 0 of nothing.
    """
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if len(x) else 0.0


class Silences(NamedTuple):
    """Seconds of silence before speech, in its longest pause (0 if it has none), and after it."""

    before: float
    pause: float
    after: float


def silences(x: np.ndarray, rate: int) -> Silences:
    """How long a recording is silent: where frames of 25 ms are more than 40 dB below the loudest.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    """
    start, end = _speech(x, rate)
    first, last = _pause(x, rate)
    return Silences(start / rate, (last - first) / rate, (len(x) - end) / rate)


def trimmed(x: np.ndarray, rate: int, pauses: bool = False) -> np.ndarray:
    """Cuts off the silence before and after speech.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    pauses : bool
        Cut out what is silent in between, too.

    Returns
    -------
    np.ndarray
        (what is left,), float32: all of it where no frame is silent.
    """
    start, end = _speech(x, rate)
    if not pauses:
        return _as_float32(x[start:end])
    loud = np.repeat(~_quiet(x, rate), _samples(HOP, rate))
    keep = np.zeros(len(x), dtype=bool)
    keep[: len(loud)] = loud[: len(x)]  # of each frame its first 10 ms: where the next frame starts
    keep[max(end - _samples(FRAME, rate), 0) : end] = True  # and the last one whole
    return _as_float32(x[keep])


def with_silence(x: np.ndarray, rate: int, before: float, after: float, rng=None) -> np.ndarray:
    """Puts silence before and after.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    before, after : float
        Seconds.
    rng : np.random.Generator, optional
        Fills it with noise like that of the recording's own quiet frames; without it there is digital silence.

    Returns
    -------
    np.ndarray
        (samples + (before + after) x rate,), float32.
    """
    counts = [round(max(seconds, 0) * rate) for seconds in (before, after)]
    parts = [np.zeros(n) if rng is None else background(x, n, rng) for n in counts]
    return _as_float32(np.concatenate([parts[0], x, parts[1]]))


def with_pause(x: np.ndarray, rate: int, seconds: float, rng) -> np.ndarray:
    """Makes the longest pause longer or shorter, in its middle; a recording without a pause stays as it is.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    rate : int
        Hz.
    seconds : float
        That the pause shall last.
    rng : np.random.Generator
        What is added is noise like that of the recording's own quiet frames.

    Returns
    -------
    np.ndarray
        (samples + what the pause has more,), float32.
    """
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
    """Noise with the level and the spectrum of a recording's quietest tenth: (count,), float64.

    Parameters
    ----------
    x : np.ndarray
        (samples,).
    count : int
        Samples wanted.
    rng : np.random.Generator
    """
    if not count or not len(x):
        return np.zeros(count)
    size = min(FILTER, len(x))
    frames = np.lib.stride_tricks.sliding_window_view(x, size)[:: max(1, size // 2)].astype(np.float64)
    order = np.argsort(np.mean(frames**2, axis=1), kind="stable")
    quiet = frames[order[: max(1, len(order) // 10)]]
    power = np.mean(np.abs(fft.rfft(quiet * signal.windows.hann(size, sym=False))) ** 2, axis=0)
    taps = np.roll(fft.irfft(np.sqrt(power), size), size // 2)
    made = signal.fftconvolve(rng.standard_normal(count + size - 1), taps, mode="valid")
    # as white noise through the filter comes out on average: a short piece may be louder or softer
    return made * (rms(quiet) / max(np.sqrt(np.sum(taps**2)), 1e-12))


def _levels(x: np.ndarray, rate: int) -> np.ndarray:
    """Level in dB of frames of 25 ms every 10 ms; a recording shorter than that is one frame."""
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
    """Where speech starts and ends, in samples."""
    loud = np.flatnonzero(~_quiet(x, rate))
    start, end = (int(frame) * _samples(HOP, rate) for frame in (loud[0], loud[-1]))
    ends = loud[-1] == len(_levels(x, rate)) - 1  # the few samples after the last whole frame go with it
    return start, len(x) if ends else end + _samples(FRAME, rate)


def _pause(x: np.ndarray, rate: int) -> tuple[int, int]:
    """Where the longest pause starts and ends, in samples; (0, 0) if there is none."""
    quiet = _quiet(x, rate)
    loud = np.flatnonzero(~quiet)
    gaps = np.diff(loud)  # frames from one loud one to the next
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
    """So many samples: the rest cut off, or zeros added."""
    return _as_float32(np.pad(x[:count], (0, max(count - len(x), 0))))


def _as_float32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32)
