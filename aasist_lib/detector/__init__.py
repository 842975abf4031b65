"""A trained network with its calibration, to score recordings."""

from aasist_lib.detector.detector import COLUMNS, MIN_SECONDS, Detector, Score, find, printable, verbal_llr, windows

__all__ = [
    "COLUMNS",
    "MIN_SECONDS",
    "Detector",
    "Score",
    "find",
    "verbal_llr",
    "printable",
    "windows",
]
