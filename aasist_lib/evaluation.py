"""Tables of how well a detector does, from a table of scored utterances.

A table of scores has the columns of a table of utterances (`label`, `speaker`, `attack`, `condition`,
`source` and so on) and `llr`, the calibrated log-likelihood ratio; an utterance is called spoof if and only
if llr < threshold. Eval has spoofs of two conditions, *known* kinds of attack (training had them) and
*unseen* ones; its bona fide trials belong to both.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from aasist_lib import metrics
from aasist_lib.errors import UserError

CONDITIONS = {"known": "Known attacks", "unseen": "Unseen attacks", "all": "All attacks"}

# key of headline() -> what it is called in a table for people, and whether it is shown in percent
MEASURES = {
    "eer": ("Equal error rate (%)", True),
    "bonafide_rejected": ("Real voices called fake (%)", True),
    "spoof_accepted": ("Fakes let through (%)", True),
    "accuracy": ("Accuracy (%)", True),
    "precision": ("Precision (%)", True),
    "recall": ("Recall (%)", True),
    "f1": ("F1 (%)", True),
    "auc": ("Area under the ROC curve (%)", True),
    "min_dcf": ("minDCF", False),
    "act_dcf": ("actDCF", False),
    "cllr": ("Cllr (bits)", False),
    "min_cllr": ("minCllr (bits)", False),
    "n_bonafide": ("Real recordings", False),
    "n_spoof": ("Fakes", False),
}


def select(scores: pd.DataFrame, condition: str = "all") -> pd.DataFrame:
    """Trials of a condition: "known" or "unseen" keep all bona fide and the spoofs of that condition.

    Parameters
    ----------
    scores : DataFrame
        A row a trial, with label and condition.
    condition : {"known", "unseen", "all"}

    Returns
    -------
    DataFrame
        Rows of `scores`, in its order.

    Raises
    ------
    UserError
        For any other condition.
    """
    if condition not in CONDITIONS:
        raise UserError(f"condition: {condition!r} is not one of {', '.join(CONDITIONS)}")
    if condition == "all":
        return scores
    return scores[(scores["label"] == "bonafide") | (scores["condition"] == condition)]


def _apart(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Trials by condition: known and unseen where there are such spoofs, all where spoofs have no condition."""
    found = set(scores.loc[scores["label"] == "spoof", "condition"])
    names = [name for name in CONDITIONS if name in found]
    if found != set(names) or not names:
        names.append("all")
    return {name: select(scores, name) for name in names}


def split_classes(scores: pd.DataFrame, column: str = "llr") -> tuple[np.ndarray, np.ndarray]:
    """Scores of (bona fide, spoof): two float vectors, in the order of the table.

    Parameters
    ----------
    scores : DataFrame
        A row a trial, with label and `column`.
    """
    return tuple(scores.loc[scores["label"] == label, column].to_numpy(float) for label in ("bonafide", "spoof"))


def measures(
    bonafide, spoof, *, prior_spoof: float = 0.05, cost_miss: float = 1.0, cost_false_alarm: float = 10.0
) -> dict[str, float]:
    """EER, AUC, minDCF, actDCF, Cllr, minCllr: what needs no threshold to be chosen.

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) log-likelihood ratios.
    prior_spoof, cost_miss, cost_false_alarm : of minDCF and actDCF.

    Returns
    -------
    dict
        Keys of `MEASURES`; EER and AUC are fractions, Cllr and minCllr bits.

    Raises
    ------
    UserError
        A class is missing, a score is not a number, or the costs make no sense.
    """
    costs = prior_spoof, cost_miss, cost_false_alarm
    curve = metrics.det(bonafide, spoof)  # one curve serves three of them
    return {
        "eer": curve.eer().value,
        "auc": curve.auc(),
        "min_dcf": curve.min_dcf(*costs).value,
        "act_dcf": metrics.act_dcf(bonafide, spoof, *costs),
        "cllr": metrics.cllr(bonafide, spoof),
        "min_cllr": metrics.min_cllr(bonafide, spoof),
    }


