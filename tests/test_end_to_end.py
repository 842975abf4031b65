"""A stranger's clone, on the tiny corpus: real recordings, real synthesisers, every stage.

Its folder has spaces and letters beyond ASCII in its name.

| what | test |
|---|---|
| `dvc repro` on a bare clone ends with a report; what it leaves is committed and clean | test_from_a_clone |
| every trial of the corpus is scored once, by the rules of the split | test_scores |
| a second `dvc repro` runs nothing | test_nothing_left_to_do |
| saving a notebook with outputs makes no stage stale | test_saving_a_notebook |
| without cache, corpus, features, models, runs: the same bytes again | test_same_bytes_again |
| `aasist score` with the detector it trained; exit 3 when a file cannot be scored | test_score |
| `dvc exp run -S`, then `dvc metrics diff`, `dvc params diff`, `dvc plots show`; the run cache | test_an_experiment |
| a failing cell: status, its own traceback, the notebook kept, the good outputs recoverable | test_a_failing_cell |
| two `dvc repro` at once: the second says so and stops, the first goes on | test_two_at_once |
| a damaged corpus stops extraction with the count and the first files | test_a_damaged_corpus |

The tests share one clone and run in this order.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from aasist_lib import evaluation

ROOT = Path(__file__).parents[1]
PROMISED = ["corpus/protocol.csv", "data.dvc", "dvc.lock", "metrics", "models", "reports", "scores", "runs"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("apt-get"), reason="the default corpus needs apt-get"),
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of what is committed, set to the tiny profile."""
    folder = tmp_path_factory.mktemp("stranger") / "Störung im проект"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    for key, value in {"user.name": "A Stranger", "user.email": "stranger@example.org"}.items():
        subprocess.run(["git", "config", key, value], cwd=folder, check=True)
    code = "from pathlib import Path; from aasist_lib.pipeline import quick; quick.set_tiny(Path('.'))"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return folder


