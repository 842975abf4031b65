"""Score files and keys of the field: read, matched, measured and written, whichever system made the scores.

| format | SCORES | KEYS |
|---|---|---|
| asvspoof2019 | `UTT ATTACK KEY SCORE` or `UTT SCORE` | protocol, `SPEAKER UTT - ATTACK KEY` |
| asvspoof2021 | `TRIAL SCORE` | `trial_metadata.txt` of LA (8 columns) or of DF (13) |
| asvspoof5 | `filename<TAB>cm-score`, with this header | protocol (10 columns), or `filename<TAB>cm-label`, same |
| csv | header; `utt_id` and `llr`, or else `score` | header; `utt_id`, `label`, any of `OPTIONAL` |

Names may contain spaces: space-separated fields are counted from the end of the line. Higher scores mean bona fide.
Every error is a `UserError` of one line that names the file and, where there is one, the line in it.
"""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from aasist_lib import evaluation, metrics
from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.corpora import protocols

FORMATS = ("asvspoof2019", "asvspoof2021", "asvspoof5", "csv")
SUBSETS = ("eval", "progress", "hidden", "all")  # of the keys of ASVspoof 2021
LABELS, ASV_LABELS = ("bonafide", "spoof"), ("target", "nontarget", "spoof")
OPTIONAL = ["speaker", "attack", "codec", "condition", "split"]  # columns of csv keys, beside utt_id and label
COLUMNS = ["utt_id", "label", "speaker", "attack", "codec", "condition", "llr"]
LAYOUTS_2021 = {8: "asvspoof2021_la", 13: "asvspoof2021_df"}  # by the number of columns


@dataclass(frozen=True)
class Matched:
    """Scores matched to their keys: one row per trial of the keys, in their order, with the columns `COLUMNS`.

    `layout` is the format, or asvspoof2021_la or asvspoof2021_df. `subset` is "" where the keys have no parts.
    `left_out` counts scores of trials that are not in this part of the keys.
    """

    table: pd.DataFrame
    layout: str
    subset: str
    left_out: int


def read(scores: Path | str, keys: Path | str, format: str, subset: str | None = None) -> Matched:
    """Read a score file and match it to its keys.

    Parameters
    ----------
    format : one of `FORMATS`.
    subset : one of `SUBSETS` for ASVspoof 2021 (default: eval, the part that papers report); for csv keys with a column
        `split`, one of its values or "all" (default: the only value, else "all"). Other keys have no parts.

    Raises
    ------
    UserError
        A file is unreadable, empty or not in this format; a trial occurs twice; a trial of the keys has no score; or
        the score file contradicts the keys.
    """
    if format not in FORMATS:
        raise UserError(f"format: {format!r} is not one of {', '.join(FORMATS)}")
    truth, layout = read_keys(keys, format)
    truth, subset = _part(truth, keys, format, subset)
    found = read_scores(scores, format)
    place = pd.Index(found["utt_id"]).get_indexer(truth["utt_id"])
    missing = truth[place < 0]
    if len(missing) == len(truth):
        _check_key_column(found, truth, format, scores)
        raise UserError(
            f"{scores}: not one trial of {keys} has a score; the keys have {truth['utt_id'].iloc[0]!r}, for example, "
            f"and the scores {found['utt_id'].iloc[0]!r}"
        )
    if len(missing):
        named = ", ".join(f"{row.utt_id} (line {row.line})" for row in missing.head(5).itertuples())
        rest = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(f"{scores}: no score for {len(missing)} of {len(truth)} trials of {keys}: {named}{rest}")
    left_out = len(found) - len(truth)
    found = found.iloc[place].reset_index(drop=True)
    _check_agreement(found, truth, scores, keys)
    return Matched(truth.assign(llr=found["llr"])[COLUMNS], layout, subset, left_out)


