"""The command `aasist`: what is tested.

| test | what must hold |
|---|---|
| formats | table, csv and json say the same as `Detector.score`; the table ends with plain words |
| exit codes | 0 all scored, 3 some not, 2 wrong usage; errors go to stderr alone |
| output | written whole or not at all; impossible places are refused before anything is scored |
| help | comes without loading torch |
| pipes | a reader that stops early is no error |
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_detector import make_detector

from aasist_lib import Detector, cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def two(speech_files) -> list[str]:
    return [str(path) for path in speech_files[:2]]


@pytest.fixture
def score(folder, capsys):
    def run(*arguments):
        code = cli.main(["score", "--detector", str(folder), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_table(score, folder, two):
    code, out, err = score(*two)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["file", "seconds", "llr", "decision"]
    for line, row in zip(lines[1:3], Detector.load(folder).score(two).itertuples(), strict=True):
        assert line.split() == [row.path, f"{row.seconds:.2f}", f"{row.llr:+.2f}", row.decision]
    words = lines[-1]
    assert words.startswith(f"{two[0]}, llr {Detector.load(folder).score(two)['llr'][0]:+.2f}: ")
    assert "not a probability" in words and "spoof below +0.30 (policy equal_error)" in words


def test_csv_and_json(score, folder, two, tmp_path):
    expected = Detector.load(folder).score(two)
    code, out, _ = score(*two, "--format", "csv")
    table = pd.read_csv(io.StringIO(out), keep_default_na=False)
    assert code == 0 and list(table.columns) == ["path", "seconds", "llr", "decision", "error"]
    pd.testing.assert_series_equal(table["llr"], expected["llr"], atol=1e-6, rtol=0)
    absent = str(tmp_path / "absent.wav")
    code, out, err = score(*two, absent, "--format", "json")
    records = json.loads(out)  # strict JSON: no NaN
    assert code == 3 and "NaN" not in out
    assert records[2] == {"path": absent, "seconds": None, "llr": None, "decision": "", "error": "missing"}
    assert [r["decision"] for r in records[:2]] == expected["decision"].tolist()
    assert err == f"aasist: {absent}: missing\n"


def test_some_not_scored(score, two, tmp_path):
    (tmp_path / "bad.wav").write_text("no")
    code, out, err = score(tmp_path / "bad.wav", two[0])
    assert code == 3
    assert "bad.wav" in err and len(err.splitlines()) == 1
    assert "not scored" in out.splitlines()[1] and two[0] in out.splitlines()[2]
    code, out, err = score(tmp_path / "bad.wav")  # none at all
    assert code == 3 and "probability" not in out


def test_output(score, two, tmp_path):
    target = tmp_path / "scores.csv"
    code, out, err = score(*two, "--format", "csv", "--output", target)
    assert (code, out, err) == (0, "", "")
    assert target.read_text() == score(*two, "--format", "csv")[1]
    assert os.listdir(tmp_path) == ["scores.csv"]
    code, _, err = score(*two, "--output", tmp_path / "nowhere/scores.csv")
    assert code == 2 and "nowhere is not a folder" in err


def test_output_is_whole_or_absent(score, two, tmp_path, monkeypatch):
    target = tmp_path / "scores.csv"
    target.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        code, _, err = score(*two, "--output", target)
    assert code == 2 and "No space left" in err
    assert target.read_text() == "before" and os.listdir(tmp_path) == ["scores.csv"]


def test_no_detector(two, tmp_path, monkeypatch, capsys):
    assert cli.main(["score", "--detector", str(tmp_path), *two]) == 2
    assert str(tmp_path / "network.json") in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert cli.main(["score", *two]) == 2
    assert "--detector" in capsys.readouterr().err


def test_the_projects_own_detector_by_default(two, tmp_path, monkeypatch, capsys):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "notebooks").mkdir()
    make_detector(tmp_path / "models/detector")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert cli.main(["score", *two]) == 0
    assert "(policy equal_error)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["score"], ["score", "a.wav", "--format", "xml"], ["sing"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and "usage: aasist" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom aasist_lib import cli\n"
        "try:\n    cli.main(['score', '--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage: aasist score" in done.stdout


def test_a_reader_that_stops_early(folder, two):
    command = (
        f'"{sys.executable}" -m aasist_lib.cli score --detector "{folder}" "{two[0]}" | true; exit ${{PIPESTATUS[0]}}'
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
