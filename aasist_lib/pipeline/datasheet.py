"""Datasheet of the corpus, after Gebru et al. (2021), "Datasheets for Datasets".

Counts come from the index of features/, sources and licences from corpus/sources.yaml, and the processing from
corpus/treat.py, so that the page matches what was built. Of other corpora it shows the composition alone.
"""

import base64
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from ruamel.yaml import YAML
from scipy import signal

from aasist_lib import plots
from aasist_lib.base.errors import UserError
from aasist_lib.corpus import treat

SOURCES = Path(treat.__file__).with_name("sources.yaml")
SPLITS = ("train", "dev", "eval", "narrow")
MOST = 100  # rows of a table: public corpora have thousands of speakers

LANGUAGES = {
    "be": "Belarusian", "bg": "Bulgarian", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "ja": "Japanese",
    "lt": "Lithuanian", "ml": "Malayalam", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "uk": "Ukrainian", "zh": "Chinese",
}  # fmt: skip
CHAINS = {
    "pcm": "PCM, never coded", "g722": "ITU-T G.722, of wide-band telephony", "vorbis22": "Ogg Vorbis, 22 kHz",
    "vorbis44": "Ogg Vorbis, 44 kHz", "mp3": "MP3, 11 kHz", "telephone": "ITU-T G.711 at 8 kHz",
}  # fmt: skip
# pattern of licence names, first match -> what the licence requires for redistribution
TERMS = {
    r"AGPL": "copyleft, network services too",
    r"GPL|GFDL|CC-BY-SA": "copyleft",
    r"CC0|public domain": "none",
    r"MIT|BSD|Apache|ISC|AFL|CC-BY-\d": "name the authors",
}
OWN_TERMS = "terms of its own"


def values(used: pd.DataFrame, corpus: dict, acoustics: Path, rejected: int = 0) -> dict:
    """Collect what the template datasheet.html.j2 shows.

    Parameters
    ----------
    used
        Index of features/: the columns of a table of utterances, as text, and `seconds`.
    corpus
        The section `corpus` of params.yaml.
    acoustics
        File of `acoustics.save`; without it, the page says which figures are missing.
    rejected
        Number of recordings that extraction rejected.

    Returns
    -------
    values
        Numbers, texts, tables and figures by name.

    Raises
    ------
    UserError
        `acoustics` cannot be read.
    """
    sources = YAML(typ="safe").load(SOURCES)
    strangers = sorted(set(used["source"]) - set(sources["humans"]) - set(sources["attacks"]))
    strangers += sorted(set(used["attack"]) - {""} - set(sources["attacks"]))
    formats = {corpus["format"], corpus["eval_format"] or corpus["format"]}
    ours = formats == {"protocol"} and not strangers and len(used) > 0
    humans, attacks = (sources["humans"], sources["attacks"]) if ours else ({}, {})
    sound = _sound(acoustics)
    real = used[used["label"] == "bonafide"]
    shown = {
        "ours": ours,
        "stranger": "" if formats != {"protocol"} else f"its sources are others ({', '.join(strangers[:3])})",
        "format": corpus["eval_format"] or corpus["format"],
        "tiles": _tiles(used),
        "rejected": rejected,
        "by_split": _by_split(used),
        "by_speaker": _by_speaker(used, humans),
        "by_attack": _by_attack(used, attacks),
        "by_language": _by_language(used),
        "by_source": _by_source(used),
        "by_codec": _by_codec(used),
        "one_class": _joined_with(_one_class(used)),
        "in_two_splits": _joined_with(_in_two_splits(used)[:5]),
        "copied": _copied(used),
        "figures": _figures(used, sound),
        "pairs": _pairs(used, sound, attacks),
        "sample": len(sound["label"]) if sound else 0,
        "narrow": bool((used["split"] == "narrow").any()),
        "speakers": real.loc[real["speaker"] != "", "speaker"].nunique(),
    }
    return shown | (_made(used, sources, corpus) if ours else {})


# Composition.


