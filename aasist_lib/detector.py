"""A trained detector: recordings to log-likelihood ratios to decisions.

A detector is a folder that holds all that scoring needs: network.safetensors, network.json (how to build the
network and its features) and calibration.json (from logits to log-likelihood ratios to decisions).
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aasist_lib import audio, calibration, features, models
from aasist_lib.errors import UserError
from aasist_lib.progress import progress

# What a folder is searched for. libsndfile reads not all of these; those it cannot get a row that says so.
SUFFIXES = set(
    ".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .w64 .rf64 .caf .sph .m4a .aac .wma .amr".split()
)
MIN_SECONDS = 0.25
COLUMNS = ["path", "seconds", "llr", "decision", "error"]


class Detector:
    """Scores recordings; make one with `Detector.load`.

    Attributes
    ----------
    threshold : float
        Decision "spoof" if and only if llr is below it (natural-log units).
    policy : str
        How the threshold was chosen: one of `calibration.POLICIES`.
    """

    def __init__(self, network, about: dict, calibrated, threshold: float, policy: str):
        self.network, self.about, self.calibrated = network, about, calibrated
        self.threshold, self.policy = threshold, policy
        self.front_end = features.build(about["features"]).eval()

    @classmethod
    def load(cls, folder) -> "Detector":
        """Read a detector's folder.

        Parameters
        ----------
        folder : path
            What the stage calibrate or `calibration.save_detector` wrote.

        Returns
        -------
        Detector

        Raises
        ------
        UserError
            A file is missing, broken, or does not belong to the others; one line that names it.
        """
        folder = Path(folder)
        network, about = models.load(folder)
        calibrated, threshold, content = calibration.load(folder)
        if "features" not in about:
            raise UserError(f"{folder / 'network.json'} names no features: train again")
        detector = cls(network, about, calibrated, threshold, content["policy"])
        if detector.front_end.coefficients != about["coefficients"]:
            raise UserError(
                f"{folder / 'network.json'}: these features have {detector.front_end.coefficients} coefficients, "
                f"and the network takes {about['coefficients']}: train again"
            )
        return detector

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
            One row a file, in order: path; seconds; llr, the natural-log likelihood ratio of bona fide speech to
            fakes, NaN if there is none; decision, "bonafide", "spoof" or ""; error, "" or why it has no score.
        """
        found = find(paths)
        if show_progress and len(found) > 1:
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
        row = {"path": str(path), "seconds": math.nan, "llr": math.nan, "decision": "", "error": ""}
        try:
            row["seconds"], logit = self._logit(Path(path))
        except audio.BadAudio as error:  # its message names the file, and so does the row
            return {**row, "error": f"{error.reason} ({error.detail})" if error.detail else error.reason}
        except UserError as error:
            return {**row, "error": str(error)}
        row["llr"] = float(self.calibrated(logit))
        row["decision"] = "spoof" if row["llr"] < self.threshold else "bonafide"
        return row

    def _logit(self, path: Path) -> tuple[float, float]:
        """Seconds, and the mean of the windows' logits weighted by their length."""
        if os.path.isdir(path):
            raise UserError("no audio files in this folder")
        rate = self.front_end.sample_rate
        logits, samples = [], []
        with torch.inference_mode():
            for window in windows(path, rate):
                if len(window) < MIN_SECONDS * rate:  # only ever the first: later ones have half the length
                    raise UserError(f"too short: {len(window) / rate:.2f} s, and {MIN_SECONDS} s are needed")
                found = self.network(self.front_end(torch.from_numpy(window)[None])).item()
                if not math.isfinite(found):
                    raise UserError("the network gave no number for it")
                logits.append(found)
                samples.append(len(window))
        return sum(samples) / rate, float(np.average(logits, weights=samples))


def windows(path, rate: int) -> Iterator[np.ndarray]:
    """A recording in windows to score, cut as `models.windows` says; holds no more than three of them.

    Parameters
    ----------
    path : path
    rate : int
        Samples a second that the windows shall have.

    Yields
    ------
    np.ndarray
        (samples,), float32.

    Raises
    ------
    audio.BadAudio
        As `audio.read`.
    """
    waiting = None
    for window in audio.read_windows(path, rate, models.WINDOW_SECONDS):
        if waiting is None:
            waiting = window
        elif len(window) < round(models.WINDOW_SECONDS * rate) // 2:
            waiting = np.concatenate([waiting, window])
        else:
            yield waiting
            waiting = window
    if waiting is not None:
        yield waiting


def find(paths) -> list[Path]:
    """Files named, and audio files below folders named (sorted, hidden ones left out).

    A folder without any stays in the list, and so does a file that cannot be read: it gets a row that says so.

    Parameters
    ----------
    paths : path or iterable of paths

    Returns
    -------
    list of Path
    """
    found = []  # os.path.isdir: Path.is_dir raises for names that the system refuses
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        inside = sorted(
            p for p in path.rglob("*")
            if p.suffix.lower() in SUFFIXES and not os.path.isdir(p) and not _hidden(p.relative_to(path))
        ) if os.path.isdir(path) else []  # fmt: skip
        found += inside or [path]
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


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
