"""What DVC shows of a run can be read: few numbers, in a terminal of 120 columns.

| what | test |
|---|---|
| metrics/eval.json alone is a metric: 24 numbers at most, those of the table rounded | test_one_metric |
| no stage but report has outputs that switch off the run cache; report copies every table | test_run_cache |
| `dvc metrics diff` and `make experiments` where everything differs | test_widths |
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from aasist_lib import evaluation

ROOT = Path(__file__).parents[1]
COLUMNS = 120


@pytest.fixture(scope="module")
def stages():
    return YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def uncached(stage, kind):
    """Outputs that are in git."""
    return [name for out in stage.get(kind, []) if isinstance(out, dict) for name in out if not out[name]["cache"]]


def test_one_metric(stages):
    assert [name for stage in stages.values() for name in uncached(stage, "metrics")] == ["metrics/eval.json"]
    assert sum(len(stage.get("metrics", [])) for stage in stages.values()) == 1
    found = json.loads((ROOT / "metrics/eval.json").read_text("utf-8"))
    assert sum(map(len, found.values())) <= 24
    table, _ = evaluation.apart(pd.read_csv(ROOT / "metrics/tables/eval.csv"))
    calibration = json.loads((ROOT / "metrics/tables/calibration.json").read_text("utf-8"))
    for name, row in found.items():
        full = calibration["after"] if name == "dev" else table[name]
        assert row == pytest.approx({key: full[key] for key in row}, abs=6e-5)


def test_run_cache(stages):
    """dvc.stage.Stage.run leaves it off where an output in git is neither a metric nor a plot."""
    assert [name for name, stage in stages.items() if uncached(stage, "outs")] == ["report"]
    tables = {out for stage in stages.values() for out in stage["outs"] if str(out).startswith("runs/tables/")}
    assert len(tables) > 5 and tables <= set(stages["report"]["deps"])


def test_widths(tmp_path):
    def call(*command, **names):
        beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        names |= {"PATH": beside, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / ".cache")}
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | names, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit():
        call("git", "add", "--all")
        call("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "Run")

    files = ["dvc.yaml", "dvc.lock", "params.yaml", ".dvc/config", "metrics/eval.json", "Makefile"]
    for name in [*files, "aasist_lib/pins.env"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".gitignore").write_text(".cache\n")
    call("git", "init", "--quiet", "--initial-branch=main")
    commit()
    base = call("git", "rev-parse", "HEAD")
    # an experiment in which every number, every hash and a setting differ, kept as `dvc exp run` keeps it
    path, lock, params = (tmp_path / name for name in ("metrics/eval.json", "dvc.lock", "params.yaml"))
    found = json.loads(path.read_text("utf-8"))
    rows = {name: {key: round(value / 3, 4) for key, value in row.items()} for name, row in found.items()}
    evaluation.save_json(path, rows)
    lock.write_text(re.sub(r"md5: (\S{8})", "md5: 01234567", lock.read_text("utf-8")))
    params.write_text(re.sub(r"( lr:) \S+", r"\1 3.0e-4", params.read_text("utf-8"), count=1))
    commit()
    shown = call("dvc", "metrics", "diff", "HEAD~1", "HEAD").splitlines()
    assert len(shown) == 1 + sum(map(len, found.values())) and max(map(len, shown)) <= COLUMNS
    call("git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/unspun-merganser", "HEAD")
    call("git", "reset", "--quiet", "--hard", base)
    shown = call("make", "--no-print-directory", "--old-file=.venv/ready", "experiments", MAKEFLAGS="").splitlines()
    header = next(line for line in shown if "Experiment" in line).split()
    assert header == ["Experiment", "Created", "all.eer", "dev.eer", "known.eer", "unseen.eer", "train.lr"]
    assert any("unspun-merganser" in line for line in shown) and max(map(len, shown)) <= COLUMNS
