"""Scores audio while it arrives: raw samples from a pipe, one score per second."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from aasist_lib import audio
from aasist_lib.detector import MIN_SECONDS, Detector

STEP = 1.0  # seconds between scores
WINDOW = 4.0  # seconds per score: the last ones


@dataclass(frozen=True)
class StreamScore:
    """Score of the last seconds of a stream."""

    start: float  # of the window, in seconds from the beginning of the stream
    end: float
    llr: float  # NaN for silence, or if the network gives no number
    decision: str  # "bonafide", "spoof", or "" without an LLR
    delay: float  # seconds from the arrival of the last sample to the score


def stream(
    detector: Detector, source: BinaryIO, *, window: float = WINDOW, policy: str | None = None
) -> Iterator[StreamScore]:
    """Score the last seconds of a stream, every second.

    Parameters
    ----------
    source
        Samples at `detector.sample_rate`: mono, 16 bits, signed, little-endian, without a header.
    window
        Seconds that are scored; fewer at the beginning.
    policy
        The detector's own by default.

    Yields
    ------
    score
        Every second, and at the end if at least `MIN_SECONDS` are left.

    Raises
    ------
    UserError
        The policy does not exist.
    """
    rate = detector.sample_rate
    detector.decide(0.0, policy)  # report an unknown policy at once
    size, held, count = round(STEP * rate), np.zeros(0, np.float32), 0
    while True:
        data = source.read(2 * size)
        arrived = time.perf_counter()
        fresh = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
        if len(fresh) < MIN_SECONDS * rate:
            return
        held, count = np.concatenate([held, fresh])[-round(window * rate) :], count + len(fresh)
        score = detector.backend(held) if np.ptp(held) > audio.SILENCE else math.nan
        llr = float(detector.calibrated(score)) if math.isfinite(score) else math.nan
        decision = "" if math.isnan(llr) else detector.decide(llr, policy)
        yield StreamScore((count - len(held)) / rate, count / rate, llr, decision, time.perf_counter() - arrived)
        if len(fresh) < size:
            return
