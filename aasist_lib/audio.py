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
"""

from __future__ import annotations

import itertools
import math
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
OGG_TAIL = 2**17  # bytes that contain the last page of an Ogg file (at most 65,307 bytes)
UNKNOWN_SIZE = 2**31 - 2**16  # header sizes from here on are placeholders of programs that cannot seek back
UNKNOWN_FRAMES = 2**62  # libsndfile reports a larger number for an unknown length
MP3_SLACK = 2 * 1152  # frames that may be missing at the end of an MP3 file
PAD = 1  # bytes that a chunk may lack, see above
SILENCE = 2.0**-15  # one 16-bit step: a range up to this is silence
FIRST_PAGE = re.compile(rb"OggS\0[\2\3\6\7]")  # of a stream in an Ogg file
# MPEG audio: version by its two bits, which also choose the row of bit rates; layers I, II and III are 3, 2 and 1
MPEG_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
MPEG_KBITS = {
    (1, 3): [32 * step for step in range(1, 15)],
    (1, 2): [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
    (1, 1): [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    (0, 3): [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
    (0, 2): [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    (0, 1): [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
}
MPEG_LONGEST = 2881  # bytes of the longest frame: layer II at 160 kbit/s and 8 kHz
MPEG_SLACK = 0.5  # seconds: the header's frame, and encoder and decoder padding at both ends, at 8 kHz
PIECE = 2**20  # bytes read at a time outside of decoding
# "data : 420000 (should be 209978)": libsndfile's log says so of a WAV, AIFF, AU or W64 file cut short.
SIZE_TOO_LARGE = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)

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
    size = round(window_seconds * sample_rate)
    held, count = [], 0
    for block in _blocks(source, sample_rate, max_seconds, refuse_silence):
        held.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(held)
            whole = count - count % size
            for start in range(0, whole, size):
                yield joined[start : start + size]
            held, count = [joined[whole:].copy()], count - whole  # a copy: a view would keep the whole array
    if count:
        yield np.concatenate(held)


def info(path) -> float:
    """Duration in seconds according to the header; BadAudio if the file is missing, empty or not audio."""
    with _open(path) as file:
        return file.frames / file.samplerate


def truncation(source, file: soundfile.SoundFile) -> str:
    """How an open file shows that its end is missing, or "".

    Detected here: WAV, AIFF, AU and W64 whose header promises more bytes than there are; Ogg with an incomplete last
    page. Detected in decoding: truncated FLAC, MP3 with fewer frames than counted. Not detectable: RF64, MP3 without a
    frame count, and Ogg cut between two pages (some whole files lack the end-of-stream mark).
    """
    if file.format == "OGG":
        with _raw(source) as raw:
            position = raw.tell()  # libsndfile continues here in a file object
            raw.seek(max(0, raw.seek(0, os.SEEK_END) - OGG_TAIL))
            tail = raw.read()
            raw.seek(position)
        page = tail[tail.rfind(b"OggS") :]
        # A page's header has 27 bytes, the last of them the number of segments, then the segments' sizes.
        if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
            return "the last Ogg page is incomplete"
        return ""
    for promised, found in SIZE_TOO_LARGE.findall(file.extra_info):
        if int(found) + PAD < int(promised) < UNKNOWN_SIZE:
            return f"the header promises {promised} bytes, {found} are there"
    return ""


def _promised(source, file: soundfile.SoundFile) -> float:
    """Frames that an open file must give, or 0 if unknown; BadAudio if libsndfile would skip some of the sound."""
    mend = "convert it, as with ffmpeg -i FILE out.wav"
    if file.format == "OGG":
        with _raw(source) as raw:
            parts = sum(1 for _ in _first_pages(raw))
        if parts > 1:
            raise BadAudio(name(source), "partly readable", f"{parts} recordings in one Ogg file: {mend}")
    if file.frames >= UNKNOWN_FRAMES:
        return 0
    if file.format not in ("MP3", "MPEG"):
        return file.frames
    with _raw(source) as raw:
        seconds, counted = _mpeg_sound(raw)
    heard = file.frames / file.samplerate
    if seconds > heard + MPEG_SLACK:
        raise BadAudio(name(source), "partly readable", f"{heard:.1f} of {seconds:.1f} s: {mend}")
    # without a count, libsndfile estimates from the file size, tags and pictures included
    return file.frames - MP3_SLACK if counted else (seconds - MPEG_SLACK) * file.samplerate


def _pieces(raw: BinaryIO) -> Iterator[bytes]:
    """All bytes; restores the position of the file, which libsndfile may be reading."""
    position = raw.tell()
    raw.seek(0)
    yield from iter(lambda: raw.read(PIECE), b"")
    raw.seek(position)


def _first_pages(raw: BinaryIO) -> Iterator[None]:
    held = b""
    for piece in _pieces(raw):
        held += piece
        for _ in FIRST_PAGE.finditer(held):
            yield
        held = held[-5:]


def _mpeg_sound(raw: BinaryIO) -> tuple[float, bool]:
    """Seconds of all MPEG audio frames, whatever lies between them, and whether the first has a frame count."""
    # a frame counts if it follows one that counts or is followed by one of its kind: sync bytes alone prove nothing
    seconds, counted, held, at, follows = 0.0, False, b"", 0, False
    for piece in itertools.chain(_pieces(raw), [bytes(MPEG_LONGEST + 4)]):
        held, at = held[at:] + piece, 0
        while at + MPEG_LONGEST + 4 <= len(held):
            if frame := _mpeg_frame(held, at):
                size, lasts, kind = frame
                if follows or ((after := _mpeg_frame(held, at + size)) and after[2] == kind):
                    if not seconds:
                        counted = any(word in held[at : at + size] for word in (b"Xing", b"Info", b"VBRI"))
                    seconds, at, follows = seconds + lasts, at + size, True
                    continue
            follows, found = False, held.find(b"\xff", at + 1)
            at = found if found >= 0 else len(held)
    return seconds, counted


def _mpeg_frame(data: bytes, at: int) -> tuple[int, float, tuple] | None:
    """Bytes, seconds and (version, layer, rate) of the frame that begins at `at`; None if none does."""
    if data[at] != 0xFF or data[at + 1] < 0xE0:
        return None
    header = data[at : at + 4]
    version, layer, kbits, rate = header[1] >> 3 & 3, header[1] >> 1 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 0 or kbits in (0, 15) or rate == 3:  # 0: free bit rate, not in use
        return None
    hertz, first = MPEG_RATES[version][rate], version == 3
    samples = 384 if layer == 3 else 1152 if layer == 2 or first else 576
    slot = 4 if layer == 3 else 1
    size = (samples // 8 // slot * 1000 * MPEG_KBITS[first, layer][kbits - 1] // hertz + (header[2] >> 1 & 1)) * slot
    return size, samples / hertz, (version, layer, rate)


def name(source) -> str:
    """The name of a source in messages: its path, or that of a file object, or "recording"."""
    found = getattr(source, "name", None) if hasattr(source, "read") else source
    return str(found) if isinstance(found, str | os.PathLike) else "recording"


@contextmanager
def _raw(source) -> Iterator[BinaryIO]:
    """The bytes; an OSError becomes BadAudio."""
    try:
        with nullcontext(source) if hasattr(source, "read") else open(source, "rb") as raw:
            yield raw
    except OSError as error:  # includes io.UnsupportedOperation of an unseekable file object
        raise BadAudio(name(source), "unreadable", error.strerror or str(error)) from None


def _open(source) -> soundfile.SoundFile:
    if not hasattr(source, "read"):
        try:
            mode = os.stat(source).st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise BadAudio(source, "missing") from None
        except OSError as error:  # such as a name that is too long
            raise BadAudio(source, "unreadable", error.strerror or "") from None
        if not stat.S_ISREG(mode):
            raise BadAudio(source, "unreadable", "neither a file nor a pipe")
    with _raw(source) as raw:  # libsndfile would give no reason
        raw.seek(0)
        if not raw.read(1):
            raise BadAudio(name(source), "empty", "0 bytes")
        raw.seek(0)
    try:
        # a name need not be text
        return soundfile.SoundFile(source if hasattr(source, "read") else os.fsencode(source))
    except soundfile.LibsndfileError as error:
        raise BadAudio(name(source), "not audio", error.error_string.strip().rstrip(".")) from None
    except TypeError:  # soundfile takes *.raw for headerless samples and asks for their rate
        raise BadAudio(name(source), "not audio", "headerless samples") from None


@contextmanager
def _whole(source) -> Iterator:
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
    path = name(source)
    with _whole(source) as source, _open(source) as file:
        if callable(max_seconds):
            max_seconds = max_seconds(file)
        if problem := truncation(source, file):
            raise BadAudio(path, "truncated", problem)
        most = math.inf if max_seconds is None else max_seconds * file.samplerate
        if most < file.frames < UNKNOWN_FRAMES:
            raise _too_long(path, max_seconds)
        promised = _promised(source, file)
        # Otherwise soundfile seeks after every block, which fails at the end of a FLAC of unknown length.
        file.seekable = lambda: False
        stream = None
        if file.samplerate != sample_rate:
            stream = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32", quality="HQ")
        decoded = given = 0
        sound, low, high = False, math.inf, -math.inf
        while True:
            try:
                block = file.read(BLOCK, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                detail = error.error_string.strip().rstrip(".")
                raise BadAudio(path, "truncated", f"after {decoded} frames: {detail}") from None
            ended = len(block) < BLOCK
            decoded += len(block)
            if decoded > most:  # longer than the header said
                raise _too_long(path, max_seconds)
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
                given += len(mono)
                yield mono
            if ended:
                break
        if decoded < promised:
            raise BadAudio(path, "truncated", f"{decoded} of {file.frames} frames")
        if not given:
            raise BadAudio(path, "empty", _no_samples(source))
        if refuse_silence and not sound:
            one_by_one = (high - low).max() > SILENCE
            raise BadAudio(path, "silent", "channels that cancel each other out" if one_by_one else "a constant")


def _no_samples(source) -> str:
    with _raw(source) as raw:
        size = raw.seek(0, os.SEEK_END)
    if size < 1000:
        return "no samples"
    return (
        f"the header counts no samples in {size} bytes: if the recorder was stopped, mend it, as with "
        "ffmpeg -i FILE out.wav"
    )


def _too_long(path: str, most: float) -> BadAudio:
    return BadAudio(path, "too long", f"more than the {most:g} s that are allowed")
