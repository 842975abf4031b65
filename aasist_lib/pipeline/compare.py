"""Compares two runs: commits, experiments, or the working tree.

Settings and metrics are in git for every commit. Scores are in DVC's cache, which may lack those of old runs: what
needs them is then left out, with a note.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import dvc.api
import pandas as pd
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.experiments.utils import exp_refs
from dvc.scm import NoSCM, RevError, resolve_rev
from ruamel.yaml import YAML, YAMLError

from aasist_lib import evaluation, metrics
from aasist_lib.base import files
from aasist_lib.base.errors import UserError

WORKSPACE = "workspace"  # DVC's name for the working tree
PARAMS, HEADLINE, SCORES = "params.yaml", "metrics/eval.json", "scores/eval.csv"
TABLE = "metrics/tables/eval.csv"  # the numbers of HEADLINE and more, with intervals
# columns needed for a comparison
NEEDED = ["utt_id", "label", "speaker", "attack", "condition", "source", "llr", "decision"]
# of evaluation.MEASURES: measures compared on the same trials; for all, lower is better
PAIRED = ("eer", "min_dcf", "act_dcf", "cllr", "min_cllr")
SURE = 0.9  # from this probability on, `verdict` names a winner
HOW_TO_READ = (
    "Less is better in every row. In brackets, 95 % intervals of the difference: speakers and attacks are drawn anew, "
    "the same for both runs; the probability is the share of draws in which that run is the better one, brought nearer "
    "to one half where speakers or attacks are few."
)


@dataclass(frozen=True)
class Run:
    """Settings, metrics and scores of a run."""

    rev: str  # as given: branch, tag, commit, experiment or "workspace"
    commit: str = ""  # first seven digits of the hash; empty for the workspace
    params: Mapping[str, Any] = field(default_factory=dict)  # by dotted name
    headline: Mapping[str, Mapping] = field(default_factory=dict)  # condition -> measures, as `evaluation.headline`
    scores: pd.DataFrame | None = None  # one row per trial of eval
    data: str = ""  # hash of the corpus
    note: str = ""  # why there are no scores


class Pair(NamedTuple):
    """Scores of two runs on the same trials in the same order (empty if not comparable), and notes."""

    first: pd.DataFrame
    second: pd.DataFrame
    notes: list[str]


def runs(root: Path, num: int = 50) -> pd.DataFrame:
    """List runs to choose from, newest first: workspace, HEAD, experiments, and commits that changed metrics."""
    if not _has_history(root):
        return pd.DataFrame([{"Run": WORKSPACE, "What": "the working tree"} | _main(load(root, WORKSPACE).headline)])
    with one_line_errors():
        table = dvc.api.exp_show(repo=str(root), num=num)
        with Repo.open(str(root)) as repo:
            subjects = {
                row["rev"]: repo.scm.resolve_commit(row["rev"]).message.partition("\n")[0]
                for row in table
                if row["typ"] == "baseline" and row["rev"] != WORKSPACE
            }
    rows, base = [], None
    for row in table:
        is_commit = row["typ"] == "baseline"
        if is_commit:
            base = row["rev"]
            name, what = base, subjects.get(base, "the working tree")
        else:  # experiments follow their base commit
            name, what = row["Experiment"] or row["rev"], f"experiment on {base}"
        rows.append((is_commit, {"Run": name, "What": what}, _main(_unflattened(row))))
    return pd.DataFrame(_without_repeats(rows))


def _without_repeats(rows: list[tuple[bool, dict, dict]]) -> list[dict]:
    """Of successive commits with equal numbers keep the oldest; workspace, HEAD and experiments stay."""
    commits = [(about["Run"], numbers) for is_commit, about, numbers in rows if is_commit]
    shown = {name for name, _ in commits[:2]}
    for (name, numbers), (_, before) in zip(commits, [*commits[1:], ("", None)], strict=True):
        if any(numbers.values()) and numbers != before:
            shown.add(name)
    return [about | numbers for is_commit, about, numbers in rows if not is_commit or about["Run"] in shown]


def _main(headline: Mapping[str, Mapping]) -> dict[str, str]:
    """EER and minDCF of known and unseen attacks, as text, without intervals."""
    return {
        f"{evaluation.CONDITIONS[condition]}: {name}": evaluation.cell({key: headline.get(condition, {}).get(key)}, key)
        for condition in ("known", "unseen")
        for key, name in (("eer", "EER (%)"), ("min_dcf", "minDCF"))
    }


def _unflattened(row: Mapping[str, Any]) -> dict[str, dict]:
    """Measures by condition from a row of `dvc.api.exp_show`, with columns such as `known.eer`."""
    # DVC adds the file's name to a column that another file or the settings have too
    measures = {condition: {} for condition in evaluation.CONDITIONS}
    for column, value in row.items():
        condition, _, measure = column.removeprefix(f"{HEADLINE}:").partition(".")
        if condition in measures and isinstance(value, float | int):
            measures[condition][measure] = value
    return measures


def load(root: Path, rev: str = WORKSPACE) -> Run:
    """Load settings, metrics and scores of a branch, tag, commit or experiment; "workspace" or "" is the working tree.

    `UserError` where it does not exist, its settings or metrics cannot be read, or the folder has no history.
    """
    rev = rev or WORKSPACE
    commit = "" if rev == WORKSPACE else resolve(root, rev)
    settings, data = (read_at(root, commit, name) for name in (PARAMS, "data.dvc"))
    scores, note = _scores(root, rev, commit)
    try:
        outs = (parse_yaml(data) or {}).get("outs", [{}])
        return Run(
            rev=rev,
            commit=commit[:7],
            params=dict(_flat(parse_yaml(settings) or {})),
            headline=_headline(root, commit),
            scores=scores,
            data=outs[0].get("md5", ""),
            note=note,
        )
    except (YAMLError, ValueError, AttributeError) as error:
        raise UserError(f"{rev}: its settings or metrics cannot be read: {' '.join(str(error).split())}") from None


def _headline(root: Path, commit: str) -> dict[str, dict]:
    """Measures by condition, with intervals where they are recorded."""
    if table := read_at(root, commit, TABLE):
        return evaluation.apart(pd.read_csv(StringIO(table)))[0]
    content = json.loads(read_at(root, commit, HEADLINE) or "{}")
    return {condition: content[condition] for condition in evaluation.CONDITIONS if condition in content}


def resolve(root: Path, rev: str) -> str:
    """Hash of a commit or experiment."""
    if not _has_history(root):
        raise UserError(f"{root} is no repository of git and DVC: there is '{WORKSPACE}' to compare and nothing else")
    with one_line_errors(), Repo.open(str(root)) as repo:
        try:
            return resolve_rev(repo.scm, rev)
        except RevError:
            names = [WORKSPACE, "HEAD", *repo.scm.list_branches(), *repo.scm.list_tags()]
            names += [ref.name for ref in exp_refs(repo.scm) if ref.name]
            raise UserError(f"there is no commit or experiment '{rev}': {files.nearest(rev, names)}") from None


def _has_history(root: Path) -> bool:
    """Whether the folder is a DVC repository with git; the copy of `make quick` has none."""
    if not (root / ".dvc").is_dir():
        return False
    with one_line_errors(), Repo.open(str(root)) as repo:
        return not isinstance(repo.scm, NoSCM)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors of DVC into a UserError of one line."""
    try:
        yield
    except DvcException as error:
        raise UserError(f"DVC: {' '.join(str(error).split())}") from None


