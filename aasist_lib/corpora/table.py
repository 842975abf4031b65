"""Reads every corpus format into one table of utterances.

`FORMATS` lists the formats. Two kinds of reader serve them: for corpora with protocol files (layouts in
`corpora.protocols`), and for corpora whose folder names give label, split and attack.
"""

import hashlib
import os
import posixpath
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from aasist_lib import audio
from aasist_lib.base.errors import UserError
from aasist_lib.base.files import nearest
from aasist_lib.corpora import protocols

COLUMNS = [
    "utt_id", "path", "label", "speaker", "attack", "split", "condition", "language", "source", "codec", "pair_id"
]  # fmt: skip
SPLITS = ("train", "dev", "eval", "narrow")  # narrow: a second eval of telephone speech, in few corpora
NEEDED = SPLITS[:3]
TRAINED, TESTED = SPLITS[:2], SPLITS[2:]
VALUES = {"label": {"bonafide", "spoof"}, "split": set(SPLITS), "condition": {"", "known", "unseen"}}
SUBSETS = (*protocols.SUBSETS, "all")  # of the ASVspoof 2021 keys
WORDS = {"training": "train", "validation": "dev", "testing": "eval", "real": "bonafide", "fake": "spoof"}
INNER = {"wav", "wavs", "flac", "clips"}  # folder names that are no speakers


@dataclass(frozen=True)
class Format:
    """Layout of a corpus once its archives are unpacked, in the data folder or in folders below it."""

    title: str
    rows: Callable[["Format", "Request"], pd.DataFrame]  # the reader
    compare: str  # published results that a result on its eval may be compared with
    layout: str = ""  # of its protocol files, one of `protocols.LAYOUTS`
    # split -> end of the protocol's path, and folder of the recordings; the first part of the folder identifies it
    # wherever it lies, and may be a prefix (big archives come in parts)
    protocols: dict[str, tuple[str, str]] = field(default_factory=dict)
    # regular expressions over paths; the first that matches any file is used. Groups: id (for utt_id), split, label,
    # attack, language, and group (speaker of bona fide, attack of spoofs). Defaults: split eval, label spoof.
    patterns: tuple[str, ...] = ()
    own: tuple[str, ...] = ()  # top folders in which every recording should be taken
    unnamed: str = "unnamed"  # attack of spoofs without a name
    family: str = ""  # corpora of one family mean the same attack by the same name
    same: dict[str, str] = field(default_factory=dict)  # attack -> its name in train of the family
    # split (or subset) -> published numbers of bona fide and spoofed utterances, or their sum
    counts: dict[str, tuple[int, int] | int] = field(default_factory=dict)
    subsets: bool = False  # the keys divide eval into subsets
    fakes_only: bool = False  # no bona fide: the user names a folder of them


@dataclass(frozen=True)
class Request:
    """What to read: the folder, all files below it, and the arguments of `read`."""

    root: Path
    files: list[str]
    splits: tuple[str, ...]
    bonafide: str
    subset: str
    there: frozenset[str]  # the same files
    linked: dict[str, str]  # path through a link -> real path


