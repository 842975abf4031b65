"""Scores of sound while it arrives: raw samples from a pipe, a line a second."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from aasist_lib import audio
from aasist_lib.detector import MIN_SECONDS, Detector

STEP = 1.0  # seconds from score to score
WINDOW = 4.0  # seconds that each is of: the last ones


@dataclass(frozen=True)
class Heard:
    """What is said after a second of sound.

    Attributes
    ----------
    start, end : float
        Of the sound that was scored, in seconds from the beginning of the stream.
    llr : float
        Of that window; NaN where there is no sound in it, or the network gives no number for it.
    decision : str
        "bonafide", "spoof", or "" without a number.
    delay : float
        Seconds from the arrival of the window's last sample to the score.
    """

    start: float
    end: float
    llr: float
    decision: str
    delay: float


def follow(
    detector: Detector, stream: BinaryIO, *, window: float = WINDOW, policy: str | None = None
) -> Iterator[Heard]:
    """Scores the last seconds of a stream, every second.

    Parameters
    ----------
    detector : Detector
    stream : binary file
        Samples at `detector.sample_rate`: one channel, 16 bits, signed, little-endian, without a header.
    window : float
        Seconds that are scored; fewer at the beginning.
    policy : str, optional
        Of the detector's; its own by default.

    Yields
    ------
    Heard
        After every second, and at the end if a quarter of a second or more is left.

    Raises
    ------
    UserError
        There is no such policy.
    """
    rate = detector.sample_rate
    detector.decide(0.0, policy)  # a policy that does not exist is said at once
    size, held, count = round(STEP * rate), np.zeros(0, np.float32), 0
    while True:
        data = stream.read(2 * size)
        arrived = time.perf_counter()
        fresh = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
        if len(fresh) < MIN_SECONDS * rate:
            return
        held, count = np.concatenate([held, fresh])[-round(window * rate) :], count + len(fresh)
        score = detector.backend(held) if np.ptp(held) > audio.SILENCE else math.nan
        llr = float(detector.calibrated(score)) if math.isfinite(score) else math.nan
        decision = "" if math.isnan(llr) else detector.decide(llr, policy)
        yield Heard((count - len(held)) / rate, count / rate, llr, decision, time.perf_counter() - arrived)
        if len(fresh) < size:
            return
