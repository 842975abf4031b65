"""Tables of error rates from a table of scored utterances.

A score table has the columns of an utterance table and `llr`, the calibrated log-likelihood ratio; a trial is called
spoof if and only if llr < threshold. Spoofs of eval have the condition *known* (attack in train) or *unseen*; bona fide
trials belong to both.
"""

import math
from collections.abc import Mapping
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
COUNTS = ("n_bonafide", "n_spoof")
# with the EER on dev, all that DVC compares
COMPARED = ("eer", "accuracy", "precision", "recall", "f1", "min_dcf", "cllr")


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
    found = set(scores.loc[scores["label"] == "spoof", "condition"])
    names = [name for name in CONDITIONS if name in found]
    if found != set(names) or not names:
        names.append("all")
    return {name: select(scores, name) for name in names}


def split_classes(scores: pd.DataFrame, column: str = "llr") -> tuple[np.ndarray, np.ndarray]:
    """Scores of (bona fide, spoof) as two float vectors, in the order of the table."""
    return tuple(scores.loc[scores["label"] == label, column].to_numpy(float) for label in ("bonafide", "spoof"))


def measures(
    bonafide, spoof, *, prior_spoof: float = 0.05, cost_miss: float = 1.0, cost_false_alarm: float = 10.0
) -> dict[str, float]:
    """Threshold-free measures: EER, ROCCH-EER and AUC (fractions), minDCF, actDCF, Cllr and minCllr (bits)."""
    return _measures(metrics.Counts.of(bonafide, spoof), (prior_spoof, cost_miss, cost_false_alarm))


def _measures(counts: metrics.Counts, costs: tuple) -> dict[str, float]:
    curve = counts.det()  # one curve serves three of them
    return {
        "eer": curve.eer().value,
        "rocch_eer": counts.rocch_eer(),
        "auc": curve.auc(),
        "min_dcf": curve.min_dcf(*costs).value,
        "act_dcf": counts.act_dcf(*costs),
        "cllr": counts.cllr(),
        "min_cllr": counts.min_cllr(),
    }


def headline(
    scores: pd.DataFrame,
    threshold: float | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
    prior_spoof: float = 0.05,
    cost_miss: float = 1.0,
    cost_false_alarm: float = 10.0,
    clusters: bool = True,
) -> dict[str, dict]:
    """All measures of every condition that has trials of both classes, with 95 % confidence intervals.

    Parameters
    ----------
    scores : one row per trial, with label, speaker, attack, condition and llr. Trials without a finite llr are left
        out.
    threshold : of accuracy, precision, recall, F1 and the two error rates; None leaves these out.
    replicates, seed : of the bootstrap; 0 replicates give no intervals.
    prior_spoof, cost_miss, cost_false_alarm : of minDCF and actDCF.
    clusters : resample speakers and attacks, not single trials; trials of a speaker or an attack are correlated, so
        intervals over single trials are far too narrow.

    Returns
    -------
    condition -> {"n_bonafide", "n_spoof", "eer", "eer_low", "eer_high", ...}; rates are fractions.

    Raises
    ------
    UserError
        The threshold is NaN, or there are too few speakers and attacks to resample.
    """
    costs = prior_spoof, cost_miss, cost_false_alarm

    def statistics(counts):
        return _measures(counts, costs) | ({} if threshold is None else counts.rates(threshold))

    table = {}
    for condition, trials in progress(_conditions(scores).items(), desc="intervals", unit="condition"):
        bonafide, spoof = split_classes(trials)
        row = {"n_bonafide": len(bonafide), "n_spoof": len(spoof)}
        table[condition] = row | _with_intervals(statistics, trials, replicates, seed, clusters)
    return table


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
        (split, condition, key, *(row.get(key + end) for end in ("", "_low", "_high")))
        for split, measured in (("eval", of_eval), (NARROW, of_narrow))
        for condition in CONDITIONS
        for key in MEASURES
        if key in (row := measured.get(condition, {}))
    ]
    columns = ["split", "condition", "measure", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], float))


def apart(found: pd.DataFrame) -> tuple[dict[str, dict], dict[str, dict]]:
    """Inverse of `table`: eval and narrow, each as returned by `headline`; narrow is empty where there is none."""
    parts = {"eval": {}, NARROW: {}}
    for split, condition, key, *values in found.itertuples(index=False):
        row = parts[split].setdefault(condition, {})
        numbers = zip(("", "_low", "_high"), values, strict=True)
        row |= {key + end: int(x) if key in COUNTS else x for end, x in numbers if not math.isnan(x)}
    return parts["eval"], parts[NARROW]