def read_scores(path: Path | str, format: str) -> pd.DataFrame:
    """Score file as a table: utt_id, llr (NaN and infinities kept), line (from 1); label and attack where stated."""
    if format == "csv":
        table = _with_header(path, ",", "utt_id", "llr or score")
        table["llr"] = table["llr" if "llr" in table else "score"]
        table = table[["utt_id", "llr", "line"]]
    elif format == "asvspoof5":
        table = _with_header(path, "\t", "filename", "cm-score")
        table = table.rename(columns={"filename": "utt_id", "cm-score": "llr"})[["utt_id", "llr", "line"]]
    elif format == "asvspoof2019" and _states_key(_lines(path)[0]):
        table = _spaced(path, "UTT ATTACK KEY SCORE", ["utt_id", "attack", "label", "llr"])
        _check_labels(table, LABELS, path)
        table["attack"] = table["attack"].replace(["-", "bonafide"], "")
    else:
        table = _spaced(path, "UTT SCORE", ["utt_id", "llr"])
    table["llr"] = _numbers(table["llr"], table["line"], path)
    _check_once(table, path, "scored")
    return table


def read_keys(path: Path | str, format: str) -> tuple[pd.DataFrame, str]:
    """Keys as a table (utt_id, label, `OPTIONAL` columns with "" if unknown, line from 1), and their layout."""
    layout = format
    if format == "csv":
        table = _with_header(path, ",", "utt_id", "label")
    elif format == "asvspoof5" and _lines(path)[0].startswith("filename\t"):
        table = _with_header(path, "\t", "filename", "cm-label")
        table = table.rename(columns={"filename": "utt_id", "cm-label": "label"})[["utt_id", "label", "line"]]
    else:
        if format == "asvspoof2021":
            count = len(_lines(path)[0].split())
            if count not in LAYOUTS_2021:
                raise UserError(f"{path}:1: expected 8 columns (LA) or 13 (DF), found {count}")
            layout = LAYOUTS_2021[count]
        table = protocols.read(path, layout)
    _check_labels(table, LABELS, path)
    _check_once(table, path, "named")
    for column in OPTIONAL:
        if column not in table:
            table[column] = ""
    return table, layout


def _part(keys: pd.DataFrame, path, format: str, subset: str | None) -> tuple[pd.DataFrame, str]:
    """Trials of one part of the keys, and its name; "" where the keys have no parts."""
    column = {"asvspoof2021": "subset", "csv": "split"}.get(format)
    if column is None or (keys[column] == "").all():
        if subset not in (None, "all"):
            raise UserError(f"--subset {subset}: {path} does not say which trials belong to a subset")
        return keys, ""
    if format == "asvspoof2021":
        names, default = SUBSETS, "eval"
    else:
        splits = sorted(set(keys[column]))
        names, default = (*splits, "all"), splits[0] if len(splits) == 1 else "all"
    subset = subset or default
    if subset not in names:
        raise UserError(f"--subset {subset}: not one of {', '.join(names)}")
    part = keys if subset == "all" else keys[keys[column] == subset].reset_index(drop=True)
    if part.empty:
        present = ", ".join(sorted(set(keys[column])))
        raise UserError(f"{path}: no trial belongs to the subset {subset}; there are {present}")
    return part, subset


