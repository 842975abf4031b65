"""A trained detector: recordings to log-likelihood ratios to decisions.

A detector is a folder that holds all that scoring needs: network.safetensors, network.json (how to build the
network and its features) and calibration.json (from logits to log-likelihood ratios to decisions). Its network runs in
torch, which this module does not import until such a folder is loaded. Or it is one ONNX file, which `export` made of
such a folder and which onnxruntime runs.
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
class Examined:
    """What a detector says of one recording.

    Attributes
    ----------
    seconds : float
        How long it is.
    llr : float
        Natural-log likelihood ratio of bona fide speech to fakes: of the mean of the windows' logits.
    decision : str
        "bonafide" or "spoof".
    windows : tuple of (float, float, float)
        Start and end in seconds and the ratio of each part that was scored by itself.
    """

    seconds: float
    llr: float
    decision: str
    windows: tuple[tuple[float, float, float], ...]


class Detector:
    """Scores recordings; make one with `Detector.load`.

    Parameters
    ----------
    backend : callable
        One waveform, (samples,) float32, to a logit; has `sample_rate` and `window_seconds`. See `backends`.
    calibrated : calibration.Affine or calibration.Isotonic
        Logits to log-likelihood ratios.
    thresholds : dict
        Of each policy, in natural-log units.
    policy : str
        The one that decides: one of `calibration.POLICIES`.

    Attributes
    ----------
    threshold : float
        Decision "spoof" if and only if llr is below it.
    sample_rate : int
        In Hz, at which recordings are scored.
    """

    def __init__(self, backend, calibrated, thresholds: dict[str, float], policy: str):
        self.backend, self.calibrated = backend, calibrated
        self.thresholds, self.policy, self.threshold = dict(thresholds), policy, thresholds[policy]
        self.sample_rate = backend.sample_rate

    @classmethod
    def load(cls, path) -> Detector:
        """Read a detector's folder, or its ONNX file.

        Parameters
        ----------
        path : path
            What the stage calibrate or `calibration.save_detector` wrote, or `aasist export`.

        Returns
        -------
        Detector

        Raises
        ------
        UserError
            A file is missing, broken, or does not belong to the others; one line that names it.
        """
        path = Path(path)
        if path.is_file() or path.suffix == ".onnx":
            backend = backends.Onnx(path)
            return cls(backend, calibration.from_dict(backend.calibration), backend.thresholds, backend.policy)
        backend = backends.Torch.load(path)
        calibrated, _, content = calibration.load(path)
        return cls(backend, calibrated, content["thresholds"], content["policy"])

    def __getattr__(self, name: str):
        # what looks into the network (explain, robustness, adversarial) finds it here
        if name in ("network", "front_end", "about") and hasattr(self.backend, name):
            return getattr(self.backend, name)
        raise AttributeError(f"a detector on {type(self.backend).__name__} has no {name!r}")

    def decide(self, llr: float, policy: str | None = None) -> str:
        """What a log-likelihood ratio is called.

        Parameters
        ----------
        llr : float
        policy : str, optional
            One of `thresholds`; without it the detector's own.

        Returns
        -------
        str
            "spoof" if and only if llr is below the policy's threshold, else "bonafide".

        Raises
        ------
        UserError
            There is no such policy.
        """
        if policy is not None and policy not in self.thresholds:
            raise UserError(f"policy: there is no {policy!r}; use {', '.join(self.thresholds)}")
        return "spoof" if llr < self.thresholds[policy or self.policy] else "bonafide"

    def examine(
        self,
        source,
        *,
        max_seconds: audio.Limit = None,
        on_window: Callable[[tuple[float, float, float]], None] | None = None,
    ) -> Examined:
        """Score one recording, however long, and each window of it.

        Holds a few windows of sound at a time and no more.

        Parameters
        ----------
        source : path or binary file object
            Any recording that libsndfile reads.
        max_seconds : float or function of the open soundfile.SoundFile that gives one, optional
            A longer one is refused before all of it is decoded.
        on_window : callable, optional
            Gets (start, end, llr) of each window as soon as it is scored; what it raises ends the scoring.

        Returns
        -------
        Examined

        Raises
        ------
        audio.BadAudio
            The recording cannot be used; its `reason` is "too long" beyond `max_seconds`, and "silent" where there is
            no sound in it: of nothing, nothing is decided.
        UserError
            The path is a folder, the recording is shorter than `MIN_SECONDS`, or the network gives no number for it.
        """
        if not hasattr(source, "read") and os.path.isdir(source):
            raise UserError(_folder(source))
        rate = self.sample_rate
        logits, samples, found = [], [], []
        for window in windows(source, rate, self.backend.window_seconds, max_seconds, refuse_silence=True):
            if len(window) < MIN_SECONDS * rate:  # only ever the first: later ones have half the length
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
        return Examined(sum(samples) / rate, llr, self.decide(llr), tuple(found))

    def score(self, paths, *, show_progress: bool = False) -> pd.DataFrame:
        """Score files, and all audio files below folders.

        Parameters
        ----------
        paths : path or iterable of paths
        show_progress : bool
            A bar on the terminal, if there is one.

        Returns
        -------
        DataFrame
            One row a file, in order: path, in which bytes that are no UTF-8 are written as `\\xe9`; seconds; llr, the
            natural-log likelihood ratio of bona fide speech to fakes, NaN if there is none; decision, "bonafide",
            "spoof" or ""; error, "" or why it has no score.
        """
        import pandas as pd  # takes a moment, and `examine` does without

        found, _ = find(paths)
        if show_progress and len(found) > 1:
            from aasist_lib.base.progress import progress

            found = progress(found, desc="score", unit="file")
        return pd.DataFrame([self.score_file(path) for path in found], columns=COLUMNS)

    def score_file(self, path) -> dict:
        """One row of `score`. Never raises for what is wrong with the file.

        Parameters
        ----------
        path : path

        Returns
        -------
        dict
            The columns of `score`.
        """
        row = {"path": printable(path), "seconds": math.nan, "llr": math.nan, "decision": "", "error": ""}
        try:
            found = self.examine(path)
        except audio.BadAudio as error:  # its message names the file, and so does the row
            return {**row, "error": f"{error.reason} ({error.detail})" if error.detail else error.reason}
        except UserError as error:
            return {**row, "error": str(error)}
        return {**row, "seconds": found.seconds, "llr": found.llr, "decision": found.decision}


def windows(
    source, rate: int, seconds: float, max_seconds: audio.Limit = None, *, refuse_silence: bool = False
) -> Iterator[np.ndarray]:
    """A recording in windows to score, cut as `models.windows` says; holds no more than three of them.

    Parameters
    ----------
    source : path or binary file object
    rate : int
        Samples a second that the windows shall have.
    seconds : float
        Length of a window; a rest shorter than half of it goes with the one before.
    max_seconds, refuse_silence : optional
        As in `audio.read_windows`.

    Yields
    ------
    np.ndarray
        (samples,), float32.

    Raises
    ------
    audio.BadAudio
        As `audio.read_windows`.
    """
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
    """Files named, and audio files below folders named (sorted, hidden ones left out); links are followed.

    A folder without any stays in the list, as does a folder or file that cannot be read: it gets a row that says so.

    Parameters
    ----------
    paths : path or iterable of paths

    Returns
    -------
    found : list of Path
    left_out : Counter
        How many files below these folders were not taken, by how their names end ("" without an ending); "hidden" are
        files and folders.
    """
    found, left_out = [], Counter()
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        # os.path.isdir: Path.is_dir raises for names that the system refuses
        inside = sorted(_below(path, left_out, ())) if os.path.isdir(path) else []
        found += inside or [path]
    return found, left_out


def _below(folder: Path, left_out: Counter, above: tuple) -> Iterator[Path]:
    """Audio files of a folder and of those in it; a link back to one `above` ends there."""
    try:
        entries, there = list(os.scandir(folder)), os.stat(folder)
    except OSError:
        yield folder  # whose row says why
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
    """A path as text that any file or terminal can hold: bytes that are no UTF-8 are written as `\\xe9`.

    Parameters
    ----------
    path : path

    Returns
    -------
    str

    >>> print(printable(os.fsdecode(b"caf\\xe9.wav")))
    caf\\xe9.wav
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def in_words(llr: float) -> str:
    """What a log-likelihood ratio says.

    Parameters
    ----------
    llr : float
        Natural-log likelihood ratio of bona fide speech to fakes.

    Returns
    -------
    str

    >>> in_words(3.2)
    'about 25 times as likely under bona fide speech as under the fakes the detector was calibrated on'
    >>> in_words(-0.9)
    'about 2.5 times as likely under the fakes the detector was calibrated on as under bona fide speech'
    >>> in_words(0.01)
    'about as likely under bona fide speech as under the fakes the detector was calibrated on'
    """
    first, second = "bona fide speech", "the fakes the detector was calibrated on"
    if llr < 0:
        first, second = second, first
    times = float(f"{math.exp(min(abs(llr), 50)):.2g}")
    if times < 1.1:
        return "about as likely under bona fide speech as under the fakes the detector was calibrated on"
    # a few thousand calibration trials cannot show odds beyond that
    often = "more than 1000" if times > 1000 else f"about {times:g}"
    return f"{often} times as likely under {first} as under {second}"
