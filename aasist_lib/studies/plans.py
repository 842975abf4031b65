"""Files of systems for `make leaderboard` and `make select`, and the store of waveforms that all trainings share."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML, YAMLError

from aasist_lib import corpora, params, store
from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.store import indexes
from aasist_lib.studies.baselines import BASELINES
from aasist_lib.studies.systems import System

WAVEFORMS = Path("build/leaderboard/waveforms")
UTTERANCES = 600  # of dev and of eval each, to score published weights on and to compare all systems on
COPIES = 2  # of each recording in the store
SECTIONS = ("features", "model", "augment", "train", "calibrate", "evaluate")  # settings that a system has

Seeds = Annotated[list[params.WholeNumber], Field(min_length=1)]


class Section(params.Section):
    """A part of a YAML file in experiments/, with its keys; a misspelt one is told with what was meant."""

    @model_validator(mode="before")
    @classmethod
    def _knows(cls, content: Any) -> Any:
        for key in content if isinstance(content, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"{key} is not a setting: {files.nearest(key, cls.model_fields)}")
        return content


class Entry(Section):
    """A system: params.yaml with `change`, or with the settings in `file`; `claimed` are results from papers."""

    about: str
    change: dict[str, Any] = {}
    file: str = ""
    baseline: str = ""
    published: str = ""
    seeds: Seeds | None = None
    claimed: dict[str, Any] = {}

    @field_validator("baseline")
    @classmethod
    def _is_there(cls, name):
        if name and name not in BASELINES:
            raise ValueError(f"{name} is none of {', '.join(sorted(BASELINES))}")
        return name

    @model_validator(mode="after")
    def _has_one_source(self):
        if self.change and self.file:
            raise ValueError("change and file both say what is changed: keep one")
        return self

    def shown(self) -> dict:
        """What pages show of it."""
        return self.model_dump(include={"about", "file", "claimed"}, exclude_unset=True)


class Systems(Section):
    """A file of systems by name; `all` is laid over params.yaml for every one of them."""

    seeds: Seeds
    systems: dict[str, Entry]
    all: dict[str, Any] = {}
    utterances: params.Count = UTTERANCES
    folds: params.Count = 3  # for `make select`, as the next one
    draws: params.Count | None = None


def content_of(path: Path) -> Systems:
    """Content of a file of systems; UserError for a mistake in it."""
    return checked(Systems, yaml(path), path.name)


def read(path: Path, base: Path) -> list[System]:
    """Systems of a file over the settings in `base` (params.yaml), beside which weights are looked for.

    UserError for a mistake in either.
    """
    content, systems = content_of(path), []
    for name, entry in content.systems.items():
        change, of = entry.change, f"{path.name}: {name}"
        if entry.file:
            change, of = yaml(path.parent / entry.file), f"{entry.file} ({of})"
        settings = params.overlaid(params.merged(content.all, change), base, of)
        chosen = {section: settings[section] for section in SECTIONS}
        chosen["extract"] = {"copies": settings["extract"]["copies"]}
        weights = base.parent / entry.published if entry.published else None
        # published weights and their scores involve no randomness
        seeds = content.seeds[:1] if weights else entry.seeds or content.seeds
        systems.append(System(name, entry.about, chosen, tuple(seeds), entry.baseline, weights))
    return systems


def checked(schema: type[params.Section], content: Any, name: str) -> Any:
    """Content of a YAML file as a model; UserError with one line for each mistake, which begins with `name`."""
    try:
        return schema.model_validate(content)
    except ValidationError as errors:
        raise UserError("\n".join(_explain(error, name) for error in errors.errors())) from None


def _explain(error: dict, name: str) -> str:
    """An error of pydantic in the words of params.py."""
    where, value = ".".join(map(str, error["loc"])), error["input"]
    where = f"{name}: {where}" if where else name
    match error["type"]:
        case "missing":
            return f"{where} is missing"
        case "model_type":
            return f"{where} must hold `key: value` lines, not {value!r}"
        case "value_error":
            return f"{where}: {error['ctx']['error']}"
        case _:
            return f"{where}: {value!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def yaml(path: Path) -> Any:
    """Content of a YAML 1.2 file, as DVC reads it."""
    try:
        return YAML(typ="safe", pure=True).load(path)
    except (OSError, YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def waveforms(root: Path, workers: int, systems: Sequence[System] = ()) -> Path:
    """Store of the corpus's waveforms, extracted again only if the corpus or its settings changed.

    It has enough vocoder copies for all systems; each training leaves out the surplus (`copies.excess_copies`).
    """
    settings = params.load(root / "params.yaml")
    table, _ = corpora.from_settings(root / "data", settings["corpus"])
    features, extract = settings["features"], settings["extract"] | {"holds": "waveforms", "workers": workers}
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
    return yaml(path)["outs"][0].get("md5", "") if path.is_file() else ""
