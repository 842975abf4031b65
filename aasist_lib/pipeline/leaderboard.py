"""`make leaderboard`: the systems of experiments/leaderboard.yaml, trained and measured on the corpus in data/."""

import hashlib
import json
from pathlib import Path

from ruamel.yaml import YAML, YAMLError

from aasist_lib import corpora, evaluation, leaderboard, store
from aasist_lib.errors import UserError
from aasist_lib.pipeline import params

SYSTEMS = Path("experiments/leaderboard.yaml")
WORK = Path("build/leaderboard")
SYSTEM_KEYS = {"about", "change", "baseline", "seeds"}


def run(root: Path, workers: int = 2, systems_file: Path | None = None) -> Path:
    """Trains what is not trained yet, and writes `metrics/leaderboard.json` and `metrics/leaderboard.csv`.

    Parameters
    ----------
    root : pathlib.Path
        Top folder of the project; its `data/` is what the systems are trained and measured on.
    workers : int
        Processes, of one thread each.
    systems_file : pathlib.Path, optional
        In place of `experiments/leaderboard.yaml`.

    Returns
    -------
    pathlib.Path
        The table, as csv: a row a system.

    Raises
    ------
    UserError
        The file of systems or one of its settings is wrong, or as `leaderboard.run`.
    """
    systems = read(systems_file or root / SYSTEMS, root / "params.yaml")
    held = waveforms(root, workers)
    results = leaderboard.run(systems, held, root / WORK / "runs", workers=workers)
    evaluation.save_json(root / "metrics/leaderboard.json", {"results": results})
    path = root / "metrics/leaderboard.csv"
    evaluation.save_csv(path, leaderboard.table(results))
    return path


def read(path: Path, base: Path | None = None) -> list[leaderboard.System]:
    """Systems from a file.

    Parameters
    ----------
    path : pathlib.Path
        YAML: `seeds`, a list, and `systems`, by name: `about`; `change`, laid over params.yaml; `baseline`, if it is
        one; `seeds`, if others than everybody's.
    base : pathlib.Path, optional
        params.yaml.

    Raises
    ------
    UserError
        The file cannot be read, or a key or setting in it is unknown.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path)
    except (OSError, YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    found = []
    for name, entry in content["systems"].items():
        unknown = set(entry) - SYSTEM_KEYS
        if unknown:
            raise UserError(f"{path.name}: {name}: {min(unknown)} is none of {', '.join(sorted(SYSTEM_KEYS))}")
        settings = params.overlaid(entry.get("change") or {}, base, f"{path.name}: {name}")
        sections = ("features", "model", "augment", "train", "calibrate", "evaluate")
        seeds = tuple(entry.get("seeds", content["seeds"]))
        kept = {section: settings[section] for section in sections}
        found.append(leaderboard.System(name, entry["about"], kept, seeds, entry.get("baseline", "")))
    return found


def waveforms(root: Path, workers: int) -> Path:
    """A store of the corpus's waveforms; written again only where the corpus or its settings are others than before."""
    settings = params.load(root / "params.yaml")
    corpus, folder = settings["corpus"], root / WORK / "waveforms"
    table, _ = corpora.from_settings(root / "data", corpus)
    features, limits = settings["features"], settings["extract"] | {"holds": "waveforms", "workers": workers}
    asked = json.dumps([features["sample_rate"], limits["min_seconds"], limits["max_bad_fraction"]])
    key = hashlib.sha256(table.to_csv(index=False).encode() + asked.encode())
    for name in table["path"]:
        state = (root / "data" / name).stat() if (root / "data" / name).is_file() else None
        key.update(b"%d %d\n" % (state.st_size, state.st_mtime_ns) if state else b"missing\n")
    mark = root / WORK / "waveforms.key"
    if not (folder.is_dir() and mark.is_file() and mark.read_text() == key.hexdigest()):
        mark.unlink(missing_ok=True)
        store.extract(table, root / "data", folder, features, **limits)
        mark.write_text(key.hexdigest())
    return folder
