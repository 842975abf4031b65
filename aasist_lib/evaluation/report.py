"""What `scorefiles.measure` found, as text for people and as JSON."""

import json
import math

from aasist_lib import evaluation

MARK = "!! ALARM:"


def as_json(found: dict) -> str:
    """One strict JSON document: tables are lists of records, and what is not finite is null."""

    def plain(value):
        if hasattr(value, "to_dict"):  # a table
            value = value.to_dict(orient="records")
        if isinstance(value, dict):
            return {str(key): plain(x) for key, x in value.items()}
        if isinstance(value, list):
            return [plain(x) for x in value]
        value = value.item() if hasattr(value, "item") else value
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_text(found: dict) -> str:
    """What was read, alarms, tables, and the meaning of the first number in words."""
    rows = found["metrics"]
    subset = f", subset {found['subset']}" if found["subset"] else ""
    lines = [
        f"{found['scores']} against {found['keys']} ({found['layout']}{subset}): {found['trials']} trials, "
        f"{found['bonafide']} bona fide and {found['spoof']} spoofed"
    ]
    if found["left_out"]:
        what = f"the subset {found['subset']}" if subset else "the keys"
        lines += [f"{found['left_out']} scores are of trials outside {what}, and left out"]
    lines += [f"{MARK} {alarm}" for alarm in found["alarms"]]
    lines += ["", *_aligned(_headline(rows)), ""]
    if found["intervals_over"]:
        samples = found["bootstrap"]["samples"]
        lines += [f"In brackets: 95 % intervals by {samples} samples of {found['intervals_over']}.", ""]
    for name in ("by_attack", "by_codec"):
        if len(found[name]):
            lines += [*_aligned(evaluation.readable(found[name].replace("", "-"))), ""]
    if len(found["by_attack_and_codec"]):
        table = found["by_attack_and_codec"]
        shown = {"EER (%)": table["attack"]}
        for codec in table.columns[1:]:
            shown[codec or "-"] = ["" if math.isnan(x) else f"{100 * x:.1f}" for x in table[codec]]
        lines += [*_aligned(shown), ""]
    return "\n".join([*lines, _meaning(rows["all"])]) + "\n"


def _headline(rows: dict) -> dict:
    """Columns of the first table: measures by condition, and t-DCF of all trials below."""
    columns = {name: list(column) for name, column in evaluation.headline_table(rows).items()}
    for year in (2019, 2021):
        key = f"min_tdcf_{year}"
        if key in rows["all"]:
            ends = (rows["all"].get(key + end) for end in ("", "_low", "_high"))
            said = {"Measure": f"min t-DCF, form of {year}"}
            said[evaluation.CONDITIONS["all"]] = evaluation.interval(*ends, percent=False)
            for name, column in columns.items():
                column.append(said.get(name, ""))
    return columns


def _meaning(row: dict) -> str:
    percent = f"{100 * row['eer']:.1f}"
    said = (
        f"EER {percent} %: with the threshold where both errors are equally frequent, {percent} of 100 real voices are "
        f"called fake, and {percent} of 100 fakes pass for real. "
    )
    if row["cllr"] > 1:
        return said + (
            f"Cllr {row['cllr']:.2f} is above 1: these scores are not calibrated LLRs (natural-log likelihood ratios), "
            "so that actDCF and Cllr say nothing about how well they tell real from fake."
        )
    return said + "actDCF and Cllr take the scores as natural-log likelihood ratios, as they are."


def _aligned(table) -> list[str]:
    """Align a table of text: the first column to the left, the others to the right."""
    columns = [[str(name), *map(str, table[name])] for name in table]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join([row[0].ljust(widths[0]), *(x.rjust(width) for x, width in zip(row[1:], widths[1:], strict=True))])
        for row in zip(*columns, strict=True)
    ]