@pytest.fixture
def run(clone):
    def run(*command, status=0):
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AASIST_DOWNLOADS": str(ROOT / ".cache/downloads"),
            "DVC_NO_ANALYTICS": "1",
        }
        done = subprocess.run(
            command, cwd=clone, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == status, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    return run


def hashes(folder):
    files = [path for name in PROMISED for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    assert len(files) > 20
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if ".failed" not in path.parts
    }


def commit(run, message):
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", message)
    assert run("git", "status", "--porcelain") == ""


def test_from_a_clone(clone, run):
    run("dvc", "repro")
    index = (clone / "reports/index.html").read_text("utf-8")
    for page in "10_extract", "20_train", "30_calibrate", "40_evaluate", "50_shortcuts", "53_holdout":
        assert f"{page}.html" in index and (clone / f"reports/{page}.html").is_file()
    metrics = json.loads((clone / "metrics/eval.json").read_text("utf-8"))
    assert {"known", "unseen"} <= set(metrics)
    headline, _ = evaluation.apart(pd.read_csv(clone / "metrics/tables/eval.csv"))
    for condition in "known", "unseen":
        row = headline[condition]
        assert row["eer_low"] <= row["eer"] <= row["eer_high"]
        assert metrics[condition]["eer"] == pytest.approx(row["eer"], abs=1e-4)
    audits = {}
    for name in "shortcuts", "robustness", "adversarial", "holdout":
        audits |= json.loads((clone / f"metrics/tables/{name}.json").read_text("utf-8"))
    assert {"silence", "level", "all"} <= set(audits["shortcuts"]) and isinstance(audits["alarms"], list)
    assert {"clean", "clipped"} & set(audits["conditions"]) and {"fgsm", "pgd"} <= set(audits["adversarial"])
    assert audits["held_out"]["attack"]
    changed = {line[3:].split("/")[0] for line in run("git", "status", "--porcelain").splitlines()}
    assert changed <= {"data.dvc", "dvc.lock", "metrics", "params.yaml", "reports"}, changed
    commit(run, "Run on the tiny corpus")


def test_scores(clone):
    protocol = pd.read_csv(clone / "corpus/protocol.csv", dtype=str, keep_default_na=False)
    assert 120 <= len(protocol) <= 180
    assert (protocol.groupby("speaker")["split"].nunique() == 1).all()
    spoofs = protocol[(protocol["split"] == "eval") & (protocol["label"] == "spoof")]
    trained = set(protocol.loc[protocol["split"] == "train", "attack"])
    assert (spoofs["attack"].isin(trained) == (spoofs["condition"] == "known")).all()
    scores = pd.read_csv(clone / "scores/eval.csv", keep_default_na=False)
    assert set(scores["utt_id"]) == set(protocol.loc[protocol["split"] == "eval", "utt_id"])
    assert scores["llr"].notna().all() and scores["utt_id"].is_unique


def test_nothing_left_to_do(run):
    said = run("dvc", "repro")
    assert "Running stage" not in said and "up to date" in said
    assert run("git", "status", "--porcelain") == ""


def test_saving_a_notebook(clone, run):
    path = clone / "notebooks/40_evaluate.ipynb"
    source = path.read_bytes()
    notebook = nbformat.reads(source.decode("utf-8"), 4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    cell.execution_count, cell.outputs = 7, [nbformat.v4.new_output("stream", text="saved in JupyterLab")]
    nbformat.write(notebook, path)
    said = run("dvc", "repro")
    assert [line for line in said.splitlines() if "Running stage" in line] == ["Running stage 'sources':"]
    path.write_bytes(source)
    run("dvc", "repro")
    assert run("git", "status", "--porcelain") == ""


def test_same_bytes_again(clone, run):
    before = hashes(clone)
    for name in "corpus", "data", "features", "models", "runs", "scores", ".dvc/cache", "build":
        shutil.rmtree(clone / name)
    run("dvc", "repro", "--force")
    after = hashes(clone)
    assert {name for name in before | after if before.get(name) != after.get(name)} == set()
    assert run("git", "status", "--porcelain") == ""


def test_score(clone, run, speech, tmp_path):
    shutil.copy(speech / "asterisk-it-vm-calldiffnum.flac", tmp_path / "real.flac")
    (tmp_path / "broken.wav").write_bytes(b"RIFF and no more")
    score = ["python", "-m", "aasist_lib.cli", "score"]
    said = run(*score, str(tmp_path / "real.flac"), "--format", "json")
    (row,) = json.loads(said)
    assert row["decision"] in {"bonafide", "spoof"} and abs(row["seconds"] - 2.26) < 0.1 and row["error"] == ""
    assert "broken.wav" in run(*score, str(tmp_path), status=3)


def test_an_experiment(clone, run):
    run("dvc", "exp", "run", "-S", "train.lr=3.0e-4")
    assert json.loads(run("dvc", "params", "diff", "--json"))["params.yaml"]["train.lr"]["new"] == 0.0003
    difference = json.loads(run("dvc", "metrics", "diff", "--json"))
    changed = difference["metrics/eval.json"] if "metrics/eval.json" in difference else difference["diff"]
    assert "eer" in json.dumps(changed)
    assert "eer" in run("dvc", "metrics", "show")
    run("dvc", "plots", "show")
    page = (clone / "dvc_plots/index.html").read_text("utf-8")
    assert "vega" in page and 'src="http' not in page and "jsdelivr" not in page
    run("git", "checkout", "--", ".")
    run("dvc", "checkout")
    assert "Running stage" not in run("dvc", "repro")
    params = clone / "params.yaml"
    params.write_text(re.sub(r"^  lr: \S+", "  lr: 3.0e-4", params.read_text("utf-8"), flags=re.MULTILINE), "utf-8")
    again = {line for line in run("dvc", "repro").splitlines() if "Running stage" in line}
    # these depend on the text of params.yaml; all else comes from the run cache
    assert again == {f"Running stage '{name}':" for name in ("model_card", "results", "report")}
    run("git", "checkout", "--", ".")
    run("dvc", "checkout")


def test_a_failing_cell(clone, run):
    path = clone / "notebooks/40_evaluate.ipynb"
    source, before = path.read_bytes(), hashes(clone)
    notebook = nbformat.reads(source.decode("utf-8"), 4)
    notebook.cells[-2:] = [nbformat.v4.new_code_cell("undefined_name + 1", id="breaks")]
    nbformat.write(notebook, path)
    done = run("dvc", "repro", status=255)
    assert "NameError: name 'undefined_name' is not defined" in done and "papermill" not in done
    (kept,) = clone.glob("runs/.failed/40_evaluate.ipynb")
    assert kept.relative_to(clone).as_posix() in done
    assert "dvc checkout" in done
    path.write_bytes(source)
    run("git", "checkout", "--", ".")
    run("dvc", "checkout")
    assert hashes(clone) == before
    assert "Running stage" not in run("dvc", "repro", "train")


def test_two_at_once(clone, run):
    lock = clone / "runs/.failed/20_train.lock"
    lock.unlink(missing_ok=True)
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", "train"]
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    first = subprocess.Popen(command, cwd=clone, env=os.environ | {"PATH": beside}, stdout=subprocess.DEVNULL)
    while not lock.exists():
        assert first.poll() is None
        time.sleep(0.1)
    said = run("dvc", "repro", status=255)
    assert "is busy, it is being blocked by" in said and str(first.pid) in said and "Traceback" not in said
    assert first.wait() == 0
    assert "up to date" in run("dvc", "status")


def test_a_damaged_corpus(clone, run):
    files = sorted((clone / "data/audio").glob("*.flac"))[:7]
    kept = {path: path.read_bytes() for path in files}
    for path in files:
        path.unlink()  # the cache may share its bytes
        path.write_bytes(kept[path][:2000])
    said = run("python", "-m", "aasist_lib.pipeline", "run", "10_extract", status=1)
    assert "UserError: " in said and "Traceback" not in said
    assert all(path.name in said for path in files[:5]) and files[5].name not in said
    for path, data in kept.items():
        path.write_bytes(data)
