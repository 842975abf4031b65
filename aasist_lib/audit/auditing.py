"""What the audit sets side by side, and what it puts on record in metrics/tables/audit.json."""

import math
from collections.abc import Callable, Mapping

import pandas as pd

from aasist_lib import evaluation, plots
from aasist_lib.audit import adversarial, shortcuts
from aasist_lib.base.errors import UserError

DETECTOR = "detector"


def possible(part: Callable, *arguments, empty, **settings):
    """What a part of the audit gives, or `empty` and a printed sentence where this corpus is too small for it.

    Parameters
    ----------
    part : callable
        Called with the rest of the arguments.
    empty :
        What is given instead when it raises a UserError.

    >>> possible(int, "7", empty=0)
    7
    """
    try:
        return part(*arguments, **settings)
    except UserError as error:
        print(f"Left out: {error}")
        return empty


def draw(table: pd.DataFrame, figure: Callable, *arguments, alt: str, **settings) -> None:
    """Show a figure, or a sentence where there is no error rate to draw: a class of eval may be missing.

    Parameters
    ----------
    table : with the column eer, if there is any.
    figure : of `plots`; called with the rest of the arguments.
    alt : as for `plots.show`.
    """
    if "eer" not in table or table["eer"].isna().all():
        print("Nothing to draw: there are no error rates, because this corpus lacks real voices or fakes here")
        return
    plots.show(figure(*arguments, **settings), alt)


def under_attack(
    sample: pd.DataFrame, root, detector, folder, llr: pd.Series, threshold: float, *,
    count: int, workers: int, seed: int, replicates: int,
) -> pd.DataFrame:  # fmt: skip
    """How often fakes that are changed on purpose pass: `adversarial.attack` and its `summary`.

    Parameters
    ----------
    sample : utterances of eval, real voices and fakes, as `robustness.sample` gives them.
    root, detector, folder, workers : as for `adversarial.attack`.
    llr : log-likelihood ratios of the sample as it is, by utt_id.
    threshold : below it a recording is called fake.
    count : fakes that are attacked, about.
    seed, replicates : of all chance; of the bootstrap.
    """
    fakes = adversarial.fakes(sample, count, seed)
    attacked = adversarial.attack(fakes, root, detector, folder, workers=workers, seed=seed)
    return adversarial.summary(sample, attacked, llr, threshold, replicates=replicates, seed=seed)


def beside(baselines: Mapping[str, Mapping], detector: Mapping[str, Mapping]) -> pd.DataFrame:
    """Shortcuts and the detector, all read on eval.

    Parameters
    ----------
    baselines : what `shortcuts.baselines` gave.
    detector : what `evaluation.headline` gave for the same trials.

    Returns
    -------
    DataFrame
        A row each, the detector first: name; kind, detector or shortcut; words; goal, the lowest equal error rate that
        is allowed (NaN for the detector); missed; for each condition eer_known, eer_known_low, eer_known_high and so
        on, and eer, eer_low, eer_high of all attacks. Fractions, NaN where there is nothing.
    """
    rows = []
    for name, measured in ({DETECTOR: detector} | dict(baselines)).items():
        is_detector = name == DETECTOR
        goal = math.nan if is_detector else shortcuts.LIMIT_ALL if name == "all" else shortcuts.LIMIT
        words = "the detector" if is_detector else shortcuts.WORDS[name]
        row = {"name": name, "kind": DETECTOR if is_detector else "shortcut", "words": words, "goal": goal}
        for condition in ("all", "known", "unseen"):
            column = "eer" if condition == "all" else f"eer_{condition}"
            for end in ("", "_low", "_high"):
                row[column + end] = measured.get(condition, {}).get(f"eer{end}", math.nan)
        rows.append(row | {"missed": bool(row["eer"] < goal)})
    return pd.DataFrame(rows)


def beside_readable(table: pd.DataFrame) -> pd.DataFrame:
    """`beside` for people: text, in percent, with intervals.

    Parameters
    ----------
    table : what `beside` gave.
    """
    found = pd.DataFrame({"What decides": table["words"]})
    for column, words in {
        "eer": "EER (%)",
        "eer_known": "Known attacks (%)",
        "eer_unseen": "Unseen attacks (%)",
    }.items():
        if table[column].notna().any():
            ends = table[[column, f"{column}_low", f"{column}_high"]].to_numpy()
            found[words] = [evaluation.interval(*(values if values[1] == values[1] else values[:1])) for values in ends]
    found["Goal (%)"] = [
        "" if math.isnan(goal) or math.isnan(eer) else f"{100 * goal:g} or worse: {'missed' if missed else 'met'}"
        for goal, eer, missed in table[["goal", "eer", "missed"]].itertuples(index=False)
    ]
    return found


def headline(table: pd.DataFrame) -> list[dict]:
    """What the index of the report shows: shortcuts next to the detector.

    Parameters
    ----------
    table : what `beside` gave.

    Returns
    -------
    list of dict
        name, words, eer, eer_low, eer_high; rows without an error rate are left out.
    """
    rows = table.dropna(subset="eer")[["name", "words", "eer", "eer_low", "eer_high"]].to_dict("records")
    return [{key: value for key, value in row.items() if value == value} for row in rows]


def records(table: pd.DataFrame, *keys: str) -> dict:
    """The numbers of a table by the texts in its columns `keys`, for metrics/tables/audit.json: nothing where there is none.

    Parameters
    ----------
    table : a row a record; other columns of text are left out.
    keys : columns that name a record, the outer one first.

    >>> records(pd.DataFrame({"kind": ["a", "a"], "name": ["x", "y"], "eer": [0.1, float("nan")], "n": [3, 4]}), "kind", "name")
    {'a': {'x': {'eer': 0.1, 'n': 3}, 'y': {'n': 4}}}
    """  # noqa: E501
    found: dict = {}
    for row in table.to_dict("records"):
        place = found
        for name in (row[key] for key in keys):
            if name == name:  # a record that has no such name is one level higher
                place = place.setdefault(f"{name:g}" if isinstance(name, float) else str(name), {})
        numbers = {k: v for k, v in row.items() if k not in keys and not isinstance(v, str)}
        place |= {k: v for k, v in numbers.items() if v == v}
    return found