def _lines(path: Path | str) -> list[str]:
    """Lines of a text file, without empty ones at its end."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig").rstrip("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: empty")
    return text.split("\n")


def _with_header(path: Path | str, delimiter: str, *needed: str) -> pd.DataFrame:
    """Table of texts with the number of each row's line; a `needed` column may be "this or that"."""
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    # strict: an unclosed quote would otherwise swallow the following rows
    reader = csv.reader((f"{line}\n" for line in _lines(path)), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        lines, rows = [], []
        for row in reader:
            if any(row):
                lines.append(reader.line_num)
                rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not a row of a table ({error})") from None
    if not all(set(name.split(" or ")) & set(header) for name in needed):
        raise UserError(f"{path}:1: expected a header with {' and '.join(needed)}, found {', '.join(header)}")
    if not rows:
        raise UserError(f"{path}: a header, and nothing below it")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise UserError(f"{path}:{line}: expected {len(header)} fields, as in the header, found {len(row)}")
    header = protocols.named(header, rows, path)
    return pd.DataFrame(rows, columns=header).assign(line=lines)


def _spaced(path: Path | str, expected: str, columns: list[str], *, spaces: bool = True) -> pd.DataFrame:
    """Table of texts without header, with the number of each row's line.

    Names in the first column may contain `spaces`, so that fields are counted from the end of the line.
    """
    lines = _lines(path)
    rows = [line.rsplit(None, len(columns) - 1) if spaces else line.split() for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise UserError(f"{path}:{number}: expected {expected}, found {lines[number - 1].strip()!r}")
    table = pd.DataFrame(rows, columns=columns).assign(line=range(1, len(rows) + 1))
    table[columns[0]] = table[columns[0]].str.strip()
    return table


def _check_labels(table: pd.DataFrame, labels: tuple[str, ...], path) -> None:
    wrong = table[~table["label"].isin(labels)]
    if len(wrong):
        expected = f"{', '.join(labels[:-1])} or {labels[-1]}"
        raise UserError(f"{path}:{wrong['line'].iloc[0]}: expected {expected}, found {wrong['label'].iloc[0]!r}")


def _states_key(line: str) -> bool:
    row = line.rsplit(None, 3)
    return len(row) == 4 and row[2] in LABELS


def _check_key_column(found: pd.DataFrame, truth: pd.DataFrame, format: str, path) -> None:
    """Refuse an unknown KEY in line 1 of a four-column file, which was read as two columns."""
    fields = found["utt_id"].iloc[0].rsplit(None, 2)
    if format == "asvspoof2019" and "label" not in found and len(fields) == 3 and fields[0] in set(truth["utt_id"]):
        raise UserError(f"{path}:{found['line'].iloc[0]}: expected bonafide or spoof, found {fields[2]!r}")


def _numbers(texts, lines, path, *, nan: bool = True) -> np.ndarray:
    """Scores as float64; infinities are accepted, and NaN if `nan`."""
    number = re.compile(r"[+-]?(nan|inf|infinity|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)", re.ASCII | re.IGNORECASE)
    for text, line in zip(texts, lines, strict=True):
        if not number.fullmatch(text.strip()) or (not nan and math.isnan(float(text))):
            raise UserError(f"{path}:{line}: expected a number as the score, found {text!r}")
    return np.array([float(text) for text in texts])


def _check_once(table: pd.DataFrame, path, done: str) -> None:
    """Refuse a trial with two rows, even if they agree."""
    again = table["utt_id"].duplicated()
    if again.any():
        row = table[again].iloc[0]
        first = table.loc[table["utt_id"] == row["utt_id"], "line"].iloc[0]
        raise UserError(f"{path}:{row['line']}: {row['utt_id']} is {done} a second time; line {first} has it first")


def _check_agreement(found: pd.DataFrame, truth: pd.DataFrame, scores, keys) -> None:
    """Refuse labels and attacks in a score file that contradict the keys."""
    for column in ("label", "attack"):
        if column not in found:
            continue
        said, true = found[column], truth[column]
        wrong = np.flatnonzero((said != true) & (said != "") & (true != ""))
        if len(wrong):
            i = wrong[0]
            raise UserError(
                f"{scores}:{found['line'][i]}: {column} of {truth['utt_id'][i]} is {said[i]} here, and {true[i]} in "
                f"{keys}:{truth['line'][i]}"
            )


def read_asv(path: Path | str, trials: Matched, keys: Path | str, asv_keys: Path | str | None = None):
    """Error rates of the organisers' speaker verifier, for the t-DCF of ASVspoof 2019 and of LA of 2021.

    Scores of another corpus or split would give an invalid t-DCF; they raise `UserError` where attacks or file name
    tell.

    Parameters
    ----------
    path : `CMKEY ASVKEY SCORE` for 2019, where the file name tells dev from eval; `SPEAKER TRIAL SCORE` for 2021
        (LA/ASV/ASVTorch_Kaldi/score.txt).
    keys : file of the trials' keys; only its name is used.
    asv_keys : LA/ASV/trial_metadata.txt, for 2021 only.
    """
    if trials.layout not in ("asvspoof2019", "asvspoof2021_la"):
        raise UserError(
            "--asv: t-DCF needs ASV scores that belong to the corpus, and their formats are known for asvspoof2019 and "
            f"for LA of asvspoof2021, not for {trials.layout}"
        )
    sets = [_set_of(name) for name in (keys, path)]
    if all(sets) and sets[0] != sets[1]:
        raise UserError(
            f"--asv: {path} belongs to {sets[1]}, and {keys} to {sets[0]}: take the ASV scores of the same set"
        )
    if trials.layout == "asvspoof2019":
        if asv_keys is not None:
            raise UserError("--asv-keys: goes with asvspoof2021; ASV scores of 2019 state their keys themselves")
        table = _asv_2019(path)
    else:
        if asv_keys is None:
            raise UserError("--asv: scores of ASVspoof 2021 need their keys, LA/ASV/trial_metadata.txt, as --asv-keys")
        table = _asv_2021(path, asv_keys, trials.subset)
    attacks = [set(one.loc[one["label"] == "spoof", "attack"]) for one in (trials.table, table)]
    if attacks[0] != attacks[1]:
        odd = sorted(attacks[0] ^ attacks[1])
        raise UserError(
            f"--asv: {path} does not belong to {keys}: of the attacks {', '.join(map(repr, odd[:5]))} "
            f"{'and others ' if len(odd) > 5 else ''}only one of them knows"
        )
    classes = (table.loc[table["label"] == name, "score"].to_numpy() for name in ("target", "spoof", "nontarget"))
    return metrics.asv_rates(*classes)


def _set_of(path) -> str:
    """train, dev or eval, where the file name contains it, else ""."""
    words = set(re.split(r"[^a-z0-9]+", Path(path).name.lower()))
    return next((name for name in ("train", "dev", "eval") if name in words), "")


def _asv_2019(path) -> pd.DataFrame:
    table = _spaced(path, "CMKEY ASVKEY SCORE", ["attack", "label", "score"], spaces=False)
    _check_labels(table, ASV_LABELS, path)
    return table.assign(score=_numbers(table["score"], table["line"], path, nan=False))


def _asv_2021(path, keys, subset: str) -> pd.DataFrame:
    expected = "SPEAKER TRIAL CODEC TRANSMISSION ATTACK KEY TRIM SUBSET"
    columns = ["speaker", "trial", "codec", "transmission", "attack", "label", "trim", "subset"]
    truth = _spaced(keys, expected, columns, spaces=False)
    _check_labels(truth, ASV_LABELS, keys)
    if subset != "all":
        truth = truth[truth["subset"] == subset]
    scores = _spaced(path, "SPEAKER TRIAL SCORE", ["speaker", "trial", "score"], spaces=False)
    scores["score"] = _numbers(scores["score"], scores["line"], path, nan=False)
    for table, name in ((truth, keys), (scores, path)):
        again = table[table.duplicated(["speaker", "trial"])]
        if len(again):
            raise UserError(f"{name}:{again['line'].iloc[0]}: these speaker and trial are here a second time")
    table = truth.merge(scores.drop(columns="line"), on=["speaker", "trial"], how="left")
    missing = table[table["score"].isna()]
    if len(missing):
        example = f"{missing['speaker'].iloc[0]} {missing['trial'].iloc[0]}"
        raise UserError(f"{path}: no score for {len(missing)} trials of {keys}, such as {example}")
    return table


def measure(
    trials: Matched,
    *,
    replicates: int = 1000,
    seed: int = 0,
    clusters: bool = True,
    asv: metrics.ASVRates | None = None,
    **costs: float,
) -> dict:
    """All measures of a system's scores.

    Parameters
    ----------
    replicates, seed, clusters : of the intervals, as `evaluation.headline`; 0 replicates give none.
    asv : from `read_asv`; None leaves out the t-DCF.
    costs : of minDCF and actDCF, as `evaluation.measures`.

    Returns
    -------
    metrics : condition -> measures with intervals; t-DCF under "all".
    by_attack, by_codec, by_attack_and_codec : tables, the last of EER; empty where the keys do not tell trials apart.
    intervals_over : what the bootstrap resamples, in words; "" without intervals.

    Raises
    ------
    UserError
        A class has no scores, or a cost is out of range.
    """
    usable = evaluation.scored(trials.table)
    if usable["label"].nunique() < 2:
        raise UserError("no scores of one of the classes: nothing can be measured without both")
    options = {"replicates": replicates, "seed": seed}
    table = evaluation.headline(usable, clusters=clusters, **options, **costs)
    if asv is not None:
        # the verifier's error rates are fixed: its trials are not resampled
        years = (2019, 2021) if trials.layout == "asvspoof2019" else (2021,)
        factors = evaluation.FACTORS if clusters else ()
        tandem = evaluation.with_interval(_tandem(asv, years), usable, factors=factors, **options)
        table["all"] |= tandem
    varying = [column for column in ("speaker", "attack", "codec") if len(set(usable[column]) - {""}) > 1]
    by_attack, by_codec = (
        evaluation.breakdown(usable, column, **costs) if column in varying else pd.DataFrame()
        for column in ("attack", "codec")
    )
    if not clusters:
        over = "single trials"
    else:
        over = " and ".join(f"{column}s" for column in varying if column != "codec")
        over = over or "single trials (too narrow: the keys tell neither speakers nor attacks apart)"
    return {
        "metrics": table,
        "intervals_over": over if replicates else "",
        "by_attack": by_attack,
        "by_codec": by_codec,
        "by_attack_and_codec": pd.DataFrame() if by_attack.empty or by_codec.empty else by_attack_and_codec(usable),
    }


def dev_eer(scores, keys, format: str) -> float:
    """EER of the same system on dev; ASVspoof 2021 has no dev set: systems are developed on that of 2019."""
    trials = read(scores, keys, "asvspoof2019" if format == "asvspoof2021" else format)
    return metrics.eer(*evaluation.split_classes(evaluation.scored(trials.table))).value


def _tandem(asv: metrics.ASVRates, years: tuple[int, ...]):
    """t-DCF of each year's form, as a statistic."""

    def statistic(counts: metrics.Counts) -> dict[str, float]:
        curve = counts.det()
        return {f"min_tdcf_{year}": curve.min_tdcf(asv, year).value for year in years}

    return statistic


def by_attack_and_codec(scores: pd.DataFrame) -> pd.DataFrame:
    """EER (fraction) of every attack and codec, against the bona fide trials of the same codec; NaN without trials."""
    rows: dict[str, dict] = {}
    for codec, trials in scores.groupby("codec", sort=True):
        bonafide, _ = evaluation.split_classes(trials)
        for attack, spoofs in trials[trials["label"] == "spoof"].groupby("attack", sort=True):
            if len(bonafide):
                rows.setdefault(attack, {})[codec] = metrics.eer(bonafide, spoofs["llr"]).value
    table = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    return table[sorted(table)].rename_axis("attack").reset_index()


def write_official(folder: Path | str, scores: pd.DataFrame) -> list[str]:
    """Write scores and keys in the ASVspoof formats, for other evaluation packages and `aasist metrics`.

    Writes asvspoof2019.txt, asvspoof2021.txt and asvspoof5.tsv (six decimals) with keys; the keys of 2021 are as of LA,
    all in the subset eval. A spoof without attack name gets "unnamed". A stale file that cannot be rewritten is
    removed.

    Returns
    -------
    One sentence for each format that was left out, because a name contains its separator.
    """
    folder = Path(folder)
    score = [f"{x:.6f}" for x in scores["llr"]]
    utt_id, label = scores["utt_id"], scores["label"]
    speaker = scores["speaker"].replace("", "-")
    attack = scores["attack"].replace("", "unnamed").mask(label == "bonafide", "-")
    same = ["-"] * len(scores)
    formats = {
        "asvspoof2019.txt": (" ", None, (utt_id, attack, label, score)),
        "asvspoof2019_keys.txt": (" ", None, (speaker, utt_id, same, attack, label)),
        "asvspoof2021.txt": (" ", None, (utt_id, score)),
        "asvspoof2021_keys.txt": (
            " ", None,
            (speaker, utt_id, same, same, attack.mask(label == "bonafide", "bonafide"), label,
             ["notrim"] * len(scores), ["eval"] * len(scores)),
        ),
        "asvspoof5.tsv": ("\t", ("filename", "cm-score"), (utt_id, score)),
        "asvspoof5_keys.tsv": ("\t", ("filename", "cm-label"), (utt_id, label)),
    }  # fmt: skip
    left_out = []
    for name, (separator, header, columns) in formats.items():
        parts = re.compile(r"\s" if separator == " " else r"[\t\r\n]")
        unfit = next((text for column in columns for text in column if parts.search(text) or not text), None)
        if unfit is not None:
            (folder / name).unlink(missing_ok=True)
            left_out.append(f"{name} is left out: it cannot hold the name {unfit!r}")
            continue
        rows = [header] if header else []
        rows += zip(*columns, strict=True)
        files.write(folder / name, "".join(f"{separator.join(row)}\n" for row in rows))
    return left_out
