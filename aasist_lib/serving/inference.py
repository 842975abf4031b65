"""Scores recordings in threads beside the event loop, after checks of their headers."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO

import soundfile

from aasist_lib import audio
from aasist_lib.base.errors import UserError
from aasist_lib.serving.limits import Limits
from aasist_lib.serving.problems import Problem

# A block is decoded and resampled at once: many channels or a tiny rate would make it huge.
CHANNELS = 32
RATES = (1000, 1_000_000)  # Hz
SAMPLE = 4  # bytes per decoded sample
TOO_LARGE = {"too-long", "too-large"}  # reasons that give 413


class Unscorable(Exception):
    """A recording that gets no score: `reason` for programs, `detail` for people, without its name."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason)
        self.reason, self.detail = reason.replace(" ", "-"), detail

    def problem(self) -> Problem:
        """Problem for a request with this recording alone."""
        status = 413 if self.reason in TOO_LARGE else 422
        return Problem(status, self.reason, self.detail)


class Stopped(Exception):
    """Nobody waits for this score any more."""


class Scorer:
    """A detector and its threads."""

    def __init__(self, detector, limits: Limits):
        self.detector, self.limits = detector, limits
        self.pool = ThreadPoolExecutor(limits.workers, "score", _one_thread)

    async def score(self, file: BinaryIO):
        """Score a seekable file in a thread; if cancelled, stop at the next window and read `file` no more."""
        stop = threading.Event()
        job = self.pool.submit(self.score_one, file, stop)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            stop.set()
            if not job.cancel():
                await asyncio.wait([done])
                done.exception()  # else asyncio logs that the exception was never retrieved
            raise

    def score_one(self, file: BinaryIO, stop: threading.Event | None = None):
        """Score a recording in this thread."""

        def on_window(*_):
            if stop and stop.is_set():
                raise Stopped

        on_window()
        try:
            return self.detector.score_one(SeekSafe(file), max_seconds=self._most_seconds, on_window=on_window)
        except audio.BadAudio as error:
            said = f"{error.reason}: {error.detail}" if error.detail else error.reason
            raise Unscorable(error.reason, said) from None
        except UserError as error:
            raise Unscorable("unscorable", str(error)) from None

    def _most_seconds(self, header: soundfile.SoundFile) -> float:
        """Maximum length of this recording by its header; raises Unscorable if the header rules it out."""
        channels, rate, frames = header.channels, header.samplerate, header.frames
        if channels > CHANNELS:
            raise Unscorable("too large", f"{channels} channels, and {CHANNELS} are allowed")
        if not RATES[0] <= rate <= RATES[1]:
            raise Unscorable("unusual rate", f"{rate} Hz, and {RATES[0]} to {RATES[1]} are allowed")
        size = channels * SAMPLE
        if self.limits.max_unpacked < frames * size and frames < audio.UNKNOWN_FRAMES:
            raise Unscorable("too large", f"decoded, more than the {self.limits.max_unpacked_mb:g} MiB allowed")
        return min(self.limits.max_seconds, self.limits.max_unpacked / size / rate)


class SeekSafe:
    """A file object for broken headers: libsndfile seeks to impossible places, and cffi would print a trace."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.read, self.readinto, self.tell = file.read, file.readinto, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek as a file does; an impossible place leaves the position unchanged."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self._file.tell()


class ConcurrencyLimit:
    """Counts requests being read or scored and refuses too many; `closing` refuses all."""

    def __init__(self, most: int):
        self.most, self.count, self.closing = most, 0, False

    @contextmanager
    def enter(self):
        """Hold a place; raises Problem (429, or 503 while closing)."""
        if self.closing:
            raise Problem(
                503, "closing", "The service is being shut down.", {"Retry-After": "5", "Connection": "close"}
            )
        if self.count >= self.most:
            detail = f"{self.count} requests are being scored, as many as are allowed at a time."
            raise Problem(429, "busy", detail, {"Retry-After": "1"})
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


def _one_thread() -> None:
    """One thread per recording: more within one would only wait for each other."""
    if torch := sys.modules.get("torch"):  # not loaded if the detector is an ONNX file
        torch.set_num_threads(1)
