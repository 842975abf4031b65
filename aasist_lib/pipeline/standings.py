"""The leaderboard as a table: results of `make leaderboard`, one row per system."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def table(results: Sequence[Mapping]) -> pd.DataFrame:
    """One row per system, sorted by EER on dev: means over seeds of all measures, _low and _high, and EER _spread."""
    names = dict.fromkeys(result["system"] for result in results)
    found = pd.DataFrame([_row(name, [one for one in results if one["system"] == name]) for name in names])
    return found.sort_values("dev_eer", ignore_index=True, kind="stable") if names else found


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
    """Means of measures and of the ends of their intervals: eer_low with the pattern {}_all is eer_all_low."""
    row = {}
    for key in (key for key in group[0] if not key.startswith("n_") and key != "condition"):
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
