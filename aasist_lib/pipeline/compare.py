"""Two runs side by side: commits, experiments, or what is in the working tree.

Settings and metrics are in git and there for every commit. Scores are in DVC's cache, which on another machine may not
hold those of an old run: what needs them is left out then, and the notes say so.
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

WORKSPACE = "workspace"  # DVC's name for the working tree, as it is
PARAMS, HEADLINE, SCORES = "params.yaml", "metrics/eval.json", "scores/eval.csv"
TABLE = "metrics/tables/eval.csv"  # HEADLINE's numbers and more, with intervals
# what a table of scores must have to be compared, beside what evaluation needs to group it
NEEDED = ["utt_id", "label", "speaker", "attack", "condition", "source", "llr", "decision"]
# of evaluation.MEASURES: what is compared trial by trial, and all of it the lower the better
PAIRED = ("eer", "min_dcf", "act_dcf", "cllr", "min_cllr")
SURE = 0.9  # from this probability on the words take a side
HOW_TO_READ = (
    "Less is better in every row. In brackets, 95 % intervals of the difference: speakers and attacks are drawn anew, "
    "the same for both runs; the probability is the share of draws in which that run is the better one, brought nearer "
    "to one half where speakers or attacks are few."
)


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes
    ----------
    rev : as it was asked for: a branch, tag, commit or experiment, or "workspace".
    commit : the first seven digits of the commit's hash; "" for the workspace.
    params : settings by dotted name.
    headline : condition -> measures with intervals, as `evaluation.headline`; empty where there are none. Of a commit
        that has no metrics/tables/, what its metrics/eval.json holds.
    scores : a row a trial of eval, or None where they cannot be had.
    data : hash of the corpus that was scored; "" if not known.
    note : why there are no scores, in one line; "" if there are.
    """

    rev: str
    commit: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    headline: Mapping[str, Mapping] = field(default_factory=dict)
    scores: pd.DataFrame | None = None
    data: str = ""
    note: str = ""


class Pair(NamedTuple):
    """Scores of two runs on the same trials in the same order, and what there is to say about it, a line each.

    Both tables are empty where the runs cannot be compared trial by trial.
    """

    first: pd.DataFrame
    second: pd.DataFrame
    notes: list[str]


def runs(root: Path, num: int = 50) -> pd.DataFrame:
    """Commits and experiments to choose from: the workspace, HEAD, and those before it that brought other numbers.

    Parameters
    ----------
    root : pathlib.Path
        Top folder of the project.
    num : how many commits to look at, from HEAD backwards along first parents.

    Returns
    -------
    DataFrame
        Text: Run (to be named in a comparison), What (the commit's subject, or where an experiment starts from), and
        for known and unseen attacks the equal error rate and minDCF; newest first. In a folder without
        git there is the workspace alone.

    Raises
    ------
    UserError
        When DVC cannot read the repository.
    """
    if not _has_history(root):
        return pd.DataFrame([{"Run": WORKSPACE, "What": "the working tree"} | _main(load(root, WORKSPACE).headline)])
    with _told():
        table = dvc.api.exp_show(repo=str(root), num=num)
        with Repo.open(str(root)) as repo:
            subjects = {
                row["rev"]: repo.scm.resolve_commit(row["rev"]).message.partition("\n")[0]
                for row in table
                if row["typ"] == "baseline" and row["rev"] != WORKSPACE
            }
    rows, above = [], None
    for row in table:
        if row["typ"] == "baseline":
            above = row["rev"]
            name, what = above, subjects.get(above, "the working tree")
        else:  # experiments follow the commit that they start from
            name, what = row["Experiment"] or row["rev"], f"experiment on {above}"
        cells = {"Run": name, "What": what} | _main(_unflattened(row))
        rows.append((row["typ"] == "baseline", cells))
    return pd.DataFrame(_without_repeats(rows))


