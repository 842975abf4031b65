"""Rows of `Detector.score` as a table for people, as CSV and as JSON."""

import json
import math

from aasist_lib.detector.detector import verbal_llr

DIGITS = {"seconds": 3, "llr": 6}


def as_table(rows, detector) -> str:
    """Aligned columns, then the meaning of the first LLR and the decision rule in words."""
    width = max([len("file"), *(len(path) for path in rows["path"])])
    lines = [f"{'file':<{width}}  seconds     llr  decision"]
    for row in rows.itertuples():
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.2f}"
        said = f"{row.llr:+8.2f}  {row.decision}" if not row.error else f"{'':>8}  not scored: {row.error}"
        lines.append(f"{row.path:<{width}} {seconds:>8}{said}")
    lines += [""]
    scored = rows[rows["error"] == ""]
    if len(scored):
        path, llr = scored["path"].iloc[0], float(scored["llr"].iloc[0])
        lines += [
            f"{path}, llr {llr:+.2f}: such a recording is {verbal_llr(llr)}; this is not a probability, and other "
            "kinds of fakes or recordings can mislead it. "
            f"Decision: spoof below {detector.threshold:+.2f} (policy {detector.policy})."
        ]
    return "\n".join(lines) + "\n"


def as_csv(rows, detector=None) -> str:
    return rows.round(DIGITS).to_csv(index=False, lineterminator="\n")


def as_json(rows, detector=None) -> str:
    rows = rows.round(DIGITS).astype(object)
    return json.dumps(rows.where(rows.notna(), None).to_dict("records"), indent=2, ensure_ascii=False) + "\n"
