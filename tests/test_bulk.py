"""Scoring very many recordings, and sound that still arrives.

| what | test |
|---|---|
| several processes give the file that one gives; parquet holds the same | test_same_file, test_parquet |
| Ctrl-C ends it with one line | test_stopped |
| killed, it goes on from what is done and ends with the same file; another detector starts afresh | test_killed |
| wrong usage is said in one line | test_usage |
| sound from a pipe: a score every second, of the last seconds, before more has arrived | test_follow |
"""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aasist_lib import Detector, audio, cli
from aasist_lib.serving import bulk, stream

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def many(tmp_path_factory, speech_files) -> Path:
    """A hundred recordings and something that is none."""
    there = tmp_path_factory.mktemp("many")
    for number in range(100):
        of = speech_files[number % len(speech_files)]
        (there / f"{number:03d}{of.suffix}").symlink_to(of)
    (there / "050-broken.wav").write_text("no sound")
    return there


@pytest.fixture(scope="module")
def wanted(folder, many, tmp_path_factory) -> bytes:
    output = tmp_path_factory.mktemp("wanted") / "scores.csv"
    assert cli.main(["score", "--detector", str(folder), str(many), "--format", "csv", "--output", str(output)]) == 3
    return output.read_bytes()


def command(folder, many, output):
    return ["score", "--detector", str(folder), str(many), "--format", "csv", "--jobs", "2", "--output", str(output)]


def test_same_file(folder, many, wanted, tmp_path, capsys):
    assert cli.main(command(folder, many, tmp_path / "scores.csv")) == 3
    assert (tmp_path / "scores.csv").read_bytes() == wanted
    assert os.listdir(tmp_path) == ["scores.csv"]
    assert "050-broken.wav" in capsys.readouterr().err


def test_parquet(folder, many, wanted, tmp_path):
    bulk.score(many, folder, tmp_path / "scores.parquet", jobs=1)
    found = pd.read_parquet(tmp_path / "scores.parquet")
    expected = pd.read_csv(io.BytesIO(wanted), dtype=bulk.TEXT, keep_default_na=False, na_values=[""])
    assert found["path"].tolist() == expected["path"].tolist()
    np.testing.assert_allclose(found["llr"], expected["llr"], atol=1e-6)
    assert (found["error"] != "").sum() == 1


def test_killed(folder, many, wanted, tmp_path):
    output, table = tmp_path / "scores.csv", tmp_path / "scores.csv.partial/scores.csv"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "aasist_lib.cli", *command(folder, many, output)]
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    while not table.exists() or table.read_text().count("\n") <= bulk.PIECE:
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not output.exists()
    rows = table.read_text().splitlines(keepends=True)
    assert bulk.PIECE < len(rows) < 102
    # a mark that only a row taken over can have, and a line that the kill has cut
    marked = rows[1].split(",")
    marked[2] = "77.0"
    table.write_text("".join([rows[0], ",".join(marked), *rows[2:], rows[3][:-9]]))
    assert cli.main(command(folder, many, output)) == 3
    found, expected = output.read_text().splitlines(), wanted.decode().splitlines()
    (number,) = (number for number, line in enumerate(found) if line != expected[number])
    assert found[number].startswith(f"{marked[0]},") and ",77.0," in found[number]

    table.parent.mkdir()
    (table.parent / "detector").write_text("another")
    table.write_text("".join([rows[0], ",".join(marked)]))
    assert cli.main(command(folder, many, output)) == 3
    assert output.read_bytes() == wanted


def test_stopped(folder, many, tmp_path):
    """Ctrl-C, which a terminal sends to all processes, also to those that are just being started."""
    arguments = [sys.executable, "-m", "aasist_lib.cli", *command(folder, many, tmp_path / "scores.csv")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "scores.csv.partial/scores.csv").exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert err.endswith("aasist: stopped: the same command goes on from what is done\n") and "Traceback" not in err
    assert (out, process.returncode) == ("", 130) and os.listdir(tmp_path) == ["scores.csv.partial"]


def test_usage(folder, many, tmp_path, capsys):
    def said(*arguments):
        assert cli.main(["score", "--detector", str(folder), *map(str, arguments)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    for arguments in ([], ["--follow", str(many)]):
        with pytest.raises(SystemExit):
            cli.main(["score", *arguments])
        assert "or give --follow" in capsys.readouterr().err
    assert "--jobs: goes with" in said(many, "--jobs", 2)
    (tmp_path / "scores.csv.partial").mkdir()
    (tmp_path / "scores.csv.partial/mine").touch()
    assert "is in the way" in said(many, "--jobs", 2, "--format", "csv", "--output", tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv.partial/mine").exists()


def test_follow(folder, speech_files):
    detector = Detector.load(folder)
    rate = detector.sample_rate
    sound = np.concatenate([audio.read(path, rate) for path in speech_files])[: round(5.5 * rate)]
    raw = np.round(sound * 32767).astype("<i2")
    sound = raw.astype(np.float32) / 32768
    arguments = [sys.executable, "-m", "aasist_lib.cli", "score", "--follow", "--detector", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"start,end,llr,decision,delay_ms\n"
    for second in range(5):
        process.stdin.write(raw[second * rate : (second + 1) * rate].tobytes())
        process.stdin.flush()
        start, end, llr, decision, delay = process.stdout.readline().decode().strip().split(",")  # before more arrives
        first = max(0, second + 1 - round(stream.WINDOW))
        assert (float(start), float(end)) == (first, second + 1)
        wanted = float(detector.calibrated(detector.backend(sound[first * rate : (second + 1) * rate])))
        assert float(llr) == pytest.approx(wanted, abs=1e-3)
        assert decision == detector.decide(wanted) and float(delay) > 0
    process.stdin.write(raw[5 * rate :].tobytes())
    rest, _ = process.communicate()
    assert rest.decode().startswith("1.5,5.5,") and process.returncode == 0
