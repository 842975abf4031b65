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
LABELS = ("bonafide", "spoof")
OPTIONAL = ["speaker", "attack", "codec", "condition", "split"]  # columns of csv keys, beside utt_id and label
COLUMNS = ["utt_id", "label", "speaker", "attack", "codec", "condition", "llr"]
LAYOUTS_2021 = {8: "asvspoof2021_la", 13: "asvspoof2021_df"}  # by the number of columns


@dataclass(frozen=True)
class Trials:
    """Scores matched to their keys: one row per trial of the keys, in their order, with the columns `COLUMNS`.

    `layout` is the format, or asvspoof2021_la or asvspoof2021_df. `subset` is "" where the keys have no parts.
    `left_out` counts scores of trials that are not in this part of the keys.
    """

    table: pd.DataFrame
    layout: str
    subset: str
    left_out: int


def read(scores: Path | str, keys: Path | str, format: str, subset: str | None = None) -> Trials:
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
    return Trials(truth.assign(llr=found["llr"])[COLUMNS], layout, subset, left_out)


def read_scores(path: Path | str, format: str) -> pd.DataFrame:
    """Score file as a table: utt_id, llr (NaN and infinities kept), line (from 1); label and attack where stated."""
    if format == "csv":
        columns, lines = _with_header(path, ",", "utt_id", "llr or score")
        table = {"utt_id": columns["utt_id"], "llr": columns["llr" if "llr" in columns else "score"]}
    elif format == "asvspoof5":
        columns, lines = _with_header(path, "\t", "filename", "cm-score")
        table = {"utt_id": columns["filename"], "llr": columns["cm-score"]}
    else:
        table, lines = _spaced_scores(path, format)
    table["llr"] = _numbers(table["llr"], lines, path)
    table = pd.DataFrame(table).assign(line=lines)
    _check_once(table, path, "scored")
    return table


def read_keys(path: Path | str, format: str) -> tuple[pd.DataFrame, str]:
    """Keys as a table (utt_id, label, `OPTIONAL` columns with "" if unknown, line from 1), and their layout."""
    layout = format
    if format == "csv":
        columns, lines = _with_header(path, ",", "utt_id", "label")
        table = pd.DataFrame(columns).assign(line=lines)
    elif format == "asvspoof5" and _lines(path)[0].startswith("filename\t"):
        columns, lines = _with_header(path, "\t", "filename", "cm-label")
        table = pd.DataFrame({"utt_id": columns["filename"], "label": columns["cm-label"], "line": lines})
    else:
        if format == "asvspoof2021":
            count = len(_lines(path)[0].split())
            if count not in LAYOUTS_2021:
                raise UserError(f"{path}:1: expected 8 columns (LA) or 13 (DF), found {count}")
            layout = LAYOUTS_2021[count]
        table = protocols.read(path, layout)
    wrong = table[~table["label"].isin(LABELS)]
    if len(wrong):
        row = wrong.iloc[0]
        raise UserError(f"{path}:{row['line']}: expected bonafide or spoof, found {row['label']!r}")
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
        found = sorted(set(keys[column]))
        names, default = (*found, "all"), found[0] if len(found) == 1 else "all"
    subset = subset or default
    if subset not in names:
        raise UserError(f"--subset {subset}: not one of {', '.join(names)}")
    part = keys if subset == "all" else keys[keys[column] == subset].reset_index(drop=True)
    if part.empty:
        raise UserError(
            f"{path}: no trial belongs to the subset {subset}; there are {', '.join(sorted(set(keys[column])))}"
        )
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