def read(
    root: Path | str, format: str = "protocol", *, eval_format: str = "", bonafide: str = "", subset: str = "eval"
) -> pd.DataFrame:
    """Read a corpus into one table of utterances.

    Parameters
    ----------
    root
        Folder of the corpus; archives are unpacked in it or in folders below it.
    format
        One of `FORMATS`. `protocol`: a `protocol.csv` with the columns below. `folder`: `bonafide/` and `spoof/` below
        each of `train/`, `dev/`, `eval/` (and `narrow/`), or in `root` for eval alone; a folder below `bonafide/` names
        a speaker, one below `spoof/` an attack (without one: `unnamed`). Others: public corpora.
    eval_format
        Format of another corpus below the same root, to take eval (and narrow) from.
    bonafide
        Folder below `root` with bona fide recordings, for a corpus of spoofs alone.
    subset
        "eval", "progress", "hidden" or "all" of the ASVspoof 2021 keys; papers report "eval".

    Returns
    -------
    table
        One row per utterance, sorted by `utt_id`. Columns `COLUMNS`, as text, empty where unknown; `path` is relative
        to `root`. `split` is train, dev, eval or, in few corpora, narrow: telephone speech, measured apart, never
        trained on. `condition` of a spoof of eval is `known` if train has its attack and `unseen` if neither train nor
        dev has it. An attack that eval shares with dev alone is refused, because choices are made on dev; in narrow it
        has no condition. A `protocol.csv` declares conditions itself. An attack of an unrelated eval corpus whose name
        occurs in train or dev gets the title of its corpus added.

    Warns
    -----
    UserWarning
        Recordings are missing, files among the recordings are not taken, or the number of utterances is not the
        published one.

    Raises
    ------
    UserError
        Something is missing or not allowed (with file, row and value), or a recording is in two splits or both classes,
        by any path or link.
    """
    root = Path(root)
    for key, name in {"format": format, "eval_format": eval_format or format}.items():
        _check_choice(key, name, tuple(FORMATS))
    _check_choice("subset", subset, SUBSETS)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; `dvc repro` builds the default corpus")
    files, linked = _files(root)
    there = frozenset(files)
    entry, same = FORMATS[eval_format or format], {}
    if not eval_format or entry.family == FORMATS[format].family:
        same = entry.same
    if eval_format in ("", format):
        table = _of(format, Request(root, files, SPLITS, bonafide, subset, there, linked))
        if format != "protocol":  # protocol.csv declares conditions
            table = _with_conditions(table, same)
    else:
        trained = _of(format, Request(root, files, TRAINED, bonafide, subset, there, linked))
        tested = _of(eval_format, Request(root, files, TESTED, bonafide, subset, there, linked))
        table = _with_conditions(_joined(trained, tested, root, FORMATS[format], entry), same)
    return _checked(table, root, there, linked, same)


