"""Tell bona fide human speech from spoofed speech.

>>> from aasist_lib import Detector
"""

import os
from pathlib import Path

# Set before numpy and torch are loaded; child processes inherit them.
for _line in Path(__file__).with_name("pins.env").read_text("utf-8").splitlines():
    if _line.startswith("export "):
        _name, _, _value = _line.removeprefix("export ").partition("=")
        os.environ[_name] = _value
# Waiting threads sleep instead of spinning: training is several times faster where other processes want a core.
# Set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Else onnxruntime sends telemetry and keeps a device id in the home directory.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Detector"]


def __getattr__(name: str):
    # loaded on demand: importing torch takes seconds, and `aasist --help` does not need it
    if name == "Detector":
        from aasist_lib.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
