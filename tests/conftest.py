"""What several test files share."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

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


@pytest.fixture
def run_notebook(monkeypatch):
    """Runs a notebook's code in this process on a project's folder; returns tables by caption, figures, alarms."""
    import nbformat

    from aasist_lib import plots
    from aasist_lib.base import paths

    def run(name: str, root: Path) -> SimpleNamespace:
        shown = SimpleNamespace(tables={}, figures={}, alarms=[], variables={})
        monkeypatch.setattr(paths, "root", lambda: root)
        monkeypatch.setattr(plots, "show_table", lambda table, caption: shown.tables.update({caption: table}))
        monkeypatch.setattr(plots, "show", lambda figure, alt: shown.figures.update({alt: figure}))
        monkeypatch.setattr(plots, "show_alarms", lambda found, fine="": shown.alarms.extend(found))
        for cell in nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4).cells:
            if cell.cell_type == "code":
                exec(cell.source, shown.variables)
        return shown

    return run