def from_settings(root: Path | str, corpus: dict) -> tuple[pd.DataFrame, list[str]]:
    """Read the corpus that params.yaml names, for training and evaluation.

    Parameters
    ----------
    root
        Folder of the data.
    corpus
        The section `corpus`: `format`, `eval_format`, `bonafide` and `subset` are used.

    Returns
    -------
    table
        As `read`.
    notes
        One line each: name of the test set, comparable results, and the warnings of `read`. Where the pipeline runs the
        notebook, the warnings also go to the terminal.

    Raises
    ------
    UserError
        As `read`, or train, dev or eval is missing or lacks one of the classes.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        table = read(
            root, corpus["format"], eval_format=corpus["eval_format"], bonafide=corpus["bonafide"],
            subset=corpus["subset"],
        )  # fmt: skip
    told = [str(warning.message) for warning in caught]
    if "AASIST_TERMINAL" in os.environ:  # set by the pipeline, whose notebooks keep no error stream
        print("".join(f"corpus: {line}\n" for line in told), end="", file=sys.stderr, flush=True)
    lacking = [split for split in NEEDED if split not in set(table["split"])]
    if lacking == ["eval"]:
        raise UserError("this corpus has no eval: set corpus.eval_format to one that has, beside it in the same folder")
    if lacking:
        raise UserError(
            f"this corpus has no {' and no '.join(lacking)}: set corpus.format to one that has (asvspoof2019_la, for "
            f"example) and corpus.eval_format to this one ({corpus['format']}), both in the same folder"
        )
    there = set(zip(table["split"], table["label"], strict=True))
    for split, label in product(NEEDED, sorted(VALUES["label"])):
        if (split, label) not in there:
            raise UserError(f"{split} of this corpus has no {label} recordings: add some, it needs both classes")
    entry = FORMATS[corpus["eval_format"] or corpus["format"]]
    about = [f"Test set: {test_set(corpus)}", f"To compare with: {entry.compare}"]
    return table, about + [f"Note: {line}" for line in told]


def test_set(corpus: dict) -> str:
    """Return `test_name` of the corpus that the section `corpus` of params.yaml names."""
    return test_name(**{key: corpus[key] for key in ("format", "eval_format", "subset", "bonafide")})


def test_name(format: str, eval_format: str = "", subset: str = "eval", bonafide: str = "") -> str:
    """Name the test set as reports do; parameters as `read`.

    >>> test_name("asvspoof2019_la"), test_name("asvspoof2019_la", "asvspoof2021_df")
    ('ASVspoof 2019 LA, eval', 'ASVspoof 2021 DF, subset eval')
    >>> test_name("asvspoof5", "wavefake", bonafide="LJSpeech-1.1")
    'WaveFake, with bona fide of LJSpeech-1.1'
    """
    entry = FORMATS[eval_format or format]
    if entry.subsets:
        return f"{entry.title}, {'all subsets' if subset == 'all' else f'subset {subset}'}"
    if entry.fakes_only:
        return f"{entry.title}, with bona fide of {bonafide}"
    return f"{entry.title}, eval" if set(entry.protocols) != {"eval"} else entry.title


test_name.__test__ = test_set.__test__ = False  # a test that imports them by name would run them


def _check_choice(key: str, name: str, choices: tuple[str, ...]) -> None:
    if name not in choices:
        raise UserError(f"corpus.{key}: '{name}' is not one of {', '.join(choices)}: {nearest(name, choices)}")


def _files(root: Path) -> tuple[list[str], dict[str, str]]:
    """List all files below a folder, following links, and map those reached by a link to their real path."""
    files, linked, nameless = [], {}, []
    base = os.path.join(os.path.realpath(root), "")
    folders: list[tuple[str, tuple[str, ...]]] = [("", ())]
    while folders:
        prefix, above = folders.pop()
        place = os.path.join(os.path.realpath(root / prefix), "")
        if place in above:  # a link to a folder above
            continue
        try:
            with os.scandir(root / prefix) as entries:
                entries = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
        except OSError as error:
            raise UserError(f"{root / prefix}: cannot be read ({error.strerror})") from None
        below = []
        for entry in entries:
            path = prefix + entry.name
            if not path.isascii() and not _is_unicode(path):
                nameless.append(os.fsencode(path).decode(errors="backslashreplace"))
            elif entry.is_dir():
                below.append((f"{path}/", (*above, place)))
            else:
                files.append(path)
                if entry.is_symlink():
                    linked[path] = os.path.realpath(entry.path).removeprefix(base)
                elif place != base + prefix:
                    linked[path] = (place + entry.name).removeprefix(base)
        folders += sorted(below, reverse=True)
    if nameless:
        warnings.warn(
            f"files and folders not taken: {len(nameless)}, as their names are not UTF-8; rename them: "
            f"{preview(sorted(nameless))}",
            stacklevel=3,
        )
    return files, linked


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8
        return False
    return True


# Readers: rows with `COLUMNS` or part of them; `protocol` and `line` say where a row stands.


def _of(format: str, asked: Request) -> pd.DataFrame:
    """Read the requested splits and compare their size with the published one."""
    entry = FORMATS[format]
    table = entry.rows(entry, asked)
    table = table.assign(**{name: "" for name in COLUMNS if name not in table})
    if "line" not in table:
        table = table.assign(protocol="", line=0)
    others = table["split"].isin(set(SPLITS) - set(asked.splits))
    table = table[~others] if others.any() else table
    if table.empty and asked.splits == TESTED:
        raise UserError(f"{asked.root}: {entry.title} has no eval; see corpus.eval_format")
    _compare_counts(table, entry, asked)
    return table


def _protocol_csv(entry: Format, asked: Request) -> pd.DataFrame:
    path = asked.root / "protocol.csv"
    if not path.is_file():
        raise UserError(f"{path}: not found; write one with the columns {', '.join(COLUMNS)}, or set corpus.format")
    header, rows, lines = protocols.rows(path)
    missing = [column for column in ("utt_id", "path", "label", "split") if column not in header]
    if missing:
        raise UserError(f"{path}:1: lacks the column {missing[0]}")
    table = pd.DataFrame(rows, columns=header, dtype=str).reindex(columns=COLUMNS, fill_value="")
    return table.assign(protocol=path.name, line=lines)


def _listed(entry: Format, asked: Request) -> pd.DataFrame:
    """Read a corpus with protocol files."""
    tables = []
    for split, (name, folder) in entry.protocols.items():
        if split not in asked.splits:
            continue
        protocol = _find(name, entry, asked)
        table = protocols.read(asked.root / protocol, entry.layout)
        if entry.subsets and asked.subset != "all":
            table = table[table["subset"] == asked.subset]
            if table.empty:
                raise UserError(f"{asked.root / protocol}: no row of the subset {asked.subset}; see corpus.subset")
        if "file" in table:  # beside the protocol
            table["path"] = posixpath.dirname(protocol) + "/" * ("/" in protocol) + table["file"]
            table.loc[table["label"] == "spoof", "attack"] = entry.unnamed
        else:
            table["path"] = _recordings(table["utt_id"].tolist(), folder, asked)
        columns = [name for name in COLUMNS if name in table and name not in ("source", "language")]
        tables.append(table[columns].assign(split=split, source=entry.title, protocol=protocol, line=table["line"]))
    if len(tables) == 1:
        return tables[0]
    return pd.concat(tables) if tables else pd.DataFrame(columns=COLUMNS, dtype=str)


def _find(name: str, entry: Format, asked: Request) -> str:
    """Find the file whose path ends with `name`, nearest to the root; or one of that base name in the root."""
    found = [path for path in asked.files if path.endswith(name) and f"/{path}".endswith(f"/{name}")]
    found = found or [path for path in [posixpath.basename(name)] if path in asked.files]
    if not found:
        raise UserError(f"{asked.root}: {name} is not in it, nor in a folder below; unpack {entry.title} there")
    nearest = sorted(path for path in found if path.count("/") == min(path.count("/") for path in found))
    if len({asked.linked.get(path, path) for path in nearest}) > 1:
        raise UserError(f"{asked.root}: holds {nearest[0]} and {nearest[1]}: leave one of them")
    return nearest[0]


def _recordings(utt_ids: list[str], folder: str, asked: Request) -> list[str]:
    """Return the path of each utterance in that folder; for a missing one, the path it should have."""
    part = folder.partition("/")[0]
    ours = (path for path in asked.files if path.startswith(part) or f"/{part}" in path)
    ours = (path for path in ours if _is_recording(path))
    first = next(ours, f"{folder}/x.flac")
    usual, suffix = posixpath.dirname(first), posixpath.splitext(first)[1]
    paths = [f"{usual}/{utt_id}{suffix}" for utt_id in utt_ids]
    if not asked.there.issuperset(paths):  # several folders, several file types, or missing files
        found = {path[path.rfind("/") + 1 : path.rfind(".")]: path for path in [first, *ours] if path in asked.there}
        paths = [found.get(utt_id, path) for utt_id, path in zip(utt_ids, paths, strict=True)]
    return paths


def _is_recording(path: str) -> bool:
    return path[path.rfind(".") :].lower() in audio.ENDINGS


def _in_folders(entry: Format, asked: Request) -> pd.DataFrame:
    """Read a corpus whose folder names give label, split and attack."""
    files = [path for path in sorted(asked.files) if _is_recording(path)]
    real = _bona_fide(entry, asked, files) if entry.fakes_only else []
    taken = {row["path"] for row in real}
    found = []
    for pattern in map(re.compile, entry.patterns):
        found = [(path, match) for path in files if path not in taken and (match := pattern.search(path))]
        if found:
            break
    if entry.fakes_only and not found:
        raise UserError(f"{asked.root}: holds no fakes of {entry.title} as it is unpacked; see README, Your own data")
    rows = [_row(path, match.groupdict(), entry) for path, match in found]
    taken.update(path for path, _ in found)
    _tell_what_is_not_taken(entry, asked, taken)
    if asked.linked:  # a corpus and a link to it count once
        once = {(row["utt_id"], asked.linked.get(row["path"], row["path"])): row for row in reversed(rows)}
        rows = list(reversed(once.values()))
    copied = {PurePosixPath(row["path"]).stem: row["utt_id"] for row in real}
    for row in rows if copied else ():
        name, mark, rest = PurePosixPath(row["path"]).stem.rpartition("_gen")
        if mark and not rest:  # WaveFake's LJ001-0001_gen.wav is a copy of LJ001-0001.wav
            row["pair_id"] = copied.get(name, "")
    return pd.DataFrame(real + rows, columns=COLUMNS, dtype=str).fillna("")


def _tell_what_is_not_taken(entry: Format, asked: Request, taken: set[str]) -> None:
    """Warn of files that lie where recordings are expected, but are not taken."""
    patterns = [re.compile(pattern) for pattern in entry.patterns]
    if entry.fakes_only:
        patterns.append(re.compile(f"^{re.escape(_folder(asked))}/"))
    left = sorted(asked.there - taken)
    others = [p for p in left if not _is_recording(p) and any(pattern.search(p) for pattern in patterns)]
    if others:
        endings = Counter(posixpath.splitext(path)[1] or "none" for path in others)
        counted = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(5))
        warnings.warn(
            f"files not taken: {len(others)}, as their names do not end like a recording's ({counted}): "
            f"{preview(others)}",
            stacklevel=5,
        )
    outside = [path for path in left if _is_recording(path) and path.partition("/")[0] in entry.own]
    if outside:
        warnings.warn(
            f"recordings not taken: {len(outside)}, as they lie outside the folders that docs/data.md names: "
            f"{preview(outside)}",
            stacklevel=5,
        )


def _row(path: str, said: dict, entry: Format) -> dict:
    split, label, group = said.get("split") or "eval", said.get("label") or "spoof", said.get("group") or ""
    row = {
        "utt_id": _id(said.get("id") or path), "path": path, "language": said.get("language") or "",
        "split": WORDS.get(split, split), "label": WORDS.get(label, label),
    }  # fmt: skip
    if row["label"] == "bonafide":
        return row | {"speaker": group}
    return row | {"attack": said.get("attack") or group or entry.unnamed.format(split=split)}


def _bona_fide(entry: Format, asked: Request, files: list[str]) -> list[dict]:
    """Rows of the bona fide folder that the user has named, all in eval."""
    folder = _folder(asked)
    if not folder:
        raise UserError(
            f"{entry.title} holds fakes alone: put bona fide recordings below {asked.root} and name their folder in "
            "corpus.bonafide"
        )
    rows = []
    for path in files:
        if path.startswith(f"{folder}/"):
            speaker, language = _speaker(path.removeprefix(f"{folder}/"), posixpath.basename(folder))
            rows.append({
                "utt_id": _id(path), "path": path, "label": "bonafide", "split": "eval", "speaker": speaker,
                "language": language,
            })  # fmt: skip
    if not rows:
        raise UserError(f"corpus.bonafide: '{asked.bonafide}' is no folder below {asked.root} that holds recordings")
    return rows


def _folder(asked: Request) -> str:
    """Normalise the bona fide folder: ./real/ becomes real."""
    folder = asked.bonafide.strip("/")
    return folder and posixpath.normpath(folder)


def _speaker(path: str, folder: str) -> tuple[str, str]:
    """Guess speaker and language of a bona fide recording from its folders; `path` is relative to `folder`."""
    above = [part for part in path.split("/")[:-1] if part.lower() not in INNER]
    if "by_book" in above[:-2]:  # M-AILABS: en_US/by_book/female/judy_bieber/emma
        place = above.index("by_book")
        return above[place + 2] if len(above) > place + 2 else "", above[place - 1] if place else folder
    return above[0] if above else folder, ""


def _id(path: str) -> str:
    return path.rpartition(".")[0].replace("/", "-")


def _compare_counts(table: pd.DataFrame, entry: Format, asked: Request) -> None:
    for split in asked.splits:
        published = entry.counts.get(asked.subset if entry.subsets else split)
        if published is None:
            continue
        labels = table.loc[table["split"] == split, "label"]
        held = ((labels == "bonafide").sum(), (labels == "spoof").sum())
        if sum(held) and (held if isinstance(published, tuple) else sum(held)) != published:
            subset = f", subset {asked.subset}" if entry.subsets and asked.subset != "all" else ""
            warnings.warn(
                f"{entry.title}, {split}{subset}: holds {_counted(held)}; published are {_counted(published)}",
                stacklevel=4,
            )


def _counted(count: tuple[int, int] | int) -> str:
    if isinstance(count, int):
        return f"{count:,} utterances"
    return f"{count[0]:,} bona fide and {count[1]:,} spoofed utterances"


# Checks and conditions, for all formats.


def _joined(trained: pd.DataFrame, tested: pd.DataFrame, root: Path, first: Format, second: Format) -> pd.DataFrame:
    """Join train and dev of one corpus with eval of another."""
    both = tested["utt_id"][tested["utt_id"].isin(trained["utt_id"])]
    if len(both):
        raise UserError(
            f"{root}: utt_id {both.iloc[0]} is in {first.title} and in {second.title}: what is said of it would be "
            "ambiguous; rename it in one of them"
        )
    if not first.family or first.family != second.family:
        chance = (tested["attack"] != "") & tested["attack"].isin(trained["attack"])
        tested = tested.assign(attack=tested["attack"].mask(chance, tested["attack"] + f" ({second.title})"))
    return pd.concat([trained, tested])


def _with_conditions(table: pd.DataFrame, same: dict[str, str]) -> pd.DataFrame:
    spoofs = table["label"] == "spoof"
    train, dev = (set(table.loc[spoofs & (table["split"] == split), "attack"]) - {""} for split in TRAINED)
    machine = table["attack"].replace(same)
    known = np.where(machine.isin(train), "known", "unseen")
    neither = (table["split"] == "narrow") & machine.isin(dev - train)  # in eval this is refused
    return table.assign(condition=np.where(spoofs & table["split"].isin(TESTED) & ~neither, known, ""))


def _checked(
    table: pd.DataFrame, root: Path, there: frozenset[str], linked: dict[str, str], same: dict[str, str]
) -> pd.DataFrame:
    if table.empty:
        raise UserError(f"{root}: holds no utterances in this format; see corpus.format")
    table = table.sort_values("utt_id", ignore_index=True, kind="stable")
    nameless = [i for i, name in enumerate(table["utt_id"].tolist()) if not name or name.isspace()]
    if nameless:
        row = table.iloc[nameless[0]]
        raise UserError(f"{_where(row, root)}: the utterance with the path '{row['path']}' has no utt_id")
    for column, allowed in VALUES.items():
        wrong = ~table[column].isin(allowed)
        if wrong.any():
            row = table[wrong].sort_values("line", kind="stable").iloc[0]
            raise UserError(
                f"{_where(row, root)}: {column} of {row['utt_id']} is '{row[column]}', "
                f"not one of {', '.join(sorted(allowed))}"
            )
    contradicts = (table["attack"] != "") & (table["label"] == "bonafide")
    if contradicts.any():
        row = table[contradicts].sort_values("line", kind="stable").iloc[0]
        raise UserError(f"{_where(row, root)}: {row['utt_id']} is bonafide, but has the attack {row['attack']}")
    again = table["utt_id"].duplicated()
    if again.any():
        row = table[again].iloc[0]
        first = table[table["utt_id"] == row["utt_id"]].iloc[0]
        line = f" ({first['protocol']}:{first['line']})" if first["line"] else ""
        raise UserError(
            f"{_where(row, root)}: utt_id {row['utt_id']} occurs more than once: as {first['path']}{line} and as "
            f"{row['path']}"
        )
    check_paths(table, root)
    _check_leaks(table, root, linked)
    table = table[COLUMNS]
    _check_conditions(table, root, same)
    _check_recordings(table, root, there)
    return table


def _check_leaks(table: pd.DataFrame, root: Path, linked: dict[str, str]) -> None:
    """Refuse a recording that is in two splits or both classes, by any path or link."""
    files = pd.Series([linked.get(path, path) for path in map(posixpath.normpath, table["path"].tolist())])
    again = files.duplicated(keep=False)
    if not again.any():
        return
    rows = table[again].assign(file=files[again]).sort_values("line", kind="stable")
    for _, same in rows.groupby("file", sort=False):
        other = same[(same["split"] != same["split"].iloc[0]) | (same["label"] != same["label"].iloc[0])]
        if len(other):
            one, two = same.iloc[0], other.iloc[0]
            line = f", {one['protocol']}:{one['line']}" if one["line"] else ""
            raise UserError(
                f"{_where(two, root)}: {two['utt_id']} ({two['split']}, {two['label']}) is the same recording as "
                f"{one['utt_id']} ({one['split']}, {one['label']}{line}), {two['path']}: a recording belongs to one "
                "split and one class; leave out one of them"
            )


def _where(row: pd.Series, root: Path) -> str:
    return str(root) if not row["line"] else f"{root / row['protocol']}:{row['line']}"


def check_paths(table: pd.DataFrame, root: Path) -> None:
    """Raise UserError for the first `path` of the table that is empty or could leave the folder `root`."""
    paths = table["path"].astype("str").fillna("")
    # a quick preselection: no other path can be wrong
    suspect = table[["utt_id"]].assign(path=paths)[paths.str.contains(r"\.\.|\\|^/|^$").to_numpy()]
    for utt_id, path in suspect.itertuples(index=False):
        if not path or path.startswith("/") or ".." in PurePosixPath(path).parts or "\\" in path:
            raise UserError(
                f"{utt_id}: the path {path!r} leaves the corpus; paths are relative to {root}, without '..'"
            )


def _check_recordings(table: pd.DataFrame, root: Path, there: frozenset[str]) -> None:
    """Warn of missing recordings; refuse a corpus without any."""
    missing = [path for path in table["path"].tolist() if path not in there and not (root / path).is_file()]
    if not missing:
        return
    named = preview(missing)
    if len(missing) == len(table):
        raise UserError(f"{root}: none of the {len(table)} recordings is there: {named}")
    warnings.warn(f"{len(missing)} of {len(table)} recordings are missing: {named}", stacklevel=3)


def preview(names: list[str]) -> str:
    """Join the first five names and count the others.

    >>> preview(list("abcdefgh"))
    'a, b, c, d, e and 3 more'
    """
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_conditions(table: pd.DataFrame, root: Path, same: dict[str, str]) -> None:
    spoofs = table.loc[table["label"] == "spoof", ["utt_id", "attack", "split", "condition"]]
    train, dev = (set(spoofs.loc[spoofs["split"] == split, "attack"]) for split in TRAINED)
    tested = spoofs[spoofs["split"].isin(TESTED)].drop_duplicates(["attack", "split", "condition"])
    for row in tested.itertuples():
        machine = same.get(row.attack, row.attack)
        if row.split == "narrow" and not row.condition:
            continue
        if not row.condition:
            raise UserError(f"{root}: {row.utt_id} is a spoof of eval: its condition must be known or unseen")
        if not row.attack:
            continue
        if machine in dev - train:
            raise UserError(
                f"{root}: dev and {row.split} have the attack {row.attack}, train has not: it is neither known nor "
                f"unseen; take it out of dev or {row.split}, or put some of it into train"
            )
        if row.condition == "known" and machine not in train:
            raise UserError(f"{root}: {row.utt_id} is said to be known, but train lacks its attack {row.attack}")
        if row.condition == "unseen" and machine in train:
            raise UserError(f"{root}: {row.utt_id} is said to be unseen, but train has its attack {row.attack}")


# Published results to compare with: README, Your own data.
SAME_IN_2019 = {"A16": "A04", "A19": "A06"}  # the same attacks under another name in eval, as the organisers say


def _fake_or_real(variant: str, inner: str = "") -> Format:
    """A variant of Fake-or-Real; `inner` ends the folder's name within the archive where it differs."""
    below = r"(?P<id>(?P<split>training|validation|testing)/(?P<label>fake|real)/.+)$"
    return Format(
        f"FoR (for-{variant})",
        _in_folders,
        "figures for the same variant, testing folder; the four variants are not alike",
        patterns=(rf"(?:^|/)for-(?:{variant}|{inner or variant})(?:/[^/]+)?/{below}", f"^{below}"),
        unnamed="unnamed ({split})",  # testing has other attacks than training
    )


