"""Tables of error rates from a table of scored utterances.

A score table has the columns of an utterance table and `llr`, the calibrated log-likelihood ratio; a trial is called
spoof if and only if llr < threshold. Spoofs of eval have the condition *known* (attack in train) or *unseen*; bona fide
trials belong to both.
"""

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from aasist_lib import metrics
from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.base.progress import progress

CONDITIONS = {"known": "Known attacks", "unseen": "Unseen attacks", "all": "All attacks"}
NARROW = "narrow"  # the split of telephone speech

FEW = 20  # trials of a class: with fewer and no error among them, the error rate may still be above 14 %

# key of headline() -> name in tables for people, and whether it is shown in percent
MEASURES = {
    "eer": ("Equal error rate (%)", True),
    "rocch_eer": ("Equal error rate on the convex hull (%)", True),
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
FACTORS = ("speaker", "attack")  # that the bootstrap resamples
COUNTS = ("n_bonafide", "n_spoof")
ENDS = ("", "_low", "_high")  # a number, and its interval
# with the EER on dev, all that DVC compares
COMPARED = ("eer", "accuracy", "precision", "recall", "f1", "min_dcf", "cllr")
CLASSES = {"bonafide": "bona fide", "spoof": "spoofed"}


def select(scores: pd.DataFrame, condition: str = "all") -> pd.DataFrame:
    """Trials of a condition: "known" and "unseen" keep all bona fide trials and the spoofs of that condition."""
    if condition not in CONDITIONS:
        raise UserError(f"condition: {condition!r} is not one of {', '.join(CONDITIONS)}")
    if condition == "all":
        return scores
    return scores[(scores["label"] == "bonafide") | (scores["condition"] == condition)]


def scored(scores: pd.DataFrame) -> pd.DataFrame:
    """Trials with a finite llr; `alarms` reports the others."""
    return scores[np.isfinite(scores["llr"].to_numpy(float))]


def _apart(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Trials by condition: known and unseen where there are such spoofs, all where spoofs have no condition."""
    present = set(scores.loc[scores["label"] == "spoof", "condition"])
    names = [name for name in CONDITIONS if name in present]
    if present != set(names) or not names:
        names.append("all")
    return {name: select(scores, name) for name in names}


def split_classes(scores: pd.DataFrame, column: str = "llr") -> tuple[np.ndarray, np.ndarray]:
    """Scores of (bona fide, spoof) as two float vectors, in the order of the table."""
    return tuple(scores.loc[scores["label"] == label, column].to_numpy(float) for label in ("bonafide", "spoof"))


def measures(bonafide, spoof, **costs: float) -> dict[str, float]:
    """Threshold-free measures: EER, ROCCH-EER and AUC (fractions), minDCF, actDCF, Cllr and minCllr (bits).

    `costs` are `prior_spoof`, `cost_miss` and `cost_false_alarm` of `metrics.min_dcf`.
    """
    return _measures(metrics.Counts.of(bonafide, spoof), costs)


def _measures(counts: metrics.Counts, costs: Mapping[str, float]) -> dict[str, float]:
    curve = counts.det()  # one curve serves three of them
    return {
        "eer": curve.eer().value,
        "rocch_eer": counts.rocch_eer(),
        "auc": curve.auc(),
        "min_dcf": curve.min_dcf(**costs).value,
        "act_dcf": counts.act_dcf(**costs),
        "cllr": counts.cllr(),
        "min_cllr": counts.min_cllr(),
    }


def only_eer(counts: metrics.Counts) -> dict[str, float]:
    """The equal error rate, as a statistic of `with_interval`."""
    return {"eer": counts.eer().value}


def with_interval(
    statistic: Callable[[metrics.Counts], Mapping[str, float]],
    trials: pd.DataFrame,
    column: str = "llr",
    *,
    factors: Collection[str] = FACTORS,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Values of a statistic with their 95 % confidence intervals: name, name_low and name_high.

    Parameters
    ----------
    statistic : maps `metrics.Counts` to numbers by name.
    trials : one row per trial, with label, speaker, attack and finite scores in `column`.
    factors : resampled by `metrics.bootstrap`: speaker, attack or both; none of them resamples single trials.
    replicates, seed : of the bootstrap; 0 replicates give no intervals.

    Raises
    ------
    UserError
        A class is missing, or there are too few speakers and attacks to resample.
    """
    classes = split_classes(trials, column)
    values = dict(statistic(metrics.Counts.of(*classes)))
    if not replicates:
        return values
    clusters = {name: groups for name, groups in clusters_of(trials).items() if name in factors}
    intervals = metrics.bootstrap(statistic, *classes, clusters=clusters, replicates=replicates, seed=seed)
    for name, (low, high) in intervals.items():
        values |= {f"{name}_low": low, f"{name}_high": high}
    return values


def clusters_of(trials: pd.DataFrame) -> dict[str, tuple]:
    """Speakers and attacks of the trials in the order of `split_classes`, as `clusters` of `metrics.bootstrap`."""
    is_spoof = (trials["label"] == "spoof").to_numpy()
    speaker, attack = trials["speaker"].to_numpy(), trials["attack"].to_numpy()
    return {"speaker": (speaker[~is_spoof], speaker[is_spoof]), "attack": (None, attack[is_spoof])}


def headline(
    scores: pd.DataFrame,
    threshold: float | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
    clusters: bool = True,
    **costs: float,
) -> dict[str, dict]:
    """All measures of every condition that has trials of both classes, with 95 % confidence intervals.

    Parameters
    ----------
    scores : one row per trial, with label, speaker, attack, condition and llr. Trials without a finite llr are left
        out.
    threshold : of accuracy, precision, recall, F1 and the two error rates; None leaves these out.
    replicates, seed : of the bootstrap; 0 replicates give no intervals.
    clusters : resample speakers and attacks, not single trials; trials of a speaker or an attack are correlated, so
        intervals over single trials are far too narrow.
    costs : as in `measures`.

    Returns
    -------
    condition -> {"n_bonafide", "n_spoof", "eer", "eer_low", "eer_high", ...}; rates are fractions.

    Raises
    ------
    UserError
        The threshold is NaN, or there are too few speakers and attacks to resample.
    """

    def statistic(counts):
        return _measures(counts, costs) | ({} if threshold is None else counts.rates(threshold))

    options = {"factors": FACTORS if clusters else (), "replicates": replicates, "seed": seed}
    rows = {}
    for condition, trials in progress(_measurable(scores).items(), desc="intervals", unit="condition"):
        sizes = map(len, split_classes(trials))
        rows[condition] = dict(zip(COUNTS, sizes, strict=True)) | with_interval(statistic, trials, **options)
    return rows


def _measurable(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Trials with a finite llr by condition, for conditions with both classes."""
    trials = {condition: select(scored(scores), condition) for condition in CONDITIONS}
    return {condition: rows for condition, rows in trials.items() if rows["label"].nunique() == 2}


def summary(of_eval: Mapping[str, Mapping], dev_eer: float) -> dict[str, dict]:
    """Content of metrics/eval.json: the measures that DVC compares, rounded to four digits, and the EER on dev.

    >>> summary({"all": {"eer": 0.123456, "eer_low": 0.1, "auc": 0.9}}, 0.1)
    {'all': {'eer': 0.1235}, 'dev': {'eer': 0.1}}
    """
    rows = {name: {key: row[key] for key in COMPARED if key in row} for name, row in of_eval.items()}
    rows["dev"] = {"eer": dev_eer}
    return {name: {key: round(value, 4) for key, value in row.items()} for name, row in rows.items()}


def table(of_eval: Mapping[str, Mapping], of_narrow: Mapping[str, Mapping]) -> pd.DataFrame:
    """Content of metrics/tables/eval.csv: one row per split, condition and measure, from `headline` of eval and narrow.

    Columns are split, condition, measure (keys of `MEASURES`), value, low and high (NaN without an interval).
    """
    rows = [
        (split, condition, key, *(row.get(key + end) for end in ENDS))
        for split, measured in (("eval", of_eval), (NARROW, of_narrow))
        for condition in CONDITIONS
        for key in MEASURES
        if key in (row := measured.get(condition, {}))
    ]
    columns = ["split", "condition", "measure", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], float))


def apart(content: pd.DataFrame) -> tuple[dict[str, dict], dict[str, dict]]:
    """Inverse of `table`: eval and narrow, each as returned by `headline`; narrow is empty where there is none."""
    parts = {"eval": {}, NARROW: {}}
    for split, condition, key, *values in content.itertuples(index=False):
        row = parts[split].setdefault(condition, {})
        numbers = zip(ENDS, values, strict=True)
        row |= {key + end: int(x) if key in COUNTS else x for end, x in numbers if not math.isnan(x)}
    return parts["eval"], parts[NARROW]


def alarms(scores: pd.DataFrame, column: str = "llr", *, dev_eer: float | None = None) -> list[str]:
    """Warnings about the scores, one sentence each.

    Checks for scores that are not finite, a class that is missing or has fewer than `FEW` trials, ties in more than 1 %
    of trials, inverted scores, and an EER at least twice and two points above `dev_eer` (a fraction).
    """
    sentences = []
    finite = np.isfinite(scores[column].to_numpy(float))
    if not finite.all():
        first = ", ".join(scores.get("utt_id", pd.Series("", scores.index))[~finite].astype(str)[:5])
        sentences.append(
            f"{(~finite).sum()} of {len(scores)} scores are not finite numbers (NaN or infinite; the first: {first}): "
            "the figures leave these trials out and cannot be compared with those of others"
        )
    trials = scores[finite]
    missing = [words for label, words in CLASSES.items() if not (trials["label"] == label).any()]
    if missing:
        return [
            *sentences,
            f"there are no {' and no '.join(missing)} trials: nothing can be measured without both classes",
        ]
    counts = metrics.Counts.of(*split_classes(trials, column))
    eer = counts.eer().value
    if counts.tied > 0.01:
        reference = metrics.eer(*split_classes(trials, column), ties="reference").value
        sentences.append(
            f"{100 * counts.tied:.1f} % of trials have their score in common with another: are scores rounded? "
            f"The equal error rate is {100 * eer:.2f} % with ties on one side of every threshold, "
            f"{100 * reference:.2f} % as the ASVspoof packages treat them"
        )
    if counts.auc() < 0.5:
        sentences.append(
            f"fakes score higher than real voices (EER {100 * eer:.1f} %): is the polarity of the scores or of the "
            "labels inverted? Here higher must mean bona fide"
        )
    counted = {"bona fide": (trials["label"] == "bonafide").sum()}
    for condition, group in _apart(trials).items():
        kind = "spoofed" if condition == "all" else f"spoofed ({CONDITIONS[condition].lower()})"
        counted[kind] = (group["label"] == "spoof").sum()
    few = {words: count for words, count in counted.items() if count < FEW}
    if few:
        fewest = min(few.values())
        sentences.append(
            f"there are only {' and '.join(f'{count} {words}' for words, count in few.items())} trials: intervals from "
            f"so few are too narrow. Even with no error in {fewest}, up to {100 * (1 - 0.05 ** (1 / fewest)):.0f} % of "
            "others may be errors, at 95 % confidence"
        )
    for condition, group in _apart(trials).items():
        rate = _eer(*split_classes(group, column))
        if dev_eer is not None and rate >= max(2 * dev_eer, dev_eer + 0.02):
            sentences.append(
                f"dev is much easier than eval ({CONDITIONS[condition].lower()}): equal error rate "
                f"{100 * dev_eer:.1f} % against {100 * rate:.1f} %: thresholds and calibration of dev will not hold"
            )
    return sentences


def check_classes(scores: pd.DataFrame, split: str) -> None:
    """Raise `UserError` where a split has no bona fide or no spoof trials."""
    for label, words in CLASSES.items():
        if not (scores["label"] == label).any():
            raise UserError(f"{split} has no {words} trials, and nothing can be measured without: add recordings to it")


def operating_points(
    scores: pd.DataFrame,
    policies: Mapping[str, float],
    *,
    replicates: int = 1000,
    seed: int = 0,
    clusters: bool = True,
) -> dict[str, dict]:
    """Error rates at each threshold, on trials that it was not chosen on, with 95 % confidence intervals.

    Parameters
    ----------
    policies : name -> threshold, an LLR.
    scores, replicates, seed, clusters : as `headline`.

    Returns
    -------
    policy -> {"threshold", "bonafide_rejected", "spoof_accepted_known", "spoof_accepted_unseen"} as fractions, with
    "..._low" and "..._high"; "spoof_accepted" where spoofs have no condition.

    Raises
    ------
    UserError
        A threshold is NaN, or there are too few speakers and attacks to resample.
    """

    def statistic(counts):
        rates = {policy: counts.rates(threshold) for policy, threshold in policies.items()}
        return {f"{policy} {name}": value for policy, row in rates.items() for name, value in row.items()}

    options = {"factors": FACTORS if clusters else (), "replicates": replicates, "seed": seed}
    points = {policy: {"threshold": threshold} for policy, threshold in policies.items()}
    measurable = {name: trials for name, trials in _measurable(scores).items() if name in _apart(scores)}
    for condition, trials in progress(measurable.items(), desc="intervals", unit="condition"):
        values = with_interval(statistic, trials, **options)
        names = {"bonafide_rejected": "bonafide_rejected", "spoof_accepted": _column("spoof_accepted", condition)}
        for policy, row in points.items():
            for name, key in names.items():
                if key not in row:  # bona fide trials are the same in every condition
                    row |= {key + end: values[f"{policy} {name}{end}"] for end in ENDS[: 3 if replicates else 1]}
    return points


def by_attack(scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Error rates of each attack against all bona fide trials.

    Returns
    -------
    One row per attack: condition, attack, n_spoof, speakers (number), eer and spoof_accepted (fractions), median_llr.
    The EER is NaN without bona fide trials.
    """
    bonafide, _ = split_classes(scores)
    spoofs = scores[scores["label"] == "spoof"]
    rows = [
        {
            "condition": condition,
            "attack": attack,
            "n_spoof": len(group),
            "speakers": group["speaker"].nunique(),
            "eer": _eer(bonafide, group["llr"]),
            "spoof_accepted": float((group["llr"] >= threshold).mean()),
            "median_llr": float(group["llr"].median()),
        }
        for (condition, attack), group in spoofs.groupby(["condition", "attack"], sort=True)
    ]
    columns = ["condition", "attack", "n_spoof", "speakers", "eer", "spoof_accepted", "median_llr"]
    return pd.DataFrame(rows, columns=columns)


def by_speaker(scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Error rates of each speaker, with known and unseen attacks apart; a synthetic voice is a speaker, too.

    Returns
    -------
    One row per speaker: language, source, n_bonafide, bonafide_rejected; n_spoof, spoof_accepted and eer by condition,
    such as eer_known. Rates are fractions, NaN without trials; the EER is between bona fide and spoof of this speaker.
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


def pairs(scores: pd.DataFrame) -> pd.DataFrame:
    """Vocoder copies against the recordings that they were made of: same speaker, words and channel.

    Returns
    -------
    One row per attack, the hardest first, then one for all: n_pairs, eer, and preferred, the fraction of pairs whose
    recording scores above the copy (a tie counts one half).
    """
    recordings = scores[scores["label"] == "bonafide"].set_index("utt_id")["llr"]
    copies = scores[(scores["label"] == "spoof") & scores["pair_id"].isin(recordings.index)]
    copies = copies.assign(recording=recordings.reindex(copies["pair_id"]).to_numpy())

    def row(attack, condition, group):
        difference = group["recording"] - group["llr"]
        originals = recordings.loc[group["pair_id"].unique()]
        return {
            "attack": attack,
            "condition": condition,
            "n_pairs": len(group),
            "eer": _eer(originals, group["llr"]),
            "preferred": float(((difference > 0) + 0.5 * (difference == 0)).mean()),
        }

    rows = [row(*names, group) for names, group in copies.groupby(["attack", "condition"], sort=True)]
    rows.sort(key=lambda one: -one["eer"])
    if rows:
        rows.append(row("all copies", "", copies))
    return pd.DataFrame(rows, columns=["attack", "condition", "n_pairs", "eer", "preferred"])


def by_human(scores: pd.DataFrame, threshold: float, column: str = "source") -> pd.DataFrame:
    """Bona fide trials grouped by `column` (source, language or codec), each group against the spoofs of a condition.

    A source whose recordings are all rejected shows that the detector relies on the recording chain. Rates are
    fractions.
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


def breakdown(scores: pd.DataFrame, column: str, **costs: float) -> pd.DataFrame:
    """Measures of every attack against all bona fide trials, or of every codec (or language) on its own trials.

    `column` is attack, codec, language or source. One row per group: n_bonafide, n_spoof, eer, min_dcf, act_dcf and
    cllr; NaN where a class is missing. `costs` are as in `measures`.
    """
    trials = scored(scores)
    bonafide = trials[trials["label"] == "bonafide"]
    rows = []
    for name, group in trials[(trials["label"] == "spoof") | (column != "attack")].groupby(column, sort=True):
        classes = split_classes(pd.concat([bonafide, group]) if column == "attack" else group)
        values = measures(*classes, **costs) if all(map(len, classes)) else {}
        columns = {key: values.get(key, math.nan) for key in ("eer", "min_dcf", "act_dcf", "cllr")}
        rows.append({column: name, "n_bonafide": len(classes[0]), "n_spoof": len(classes[1])} | columns)
    return pd.DataFrame(rows)


def decide(llr, threshold: float) -> np.ndarray:
    """ "spoof" where llr < threshold, "bonafide" elsewhere."""
    return np.where(np.asarray(llr) < threshold, "spoof", "bonafide")


def worst(scores: pd.DataFrame, threshold: float, n: int = 10) -> pd.DataFrame:
    """The `n` errors of both classes that are farthest beyond the threshold, the worst first."""
    excess = np.where(scores["label"] == "bonafide", threshold - scores["llr"], scores["llr"] - threshold)
    wrong = scores["label"].to_numpy() != decide(scores["llr"], threshold)
    ranked = scores.assign(excess=excess)[wrong].sort_values(["excess", "utt_id"], ascending=[False, True])
    columns = ["utt_id", "label", "condition", "attack", "speaker", "source", "llr"]
    return ranked[columns].head(n).reset_index(drop=True)


def confusion_table(scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Confusion matrix of each condition, one row per cell, for `dvc plots` and `plots.confusion`."""
    if math.isnan(threshold):
        raise UserError("the threshold is not a number: calibrate first")
    rows = []
    for condition, trials in _apart(scores).items():
        called, truth = decide(trials["llr"], threshold), trials["label"].to_numpy()
        for actual in CLASSES:
            for predicted in CLASSES:
                count = int(np.sum((truth == actual) & (called == predicted)))
                rows.append({"condition": condition, "actual": actual, "predicted": predicted, "trials": count})
    return pd.DataFrame(rows)


def _column(name: str, condition: str) -> str:
    """Column name of one condition."""
    return name if condition == "all" else f"{name}_{condition}"


def save_json(path: Path, values: Mapping) -> None:
    """Write metrics with six decimals and sorted keys, atomically; `ValueError` for NaN or infinity."""
    files.write_json(path, _rounded(values))


def save_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table with six decimals and "" for NaN, without its index, atomically."""
    files.write(path, table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))


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
