"""Whether results here are those of a commit, and how far they are from them.

| what | test |
|---|---|
| the same results: said in a line, status 0 | test_identical |
| one recording differs: the first outputs that do, that recording, and the stages after it | test_recording |
| a kind that one side lacks, a recording more or fewer | test_counted |
| error rates between those of other seeds, and beyond them; seeds that learnt from another corpus | test_error_rates |
| other settings are named where they are the reason | test_settings |
| what was not run, a commit without results: told in one line, status 2 | test_cannot_tell |
| `make verify` | test_make |
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from aasist_lib import corpora, evaluation
from aasist_lib.pipeline import __main__ as commands
from aasist_lib.pipeline import run, verify

ROOT = Path(__file__).parents[1]
STAGES = {
    "corpus": {"cmd": "corpus", "params": ["corpus.profile"], "outs": ["data"]},
    "extract": {"cmd": "extract", "deps": ["data"], "outs": ["features", {verify.RECORDINGS: {"cache": False}}]},
    "evaluate": {"cmd": "evaluate", "deps": ["features"], "metrics": [{verify.EVAL: {"cache": False}}]},
}  # never run: `dvc commit` takes what is there
RATES = {"dev": 0.12, "known": 0.14, "unseen": 0.18, "all": 0.16}


def call(folder, *command):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def ran(folder, rates=RATES):
    """What stages would write, from the recordings in data/."""
    names = sorted(path.name for path in (folder / "data").iterdir())
    table = pd.DataFrame({"utt_id": names, "path": names, "split": "train", "label": "", "source": "people"})
    table["attack"] = ["piper" if row % 2 else "" for row in range(len(names))]
    evaluation.save_csv(folder / verify.RECORDINGS, corpora.digests(table, folder / "data"))
    (folder / "features").write_text((folder / verify.RECORDINGS).read_text())
    evaluation.save_json(folder / verify.EVAL, {name: {"eer": rate} for name, rate in rates.items()})
    call(folder, "dvc", "commit", "--force", "--quiet")


@pytest.fixture(scope="module")
def committed(tmp_path_factory, speech):
    """A project whose results are those of its only commit."""
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in run.cache_environment(ROOT).items():
            patch.setenv(name, folder)
        folder = tmp_path_factory.mktemp("verify") / "project"
        (folder / "data").mkdir(parents=True)
        for path in sorted(speech.glob("*.flac"))[:5]:
            shutil.copy(path, folder / "data")
        YAML().dump({"stages": STAGES}, folder / "dvc.yaml")
        YAML().dump({"corpus": {"profile": "default"}}, folder / "params.yaml")
        (folder / ".gitignore").write_text("/data\n/features\n")
        call(folder, "git", "init", "--quiet")
        for key, value in {"user.name": "A Person", "user.email": "person@example.org"}.items():
            call(folder, "git", "config", key, value)
        call(folder, "dvc", "init", "--quiet")
        call(folder, "git", "commit", "--quiet", "--message", "Begin")
        ran(folder)
        data = YAML(typ="safe").load(folder / "dvc.lock")["stages"]["corpus"]["outs"][0]["md5"]
        seeds = [{name: {"eer": rate + apart} for name, rate in RATES.items()} for apart in (0.01, 0.015, 0.02)]
        results = [{"system": "default", "dev": row["dev"], "eval": row} for row in seeds]
        evaluation.save_json(folder / verify.BOARD, {"data": data, "results": results})
        call(folder, "git", "add", "--all")
        call(folder, "git", "commit", "--quiet", "--message", "Run")
        yield folder


@pytest.fixture
def project(committed, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    shutil.copytree(committed, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def test_identical(project, capsys):
    assert commands.main(["verify"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Identical to commit ") and said.endswith(" to the byte: all 4 outputs of 3 stages.\n")


def changed(folder):
    """One recording of the kind piper is a byte longer."""
    path = sorted((folder / "data").iterdir())[1]
    content = path.read_bytes()
    path.unlink()  # it may be a link into DVC's cache
    path.write_bytes(content + b"\0")


def test_recording(project, capsys):
    changed(project)
    ran(project)
    assert commands.main(["verify"]) == 1
    said = capsys.readouterr().out
    assert "3 of 4 outputs differ." in said and "First in stage corpus: data. Its code, settings and inputs" in said
    assert "Then in extract." in said and "Recordings: 1 of 5 differ: piper (train) 1." in said
    assert "within" in said and "outside" not in said and len(said.splitlines()) <= 12


def test_counted(tmp_path, speech):
    names = [path.name for path in sorted(speech.glob("*.flac"))[:5]]
    table = pd.DataFrame(
        {"utt_id": names, "path": names, "split": "dev", "source": "", "label": "bonafide", "attack": ""}
    )
    rows = {"git": table, "shorter": table[1:], "other": table.assign(attack=["", "", "", "", "flite"])}
    found = {name: verify._digests(corpora.digests(part, speech).to_csv()) for name, part in rows.items()}
    assert verify._recordings(found["git"], found["git"]) == "Recordings: 0 of 5 differ."
    assert verify._recordings(found["git"], found["shorter"]) == "Recordings: 1 of 4 differ: bonafide (dev) 1."
    said = verify._recordings(found["git"], found["other"])
    assert said == "Recordings: 2 of 5 differ: bonafide (dev) 1, flite (dev) 1."
    lost = corpora.digests(table, tmp_path)
    assert lost["digests"].tolist() == [" ".join(["------"] * 5)] and lost["recordings"].tolist() == [5]


def test_error_rates(project, capsys):
    changed(project)
    ran(project, {"dev": 0.125, "known": 0.159, "unseen": 0.25, "all": 0.181})
    board = json.loads((project / verify.BOARD).read_text())
    evaluation.save_json(project / verify.BOARD, board | {"data": "0.dir"})
    call(project, "git", "commit", "--quiet", "--message", "Other seeds", verify.BOARD)
    assert commands.main(["verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.endswith((": within", ": outside"))]
    assert rows == [
        "Dev 12.5 12.0 12.0 to 14.0: within".split(),
        "Known attacks 15.9 14.0 14.0 to 16.0: within".split(),
        "Unseen attacks 25.0 18.0 18.0 to 20.0: outside".split(),
        "All attacks 18.1 16.0 16.0 to 18.0: outside".split(),
    ]
    assert lines[-1].startswith("The range is that of 4 trainings: the commit's, and 3 with other seeds")
    assert "on another build of the corpus." in lines[-1]


def test_settings(project, capsys):
    YAML().dump({"corpus": {"profile": "tiny"}}, project / "params.yaml")
    changed(project)
    ran(project)
    assert commands.main(["verify"]) == 1
    assert "What it depends on differs: corpus.profile." in capsys.readouterr().out


def test_cannot_tell(project, capsys):
    changed(project)
    assert commands.main(["verify"]) == 2
    said = capsys.readouterr().err
    assert said == "Cannot tell: stage corpus is not up to date (data). Run `dvc repro`, then this again\n"
    ran(project)
    assert commands.main(["verify", "HEAD~1"]) == 2
    assert "HEAD~1 has no results" in capsys.readouterr().err
    assert commands.main(["verify", "nowhere"]) == 2
    assert "no commit or experiment 'nowhere'" in capsys.readouterr().err


def test_make():
    done = subprocess.run(["make", "--dry-run", "verify"], cwd=ROOT, capture_output=True, text=True)
    assert "python -m aasist_lib.pipeline verify" in done.stdout
