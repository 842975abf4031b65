"""The environment and the files around the code say the same things.

| what | test |
|---|---|
| requirements.lock is exact, public, and satisfies every range of pyproject.toml | test_lock |
| every locked package supports every Python that pyproject.toml allows | test_lock_for_every_python |
| environment.yml adds nothing of its own | test_environment |
| the Makefile and the runner keep the same things inside the checkout | test_kept_inside |
| a library that reports to its maker does not, and leaves nothing in the home directory | test_nothing_kept_at_home |
| make without a usable python3 says so in one line | test_make_without_python |
| a checkout may lie anywhere; moved or copied, it gets an environment of its own | test_make_anywhere |
| DVC calls nobody; its templates exist; what stages make is not in git | test_dvc_config, test_ignored |
| CI runs make test, with the distribution's Python | test_ci |
| the settings of `make quick` are valid | test_tiny_settings |
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from aasist_lib.pipeline import quick, run

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_lock():
    assert re.match("# ", LOCK[0]) and not any(line.startswith("#") for line in LOCK[1:])
    locked = {}
    for line in LOCK[1:]:
        pin = Requirement(line)
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and "*" not in specifier.version and "+" not in specifier.version, line
        assert pin.url is None and "--" not in line
        locked[canonicalize_name(pin.name)] = specifier.version
    assert len(locked) == len(LOCK) - 1 and LOCK[1:] == sorted(LOCK[1:], key=str.upper)
    wanted = PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"]
    wanted += [line for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_lock_for_every_python():
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    for line in LOCK[1:]:
        pin = Requirement(line)
        if pin.marker is None:
            wants = metadata.metadata(pin.name).get("Requires-Python") or ""
            for version in ("3.11.2", "3.13.0"):  # Debian 12 has 3.11.2
                assert SpecifierSet(wants).contains(version), f"{line} wants Python {wants}"


def test_environment():
    environment = YAML(typ="safe").load(ROOT / "environment.yml")
    assert environment["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.lock", "-e ."]}]


def test_kept_inside():
    exports = dict(re.findall(r"^export (\w+) := \$\(CURDIR\)/(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert exports == run.KEPT_INSIDE


def test_nothing_kept_at_home(tmp_path):
    """onnxruntime would put a device id there, with which it reports to its maker."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import aasist_lib, onnxruntime; onnxruntime.SessionOptions()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


def copy_for_make(folder):
    (folder / "aasist_lib").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "aasist_lib/pins.env"):
        shutil.copy(ROOT / name, folder / name)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("python, said", [("false", "Python 3.11, 3.12 or 3.13 is needed")])
def test_make_without_python(tmp_path, python, said):
    copy_for_make(tmp_path)
    done = subprocess.run(["make", "install", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and done.stderr.startswith(said)
    assert not (tmp_path / ".venv").exists()


@pytest.fixture
def checkout(tmp_path):
    """A checkout in whose environment all programs but `jupyter` do nothing, and a Python that makes such ones."""
    folder = tmp_path / "mit Leerzeichen/Störung"
    copy_for_make(folder)
    python = tmp_path / "a python"
    python.write_text(f"""#!/bin/sh
[ "$2" = venv ] || exit 0
{sys.executable} "$@" --without-pip
ln -sf /bin/true .venv/bin/python
printf '#!/bin/sh\\necho "$2"' > .venv/bin/jupyter
chmod +x .venv/bin/jupyter
""")
    python.chmod(0o755)
    return folder


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_anywhere(tmp_path, checkout):
    def make(folder, *arguments):
        command = ["make", "--no-print-directory", f"PYTHON={tmp_path / 'a python'}", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_made(folder):
        return subprocess.run(["make", "--question", ".venv/ready"], cwd=folder).returncode == 0

    make(checkout, "install")
    assert is_made(checkout)
    assert make(checkout, "lab").splitlines()[-1] == f"--notebook-dir={checkout}"
    activated = '. .venv/bin/activate; echo "$DVC_SITE_CACHE_DIR"'
    shown = subprocess.run(["sh", "-c", activated], cwd=checkout, capture_output=True, text=True).stdout
    assert shown == f"{checkout}/{run.KEPT_INSIDE['DVC_SITE_CACHE_DIR']}\n"
    (tmp_path / "link").symlink_to(checkout)
    assert is_made(tmp_path / "link")

    moved, copied = checkout.rename(tmp_path / "moved"), tmp_path / "copied"
    shutil.copytree(moved, copied, symlinks=True)
    for folder in (moved, copied):
        left = folder / ".venv/bin/left"
        left.touch()
        assert not is_made(folder)
        make(folder, "install")
        assert is_made(folder) and not left.exists()
        left.touch()
    os.utime(copied / "requirements.lock", (time.time() + 1,) * 2)
    make(copied, "install")
    assert (copied / ".venv/bin/left").exists()  # another lock alone: what is installed stays


def test_make_lists_its_targets():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert re.findall(r"^make (\w+)", listed, re.MULTILINE) == targets


def test_dvc_config():
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config and "check_update = false" in config and "remote" not in config
    for path in (ROOT / ".dvc/plots").glob("*.json"):
        assert "<DVC_METRIC_DATA>" in json.dumps(json.loads(path.read_text()))
    used = re.findall(r"template: (\w+)", (ROOT / "dvc.yaml").read_text())
    assert {f"{name}.json" for name in used} == {path.name for path in (ROOT / ".dvc/plots").iterdir()}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_ignored():
    made = ["corpus/a", "data/a", "features/a", "models/a", "runs/a", "scores/a", "build/a", ".venv/a", ".cache/a"]
    made += ["features.partial/a", "features.old/a", "corpus.partial/a", "metrics/a.json.partial", "README.md.partial"]
    kept = ["data.dvc", "dvc.lock", "metrics/eval.json", "metrics/tables/eval.csv", "reports/index.html"]
    kept += ["aasist_lib/models/x.py"]
    listed = subprocess.run(
        ["git", "check-ignore", "--no-index", *made, *kept], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert listed.split() == made


def test_ci(tmp_path):
    usable = "import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"
    system = Path("/usr/bin/python3")
    if not system.exists() or subprocess.run([system, "-c", usable], capture_output=True).returncode:
        pytest.skip("the distribution has no Python from 3.11 to 3.13 that makes environments")
    for name, line in {"make": 'echo "$PYTHON $1"', "apt-get": "", "python3": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([ROOT / ".ci/run"], env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{system} install", f"{system} test"], done.stderr


def test_tiny_settings(tmp_path):
    (tmp_path / "experiments").mkdir()
    for name in ("params.yaml", "experiments/tiny.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    quick.set_tiny(tmp_path)
    before, after = ((path / "params.yaml").read_text("utf-8").splitlines() for path in (ROOT, tmp_path))
    changed = [new.split()[0] for old, new in zip(before, after, strict=True) if old.replace('""', "''") != new]
    audit = ["bootstrap:", "utterances:", "fakes:", "held_out_attacks:", "held_out_sources:", "held_out_trials:"]
    assert changed == ["profile:", "max_epochs:", "bootstrap:", *audit]
