"""What may happen to a long run, done to it.

| what | test |
|---|---|
| kill -9 of `dvc repro` with all its processes, at random moments of a stage, 20 times: the next run ends with the bytes of an undisturbed one (`make faults`) | test_killed_at_random |
| a full disk while features are extracted or a network is trained: one line, nothing half taken for whole, and with room again it goes on to the same bytes | test_full_disk_in_extract, test_full_disk_in_train |
| the same said by whatever library writes | test_full_disk_is_told |
| a clock that was set back | test_clock_set_back |
| a checkout that nobody may write to: scoring works | test_read_only |

A shard with flipped bits is in test_store.py; two `dvc repro` at once, and folders with spaces and letters beyond ASCII,
in test_end_to_end.py; a stage that outlived its `dvc repro` in test_pipeline.py.
"""  # noqa: E501

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_detector import make_detector
from test_store import SETTINGS, bytes_of, table_of
from test_training import fit, write_store

from aasist_lib.base.errors import UserError, full_disk_told
from aasist_lib.store import store

ROOT = Path(__file__).parents[1]
STAGES = {
    "corpus": ["corpus"],
    "extract": ["features", "runs/10_extract.ipynb", "runs/tables/extract.json"],
    "train": ["models/network", "runs/20_train.ipynb", "runs/tables/train.json", "metrics/history.csv"],
    "evaluate": ["scores/eval.csv", "runs/40_evaluate.ipynb", "metrics/eval.json", "metrics/confusion.csv"],
}
TIMES = int(os.environ.get("FAULTS", "20"))
FULL = "the disk is full; make room and start again"


def mount(*options):
    done = subprocess.run(["mount", *map(str, options)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, of 128 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=128k", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", folder], check=True)


def grow(disk):
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


def test_full_disk_in_extract(disk, speech, speech_files, tmp_path):
    table = table_of(speech_files, 2)
    store.extract(table, speech, tmp_path / "wanted", SETTINGS)
    with pytest.raises(UserError, match=f"features: {FULL}"):
        store.extract(table, speech, disk / "features", SETTINGS)
    assert not (disk / "features").exists()
    grow(disk)
    store.extract(table, speech, disk / "features", SETTINGS)
    assert bytes_of(disk / "features") == bytes_of(tmp_path / "wanted")


def test_full_disk_in_train(disk, tmp_path):
    held = write_store(tmp_path / "features")
    fit(held, tmp_path)
    with pytest.raises(UserError, match=f"network: {FULL}"):
        fit(held, disk)
    assert not (disk / "network").exists()
    grow(disk)
    fit(held, disk)
    assert bytes_of(disk / "network") == bytes_of(tmp_path / "network")


def test_full_disk_is_told(disk, tmp_path):
    with full_disk_told(disk / "x"):
        (disk / "x").write_bytes(b"there is room")
    with pytest.raises(RuntimeError, match="of another kind"), full_disk_told(disk / "x"):
        raise RuntimeError("of another kind")
    with pytest.raises(UserError, match=FULL), full_disk_told(tmp_path / "x"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    with pytest.raises(UserError, match=FULL), full_disk_told(disk / "not/there"):
        try:
            (disk / "y").write_bytes(bytes(1 << 18))
        except OSError:
            raise RuntimeError("iostream error") from None  # as libraries in C++ say it
    assert sorted(path.name for path in disk.iterdir()) == ["x", "y"]


def test_clock_set_back(speech, speech_files, tmp_path, monkeypatch):
    """What was written in what is now the future is gone on from."""
    table, folder, work, done = table_of(speech_files, 2), tmp_path / "features", store._work, []
    store.extract(table, speech, tmp_path / "wanted", SETTINGS)

    def stopped(job):
        if job.number == 2:
            raise KeyboardInterrupt
        work(job)

    monkeypatch.setattr(store, "_work", stopped)
    with pytest.raises(KeyboardInterrupt):
        store.extract(table, speech, folder, SETTINGS)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    for path in [tmp_path / "features.partial", *(tmp_path / "features.partial").rglob("*")]:
        os.utime(path, (now + 86400, now + 86400))
    monkeypatch.setattr(store, "_work", lambda job: (done.append(job.number), work(job)))
    store.extract(table, speech, folder, SETTINGS)
    assert done and 0 not in done and 1 not in done
    assert bytes_of(folder) == bytes_of(tmp_path / "wanted")


def test_read_only(tmp_path, speech_files):
    project, there = tmp_path / "project", tmp_path / "read-only"
    shutil.copytree(ROOT / "aasist_lib", project / "aasist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    make_detector(project / "models/detector")
    shutil.copy(ROOT / "dvc.yaml", project)
    shutil.copy(speech_files[0], project / "clip.wav")
    there.mkdir()
    mount("--bind", project, there)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", there], check=True)
        with pytest.raises(OSError):
            (there / "x").touch()
        command = [sys.executable, "-m", "aasist_lib.cli", "score", "clip.wav"]
        environment = os.environ | {"PYTHONPATH": str(there)}
        done = subprocess.run(command, cwd=there, capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and "clip.wav" in done.stdout, done.stderr
    finally:
        subprocess.run(["umount", there], check=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The tiny corpus and all stages, run undisturbed, in a folder with a name that not every program likes."""
    from aasist_lib.pipeline import quick

    folder = tmp_path_factory.mktemp("faults") / "Störung im проект"
    assert quick.quick(ROOT, folder) == 0
    return folder


def command(stage):
    return [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", stage]


def environment(project):
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": beside, "AASIST_DOWNLOADS": str(ROOT / ".cache/downloads"), "DVC_NO_ANALYTICS": "1"}


def run(project, stage):
    start = time.monotonic()
    done = subprocess.run(command(stage), cwd=project, env=environment(project), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - start


def made(project, stage):
    """Every file that a stage made, and its hash."""
    files = [path for name in STAGES[stage] for path in [project / name, *(project / name).rglob("*")]]
    found = {str(path.relative_to(project)): path.read_bytes() for path in files if path.is_file()}
    assert len(found) >= 3
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


@pytest.mark.faults
@pytest.mark.skipif(not shutil.which("apt-get"), reason="the default corpus needs apt-get")
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random(project, stage):
    wanted, rng, killed = made(project, stage), random.Random(stage), 0
    seconds = run(project, stage)
    assert made(project, stage) == wanted
    for _ in range(TIMES):
        process = subprocess.Popen(
            command(stage), cwd=project, env=environment(project), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(rng.uniform(0.1, 1) * seconds)
        killed += process.poll() is None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was done already
        process.wait()
        run(project, stage)
        assert made(project, stage) == wanted
    print(f"{stage}: killed {killed} of {TIMES} times before it was done")
    assert killed >= TIMES / 2