def _without_repeats(rows: list[tuple[bool, dict]]) -> list[dict]:
    """Of commits in a row with the same numbers the oldest, which brought them, and none without numbers.

    The workspace, HEAD and experiments stay.
    """
    commits = [cells for is_commit, cells in rows if is_commit]
    numbers = [list(cells.values())[2:] for cells in commits] + [None]
    brought = {
        cells["Run"] for i, cells in enumerate(commits) if i < 2 or any(numbers[i]) and numbers[i] != numbers[i + 1]
    }
    return [cells for is_commit, cells in rows if not is_commit or cells["Run"] in brought]


def _main(headline: Mapping[str, Mapping]) -> dict[str, str]:
    """The two measures that tell runs apart, as text."""
    cells = {}
    for condition in ("known", "unseen"):
        for measure, name in (("eer", "EER (%)"), ("min_dcf", "minDCF")):
            value, percent = headline.get(condition, {}).get(measure), evaluation.MEASURES[measure][1]
            cells[f"{evaluation.CONDITIONS[condition]}: {name}"] = evaluation.interval(value, percent=percent)
    return cells


def _unflattened(row: Mapping[str, Any]) -> dict[str, dict]:
    """Measures by condition from a row of `dvc.api.exp_show`, whose columns are like `known.eer`.

    DVC puts the file's name before a column that another file or the settings have too.
    """
    found = {condition: {} for condition in evaluation.CONDITIONS}
    for column, value in row.items():
        condition, _, measure = column.removeprefix(f"{HEADLINE}:").partition(".")
        if condition in found and isinstance(value, float | int):
            found[condition][measure] = value
    return found


def load(root: Path, rev: str = WORKSPACE) -> Run:
    """Settings, metrics and scores of a run.

    Parameters
    ----------
    root : pathlib.Path
        Top folder of the project.
    rev : branch, tag, commit or experiment; "workspace" or "" for the files as they are.

    Raises
    ------
    UserError
        There is no such run, its settings or metrics cannot be read, or the folder has no history.
    """
    rev = rev or WORKSPACE
    commit = "" if rev == WORKSPACE else _resolve(root, rev)
    settings, data = (_read(root, commit, name) for name in (PARAMS, "data.dvc"))
    scores, note = _scores(root, rev, commit)
    try:
        outs = (_yaml(data) or {}).get("outs", [{}])
        return Run(
            rev=rev,
            commit=commit[:7],
            params=dict(_flat(_yaml(settings) or {})),
            headline=_headline(root, commit),
            scores=scores,
            data=outs[0].get("md5", ""),
            note=note,
        )
    except (YAMLError, ValueError, AttributeError) as error:
        raise UserError(f"{rev}: its settings or metrics cannot be read: {' '.join(str(error).split())}") from None


def _headline(root: Path, commit: str) -> dict[str, dict]:
    """Measures by condition, with intervals where they are on record."""
    if table := _read(root, commit, TABLE):
        return evaluation.apart(pd.read_csv(StringIO(table)))[0]
    found = json.loads(_read(root, commit, HEADLINE) or "{}")
    return {condition: found[condition] for condition in evaluation.CONDITIONS if condition in found}


def _resolve(root: Path, rev: str) -> str:
    """Hash of a commit or an experiment's commit."""
    if not _has_history(root):
        raise UserError(f"{root} is no repository of git and DVC: there is '{WORKSPACE}' to compare and nothing else")
    with _told(), Repo.open(str(root)) as repo:
        try:
            return resolve_rev(repo.scm, rev)
        except RevError:
            names = [WORKSPACE, "HEAD", *repo.scm.list_branches(), *repo.scm.list_tags()]
            names += [ref.name for ref in exp_refs(repo.scm) if ref.name]
            raise UserError(f"there is no commit or experiment '{rev}': {files.nearest(rev, names)}") from None


def _has_history(root: Path) -> bool:
    """Whether the folder is a DVC repository with git; `make quick` makes one without, inside another one's."""
    if not (root / ".dvc").is_dir():
        return False
    with _told(), Repo.open(str(root)) as repo:
        return not isinstance(repo.scm, NoSCM)


@contextmanager
def _told() -> Iterator[None]:
    """DVC's errors in one line."""
    try:
        yield
    except DvcException as error:
        raise UserError(f"DVC: {' '.join(str(error).split())}") from None


