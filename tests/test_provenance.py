"""What decides the last digits, and what a key of code tells apart.

| what | test |
|---|---|
| comments, docstrings, layout, order and folders above change no key | test_words_change_nothing |
| a number, a default, a name, a line, an annotation, another file does | test_meaning_changes_it |
| what took hours is kept under such keys: training's and the audit's | test_who_uses_it |
"""

import shutil
from pathlib import Path

import pytest

import aasist_lib
from aasist_lib import holdout, training
from aasist_lib.provenance import code_key

CODE = '''"""A module."""

RATE = 0.5  # a share


class Step:
    """One of many."""

    def take(self, x: float, by=2):
        """Moves on."""
        return x + by * RATE
'''


def key(folder: Path, code: str = CODE, name: str = "step.py") -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(code, "utf-8")
    return code_key([folder / name])


def test_words_change_nothing(tmp_path):
    first = key(tmp_path / "code")
    assert len(first) == 32 and first == key(tmp_path / "code")
    for old, new in {
        '"""A module."""': '"""What it does,\n\nat length."""',
        '    """One of many."""\n\n': "",
        '        """Moves on."""\n': "",
        "  # a share": "",
        "x + by * RATE": "(\n            x\n            + by * RATE  # so far\n        )",
    }.items():
        changed = CODE.replace(old, new)
        assert changed != CODE and key(tmp_path / "code", changed) == first, old
    assert key(tmp_path / "elsewhere/code") == first
    key(tmp_path / "code"), key(tmp_path / "code", "x = 1\n", "other.py")
    files = [tmp_path / "code/step.py", tmp_path / "code/other.py"]
    assert code_key(files) == code_key(map(str, reversed(files))) != first


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
def test_meaning_changes_it(tmp_path, old, new):
    first = key(tmp_path)
    assert key(tmp_path, CODE.replace(old, new)) != first


def test_another_name(tmp_path):
    assert key(tmp_path) != key(tmp_path, name="stride.py")


def test_broken_code(tmp_path):
    with pytest.raises(SyntaxError):
        key(tmp_path, "def f(:")


def test_who_uses_it(tmp_path, monkeypatch):
    """A comment in the code of training throws no checkpoint away, another learning rate's factor does."""
    from test_training import MODEL, TRAIN, write_store

    from aasist_lib import losses, models
    from aasist_lib.store import Store

    store = Store(write_store(tmp_path / "features"))
    network = models.build(MODEL["name"], **{k: v for k, v in MODEL.items() if k != "name"}, coefficients=8, channels=1)

    def keys():
        of_training = training._key(store, network, training._settings(TRAIN), {}, 1, 1, None, None)
        return of_training, holdout._key(store, [])

    first = keys()
    copied = shutil.copytree(Path(aasist_lib.__file__).parent, tmp_path / "aasist_lib")
    for module in (training, holdout, losses, models):
        there = copied / Path(module.__file__).relative_to(Path(aasist_lib.__file__).parent)
        monkeypatch.setattr(module, "__file__", str(there))
    assert keys() == first
    text = (copied / "training.py").read_text("utf-8")
    (copied / "training.py").write_text(f"# a comment\n{text}".replace("The training run:", "Training:"), "utf-8")
    (copied / "models/layers.py").open("a").write("\n# another\n")
    assert keys() == first
    (copied / "training.py").write_text(text.replace("GRADIENT_NORM = 1.0", "GRADIENT_NORM = 2.0"), "utf-8")
    assert all(a != b for a, b in zip(keys(), first, strict=True))