def read_at(root: Path, commit: str, name: str) -> str | None:
    """Text of a file, from git or from DVC's cache; None if in neither."""
    try:
        if not commit:
            return (root / name).read_text(encoding="utf-8")
        return dvc.api.read(name, repo=str(root), rev=commit, encoding="utf-8")
    except (OSError, DvcException):
        return None


def _scores(root: Path, rev: str, commit: str) -> tuple[pd.DataFrame | None, str]:
    """Scores of a run, or None and the reason."""
    text = read_at(root, commit, SCORES)
    if text is None:
        return None, _why_no_scores(rev, commit, read_at(root, commit, "dvc.lock") or "")
    scores = pd.read_csv(
        StringIO(text), dtype=dict.fromkeys(["utt_id", "speaker", "attack"], str), keep_default_na=False
    )
    missing = ", ".join(column for column in NEEDED if column not in scores)
    if missing:
        return None, f"The scores of {rev} have no column {missing}: another version of the project wrote them."
    if not pd.api.types.is_numeric_dtype(scores["llr"]):
        return None, f"The scores of {rev} are not all numbers."
    return scores, ""


def _why_no_scores(rev: str, commit: str, lock: str) -> str:
    if not commit:
        return f"There is no {SCORES} in the workspace: run `dvc repro`, or `dvc checkout` for those of the last run."
    if f"path: {SCORES}" not in lock:
        return f"{rev} has no scores: nothing was evaluated there."
    return (
        f"The scores of {rev} are not in this machine's cache: `dvc fetch --all-commits` where there is a remote; else "
        f"`git switch -c again {commit[:7]}`, `dvc repro`, commit, and compare with the branch."
    )


