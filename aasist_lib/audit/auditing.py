"""What the notebooks of the audits have in common: a table of the detector beside shortcuts, and records in JSON."""

import math
from collections.abc import Mapping

import pandas as pd

from aasist_lib import evaluation
from aasist_lib.audit import shortcuts

DETECTOR = "detector"


def comparison(baselines: Mapping[str, Mapping], detector: Mapping[str, Mapping]) -> pd.DataFrame:
    """Shortcut baselines and the detector on eval, one row each with the detector first; rates are fractions.

    `goal` is the lowest acceptable EER of a baseline, and `missed` whether its EER is below.
    """
    rows = []
    for name, measured in ({DETECTOR: detector} | dict(baselines)).items():
        is_detector = name == DETECTOR
        goal = math.nan if is_detector else shortcuts.LIMIT_ALL if name == "all" else shortcuts.LIMIT
        words = "the detector" if is_detector else shortcuts.WORDS[name]
        row = {"name": name, "words": words, "goal": goal}
        for condition in ("all", "known", "unseen"):
            column = "eer" if condition == "all" else f"eer_{condition}"
            row |= {column + end: measured.get(condition, {}).get(f"eer{end}", math.nan) for end in evaluation.ENDS}
        rows.append(row | {"missed": bool(row["eer"] < goal)})
    return pd.DataFrame(rows)


def comparison_text(table: pd.DataFrame) -> pd.DataFrame:
    """`comparison` as text, in percent, with intervals."""
    headings = {"words": "What decides", "eer": "EER (%)", "eer_known": "Known attacks (%)"}
    headings |= {"eer_unseen": "Unseen attacks (%)"}
    text = evaluation.cells(table, {name: words for name, words in headings.items() if table[name].notna().any()})
    text["Goal (%)"] = [
        "" if math.isnan(goal) or math.isnan(eer) else f"{100 * goal:g} or worse: {'missed' if missed else 'met'}"
        for goal, eer, missed in table[["goal", "eer", "missed"]].itertuples(index=False)
    ]
    return text


def to_nested_dict(table: pd.DataFrame, *keys: str) -> dict:
    """Numbers of a table nested by its columns `keys`, for JSON; NaN and text are left out."""
    found: dict = {}
    for row in table.to_dict("records"):
        place = found
        for name in (row[key] for key in keys):
            if name == name:  # a record without this name is one level higher
                place = place.setdefault(f"{name:g}" if isinstance(name, float) else str(name), {})
        place |= {k: v for k, v in row.items() if k not in keys and not isinstance(v, str) and v == v}
    return found
