"""A trained detector: recordings to log-likelihood ratios to decisions.

It is a folder with network.safetensors, network.json (network and features) and calibration.json (logits to
log-likelihood ratios and thresholds), run by torch, or one ONNX file that `export` made of it, run by onnxruntime.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aasist_lib import audio, calibration
from aasist_lib.base.errors import UserError
from aasist_lib.detector import backends

if TYPE_CHECKING:
    import pandas as pd

MIN_SECONDS = 0.25
COLUMNS = ["path", "seconds", "llr", "decision", "error"]


@dataclass(frozen=True)
class Score:
    """Result for one recording.

    `llr` is the natural-log likelihood ratio, higher for bona fide, of the mean of the windows' logits; `decision` is
    "bonafide" or "spoof"; `windows` are (start, end, llr) of each window, in seconds.
    """

    seconds: float
    llr: float
    decision: str
    windows: tuple[tuple[float, float, float], ...]


class Detector:
    """Scores recordings; made by `Detector.load`.

    `threshold` is that of the deciding `policy`, in natural-log units: "spoof" if and only if the log-likelihood ratio
    is below it. `sample_rate` is in Hz.
    """

    def __init__(self, backend, calibrated, thresholds: dict[str, float], policy: str):
        self.backend, self.calibrated = backend, calibrated
        self.thresholds, self.policy, self.threshold = dict(thresholds), policy, thresholds[policy]
        self.sample_rate = backend.sample_rate

    @classmethod
    def load(cls, path) -> Detector:
        """Read a detector's folder (stage calibrate, `calibration.save_detector`) or ONNX file (`aasist export`).

        UserError if a file is missing, broken, or does not fit the others.
        """
        path = Path(path)
        if path.is_file() or path.suffix == ".onnx":
            backend = backends.Onnx(path)
            return cls(backend, calibration.from_dict(backend.calibration), backend.thresholds, backend.policy)
        backend = backends.Torch.load(path)
        calibrated, _, content = calibration.load(path)
        return cls(backend, calibrated, content["thresholds"], content["policy"])

    def __getattr__(self, name: str):
        # explain, robustness and adversarial access the network here
        if name in ("network", "front_end", "about") and hasattr(self.backend, name):
            return getattr(self.backend, name)
        raise AttributeError(f"a detector on {type(self.backend).__name__} has no {name!r}")

    def decide(self, llr: float, policy: str | None = None) -> str:
        """Decision "spoof" if llr is below the threshold of `policy` (default: its own), else "bonafide"."""
        if policy is not None and policy not in self.thresholds:
            raise UserError(f"policy: there is no {policy!r}; use {', '.join(self.thresholds)}")
        return "spoof" if llr < self.thresholds[policy or self.policy] else "bonafide"

    def score_one(
        self,
        source,
        *,
        max_seconds: audio.Limit = None,
        on_window: Callable[[tuple[float, float, float]], None] | None = None,
    ) -> Score:
        """Score a recording of any length, and each window of it, with a few windows in memory.

        Parameters
        ----------
        source
            Path or binary file object that libsndfile reads.
        max_seconds
            Longer recordings are refused early; a number, or a function of the open soundfile.SoundFile that gives one.
        on_window
            Called with (start, end, llr) of each window once scored; its exceptions end the scoring.

        Raises
        ------
        audio.BadAudio
            If the recording cannot be used; `reason` is "too long" beyond `max_seconds`, and "silent" without any
            sound.
        UserError
            If the path is a folder, the recording is shorter than `MIN_SECONDS`, or its score is not finite.
        """
        if not hasattr(source, "read") and os.path.isdir(source):
            raise UserError(_folder(source))
        rate = self.sample_rate
        logits, samples, found = [], [], []
        for window in windows(source, rate, self.backend.window_seconds, max_seconds, refuse_silence=True):
            # only the first window can be: later ones have at least half the length
            if len(window) < MIN_SECONDS * rate:
                raise UserError(
                    f"too short: {len(window)} samples at {rate} Hz, and {math.ceil(MIN_SECONDS * rate)} "
                    f"({MIN_SECONDS} s) are needed"
                )
            logit = self.backend(window)
            if not math.isfinite(logit):
                raise UserError("the network gave no number for it")
            start = sum(samples)
            logits.append(logit)
            samples.append(len(window))
            found.append((start / rate, (start + len(window)) / rate, float(self.calibrated(logit))))
            if on_window:
                on_window(found[-1])
        llr = float(self.calibrated(np.average(logits, weights=samples)))
        return Score(sum(samples) / rate, llr, self.decide(llr), tuple(found))

    def score(self, paths, *, show_progress: bool = False) -> pd.DataFrame:
        """Score files, and all audio files below folders.

        Parameters
        ----------
        paths
            A path or an iterable of paths.
        show_progress
            Show a progress bar.

        Returns
        -------
        DataFrame
            One row per file, in order: path (see `printable`), seconds, llr (natural-log likelihood ratio, higher for
            bona fide; NaN without a score), decision ("bonafide", "spoof" or ""), error ("" or why there is no score).
        """
        import pandas as pd  # slow to import, and `score_one` does not need it

        found, _ = find(paths)
        if show_progress and len(found) > 1:
            from aasist_lib.base.progress import progress

            found = progress(found, desc="score", unit="file")
        return pd.DataFrame([self.score_file(path) for path in found], columns=COLUMNS)

    def score_file(self, path) -> dict:
        """One row of `score` as a dict; does not raise for a bad file."""
        row = {"path": printable(path), "seconds": math.nan, "llr": math.nan, "decision": "", "error": ""}
        try:
            found = self.score_one(path)
        except audio.BadAudio as error:  # without the path, which the row has already
            return {**row, "error": f"{error.reason} ({error.detail})" if error.detail else error.reason}
        except UserError as error:
            return {**row, "error": str(error)}
        return {**row, "seconds": found.seconds, "llr": found.llr, "decision": found.decision}


def windows(
    source, rate: int, seconds: float, max_seconds: audio.Limit = None, *, refuse_silence: bool = False
) -> Iterator[np.ndarray]:
    """A recording in windows to score, (samples,) float32, cut as `models.windows`; at most three in memory."""
    waiting = None
    for window in audio.read_windows(source, rate, seconds, max_seconds=max_seconds, refuse_silence=refuse_silence):
        if waiting is None:
            waiting = window
        elif len(window) < round(seconds * rate) // 2:
            waiting = np.concatenate([waiting, window])
        else:
            yield waiting
            waiting = window
    if waiting is not None:
        yield waiting


def find(paths) -> tuple[list[Path], Counter]:
    """The files named, and audio files below the folders named, sorted, without hidden ones; links are followed.

    A folder without audio files, or one that cannot be read, stays in the list, to get a row that says so.

    Returns
    -------
    found
        Paths.
    left_out
        Number of files not taken, by their lower-case ending ("" without one); "hidden" counts files and folders.
    """
    found, left_out = [], Counter()
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        # os.path.isdir: Path.is_dir raises for invalid names
        inside = sorted(_below(path, left_out, ())) if os.path.isdir(path) else []
        found += inside or [path]
    return found, left_out


def _below(folder: Path, left_out: Counter, above: tuple) -> Iterator[Path]:
    """Audio files below a folder; links back to a folder in `above` are not followed."""
    try:
        entries, there = list(os.scandir(folder)), os.stat(folder)
    except OSError:
        yield folder  # its row says why
        return
    above = (*above, (there.st_dev, there.st_ino))
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif os.path.isdir(path):
            to = os.stat(path)
            if (to.st_dev, to.st_ino) not in above:
                yield from _below(path, left_out, above)
        elif path.suffix.lower() in audio.ENDINGS and (os.path.isfile(path) or entry.is_symlink()):
            yield path
        else:
            left_out[path.suffix.lower()] += 1


def _folder(path) -> str:
    """Why a folder has no score."""
    try:
        os.listdir(path)
    except OSError as error:
        return f"unreadable ({error.strerror})"
    return "no audio files in this folder"


def printable(path) -> str:
    """A path as text for any file or terminal: bytes that are not UTF-8 become `\\xe9`.

    >>> print(printable(os.fsdecode(b"caf\\xe9.wav")))
    caf\\xe9.wav
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def verbal_llr(llr: float) -> str:
    """A natural-log likelihood ratio in words."""
    first, second = "bona fide speech", "the fakes the detector was calibrated on"
    if llr < 0:
        first, second = second, first
    times = float(f"{math.exp(min(abs(llr), 50)):.2g}")
    if times < 1.1:
        return "about as likely under bona fide speech as under the fakes the detector was calibrated on"
    # a few thousand calibration trials cannot support larger ratios
    often = "more than 1000" if times > 1000 else f"about {times:g}"
    return f"{often} times as likely under {first} as under {second}"
