"""What is done to every clip, human or synthetic alike, so that no class can be told by its channel.

Every clip passes through a recording chain (`codec`: G.722, Vorbis at two rates or none) and is then made mono, 16 kHz,
with one band limit, edges trimmed by one rule, one length rule, one level and one faint noise floor. Recordings of
people pass through the chain that they came through once more: a copy of one is a vocoder's output that does the same,
so that between a recording and its copy there is the vocoder and nothing else. Were recordings left as they came, a
detector could learn to hear that a clip was coded twice.
"""

import io
import zlib

import numpy as np
import soundfile
import soxr
from scipy import signal

from .humans import ffmpeg, ffmpeg_decode

RATE = 16000  # Hz
SHORTEST, LONGEST = 1.5, 8.0  # seconds
BAND = signal.butter(10, 7000, fs=RATE, output="sos")  # the narrowest human sources (G.722) end here
LEVEL = -26.0  # dBFS of the voiced parts (ITU-T P.56's customary speech level)
FLOOR = -66.0  # dBFS: hides the digital silence that only synthesisers and some codecs give
MARGIN = 0.05  # seconds kept before and after speech
CHAINS = ("pcm", "g722", "vorbis22", "vorbis44")


def treat(samples: np.ndarray, rate: int, key: str) -> np.ndarray | None:
    """A clip as it stands in the corpus, or None when less than 1.5 s of it is left: `cut`, then `finish`.

    Parameters
    ----------
    samples : ndarray, shape (samples,)
        Mono.
    rate : int
        Hz.
    key : str
        Name of the utterance: seeds its noise floor and where it is cut.

    Returns
    -------
    ndarray of int16, shape (samples at 16 kHz,)
    """
    samples = cut(samples, rate, key)
    return None if samples is None else finish(samples, key)


def cut(samples: np.ndarray, rate: int, key: str) -> np.ndarray | None:
    """What is used of a clip: speech without its edges, at most 8 s, at 16 kHz, otherwise as it came.

    Copy-synthesis starts from this. Were it to start from finished clips, copies would be band-limited and given a
    noise floor twice, and a detector learns to hear just that: an earlier one called 13 % of real voices fake, and
    60 % of the same voices finished twice.
    """
    samples = soxr.resample(samples.astype(np.float64), rate, RATE, quality="VHQ")
    if len(samples) < SHORTEST * RATE or not np.isfinite(samples).all():
        return None
    samples = trim(samples - samples.mean())
    if len(samples) > LONGEST * RATE:
        share = np.random.default_rng(zlib.crc32(f"{key} cut".encode())).uniform(0.6, 1.0)
        samples = trim(samples[: int(share * LONGEST * RATE)])
    return samples if len(samples) >= SHORTEST * RATE else None


def finish(samples: np.ndarray, key: str) -> np.ndarray:
    """Band limit, level and noise floor: (samples,) at 16 kHz to int16."""
    random = np.random.default_rng(zlib.crc32(key.encode()))
    samples = signal.sosfiltfilt(BAND, samples)
    samples = samples * 10 ** ((LEVEL - _voiced_level(samples)) / 20)
    samples = samples + random.normal(0, 10 ** (FLOOR / 20), len(samples))
    samples *= min(1.0, 0.98 / np.abs(samples).max())
    return np.round(samples * 32767).astype(np.int16)


def trim(samples: np.ndarray) -> np.ndarray:
    """Cuts off what lies before and after speech: frames 40 dB below the loudest, less a margin."""
    loud = np.flatnonzero(_frames(samples) > _frames(samples).max() - 40)
    start = max(0, loud[0] * 160 - int(MARGIN * RATE))
    return samples[start : loud[-1] * 160 + 400 + int(MARGIN * RATE)]


def _frames(samples: np.ndarray) -> np.ndarray:
    """Level in dB of frames of 25 ms every 10 ms."""
    power = np.lib.stride_tricks.sliding_window_view(samples**2, 400)[::160].mean(axis=1)
    return 10 * np.log10(power + 1e-12)


def _voiced_level(samples: np.ndarray) -> float:
    frames = _frames(samples)
    return 10 * np.log10((10 ** (frames[frames > frames.max() - 30] / 10)).mean())


def through(chain: str, samples: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """The clip after the recording chain of a human source: coded and decoded again.

    Parameters
    ----------
    samples : ndarray, shape (samples,)
    rate : int
        Hz.
    chain : {"pcm", "g722", "vorbis22", "vorbis44"}
        As `chain` of the humans in `sources.yaml`; Vorbis at the rate and near the bit rate of theirs.
    """
    if chain == "pcm":
        return samples, rate
    to = {"g722": 16000, "vorbis22": 22050, "vorbis44": 44100}[chain]
    samples = soxr.resample(samples.astype(np.float64), rate, to)
    samples = samples * min(1.0, 0.9 / (np.abs(samples).max() + 1e-9))
    if chain == "g722":
        raw = np.round(samples * 32767).astype("<i2").tobytes()
        coded = ffmpeg(["-f", "s16le", "-ar", "16000", "-ac", "1", "-i", "pipe:0", "-f", "g722", "pipe:1"], raw)
        return ffmpeg_decode("g722", coded), to
    file = io.BytesIO()
    quality = {"vorbis22": 0.3, "vorbis44": 0.4}[chain]  # measured against the bit rates of the recordings
    soundfile.write(file, samples, to, format="OGG", subtype="VORBIS", compression_level=1 - quality)
    return soundfile.read(io.BytesIO(file.getvalue()))[0], to