def _with_header(path: Path | str, delimiter: str, *needed: str) -> tuple[dict[str, list[str]], list[int]]:
    """Columns by header name, and the line number of each row; a `needed` name may be "this or that"."""
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    # strict: an unclosed quote would otherwise swallow the following rows
    reader = csv.reader((f"{line}\n" for line in _lines(path)), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not a row of a table ({error})") from None
    if not all(set(name.split(" or ")) & set(header) for name in needed):
        raise UserError(f"{path}:1: expected a header with {' and '.join(needed)}, found {', '.join(header)}")
    if not rows:
        raise UserError(f"{path}: a header, and nothing below it")
    wrong = next(((line, row) for line, row in rows if len(row) != len(header)), None)
    if wrong:
        raise UserError(f"{path}:{wrong[0]}: expected {len(header)} fields, as in the header, found {len(wrong[1])}")
    header = protocols.named(header, [row for _, row in rows], path)
    columns = zip(*(row for _, row in rows), strict=True)
    return dict(zip(header, map(list, columns), strict=True)), [line for line, _ in rows]


def _spaced_scores(path: Path | str, format: str) -> tuple[dict[str, list[str]], range]:
    """Score file without header; fields are counted from the end of the line, because names may contain spaces."""
    lines = _lines(path)
    states_key = format == "asvspoof2019" and _states_key(lines[0])
    names = ["utt_id", "attack", "label", "llr"] if states_key else ["utt_id", "llr"]
    rows = [line.rsplit(None, len(names) - 1) for line in lines]
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(names)), None)
    if wrong is not None:
        raise UserError(
            f"{path}:{wrong + 1}: expected {'UTT ATTACK KEY SCORE' if states_key else 'UTT SCORE'}, "
            f"found {lines[wrong].strip()!r}"
        )
    table = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    table["utt_id"] = [name.strip() for name in table["utt_id"]]
    if states_key:
        wrong = next((i for i, label in enumerate(table["label"]) if label not in LABELS), None)
        if wrong is not None:
            raise UserError(f"{path}:{wrong + 1}: expected bonafide or spoof, found {table['label'][wrong]!r}")
        table["attack"] = ["" if name in ("-", "bonafide") else name for name in table["attack"]]
    return table, range(1, len(lines) + 1)


def _states_key(line: str) -> bool:
    row = line.rsplit(None, 3)
    return len(row) == 4 and row[2] in LABELS


def _check_key_column(found: pd.DataFrame, truth: pd.DataFrame, format: str, path) -> None:
    """Refuse an unknown KEY in line 1 of a four-column file, which was read as two columns."""
    fields = found["utt_id"].iloc[0].rsplit(None, 2)
    if format == "asvspoof2019" and "label" not in found and len(fields) == 3 and fields[0] in set(truth["utt_id"]):
        raise UserError(f"{path}:{found['line'].iloc[0]}: expected bonafide or spoof, found {fields[2]!r}")


def _numbers(texts: list[str], lines, path) -> np.ndarray:
    """Scores as float64; NaN and infinities are accepted."""
    try:
        if "_" in "".join(texts):  # Python takes 1_000 for a number
            raise ValueError
        return np.array([float(text) for text in texts])
    except ValueError:
        for text, line in zip(texts, lines, strict=True):
            if not re.fullmatch(r"\s*[+-]?(nan|inf|infinity|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)\s*", text.lower()):
                raise UserError(f"{path}:{line}: expected a number as the score, found {text!r}") from None
        raise


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


def read_asv(path: Path | str, trials: Trials, keys: Path | str, asv_keys: Path | str | None = None):
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


def _asv_rows(path, count: int, expected: str) -> list[list[str]]:
    rows = [line.split() for line in _lines(path)]
    wrong = next((i for i, row in enumerate(rows) if len(row) != count), None)
    if wrong is not None:
        raise UserError(f"{path}:{wrong + 1}: expected {expected}, found {len(rows[wrong])} fields")
    return rows


def _asv_labels(table: pd.DataFrame, path) -> None:
    wrong = np.flatnonzero(~table["label"].isin(["target", "nontarget", "spoof"]))
    if len(wrong):
        found = table["label"].iloc[wrong[0]]
        raise UserError(f"{path}:{wrong[0] + 1}: expected target, nontarget or spoof, found {found!r}")


def _finite(texts: list[str], path) -> np.ndarray:
    found = _numbers(texts, range(1, len(texts) + 1), path)
    wrong = np.flatnonzero(np.isnan(found))
    if len(wrong):
        raise UserError(f"{path}:{wrong[0] + 1}: expected a number as the score, found {texts[wrong[0]]!r}")
    return found


def _asv_2019(path) -> pd.DataFrame:
    rows = _asv_rows(path, 3, "CMKEY ASVKEY SCORE")
    table = pd.DataFrame(rows, columns=["attack", "label", "score"])
    _asv_labels(table, path)
    return table.assign(score=_finite(table["score"].tolist(), path))


