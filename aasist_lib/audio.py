"""Any audio file to mono float32 at the working rate, or a reason why not.

Everything that libsndfile reads (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, AU, CAF, W64 and more), any number of
channels, any rate. Blocks are decoded, mixed down and resampled one after the other, so that an hour takes no
more memory than its result.

A source is a path, or a binary file object that can seek, such as an upload held in memory; it is read from its
beginning and stays open.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from aasist_lib.errors import UserError

# How names of recordings end, in small letters: what folders are searched for. The last line is what people have and
# libsndfile does not read: such a file is named with the reason, not passed over.
ENDINGS = frozenset(
    ".wav .wave .bwf .rf64 .w64 .flac .ogg .oga .opus .mp1 .mp2 .mp3 .mpga .aif .aiff .aifc .au .snd .caf .sph .nist "
    ".voc .8svx .avr .htk .ircam .paf .pvf .sd2 .sds .sf .wve "
    ".3ga .3gp .aac .ac3 .alac .amr .ape .awb .m4a .m4b .mka .mkv .mov .mp4 .spx .webm .wma .wv".split()
)
BLOCK = 2**18  # frames decoded at a time: 6 s at 44.1 kHz
OGG_TAIL = 2**17  # bytes that surely hold the last page of an Ogg file (a page has 65,307 at most)
UNKNOWN_SIZE = 2**31 - 2**16  # header sizes from here on are what a program writes that cannot seek back
UNKNOWN_FRAMES = 2**62  # libsndfile's largest number, above this, stands for "not said"
MP3_SLACK = 2 * 1152  # frames: without a Xing header, libsndfile goes by the file's size and is off by this much
# "data : 420000 (should be 209978)": libsndfile's log says so of a WAV, AIFF, AU or W64 file cut short.
SIZE_TOO_LARGE = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)

# How long a recording may be, in seconds: a number, what a function says of the open file, or no limit
Limit = float | Callable[[soundfile.SoundFile], float] | None


class BadAudio(UserError):
    """A file that cannot be used.

    Attributes
    ----------
    path : Path
        The file; "recording" for a file object without a name.
    reason : str
        One of "missing", "unreadable", "not audio", "empty", "truncated", "not finite", "too short", "too long".
    detail : str
        What exactly was found; may be empty.
    """

    def __init__(self, path, reason: str, detail: str = ""):
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.path, self.reason, self.detail = Path(path), reason, detail

    def __reduce__(self):  # by default an exception is rebuilt from its message alone
        return type(self), (self.path, self.reason, self.detail)


def read(path, sample_rate: int) -> np.ndarray:
    """The whole file as mono at `sample_rate`.

    Channels are averaged; other rates are resampled by soxr in its high quality, so that the result is that of
    `librosa.load(path, sr=sample_rate)`.

    Parameters
    ----------
    path : str or Path
        Any file that libsndfile reads.
    sample_rate : int
        In Hz.

    Returns
    -------
    np.ndarray
        (samples,), float32, full scale at 1.

    Raises
    ------
    BadAudio
        If the file is missing, cannot be read, is not audio, holds no samples, ends before its header says, or
        holds NaN or infinite samples. Not every cut can be seen: see `cut_short`.
    """
    blocks = list(_blocks(path, sample_rate))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_windows(source, sample_rate: int, window_seconds: float, *, max_seconds: Limit = None) -> Iterator[np.ndarray]:
    """The file in windows, for recordings too long to hold in memory.

    Parameters
    ----------
    source : path or binary file object
        Anything that libsndfile reads.
    sample_rate : int
        In Hz.
    window_seconds : float
        Length of a window.
    max_seconds : float or function of the open soundfile.SoundFile that gives one, optional
        A longer recording is refused: at once where its header tells, else where the reading gets there. What the
        function raises, having seen the header, ends the reading.

    Yields
    ------
    np.ndarray
        (samples,), float32: one window after the other, without overlap; the last is what is left. Together they
        are what `read` gives.

    Raises
    ------
    BadAudio
        As `read`, and if it is too long; a fault in the middle of a file shows when the reading gets there.
    """
    size = round(window_seconds * sample_rate)
    held, count = [], 0
    for block in _blocks(source, sample_rate, max_seconds):
        held.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(held)
            whole = count - count % size
            for start in range(0, whole, size):
                yield joined[start : start + size]
            held, count = [joined[whole:].copy()], count - whole  # a copy: a view would keep all of it
    if count:
        yield np.concatenate(held)


def info(path) -> float:
    """Seconds that the file's header promises, without decoding it.

    Parameters
    ----------
    path : str or Path
        Any file that libsndfile reads.

    Returns
    -------
    float

    Raises
    ------
    BadAudio
        If the file is missing, cannot be read, is empty or not audio.
    """
    with _open(path) as file:
        return file.frames / file.samplerate


def cut_short(source, file: soundfile.SoundFile) -> str:
    """How an open file shows that its end is missing, or "" if it does not.

    Seen here: WAV, AIFF, AU and W64 whose header promises more bytes than there are (unless it was written by
    a program that could not seek back, which promises the largest number there is); Ogg whose last page is
    incomplete. Seen when decoding: FLAC that breaks off, MP3 that promises more frames than it holds. Not to be
    seen: RF64, MP3 without a count of frames (of which, if of variable bit rate, libsndfile may leave out the
    end), and Ogg cut exactly between two pages (the mark of the last page is no help: some whole ones lack it).

    Parameters
    ----------
    source : path or binary file object
        The file.
    file : soundfile.SoundFile
        The same, open.

    Returns
    -------
    str

    Raises
    ------
    BadAudio
        If the file cannot be read any more.
    """
    if file.format == "OGG":
        with _raw(source) as raw:
            position = raw.tell()  # of a file object libsndfile goes on reading here
            raw.seek(max(0, raw.seek(0, os.SEEK_END) - OGG_TAIL))
            tail = raw.read()
            raw.seek(position)
        page = tail[tail.rfind(b"OggS") :]
        # A page's header has 27 bytes, the last of them the number of segments, then the segments' sizes.
        if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
            return "the last Ogg page is incomplete"
        return ""
    for promised, found in SIZE_TOO_LARGE.findall(file.extra_info):
        if int(found) < int(promised) < UNKNOWN_SIZE:
            return f"the header promises {promised} bytes, {found} are there"
    return ""


def name(source) -> str:
    """What messages call a source: its path, or that of a file object that has one, or "recording"."""
    found = getattr(source, "name", None) if hasattr(source, "read") else source
    return str(found) if isinstance(found, str | os.PathLike) else "recording"


@contextmanager
def _raw(source) -> Iterator[BinaryIO]:
    """The bytes. What the system refuses (no permission, a broken disk) is a fault of this file alone."""
    try:
        with nullcontext(source) if hasattr(source, "read") else open(source, "rb") as raw:
            yield raw
    except OSError as error:  # of which io.UnsupportedOperation, of a file object that cannot seek, is one
        raise BadAudio(name(source), "unreadable", error.strerror or str(error)) from None


def _open(source) -> soundfile.SoundFile:
    if not hasattr(source, "read"):
        source = Path(source)
        try:
            there = source.is_file()
        except OSError as error:  # a name too long
            raise BadAudio(source, "unreadable", error.strerror or "") from None
        if not there:
            raise BadAudio(source, "missing")
    with _raw(source) as raw:  # libsndfile would not say why it cannot
        raw.seek(0)
        if not raw.read(1):
            raise BadAudio(name(source), "empty", "0 bytes")
        raw.seek(0)
    try:
        return soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        raise BadAudio(name(source), "not audio", error.error_string.strip().rstrip(".")) from None
    except TypeError:  # soundfile takes the name *.raw for headerless samples and asks for their rate
        raise BadAudio(name(source), "not audio", "headerless samples") from None


def _blocks(source, sample_rate: int, max_seconds: Limit = None) -> Iterator[np.ndarray]:
    """Mono float32 blocks at `sample_rate`, at least one of them; raises BadAudio as `read_windows` says."""
    path = name(source)
    with _open(source) as file:
        if callable(max_seconds):
            max_seconds = max_seconds(file)
        if problem := cut_short(source, file):
            raise BadAudio(path, "truncated", problem)
        most = math.inf if max_seconds is None else max_seconds * file.samplerate
        if most < file.frames < UNKNOWN_FRAMES:
            raise _too_long(path, file.frames / file.samplerate, max_seconds)
        # Or soundfile seeks after every block, which fails at the end of a FLAC that does not tell its length.
        file.seekable = lambda: False
        stream = None
        if file.samplerate != sample_rate:
            stream = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32", quality="HQ")
        decoded = given = 0
        while True:
            try:
                block = file.read(BLOCK, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                detail = error.error_string.strip().rstrip(".")
                raise BadAudio(path, "truncated", f"after {decoded} frames: {detail}") from None
            ended = len(block) < BLOCK
            decoded += len(block)
            if decoded > most:  # the header did not tell
                raise _too_long(path, decoded / file.samplerate, max_seconds)
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
            if not np.isfinite(mono).all():
                raise BadAudio(path, "not finite", "NaN or infinite samples")
            if stream:
                mono = stream.resample_chunk(np.ascontiguousarray(mono), last=ended)
            if len(mono):
                given += len(mono)
                yield mono
            if ended:
                break
        slack = MP3_SLACK if file.format in ("MP3", "MPEG") else 0
        if decoded + slack < file.frames < UNKNOWN_FRAMES:
            raise BadAudio(path, "truncated", f"{decoded} of {file.frames} frames")
        if not given:
            raise BadAudio(path, "empty", "no samples")


def _too_long(path: str, seconds: float, most: float) -> BadAudio:
    return BadAudio(path, "too long", f"{seconds:.0f} s or more, and {most:g} s are allowed")