def headline(
    scores: pd.DataFrame,
    threshold: float,
    *,
    replicates: int = 1000,
    seed: int = 0,
    prior_spoof: float = 0.05,
    cost_miss: float = 1.0,
    cost_false_alarm: float = 10.0,
    clusters: bool = True,
) -> dict[str, dict]:
    """All measures of every condition that has trials, with 95 % intervals.

    Parameters
    ----------
    scores : DataFrame
        A row a trial, with label, speaker, attack, condition, llr.
    threshold : of the decisions behind accuracy, precision, recall, F1 and the two error rates.
    replicates, seed : of the bootstrap.
    prior_spoof, cost_miss, cost_false_alarm : of minDCF and actDCF.
    clusters : draw speakers and attacks (the default) or single trials. Trials of one speaker or one attack
        stand and fall together, so single trials give intervals that are far too narrow when speakers or
        attacks are few: a prototype of this detector had an EER of 29.1 % with 26.8 to 32.2 by trials,
        and 13.3 to 44.0 by speakers and attacks.

    Returns
    -------
    dict
        condition -> {"n_bonafide", "n_spoof", "eer", "eer_low", "eer_high", ...}; rates are fractions.

    Raises
    ------
    UserError
        No condition has trials of both classes, a score or the threshold is not a number, or there are too few
        speakers and attacks to draw from.
    """
    costs = {"prior_spoof": prior_spoof, "cost_miss": cost_miss, "cost_false_alarm": cost_false_alarm}

    def statistics(bonafide, spoof):
        return measures(bonafide, spoof, **costs) | metrics.rates(bonafide, spoof, threshold)

    table = {}
    for condition in CONDITIONS:
        trials = select(scores, condition)
        bonafide, spoof = split_classes(trials)
        if not len(bonafide) or not len(spoof):
            continue
        is_spoof = (trials["label"] == "spoof").to_numpy()
        speaker, attack = trials["speaker"].to_numpy(), trials["attack"].to_numpy()
        factors = {"speaker": (speaker[~is_spoof], speaker[is_spoof]), "attack": (None, attack[is_spoof])}
        intervals = metrics.bootstrap(
            statistics,
            bonafide,
            spoof,
            clusters=factors if clusters else None,
            replicates=replicates,
            seed=seed,
        )
        row = {"n_bonafide": len(bonafide), "n_spoof": len(spoof)}
        for name, value in statistics(bonafide, spoof).items():
            row[name], (row[f"{name}_low"], row[f"{name}_high"]) = value, intervals[name]
        table[condition] = row
    if not table:
        raise UserError("the scores lack bona fide or spoofed trials: there is nothing to measure")
    return table


def headline_table(table: Mapping[str, Mapping]) -> pd.DataFrame:
    """`headline` for people: a row a measure, a column a condition, "value (low to high)" as text.

    Parameters
    ----------
    table : what `headline` gave, or any mapping of names to `measures`, with or without intervals.

    Returns
    -------
    DataFrame
        Text: Measure, and a column for each name of `table`.
    """
    columns = {}
    for condition, row in table.items():
        columns[CONDITIONS.get(condition, condition)] = {
            words: interval(row[key], row.get(f"{key}_low"), row.get(f"{key}_high"), percent=percent)
            for key, (words, percent) in MEASURES.items()
            if key in row
        }
    return pd.DataFrame(columns).rename_axis("Measure").reset_index()


def interval(value: float, low: float | None = None, high: float | None = None, *, percent: bool = True) -> str:
    """A number with its interval, as text; nothing for NaN or None.

    Parameters
    ----------
    value, low, high : fractions if `percent`, else numbers; without `low` there is no interval.
    percent : whether to show fractions in percent, with one decimal.

    >>> interval(0.161, 0.12, 0.213)
    '16.1 (12.0 to 21.3)'
    >>> interval(0.5, 0.25, 1.5, percent=False), interval(479, percent=False)
    ('0.500 (0.250 to 1.500)', '479')
    """

    def text(x):
        return f"{100 * x:.1f}" if percent else str(x) if isinstance(x, int | np.integer) else f"{x:.3f}"

    if value is None or math.isnan(value):
        return ""
    return text(value) if low is None else f"{text(value)} ({text(low)} to {text(high)})"


