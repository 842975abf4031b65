"""Reads every corpus format into one table of utterances, and checks it.

`FORMATS` lists the formats; `corpora.public` has the layouts of public corpora and the readers.
"""

import dataclasses
import hashlib
import os
import posixpath
import sys
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from aasist_lib import audio
from aasist_lib.base.errors import UserError
from aasist_lib.base.files import nearest
from aasist_lib.corpora import protocols, public
from aasist_lib.corpora.public import COLUMNS, CorpusFormat, Request, preview

SPLITS = ("train", "dev", "eval", "narrow")  # narrow: a second eval of telephone speech, in few corpora
NEEDED = SPLITS[:3]
TRAINED, TESTED = SPLITS[:2], SPLITS[2:]
VALUES = {"label": {"bonafide", "spoof"}, "split": set(SPLITS), "condition": {"", "known", "unseen"}}
SUBSETS = (*protocols.SUBSETS, "all")  # of the ASVspoof 2021 keys


def _protocol_csv(entry: CorpusFormat, request: Request) -> pd.DataFrame:
    path = request.root / "protocol.csv"
    if not path.is_file():
        raise UserError(f"{path}: not found; write one with the columns {', '.join(COLUMNS)}, or set corpus.format")
    header, rows, lines = protocols.rows(path)
    missing = [column for column in ("utt_id", "path", "label", "split") if column not in header]
    if missing:
        raise UserError(f"{path}:1: lacks the column {missing[0]}")
    table = pd.DataFrame(rows, columns=header, dtype=str).reindex(columns=COLUMNS, fill_value="")
    return table.assign(protocol=path.name, line=lines)


FORMATS: dict[str, CorpusFormat] = {
    "protocol": CorpusFormat("corpus of protocol.csv", _protocol_csv, "other runs on the same protocol.csv"),
    "folder": CorpusFormat(
        "corpus of folders",
        public.in_folders,
        "other runs on the same folders",
        patterns=(
            r"^(?P<split>train|dev|eval|narrow)/(?P<label>bonafide|spoof)/(?:(?P<group>[^/]+)/.+|[^/]+)$",
            r"^(?P<label>bonafide|spoof)/(?:(?P<group>[^/]+)/.+|[^/]+)$",
        ),
        own=(*SPLITS, "bonafide", "spoof"),
    ),
    **public.FORMATS,
}


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
    request = Request(root, files, frozenset(files), linked, SPLITS, bonafide, subset)
    first, second = FORMATS[format], FORMATS[eval_format or format]
    same = second.same if first.family == second.family else {}
    if first is second:
        table = _rows(first, request)
    else:
        trained = _rows(first, dataclasses.replace(request, splits=TRAINED))
        table = _join(trained, _rows(second, dataclasses.replace(request, splits=TESTED)), root, first, second)
    if first is not second or format != "protocol":  # protocol.csv declares conditions
        table = _with_conditions(table, same)
    table = _check(table, root, linked, same)
    _check_recordings(table, request)
    return table


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
    messages = [str(warning.message) for warning in caught]
    if "AASIST_TERMINAL" in os.environ:  # set by the pipeline, whose notebooks keep no error stream
        print("".join(f"corpus: {line}\n" for line in messages), end="", file=sys.stderr, flush=True)
    lacking = [split for split in NEEDED if split not in set(table["split"])]
    if lacking == ["eval"]:
        raise UserError("this corpus has no eval: set corpus.eval_format to one that has, beside it in the same folder")
    if lacking:
        raise UserError(
            f"this corpus has no {' and no '.join(lacking)}: set corpus.format to one that has (asvspoof2019_la, for "
            f"example) and corpus.eval_format to this one ({corpus['format']}), both in the same folder"
        )
    present = set(zip(table["split"], table["label"], strict=True))
    for split, label in product(NEEDED, sorted(VALUES["label"])):
        if (split, label) not in present:
            raise UserError(f"{split} of this corpus has no {label} recordings: add some, it needs both classes")
    entry = FORMATS[corpus["eval_format"] or corpus["format"]]
    about = [f"Test set: {test_set(corpus)}", f"To compare with: {entry.compare}"]
    return table, about + [f"Note: {line}" for line in messages]


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


def _rows(entry: CorpusFormat, request: Request) -> pd.DataFrame:
    """Read the requested splits and compare their size with the published one."""
    table = entry.rows(entry, request)
    table = table.assign(**{name: "" for name in COLUMNS if name not in table})
    if "line" not in table:
        table = table.assign(protocol="", line=0)
    others = table["split"].isin(set(SPLITS) - set(request.splits))
    table = table[~others] if others.any() else table
    if table.empty and request.splits == TESTED:
        raise UserError(f"{request.root}: {entry.title} has no eval; see corpus.eval_format")
    public.compare_counts(table, entry, request)
    return table


def _join(
    trained: pd.DataFrame, tested: pd.DataFrame, root: Path, first: CorpusFormat, second: CorpusFormat
) -> pd.DataFrame:
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


def _check(table: pd.DataFrame, root: Path, linked: dict[str, str], same: dict[str, str]) -> pd.DataFrame:
    """Sort the table, refuse what it must not say, and leave `COLUMNS`."""
    if table.empty:
        raise UserError(f"{root}: holds no utterances in this format; see corpus.format")
    table = table.sort_values("utt_id", ignore_index=True, kind="stable")

    def refuse(wrong: pd.Series, message: Callable[[pd.Series], str]) -> None:
        if wrong.any():
            row = table[wrong].sort_values("line", kind="stable").iloc[0]
            raise UserError(f"{_where(row, root)}: {message(row)}")

    refuse(table["utt_id"].str.strip() == "", lambda row: f"the utterance with the path '{row['path']}' has no utt_id")
    for column, allowed in VALUES.items():
        refuse(~table[column].isin(allowed), lambda row, column=column, allowed=allowed: (
            f"{column} of {row['utt_id']} is '{row[column]}', not one of {', '.join(sorted(allowed))}"
        ))  # fmt: skip
    refuse((table["attack"] != "") & (table["label"] == "bonafide"), lambda row: (
        f"{row['utt_id']} is bonafide, but has the attack {row['attack']}"
    ))  # fmt: skip
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
    _check_conditions(table, root, same)
    return table[COLUMNS]


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


def _check_recordings(table: pd.DataFrame, request: Request) -> None:
    """Warn of missing recordings; refuse a corpus without any."""
    paths = table["path"].tolist()
    missing = [path for path in paths if path not in request.existing and not (request.root / path).is_file()]
    if missing and len(missing) == len(table):
        raise UserError(f"{request.root}: none of the {len(table)} recordings is there: {preview(missing)}")
    if missing:
        warnings.warn(f"{len(missing)} of {len(table)} recordings are missing: {preview(missing)}", stacklevel=3)


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