def parse_yaml(text: str | None) -> Any:
    return YAML(typ="safe", pure=True).load(text) if text else None


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def params(a: Run, b: Run) -> pd.DataFrame:
    """Settings that differ, as text: Setting and a column per run, empty where a run lacks it."""
    names = sorted(a.params.keys() | b.params.keys())
    differ = [name for name in names if a.params.get(name, _text) != b.params.get(name, _text)]
    columns = {label: [_text(run.params.get(name, "")) for name in differ] for label, run in _labelled(a, b).items()}
    return pd.DataFrame({"Setting": differ} | columns, dtype=object)


def headlines(a: Run, b: Run) -> dict[str, pd.DataFrame]:
    """For each condition (in words) a table of measures, as text, with a column per run."""
    tables = {}
    for condition, words in evaluation.CONDITIONS.items():
        rows = {label: run.headline.get(condition, {}) for label, run in _labelled(a, b).items()}
        if any(rows.values()):
            tables[words] = evaluation.headline_table(rows)
    return tables


def match(a: Run, b: Run) -> Pair:
    """Trials scored by both runs, in b's order, with b's speaker, attack and condition; empty if not comparable."""
    notes = []
    if a.data and b.data and a.data != b.data:
        notes.append(
            "The corpora differ (data.dvc), so that differences may be theirs: an utterance of the same name can be "
            "another recording."
        )
    reason = "" if a.note or b.note else _not_comparable(a, b)
    if a.note or b.note or reason:
        nothing = pd.DataFrame(columns=NEEDED)
        return Pair(nothing, nothing, notes + list(filter(None, dict.fromkeys((a.note, b.note, reason)))))
    first, second = (run.scores.set_index("utt_id") for run in (a, b))
    both = second.index[second.index.isin(first.index)]
    for name, scores in zip(_labelled(a, b), (first, second), strict=True):
        if len(scores) > len(both):
            alone = len(scores) - len(both)
            notes.append(f"{alone} of {len(scores)} utterances are in {name} alone and left out below.")
    first, second = first.loc[both], second.loc[both]
    groups = ["speaker", "attack", "condition"]
    if (first[groups] != second[groups]).any(axis=None):
        notes.append(f"Speakers, attacks or conditions were named anew: those of {list(_labelled(a, b))[1]} count.")
    first = first.assign(**{column: second[column] for column in groups})
    return Pair(first.reset_index(), second.reset_index(), notes)


def _not_comparable(a: Run, b: Run) -> str:
    """Why the scores of two runs cannot be compared trial by trial; empty if they can."""
    first, second = (run.scores.set_index("utt_id")["label"] for run in (a, b))
    for name, labels in zip(_labelled(a, b), (first, second), strict=True):
        if not labels.index.is_unique:
            twice = labels.index[labels.index.duplicated()][0]
            return f"{name} has scored {twice} twice: nothing to compare trial by trial."
    both = second.index[second.index.isin(first.index)]
    if both.empty:
        return "The runs have no utterance in common: nothing to compare trial by trial."
    disagree = both[first.loc[both] != second.loc[both]]
    if len(disagree):
        return (
            f"The runs disagree about what is real in {len(disagree)} of {len(both)} utterances, such as "
            f"{disagree[0]}: these are different trials."
        )
    return ""


