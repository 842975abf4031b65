"""The command `aasist`: what is tested.

| test | what must hold |
|---|---|
| formats | table, csv and json say the same as `Detector.score`; the table ends with plain words |
| exit codes | 0 all scored, 3 some not, 2 wrong usage; errors go to stderr alone |
| output | written whole or not at all; impossible places are refused before anything is scored; links and pipes stay |
| stopped | Ctrl-C ends with one line and 130, and nothing that was scored is lost |
| left out | what is not taken from a folder is counted |
| help | comes without loading torch |
| pipes | a reader that stops early is no error |
| metrics | tables and json say what the library says; alarms come first; wrong files are one line and exit code 2 |
"""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from test_detector import make_detector
from test_scorefiles import KEYS_LA, some_scores, tandem_files

from aasist_lib import Detector, cli, evaluation

ROOT = Path(__file__).parents[1]


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
    for name, asked in {"a.csv": "csv", "A.JSON": "json", "a.txt": "table"}.items():  # as the name says
        score(*two, "--output", tmp_path / name)
        assert (tmp_path / name).read_text() == score(*two, "--format", asked)[1]
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


@pytest.mark.parametrize("arguments", [["--format", "csv"], ["--format", "csv", "--jobs", "1"]])
def test_output_to_a_link_and_to_a_pipe(score, two, tmp_path, arguments):
    wanted = score(*two, "--format", "csv")[1]
    (tmp_path / "there").mkdir()
    (tmp_path / "there/scores").write_text("before")
    (tmp_path / "link").symlink_to("there/scores")
    assert score(*two, *arguments, "--output", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there/scores").read_text() == wanted
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert score(*two, *arguments, "--output", tmp_path / "pipe")[0] == 0
    reader.join()
    assert read == [wanted] and (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe", "there"] and os.listdir(tmp_path / "there") == ["scores"]


def test_output_to_where_standard_output_goes(folder, two, tmp_path):
    (tmp_path / "log").write_text("before\n")
    command = f'"{sys.executable}" -m aasist_lib.cli score --detector "{folder}" "{two[0]}" --output /dev/stdout'
    subprocess.run(["bash", "-c", f'{command} >> "{tmp_path}/log"'], check=True, cwd=ROOT)
    before, *scores = (tmp_path / "log").read_text().splitlines()
    assert before == "before" and scores[1].startswith(two[0])


def test_output_that_cannot_be_written_is_said_first(score, measure, two, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Detector, "load", lambda *_: pytest.fail("began to score"))
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    commands = [
        lambda output: score(*two, "--output", output), lambda output: score(*two, "--jobs", 2, "--output", output),
        lambda output: measure(some_scores(), "--output", output),
        lambda output: (cli.main(["export", "--output", str(output)]), *capsys.readouterr()),
    ]  # fmt: skip
    for run in commands:
        # nobody, root neither, makes files in /proc
        for output, said in {"folder": "is a folder", ".": "is a folder", "/proc/a.csv": "cannot be written"}.items():
            code, out, err = run(output)
            assert (code, out) == (2, "") and said in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["a.tsv", "a.xlsx", "a.PARQUET"])
def test_output_is_what_its_name_says(score, two, tmp_path, name):
    code, _, err = score(*two, "--output", tmp_path / name)
    if name == "a.PARQUET":
        assert code == 0 and len(pd.read_parquet(tmp_path / name)) == 2
    else:
        assert code == 2 and "none of .csv, .json, .parquet, .txt" in err and not os.listdir(tmp_path)
        assert score(*two, "--output", tmp_path / name, "--format", "csv")[0] == 0


def test_name_that_is_no_text(score, two, tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(Path(two[0]).read_bytes())
    wanted = str(tmp_path / r"caf\xe9.wav")
    for form in "table", "csv", "json":
        code, out, err = score(tmp_path, two[1], "--format", form)
        assert (code, err) == (0, "") and (json.dumps(wanted) if form == "json" else wanted) in out
    (tmp_path / "out").mkdir()
    for name in "a.csv", "a.parquet":
        assert score(tmp_path, "--jobs", 1, "--output", tmp_path / "out" / name)[0] == 0
    assert pd.read_csv(tmp_path / "out/a.csv")["path"].tolist() == [wanted]
    assert pd.read_parquet(tmp_path / "out/a.parquet")["path"].tolist() == [wanted]


def test_what_is_left_out_is_counted(score, two, tmp_path):
    for name in ("a.txt", "b.TXT", "README", ".hidden.wav"):
        (tmp_path / name).touch()
    (tmp_path / "a.wav").write_bytes(Path(two[0]).read_bytes())
    code, out, err = score(tmp_path)
    assert code == 0 and out.splitlines()[1].startswith(str(tmp_path / "a.wav"))
    assert err.startswith("aasist: left out") and err.count("\n") == 1
    assert "2 .txt" in err and "1 without an ending" in err and "1 hidden" in err


@pytest.mark.parametrize("output", [[], ["--output", "scores.csv"]])
def test_stopped_while_scoring(score, two, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    whole, one = score(two[0], "--format", "csv")[1], Detector.score_file

    def interrupted(self, path):
        if str(path) == two[1]:
            raise KeyboardInterrupt
        return one(self, path)

    monkeypatch.setattr(Detector, "score_file", interrupted)
    code, out, err = score(*two, "--format", "csv", *output)
    assert code == 130 and err.startswith("aasist: stopped: 1 of 2 recordings are scored") and err.count("\n") == 1
    assert (Path("scores.csv.stopped").read_text() if output else out) == whole
    assert os.listdir() == (["scores.csv.stopped"] if output else [])


def test_stopped_while_measuring(measure, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("aasist_lib.evaluation.scorefiles.measure", interrupted)
    assert measure(some_scores()) == (130, "", "aasist: stopped\n")


def test_stopped_while_following(folder):
    command = [sys.executable, "-m", "aasist_lib.cli", "score", "--follow", "--detector", str(folder)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        process.stdout.readline()
        process.stdin.write(bytes(2 * 16000))
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"0.0,1.0,,,")  # of silence nothing is said
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"aasist: stopped\n" and process.wait() == 130


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


@pytest.mark.parametrize("command", ["score", "metrics"])
def test_help_needs_no_torch(command):
    code = (
        "import sys\nfrom aasist_lib import cli\n"
        f"try:\n    cli.main(['{command}', '--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"usage: aasist {command}" in done.stdout


def test_a_reader_that_stops_early(folder, two):
    command = (
        f'"{sys.executable}" -m aasist_lib.cli score --detector "{folder}" "{two[0]}" | true; exit ${{PIPESTATUS[0]}}'
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def measure(tmp_path, capsys):
    """`aasist metrics` on a table that is both scores and keys, or on files."""

    def run(table, *arguments, format="csv"):
        if isinstance(table, pd.DataFrame):
            table.to_csv(tmp_path / "scores.csv", index=False, na_rep="nan")
            files = [tmp_path / "scores.csv"] * 2
        else:
            files = table
        code = cli.main(["metrics", *map(str, files), "--format", format, *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


USUAL_COSTS = {"prior_spoof": 0.05, "cost_miss": 1.0, "cost_false_alarm": 10.0}
COSTS = ["--prior-spoof", "0.5", "--cost-miss", "2", "--cost-false-alarm", "1"]


@pytest.mark.parametrize(
    "options, over, settings",
    [
        (["--bootstrap", "20", "--seed", "3"], "speakers and attacks", dict(replicates=20, seed=3)),
        (["--bootstrap", "20", "--trials"], "single trials", dict(replicates=20, clusters=False)),
        (["--bootstrap", "0"], "", dict(replicates=0)),
        (["--bootstrap", "0", *COSTS], "", dict(replicates=0, prior_spoof=0.5, cost_miss=2.0, cost_false_alarm=1.0)),
    ],
)
def test_metrics_as_json(measure, options, over, settings):
    code, out, err = measure(some_scores(), "--json", *options)
    found = json.loads(out)
    assert (code, err, found["alarms"]) == (0, "", [])
    assert (found["trials"], found["bonafide"], found["spoof"], found["left_out"]) == (200, 67, 133, 0)
    assert found["metrics"] == evaluation.headline(some_scores(), None, **settings)
    assert found["intervals_over"] == over
    assert found["costs"] == {name: settings.get(name, value) for name, value in USUAL_COSTS.items()}
    assert [row["attack"] for row in found["by_attack"]] == ["tts0", "tts1", "tts2", "tts3"]
    assert {row["codec"] for row in found["by_codec"]} == {"", "opus", "g722"}
    assert found["by_attack_and_codec"][0].keys() == {"attack", "", "opus", "g722"}


def test_metrics_for_people(measure):
    code, out, err = measure(some_scores(), "--bootstrap", 20)
    assert (code, err) == (0, "") and "ALARM" not in out
    eer = evaluation.headline(some_scores(), None, replicates=20)["all"]
    said = evaluation.interval(eer["eer"], eer["eer_low"], eer["eer_high"])
    assert next(line for line in out.splitlines() if line.startswith("Equal error rate")).endswith(said)
    assert "20 samples of speakers and attacks" in out
    assert "\ntts2 " in out and "\nopus " in out
    assert out.splitlines()[-1].startswith(f"EER {100 * eer['eer']:.1f} %: ")
    assert "natural-log likelihood ratios, as they are" in out.splitlines()[-1]


def test_alarms_come_first_and_are_said_twice_where_one_could_be_missed(measure, tmp_path):
    upside_down = some_scores().assign(llr=-some_scores()["llr"])
    code, out, err = measure(upside_down, "--bootstrap", 0)
    (alarm,) = evaluation.alarms(upside_down)
    assert code == 0 and err == f"aasist: !! ALARM: {alarm}\n"
    lines = out.splitlines()
    assert lines.index(f"!! ALARM: {alarm}") < next(i for i, line in enumerate(lines) if line.startswith("Measure"))
    code, out, err = measure(upside_down, "--bootstrap", 0, "--json", "--output", tmp_path / "found.json")
    assert (code, out) == (0, "") and "!! ALARM" in err
    assert json.loads((tmp_path / "found.json").read_text())["alarms"] == [alarm]


def test_on_a_terminal_alarms_are_said_once(measure, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, err = measure(some_scores().assign(llr=-some_scores()["llr"]), "--bootstrap", 0)
    assert out.count("!! ALARM") == 1 and err == ""


def test_nan_is_an_alarm_and_json_stays_json(measure):
    scores = some_scores()
    scores.loc[0, "llr"] = float("nan")
    code, out, err = measure(scores, "--bootstrap", 0, "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert code == 0 and "1 of 200 scores are not finite" in err
    assert found["metrics"]["all"]["n_bonafide"] == 66 and found["bonafide"] == 67


def test_a_class_that_is_missing(measure):
    scores = some_scores()
    code, out, err = measure(scores[scores["label"] == "spoof"], "--bootstrap", 0)
    assert (code, out) == (2, "")
    assert "!! ALARM: there are no bona fide trials" in err and "nothing can be measured" in err


def test_dev_much_easier_than_eval(measure, tmp_path):
    easy = some_scores()
    easy["llr"] += easy["label"].map({"bonafide": 9.0, "spoof": -9.0})
    easy.to_csv(tmp_path / "dev.csv", index=False)
    _, out, _ = measure(some_scores(), "--bootstrap", 0, "--json", "--dev", *[tmp_path / "dev.csv"] * 2)
    found = json.loads(out)
    assert found["dev_eer"] == 0 and "dev is much easier than eval" in found["alarms"][0]


def test_scores_that_are_no_llrs(measure):
    code, out, _ = measure(some_scores().assign(llr=some_scores()["llr"] * 100), "--bootstrap", 0)
    assert code == 0 and "these scores are not calibrated LLRs" in out.splitlines()[-1]


def test_the_subset_is_named(measure, tmp_path):
    (tmp_path / "keys.txt").write_text(KEYS_LA)
    (tmp_path / "scores.txt").write_text("LA_E_9332881 -1\nLA_E_5464494 -2\nLA_E_6866159 1.5\nLA_E_1 7\n")
    files = tmp_path / "scores.txt", tmp_path / "keys.txt"
    _, out, _ = measure(files, "--bootstrap", 0, format="asvspoof2021")
    assert "(asvspoof2021_la, subset eval): 2 trials, 1 bona fide and 1 spoofed\n2 scores are of trials outside" in out
    _, out, _ = measure(files, "--bootstrap", 0, "--subset", "progress", "--json", format="asvspoof2021")
    found = json.loads(out)
    assert (found["subset"], found["layout"], found["left_out"]) == ("progress", "asvspoof2021_la", 2)


def test_tdcf_only_with_asv_scores(measure, tmp_path):
    scores, keys, asv = tandem_files(tmp_path)
    _, out, _ = measure((scores, keys), "--bootstrap", 0, format="asvspoof2019")
    assert "t-DCF" not in out
    _, out, _ = measure((scores, keys), "--bootstrap", 0, "--asv", asv, format="asvspoof2019")
    said = [line.split() for line in out.splitlines() if line.startswith("min t-DCF")]
    assert [(line[-2], line[-1]) for line in said] == [("2019", "0.264"), ("2021", "0.350")]
    code, out, err = measure(some_scores(), "--bootstrap", 0, "--asv", asv)
    assert (code, out) == (2, "") and "belong to the corpus" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--asv-keys", "x"], "--asv-keys: goes with --asv"),
        (["--output", "/nowhere/at/all"], "is not a folder"),
        (["--subset", "test"], "--subset test"),
        (["--prior-spoof", "2"], "prior_spoof"),
    ],
)
def test_wrong_options_of_metrics(measure, arguments, said):
    code, out, err = measure(some_scores(), "--bootstrap", "0", *arguments)
    assert (code, out) == (2, "") and said in err and "Traceback" not in err


def test_wrong_files_are_one_line(measure, tmp_path):
    absent = tmp_path / "absent.csv"
    said = f"aasist: {absent}: cannot be read (No such file or directory)\n"
    assert measure([absent] * 2) == (2, "", said)


@pytest.mark.parametrize("samples, said", [("-1", "not a whole number"), ("1", "1 samples have no 2.5 % quantile")])
def test_samples_that_make_no_interval(measure, capsys, samples, said):
    with pytest.raises(SystemExit) as stop:
        measure(some_scores(), "--bootstrap", samples)
    assert stop.value.code == 2 and said in capsys.readouterr().err
