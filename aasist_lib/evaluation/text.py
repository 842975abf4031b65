"""Numbers as text for people: one way to write a number with its interval, and the tables made of such cells."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from aasist_lib.evaluation.tables import CONDITIONS, ENDS, MEASURES


def interval(
    value: float | None, low: float | None = None, high: float | None = None, *, percent: bool = True,
    decimals: int | None = None,
) -> str:  # fmt: skip
    """Number with its interval as text, fractions in percent; "" for NaN or None.

    `decimals` are one for a percentage and three for another float by default.

    >>> interval(0.161, 0.12, 0.213)
    '16.1 (12.0 to 21.3)'
    >>> interval(0.5, 0.25, 1.5, percent=False), interval(479, percent=False)
    ('0.500 (0.250 to 1.500)', '479')
    """

    def text(x):
        if not percent and isinstance(x, int | np.integer):
            return str(x)
        return f"{100 * x if percent else x:.{decimals if decimals is not None else 1 if percent else 3}f}"

    if value is None or math.isnan(value):
        return ""
    return text(value) if low is None or math.isnan(low) else f"{text(value)} ({text(low)} to {text(high)})"


def cell(row: Mapping, key: str) -> str:
    """Value `key` of a row as text, with its interval `key_low` to `key_high` if there is one; "" if it is missing.

    Measures are shown as `MEASURES` says, other numbers in percent.
    """
    value, low, high = (row.get(key + end) for end in ENDS)
    return value if isinstance(value, str) else interval(value, low, high, percent=MEASURES.get(key, ("", True))[1])


def cells(table: pd.DataFrame, headings: Mapping[str, str]) -> pd.DataFrame:
    """Columns of a table as text under their headings, by `cell`."""
    rows = table.to_dict("records")
    return pd.DataFrame({words: [cell(row, key) for row in rows] for key, words in headings.items()})


# column -> heading; a heading that ends in (%) is shown in percent
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
    "llr": "LLR",
    "median_llr": "Median LLR",
    "n_pairs": "Pairs",
    "preferred": "Recording scores above its copy (%)",
} | {key: words for key, (words, _) in MEASURES.items()}
HEADINGS |= {
    f"{key}_{condition}": f"{CONDITIONS[condition]}: {words}"
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
            values = [interval(x, percent=percent, decimals=1 if percent else 2) for x in values]
        result[heading] = values
    return result


def headline_table(table: Mapping[str, Mapping]) -> pd.DataFrame:
    """`headline`, or `measures` by name, as text: one row per measure, one column per condition."""
    keys = [key for key in MEASURES if any(key in row for row in table.values())]
    columns = {CONDITIONS.get(name, name): [cell(row, key) for key in keys] for name, row in table.items()}
    return pd.DataFrame({"Measure": [MEASURES[key][0] for key in keys]} | columns)


# policy -> its criterion on dev; {} is the limit, a setting of the calibration
POLICIES = {
    "equal_error": ("both mistakes equally often", ""),
    "min_cost": ("the cheapest mistakes at the given prior and costs", ""),
    "max_fpr": ("at most {} of real voices called fake", "max_fpr"),
    "min_tpr": ("at least {} of fakes caught", "min_tpr"),
}
PER_THOUSAND = {
    "bonafide_rejected": "Of 1,000 real voices, called fake",
    "spoof_accepted_known": "Of 1,000 fakes of known kinds, let through",
    "spoof_accepted_unseen": "Of 1,000 fakes of unseen kinds, let through",
    "spoof_accepted": "Of 1,000 fakes, let through",
}


def operating_points_table(points: Mapping[str, Mapping], settings: Mapping) -> pd.DataFrame:
    """`operating_points` as text: errors per thousand trials; `settings` are those of the calibration."""
    rows = []
    for policy, row in points.items():
        promise, limit = POLICIES.get(policy, (policy, ""))
        texts = {
            "Policy": policy,
            "What it was set for, on dev": promise.format(f"{100 * settings[limit]:g} %" if limit in settings else ""),
            "Fake below (LLR)": f"{row['threshold']:.2f}",
        }
        for key, words in PER_THOUSAND.items():
            if key in row:
                numbers = (1000 * row[key + end] for end in ENDS if key + end in row)
                texts[words] = interval(*numbers, percent=False, decimals=0)
        rows.append(texts)
    return pd.DataFrame(rows)