def _read(root: Path, commit: str, name: str) -> str | None:
    """Text of a file, from git or from DVC's cache; None where it is in neither."""
    try:
        if not commit:
            return (root / name).read_text(encoding="utf-8")
        return dvc.api.read(name, repo=str(root), rev=commit, encoding="utf-8")
    except (OSError, DvcException):
        return None


def _scores(root: Path, rev: str, commit: str) -> tuple[pd.DataFrame | None, str]:
    """Scores of a run, or None and why."""
    text = _read(root, commit, SCORES)
    if text is None:
        return None, _why_no_scores(rev, commit, _read(root, commit, "dvc.lock") or "")
    scores = pd.read_csv(
        StringIO(text), dtype=dict.fromkeys(["utt_id", "speaker", "attack"], str), keep_default_na=False
    )
    missing = [column for column in NEEDED if column not in scores]
    if missing:
        return (
            None,
            f"The scores of {rev} have no column {', '.join(missing)}: another version of the project wrote them.",
        )
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


def _yaml(text: str | None) -> Any:
    return YAML(typ="safe", pure=True).load(text) if text else None


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def params(a: Run, b: Run) -> pd.DataFrame:
    """Settings that differ.

    Parameters
    ----------
    a, b : Run

    Returns
    -------
    DataFrame
        Text: Setting (dotted name), and a column for each run; nothing where a run lacks the setting.
    """
    names = sorted(a.params.keys() | b.params.keys())
    differ = [name for name in names if a.params.get(name, _text) != b.params.get(name, _text)]
    columns = {label: [_text(run.params.get(name, "")) for name in differ] for label, run in _labelled(a, b).items()}
    return pd.DataFrame({"Setting": differ} | columns, dtype=object)


def headlines(a: Run, b: Run) -> dict[str, pd.DataFrame]:
    """Metrics side by side, with intervals.

    Parameters
    ----------
    a, b : Run

    Returns
    -------
    dict of str to DataFrame
        What a condition is called for people -> text: Measure, and a column for each run; nothing where a run lacks
        the measure, and no table where both lack the condition.
    """
    tables = {}
    for condition, words in evaluation.CONDITIONS.items():
        rows = {label: run.headline.get(condition, {}) for label, run in _labelled(a, b).items()}
        if any(rows.values()):
            table = evaluation.headline_table(rows).set_index("Measure").reindex(columns=list(rows))
            order = [measure for measure, _ in evaluation.MEASURES.values() if measure in table.index]
            tables[words] = table.loc[order].astype(object).fillna("").reset_index()
    return tables


def match(a: Run, b: Run) -> Pair:
    """The trials that both runs have scored.

    Parameters
    ----------
    a, b : Run

    Returns
    -------
    Pair
        Rows of both in the order of b's. Speaker, attack and condition are b's in both. Empty, with the reason among
        the notes, where a run has no scores, no utterance is in both, one is there twice, or they disagree about what
        is real.
    """
    nothing = pd.DataFrame(columns=NEEDED)
    notes = []
    if a.data and b.data and a.data != b.data:
        notes.append(
            "The corpora differ (data.dvc), so that differences may be theirs: an utterance of the same name can be "
            "another recording."
        )
    if a.note or b.note:
        return Pair(nothing, nothing, notes + list(dict.fromkeys(run.note for run in (a, b) if run.note)))
    first, second = (run.scores.set_index("utt_id") for run in (a, b))
    names = list(_labelled(a, b))
    for name, table in zip(names, (first, second), strict=True):
        if not table.index.is_unique:
            twice = table.index[table.index.duplicated()][0]
            return Pair(
                nothing, nothing, [*notes, f"{name} has scored {twice} twice: nothing to compare trial by trial."]
            )
    both = second.index[second.index.isin(first.index)]
    if both.empty:
        return Pair(
            nothing, nothing, [*notes, "The runs have no utterance in common: nothing to compare trial by trial."]
        )
    first, second, sizes = first.loc[both], second.loc[both], (len(first), len(second))
    disagree = (first["label"] != second["label"]).to_numpy()
    if disagree.any():
        note = f"The runs disagree about what is real in {disagree.sum()} of {len(both)} utterances, such as "
        return Pair(nothing, nothing, [*notes, f"{note}{both[disagree][0]}: these are different trials."])
    for name, size in zip(names, sizes, strict=True):
        if size > len(both):
            notes.append(f"{size - len(both)} of {size} utterances are in {name} alone and left out below.")
    groups = ["speaker", "attack", "condition"]
    if (first[groups] != second[groups]).any(axis=None):
        notes.append(f"Speakers, attacks or conditions were named anew: those of {names[1]} count.")
    first = first.assign(**{column: second[column] for column in groups})
    return Pair(first.reset_index(), second.reset_index(), notes)


