"""A trained network and its calibration, to score recordings with."""

from aasist_lib.detector.detector import COLUMNS, MIN_SECONDS, Detector, Examined, find, in_words, printable, windows

__all__ = [
    "COLUMNS",
    "MIN_SECONDS",
    "Detector",
    "Examined",
    "find",
    "in_words",
    "printable",
    "windows",
]
