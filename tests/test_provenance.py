"""What decides the last digits, and what a key of code tells apart.

| what | test |
|---|---|
| comments, docstrings, layout and a module's name change no key | test_words_change_nothing |
| a number, a default, a name, a line, an annotation does | test_meaning_changes_it |
| so does whatever the module needs, directly or not, but for modules that decide no result | test_what_it_imports |
| what took hours is kept under such keys: training's and the audit's | test_who_uses_it |
"""

import shutil

import pytest

from aasist_lib import params
from aasist_lib.audit import holdout
from aasist_lib.base import jobs, provenance
from aasist_lib.base.provenance import code_key
from aasist_lib.training import loop

CODE = '''"""A module."""

RATE = 0.5  # a share


class Step:
    """One of many."""

    def take(self, x: float, by=2):
        """Moves on."""
        return x + by * RATE
'''


@pytest.fixture
def key(tmp_path, monkeypatch):
    """The key of a library's module with such code."""
    monkeypatch.setattr(provenance, "LIBRARY", tmp_path)

    def key(code: str = CODE, name: str = "step") -> bytes:
        (tmp_path / f"{name}.py").write_text(code, "utf-8")
        return code_key(f"aasist_lib.{name}")

    return key


def test_words_change_nothing(key):
    first = key()
    assert len(first) == 32 and first == key()
    for old, new in {
        '"""A module."""': '"""What it does,\n\nat length."""',
        '    """One of many."""\n\n': "",
        '        """Moves on."""\n': "",
        "  # a share": "",
        "x + by * RATE": "(\n            x\n            + by * RATE  # so far\n        )",
    }.items():
        changed = CODE.replace(old, new)
        assert changed != CODE and key(changed) == first, old
    assert key(name="elsewhere") == first


@pytest.mark.parametrize(
    "old, new",
    [
        ("0.5", "0.25"),
        ("by=2", "by=3"),
        ("x: float", "x: int"),
        ("take", "make"),
        ("x + by", "x - by"),
        ("return ", "x = "),
        ("RATE = 0.5", "RATE = '0.5'"),
        ("return x", "'no docstring'; y = 'text'; return x"),
    ],
)
def test_meaning_changes_it(key, old, new):
    first = key()
    assert key(CODE.replace(old, new)) != first


def test_what_it_imports(key, tmp_path):
    """Modules below count, wherever they are imported; a name that a room passes on is that of its module."""
    (tmp_path / "room").mkdir()
    (tmp_path / "base").mkdir()
    (tmp_path / "room/__init__.py").write_text("from aasist_lib.room.inner import Step\n")
    (tmp_path / "room/inner.py").write_text(CODE)
    (tmp_path / "room/beside.py").write_text("x = 1\n")
    (tmp_path / "base/errors.py").write_text("x = 1\n")
    code = "from aasist_lib.base import errors\n\ndef f():\n    from aasist_lib.room import Step\n"
    first = key(code)
    assert list(provenance.code_of(code)) == ["aasist_lib.room.inner"]
    assert list(provenance.code_of("from .room import beside")) == []  # relative to nothing
    assert list(provenance.code_of("from aasist_lib.room import beside")) == ["aasist_lib.room.beside"]
    assert list(provenance.code_of("from aasist_lib import room")) == ["aasist_lib.room", "aasist_lib.room.inner"]
    (tmp_path / "room/beside.py").write_text("x = 2\n")
    (tmp_path / "base/errors.py").write_text("x = 2\n")
    assert key(code) == first
    (tmp_path / "room/inner.py").write_text(CODE.replace("0.5", "0.25"))
    assert key(code) != first
    (tmp_path / "base/files.py").write_text("x = 1\n")  # decides what is written
    assert list(provenance.code_of("from aasist_lib.base import files")) == ["aasist_lib.base.files"]


def test_broken_code(key):
    with pytest.raises(SyntaxError):
        key("def f(:")


def test_who_uses_it(tmp_path, monkeypatch):
    """A comment in the code of training throws no checkpoint away, another bound of its gradients does."""
    from test_training import MODEL, TRAIN, write_store

    from aasist_lib import models
    from aasist_lib.store import Store

    store = Store(write_store(tmp_path / "features"))
    network = models.build(MODEL["name"], **{k: v for k, v in MODEL.items() if k != "name"}, coefficients=8, channels=1)

    def keys():
        of_training = loop._key(store, network, params.Train(**TRAIN), {}, 1, 1, None, None)
        return of_training, jobs.cache_key(holdout.__name__, [])

    first = keys()
    copied = shutil.copytree(provenance.LIBRARY, tmp_path / "aasist_lib")
    monkeypatch.setattr(provenance, "LIBRARY", copied)
    assert keys() == first
    text = (copied / "training/loop.py").read_text("utf-8")
    (copied / "training/loop.py").write_text(f"# a comment\n{text}".replace("The training run:", "Training:"), "utf-8")
    (copied / "models/layers.py").open("a").write("\n# another\n")
    assert keys() == first
    (copied / "training/loop.py").write_text(text.replace("GRADIENT_NORM = 1.0", "GRADIENT_NORM = 2.0"), "utf-8")
    assert all(a != b for a, b in zip(keys(), first, strict=True))
