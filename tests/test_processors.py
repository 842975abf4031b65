"""The same bytes on every x86-64 processor since AVX2: here and on emulated ones (`make processors`; it takes an hour).

| what | test |
|---|---|
| front-ends, vocoded copies, training with two threads, calibration, metrics, baselines, cues | test_results |
| the tiny corpus, from packages to recordings, and the same on it | test_tiny_corpus |
| every synthesiser | test_synthesisers |
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_corpus import ROOT, SOURCES, TOOLS, not_unpacked, project

from aasist_lib.corpus import build

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64 (Debian: qemu-user)"),
]


@pytest.fixture(scope="module", params=["Haswell", "EPYC-Rome"])
def emulated(request, tmp_path_factory) -> Path:
    """A folder like a virtual environment's, whose Python runs on an emulated processor, as do those that it starts."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "bin").mkdir()
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder)
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    _script(folder / "bin/python", f'-cpu {request.param} -0 "$0" {Path(sys.executable).resolve()}')
    # the corpus's tools, with Debian's programs emulated too
    tools, debian = folder / "tools", TOOLS / "debian"
    (tools / "debian/usr/bin").mkdir(parents=True)
    for place in TOOLS, debian, debian / "usr":
        for path in place.glob("*"):
            link = tools / path.relative_to(TOOLS)
            if not link.exists():
                link.symlink_to(path)
    for program in (debian / "usr/bin").glob("*"):
        _script(tools / program.relative_to(TOOLS), f"-cpu {request.param} {program}")
    return folder


def _script(path: Path, command: str) -> None:
    path.write_text(f'#!/bin/sh\nexec qemu-x86_64 {command} "$@"\n', "utf-8")
    path.chmod(0o755)


def results(python: Path | str, *folders: Path) -> str:
    command = [python, ROOT / "tests/results.py", *folders]
    environment = os.environ | {"AASIST_TERMINAL": ""}  # no progress: its threads begin and end
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def test_results(tmp_path, emulated):
    here = results(sys.executable, tmp_path / "here")
    assert len(here.splitlines()) == 16
    assert results(emulated / "bin/python", tmp_path / "there") == here


@pytest.mark.skipif(bool(not_unpacked(build.read_sources("tiny")["packages"])), reason="run `make repro` first")
def test_tiny_corpus(tmp_path, emulated):
    hashes, found = [], []
    for name, python, tools in (
        ("here", sys.executable, TOOLS),
        ("there", emulated / "bin/python", emulated / "tools"),
    ):
        folder = project(tmp_path / name, 2, tools)
        subprocess.run([python, "-m", "aasist_lib.corpus", "build"], cwd=folder, check=True)
        files = sorted((folder / "corpus").rglob("*.*"))
        hashes.append({file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in files})
        found.append(results(python, tmp_path / f"{name}-results", folder / "corpus"))
    assert len(hashes[0]) > 120 and hashes[0] == hashes[1]
    assert found[0] == found[1]


@pytest.mark.parametrize("attack", SOURCES["attacks"])
def test_synthesisers(attack, tmp_path, emulated, speech, monkeypatch):
    entry = SOURCES["attacks"][attack]
    if missing := not_unpacked(entry["packages"]):
        pytest.skip(f"not unpacked in build/corpus/tools, as `dvc repro corpus` does: {', '.join(missing)}")
    if entry.get("copy"):
        (tmp_path / "raw").mkdir()
        shutil.copy(speech / "asterisk-it-vm-calldiffnum.flac", tmp_path / "raw/carlo-0000.flac")
        given = [{"source": str(tmp_path / "raw/carlo-0000.flac")}]
    else:
        voices = [voice.split("/") for voices in entry["voices"].values() for voice in voices]
        text = "A strange ship lies at the bottom of the sea and nobody has been there for many years."
        given = [{"text": text, "voice": voice, "language": language} for language, voice in voices[:3]]
    heard = []
    for python, tools in ((sys.executable, TOOLS), (str(emulated / "bin/python"), emulated / "tools")):
        monkeypatch.setattr(sys, "executable", python)
        jobs = [job | {"out": str(tmp_path / f"{len(heard)}-{n}.wav"), "seed": n} for n, job in enumerate(given)]
        said = build._run_program(entry | {"attack": attack}, jobs, tools)
        assert all(Path(job["out"]).exists() for job in jobs), said
        heard.append([Path(job["out"]).read_bytes() for job in jobs])
    assert heard[0] == heard[1]
