"""Tells bona fide human speech from deepfake speech.

>>> from aasist_lib import Detector
"""

import os
import warnings
from pathlib import Path

# They count when numpy and torch are loaded, and processes that this one starts inherit them.
for _line in Path(__file__).with_name("pins.env").read_text("utf-8").splitlines():
    if _line.startswith("export "):
        _name, _, _value = _line.removeprefix("export ").partition("=")
        os.environ[_name] = _value
# Threads that wait are to sleep, not to spin: where anything else wants a core, training is several times quicker.
# It counts when torch is loaded, so it stands here, before any module that needs torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# onnxruntime, which Lightning imports, else reports to its maker and keeps a device id in the home directory.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# A library behind Lightning looks for widgets that draw other progress bars in notebooks than this project's.
warnings.filterwarnings("ignore", "IProgress not found")

__all__ = ["Detector"]


def __getattr__(name: str):
    # loaded when asked for: torch takes seconds, and `aasist --help` or a metric needs none of it
    if name == "Detector":
        from aasist_lib.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
