"""Leaderboard page: results of `make leaderboard` as tables, figures and sentences."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from aasist_lib import evaluation, plots


def table(results: Sequence[Mapping]) -> pd.DataFrame:
    """One row per system, sorted by EER on dev: means over seeds of all measures, _low and _high, and EER _spread."""
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


# Content of the page.

KINDS = {"published": "published weights, not trained here", "baseline": "baseline without a network", "network": ""}
CLAIMS = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1"}
COMMAND = "make leaderboard"


def values(board: Mapping, sentence: str = "", data: str = "") -> dict:
    """Content of the page, from metrics/leaderboard.json, the sentence on the default, and the corpus hash."""
    results, systems = board["results"], board.get("systems", {})
    ranked = table(results)
    names = list(ranked["system"]) if len(ranked) else []
    by_system = _by_system(results)
    page = {"sentence": sentence, "command": COMMAND, "missing": [name for name in systems if name not in names]}
    page |= {"lead": "Nothing has been measured yet.", "provenance": _provenance(board)}
    page["stale"] = stale(board, data)
    if not names:
        return page
    runs = [
        {"system": one["system"]} | {f"eer_{name}": row["eer"] for name, row in one["eval"].items()} for one in results
    ]
    conditions = [name for name in evaluation.CONDITIONS if name in results[0]["eval"]]
    return page | {
        "lead": _lead(ranked, conditions),
        "headings": [f"EER, {evaluation.CONDITIONS[name].lower()} (%)" for name in conditions],
        "errors": [_errors(row, by_system[row["system"]], conditions) for row in ranked.to_dict("records")],
        "costs": [_costs(row, by_system[row["system"]]) for row in ranked.to_dict("records")],
        "dev": [_on_dev(row) for row in ranked.to_dict("records")],
        "names": names,
        "figures": [_standings(ranked, pd.DataFrame(runs), conditions), *_cost(ranked)],
        "attacks": _by_attack(names, by_system),
        "shares": _shares(ranked, by_system, conditions),
        "claims": [
            _claimed(name, systems[name], by_system[name]) for name in names if "claimed" in systems.get(name, {})
        ],
    }


def stale(board: Mapping, data: str, command: str = COMMAND) -> str:
    """Warn that results are of another build of the corpus than `data` (a hash); empty if not, or unknown."""
    measured = board.get("data")
    if not (data and measured) or measured == data:
        return ""
    of = f"another corpus, or on an earlier build of this one (data md5 {measured})"
    return f"These rows were measured on {of}; `{command}` measures them anew."


def stages(root: Path) -> dict:
    """Stages in dvc.lock by name; empty without that file."""
    lock = root / "dvc.lock"
    return YAML(typ="safe").load(lock)["stages"] if lock.is_file() else {}


def data_of(stages: Mapping) -> str:
    """Hash of the corpus that the features were made from, by the stages of dvc.lock; empty if unknown."""
    deps = stages.get("extract", {}).get("deps", [])
    return next((dep["md5"] for dep in deps if dep["path"] == "data"), "")


def _lead(ranked: pd.DataFrame, conditions: Sequence[str]) -> str:
    best = ranked.iloc[0]
    kinds = {"known": "with kinds of fakes that it has heard", "unseen": "with kinds that it has not", "all": "in all"}
    shown = [name for name in conditions if name != "all"] or ["all"]
    errs = " and ".join(
        f"in {_percent(best[f'eer_{name}'])} of cases {kinds[name]}{_within(best, f'eer_{name}')}" for name in shown
    )
    of = f"Of {len(ranked)} systems, {best['system']} errs least" if len(ranked) > 1 else f"{best['system']} errs"
    return (
        f"{of} on dev, the part of the corpus that one chooses by: in {_percent(best['dev_eer'])} of cases"
        f"{_within(best, 'dev_eer')} when both kinds of error are equally frequent. On eval, by which nobody chooses, "
        f"it errs {errs}; guessing would err in 50\u00a0%."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _within(row: Mapping, key: str) -> str:
    low, high = row.get(f"{key}_low", math.nan), row.get(f"{key}_high", math.nan)
    return "" if math.isnan(low) else f" ({_percent(low)} to {_percent(high)})"


def _cell(row: Mapping, key: str, *, percent: bool = True, runs: Sequence[float] = ()) -> tuple[str, str, str]:
    """A number, its interval, and the range of several runs, as text."""
    value = row.get(key, math.nan)
    text, _, inside = evaluation.interval(
        value, *(None if math.isnan(x) else x for x in (row.get(f"{key}_{end}", math.nan) for end in ("low", "high"))),
        percent=percent,
    ).partition(" (")  # fmt: skip
    reach = f"seeds {100 * min(runs):.1f} to {100 * max(runs):.1f}" if len(runs) > 1 else ""
    return text, inside.removesuffix(")"), reach


def _named(row: Mapping) -> dict:
    mark = KINDS[row["kind"]]
    if row["kind"] == "published":
        mark += f"; on {row['n_dev']:,} recordings of dev and {row['n_eval']:,} of eval"
    return {"name": row["system"], "about": row["about"], "mark": mark}


def _errors(row: Mapping, group: Sequence[Mapping], conditions: Sequence[str]) -> dict:
    cells = [_cell(row, "dev_eer", runs=[one["dev"]["eer"] for one in group])]
    cells += [_cell(row, f"eer_{name}", runs=[one["eval"][name]["eer"] for one in group]) for name in conditions]
    last = "all" if "all" in conditions else conditions[-1]
    cells += [_cell(row, f"{name}_{last}", percent=False) for name in ("min_dcf", "cllr")]
    return _named(row) | {"cells": [*cells, _cell(row, f"accuracy_{last}")]}


def _on_dev(row: Mapping) -> dict:
    cells = [
        _cell(row, f"dev_{name}", percent=name in ("eer", "accuracy"))
        for name in ("eer", "min_dcf", "cllr", "accuracy")
    ]
    return _named(row) | {"cells": cells}


def _costs(row: Mapping, group: Sequence[Mapping]) -> dict:
    def number(key: str, form: str) -> tuple[str, str, str]:
        return (form.format(row[key]) if not math.isnan(row[key]) else "", "", "")

    measured_on = f"{row['n_dev']:,} and {row['n_eval']:,}"
    cells = [number("parameters", "{:,.0f}"), number("minutes", "{:.1f}"), number("milliseconds", "{:.0f}")]
    return _named(row) | {"cells": [*cells, (str(len(group)), "", ""), (measured_on, "", "")]}


def _standings(ranked: pd.DataFrame, runs: pd.DataFrame, conditions: Sequence[str]) -> dict:
    shown = [name for name in conditions if name != "all"] or ["all"]
    best = {name: ranked.loc[ranked[f"eer_{name}"].idxmin()] for name in shown}
    lowest = "; ".join(
        f"with {evaluation.CONDITIONS[name].lower()} lowest for {row['system']}, {_percent(row[f'eer_{name}'])}"
        f"{_within(row, f'eer_{name}')}"
        for name, row in best.items()
    )
    return plots.embedded(
        plots.standings(ranked, runs),
        f"Equal error rates on eval of {len(ranked)} systems with their intervals, best on dev first: {lowest}.",
        "Equal error rates on eval: dots are means over seeds, thin strokes single seeds, bars 95 % intervals (means "
        "of the seeds'), crosses dev. Left is better. The order is that of dev.",
    )


def _cost(ranked: pd.DataFrame) -> list[dict]:
    timed = ranked["milliseconds"].notna() & ranked.get("eer_all", pd.Series(math.nan, ranked.index)).notna()
    if timed.sum() < 2:
        return []
    key = ", ".join(f"{number + 1} {name}" for number, name in enumerate(ranked["system"]) if timed[number])
    quickest, best = (ranked.loc[ranked.loc[timed, column].idxmin()] for column in ("milliseconds", "eer_all"))
    alt = (
        f"Equal error rate on eval against milliseconds for 4 s of speech: quickest {quickest['system']}, "
        f"{quickest['milliseconds']:.0f} ms and {_percent(quickest['eer_all'])}; lowest error {best['system']}, "
        f"{best['milliseconds']:.0f} ms and {_percent(best['eer_all'])}."
    )
    untimed = [name for number, name in enumerate(ranked["system"]) if not timed[number]]
    without = f" Not timed: {', '.join(untimed)}." if untimed else ""
    caption = f"Lower and further left is better; the line joins those that nothing beats at both. {key}.{without}"
    return [plots.embedded(plots.cost(ranked), alt, caption)]


def _by_attack(names: Sequence[str], by_system: Mapping[str, Sequence[Mapping]]) -> list[dict]:
    """Groups of rows: one row per attack, one cell per system (text, interval, share for the colour)."""
    found: dict = {}
    for name in names:
        for one in by_system[name]:
            for attack, row in one["by_attack"].items():
                found.setdefault((row["condition"], attack), {}).setdefault(name, []).append(row)
    groups = []
    for condition in dict.fromkeys(condition for condition, _ in sorted(found)):
        rows = []
        for (of, attack), runs in sorted(found.items()):
            if of != condition:
                continue
            means = {name: _means(group, "{}") for name, group in runs.items()}
            cells = [
                _cell(means[name], "eer")[:2] + (means[name]["eer"],) if name in means else ("", "", 0)
                for name in names
            ]
            most = max(row["n_spoof"] for group in runs.values() for row in group)
            rows.append({"attack": attack, "fakes": most, "cells": cells})
        groups.append({"words": evaluation.CONDITIONS.get(condition, "Attacks"), "rows": rows})
    return groups


def _shares(ranked: pd.DataFrame, by_system: Mapping, conditions: Sequence[str]) -> dict | None:
    """All systems on the subset that published weights were scored on; None if there are none."""
    if not (ranked["kind"] == "published").any():
        return None
    counted = by_system[ranked["system"].iloc[0]][0]["share"]
    of = counted.get("all") or next(iter(counted.values()))
    rows = [
        _named(row) | {"cells": [_cell(row, f"share_{name}") for name in conditions]}
        for row in ranked.to_dict("records")
    ]
    slowest = ranked.loc[ranked["kind"] == "published", "milliseconds"].max()
    return {"rows": rows, "count": of["n_bonafide"] + of["n_spoof"], "milliseconds": f"{slowest:.0f}"}


def _claimed(name: str, system: Mapping, group: Sequence[Mapping]) -> dict:
    """Published claims beside measurements here, at the threshold chosen on dev."""
    condition = "all" if "all" in group[0]["eval"] else next(iter(group[0]["eval"]))
    means = _means([one["eval"][condition] for one in group], "{}")
    rows = [
        {"name": words, "claimed": f"{system['claimed'][key]:.2f}", "cell": _cell(means, key)}
        for key, words in CLAIMS.items()
        if key in system["claimed"]
    ]
    said = {key: str(system["claimed"].get(key, "")) for key in ("of", "note")}
    return {"system": name, "rows": rows, "file": system.get("file", ""), **said}


def _provenance(board: Mapping) -> list[tuple[str, str]]:
    results = board["results"]

    def different(values) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values if value))

    rows = [("data", f"md5 {board['data']}" if board.get("data") else "")]
    rows.append(("waveforms of it", different(one["corpus"] for one in results)))
    rows += [
        (f"{split}", " and ".join(f"{count:,} {label}" for label, count in sorted(labels.items())))
        for split, labels in sorted(board.get("counts", {}).items())
        if split in ("train", "dev", "eval")
    ]
    rows.append(("code, at commit", different(one.get("commit") for one in results)))
    made = [one.get("made_with", {}) for one in results]
    rows.append(("with", different(", ".join(f"{k} {v}" for k, v in one.items() if k != "processor") for one in made)))
    rows.append(("on", different(one.get("processor") for one in made)))
    return [(name, value) for name, value in rows if value]
