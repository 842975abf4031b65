"""Comparison of the audits, and their record in metrics/tables/audit.json."""

import math
from collections.abc import Callable, Mapping

import pandas as pd

from aasist_lib import evaluation, plots
from aasist_lib.audit import adversarial, shortcuts
from aasist_lib.base.errors import UserError

DETECTOR = "detector"


def or_skip(part: Callable, *arguments, empty, **settings):
    """Result of `part`, or `empty` and a printed sentence where it raises `UserError` (the corpus is too small)."""
    try:
        return part(*arguments, **settings)
    except UserError as error:
        print(f"Left out: {error}")
        return empty


def draw(table: pd.DataFrame, figure: Callable, *arguments, alt: str, **settings) -> None:
    """Show a figure of `plots`, or a printed sentence where the table has no error rates."""
    if "eer" not in table or table["eer"].isna().all():
        print("Nothing to draw: there are no error rates, because this corpus lacks real voices or fakes here")
        return
    plots.show(figure(*arguments, **settings), alt)


def under_attack(
    sample: pd.DataFrame, root, detector, folder, llr: pd.Series, threshold: float, *,
    count: int, workers: int, seed: int, replicates: int,
) -> pd.DataFrame:  # fmt: skip
    """Summary of adversarial examples for about `count` spoofs of the sample; `llr` are its clean LLRs by utt_id."""
    fakes = adversarial.fakes(sample, count, seed)
    attacked = adversarial.attack(fakes, root, detector, folder, workers=workers, seed=seed)
    return adversarial.summary(sample, attacked, llr, threshold, replicates=replicates, seed=seed)


def beside(baselines: Mapping[str, Mapping], detector: Mapping[str, Mapping]) -> pd.DataFrame:
    """Shortcut baselines and the detector on eval, one row each with the detector first; rates are fractions.

    `goal` is the lowest acceptable EER of a baseline, and `missed` whether its EER is below.
    """
    rows = []
    for name, measured in ({DETECTOR: detector} | dict(baselines)).items():
        is_detector = name == DETECTOR
        goal = math.nan if is_detector else shortcuts.LIMIT_ALL if name == "all" else shortcuts.LIMIT
        words = "the detector" if is_detector else shortcuts.WORDS[name]
        row = {"name": name, "kind": DETECTOR if is_detector else "shortcut", "words": words, "goal": goal}
        for condition in ("all", "known", "unseen"):
            column = "eer" if condition == "all" else f"eer_{condition}"
            row |= {column + end: measured.get(condition, {}).get(f"eer{end}", math.nan) for end in evaluation.ENDS}
        rows.append(row | {"missed": bool(row["eer"] < goal)})
    return pd.DataFrame(rows)


def comparison_text(table: pd.DataFrame) -> pd.DataFrame:
    """`beside` as text, in percent, with intervals."""
    headings = {"words": "What decides", "eer": "EER (%)", "eer_known": "Known attacks (%)"}
    headings |= {"eer_unseen": "Unseen attacks (%)"}
    text = evaluation.cells(table, {name: words for name, words in headings.items() if table[name].notna().any()})
    text["Goal (%)"] = [
        "" if math.isnan(goal) or math.isnan(eer) else f"{100 * goal:g} or worse: {'missed' if missed else 'met'}"
        for goal, eer, missed in table[["goal", "eer", "missed"]].itertuples(index=False)
    ]
    return text


def headline(table: pd.DataFrame) -> list[dict]:
    """Error rates of `beside` for the index of the report; rows without one are left out."""
    rows = table.dropna(subset="eer")[["name", "words", "eer", "eer_low", "eer_high"]].to_dict("records")
    return [{key: value for key, value in row.items() if value == value} for row in rows]


def records(table: pd.DataFrame, *keys: str) -> dict:
    """Numbers of a table nested by its columns `keys`, for audit.json; NaN and text are left out."""
    found: dict = {}
    for row in table.to_dict("records"):
        place = found
        for name in (row[key] for key in keys):
            if name == name:  # a record without this name is one level higher
                place = place.setdefault(f"{name:g}" if isinstance(name, float) else str(name), {})
        numbers = {k: v for k, v in row.items() if k not in keys and not isinstance(v, str)}
        place |= {k: v for k, v in numbers.items() if v == v}
    return found
