"""Where results come from: hashes in dvc.lock, settings and versions."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from aasist_lib import params
from aasist_lib.base import provenance


def stages(root: Path) -> dict:
    """Stages in dvc.lock by name; empty without that file."""
    lock = root / "dvc.lock"
    return YAML(typ="safe").load(lock)["stages"] if lock.is_file() else {}


def data_of(stages: Mapping) -> str:
    """Hash of the corpus that the features were made from, by the stages of dvc.lock; empty if unknown."""
    deps = stages.get("extract", {}).get("deps", [])
    return next((dep["md5"] for dep in deps if dep["path"] == "data"), "")


def stale(board: Mapping, data: str, command: str = "make leaderboard") -> str:
    """Warn that results are of another build of the corpus than `data` (a hash); empty if not, or unknown."""
    measured = board.get("data")
    if not (data and measured) or measured == data:
        return ""
    of = f"another corpus, or on an earlier build of this one (data md5 {measured})"
    return f"These rows were measured on {of}; `{command}` measures them anew."


def table(root: Path) -> pd.DataFrame:
    """Hashes of the stages' outputs that are not in git, settings and versions: the same of these, the same bytes."""
    locked = stages(root)
    rows = {"data": f"md5 {data_of(locked)}"}
    for stage in ("extract", "train", "calibrate", "evaluate"):
        for out in locked.get(stage, {}).get("outs", []):
            if not out["path"].startswith(("metrics/", "runs/")):
                rows[out["path"]] = f"md5 {out['md5']}"
    rows["requirements.lock"] = f"sha256 {hashlib.sha256((root / 'requirements.lock').read_bytes()).hexdigest()}"
    general = params.load(root / "params.yaml")
    rows["seed and threads"] = f"{general['seed']}, {general['threads']}"
    # results may come from DVC's cache: network.json has the versions that trained, not this process
    made_with = json.loads((root / "models/network/network.json").read_text("utf-8"))["made_with"]
    rows["trained with"] = ", ".join(f"{name} {made_with[name]}" for name in ("python", *provenance.LIBRARIES))
    return pd.DataFrame({"what": rows.keys(), "value": rows.values()})
