"""What several test files share."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # many small arrays: threads only wait for each other

import pytest

import aasist_lib  # before numpy: the same kernels as the stages

# Started in the background by a script, Ctrl-C is ignored, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def speech() -> Path:
    """Folder of short real recordings."""
    return ROOT / "tests/speech"


@pytest.fixture(scope="session")
def speech_files(speech) -> list[Path]:
    """Those recordings: different rates, lengths, channels and formats."""
    files = sorted(path for path in speech.iterdir() if path.suffix in {".wav", ".flac", ".ogg"})
    assert len(files) >= 20
    return files


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Folder of a detector that was never trained; nothing is to be changed in it."""
    from test_detector import make_detector

    return make_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def detector(folder) -> aasist_lib.Detector:
    """That detector."""
    return aasist_lib.Detector.load(folder)
