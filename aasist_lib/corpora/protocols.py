"""Layouts of the protocol and key files of public corpora, and one strict reader for all of them.

`LAYOUTS` holds the layouts. Any run of spaces and tabs separates fields. Every error is a `UserError` of one line:
file, line number, what was expected and what was found.
"""

import csv
import io
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from aasist_lib.base.errors import UserError

NO_ATTACK = ("-", "bonafide")  # in the attack column of bona fide trials
SUBSETS = ("eval", "progress", "hidden")


@dataclass(frozen=True)
class Columns:
    """Layout of a protocol file."""

    columns: tuple[str, ...]  # in the order of the file, named as in a table of utterances where that has them
    # the file's label -> ours
    labels: dict[str, str] = field(default_factory=lambda: {"bonafide": "bonafide", "spoof": "spoof"})
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)  # column -> allowed values; others: free text
    # the file's word for "no codec" -> the table's
    no_codec: dict[str, str] = field(default_factory=lambda: {"-": ""})
    header: bool = False  # if True, a line of column names and commas between fields


LAYOUTS = {
    # ASVspoof2019.LA.cm.{train.trn,dev.trl,eval.trl}.txt
    "asvspoof2019": Columns(("speaker", "utt_id", "environment", "attack", "label")),
    # LA/CM/trial_metadata.txt and DF/CM/trial_metadata.txt of the keys
    "asvspoof2021_la": Columns(
        ("speaker", "utt_id", "codec", "transmission", "attack", "label", "trim", "subset"),
        values={
            "codec": ("none", "alaw", "pstn", "g722", "ulaw", "gsm", "opus", "-"),
            "trim": ("notrim", "trim"),
            "subset": SUBSETS,
        },
    ),
    "asvspoof2021_df": Columns(
        ("speaker", "utt_id", "codec", "source", "attack", "label", "trim", "subset", "vocoder", "task", "team",
         "gender", "language"),
        values={
            "codec": ("nocodec", "low_mp3", "high_mp3", "low_m4a", "high_m4a", "low_ogg", "high_ogg", "mp3m4a",
                      "oggm4a", "-"),
            "trim": ("notrim", "trim"),
            "subset": SUBSETS,
        },
    ),
    # ASVspoof5.{train,dev.track_1,eval.track_1}.tsv; separated by spaces despite the name
    "asvspoof5": Columns(
        ("speaker", "utt_id", "gender", "codec", "codec_quality", "codec_seed", "attack_tag", "attack", "label",
         "unused"),
        values={"gender": ("F", "M", "-"), "codec": ("-", *(f"C{number:02d}" for number in range(12)))},
        no_codec={"-": "none"},
    ),
    # meta.csv
    "in_the_wild": Columns(
        ("file", "speaker", "label"), labels={"bona-fide": "bonafide", "spoof": "spoof"}, header=True
    ),
}  # fmt: skip


def read(path: Path | str, layout: str) -> pd.DataFrame:
    """Read a protocol or key file.

    Parameters
    ----------
    layout
        One of `LAYOUTS`.

    Returns
    -------
    table
        One row per utterance, in the order of the file. Columns of the layout, as text, with `attack`, `codec` and
        `utt_id` (of In-the-Wild: the file's name) added where the layout has none. `label` is `bonafide` or `spoof`;
        `attack` is empty for bona fide. `line` is the line number, from 1.

    Raises
    ------
    UserError
        The file cannot be read, is empty or not UTF-8; or a row has a wrong number of fields, a value that its column
        does not allow, a label that contradicts its attack, or the utt_id of an earlier row.
    """
    chosen = LAYOUTS[layout]
    table = _with_header(path, chosen) if chosen.header else _without_header(path, chosen)
    if "utt_id" not in table:
        table.insert(0, "utt_id", table["file"])
    _check(table, path, chosen)
    table["label"] = table["label"].map(chosen.labels)
    for column, nothing in {"attack": dict.fromkeys(NO_ATTACK, ""), "codec": chosen.no_codec}.items():
        table[column] = table[column].astype(str).replace(nothing) if column in table else ""
    return table.astype({name: str for name in table if name != "line"})