FORMATS: dict[str, Format] = {
    "protocol": Format("corpus of protocol.csv", _protocol_csv, "other runs on the same protocol.csv"),
    "folder": Format(
        "corpus of folders",
        _in_folders,
        "other runs on the same folders",
        patterns=(
            r"^(?P<split>train|dev|eval|narrow)/(?P<label>bonafide|spoof)/(?:(?P<group>[^/]+)/.+|[^/]+)$",
            r"^(?P<label>bonafide|spoof)/(?:(?P<group>[^/]+)/.+|[^/]+)$",
        ),
        own=(*SPLITS, "bonafide", "spoof"),
    ),
    "asvspoof2019_la": Format(
        "ASVspoof 2019 LA",
        _listed,
        "EER and min t-DCF on eval of ASVspoof 2019 LA, of systems that were trained on its train alone",
        layout="asvspoof2019",
        protocols={
            split: (f"ASVspoof2019.LA.cm.{split}.{kind}.txt", f"ASVspoof2019_LA_{split}/flac")
            for split, kind in {"train": "trn", "dev": "trl", "eval": "trl"}.items()
        },
        family="ASVspoof 2019",
        same=SAME_IN_2019,
        counts={"train": (2_580, 22_800), "dev": (2_548, 22_296), "eval": (7_355, 63_882)},
    ),
    "asvspoof2021_la": Format(
        "ASVspoof 2021 LA",
        _listed,
        "figures for the subset eval (148,176 trials), not with those for all 181,566",
        layout="asvspoof2021_la",
        protocols={"eval": ("LA/CM/trial_metadata.txt", "ASVspoof2021_LA_eval/flac")},
        family="ASVspoof 2019",
        same=SAME_IN_2019,
        counts={"eval": 148_176, "all": 181_566},
        subsets=True,
    ),
    "asvspoof2021_df": Format(
        "ASVspoof 2021 DF",
        _listed,
        "figures for the subset eval (533,928 trials), not with those for all 611,829",
        layout="asvspoof2021_df",
        protocols={"eval": ("DF/CM/trial_metadata.txt", "ASVspoof2021_DF_eval/flac")},
        family="ASVspoof 2019",
        same=SAME_IN_2019,
        counts={"eval": (14_869, 519_059), "all": 611_829},
        subsets=True,
    ),
    "asvspoof5": Format(
        "ASVspoof 5",
        _listed,
        "minDCF, actDCF and EER of track 1 on eval (680,774 trials), of systems that were trained on its train alone",
        layout="asvspoof5",
        protocols={
            "train": ("ASVspoof5.train.tsv", "flac_T"),
            "dev": ("ASVspoof5.dev.track_1.tsv", "flac_D"),
            "eval": ("ASVspoof5.eval.track_1.tsv", "flac_E_eval"),
        },
        family="ASVspoof 5",
        counts={"eval": 680_774},
    ),
    "in_the_wild": Format(
        "In-the-Wild",
        _listed,
        "EER on In-the-Wild of systems that were trained on the same corpus as this one",
        layout="in_the_wild",
        protocols={"eval": ("release_in_the_wild/meta.csv", "")},
        counts={"eval": (19_963, 11_816)},
    ),
    "for_original": _fake_or_real("original"),
    "for_norm": _fake_or_real("norm"),
    "for_2sec": _fake_or_real("2sec", "2seconds"),
    "for_rerec": _fake_or_real("rerec", "rerecorded"),
    "wavefake": Format(
        "WaveFake",
        _in_folders,
        "figures with the same bona fide recordings beside the fakes: the corpus has none of its own",
        patterns=(
            r"(?:^|/)generated_audio/(?P<id>(?P<attack>[^/]+)/.+)$",
            r"^(?P<id>(?P<attack>(?:ljspeech|jsut|common_voices)_[^/]+)/.+)$",
        ),
        fakes_only=True,
    ),
    "mlaad": Format(
        "MLAAD",
        _in_folders,
        "figures for the same version, with the same bona fide recordings beside the fakes: it has none of its own",
        patterns=(r"(?:^|/)fake/(?P<id>(?P<language>[^/]+)/(?P<attack>[^/]+)/.+)$",),
        fakes_only=True,
    ),
}


