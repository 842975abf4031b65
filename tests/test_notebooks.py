"""The notebooks: what must hold before one is run, and that a person can run them.

| what | test |
|---|---|
| committed without outputs, for the kernel `python3`, in the layout that `make strip` writes | test_stripped |
| begins with a heading, has prose, 12 to 25 cells, at most 150 lines of code, no functions or classes | test_shape |
| the linter has nothing to say | test_lint |
| no path of one machine, no installation, no figure without a description, no bare progress bar | test_no_such_code |
| its parameters are the sections of params.yaml that its stage names in dvc.yaml | test_parameters |
| a docstring makes no stage stale, a number all that need it | test_what_makes_stages_stale |
| every notebook that a stage runs exists, under a stage that depends on it | test_stages_have_notebooks |
| eval without one of the classes is refused before anything is written | test_eval_without_a_class |
| top to bottom as JupyterLab runs it, on folders of a few recordings without copies, one of them bad | test_runs |
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import librosa
import nbformat
import numpy as np
import pandas as pd
import pytest
import soundfile
from nbclient import NotebookClient
from ruamel.yaml import YAML

from aasist_lib import audio, calibration, store
from aasist_lib.base import paths, provenance
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline import run, sources
from aasist_lib.pipeline.kernel import OwnKernel
from aasist_lib.pipeline.sources import strip

ROOT = Path(__file__).parents[1]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
STAGE_OF = {
    stage["cmd"].split()[-1]: name
    for name, stage in STAGES.items()
    if stage["cmd"].startswith("python -m aasist_lib.pipeline run ")
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
every_stage = pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem in STAGE_OF], ids=lambda path: path.stem
)


def code(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@every
def test_stripped(path):
    text = path.read_text("utf-8")
    assert json.loads(text)["metadata"]["kernelspec"]["name"] == "python3"
    assert strip(text) == text, "run `make strip`"


@every
def test_shape(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# ")
    assert sum(cell["cell_type"] == "markdown" for cell in cells) >= 5
    assert 12 <= len(cells) <= 25
    assert len({cell["id"] for cell in cells}) == len(cells)
    lines = sum(len(source.splitlines()) for source in code(path))
    assert lines <= 150, f"{lines} lines of code: logic belongs in aasist_lib"
    for source in code(path):
        definitions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert not definitions, f"{definitions[0].name} belongs in aasist_lib"


def test_lint():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "notebooks"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@every
@pytest.mark.parametrize(
    "pattern",
    [
        r"['\"](/(home|tmp|root|work|usr|var|mnt)/|[A-Z]:\\)",  # a path of one machine
        r"^\s*[!%]|\bpip\b|subprocess|os\.system",
        r"plt\.show|\.savefig",  # plots.show gives a figure its description
        r"\btqdm\b|time\.time|perf_counter|datetime",  # differs from run to run
        r"chdir|sys\.path",
    ],
)
def test_no_such_code(path, pattern):
    for source in code(path):
        assert not re.search(pattern, source, re.MULTILINE), source


@every_stage
def test_parameters(path):
    injected = run.sections(path)
    stage = [name.partition(".")[0] for name in STAGES[STAGE_OF[path.stem]].get("params", [])]
    assert sorted(set(stage)) == sorted(injected)
    assert len(set(injected)) == len(injected)


@pytest.mark.parametrize("notebook", STAGE_OF)
def test_stages_have_notebooks(notebook):
    assert (ROOT / f"notebooks/{notebook}.ipynb").is_file()
    stage = STAGES[STAGE_OF[notebook]]
    assert {f"build/nb/{notebook}.ipynb", f"build/code/{notebook}.json"} <= set(stage["deps"])
    assert f"runs/{notebook}.ipynb" in stage["outs"]
    assert f"runs/{notebook}.ipynb" in STAGES["report"]["deps"]


def test_what_makes_stages_stale(tmp_path, monkeypatch):
    copied = shutil.copytree(ROOT / "aasist_lib", tmp_path / "aasist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "LIBRARY", copied)

    def code():
        sources.write_code(ROOT / "notebooks", tmp_path / "code")
        return {path.stem: path.read_text() for path in (tmp_path / "code").glob("*.json")}

    def stale(name, old, new):
        text = (copied / name).read_text("utf-8")
        assert old in text
        (copied / name).write_text(text.replace(old, new, 1), "utf-8")
        after = code()
        (copied / name).write_text(text, "utf-8")
        return {stage for stage in first if after[stage] != first[stage]} & {*STAGE_OF, "corpus", "report"}

    first = code()
    assert {*STAGE_OF, "corpus", "report"} <= set(first)
    notebooks = set(STAGE_OF)
    assert stale("metrics.py", '"""', '"""In other words. ') == set()
    assert stale("base/progress.py", "EVERY = ", "EVERY = 2 * ") == set()
    assert stale("audit/adversarial.py", "STEPS = ", "STEPS = 2 * ") == {"52_adversarial", "61_model_card"}
    described = {"60_datasheet", "61_model_card", "62_results", "report"}
    assert stale("corpus/treat.py", "RATE = 16", "RATE = 32") == {"corpus"} | described
    assert stale("training/loop.py", "GRADIENT_NORM = 1.0", "GRADIENT_NORM = 2.0") == {"20_train", "53_holdout"}
    assert stale("params.py", "import", "import os, ") == notebooks | {"report"}
    assert stale("pins.env", "avx2", "default") == notebooks | {"corpus", "report"}


# what the smallness and the damage of the corpus below must leave in the outputs
SHOWN = {
    "00_overview": ["<audio", "griffin_lim"],
    "10_extract": ["broken.wav", "not audio", ">True<"],
    "60_datasheet": ["not the corpus that the project builds", "griffin_lim"],
    "61_model_card": ["cnn_attention", "Random change"],
    "62_results": ["threads: ", "md5 0123.dir"],
    "93_leaderboard": ["on another corpus, or on an earlier build of this one", "Lowest on known"],
    "90_compare_runs": ["HEAD has no scores", "Settings that differ: none"],
    "92_what_generalises": [
        "Left out (EER, %)",
        "called fake",
        "on another corpus, or on an earlier build of this one",
    ],
    "91_inspect_utterance": ["<audio", "Rank correlation", "drawn at random by", "fake by"],
}
SPLIT = {"asterisk": "train", "festvox": "dev", "fillets": "dev", "tuxpaint": "eval"}


def griffin_lim(wave):
    """The magnitudes of a recording, with phases that were guessed."""
    return librosa.griffinlim(np.abs(librosa.stft(wave, n_fft=512)), n_fft=512, n_iter=8, random_state=1)


def robot(wave):
    """A recording whose phases are all zero: a monotonous voice."""
    return librosa.istft(np.abs(librosa.stft(wave, n_fft=512)).astype(complex), n_fft=512)


@pytest.mark.parametrize("label, said", [("bonafide", "spoofed"), ("spoof", "bona fide")])
def test_eval_without_a_class(label, said, tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    settings = {"dev_eer": 0.1, "policy": "equal_error"}
    monkeypatch.setattr(calibration, "load", lambda folder: (np.asarray, 0.0, settings))
    scores = pd.DataFrame({"utt_id": ["a", "b"], "label": label, "condition": "", "score": [1.0, 2.0]})
    monkeypatch.setattr(store, "scores", lambda *folders, threads: scores)
    cells = nbformat.read(ROOT / "notebooks/40_evaluate.ipynb", 4).cells
    with pytest.raises(UserError, match=f"^eval has no {said} trials"):
        exec("\n".join(cell.source for cell in cells if cell.cell_type == "code"), {})
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.fixture(scope="module")
def project(speech_files, tmp_path_factory):
    """The notebooks and settings of the project, for a small corpus: recordings, and what two vocoders made of them."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    settings = YAML().load(ROOT / "params.yaml")
    settings["corpus"]["format"] = "folder"
    settings["extract"] |= {"workers": 1, "max_bad_fraction": 0.1}
    settings["train"]["max_epochs"] = 1
    settings["evaluate"]["bootstrap"] = settings["audit"]["bootstrap"] = 20
    settings["audit"] |= {"workers": 1, "utterances": 6, "fakes": 2}
    YAML().dump(settings, folder / "params.yaml")
    for path in speech_files:
        source, speaker = path.stem.split("-")[:2]
        split = folder / "data" / SPLIT[source]
        wave = audio.read(path, 16000)
        spoofs = {"griffin_lim": griffin_lim} | ({"robot": robot} if SPLIT[source] == "eval" else {})
        made = {f"spoof/{attack}": make(wave) for attack, make in spoofs.items()}
        for group, samples in (made | {f"bonafide/{speaker}": wave}).items():
            (split / group).mkdir(parents=True, exist_ok=True)
            soundfile.write(split / group / f"{path.stem}.wav", samples, 16000)
    (folder / "metrics").mkdir()
    for name in ("metrics/selection.json", "metrics/leaderboard.json", "requirements.lock"):  # two of hours of training
        shutil.copy(ROOT / name, folder / name)
    lock = {"extract": {"cmd": "", "deps": [{"path": "data", "hash": "md5", "md5": "0123.dir"}]}}
    YAML().dump({"schema": "2.0", "stages": lock}, folder / "dvc.lock")
    (folder / "data/train/bonafide/en/broken.wav").write_bytes(b"RIFF and no more")
    # a last commit to compare with, in which nothing was evaluated yet
    for command in ("git init", "git config user.name A", "git config user.email a@example.org", "git add params.yaml"):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "Settings"], cwd=folder, check=True)
    return folder


@every
def test_runs(path, project, monkeypatch):
    """In the order of their names, each on what those before it wrote."""
    for name, folder in run.cache_environment(ROOT).items():
        monkeypatch.setenv(name, folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(project / "notebooks" / path.name, 4)
    resources = {"metadata": {"path": project / "notebooks"}}
    NotebookClient(notebook, kernel_manager_class=OwnKernel, resources=resources).execute()
    shown = json.dumps([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])
    for word in SHOWN.get(path.stem, ()):
        assert word in shown
    if path.stem == "10_extract":
        counts = pd.read_csv(project / "runs/tables/recordings.csv").groupby("split")["recordings"].sum()
        assert dict(counts) == {split.name: len(list(split.rglob("*.wav"))) for split in (project / "data").iterdir()}