def _asv_2021(path, keys, subset: str) -> pd.DataFrame:
    rows = _asv_rows(keys, 8, "SPEAKER TRIAL CODEC TRANSMISSION ATTACK KEY TRIM SUBSET")
    truth = pd.DataFrame([[*row[:2], row[4], row[5], row[7]] for row in rows],
                         columns=["speaker", "trial", "attack", "label", "subset"])  # fmt: skip
    _asv_labels(truth, keys)
    if subset != "all":
        truth = truth[truth["subset"] == subset]
    rows = _asv_rows(path, 3, "SPEAKER TRIAL SCORE")
    scores = pd.DataFrame(rows, columns=["speaker", "trial", "score"])
    scores["score"] = _finite(scores["score"].tolist(), path)
    for table, name in ((truth, keys), (scores, path)):
        again = table.duplicated(["speaker", "trial"])
        if again.any():
            raise UserError(f"{name}:{again.idxmax() + 1}: these speaker and trial are here a second time")
    table = truth.merge(scores, on=["speaker", "trial"], how="left")
    missing = table[table["score"].isna()]
    if len(missing):
        row = missing.iloc[0]
        raise UserError(
            f"{path}: no score for {len(missing)} trials of {keys}, such as {row['speaker']} {row['trial']}"
        )
    return table


def measure(
    trials: Trials,
    *,
    replicates: int = 1000,
    seed: int = 0,
    clusters: bool = True,
    prior_spoof: float = 0.05,
    cost_miss: float = 1.0,
    cost_false_alarm: float = 10.0,
    asv: metrics.ASVRates | None = None,
) -> dict:
    """All measures of a system's scores.

    Parameters
    ----------
    replicates, seed, clusters : of the intervals, as `evaluation.headline`; 0 replicates give none.
    prior_spoof, cost_miss, cost_false_alarm : of minDCF and actDCF.
    asv : from `read_asv`; None leaves out the t-DCF.

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
    costs = {"prior_spoof": prior_spoof, "cost_miss": cost_miss, "cost_false_alarm": cost_false_alarm}
    table = evaluation.headline(usable, None, replicates=replicates, seed=seed, clusters=clusters, **costs)
    if asv is not None:
        years = (2019, 2021) if trials.layout == "asvspoof2019" else (2021,)
        table["all"] |= _tandem(usable, asv, years, replicates=replicates, seed=seed, clusters=clusters)
    varying = [column for column in ("speaker", "attack", "codec") if _varies(usable, column)]
    tables = {
        f"by_{column}": evaluation.breakdown(usable, column, **costs) if column in varying else pd.DataFrame()
        for column in ("attack", "codec")
    }
    both = all(len(one) for one in tables.values())
    tables["by_attack_and_codec"] = by_attack_and_codec(usable) if both else pd.DataFrame()
    over = " and ".join(f"{column}s" for column in varying if column != "codec")
    if not clusters:
        over = "single trials"
    elif not over:
        over = "single trials (too narrow: the keys tell neither speakers nor attacks apart)"
    return {
        "metrics": table,
        "intervals_over": over if replicates else "",
        **tables,
    }


def _varies(table: pd.DataFrame, column: str) -> bool:
    return table.loc[table[column] != "", column].nunique() > 1


def _tandem(table: pd.DataFrame, asv, years: tuple[int, ...], *, replicates, seed, clusters) -> dict[str, float]:
    """t-DCF of each year's form; intervals resample the detector's trials, with the verifier's error rates fixed."""

    def of(bonafide, spoof):
        return {f"min_tdcf_{year}": metrics.min_tdcf(bonafide, spoof, asv, year).value for year in years}

    def statistics(counts):
        return of(*(np.repeat(counts.scores, n.astype(int)) for n in (counts.bonafide, counts.spoof)))

    bonafide, spoof = evaluation.split_classes(table)
    groups = evaluation.factors(table) if clusters else None
    row = of(bonafide, spoof)
    if replicates:
        intervals = metrics.bootstrap(statistics, bonafide, spoof, clusters=groups, replicates=replicates, seed=seed)
        for name, ends in intervals.items():
            row[f"{name}_low"], row[f"{name}_high"] = ends
    return row


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