def paired(a: Run, b: Run, pair: Pair) -> pd.DataFrame:
    """Differences on the same trials, and how sure they are.

    Speakers and attacks are drawn anew, the same for both runs, so that what is hard for both does not count. Costs,
    replicates and seed are those of b's settings.

    Parameters
    ----------
    a, b : Run
    pair : what `match` gave for them.

    Returns
    -------
    DataFrame
        A row a condition and measure: condition, measure (keys of `evaluation.CONDITIONS` and `MEASURES`), first,
        second, value (second - first), low, high (95 %), probability (that b is better).
    """
    seed, replicates = b.params.get("seed", 0), b.params.get("evaluate.bootstrap", 1000)
    names = ("prior_spoof", "cost_miss", "cost_false_alarm")
    costs = {name: b.params[f"calibrate.{name}"] for name in names if f"calibrate.{name}" in b.params}

    def statistics(counts):
        return {
            "eer": counts.eer().value,
            "min_dcf": counts.min_dcf(**costs).value,
            "act_dcf": counts.act_dcf(**costs),
            "cllr": counts.cllr(),
            "min_cllr": counts.min_cllr(),
        }

    rows = []
    for condition in evaluation.CONDITIONS:
        first, second = (evaluation.select(table, condition) for table in (pair.first, pair.second))
        if second["label"].nunique() < 2:
            continue
        of = {"first": evaluation.split_classes(first), "second": evaluation.split_classes(second)}
        measured = {name: statistics(metrics.Counts.of(*scores)) for name, scores in of.items()}
        clusters = evaluation.factors(second)
        found = metrics.paired(statistics, **of, clusters=clusters, replicates=replicates, seed=seed)
        for measure in PAIRED:
            values = {name: measured[name][measure] for name in of}
            rows.append({"condition": condition, "measure": measure} | values | found[measure]._asdict())
    return pd.DataFrame(rows, columns=["condition", "measure", "first", "second", *metrics.Difference._fields])


def verdict(probability: float, low: float, high: float, names: tuple[str, str] = ("A", "B")) -> str:
    """What a paired difference says, in words.

    Parameters
    ----------
    probability : that the second is better.
    low, high : ends of the difference's interval.
    names : of the runs.

    >>> verdict(0.93, -0.04, 0.01), verdict(0.031, -0.01, 0.09), verdict(0.6, -0.02, 0.01)
    ('B is better with probability 0.93', 'A is better with probability 0.97', 'no telling')
    >>> verdict(1.0, -0.2, -0.1), verdict(0.5, 0.0, 0.0)
    ('B is better with probability above 0.99', 'no difference')
    """
    if low == high == 0:
        return "no difference"
    better, share = (names[1], probability) if probability >= 0.5 else (names[0], 1 - probability)
    if share < SURE:
        return "no telling"
    return f"{better} is better with probability {'above 0.99' if share > 0.99 else f'{share:.2f}'}"