def paired(a: Run, b: Run, pair: Pair) -> pd.DataFrame:
    """Differences (second - first) by condition and measure, with 95 % interval and probability that b is better."""
    # speakers and attacks are resampled, the same for both runs, so that trials hard for both do not count
    options = {"seed": b.params.get("seed", 0), "replicates": b.params.get("evaluate.bootstrap", 1000)}
    names = ("prior_spoof", "cost_miss", "cost_false_alarm")
    costs = {name: b.params[f"calibrate.{name}"] for name in names if f"calibrate.{name}" in b.params}

    def statistic(counts):
        return {
            "eer": counts.eer().value,
            "min_dcf": counts.min_dcf(**costs).value,
            "act_dcf": counts.act_dcf(**costs),
            "cllr": counts.cllr(),
            "min_cllr": counts.min_cllr(),
        }

    rows = []
    for condition in evaluation.CONDITIONS:
        trials = [evaluation.select(table, condition) for table in (pair.first, pair.second)]
        if trials[1]["label"].nunique() < 2:
            continue
        classes = list(map(evaluation.split_classes, trials))
        first, second = (statistic(metrics.Counts.of(*scores)) for scores in classes)
        differences = metrics.paired(statistic, *classes, clusters=evaluation.clusters_of(trials[1]), **options)
        for measure in PAIRED:
            row = {"condition": condition, "measure": measure, "first": first[measure], "second": second[measure]}
            rows.append(row | differences[measure]._asdict())
    return pd.DataFrame(rows, columns=["condition", "measure", "first", "second", *metrics.Difference._fields])


def verdict(probability: float, low: float, high: float, names: tuple[str, str] = ("A", "B")) -> str:
    """Put a paired difference into words; `probability` that the second run is better, and the ends of the interval.

    >>> verdict(0.93, -0.04, 0.01), verdict(0.031, -0.01, 0.09), verdict(0.6, -0.02, 0.01)
    ('B is better with probability 0.93', 'A is better with probability 0.97', 'no telling')
    >>> verdict(1.0, -0.2, -0.1), verdict(0.5, 0.0, 0.0)
    ('B is better with probability above 0.99', 'no difference')
    """
    if low == high == 0:
        return "no difference"
    better, sure = (names[1], probability) if probability >= 0.5 else (names[0], 1 - probability)
    if sure < SURE:
        return "no telling"
    return f"{better} is better with probability {'above 0.99' if sure > 0.99 else f'{sure:.2f}'}"


def paired_table(a: Run, b: Run, differences: pd.DataFrame) -> pd.DataFrame:
    """The result of `paired` as a table of text."""
    names = tuple(_labelled(a, b))
    rows = []
    for row in differences.itertuples():
        words, percent = evaluation.MEASURES[row.measure]
        first, second = (evaluation.interval(value, percent=percent) for value in (row.first, row.second))
        cells = [evaluation.CONDITIONS[row.condition], words, first, second]
        cells.append(evaluation.interval(row.value, row.low, row.high, percent=percent))
        cells.append(verdict(row.probability, row.low, row.high, names))
        rows.append(cells)
    return pd.DataFrame(rows, columns=["Condition", "Measure", *names, "Difference", "In words"])


def changed(pair: Pair) -> pd.DataFrame:
    """Trials that the runs decide differently: first "broken" (now wrong), then "fixed", by decreasing LLR change."""
    first, second, _ = pair
    both = second[["utt_id", "label", "condition", "attack", "speaker", "source"]].assign(
        llr_first=first["llr"], llr_second=second["llr"]
    )
    both["change"] = (second["decision"] == second["label"]).map({True: "fixed", False: "broken"})
    both["moved"] = (both["llr_second"] - both["llr_first"]).abs()
    both = both[(first["decision"] != second["decision"]).to_numpy()]
    both = both.sort_values(["change", "moved", "utt_id"], ascending=[True, False, True])
    return both.drop(columns="moved").reset_index(drop=True)