# Used by notebooks, which hold no logic.


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Count utterances, speakers, languages, attacks and hours by split and label; `table` needs `seconds`."""

    def named(column: pd.Series) -> int:
        return column[column != ""].nunique()

    counted = table.groupby(["split", "label"]).agg(
        utterances=("utt_id", "size"), speakers=("speaker", named), languages=("language", named),
        attacks=("attack", named), hours=("seconds", lambda seconds: round(seconds.sum() / 3600, 2)),
    )  # fmt: skip
    return counted.reindex(SPLITS, level="split").reset_index()


def digests(table: pd.DataFrame, root: Path | str) -> pd.DataFrame:
    """Fingerprint all recordings in a table that is small enough for git, to compare builds of a corpus.

    Parameters
    ----------
    table
        Utterances.
    root
        Folder of the corpus.

    Returns
    -------
    digests
        One row per split and kind (attack, else source, else label): split, kind, recordings (count), digests (first 6
        hex digits of the MD5 of each file, sorted by utt_id, separated by spaces; ------ for a missing file).
    """
    table = table.sort_values("utt_id")
    kinds = [row.attack or row.source or row.label for row in table.itertuples()]
    found = pd.DataFrame({"split": table["split"].tolist(), "kind": kinds})
    found["digests"] = [_digest(Path(root) / path) for path in table["path"]]
    groups = found.groupby(["split", "kind"])["digests"]
    return groups.agg(recordings="size", digests=" ".join).reset_index()


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()[:6]
    except OSError:  # extract reports the reason
        return "-" * 6


def example(table: pd.DataFrame) -> pd.DataFrame:
    """Pick the recording with the most copies (column `pair_id`), and its copies.

    Returns
    -------
    rows
        Rows of `table`, bona fide first. Without copies, the first utterance of each class.
    """
    copies = table.loc[table["pair_id"].isin(table["utt_id"]), "pair_id"].value_counts().sort_index()
    if len(copies):
        original = copies.idxmax()
        rows = table[(table["utt_id"] == original) | (table["pair_id"] == original)]
    else:
        rows = table.drop_duplicates("label")
    return rows.sort_values(["label", "utt_id"])


def measured(table: pd.DataFrame, root: Path | str) -> pd.DataFrame:
    """Add the column `seconds` from the file headers; utterances whose file cannot be opened are left out."""

    def seconds(path: str) -> float:
        try:
            return audio.info(Path(root) / path)
        except audio.BadAudio:
            return np.nan

    return table.assign(seconds=[seconds(path) for path in table["path"]]).dropna(subset="seconds")
