"""`make leaderboard`: train and measure the systems of experiments/leaderboard.yaml on the corpus in data/."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML, YAMLError

from aasist_lib import corpora, evaluation, params, store
from aasist_lib.base import paths
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline import standings
from aasist_lib.store import indexes
from aasist_lib.studies import baselines, leaderboard
from aasist_lib.studies.systems import System

SYSTEMS = Path("experiments/leaderboard.yaml")
WORK = Path("build/leaderboard")
COPIES = 2  # of each recording in the store
FILE_KEYS = {"seeds", "utterances", "systems", "all", "folds", "draws"}  # the last three are for `make select`
SYSTEM_KEYS = {"about", "baseline", "change", "claimed", "file", "published", "seeds"}


def run(root: Path, workers: int = 2, systems_file: Path | None = None, again: bool = False) -> Path:
    """Train what is missing; write `metrics/leaderboard.json` and `.csv` after every result, and return the csv path.

    Valid results in the json file are not made again, so another machine can continue from git.

    Parameters
    ----------
    root : project folder.
    systems_file : instead of `experiments/leaderboard.yaml`; results are named after it.
    again : train everything again.

    Raises
    ------
    UserError
        The file or a setting in it is invalid, or as `leaderboard.run`.
    """
    path = systems_file or root / SYSTEMS
    content = content_of(path)
    systems = read(path, root / "params.yaml")
    held = waveforms(root, workers, systems)
    board = root / f"metrics/{path.stem}.json"
    about = {"systems": {name: _about(entry) for name, entry in content["systems"].items()}, "data": data(root)}
    about["counts"] = _counts(store.Store(held).recordings)

    def save(results: list[dict]) -> None:
        evaluation.save_json(board, about | {"results": results})
        evaluation.save_csv(board.with_suffix(".csv"), standings.table(results))

    leaderboard.run(
        systems, held, root / WORK / "runs", kept=kept(board), save=save, workers=workers, again=again,
        utterances=content.get("utterances", leaderboard.UTTERANCES),
    )  # fmt: skip
    return board.with_suffix(".csv")


def read(path: Path, base: Path | None = None) -> list[System]:
    """Systems of a YAML file; `UserError` for an unreadable file or an unknown key, baseline or setting.

    The file has `seeds`, `utterances`, `all` (laid over params.yaml for every system) and `systems` by name: `about`,
    `change` (laid over that) or `file` with it, `baseline`, `published` (weights), `seeds`, and `claimed` results from
    papers.
    """
    content, found = content_of(path), []
    for name, entry in content["systems"].items():
        unknown, of = set(entry) - SYSTEM_KEYS, f"{path.name}: {name}"
        if unknown:
            raise UserError(f"{of}: {min(unknown)} is none of {', '.join(sorted(SYSTEM_KEYS))}")
        kind = entry.get("baseline", "")
        if kind and kind not in baselines.BASELINES:
            raise UserError(
                f"{path.name}: {name}: baseline: {kind} is none of {', '.join(sorted(baselines.BASELINES))}"
            )
        change, of = entry.get("change") or {}, f"{path.name}: {name}"
        if "file" in entry:
            if change:
                raise UserError(f"{of}: change and file both say what is changed: keep one")
            change, of = _yaml(path.parent / entry["file"]), f"{entry['file']} ({of})"
        settings = params.overlaid(params.merged(content.get("all") or {}, change), base, of)
        sections = ("features", "model", "augment", "train", "calibrate", "evaluate")
        weights = (base.parent if base else paths.root()) / entry["published"] if "published" in entry else None
        # published weights and their scores involve no randomness
        seeds = content["seeds"][:1] if weights else entry.get("seeds", content["seeds"])
        chosen = {section: settings[section] for section in sections}
        chosen["extract"] = {"copies": settings["extract"]["copies"]}
        found.append(System(name, entry["about"], chosen, tuple(seeds), kind, weights))
    return found


def waveforms(root: Path, workers: int, systems: Sequence[System] = ()) -> Path:
    """Store of the corpus's waveforms, extracted again only if the corpus or its settings changed.

    It has enough vocoder copies for all systems; each training leaves out the surplus (`copies.beyond`).
    """
    settings = params.load(root / "params.yaml")
    corpus, folder = settings["corpus"], root / WORK / "waveforms"
    table, _ = corpora.from_settings(root / "data", corpus)
    features, limits = settings["features"], settings["extract"] | {"holds": "waveforms", "workers": workers}
    wanted = [limits["copies"], *(system.settings["extract"]["copies"] for system in systems)]
    limits["copies"] = max(COPIES, *wanted)
    asked = [features["sample_rate"], {name: value for name, value in limits.items() if name != "workers"}]
    key = hashlib.sha256()
    for piece in (*indexes.text(table), json.dumps(asked, sort_keys=True).encode()):
        key.update(piece)
    for name in table["path"]:
        state = (root / "data" / name).stat() if (root / "data" / name).is_file() else None
        key.update(b"%d %d\n" % (state.st_size, state.st_mtime_ns) if state else b"missing\n")
    mark = root / WORK / "waveforms.key"
    if not (folder.is_dir() and mark.is_file() and mark.read_text() == key.hexdigest()):
        mark.unlink(missing_ok=True)
        store.extract(table, root / "data", folder, features, **limits)
        mark.write_text(key.hexdigest())
    return folder


def content_of(path: Path) -> dict:
    """Content of a file of systems; `UserError` where a key is unknown or missing."""
    content = _yaml(path)
    unknown, missing = set(content) - FILE_KEYS, {"seeds", "systems"} - set(content)
    if unknown:
        raise UserError(f"{path.name}: {min(unknown)} is none of {', '.join(sorted(FILE_KEYS))}")
    if missing:
        raise UserError(f"{path.name}: {min(missing)} is missing")
    return content


def _yaml(path: Path) -> dict:
    try:
        return YAML(typ="safe", pure=True).load(path)
    except (OSError, YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _about(entry: dict) -> dict:
    return {key: entry[key] for key in ("about", "file", "claimed") if key in entry}


def data(root: Path) -> str:
    """Hash of data/ in data.dvc; "" without that file."""
    path = root / "data.dvc"
    return _yaml(path)["outs"][0].get("md5", "") if path.is_file() else ""


def _counts(table: pd.DataFrame) -> dict:
    return {split: rows["label"].value_counts().to_dict() for split, rows in table.groupby("split")}


def kept(board: Path) -> list[dict]:
    """Results of an earlier run, perhaps on another machine."""
    try:
        return json.loads(board.read_text("utf-8"))["results"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError) as error:
        raise UserError(f"{board} cannot be read ({error}): take it from git, or remove it to begin anew") from None