def changed_by_attack(pair: Pair) -> pd.DataFrame:
    """Numbers of broken and fixed decisions by attack and of bona fide trials, most losses first."""
    changes = changed(pair).set_index("utt_id")["change"]
    table = pair.second[["utt_id", "label", "condition", "attack"]].copy()
    real = table["label"] == "bonafide"
    table.loc[real, "condition"], table.loc[real, "attack"] = "", "real voices"
    table["change"] = table["utt_id"].map(changes)
    table = table.assign(broken=table["change"] == "broken", fixed=table["change"] == "fixed")
    table = table.groupby(["condition", "attack"], as_index=False, sort=True).agg(
        trials=("utt_id", "size"), broken=("broken", "sum"), fixed=("fixed", "sum")
    )
    table = table[table["broken"] + table["fixed"] > 0]
    table = table.assign(lost=table["broken"] - table["fixed"])
    table = table.sort_values(["lost", "broken", "attack"], ascending=[False, False, True])
    return table.drop(columns="lost").rename(columns=str.capitalize).reset_index(drop=True)


def summary_line(pair: Pair) -> str:
    """One sentence on how many decisions changed."""
    if pair.second.empty:
        return "Decisions cannot be compared"
    counts = changed(pair)["change"].value_counts()
    broken, fixed = (int(counts.get(change, 0)) for change in ("broken", "fixed"))
    if not broken + fixed:
        return f"No decision of {len(pair.second)} changed"
    return f"{broken + fixed} decisions of {len(pair.second)} changed: {fixed} fixed, {broken} broken"


def changed_table(a: Run, b: Run, changes: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """The result of `changed` as text, with the first `n` of the broken and of the fixed."""
    table = evaluation.readable(changes.groupby("change").head(n).reset_index(drop=True))
    first, second = (f"LLR, {name}" for name in _labelled(a, b))
    return table.rename(columns={"llr_first": first, "llr_second": second, "change": "Now"})


def curves(a: Run, b: Run) -> dict[str, tuple]:
    """Input of `plots.det`: "run, condition" -> (bona fide, spoof) LLRs of all trials of runs with scores."""
    classes_of = {}
    for label, run in _labelled(a, b).items():
        for condition in () if run.scores is None else ("known", "unseen"):
            classes = evaluation.split_classes(evaluation.select(run.scores, condition))
            if all(map(len, classes)):
                classes_of[f"{label}, {evaluation.CONDITIONS[condition].lower()}"] = classes
    return classes_of


def _labelled(a: Run, b: Run) -> dict[str, Run]:
    """Runs by column name, which stay two when a run is compared with itself."""
    return {a.rev: a, b.rev: b} if a.rev != b.rev else {f"{a.rev} (A)": a, f"{b.rev} (B)": b}


def _text(value: Any) -> str:
    """A setting as in params.yaml."""
    return json.dumps(value) if isinstance(value, bool | list) or value is None else str(value)


def markdown(a: Run, b: Run, worst: int = 10) -> str:
    """The whole comparison of an older and a newer run as GitHub markdown, for a pull request.

    It lists at most `worst` of the broken and of the fixed trials each. `UserError` where a condition has too few
    speakers and attacks for the bootstrap.
    """
    pair, settings = match(a, b), params(a, b)
    differences = paired_table(a, b, paired(a, b, pair))
    utterances = changed_table(a, b, changed(pair), worst)
    tables = "".join(f"\n**{words}**\n\n{_table(table)}\n" for words, table in headlines(a, b).items())
    parts = [
        f"## {title(a)} → {title(b)}",
        *pair.notes,
        "### Settings",
        _table(settings) if len(settings) else "No setting differs.",
        "### Differences on the same trials",
        _table(differences) + "\n\n" + HOW_TO_READ if len(differences) else "None can be computed.",
        "### Decisions",
        f"{summary_line(pair)}.",
        _table(changed_by_attack(pair)),
        _folded("Utterances", _table(utterances)) if len(utterances) else "",
        _folded("All metrics, each run on all its trials", tables.strip()) if tables else "Neither run has metrics.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(run: Run) -> str:
    """Name a run, with its commit if the name does not contain it.

    >>> title(Run("main", "0b7226a")), title(Run("0b7226a", "0b7226a")), title(Run("workspace"))
    ('main (0b7226a)', '0b7226a', 'workspace')
    """
    return run.rev if not run.commit or run.rev.startswith(run.commit) else f"{run.rev} ({run.commit})"


def _table(table: pd.DataFrame) -> str:
    """A table in markdown; empty without rows."""
    if table.empty:
        return ""
    cells = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in cells)


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
