"""The page of the leaderboard: what `make leaderboard` found, as tables, figures and sentences."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def table(results: Sequence[Mapping]) -> pd.DataFrame:
    """One row a system: means over its seeds, and how far apart those are.

    Parameters
    ----------
    results : sequence of mapping
        What `leaderboard.run` gave.

    Returns
    -------
    DataFrame
        system, about, kind, seeds (how many), parameters, minutes, milliseconds; n_dev and n_eval, utterances measured
        on; dev_eer and other measures of dev; for each condition of eval the measures, such as eer_unseen, and the
        equal error rate on the utterances that all systems were measured on, share_unseen. Each with _low and _high
        (means of the intervals' ends) and, of equal error rates, _spread (largest less smallest over the seeds).
        Fractions. Sorted by dev_eer, by which one chooses; empty without results.
    """
    rows = [_row(name, group) for name, group in _by_system(results).items()]
    found = pd.DataFrame(rows)
    return found.sort_values("dev_eer", ignore_index=True, kind="stable") if rows else found


def _by_system(results: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    names = dict.fromkeys(result["system"] for result in results)
    return {name: [result for result in results if result["system"] == name] for name in names}


def _row(name: str, group: list[Mapping]) -> dict:
    first = group[0]
    row = {"system": name, "about": first["about"], "kind": first["kind"], "seeds": len(group)}
    row |= {key: _mean(one[key] for one in group) for key in ("parameters", "minutes", "milliseconds")}
    for split, counted in (("dev", first["dev"]), ("eval", first["eval"].get("all", {}))):
        row[f"n_{split}"] = counted.get("n_bonafide", 0) + counted.get("n_spoof", 0)
    row |= _means([one["dev"] for one in group], "dev_{}")
    for condition in first["eval"]:
        row |= _means([one["eval"][condition] for one in group], f"{{}}_{condition}")
        if condition in first["share"]:
            row |= _means([one["share"][condition] for one in group], f"share_{condition}")
    return row


def _means(group: list[Mapping], pattern: str) -> dict:
    """Of measures and the ends of their intervals: eer_low under the pattern {}_all is eer_all_low."""
    row = {}
    for key in (key for key in group[0] if not key.startswith("n_")):
        stem, _, end = key.rpartition("_")
        name = f"{pattern.format(stem)}_{end}" if end in ("low", "high") else pattern.format(key)
        values = [one.get(key) for one in group]
        row[name] = _mean(values)
        if key == "eer":
            row[f"{name}_spread"] = max(values) - min(values)
    return row


def _mean(values) -> float:
    numbers = [float(value) for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else math.nan