def _tiles(used: pd.DataFrame) -> list[tuple[str, str]]:
    real, fakes = (used[used["label"] == label] for label in ("bonafide", "spoof"))
    counts = {
        "Hours": f"{used['seconds'].sum() / 3600:.1f}",
        "Real recordings": f"{len(real):,}",
        "Fakes": f"{len(fakes):,}",
        "Speakers": _named(real["speaker"]),
        "Languages": _named(used["language"]),
        "Kinds of machine": _named(fakes["attack"]),
    }
    return [(words, str(count)) for words, count in counts.items() if count]


def _by_split(used: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for split in SPLITS:
        for label, words in (("bonafide", "real"), ("spoof", "fake")):
            group = used[(used["split"] == split) & (used["label"] == label)]
            if len(group):
                rows.append(
                    {
                        "Split": split,
                        "Class": words,
                        "Utterances": len(group),
                        "Minutes": _minutes(group),
                        "Median length (s)": f"{group['seconds'].median():.1f}",
                        "Speakers": _named(group["speaker"]),
                        "Languages": _named(group["language"]),
                        "Kinds of machine": _named(group["attack"]) or "",
                        "Recording chains": _named(group["codec"]),
                    }
                )
    return pd.DataFrame(rows)


def _by_speaker(used: pd.DataFrame, humans: dict) -> pd.DataFrame:
    """Bona fide speakers, with the share of their recordings that have copies."""
    real, copies = used[used["label"] == "bonafide"], _copies(used)
    vocoders = copies.groupby("pair_id")["attack"].agg(set)
    rows = []
    for speaker, group in _groups(real, "speaker"):
        entries = [humans[name] for name in dict.fromkeys(group["source"]) if name in humans]
        kinds = set().union(*vocoders[vocoders.index.isin(group["utt_id"])])
        rows.append(
            {
                "Speaker": speaker,
                "Who": "; ".join(dict.fromkeys(entry["about"] for entry in entries)),
                "Split": _joined(group["split"]),
                "Language": ", ".join(sorted(set(group["language"].map(_language)) - {""})),
                "Came through": " ".join(dict.fromkeys(entry["chain"] for entry in entries)),
                "Recordings": len(group),
                "Minutes": _minutes(group),
                "Copied (%)": f"{100 * group['utt_id'].isin(vocoders.index).mean():.0f}",
                "Vocoders": len(kinds),
            }
        )
    table = pd.DataFrame(rows)
    return table if humans or table.empty else table.drop(columns=["Who", "Came through"])


def _by_attack(used: pd.DataFrame, attacks: dict) -> pd.DataFrame:
    fakes, splits = used[used["label"] == "spoof"], _splits(used)
    rows = []
    for attack, group in _groups(fakes, "attack"):
        row = {"Machine": attack}
        if attacks:
            row["What it is"] = attacks[attack]["about"]
        row |= {split.capitalize(): _count(group["split"] == split) for split in splits}
        row |= {
            "Minutes": _minutes(group),
            "Voices": _named(group["speaker"]),
            "Languages": _named(group["language"]),
            "In the test": _joined(group.loc[group["split"].isin(SPLITS[2:]), "condition"]),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _by_language(used: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for language, group in _groups(used, "language"):
        real, fakes = (group[group["label"] == label] for label in ("bonafide", "spoof"))
        rows.append(
            {
                "Language": _language(language),
                "Real recordings": len(real) or "",
                "Minutes": _minutes(real) if len(real) else "",
                "People": _named(real["speaker"]) or "",
                "Fakes": len(fakes) or "",
                "Minutes of fakes": _minutes(fakes) if len(fakes) else "",
                "Splits": " ".join(_splits(group)),
            }
        )
    return pd.DataFrame(sorted(rows, key=lambda row: row["Language"]))


def _by_source(used: pd.DataFrame) -> pd.DataFrame:
    """Utterances by source; a copy counts for the source of its recording, other spoofs for the synthesiser."""
    rows = []
    for source, group in _groups(used, "source"):
        counts = group["label"].value_counts()
        rows.append(
            {
                "Source": source,
                "Split": _joined(group["split"]),
                "Real recordings": counts.get("bonafide", ""),
                "Fakes": counts.get("spoof", ""),
                "Minutes": _minutes(group),
            }
        )
    return pd.DataFrame(rows)


def _by_codec(used: pd.DataFrame) -> pd.DataFrame:
    """Utterances of both classes by their last recording chain."""
    rows = []
    for codec, group in _groups(used, "codec"):
        row = {"Chain": f"{codec}: {CHAINS[codec]}" if codec in CHAINS else codec}
        for split in _splits(used):
            here = group.loc[group["split"] == split, "label"]
            row[f"{split.capitalize()}: real"] = _count(here == "bonafide")
            row[f"{split.capitalize()}: fake"] = _count(here == "spoof")
        rows.append(row | {"Minutes": _minutes(group)})
    return pd.DataFrame(rows)


def _one_class(used: pd.DataFrame) -> list[str]:
    """Splits and chains with one class only, where the chain reveals the class."""
    classes = used[used["codec"] != ""].groupby(["split", "codec"])["label"].nunique()
    return [f"{codec} in {split}" for (split, codec), count in classes.items() if count == 1]


def _in_two_splits(used: pd.DataFrame) -> list[str]:
    """Speakers, bona fide or synthetic, in more than one of train, dev and eval."""
    rows = used[used["split"].isin(SPLITS[:3]) & (used["speaker"] != "")]
    splits = rows.groupby("speaker")["split"].nunique()
    return sorted(splits[splits > 1].index)


def _copied(used: pd.DataFrame) -> dict:
    """Statistics of recordings with copies; empty if there are none."""
    copies, real = _copies(used), used[used["label"] == "bonafide"]
    if copies.empty or real.empty:
        return {}
    kinds = copies.groupby("pair_id")["attack"].nunique().reindex(real["utt_id"], fill_value=0)
    return {
        "copies": f"{len(copies):,}",
        "share": f"{100 * (kinds > 0).mean():.0f}",
        "vocoders": copies["attack"].nunique(),
        "most": int(kinds.max()),
        "fakes": f"{100 * len(copies) / (used['label'] == 'spoof').sum():.0f}",
    }


def _copies(used: pd.DataFrame) -> pd.DataFrame:
    return used[(used["label"] == "spoof") & (used["pair_id"] != "")]


def _groups(used: pd.DataFrame, column: str):
    """Groups by a column without empty names, by first split, then name; at most `MOST`."""
    named = used[used[column] != ""]
    order = named.assign(place=named["split"].map({split: i for i, split in enumerate(SPLITS)}))
    order = order.groupby(column)["place"].min().reset_index().sort_values(["place", column])[column]
    groups = named.groupby(column)
    return [(name, groups.get_group(name)) for name in order.head(MOST)]


def _splits(used: pd.DataFrame) -> list[str]:
    there = set(used["split"])
    return [split for split in SPLITS if split in there]


def _named(column: pd.Series) -> int:
    return column[column != ""].nunique()


def _count(flags: pd.Series) -> int | str:
    return int(flags.sum()) or ""


def _minutes(group: pd.DataFrame) -> str:
    return f"{group['seconds'].sum() / 60:,.1f}"


def _joined(column: pd.Series) -> str:
    return " ".join(sorted(set(column) - {""}, key=lambda name: (SPLITS.index(name) if name in SPLITS else 0, name)))


def _language(code: str) -> str:
    return LANGUAGES.get(code, code)


# Figures.


def _sound(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path.parent.name}/{path.name}: cannot be read ({error}); run `dvc repro extract`") from None


def _figures(used: pd.DataFrame, sound: dict | None) -> list[dict]:
    figures = []
    if len(used):
        figures.append(
            _figure(
                plots.durations_by_split(used),
                "Histograms, one for each split: length in seconds of real voices and of fakes",
                "Length of all utterances. Were one class longer, a detector could cheat by counting seconds.",
            )
        )
    if not sound or not len(sound["label"]):
        return figures
    names = [split for split in SPLITS[:3] if split in set(sound["split"])]
    groups = {", ".join(names): sound["split"] != "narrow", "narrow": sound["split"] == "narrow"}
    panels = {name: (sound["spectrum"][rows], sound["label"][rows]) for name, rows in groups.items() if rows.any()}
    return [
        *figures,
        _figure(
            plots.levels(sound["level"], sound["peak"], sound["label"]),
            "Two histograms, of real voices and of fakes: level of the voiced parts, and largest sample, in dB",
            "Level of speech, which the treatment makes the same, and largest sample, which it leaves to the voices.",
        ),
        _figure(
            plots.spectra(panels, float(sound["sample_rate"])),
            "Curves: average spectrum of real voices and of fakes, from 0 Hz to half the sample rate",
            "Average spectrum of the voiced parts, relative to their power; the areas hold about two thirds of the "
            "utterances. Where the lines part, colour alone tells something of the class.",
        ),
    ]


def _pairs(used: pd.DataFrame, sound: dict | None, attacks: dict) -> list[dict]:
    """Spectrograms: a figure for each recording with several copies, and one for all with one copy."""
    if not sound:
        return []
    speakers = used.set_index("utt_id")["speaker"]
    families = [np.flatnonzero(sound["family"] == number) for number in np.unique(sound["family"])]
    larger, pairs = ([rows for rows in families if (len(rows) > 2) == several] for several in (True, False))
    figures = []
    for rows in [*larger, *([np.concatenate(pairs)] if pairs else [])]:
        made = list(zip(sound["utt_id"][rows].tolist(), sound["attack"][rows].tolist(), strict=True))
        pictures = dict(zip((attack or name for name, attack in made), sound["spectrogram"][rows], strict=True))
        words = [attacks.get(attack, {}).get("about", attack) for _, attack in made if attack]
        of = [f"{name} ({speakers.get(name) or 'an unnamed person'})" for name, attack in made if not attack]
        title = f"{made[0][0]} and its copies" if len(of) == 1 else "Recordings, each with a copy to its right"
        caption = f"The beginning of {of[0]}, and what machines made of it: {'; '.join(words)}."
        if len(of) > 1:
            caption = "The beginnings of recordings, each with a copy; the table above says what the machines are."
        figures.append(
            _figure(
                plots.spectrograms(pictures, float(sound["sample_rate"]), float(sound["frame_rate"]), title),
                f"Spectrograms of the beginnings of {_joined_with(of)}, and of copies. {'; '.join(words)}",
                caption,
            )
        )
    return figures


def _figure(fig: Figure, alt: str, caption: str) -> dict:
    width, height = (int(96 * inches) for inches in fig.get_size_inches())
    data = base64.b64encode(plots.png(fig)).decode("ascii")
    return {"src": f"data:image/png;base64,{data}", "alt": alt, "caption": caption, "width": width, "height": height}


# Production, of the corpus that this project builds.


def _made(used: pd.DataFrame, sources: dict, corpus: dict) -> dict:
    humans = {name: entry for name, entry in sources["humans"].items() if (used["source"] == name).any()}
    attacks = {name: entry for name, entry in sources["attacks"].items() if (used["attack"] == name).any()}
    profiles = sources.get("profiles", {})
    texts = profiles.get(corpus["profile"], {}).get("texts") or sources.get("texts", {}).get(corpus["profile"], [])
    packages = _packages(sources["packages"], humans, attacks, texts)
    licences = pd.concat(packages.values(), ignore_index=True)
    real = used[used["label"] == "bonafide"]
    per_language = real[real["language"] != ""].groupby("language")["speaker"].nunique()
    return {
        "profile": corpus["profile"],
        "packages": packages,
        "copyleft": int(licences["Asks for"].str.startswith("copyleft").sum()),
        "network_copyleft": _joined_with(licences.loc[licences["Asks for"] == TERMS["AGPL"], "Package"]),
        "own_terms": _joined_with(licences.loc[licences["Asks for"] == OWN_TERMS, "Package"]),
        "registries": _joined_with(sorted(set(licences["Registry"]))),
        "texts": _joined_with(texts),
        "left_out": sources.get("left_out") or [],
        "came_through": _came_through(used, humans),
        "readers": [name for name, entry in attacks.items() if not entry.get("copy")],
        "neural": [name for name, entry in attacks.items() if "neural" in entry["about"]],
        "eval_speakers": real.loc[real["split"] == "eval", "speaker"].nunique(),
        "lonely": _joined_with(sorted(_language(code) for code in per_language[per_language == 1].index)),
        "treatment": _treatment(humans),
    }


def _packages(packages: dict, humans: dict, attacks: dict, texts: list[str]) -> dict[str, pd.DataFrame]:
    """Packages in three tables: recordings and texts, synthesisers, and their dependencies."""
    used_for = {}
    for entries in (humans, attacks):
        for name, entry in entries.items():
            for package in entry["packages"]:
                used_for.setdefault(package, []).append(name)
    direct = {
        "Recordings and texts": list(dict.fromkeys([*(x for e in humans.values() for x in e["packages"]), *texts])),
        "Synthesisers and vocoders": list(dict.fromkeys(x for e in attacks.values() for x in e["packages"])),
    }
    direct["Synthesisers and vocoders"] = [
        name for name in direct["Synthesisers and vocoders"] if name not in direct["Recordings and texts"]
    ]
    taken = [name for names in direct.values() for name in names]
    direct["What these need"] = []
    for name in taken:  # grows during the loop
        for need in packages[name].get("needs", []):
            if need not in taken:
                taken.append(need)
                direct["What these need"].append(need)
    for package in texts:
        used_for.setdefault(package, []).append("texts")
    return {
        words: pd.DataFrame(
            {
                "Package": names,
                "Version": [packages[name]["version"] for name in names],
                "Registry": [packages[name]["registry"] for name in names],
                "Licence": [packages[name]["licence"] for name in names],
                "Asks for": [terms(packages[name]["licence"]) for name in names],
                "Used for": [", ".join(used_for.get(name, [])) for name in names],
                "sha256": [packages[name]["sha256"][:12] for name in names],
            }
        )
        for words, names in direct.items()
        if names
    }


def terms(licence: str) -> str:
    """What a licence (as Debian and `sources.yaml` name it) roughly requires for redistribution."""
    return next((words for pattern, words in TERMS.items() if re.search(pattern, licence)), OWN_TERMS)


def _came_through(used: pd.DataFrame, humans: dict) -> pd.DataFrame:
    """Bona fide recordings by the chain they had passed before processing."""
    real = used[used["label"] == "bonafide"]
    chains = real["source"].map({name: entry["chain"] for name, entry in humans.items()})
    rows = []
    for chain in sorted(set(chains), key=lambda name: (list(CHAINS).index(name) if name in CHAINS else 99, name)):
        group = real[chains == chain]
        row = {"Chain": f"{chain}: {CHAINS[chain]}" if chain in CHAINS else chain, "People": group["speaker"].nunique()}
        rows.append(row | {split.capitalize(): _count(group["split"] == split) for split in _splits(used)})
    return pd.DataFrame(rows)


def _treatment(humans: dict) -> dict:
    """Constants of the processing, and the chains of these bona fide recordings."""
    return {
        "rate": f"{treat.RATE / 1000:g}",
        "shortest": f"{treat.SHORTEST:g}",
        "longest": f"{treat.LONGEST:g}",
        "band": f"{_edges(treat.BAND, treat.RATE)[-1] / 1000:.1f}".removesuffix(".0"),
        "level": f"{-treat.LEVEL:g}",
        "floor": f"{-treat.FLOOR:g}",
        "margin": f"{1000 * treat.MARGIN:.0f}",
        "chains": [CHAINS.get(name, name) for name in dict.fromkeys(entry["chain"] for entry in humans.values())],
        "telephone": " to ".join(f"{edge:,.0f}" for edge in _edges(treat.TELEPHONE, 8000)),
    }


def _edges(sections: np.ndarray, rate: float) -> list[float]:
    """Half-power frequencies of a filter, in Hz, rounded to 10 Hz."""
    frequencies, response = signal.sosfreqz(sections, np.arange(1, rate / 2), fs=rate)
    passed = np.abs(response) ** 2 > 0.5
    return [round(float(frequencies[i]), -1) for i in np.flatnonzero(np.diff(passed))]


def _joined_with(names) -> str:
    """Join names with commas and "and".

    >>> _joined_with(["a", "b", "c"]), _joined_with(["a"]), _joined_with([])
    ('a, b and c', 'a', '')
    """
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