def paired_table(a: Run, b: Run, differences: pd.DataFrame) -> pd.DataFrame:
    """`paired` for people.

    Parameters
    ----------
    a, b : Run
    differences : what `paired` gave for them.

    Returns
    -------
    DataFrame
        Text: Condition, Measure, a column for each run, Difference (with interval), and what it says.
    """
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
    """Utterances that the two runs decide differently.

    Parameters
    ----------
    pair : what `match` gave.

    Returns
    -------
    DataFrame
        utt_id, label, condition, attack, speaker, source, llr_first, llr_second, change ("broken": right in the first,
        wrong in the second; "fixed": the other way round). The broken come first, in each the LLRs that moved most.
    """
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
    """How many decisions each attack, and the real voices, won and lost.

    Parameters
    ----------
    pair : what `match` gave.

    Returns
    -------
    DataFrame
        For people: Condition, Attack ("real voices" without condition), Trials, Broken, Fixed. What lost most comes
        first, groups without change are left out.
    """
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


def changed_words(pair: Pair) -> str:
    """How many decisions changed, in one sentence.

    Parameters
    ----------
    pair : what `match` gave.
    """
    if pair.second.empty:
        return "Decisions cannot be compared"
    counts = changed(pair)["change"].value_counts()
    broken, fixed = (int(counts.get(change, 0)) for change in ("broken", "fixed"))
    if not broken + fixed:
        return f"No decision of {len(pair.second)} changed"
    return f"{broken + fixed} decisions of {len(pair.second)} changed: {fixed} fixed, {broken} broken"


def changed_table(a: Run, b: Run, changes: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """`changed` for people, the first `n` of the broken and of the fixed.

    Parameters
    ----------
    a, b : Run
    changes : what `changed` gave.
    n : how many rows of each at most.

    Returns
    -------
    DataFrame
        Text: headings in words, LLRs under the names of the runs.
    """
    first, second = _labelled(a, b)
    table = evaluation.readable(changes.groupby("change").head(n).reset_index(drop=True))
    return table.rename(columns={"llr_first": f"LLR, {first}", "llr_second": f"LLR, {second}", "change": "Now"})


def curves(a: Run, b: Run) -> dict[str, tuple]:
    """What `plots.det` draws: each condition of each run that has scores, on all its trials.

    Parameters
    ----------
    a, b : Run

    Returns
    -------
    dict
        "run, known attacks" and so on -> (bona fide, spoof) LLRs.
    """
    found = {}
    for label, run in _labelled(a, b).items():
        for condition in () if run.scores is None else ("known", "unseen"):
            classes = evaluation.split_classes(evaluation.select(run.scores, condition))
            if all(map(len, classes)):
                found[f"{label}, {evaluation.CONDITIONS[condition].lower()}"] = classes
    return found


def _labelled(a: Run, b: Run) -> dict[str, Run]:
    """Runs by what tables call them: two columns even where somebody compares a run with itself."""
    return {a.rev: a, b.rev: b} if a.rev != b.rev else {f"{a.rev} (A)": a, f"{b.rev} (B)": b}


def _text(value: Any) -> str:
    """A setting as params.yaml would have it."""
    return json.dumps(value) if isinstance(value, bool | list) or value is None else str(value)


def markdown(a: Run, b: Run, worst: int = 10) -> str:
    """The whole comparison as GitHub's markdown, to be pasted into a pull request.

    Parameters
    ----------
    a, b : Run
        The older and the newer.
    worst : how many utterances are listed by name, of the broken and of the fixed.

    Raises
    ------
    UserError
        A condition has too few speakers and attacks to draw from.
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
        f"{changed_words(pair)}.",
        _table(changed_by_attack(pair)),
        _folded("Utterances", _table(utterances)) if len(utterances) else "",
        _folded("All metrics, each run on all its trials", tables.strip()) if tables else "Neither run has metrics.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(run: Run) -> str:
    """A run and its commit, where the name does not say it.

    >>> title(Run("main", "0b7226a")), title(Run("0b7226a", "0b7226a")), title(Run("workspace"))
    ('main (0b7226a)', '0b7226a', 'workspace')
    """
    return run.rev if not run.commit or run.rev.startswith(run.commit) else f"{run.rev} ({run.commit})"


def _table(table: pd.DataFrame) -> str:
    """A table in markdown; nothing for one without rows."""
    if table.empty:
        return ""
    cells = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in cells)


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
