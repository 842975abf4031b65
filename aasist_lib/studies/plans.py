"""Files of systems for `make leaderboard` and `make select`, and the store of waveforms that all trainings share."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from aasist_lib import corpora, params, store
from aasist_lib.store import indexes
from aasist_lib.studies.baselines import BASELINES
from aasist_lib.studies.systems import System

WAVEFORMS = Path("build/leaderboard/waveforms")
UTTERANCES = 600  # of dev and of eval each, to score published weights on and to compare all systems on
COPIES = 2  # of each recording in the store
SECTIONS = ("features", "model", "augment", "train", "calibrate", "evaluate")  # settings that a system has

Seeds = Annotated[list[params.WholeNumber], Field(min_length=1)]


class Entry(params.Section):
    """A system: params.yaml with `change`, or with the settings in `file`; `claimed` are results from papers."""

    about: str
    change: dict[str, Any] = {}
    file: str = ""
    baseline: Literal["", *BASELINES] = ""
    published: str = ""
    seeds: Seeds | None = None
    claimed: dict[str, Any] = {}

    @model_validator(mode="after")
    def _has_one_source(self):
        if self.change and self.file:
            raise ValueError("change and file both say what is changed: keep one")
        return self

    def shown(self) -> dict:
        """What pages show of it."""
        return self.model_dump(include={"about", "file", "claimed"}, exclude_unset=True)


class Systems(params.Section):
    """A file of systems by name; `all` is laid over params.yaml for every one of them."""

    seeds: Seeds
    systems: dict[str, Entry]
    all: dict[str, Any] = {}
    utterances: params.Count = UTTERANCES
    folds: params.Count = 3  # for `make select`, as the next one
    draws: params.Count | None = None


def read(path: Path, base: Path) -> tuple[Systems, list[System]]:
    """A file of systems, and these over the settings in `base` (params.yaml), beside which weights are looked for.

    UserError for a mistake in either.
    """
    content, systems = params.checked(Systems, params.parse(path), path.name), []
    for name, entry in content.systems.items():
        change, of = entry.change, f"{path.name}: {name}"
        if entry.file:
            change, of = params.parse(path.parent / entry.file), f"{entry.file} ({of})"
        settings = params.overlaid(params.merged(content.all, change), base, of)
        chosen = {section: settings[section] for section in SECTIONS}
        chosen["extract"] = {"copies": settings["extract"]["copies"]}
        weights = base.parent / entry.published if entry.published else None
        # published weights and their scores involve no randomness
        seeds = content.seeds[:1] if weights else entry.seeds or content.seeds
        systems.append(System(name, entry.about, chosen, tuple(seeds), entry.baseline, weights))
    return content, systems


def waveforms(root: Path, workers: int, systems: Sequence[System] = ()) -> Path:
    """Store of the corpus's waveforms, extracted again only if the corpus or its settings changed.

    It has enough vocoder copies for all systems; each training leaves out the surplus (`copies.excess_copies`).
    """
    settings = params.load(root / "params.yaml")
    table, _ = corpora.from_settings(root / "data", settings["corpus"])
    features, extract = settings["features"], settings["extract"] | {"content": "waveforms", "workers": workers}
    extract["copies"] = max(COPIES, extract["copies"], *(system.settings["extract"]["copies"] for system in systems))
    asked = [features["sample_rate"], {name: value for name, value in extract.items() if name != "workers"}]
    key = hashlib.sha256()
    for piece in (*indexes.text(table), json.dumps(asked, sort_keys=True).encode()):
        key.update(piece)
    for name in table["path"]:
        state = (root / "data" / name).stat() if (root / "data" / name).is_file() else None
        key.update(b"%d %d\n" % (state.st_size, state.st_mtime_ns) if state else b"missing\n")
    folder, mark = root / WAVEFORMS, root / WAVEFORMS.with_suffix(".key")
    if not (folder.is_dir() and mark.is_file() and mark.read_text() == key.hexdigest()):
        mark.unlink(missing_ok=True)
        store.extract(table, root / "data", folder, features, **extract)
        mark.write_text(key.hexdigest())
    return folder


def data(root: Path) -> str:
    """Hash of data/ in data.dvc; "" without that file."""
    path = root / "data.dvc"
    return params.parse(path)["outs"][0].get("md5", "") if path.is_file() else ""
