"""aasist_lib.base.cluster: extraction and scoring by the processes of a Dask cluster.

| what | test |
|---|---|
| an error of a job arrives as it was raised | test_error |
| no scheduler: one line | test_nobody |
| a cluster writes the same bytes as one process, and nothing is lost with a worker killed at work | test_killed |
| without an address, a cluster of this machine; one line of a job that kills whatever does it; it ends then | test_local |
| jobs are taken while others are done, not all at once, with Dask and without | test_few_at_a_time |
| `aasist score` on a cluster says what it says here, in the same order, of files that cannot be scored too | test_score |
"""  # noqa: E501

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import pandas as pd
import psutil
import pytest
from test_detector import make_detector
from test_store import SETTINGS, bytes_of, table_of

from aasist_lib import cli, store
from aasist_lib.base.errors import UserError
from aasist_lib.base.workers import in_processes

ROOT = Path(__file__).parents[1]
LOCAL = {"backend": "dask", "address": ""}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The settings of a scheduler that answers, and the processes of its two workers."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(kind, *options):
        command = [sys.executable, "-m", "distributed.cli.dask_" + kind, "--no-dashboard", *options]
        command += ["--scheduler-file", folder / "scheduler.json"]
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)

    started = [start("scheduler", "--host", "127.0.0.1", "--port", "0")]
    while not (folder / "scheduler.json").exists():
        assert started[0].poll() is None
        time.sleep(0.05)
    address = json.loads((folder / "scheduler.json").read_text())["address"]
    options = ["--no-nanny", "--nthreads", "1", "--local-directory", folder]
    started += [start("worker", *options) for _ in range(2)]
    yield {"backend": "dask", "address": address}, started[1:]
    for process in started:
        process.kill()
        process.wait(20)


def test_error(cluster):
    with pytest.raises(ZeroDivisionError):
        list(in_processes(exec, ["1 / 0"], 1, "extract.workers", cluster[0]))


def test_nobody(monkeypatch):
    monkeypatch.setattr("aasist_lib.base.cluster.SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:9", "nowhere"):
        with pytest.raises(UserError, match=f"no scheduler answers at {address}.*start one"):
            list(in_processes(exec, ["pass"], 1, "extract.workers", {"backend": "dask", "address": address}))


def test_killed(cluster, speech, speech_files, tmp_path):
    compute, (first, second) = cluster
    table, done = table_of(speech_files, 6), tmp_path / "features.partial/done"

    def kill_one():
        while len(list(done.glob("*.csv"))) < 2:
            time.sleep(0.01)
        first.kill()

    threading.Thread(target=kill_one, daemon=True).start()
    store.extract(table, speech, tmp_path / "features", SETTINGS, compute=compute)
    assert first.wait(20) == -9 and second.poll() is None
    store.extract(table, speech, tmp_path / "alone", SETTINGS)
    assert bytes_of(tmp_path / "features") == bytes_of(tmp_path / "alone")
    assert len(list((tmp_path / "alone").glob("shard-*"))) == 9


def test_local():
    before = psutil.Process().children(recursive=True)
    jobs = ["import os; os.kill(os.getpid(), 9)"]
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        with pytest.raises(UserError, match="killed at the same job.*set extract.workers lower"):
            list(in_processes(exec, jobs, 1, "extract.workers", LOCAL))
    left = [process for process in psutil.Process().children(recursive=True) if process not in before]
    assert all("resource_tracker" in " ".join(process.cmdline()) for process in left)  # which is Python's own


@pytest.mark.parametrize("backend", ["local", "dask"])
def test_few_at_a_time(backend, cluster):
    taken = []
    jobs = (taken.append(number) or f"{number}" for number in range(30))
    compute = cluster[0] if backend == "dask" else {"backend": "local", "address": ""}
    for number, job in enumerate(done := in_processes(eval, jobs, 2, "extract.workers", compute)):
        assert len(taken) <= number + 6 and int(job) in taken
    assert number == 29 and list(done) == []


def test_score(cluster, speech, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("aasist_lib.serving.bulk.PIECE", 5)
    monkeypatch.chdir(speech.parent)  # the workers are elsewhere
    folder, absent, tables = make_detector(tmp_path / "detector"), tmp_path / "absent.wav", []
    for options in ([], ["--cluster", cluster[0]["address"]]):
        output = tmp_path / f"scores-{len(options)}.csv"
        asked = [speech.name, str(absent), "--detector", str(folder), "--format", "csv", "--output", str(output)]
        assert cli.main(["score", *asked, *options]) == cli.SOME_NOT_SCORED
        left_out = "aasist: left out, as not named like recordings: 1 .md"
        assert capsys.readouterr().err == f"{left_out}\naasist: {absent}: missing\n"
        tables.append(pd.read_csv(output, keep_default_na=False, na_values={"llr": [""], "seconds": [""]}))
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-4, atol=1e-4)
    assert len(tables[0]) > 20
