"""What is done to every clip, human or synthetic alike, so that no class can be told by its channel.

Recordings of people have come through a chain (`chain` in `sources.yaml`: clean PCM, G.722, Vorbis at two rates);
speech of synthesisers is sent through one of those, drawn as often as the people of its split came through it. Every
clip then passes a second one (`codec` in the protocol): in train one drawn at random, in dev and eval its own again,
in narrow the telephone. A copy passes the same as the recording that it was made from, so that between the two there is
the vocoder and nothing else. Were recordings left as they came, a detector could learn to hear that a clip was coded
twice.

At last every clip is made mono, 16 kHz, with one band limit, edges trimmed by one rule, one length rule, one level and
one faint noise floor.
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
BAND = signal.butter(10, 7000, fs=RATE, output="sos")  # the narrowest wide-band sources (G.722) end here
LEVEL = -26.0  # dBFS of the voiced parts (ITU-T P.56's customary speech level)
FLOOR = -66.0  # dBFS: hides the digital silence that only synthesisers and some codecs give
MARGIN = 0.05  # seconds kept before and after speech
CHAINS = ("pcm", "g722", "vorbis22", "vorbis44")
TELEPHONE = signal.butter(4, (300, 3400), "bandpass", fs=8000, output="sos")


def treat(samples: np.ndarray, rate: int, key: str) -> np.ndarray | None:
    """A clip as it stands in the corpus, or None when less than 1.5 s of it is left: `cut`, then `finish`.

    Parameters
    ----------
    samples : ndarray, shape (samples,)
        Mono.
    rate : int
        Hz.
    key : str
        Name of the utterance: seeds its noise floor.

    Returns
    -------
    ndarray of int16, shape (samples at 16 kHz,)
        The first piece, where a clip is longer than 8 s.
    """
    pieces = cut(samples, rate)
    return finish(pieces[0], key) if pieces else None


def cut(samples: np.ndarray, rate: int) -> list[np.ndarray]:
    """What is used of a recording: pieces of 1.5 to 8 s without their edges, at 16 kHz, otherwise as they came.

    Longer recordings are parted at their quietest moments. Copy-synthesis starts from these pieces. Were it to start
    from finished clips, copies would be band-limited and given a noise floor twice, and a detector learns to hear just
    that: an earlier one called 13 % of real voices fake, and 60 % of the same voices finished twice.

    Parameters
    ----------
    samples : ndarray, shape (samples,)
        Mono.
    rate : int
        Hz.

    Returns
    -------
    list of ndarray, shape (samples at 16 kHz,), float64
        None of a recording that is too short or holds what is no number.
    """
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
    """Band limit, level and noise floor.

    Parameters
    ----------
    samples : ndarray, shape (samples,)
        At 16 kHz, at any level.
    key : str
        Name of the utterance: seeds its noise floor.

    Returns
    -------
    ndarray of int16, shape (samples,)
        Its voiced frames have -26 dBFS on average, or less where the peaks would pass full scale.
    """
    random = np.random.default_rng(zlib.crc32(key.encode()))
    samples = signal.sosfiltfilt(BAND, samples)
    samples = samples * 10 ** ((LEVEL - _voiced_level(samples)) / 20)
    samples = samples + random.normal(0, 10 ** (FLOOR / 20), len(samples))
    samples *= min(1.0, 0.98 / np.abs(samples).max())
    return np.round(samples * 32767).astype(np.int16)


def trim(samples: np.ndarray) -> np.ndarray:
    """Cuts off what lies before and after speech: frames 40 dB below the loudest, less a margin of 50 ms.

    Parameters
    ----------
    samples : ndarray, shape (samples,)
        At 16 kHz, 25 ms or more.

    Returns
    -------
    ndarray
        The part of it, (fewer samples,).
    """
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
    """The chain that a clip passes in the corpus.

    Parameters
    ----------
    split : {"train", "dev", "eval", "narrow"}
    first : str
        The chain that it came through.
    key : str
        Name of the utterance: seeds the draw of train.
    """
    if split == "narrow":
        return "telephone"
    return CHAINS[zlib.crc32(f"{key} chain".encode()) % len(CHAINS)] if split == "train" else first


def through(chain: str, samples: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """The clip after a recording chain: coded and decoded again.

    Parameters
    ----------
    samples : ndarray, shape (samples,)
    rate : int
        Hz.
    chain : {"pcm", "g722", "vorbis22", "vorbis44", "mp3", "telephone"}
        As `chain` of the humans in `sources.yaml`, at the rate and near the bit rate of theirs; telephone is 300 to
        3,400 Hz at 8 kHz in the mu-law of ITU-T G.711.
    """
    if chain == "pcm":
        return samples, rate
    to = {"g722": 16000, "vorbis22": 22050, "vorbis44": 44100, "mp3": 11025, "telephone": 8000}[chain]
    samples = soxr.resample(samples.astype(np.float64), rate, to)
    if chain == "telephone":
        samples = signal.sosfiltfilt(TELEPHONE, samples)
    samples = samples * min(1.0, 0.9 / (np.abs(samples).max() + 1e-9))
    if chain == "g722":
        even = np.round(samples[: len(samples) // 2 * 2] * 32767).astype(np.int16)  # it takes pairs
        return decode_g722(G722(16000, 64000).encode(even)), to
    file = io.BytesIO()
    soundfile.write(file, samples, to, **FORMATS[chain])
    return soundfile.read(io.BytesIO(file.getvalue()))[0], to


# the qualities of Vorbis and MP3 were measured against the bit rates of the recordings
FORMATS = {
    "vorbis22": {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.7},
    "vorbis44": {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.6},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": 0.8},
    "telephone": {"format": "WAV", "subtype": "ULAW"},
}
