"""Processing of every clip, bona fide and spoofed alike, so that the channel does not reveal the class.

Bona fide recordings came through a chain (`chain` in `sources.yaml`); synthesised speech passes one drawn with the same
frequencies. Every clip then passes a second one (`codec`; see `second_chain`): if copies alone were coded again, a
detector could learn that. A copy passes the chain of its recording, so that only the vocoder differs.
"""

import io
import zlib

import numpy as np
import soundfile
import soxr
from G722 import G722
from scipy import signal

from .humans import decode_g722

RATE = 16000  # Hz
SHORTEST, LONGEST = 1.5, 8.0  # seconds
BAND = signal.butter(10, 7000, fs=RATE, output="sos")  # Hz: the limit of the narrowest wide-band source (G.722)
LEVEL = -26.0  # dBFS of the voiced parts: the customary level of ITU-T P.56
FLOOR = -66.0  # dBFS: masks the digital silence of synthesisers and some codecs
MARGIN = 0.05  # seconds kept before and after speech
CHAINS = ("pcm", "g722", "vorbis22", "vorbis44")
TELEPHONE = signal.butter(4, (300, 3400), "bandpass", fs=8000, output="sos")


def treat(samples: np.ndarray, rate: int, key: str) -> np.ndarray | None:
    """Apply `cut` and `finish`; return the first piece, (samples,) int16 at 16 kHz, or None if shorter than 1.5 s."""
    pieces = cut(samples, rate)
    return finish(pieces[0], key) if pieces else None


def cut(samples: np.ndarray, rate: int) -> list[np.ndarray]:
    """Cut mono audio into trimmed pieces of 1.5 to 8 s at 16 kHz, float64; none if it is too short or not finite."""
    # Copy-synthesis starts from these pieces. From finished clips, copies would be band-limited and get noise twice,
    # which detectors learn: one called 13 % of bona fide clips spoof, and 60 % of the same clips finished twice.
    samples = soxr.resample(samples.astype(np.float64), rate, RATE, quality="VHQ")
    if len(samples) < SHORTEST * RATE or not np.isfinite(samples).all():
        return []
    pieces = [trim(piece) for piece in _parts(trim(samples - samples.mean()))]
    return [piece for piece in pieces if len(piece) >= SHORTEST * RATE]


def _parts(samples: np.ndarray) -> list[np.ndarray]:
    if len(samples) <= LONGEST * RATE:
        return [samples]
    count = int(np.ceil(len(samples) / ((LONGEST - 1) * RATE)))
    levels, near = _frames(samples), 50  # frames, half a second
    ends = []
    for middle in np.arange(1, count) * len(levels) // count:
        ends.append((middle - near + int(levels[middle - near : middle + near].argmin())) * 160 + 200)
    return np.split(samples, ends)


def finish(samples: np.ndarray, key: str) -> np.ndarray:
    """Apply band limit, level and noise floor to samples at 16 kHz, giving int16; `key` (utt_id) seeds the noise."""
    random = np.random.default_rng(zlib.crc32(key.encode()))
    samples = signal.sosfiltfilt(BAND, samples)
    samples = samples * 10 ** ((LEVEL - _voiced_level(samples)) / 20)
    samples = samples + random.normal(0, 10 ** (FLOOR / 20), len(samples))
    samples *= min(1.0, 0.98 / np.abs(samples).max())
    return np.round(samples * 32767).astype(np.int16)


def trim(samples: np.ndarray) -> np.ndarray:
    """Remove edges: frames more than 40 dB below the loudest, except a margin of 50 ms; samples are at 16 kHz."""
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


def second_chain(split: str, first: str, key: str) -> str:
    """Chain of the corpus: telephone in narrow, drawn by `key` (utt_id) in train, else the first one again."""
    if split == "narrow":
        return "telephone"
    return CHAINS[zlib.crc32(f"{key} chain".encode()) % len(CHAINS)] if split == "train" else first


def through(chain: str, samples: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """Encode and decode a clip with a chain of `sources.yaml`, or telephone (300 to 3,400 Hz, mu-law at 8 kHz)."""
    if chain == "pcm":
        return samples, rate
    to = {"g722": 16000, "vorbis22": 22050, "vorbis44": 44100, "mp3": 11025, "telephone": 8000}[chain]
    samples = soxr.resample(samples.astype(np.float64), rate, to)
    if chain == "telephone":
        samples = signal.sosfiltfilt(TELEPHONE, samples)
    samples = samples * min(1.0, 0.9 / (np.abs(samples).max() + 1e-9))
    if chain == "g722":
        even = np.round(samples[: len(samples) // 2 * 2] * 32767).astype(np.int16)  # the encoder takes pairs
        return decode_g722(G722(16000, 64000).encode(even)), to
    file = io.BytesIO()
    soundfile.write(file, samples, to, **FORMATS[chain])
    return soundfile.read(io.BytesIO(file.getvalue()))[0], to


# qualities of Vorbis and MP3 chosen to match the bit rates of the recordings
FORMATS = {
    "vorbis22": {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.7},
    "vorbis44": {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.6},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": 0.8},
    "telephone": {"format": "WAV", "subtype": "ULAW"},
}
