"""Audio files to mono float32 at the working rate, or a reason why not.

Everything that libsndfile reads, any number of channels, any rate; decoded, mixed down and resampled in blocks. A
source is a path, or a seekable binary file object, which is read from its beginning and stays open; a pipe is read to
its end first. Where header and content disagree:

- Fewer bytes than promised: truncated. One byte fewer is accepted, since some programs count the pad byte but omit it.
  The largest possible size, from a program that could not seek back, means all that follows.
- A WAV header without samples although bytes follow, as of a killed recorder: empty. The bytes may be anything, so the
  user has to mend the header.
- Several recordings in one Ogg or MP3 file, or MP3 of variable bit rate without a frame count, which libsndfile decodes
  in part: partly readable, since the score of a part must not pass for that of the whole.

Not detectable: truncated RF64, MP3 without a frame count, and Ogg cut between two pages (some whole files lack the
end-of-stream mark).
"""

from __future__ import annotations

import math
import mmap
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from aasist_lib.base.errors import UserError

# File endings that folders are searched for. libsndfile does not read those of the last line: such files are reported
# with the reason rather than skipped.
ENDINGS = frozenset(
    ".wav .wave .bwf .rf64 .w64 .flac .ogg .oga .opus .mp1 .mp2 .mp3 .mpga .aif .aiff .aifc .au .snd .caf .sph .nist "
    ".voc .8svx .avr .htk .ircam .paf .pvf .sd2 .sds .sf .wve "
    ".3ga .3gp .aac .ac3 .alac .amr .ape .awb .m4a .m4b .mka .mkv .mov .mp4 .spx .webm .wma .wv".split()
)
BLOCK = 2**18  # frames decoded at a time: 6 s at 44.1 kHz
SILENCE = 2.0**-15  # one 16-bit step: a range up to this is silence
UNKNOWN_FRAMES = 2**62  # libsndfile reports a larger number for an unknown length
UNKNOWN_SIZE = 2**31 - 2**16  # header sizes from here on are placeholders of programs that cannot seek back
# "data : 420000 (should be 209978)": libsndfile's log says so of a WAV, AIFF, AU or W64 file cut short.
SIZE_TOO_LARGE = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
PAD = 1  # bytes that a chunk may lack, see above
FIRST_PAGE = re.compile(rb"OggS\0[\2\3\6\7]")  # of a stream in an Ogg file
# MP3, by the two bits for the version: sample rates, and kbit/s by the four bits after them
MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
MP3_KBITS = {3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)} | dict.fromkeys(
    (2, 0), (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
)
MP3_MISSING = 2 * 1152  # frames that may be missing at the end
MP3_PADDING = 0.5  # seconds: the header's frame, and encoder and decoder padding at both ends, at 8 kHz
MEND = "convert it, as with ffmpeg -i FILE out.wav"

# Maximum duration in seconds: a number, a function of the open file, or no limit
Limit = float | Callable[[soundfile.SoundFile], float] | None


class BadAudio(UserError):
    """A file that cannot be used.

    Attributes
    ----------
    path
        The file; "recording" for a file object without a name.
    reason
        One of "missing", "unreadable", "not audio", "empty", "truncated", "partly readable", "not finite", "silent",
        "too short", "too long".
    detail
        What was found; may be empty.
    """

    def __init__(self, path, reason: str, detail: str = ""):
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.path, self.reason, self.detail = Path(path), reason, detail

    def __reduce__(self):  # by default, unpickling uses the message alone
        return type(self), (self.path, self.reason, self.detail)


def read(path, sample_rate: int) -> np.ndarray:
    """The whole file as mono, (samples,) float32, full scale 1, at `sample_rate` (Hz).

    Channels are averaged; soxr in high quality resamples, as `librosa.load(path, sr=sample_rate)`.

    Raises
    ------
    BadAudio
        If the file is missing, unreadable or only partly readable, not audio, empty, truncated (where that shows, see
        `truncation`), or has NaN or infinite samples.
    """
    blocks = list(_blocks(path, sample_rate))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_windows(
    source, sample_rate: int, window_seconds: float, *, max_seconds: Limit = None, refuse_silence: bool = False
) -> Iterator[np.ndarray]:
    """The file in windows without overlap, which together are what `read` gives; the last is the rest.

    Parameters
    ----------
    source
        Path or binary file object.
    sample_rate : Hz
    window_seconds
        Length of a window.
    max_seconds
        Longer recordings are refused, from the header where it tells; a number, or a function of the open
        soundfile.SoundFile that gives one, whose exceptions end the reading.
    refuse_silence
        BadAudio at the end if there was no sound: digital silence, a constant, or channels that cancel when averaged.

    Yields
    ------
    (samples,), float32

    Raises
    ------
    BadAudio
        As `read`, and if it is too long; a fault in the middle shows when the reading gets there.
    """
    size, rest = round(window_seconds * sample_rate), np.zeros(0, np.float32)
    for block in _blocks(source, sample_rate, max_seconds, refuse_silence):
        rest = np.concatenate([rest, block])
        whole = len(rest) - len(rest) % size
        for start in range(0, whole, size):
            yield rest[start : start + size]
        rest = rest[whole:].copy()  # a view would keep the whole array
    if len(rest):
        yield rest


def info(path) -> float:
    """Duration in seconds according to the header; BadAudio if the file is missing, empty or not audio."""
    with _open(path) as file:
        return file.frames / file.samplerate


def display_name(source) -> str:
    """The name of a source in messages: its path, or that of a file object, or "recording"."""
    named = getattr(source, "name", None) if hasattr(source, "read") else source
    return str(named) if isinstance(named, str | os.PathLike) else "recording"


def _promised(source, file: soundfile.SoundFile) -> float:
    """Frames that an open file must give, 0 if unknown; BadAudio if its end is missing or a part would be skipped."""
    path = display_name(source)
    for promised, present in SIZE_TOO_LARGE.findall(file.extra_info):
        if int(present) + PAD < int(promised) < UNKNOWN_SIZE:
            raise BadAudio(path, "truncated", f"the header promises {promised} bytes, {present} are there")
    if file.format == "OGG":
        with _content(source) as data:
            # A page's header has 27 bytes, the last of them the number of segments, then the segments' sizes.
            page = data.rfind(b"OggS")
            sizes = page + 27
            segments = sizes + data[sizes - 1] if sizes <= len(data) else math.inf
            if segments > len(data) or segments + sum(data[sizes:segments]) > len(data):
                raise BadAudio(path, "truncated", "the last Ogg page is incomplete")
            parts = len(FIRST_PAGE.findall(data))
        if parts > 1:
            raise BadAudio(path, "partly readable", f"{parts} recordings in one Ogg file: {MEND}")
    if file.frames >= UNKNOWN_FRAMES:
        return 0
    if file.format == "MP3":
        with _content(source) as data:
            seconds, counted = _mp3_seconds(data)
        decoded = file.frames / file.samplerate
        if seconds > decoded + MP3_PADDING:
            raise BadAudio(path, "partly readable", f"{decoded:.1f} of {seconds:.1f} s: {MEND}")
        # without a count, libsndfile estimates from the file size, tags and pictures included
        return file.frames - MP3_MISSING if counted else (seconds - MP3_PADDING) * file.samplerate
    return file.frames


def _mp3_seconds(data: bytes) -> tuple[float, bool]:
    """Seconds of all MP3 frames, whatever lies between them, and whether the first has a count of them."""
    seconds, counted, at, follows = 0.0, False, data.find(b"\xff"), False
    while at >= 0:
        size, lasts, kind = _mp3_frame(data[at : at + 4])
        # sync bytes alone prove nothing: another frame must lie before it or, of the same kind, behind it
        if size and (follows or _mp3_frame(data[at + size : at + size + 4])[2] == kind):
            if not seconds:
                counted = any(word in data[at : at + size] for word in (b"Xing", b"Info", b"VBRI"))
            seconds, at, follows = seconds + lasts, at + size, True
        else:
            at, follows = data.find(b"\xff", at + 1), False
    return seconds, counted


def _mp3_frame(header: bytes) -> tuple[int, float, tuple]:
    """Bytes, seconds and (version, sample rate) of the MP3 frame with this header; zeros if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] >> 5 != 7:
        return 0, 0.0, ()
    version, layer, kbits, rate = header[1] >> 3 & 3, header[1] >> 1 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer != 1 or kbits in (0, 15) or rate == 3:  # 1 is layer III; 0 a free bit rate, not in use
        return 0, 0.0, ()
    hertz, samples = MP3_RATES[version][rate], 1152 if version == 3 else 576
    size = samples // 8 * 1000 * MP3_KBITS[version][kbits - 1] // hertz + (header[2] >> 1 & 1)
    return size, samples / hertz, (version, rate)


@contextmanager
def _content(source) -> Iterator[bytes | mmap.mmap]:
    """All bytes; the position of a file object, which libsndfile may be reading, stays."""
    with _raw(source) as raw:
        if hasattr(source, "read"):
            position = raw.tell()
            raw.seek(0)
            content = raw.read()
            raw.seek(position)
            yield content
        else:
            with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield content


@contextmanager
def _raw(source) -> Iterator[BinaryIO]:
    """The file, opened; an OSError becomes BadAudio."""
    try:
        with nullcontext(source) if hasattr(source, "read") else open(source, "rb") as raw:
            yield raw
    except (FileNotFoundError, NotADirectoryError):
        raise BadAudio(display_name(source), "missing") from None
    except OSError as error:  # includes io.UnsupportedOperation of an unseekable file object
        raise BadAudio(display_name(source), "unreadable", error.strerror or str(error)) from None


def _open(source) -> soundfile.SoundFile:
    path, is_object = display_name(source), hasattr(source, "read")
    if not is_object and os.path.exists(source) and not os.path.isfile(source):
        raise BadAudio(path, "unreadable", "neither a file nor a pipe")
    with _raw(source) as raw:  # libsndfile would give no reason
        raw.seek(0)
        if not raw.read(1):
            raise BadAudio(path, "empty", "0 bytes")
        raw.seek(0)
    try:
        return soundfile.SoundFile(source if is_object else os.fsencode(source))  # a name need not be text
    except soundfile.LibsndfileError as error:
        raise BadAudio(path, "not audio", _reason(error)) from None
    except TypeError:  # soundfile takes *.raw for headerless samples and asks for their rate
        raise BadAudio(path, "not audio", "headerless samples") from None


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".")


@contextmanager
def _seekable(source) -> Iterator:
    """The source; of a pipe, which cannot seek, a temporary copy."""
    if hasattr(source, "read") or not is_pipe(source):
        yield source
        return
    with tempfile.NamedTemporaryFile() as copy:
        with _raw(source) as raw:
            shutil.copyfileobj(raw, copy)
            copy.flush()
        try:
            yield copy.name
        except BadAudio as error:
            raise BadAudio(source, error.reason, error.detail) from None


def is_pipe(path) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _blocks(source, sample_rate: int, max_seconds: Limit = None, refuse_silence: bool = False) -> Iterator[np.ndarray]:
    """Mono float32 blocks at `sample_rate`, at least one; BadAudio as `read_windows`."""
    path = display_name(source)
    with _seekable(source) as source, _open(source) as file:
        if callable(max_seconds):
            max_seconds = max_seconds(file)

        def check_length(frames: int) -> None:
            if max_seconds is not None and frames > max_seconds * file.samplerate:
                raise BadAudio(path, "too long", f"more than the {max_seconds:g} s that are allowed")

        if file.frames < UNKNOWN_FRAMES:
            check_length(file.frames)
        promised = _promised(source, file)
        # Otherwise soundfile seeks after every block, which fails at the end of a FLAC of unknown length.
        file.seekable = lambda: False
        stream = None
        if file.samplerate != sample_rate:
            stream = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32", quality="HQ")
        decoded, ended, empty = 0, False, True
        sound, low, high = False, math.inf, -math.inf
        while not ended:
            try:
                block = file.read(BLOCK, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise BadAudio(path, "truncated", f"after {decoded} frames: {_reason(error)}") from None
            ended = len(block) < BLOCK
            decoded += len(block)
            check_length(decoded)  # it may be longer than the header said
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
            if not np.isfinite(mono).all():
                raise BadAudio(path, "not finite", "NaN or infinite samples")
            if refuse_silence and not sound and len(mono):
                signals = np.column_stack([mono, block])
                low, high = np.minimum(low, signals.min(axis=0)), np.maximum(high, signals.max(axis=0))
                sound = high[0] - low[0] > SILENCE
            if stream:
                mono = stream.resample_chunk(np.ascontiguousarray(mono), last=ended)
            if len(mono):
                empty = False
                yield mono
        if decoded < promised:
            raise BadAudio(path, "truncated", f"{decoded} of {file.frames} frames")
        if empty:
            raise BadAudio(path, "empty", f"no samples: if the recorder was stopped, mend the header: {MEND}")
        if refuse_silence and not sound:
            one_by_one = (high - low).max() > SILENCE
            raise BadAudio(path, "silent", "channels that cancel each other out" if one_by_one else "a constant")
