"""A public corpus from its download folder to the report, by the commands of README's "Your own data".

| what | test |
|---|---|
| ASVspoof 2019 LA, as its archive unpacks: all stages run, the report names the test set | test_asvspoof2019_la |
| the known attacks of its eval are A16 and A19, machines of train under other names | test_known_attacks |
| what is odd about the corpus is told on the terminal and in the notebook | test_what_is_odd_is_told |
| too many missing recordings stop the extraction before it begins | test_missing_recordings |

The corpus has the names and columns of ASVspoof 2019 LA. Its bona fide are the recordings of tests/speech, other people
in each split; its spoofs are made from them by ways to lose the phases of a spectrum, which vocoders have to guess. The
tests share one project and run in this order.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile
from ruamel.yaml import YAML

from aasist_lib import audio
from aasist_lib.pipeline import quick
from aasist_lib.pipeline.run import cache_environment

ROOT = Path(__file__).parents[1]
SPLIT = {"asterisk": "train", "festvox": "dev", "fillets": "dev", "tuxpaint": "eval"}
ATTACKS = {"train": ("A01", "A04", "A06"), "dev": ("A01", "A04", "A06"), "eval": ("A07", "A16", "A19")}
KINDS = {"train": "trn", "dev": "trl", "eval": "trl"}

pytestmark = pytest.mark.slow


def spoof(attack: str, wave: np.ndarray) -> np.ndarray:
    """A copy of a recording: A01 guesses phases well, A04 (A16) sets all to zero, A06 (A19) draws lots, A07 guesses."""
    size = 1024 if attack == "A07" else 512
    magnitudes = np.abs(librosa.stft(wave, n_fft=size))
    if attack in ("A01", "A07"):
        return librosa.griffinlim(magnitudes, n_fft=size, n_iter=8 if attack == "A01" else 1, random_state=1)
    draw = np.random.default_rng(1).uniform(-np.pi, np.pi, magnitudes.shape)
    return librosa.istft(magnitudes * np.exp(1j * draw * (attack in ("A06", "A19"))), n_fft=size)


@pytest.fixture(scope="module")
def downloads(speech_files, tmp_path_factory):
    """What somebody has after unpacking LA.zip."""
    folder = tmp_path_factory.mktemp("downloads")
    (folder / "LA/ASVspoof2019_LA_cm_protocols").mkdir(parents=True)
    protocols = {split: [] for split in KINDS}
    for path in speech_files:
        source, speaker = path.stem.split("-")[:2]
        split, wave = SPLIT[source], audio.read(path, 16000)
        flac = folder / f"LA/ASVspoof2019_LA_{split}/flac"
        flac.mkdir(parents=True, exist_ok=True)
        for attack in ("-", *ATTACKS[split]):
            name = f"LA_{split[0].upper()}_{1000000 + len(protocols[split])}"
            key = "bonafide" if attack == "-" else "spoof"
            protocols[split].append(f"{source}_{speaker} {name} - {attack} {key}\n")
            soundfile.write(flac / f"{name}.flac", wave if attack == "-" else spoof(attack, wave), 16000)
    for split, lines in protocols.items():
        name = f"ASVspoof2019.LA.cm.{split}.{KINDS[split]}.txt"
        (folder / "LA/ASVspoof2019_LA_cm_protocols" / name).write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    quick.copy(ROOT, folder)
    return folder


@pytest.fixture
def run(project):
    def run(*command, status=0):
        beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | cache_environment(ROOT) | {"PATH": beside, "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == status, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
        return done.stdout, done.stderr

    return run


def settings(project, **changes):
    """What a person edits in params.yaml, and what makes the test short."""
    yaml = YAML()
    held = yaml.load(project / "params.yaml")
    held["corpus"] |= {"format": "asvspoof2019_la", **changes}
    held["extract"]["workers"] = held["train"]["max_epochs"] = 1
    held["evaluate"]["bootstrap"] = 20
    yaml.dump(held, project / "params.yaml")


def test_asvspoof2019_la(project, run, downloads):
    run("dvc", "remove", "data.dvc", "corpus")
    for name in "data", "corpus":
        shutil.rmtree(project / name, ignore_errors=True)
    run("dvc", "import-url", downloads, "data")
    run("dvc", "unfreeze", "data.dvc")
    settings(project)
    run("dvc", "repro")
    index = (project / "reports/index.html").read_text("utf-8")
    assert "ASVspoof 2019 LA, eval" in index
    assert json.loads((project / "metrics/tables/extract.json").read_text())["test_set"] == "ASVspoof 2019 LA, eval"
    scores = pd.read_csv(project / "scores/eval.csv", keep_default_na=False)
    listed = downloads / "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt"
    assert sorted(scores["utt_id"]) == sorted(line.split()[1] for line in listed.read_text().splitlines())
    assert "Running stage" not in run("dvc", "repro")[0]


def test_known_attacks(project):
    scores = pd.read_csv(project / "scores/eval.csv", keep_default_na=False)
    assert scores.groupby("attack")["condition"].unique().map(list).to_dict() == {
        "": [""], "A07": ["unseen"], "A16": ["known"], "A19": ["known"]
    }  # fmt: skip
    assert {"known", "unseen"} <= set(json.loads((project / "metrics/eval.json").read_text()))


def test_what_is_odd_is_told(project, run):
    (project / "runs/10_extract.ipynb").unlink()
    out, err = run("python", "-m", "aasist_lib.pipeline", "run", "10_extract")
    told = "ASVspoof 2019 LA, eval: holds 5 bona fide and 15 spoofed utterances; published are 7,355 bona fide and"
    assert [line for line in err.splitlines() if told in line][0].startswith("corpus: ASVspoof")
    assert "Warning" not in err and str(project) not in err
    notebook = (project / "runs/10_extract.ipynb").read_text("utf-8")
    assert f"Note: {told}" in notebook and "Test set: ASVspoof 2019 LA, eval" in notebook
    assert str(project) not in notebook


def test_missing_recordings(project, run):
    shutil.rmtree(project / "data/LA/ASVspoof2019_LA_eval")
    _, err = run("python", "-m", "aasist_lib.pipeline", "run", "10_extract", status=1)
    missing = ", ".join(f"ASVspoof2019_LA_eval/flac/LA_E_{1000000 + i}.flac" for i in range(5))
    assert f"corpus: 20 of 88 recordings are missing: {missing} and 15 more" in err
    assert "UserError: 20 of 88 recordings are missing, more than extract.max_bad_fraction allows (0.01): " in err