def by_attack(scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """How each kind of attack fares against every real voice of the table.

    Parameters
    ----------
    scores : DataFrame
        A row a trial, with label, speaker, attack, condition, llr.
    threshold : of the decisions behind spoof_accepted.

    Returns
    -------
    DataFrame
        A row an attack: condition, attack, n_spoof, speakers (how many), eer and spoof_accepted (fractions),
        median_llr.

    Raises
    ------
    UserError
        There are no bona fide trials, or a score is not a number.
    """
    bonafide, _ = split_classes(scores)
    spoofs = scores[scores["label"] == "spoof"]
    rows = [
        {
            "condition": condition,
            "attack": attack,
            "n_spoof": len(group),
            "speakers": group["speaker"].nunique(),
            "eer": metrics.eer(bonafide, group["llr"]).value,
            "spoof_accepted": float((group["llr"] >= threshold).mean()),
            "median_llr": float(group["llr"].median()),
        }
        for (condition, attack), group in spoofs.groupby(["condition", "attack"], sort=True)
    ]
    return pd.DataFrame(rows)


def by_speaker(scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """How each speaker fares, fakes of known and of unseen kinds apart. A synthetic voice is a speaker too.

    Parameters
    ----------
    scores : DataFrame
        A row a trial, with label, speaker, condition, language, source, llr.
    threshold : of the decisions behind bonafide_rejected and spoof_accepted.

    Returns
    -------
    DataFrame
        A row a speaker: speaker, language, source, n_bonafide, bonafide_rejected, and for each condition n_spoof,
        spoof_accepted, eer (n_spoof_known, ..., n_spoof_unseen, ...; plain names where spoofs have no condition).
        Shares are fractions. The EER sets a speaker's own real and faked voice against each other. NaN where there
        are no trials.
    """
    conditions = _apart(scores)
    rows = []
    for speaker, group in scores.groupby("speaker", sort=True):
        bonafide, _ = split_classes(group)
        of = group[group["label"] == "bonafide"] if len(bonafide) else group
        row = {
            "speaker": speaker,
            "language": " ".join(sorted(set(of["language"]))),
            "source": " ".join(sorted(set(of["source"]))),
            "n_bonafide": len(bonafide),
            "bonafide_rejected": _share(bonafide < threshold),
        }
        for condition, trials in conditions.items():
            _, spoof = split_classes(trials[trials["speaker"] == speaker])
            row |= {
                _column("n_spoof", condition): len(spoof),
                _column("spoof_accepted", condition): _share(spoof >= threshold),
                _column("eer", condition): _eer(bonafide, spoof),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def by_human(scores: pd.DataFrame, threshold: float, column: str = "source") -> pd.DataFrame:
    """Real voices in groups, each against every spoof of a condition.

    Where a whole source of real recordings is called fake, the detector has learnt the recording chain.

    Parameters
    ----------
    scores : DataFrame
        A row a trial, with label, speaker, condition, llr and `column`.
    threshold : of the decisions behind bonafide_rejected.
    column : what to group by: source, language or codec.

    Returns
    -------
    DataFrame
        A row a group: `column`, speakers (how many), n_bonafide, bonafide_rejected, eer_known, eer_unseen (eer where
        spoofs have no condition), median_llr. Shares are fractions.

    Raises
    ------
    UserError
        A score is not a number.
    """
    spoofs = {condition: split_classes(trials)[1] for condition, trials in _apart(scores).items()}
    rows = [
        {
            column: name,
            "speakers": group["speaker"].nunique(),
            "n_bonafide": len(group),
            "bonafide_rejected": float((group["llr"] < threshold).mean()),
            **{_column("eer", condition): _eer(group["llr"], spoof) for condition, spoof in spoofs.items()},
            "median_llr": float(group["llr"].median()),
        }
        for name, group in scores[scores["label"] == "bonafide"].groupby(column, sort=True)
    ]
    return pd.DataFrame(rows)


def by_policy(bonafide_llr, spoof_llr, policies: Mapping[str, float]) -> pd.DataFrame:
    """What each threshold does to these trials.

    Parameters
    ----------
    bonafide_llr, spoof_llr : (n,) and (m,) log-likelihood ratios.
    policies : name -> threshold.

    Returns
    -------
    DataFrame
        A row a policy: policy, threshold, bonafide_rejected, spoof_accepted, accuracy (fractions).

    Raises
    ------
    UserError
        A class is missing, or a score or a threshold is not a number.
    """
    columns = ("bonafide_rejected", "spoof_accepted", "accuracy")
    rows = []
    for policy, threshold in policies.items():
        rates = metrics.rates(bonafide_llr, spoof_llr, threshold)
        rows.append({"policy": policy, "threshold": threshold} | {name: rates[name] for name in columns})
    return pd.DataFrame(rows)


def decide(llr, threshold: float) -> np.ndarray:
    """ "spoof" where llr < threshold, "bonafide" elsewhere.

    >>> decide([-1.0, 0.5, 2.0], 0.5).tolist()
    ['spoof', 'bonafide', 'bonafide']
    """
    return np.where(np.asarray(llr) < threshold, "spoof", "bonafide")


def worst(scores: pd.DataFrame, threshold: float, n: int = 10) -> pd.DataFrame:
    """The errors farthest beyond the threshold, of both classes.

    Parameters
    ----------
    scores : DataFrame
        A row a trial, with utt_id, label, condition, attack, speaker, source, llr.
    threshold : below it a trial is called spoof.
    n : how many rows at most.

    Returns
    -------
    DataFrame
        utt_id, label, condition, attack, speaker, source, llr; the worst first.
    """
    excess = np.where(scores["label"] == "bonafide", threshold - scores["llr"], scores["llr"] - threshold)
    wrong = scores["label"].to_numpy() != decide(scores["llr"], threshold)
    ranked = scores.assign(excess=excess)[wrong].sort_values(["excess", "utt_id"], ascending=[False, True])
    columns = ["utt_id", "label", "condition", "attack", "speaker", "source", "llr"]
    return ranked[columns].head(n).reset_index(drop=True)


def confusion_table(scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Confusion matrices of the conditions, for `dvc plots` and `plots.confusion`; bona fide trials are in each.

    Parameters
    ----------
    scores : DataFrame
        A row a trial, with label, condition, llr.
    threshold : below it a trial is called spoof.

    Returns
    -------
    DataFrame
        A row a cell: condition (known, unseen; all where spoofs have none), actual, predicted, trials (how many).

    Raises
    ------
    UserError
        A class is missing, or a score or the threshold is not a number.
    """
    rows = []
    for condition, trials in _apart(scores).items():
        cells = metrics.confusion(*split_classes(trials), threshold)
        for actual, predicted, cell in (
            ("bonafide", "bonafide", "tn"),
            ("bonafide", "spoof", "fp"),
            ("spoof", "bonafide", "fn"),
            ("spoof", "spoof", "tp"),
        ):
            rows.append({"condition": condition, "actual": actual, "predicted": predicted, "trials": cells[cell]})
    return pd.DataFrame(rows)


def _column(name: str, condition: str) -> str:
    """Name of a column that holds one condition alone."""
    return name if condition == "all" else f"{name}_{condition}"


# column -> heading for people; a heading that ends in (%) is shown in percent with one decimal
HEADINGS = {
    "condition": "Condition",
    "attack": "Attack",
    "speaker": "Speaker",
    "speakers": "Speakers",
    "source": "Source",
    "language": "Language",
    "codec": "Codec",
    "label": "Truth",
    "utt_id": "Utterance",
    "policy": "Policy",
    "threshold": "Threshold (LLR)",
    "llr": "LLR",
    "median_llr": "Median LLR",
    "n_bonafide": "Real recordings",
    "n_spoof": "Fakes",
} | {key: words for key, (words, percent) in MEASURES.items() if percent}
HEADINGS |= {
    _column(key, condition): f"{CONDITIONS[condition]}: {words}"
    for key, words in {"n_spoof": "fakes", "spoof_accepted": "let through (%)", "eer": "EER (%)"}.items()
    for condition in ("known", "unseen")
}


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table for people: headings in words, shares in percent, two decimals elsewhere, nothing for NaN.

    Parameters
    ----------
    table : DataFrame
        Columns named as in `HEADINGS`; others keep their names. Columns of empty text are left out.

    Returns
    -------
    DataFrame
        Text where there were fractions or other floats.

    >>> readable(pd.DataFrame({"attack": ["vocoder"], "n_spoof": [20], "spoof_accepted": [0.25]}))
        Attack  Fakes Fakes let through (%)
    0  vocoder     20                  25.0
    """
    result = pd.DataFrame(index=table.index)
    for column in table:
        heading, values = HEADINGS.get(column, column), table[column]
        if (values == "").all():
            continue
        if pd.api.types.is_float_dtype(values):
            percent = heading.endswith("(%)")
            values = ["" if math.isnan(x) else f"{100 * x:.1f}" if percent else f"{x:.2f}" for x in values]
        result[heading] = values
    return result


def save_json(path: Path, values: Mapping) -> None:
    """Write metrics: floats to 6 digits, keys sorted, in one step; folders are made.

    Raises
    ------
    ValueError
        A number is NaN or infinite: JSON has neither.
    """
    _replace(path, json.dumps(_rounded(values), indent=2, sort_keys=True, allow_nan=False) + "\n")


def save_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index, floats to 6 digits, NaN as nothing, in one step; folders are made."""
    _replace(path, table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))


def _replace(path: Path, text: str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    os.replace(partial, path)


def _rounded(value):
    if isinstance(value, Mapping):
        return {str(key): _rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(x) for x in value]
    if isinstance(value, np.generic):
        value = value.item()
    return round(value, 6) + 0.0 if isinstance(value, float) else value


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else math.nan


def _eer(bonafide, spoof) -> float:
    return metrics.eer(bonafide, spoof).value if len(bonafide) and len(spoof) else math.nan
