"""A trained network with its calibration, to score recordings."""

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