def _conditions(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Trials with a finite llr by condition, for conditions with both classes."""
    trials = {condition: select(scored(scores), condition) for condition in CONDITIONS}
    return {condition: rows for condition, rows in trials.items() if rows["label"].nunique() == 2}


def factors(trials: pd.DataFrame) -> dict[str, tuple]:
    """Speakers and attacks of the trials in the order of `split_classes`, as `clusters` of `metrics.bootstrap`."""
    is_spoof = (trials["label"] == "spoof").to_numpy()
    speaker, attack = trials["speaker"].to_numpy(), trials["attack"].to_numpy()
    return {"speaker": (speaker[~is_spoof], speaker[is_spoof]), "attack": (None, attack[is_spoof])}


def _with_intervals(statistics, trials: pd.DataFrame, replicates: int, seed: int, clusters: bool) -> dict[str, float]:
    """Each statistic as name, name_low and name_high."""
    classes = split_classes(trials)
    values = dict(statistics(metrics.Counts.of(*classes)))
    if not replicates:
        return values
    intervals = metrics.bootstrap(
        statistics, *classes, clusters=factors(trials) if clusters else None, replicates=replicates, seed=seed
    )
    ends = {
        f"{name}_{end}": interval[i] for name, interval in intervals.items() for i, end in enumerate(("low", "high"))
    }
    return values | ends


def alarms(scores: pd.DataFrame, column: str = "llr", *, dev_eer: float | None = None) -> list[str]:
    """Warnings about the scores, one sentence each.

    Checks for scores that are not finite, a class that is missing or has fewer than `FEW` trials, ties in more than 1 %
    of trials, inverted scores, and an EER at least twice and two points above `dev_eer` (a fraction).
    """
    found = []
    finite = np.isfinite(scores[column].to_numpy(float))
    if not finite.all():
        first = ", ".join(scores.get("utt_id", pd.Series("", scores.index))[~finite].astype(str)[:5])
        found.append(
            f"{(~finite).sum()} of {len(scores)} scores are not finite numbers (NaN or infinite; the first: {first}): "
            "the figures leave these trials out and cannot be compared with those of others"
        )
    trials = scores[finite]
    missing = [words for label, words in CLASSES.items() if not (trials["label"] == label).any()]
    if missing:
        return [*found, f"there are no {' and no '.join(missing)} trials: nothing can be measured without both classes"]
    counts = metrics.Counts.of(*split_classes(trials, column))
    eer = counts.eer().value
    if counts.tied > 0.01:
        reference = metrics.eer(*split_classes(trials, column), ties="reference").value
        found.append(
            f"{100 * counts.tied:.1f} % of trials have their score in common with another: are scores rounded? "
            f"The equal error rate is {100 * eer:.2f} % with ties on one side of every threshold, "
            f"{100 * reference:.2f} % as the ASVspoof packages treat them"
        )
    if counts.auc() < 0.5:
        found.append(
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
        found.append(
            f"there are only {' and '.join(f'{count} {words}' for words, count in few.items())} trials: intervals from "
            f"so few are too narrow. Even with no error in {fewest}, up to {100 * (1 - 0.05 ** (1 / fewest)):.0f} % of "
            "others may be errors, at 95 % confidence"
        )
    for condition, group in _apart(trials).items():
        there = _eer(*split_classes(group, column))
        if dev_eer is not None and there >= max(2 * dev_eer, dev_eer + 0.02):
            found.append(
                f"dev is much easier than eval ({CONDITIONS[condition].lower()}): equal error rate "
                f"{100 * dev_eer:.1f} % against {100 * there:.1f} %: thresholds and calibration of dev will not hold"
            )
    return found


def check_classes(scores: pd.DataFrame, split: str) -> None:
    """Raise `UserError` where a split has no bona fide or no spoof trials."""
    for label, words in CLASSES.items():
        if not (scores["label"] == label).any():
            raise UserError(f"{split} has no {words} trials, and nothing can be measured without: add recordings to it")


CLASSES = {"bonafide": "bona fide", "spoof": "spoofed"}

# policy -> its criterion on dev; {} is the limit
POLICIES = {
    "equal_error": "both mistakes equally often",
    "min_cost": "the cheapest mistakes at the given prior and costs",
    "few_false_alarms": "at most {} of real voices called fake",
    "few_misses": "at least {} of fakes caught",
}


_PER_THOUSAND = {
    "bonafide_rejected": "Of 1,000 real voices, called fake",
    "spoof_accepted_known": "Of 1,000 fakes of known kinds, let through",
    "spoof_accepted_unseen": "Of 1,000 fakes of unseen kinds, let through",
    "spoof_accepted": "Of 1,000 fakes, let through",
}


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

    def statistics(counts):
        return {(policy, name): value for policy, threshold in policies.items()
                for name, value in counts.rates(threshold).items()}  # fmt: skip

    table = {policy: {"threshold": threshold} for policy, threshold in policies.items()}
    apart = _apart(scores)
    for condition, trials in progress(_conditions(scores).items(), desc="intervals", unit="condition"):
        if condition not in apart:
            continue
        classes = split_classes(trials)
        values, intervals = statistics(metrics.Counts.of(*classes)), {}
        if replicates:
            groups = factors(trials) if clusters else None
            intervals = metrics.bootstrap(statistics, *classes, clusters=groups, replicates=replicates, seed=seed)
        for policy in policies:
            for name in ("bonafide_rejected", "spoof_accepted"):
                key = name if name == "bonafide_rejected" else _column(name, condition)
                if key in table[policy]:  # bona fide trials are the same in every condition
                    continue
                table[policy][key] = values[policy, name]
                if intervals:
                    table[policy][f"{key}_low"], table[policy][f"{key}_high"] = intervals[policy, name]
    return table


def operating_points_table(points: Mapping[str, Mapping], settings: Mapping) -> pd.DataFrame:
    """`operating_points` as text: errors per thousand trials; `settings` are those of the calibration."""
    limits = {"few_false_alarms": "max_bonafide_rejected", "few_misses": "min_spoof_found"}
    rows = []
    for policy, row in points.items():
        limit = settings.get(limits.get(policy, ""))
        promise = POLICIES.get(policy, policy).format("" if limit is None else f"{100 * limit:g} %")
        cells = {
            "Policy": policy,
            "What it was set for, on dev": promise,
            "Fake below (LLR)": f"{row['threshold']:.2f}",
        }
        for key, words in _PER_THOUSAND.items():
            if key in row:
                cells[words] = _per_thousand(*(row.get(f"{key}{end}") for end in ("", "_low", "_high")))
        rows.append(cells)
    return pd.DataFrame(rows)


def _per_thousand(value: float, low: float | None, high: float | None) -> str:
    """Fraction as a count per 1,000, with its interval."""
    text = f"{1000 * value:.0f}"
    return text if low is None else f"{text} ({1000 * low:.0f} to {1000 * high:.0f})"


def headline_table(table: Mapping[str, Mapping]) -> pd.DataFrame:
    """`headline`, or `measures` by name, as text: one row per measure, one column per condition."""
    columns = {}
    for condition, row in table.items():
        columns[CONDITIONS.get(condition, condition)] = {
            words: interval(row[key], row.get(f"{key}_low"), row.get(f"{key}_high"), percent=percent)
            for key, (words, percent) in MEASURES.items()
            if key in row
        }
    return pd.DataFrame(columns).rename_axis("Measure").reset_index()


def interval(value: float, low: float | None = None, high: float | None = None, *, percent: bool = True) -> str:
    """Number with its interval as text, fractions in percent; "" for NaN or None.

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
    "min_dcf": "minDCF",
    "act_dcf": "actDCF",
    "cllr": "Cllr (bits)",
    "median_llr": "Median LLR",
    "n_bonafide": "Real recordings",
    "n_spoof": "Fakes",
    "n_pairs": "Pairs",
    "preferred": "Recording scores above its copy (%)",
} | {key: words for key, (words, percent) in MEASURES.items() if percent}
HEADINGS |= {
    _column(key, condition): f"{CONDITIONS[condition]}: {words}"
    for key, words in {"n_spoof": "fakes", "spoof_accepted": "let through (%)", "eer": "EER (%)"}.items()
    for condition in ("known", "unseen")
}


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Table as text: headings of `HEADINGS`, fractions in percent, two decimals for other floats, "" for NaN.

    Columns of empty text are left out.
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
