"""`make verify`: whether results here equal those of a commit byte for byte, and if not, where they differ."""

import json
from collections import Counter
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import pandas as pd
from dvc.repo import Repo

from aasist_lib import evaluation
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline import compare, origin

EVAL, BOARD, RECORDINGS = "metrics/eval.json", "metrics/leaderboard.json", "metrics/tables/recordings.csv"
SYSTEM = "default"  # the leaderboard's system with the settings of params.yaml


def verify(root: Path, rev: str = "HEAD") -> tuple[bool, str]:
    """Compare the results in the working tree with those of a commit.

    Parameters
    ----------
    root
        Top folder of the project.
    rev
        Commit, branch, tag or experiment.

    Returns
    -------
    same
        Whether all outputs have the same bytes.
    words
        A few lines: the first outputs that differ, how many recordings, and whether EERs are within the range of other
        seeds.

    Raises
    ------
    UserError
        A stage is not up to date, or the commit has no results.
    """
    commit = compare.resolve(root, rev)
    order = list(compare.parse_yaml((root / "dvc.yaml").read_text("utf-8"))["stages"])
    _check_up_to_date(root, order)
    there, here = (compare.parse_yaml(compare.read_at(root, at, "dvc.lock")) for at in (commit, ""))
    if not there:
        raise UserError(f"{rev} has no results: it has no dvc.lock. Name a commit that has: git log -- dvc.lock")
    there, here = there["stages"], here["stages"]
    names = dict.fromkeys([*order, *there])
    outs = {name: [_outs(stages.get(name, {})) for stages in (there, here)] for name in names}
    differing = {name: found for name, sides in outs.items() if (found := _differing(*sides))}
    total, count = sum(len(a | b) for a, b in outs.values()), sum(map(len, differing.values()))
    if not count:
        return True, f"Identical to commit {commit[:7]} to the byte: all {total} outputs of {len(names)} stages."
    first, *later = differing
    lines = [
        f"Not identical to commit {commit[:7]}: {count} of {total} outputs differ.",
        f"First in stage {first}: {', '.join(differing[first])}. {_why(there.get(first, {}), here.get(first, {}))}",
    ]
    if later:
        lines.append(f"Then in {', '.join(later)}.")
    recordings, rates = ([compare.read_at(root, at, name) for at in (commit, "")] for name in (RECORDINGS, EVAL))
    if all(recordings):
        lines.append(_recordings(*map(_digests, recordings)))
    if all(rates):
        board = json.loads(compare.read_at(root, commit, BOARD) or '{"results": []}')
        lines += _error_rates(*map(json.loads, rates), board, origin.data_of(there))
    return False, "\n".join(lines)


def _check_up_to_date(root: Path, order: list[str]) -> None:
    with compare.one_line_errors(), Repo.open(str(root)) as repo:
        status = repo.status()
    if status:
        first = min(status, key=lambda name: order.index(name) if name in order else len(order))
        found = [path for one in status[first] if isinstance(one, dict) for paths in one.values() for path in paths]
        because = f" ({', '.join(found)})" if found else ""
        raise UserError(f"Cannot tell: stage {first} is not up to date{because}. Run `dvc repro`, then this again")


def _outs(stage: Mapping) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in stage.get("outs", [])}


def _inputs(stage: Mapping) -> dict:
    settings = {key: value for found in stage.get("params", {}).values() for key, value in found.items()}
    return {"its command": stage.get("cmd")} | {dep["path"]: dep["md5"] for dep in stage.get("deps", [])} | settings


def _differing(there: Mapping, here: Mapping) -> list[str]:
    """Names that are on one side only, or differ."""
    return [name for name in there | here if not (name in there and name in here and there[name] == here[name])]


def _why(there: Mapping, here: Mapping) -> str:
    """Whether code, settings or inputs explain the first difference."""
    found = _differing(_inputs(there), _inputs(here))
    return (
        f"What it depends on differs: {', '.join(found)}." if found else "Its code, settings and inputs are the same."
    )


def _digests(text: str) -> dict[tuple[str, str], Counter]:
    """Digests of recordings by kind and split, from the table of `corpora.digests`."""
    table = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False)
    return {(row.kind, row.split): Counter(row.digests.split()) for row in table.itertuples()}


def _recordings(there: Mapping[tuple, Counter], here: Mapping[tuple, Counter]) -> str:
    """How many recordings differ, by kind; compared as multisets, so that one insertion does not shift the rest."""
    counts = {}
    for group in there | here:
        before, now = (side.get(group, Counter()) for side in (there, here))
        counts[group] = max((before - now).total(), (now - before).total())
    named = [f"{kind} ({split}) {count:,}" for (kind, split), count in counts.items() if count]
    total = sum(found.total() for found in here.values())
    return f"Recordings: {sum(counts.values()):,} of {total:,} differ{': ' if named else ''}{', '.join(named)}."


def _error_rates(there: Mapping, here: Mapping, board: Mapping, data: str) -> list[str]:
    """Table of EERs here, of the commit, and the range over other seeds."""
    seeds = [row for row in board["results"] if row["system"] == SYSTEM]
    lines = ["EER (%)           here  commit  range"]
    for name, words in {"dev": "Dev", **evaluation.CONDITIONS}.items():
        if not (name in there and name in here):
            continue
        trained = [there[name], *(row["dev"] if name == "dev" else row["eval"][name] for row in seeds)]
        rates = [row["eer"] for row in trained]
        value, low, high = here[name]["eer"], min(rates), max(rates)
        verdict = "within" if low <= value <= high else "outside"
        numbers = f"{100 * value:>6.1f}{100 * rates[0]:>8.1f}  {100 * low:.1f} to {100 * high:.1f}"
        lines.append(f"{words:<16}{numbers}: {verdict}")
    others = f"{len(seeds)} with other seeds{', on another build of the corpus' if origin.stale(board, data) else ''}"
    return [*lines, f"The range is that of {len(seeds) + 1} trainings: the commit's, and {others}."]