def rows(path: Path | str) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and line numbers of a CSV file, without empty rows and columns at its end."""
    # strict: else an unclosed quote swallows the rows after it
    reader = csv.reader(io.StringIO(_text(path).decode().rstrip("\n") + "\n", newline=""), strict=True)
    try:
        header = next(reader)
        numbered = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: expected a row of a csv table, found {error}") from None
    while numbered and not any(numbered[-1][1]):
        numbered.pop()
    for line, row in numbered:
        if len(row) != len(header):
            raise UserError(_wrong_count(path, line, header, len(row), ",".join(row)))
    if not numbered:
        raise UserError(f"{path}:2: expected rows below the header, found none")
    lines, fields = map(list, zip(*numbered, strict=True))
    return named(header, fields, path), fields, lines


def named(header: list[str], rows: list[list[str]], path: Path | str) -> list[str]:
    """Column names without those of nameless empty columns at the end, which are removed from `rows` in place."""
    names = [name.strip() for name in header]
    while names and not names[-1] and not any(row[-1] for row in rows):
        names.pop()
        for row in rows:
            row.pop()
    again = [name for i, name in enumerate(names) if name in names[:i]]
    if again:
        raise UserError(f"{path}:1: a column is named {again[0]!r} a second time: {', '.join(names)}")
    return names


def _text(path: Path | str) -> bytes:
    """Content of a UTF-8 file, with line feeds as line ends and without a byte order mark."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    try:
        data.decode()
        expected, place = "text", max(data.find(b"\r"), data.find(b"\0"))  # parsers end a line or a field there
    except UnicodeDecodeError as error:
        expected, place = "text in UTF-8", error.start
    if place >= 0:
        line = data.count(b"\n", 0, place) + 1
        raise UserError(f"{path}:{line}: expected {expected}, found the byte 0x{data[place]:02x}")
    if not data.strip():
        raise UserError(f"{path}:1: expected rows, found an empty file")
    return data


def _with_header(path: Path | str, layout: Columns) -> pd.DataFrame:
    header, fields, lines = rows(path)
    if tuple(header) != layout.columns:
        raise UserError(f"{path}:1: expected the header {','.join(layout.columns)!r}, found {','.join(header)!r}")
    return pd.DataFrame(fields, columns=header, dtype=str).assign(line=lines)


def _without_header(path: Path | str, layout: Columns) -> pd.DataFrame:
    data, columns = _text(path).rstrip(), list(layout.columns)
    few = dict.fromkeys(columns, "category") | {"utt_id": str}  # saves memory: these values repeat
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                io.BytesIO(data), sep=r"\s+", header=None, names=[*columns, "more"], index_col=False, dtype=few,
                keep_default_na=False, na_filter=False, quoting=csv.QUOTE_NONE, skip_blank_lines=False,
            )  # fmt: skip
        wrong = (table[columns[-1]] == "").any() or (table.pop("more") != "").any()
    except (pd.errors.ParserError, pd.errors.ParserWarning):  # several fields too many
        wrong = True
    if wrong:  # pandas has filled short lines
        for line, text in enumerate(data.split(b"\n"), 1):
            fields = re.findall(rb"[^ \t]+", text)
            if len(fields) != len(columns):
                raise UserError(_wrong_count(path, line, columns, len(fields), b" ".join(fields).decode()))
    return table.assign(line=np.arange(1, len(table) + 1))


def _wrong_count(path: Path | str, line: int, columns: list[str], count: int, text: str) -> str:
    shown = text if len(text) <= 200 else text[:200] + "..."
    return f"{path}:{line}: expected {len(columns)} fields ({' '.join(columns)}), found {count}: {shown!r}"


def _check(table: pd.DataFrame, path: Path | str, layout: Columns) -> None:
    """Refuse the first line with a value that the layout does not allow."""
    checks = [
        (~table[column].isin(allowed), f"{' or '.join(allowed)} as the {column} of {{utt_id}}, found {{{column}!r}}")
        for column, allowed in {"label": tuple(layout.labels), **layout.values}.items()
    ]
    if "attack" in table:
        real, nameless = table["label"] == "bonafide", table["attack"].isin(NO_ATTACK)
        checks += [
            (real & ~nameless, "no attack (- or bonafide) of {utt_id}, which is bonafide, found {attack!r}"),
            (~real & nameless, "an attack of {utt_id}, which is a spoof, found {attack!r}"),
        ]
    checks += [
        (table["utt_id"] == "", "a name, found {utt_id!r}"),
        (table["utt_id"].duplicated(), "every utterance once, found {utt_id} again, which line {first} has"),
    ]
    # of several checks that fail in the same line, the one that comes first here
    failed = [(int(np.argmax(wrong)), expected) for wrong, expected in checks if wrong.any()]
    if failed:
        place, expected = min(failed, key=lambda check: check[0])
        row = table.iloc[place]
        first = table.loc[table["utt_id"] == row["utt_id"], "line"].iloc[0]
        raise UserError(f"{path}:{row['line']}: expected {expected.format(first=first, **row)}")
