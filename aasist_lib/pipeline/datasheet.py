"""What the datasheet counts and lists: the utterances of features/, and the packages that they were made of."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML
from scipy import signal

from aasist_lib.base.errors import UserError
from aasist_lib.corpora.copies import is_vocoded
from aasist_lib.corpus import treat
from aasist_lib.store import indexes

SOURCES = Path(treat.__file__).with_name("sources.yaml")
SPLITS = ("train", "dev", "eval", "narrow")
COLUMNS = "utt_id label speaker attack split condition language source codec pair_id".split()
CLASSES = {"bonafide": "real", "spoof": "fake"}
# pattern of licence names, first match -> what the licence requires for redistribution
TERMS = {
    r"AGPL": "copyleft, network services too",
    r"GPL|GFDL|CC-BY-SA": "copyleft",
    r"CC0|public domain": "none",
    r"MIT|BSD|Apache|ISC|AFL|CC-BY-\d": "name the authors",
}
OWN_TERMS = "terms of its own"


def utterances(root: Path) -> pd.DataFrame:
    """The corpus in features/, without the vocoded copies that `store.extract` made; NaN for what is not known.

    Columns are `COLUMNS`, seconds and class (real or fake); split is ordered: train, dev, eval, narrow.
    """
    if not (root / "features" / indexes.NAME).exists():
        raise UserError(f"features/{indexes.NAME} is missing: run `dvc repro`")
    stored = indexes.read(root / "features")
    table = stored.reindex(columns=COLUMNS, fill_value="").assign(seconds=stored["seconds"])
    table = table[~is_vocoded(table)].replace("", None)
    there = [split for split in SPLITS if split in set(table["split"])]
    return table.assign(
        split=pd.Categorical(table["split"], there, ordered=True), **{"class": table["label"].map(CLASSES)}
    )


def count(table: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Utterances, minutes, median length and numbers of speakers, languages, attacks and chains, by columns."""
    groups = table.groupby(list(by), observed=True)
    minutes, median = (groups["seconds"].sum() / 60).round(1), groups["seconds"].median().round(1)
    found = pd.DataFrame({"utterances": groups.size(), "minutes": minutes, "median (s)": median})
    columns = {"speaker": "speakers", "language": "languages", "attack": "attacks", "codec": "chains"}
    return found.join(groups[[name for name in columns if name not in by]].nunique().rename(columns=columns))


def in_two_splits(table: pd.DataFrame) -> list[str]:
    """Speakers, bona fide or synthetic, in more than one of train, dev and eval."""
    splits = table[table["split"] != "narrow"].groupby("speaker")["split"].nunique()
    return sorted(splits[splits > 1].index)


def sources() -> dict:
    """What the default corpus is made of: corpus/sources.yaml."""
    return YAML(typ="safe").load(SOURCES)


def is_default(table: pd.DataFrame, corpus: dict) -> bool:
    """Whether these are utterances of the corpus that this project builds; `corpus` is that section of params.yaml."""
    made = sources()
    formats = {corpus["format"], corpus["eval_format"] or corpus["format"]}
    people_and_machines = {*made["humans"], *made["attacks"]}
    known = set(table["source"].dropna()) <= people_and_machines and set(table["attack"].dropna()) <= {*made["attacks"]}
    return formats == {"protocol"} and known and len(table) > 0


def packages(table: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Packages that the default corpus was made of, one row each, with their licences and what these ask for."""
    made = sources()
    rows: dict[str, dict] = {}

    def add(package: str, part: str, used_for: str) -> None:
        rows.setdefault(package, {"part": part, "used for": []})["used for"].append(used_for)

    for kind, column, part in (("humans", "source", "recordings and texts"), ("attacks", "attack", "machines")):
        for name in (name for name in made[kind] if (table[column] == name).any()):
            for package in made[kind][name]["packages"]:
                add(package, part, name)
        if kind == "humans":
            for package in made["profiles"][profile]["texts"]:
                add(package, part, "texts")
    waiting = list(rows)
    for name in waiting:  # grows during the loop
        for need in made["packages"][name].get("needs", []):
            waiting += [] if need in rows else [need]
            add(need, "needed by these", name)
    for name, row in rows.items():
        package = made["packages"][name]
        row |= {key: package[key] for key in ("version", "registry", "licence")}
        row |= {"asks for": terms(row["licence"]), "sha256": package["sha256"][:12]}
        row["used for"] = ", ".join(row.pop("used for"))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("package").reset_index()


def terms(licence: str) -> str:
    """What a licence (as Debian and `sources.yaml` name it) roughly requires for redistribution."""
    return next((words for pattern, words in TERMS.items() if re.search(pattern, licence)), OWN_TERMS)


def treatment() -> pd.DataFrame:
    """Constants of `corpus.treat`, which every clip has passed."""
    low, high = band_edges(treat.TELEPHONE, 8000)
    rows = {
        "sample rate (kHz)": treat.RATE / 1000,
        "shortest clip (s)": treat.SHORTEST,
        "longest clip (s)": treat.LONGEST,
        "kept before and after speech (ms)": 1000 * treat.MARGIN,
        "upper limit of the band (kHz)": band_edges(treat.BAND, treat.RATE)[-1] / 1000,
        "level of the voiced parts (dB, full scale: 0)": treat.LEVEL,
        "noise floor (dB, full scale: 0)": treat.FLOOR,
        "telephone, lower limit (kHz)": low / 1000,
        "telephone, upper limit (kHz)": high / 1000,
    }
    return pd.DataFrame({"what": rows.keys(), "value": [f"{value:g}" for value in rows.values()]})


def band_edges(sections: np.ndarray, rate: float) -> list[float]:
    """Half-power frequencies of a filter, in Hz, rounded to 10 Hz."""
    frequencies, response = signal.sosfreqz(sections, np.arange(1, rate / 2), fs=rate)
    passed = np.abs(response) ** 2 > 0.5
    return [round(float(frequencies[i]), -1) for i in np.flatnonzero(np.diff(passed))]
