"""Every corpus format to one table of utterances, and the samples of it that notebooks show."""

import warnings
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from aasist_lib import audio
from aasist_lib.errors import UserError

COLUMNS = [
    "utt_id", "path", "label", "speaker", "attack", "split", "condition", "language", "source", "codec", "pair_id"
]  # fmt: skip
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
        Spoofs in no such folder are one attack, `unnamed`.

    Returns
    -------
    DataFrame
        Columns `utt_id, path, label, speaker, attack, split, condition, language, source, codec, pair_id`, all
        text, empty where unknown; `path` is relative to `root`. Sorted by `utt_id`.
        The `condition` of a spoof of eval is `known` if train has its attack, `unseen` if neither train nor dev has
        it. An attack of eval that dev alone has is neither, as choices were made on it, and is refused. A protocol
        declares conditions; those of spoofs without an attack's name are taken as declared.

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
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # also what pandas raises for no columns, for ragged rows, and of other encodings
        raise UserError(f"{path}: not a CSV table in UTF-8 ({' '.join(str(error).split())})") from None
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
                    "speaker": group if label == "bonafide" else "",
                    "attack": group or "unnamed" if label == "spoof" else "",
                })  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=str).fillna("")
    spoofs = table["label"] == "spoof"
    known = table["attack"].isin(table.loc[spoofs & (table["split"] == "train"), "attack"])
    table.loc[spoofs & (table["split"] == "eval"), "condition"] = known.map({True: "known", False: "unseen"})
    return table


FORMATS: dict[str, Callable[[Path], pd.DataFrame]] = {"protocol": _protocol, "folder": _folder}


def _checked(table: pd.DataFrame, root: Path) -> pd.DataFrame:
    if table.empty:
        raise UserError(f"{root}: holds no utterances in this format; see corpus.format")
    table = table.sort_values("utt_id", ignore_index=True)
    nameless = table["path"][table["utt_id"].str.strip() == ""]
    if len(nameless):
        raise UserError(f"{root}: the utterance with the path '{nameless.iloc[0]}' has no utt_id")
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
    check_paths(table, root)
    _check_conditions(table, root)
    return table


def check_paths(table: pd.DataFrame, root: Path) -> None:
    """Raise UserError for the first `path` of the table that is empty or could lead out of the corpus `root`."""
    for utt_id, path in zip(table["utt_id"], table["path"].astype(str), strict=True):
        if not path or path.startswith("/") or ".." in PurePosixPath(path).parts or "\\" in path:
            raise UserError(
                f"{utt_id}: the path {path!r} leaves the corpus; paths are relative to {root}, without '..'"
            )


def _check_conditions(table: pd.DataFrame, root: Path) -> None:
    spoofs = table[table["label"] == "spoof"]
    train, dev = (set(spoofs.loc[spoofs["split"] == split, "attack"]) for split in ("train", "dev"))
    for row in spoofs[spoofs["split"] == "eval"].drop_duplicates(["attack", "condition"]).itertuples():
        if not row.condition:
            raise UserError(f"{root}: {row.utt_id} is a spoof of eval: its condition must be known or unseen")
        if not row.attack:
            continue
        if row.attack in dev - train:
            raise UserError(
                f"{root}: dev and eval have the attack {row.attack}, train has not: it is neither known nor unseen; "
                "take it out of dev or eval, or put some of it into train"
            )
        if row.condition == "known" and row.attack not in train:
            raise UserError(f"{root}: {row.utt_id} is said to be known, but train lacks its attack {row.attack}")
        if row.condition == "unseen" and row.attack in train:
            raise UserError(f"{root}: {row.utt_id} is said to be unseen, but train has its attack {row.attack}")


# For notebooks, which hold no logic.


def measured(table: pd.DataFrame, root: Path | str) -> pd.DataFrame:
    """The utterances whose files can be opened, with a column `seconds`: the lengths that the files' headers give."""

    def seconds(path: str) -> float:
        try:
            return audio.info(Path(root) / path)
        except audio.BadAudio:
            return np.nan

    return table.assign(seconds=[seconds(path) for path in table["path"]]).dropna(subset="seconds")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """What each split holds of each class: utterances, how many speakers, languages and attacks are named, hours.

    `table` has the column `seconds`.
    """

    def named(column: pd.Series) -> int:
        return column[column != ""].nunique()

    counted = table.groupby(["split", "label"]).agg(
        utterances=("utt_id", "size"), speakers=("speaker", named), languages=("language", named),
        attacks=("attack", named), hours=("seconds", lambda seconds: round(seconds.sum() / 3600, 2)),
    )  # fmt: skip
    return counted.reindex(SPLITS, level="split").reset_index()


def example(table: pd.DataFrame) -> pd.DataFrame:
    """A recording and the copies made from it (column `pair_id`): the one with the most copies.

    Returns
    -------
    DataFrame
        Rows of `table`, the recording first. Where nothing was copied, the first utterance of each class; none if
        the table is empty.
    """
    copies = table.loc[table["pair_id"].isin(table["utt_id"]), "pair_id"].value_counts().sort_index()
    if len(copies):
        original = copies.idxmax()
        rows = table[(table["utt_id"] == original) | (table["pair_id"] == original)]
    else:
        rows = table.drop_duplicates("label")
    return rows.sort_values(["label", "utt_id"])


def differences_from_librosa(store, root: Path | str, count: int = 20) -> pd.Series:
    """How far a store's coefficients are from those that librosa computes, one recording at a time.

    Parameters
    ----------
    store : Store
        Of MFCC.
    root : path
        Folder of the corpus.
    count : int
        Utterances to compare, spread evenly over the store; all, if it holds fewer.

    Returns
    -------
    Series
        utt_id -> largest absolute difference of a coefficient (dB), slopes left aside.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # a downloader among its parts wants other bars
        from librosa.feature import mfcc  # takes seconds, and nothing else here needs it

    settings = store.features
    options = {name: settings[name] for name in ("n_mfcc", "n_fft", "hop_length", "n_mels")}
    differences = {}
    for row in np.unique(np.linspace(0, len(store) - 1, count).round().astype(int)):
        waveform = audio.read(Path(root) / store.table["path"][row], settings["sample_rate"])
        reference = mfcc(y=waveform, sr=settings["sample_rate"], **options)
        differences[store.table["utt_id"][row]] = np.abs(store.read(row)[: settings["n_mfcc"]] - reference).max()
    return pd.Series(differences)
