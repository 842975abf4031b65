"""Every corpus format to one table of utterances."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from .errors import UserError

COLUMNS = [
    "utt_id", "path", "label", "speaker", "attack", "split", "condition", "language", "source", "codec", "pair_id"
]
VALUES = {"label": {"bonafide", "spoof"}, "split": {"train", "dev", "eval"}, "condition": {"", "known", "unseen"}}
SPLITS = ("train", "dev", "eval")
AUDIO = {".flac", ".wav", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".au", ".caf", ".m4a"}


def read(root: Path | str, format: str = "protocol") -> pd.DataFrame:
    """The utterances of a corpus.

    Parameters
    ----------
    root : path
        Its folder.
    format : {"protocol", "folder"}
        `protocol`: a `protocol.csv` with the columns below. `folder`: `bonafide/` and `spoof/`, below each of
        `train/`, `dev/` and `eval/`; a folder below `bonafide/` names a speaker, one below `spoof/` an attack.

    Returns
    -------
    DataFrame
        Columns `utt_id, path, label, speaker, attack, split, condition, language, source, codec, pair_id`, all
        text, empty where unknown; `path` is relative to `root`. Sorted by `utt_id`.

    Raises
    ------
    UserError
        When something is missing or says what the table does not allow: which file, which row, which value.
    """
    root = Path(root)
    if format not in FORMATS:
        near = get_close_matches(format, FORMATS, 1, 0)
        raise UserError(f"corpus.format: '{format}' is not a format; the nearest is '{near[0]}'")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; `dvc repro` builds the default corpus")
    table = FORMATS[format](root)
    return _checked(table, root)


def _protocol(root: Path) -> pd.DataFrame:
    path = root / "protocol.csv"
    if not path.is_file():
        raise UserError(f"{path}: not found; write one with the columns {', '.join(COLUMNS)}, or set corpus.format")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in ("utt_id", "path", "label", "split") if column not in table.columns]
    if missing:
        raise UserError(f"{path}: lacks the column {missing[0]}")
    return table.reindex(columns=COLUMNS, fill_value="")


def _folder(root: Path) -> pd.DataFrame:
    rows = []
    for split in SPLITS:
        for label in sorted(VALUES["label"]):
            folder = root / split / label
            for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO):
                below = path.relative_to(folder).parts
                group = below[0] if len(below) > 1 else ""
                name = path.relative_to(root).as_posix()
                rows.append({
                    "utt_id": name.rpartition(".")[0].replace("/", "-"), "path": name, "label": label, "split": split,
                    "speaker": group if label == "bonafide" else "", "attack": group if label == "spoof" else "",
                })
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=str).fillna("")
    trained = set(table.loc[(table["split"] == "train") & (table["label"] == "spoof"), "attack"])
    spoofed = (table["split"] == "eval") & (table["label"] == "spoof")
    known = table["attack"].isin(trained)
    table.loc[spoofed, "condition"] = known[spoofed].map({True: "known", False: "unseen"})
    return table


FORMATS: dict[str, Callable[[Path], pd.DataFrame]] = {"protocol": _protocol, "folder": _folder}


def _checked(table: pd.DataFrame, root: Path) -> pd.DataFrame:
    if table.empty:
        raise UserError(f"{root}: holds no utterances in this format; see corpus.format")
    for column, allowed in VALUES.items():
        wrong = table[~table[column].isin(allowed)]
        if len(wrong):
            row = wrong.iloc[0]
            raise UserError(
                f"{root}: {column} of {row['utt_id']} is '{row[column]}', not one of {', '.join(sorted(allowed))}"
            )
    repeated = table["utt_id"][table["utt_id"].duplicated()]
    if len(repeated):
        raise UserError(f"{root}: utt_id {repeated.iloc[0]} occurs more than once")
    for (split, label), rows in table.groupby(["split", "label"]):
        if split == "eval" and label == "spoof" and (rows["condition"] == "").any():
            name = rows["utt_id"].iloc[0]
            raise UserError(f"{root}: {name} is a spoof of eval: its condition must be known or unseen")
    return table.sort_values("utt_id", ignore_index=True)
