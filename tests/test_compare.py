"""Two runs side by side: what is read from where, and what is said when something is missing.

| what | test |
|---|---|
| the runs there are: workspace, HEAD, commits that brought other numbers, experiments | test_runs |
| settings, metrics and scores of commits, experiments and the workspace | test_load, test_load_workspace |
| a name that is none: one line with the nearest one | test_unknown_name |
| a folder without git has its workspace, and says so | test_without_git |
| scores that are not in the cache are named, with what to do; the rest is there | test_not_in_cache |
| a commit that evaluated nothing, or in another version's columns | test_no_scores |
| settings that differ, nothing else | test_params |
| metrics side by side; a measure that one run lacks is an empty cell | test_headlines |
| trials in one run alone are counted and left out; order does not matter | test_match |
| trials that are no trials of the same kind are refused, with the reason | test_refused |
| runs on different corpora are told of | test_corpora_differ |
| differences have the sign, the interval and the probability that they should | test_paired |
| costs are those of the newer run's settings | test_paired_uses_the_costs_of_the_newer |
| a run compared with itself: nothing differs | test_identical |
| who changed sides, the worst first; counts by attack | test_changed |
| the command prints markdown and nothing else; errors are one line | test_command, test_command_mistake |
| `make compare` hands A and B on | test_make |
| the notebook, on different and on identical runs | test_notebook |
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from ruamel.yaml import YAML

from aasist_lib import evaluation
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline import compare, run
from aasist_lib.pipeline.compare import Run
from aasist_lib.pipeline.kernel import OwnKernel

ROOT = Path(__file__).parents[1]
STAGE = {
    "cmd": "evaluate",  # never run: `dvc commit` takes what is there
    "params": ["train.lr", "model.width"],
    "outs": ["scores/eval.csv"],
    "metrics": [{"metrics/eval.json": {"cache": False}}],
}
COSTS = {"prior_spoof": 0.05, "cost_miss": 1.0, "cost_false_alarm": 10.0}


def scored(separation, threshold=0.0):
    """Scores of a detector that tells the classes apart by so much; the same voices and the same luck every time."""
    rng = np.random.default_rng(1)
    rows = []
    for label, attack, condition, n in (
        ("bonafide", "", "", 60),
        ("spoof", "pico", "known", 30),
        ("spoof", "flite", "known", 30),
        ("spoof", "mlsa", "unseen", 30),
        ("spoof", "hibari", "unseen", 30),
    ):
        for i in range(n):
            llr = rng.normal() + (separation if label == "bonafide" else -separation)
            rows.append((f"{attack or 'real'}-{i:02}", label, f"speaker{i % 6}", attack, "eval", condition, "src", llr))
    table = pd.DataFrame(rows, columns="utt_id label speaker attack split condition source llr".split())
    return table.assign(decision=evaluation.decide(table["llr"], threshold))


def measured(scores):
    """What an evaluation writes, with intervals that were not computed."""
    headline = evaluation.headline(scores, replicates=0, **COSTS)
    for row in headline.values():
        row |= {f"{name}_{end}": row[name] * by for name in compare.PAIRED for end, by in (("low", 0.5), ("high", 1.5))}
    return headline


def settings(lr, width=64):
    return {
        "seed": 1,
        "model": {"width": width},
        "train": {"lr": lr, "deep": {"flag": True}},
        "calibrate": COSTS,
        "evaluate": {"bootstrap": 100},
    }


def made(rev, scores, lr=0.1, **fields):
    """A run that was never on disk."""
    flat = dict(compare._flat(settings(lr)))
    return Run(rev, params=flat, headline=measured(scores), scores=scores, **fields)


def write(folder, scores, **choices):
    evaluation.save_csv(folder / "scores/eval.csv", scores)
    evaluation.save_json(folder / "metrics/eval.json", evaluation.summary(measured(scores), 0.1))
    evaluation.save_csv(folder / "metrics/tables/eval.csv", evaluation.table(measured(scores), {}))
    YAML().dump(settings(**choices), folder / "params.yaml")


def environment():
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DVC_NO_ANALYTICS": "1",
    }


def call(folder, *command, status=0):
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def commit(folder, message):
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--message", message)


@pytest.fixture(scope="module", autouse=True)
def cache_environment():
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in run.cache_environment(ROOT).items():
            patch.setenv(name, folder)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Commits: nothing evaluated; a first run (tag old); a better one; words only. And an experiment on the last."""
    folder = tmp_path_factory.mktemp("compare") / "project"
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("[0-8]*", ".*"))
    YAML().dump({"stages": {"evaluate": STAGE}}, folder / "dvc.yaml")
    YAML().dump(settings(0.1), folder / "params.yaml")
    (folder / ".gitignore").write_text("/scores\n")
    call(folder, "git", "init", "--quiet", "--initial-branch=main")
    for key, value in {"user.name": "A Person", "user.email": "person@example.org"}.items():
        call(folder, "git", "config", key, value)
    call(folder, "dvc", "init", "--quiet")
    commit(folder, "Begin")
    write(folder, scored(0.5), lr=0.1)
    (folder / "metrics/tables/eval.csv").unlink()  # as before there was one: metrics/eval.json had it all
    evaluation.save_json(folder / "metrics/eval.json", measured(scored(0.5)))
    call(folder, "dvc", "commit", "--force", "--quiet")
    commit(folder, "Run for the first time")
    call(folder, "git", "tag", "old")
    write(folder, scored(1.5), lr=0.01)
    call(folder, "dvc", "commit", "--force", "--quiet")
    commit(folder, "Learn slowly")
    for words in ("one", "two"):
        (folder / "README.md").write_text(words)
        commit(folder, f"Say {words}")
    write(folder, scored(1.0), lr=0.01, width=32)
    call(folder, "dvc", "commit", "--force", "--quiet")
    call(folder, "dvc", "exp", "save", "--name", "narrow")
    call(folder, "git", "checkout", "--quiet", "--", ".")
    call(folder, "dvc", "checkout", "--force", "--quiet")
    return folder


def test_runs(project):
    table = compare.runs(project)
    names, what = list(table["Run"]), list(table["What"])
    assert names[:3] == ["workspace", "main", "narrow"] and names[4] == "old" and len(names) == 5
    assert what == ["the working tree", "Say two", "experiment on main", "Learn slowly", "Run for the first time"]
    eer = list(table["Unseen attacks: EER (%)"])
    assert eer[0] == eer[1] == eer[3] and len({eer[0], eer[2], eer[4]}) == 3
    known = json.loads((project / "metrics/eval.json").read_text())["known"]
    assert table["Known attacks: EER (%)"][0] == evaluation.interval(known["eer"])


@pytest.mark.parametrize(
    "rev, separation, lr, width", [("old", 0.5, 0.1, 64), ("HEAD", 1.5, 0.01, 64), ("narrow", 1.0, 0.01, 32)]
)
def test_load(project, rev, separation, lr, width):
    found = compare.load(project, rev)
    assert found.params["train.lr"] == lr and found.params["model.width"] == width
    assert found.params["train.deep.flag"] is True
    assert found.scores["llr"].to_numpy() == pytest.approx(scored(separation)["llr"], abs=1e-6)
    expected = measured(scored(separation))
    assert list(found.headline) == list(expected)  # with intervals, although metrics/eval.json of today has none
    for condition, row in expected.items():
        assert found.headline[condition] == pytest.approx(row, abs=1e-6)
    assert len(found.commit) == 7 and found.note == ""


@pytest.mark.parametrize("rev", ["", "workspace"])
def test_load_workspace(project, tmp_path, rev):
    """Files as they are, changed since the last commit."""
    shutil.copytree(project, tmp_path / "changed")
    write(tmp_path / "changed", scored(3.0), lr=0.5)
    found = compare.load(tmp_path / "changed", rev)
    assert (found.rev, found.commit, found.params["train.lr"]) == ("workspace", "", 0.5)
    assert found.scores["llr"].to_numpy() == pytest.approx(scored(3.0)["llr"], abs=1e-6)


@pytest.mark.parametrize("rev, near", [("mian", "main"), ("narow", "narrow"), ("oldd", "old"), ("zzzzzz", "workspace")])
def test_unknown_name(project, rev, near):
    with pytest.raises(UserError, match=f"^there is no commit or experiment '{rev}': .*{near}.*$") as error:
        compare.load(project, rev)
    assert "\n" not in str(error.value)


def test_without_git(project, tmp_path):
    """Such as the folder of `make quick`, which lies inside another repository."""
    folder = tmp_path / "inside"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".git"))
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert list(compare.runs(folder)["Run"]) == ["workspace"]
    assert compare.load(folder).params["train.lr"] == 0.01
    with pytest.raises(UserError, match="no repository of git and DVC: there is 'workspace'"):
        compare.load(folder, "HEAD")


def test_not_in_cache(project, tmp_path):
    call(tmp_path, "git", "clone", "--quiet", project, "clone")
    old, new = (compare.load(tmp_path / "clone", rev) for rev in ("old", "HEAD"))
    assert old.scores is None and old.params["train.lr"] == 0.1 and old.headline["known"]
    assert "scores of old are not in this machine's cache" in old.note and "\n" not in old.note
    text = compare.markdown(old, new)
    assert old.note in text and new.note in text
    assert "| train.lr | 0.1 | 0.01 |" in text and "| Equal error rate (%) | " in text
    assert "Decisions cannot be compared" in text and compare.curves(old, new) == {}
    workspace = compare.load(tmp_path / "clone")
    assert "no scores/eval.csv in the workspace" in workspace.note


def test_no_scores(project, tmp_path):
    begin = compare.load(project, "old~1")
    assert begin.note == "old~1 has no scores: nothing was evaluated there." and begin.headline == {}
    (tmp_path / "scores").mkdir()
    scored(1.0).drop(columns=["decision", "source"]).to_csv(tmp_path / "scores/eval.csv", index=False)
    other = compare.load(tmp_path)
    assert other.scores is None and "no column source, decision" in other.note
    scored(1.0).assign(llr="").to_csv(tmp_path / "scores/eval.csv", index=False)
    assert "not all numbers" in compare.load(tmp_path).note


def test_params():
    a = Run("a", params={"same": 1, "lr": 0.1, "flag": True, "gone": "x", "none": None})
    b = Run("b", params={"same": 1, "lr": 0.2, "flag": False, "new": "", "none": 0})
    table = compare.params(a, b).set_index("Setting")
    assert list(table.columns) == ["a", "b"]
    assert table.T.to_dict("list") == {
        "flag": ["true", "false"],
        "gone": ["x", ""],
        "lr": ["0.1", "0.2"],
        "new": ["", ""],
        "none": ["null", "0"],
    }


def test_headlines():
    a = Run("a", headline={"known": {"eer": 0.25, "eer_low": 0.125, "eer_high": 0.5, "n_spoof": 3}})
    b = Run("b", headline={"known": {"cllr": 0.5, "eer": 0.125}, "all": {"eer": 0.5}})
    tables = compare.headlines(a, b)
    assert list(tables) == ["Known attacks", "All attacks"]
    assert tables["Known attacks"].to_numpy().tolist() == [
        ["Equal error rate (%)", "25.0 (12.5 to 50.0)", "12.5"],
        ["Cllr (bits)", "", "0.500"],
        ["Fakes", "3", ""],
    ]
    assert tables["All attacks"].to_numpy().tolist() == [["Equal error rate (%)", "", "50.0"]]


def test_match():
    first, second = scored(0.5).iloc[5:].sample(frac=1, random_state=3), scored(1.5).iloc[:-2]
    pair = compare.match(made("a", first), made("b", second))
    assert list(pair.first["utt_id"]) == list(pair.second["utt_id"]) == list(second["utt_id"][5:])
    assert pair.first["llr"].tolist() == scored(0.5)["llr"].tolist()[5:-2]
    assert pair.notes == [
        "2 of 175 utterances are in a alone and left out below.",
        "5 of 178 utterances are in b alone and left out below.",
    ]


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda t: t.assign(utt_id="x" + t["utt_id"]), "no utterance in common"),
        (lambda t: t.assign(label=t["label"].where(t.index != 7, "spoof")), "disagree .* in 1 of 180 .* real-07"),
        (lambda t: pd.concat([t, t.tail(1)]), "b has scored hibari-29 twice"),
    ],
)
def test_refused(spoil, reason):
    a = made("a", scored(0.5))
    b = replace(a, rev="b", scores=spoil(a.scores))
    pair = compare.match(a, b)
    assert pair.first.empty and pair.second.empty
    assert len(pair.notes) == 1 and pd.Series(pair.notes).str.contains(reason).all()
    assert compare.paired(a, b, pair).empty and compare.changed(pair).empty and compare.changed_by_attack(pair).empty
    assert "None can be computed" in compare.markdown(a, b)


def test_corpora_differ():
    a, b = made("a", scored(0.5), data="one"), made("b", scored(0.5), data="two")
    assert ["corpora differ" in note for note in compare.match(a, b).notes] == [True]
    assert compare.match(a, replace(b, data="one")).notes == compare.match(a, replace(b, data="")).notes == []


def test_paired():
    a, b = made("a", scored(0.5)), made("b", scored(1.5))
    table = compare.paired(a, b, compare.match(a, b)).set_index(["condition", "measure"])
    assert set(table.index) == {(c, m) for c in ("known", "unseen", "all") for m in compare.PAIRED}
    assert (table["second"] - table["first"]).to_numpy() == pytest.approx(table["value"])
    assert (table["value"] < 0).all() and (table["probability"] > 0.85).all() and (table["high"] <= 0).all()
    for condition in ("known", "unseen", "all"):
        for run_, name in ((a, "first"), (b, "second")):
            for measure in compare.PAIRED:
                assert table.loc[(condition, measure), name] == pytest.approx(run_.headline[condition][measure])
    back = compare.paired(b, a, compare.match(b, a)).set_index(["condition", "measure"])
    assert back["value"].to_numpy() == pytest.approx(-table["value"]) and (back["probability"] < 0.15).all()
    shown = compare.paired_table(a, b, back.reset_index())
    words = shown.groupby("Condition")["In words"].agg(set).to_dict()
    assert words["All attacks"] == {"a is better with probability 0.96"}
    assert words["Known attacks"] == {"no telling"}  # of two attacks nobody can tell


def test_paired_uses_the_costs_of_the_newer():
    a, b = made("a", scored(0.5)), made("b", scored(1.5))
    dear = replace(b, params=b.params | {"calibrate.prior_spoof": 0.5})
    rows = [compare.paired(a, run_, compare.match(a, run_)) for run_ in (b, dear)]
    same = (rows[0]["first"] == rows[1]["first"]).groupby(rows[0]["measure"]).all()
    assert same.to_dict() == {"act_dcf": False, "cllr": True, "eer": True, "min_cllr": True, "min_dcf": False}


def test_identical():
    a = made("HEAD", scored(0.5))
    text = compare.markdown(a, replace(a))
    assert "No setting differs." in text and "No decision of 180 changed." in text
    assert "| HEAD (A) | HEAD (B) |" in text
    table = compare.paired(a, a, compare.match(a, a))
    assert (table[["value", "low", "high"]] == 0).all(axis=None) and (table["probability"] == 0.5).all()
    assert set(compare.paired_table(a, a, table)["In words"]) == {"no difference"}


def test_changed():
    first = scored(10.0)  # without a mistake
    second = first.copy()
    for utterance, llr in {"real-03": -1.0, "pico-01": 5.0, "pico-02": 2.0, "flite-00": 1.0}.items():
        second.loc[second["utt_id"] == utterance, "llr"] = llr
    second["decision"] = evaluation.decide(second["llr"], 0.0)
    first.loc[first["utt_id"].isin(["flite-00", "mlsa-05"]), ["llr", "decision"]] = [4.0, "bonafide"]
    pair = compare.match(made("a", first), made("b", second))
    table = compare.changed(pair)
    assert table["change"].tolist() == ["broken"] * 3 + ["fixed"]  # flite-00 is wrong in both
    assert set(table["utt_id"][:3]) == {"real-03", "pico-01", "pico-02"} and table["utt_id"][3] == "mlsa-05"
    moved = (table["llr_second"] - table["llr_first"]).abs()[:3].tolist()
    assert moved == sorted(moved, reverse=True)
    assert compare.changed_by_attack(pair).to_numpy().tolist() == [
        ["known", "pico", 30, 2, 0],
        ["", "real voices", 60, 1, 0],
        ["unseen", "mlsa", 30, 0, 1],
    ]
    assert compare.summary_line(pair) == "4 decisions of 180 changed: 1 fixed, 3 broken"
    few = compare.changed_table(made("a", first), made("b", second), table, n=1)
    assert few["Now"].tolist() == ["broken", "fixed"] and {"LLR, a", "LLR, b"} <= set(few.columns)


def test_command(project):
    done = call(project, sys.executable, "-m", "aasist_lib.pipeline", "compare", "old", "narrow")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("## old (") and " → narrow (" in lines[0]
    assert "| train.lr | 0.1 | 0.01 |" in lines and "| model.width | 64 | 32 |" in lines
    assert any(line.startswith("| All attacks | minDCF | ") and "narrow is better" in line for line in lines)
    assert len({line.count("|") for line in lines if line.startswith("| Known attacks")}) == 1
    rows = [line for line in lines if line.startswith("|")]
    assert all(line.endswith(" |") for line in rows)
    written = project.parent / "made/comparison.md"
    command = [sys.executable, "-m", "aasist_lib.pipeline", "compare", "old", "narrow", "--output", str(written)]
    assert call(project, *command).stdout == "" and written.read_text("utf-8") == done.stdout


def test_command_mistake(project):
    done = call(project, sys.executable, "-m", "aasist_lib.pipeline", "compare", "main", "narow", status=2)
    assert done.stdout == ""
    assert done.stderr == "there is no commit or experiment 'narow': did you mean 'narrow'?\n"


@pytest.mark.parametrize("given, expected", [((), ["HEAD", "workspace"]), (("A=main", "B=HEAD"), ["main", "HEAD"])])
def test_make(given, expected):
    names = {name: value for name, value in os.environ.items() if name not in ("A", "B", "MAKEFLAGS", "MAKELEVEL")}
    command = ["make", "--no-print-directory", "--dry-run", "--old-file=.venv/ready", "compare", *given]
    done = subprocess.run(command, cwd=ROOT, env=names, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["compare", *(f'"{name}"' for name in expected)]


@pytest.mark.parametrize(
    "a, b, shown",
    [
        ("HEAD", "workspace", ["Settings that differ: none", "no difference", "No decision of 180 changed"]),
        ("old", "narrow", ["Settings that differ: 2", "narrow is better", "image/png", "broken"]),
    ],
)
def test_notebook(project, a, b, shown):
    notebook = nbformat.read(project / "notebooks/90_compare_runs.ipynb", 4)
    (cell,) = [cell for cell in notebook.cells if cell.id == "ab"]
    assert 'A = "HEAD"' in cell.source and 'B = "workspace"' in cell.source
    cell.source = cell.source.replace('"HEAD"', repr(a)).replace('"workspace"', repr(b))
    resources = {"metadata": {"path": project / "notebooks"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        NotebookClient(notebook, kernel_manager_class=OwnKernel, resources=resources).execute()
    outputs = json.dumps([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])
    for words in shown:
        assert words in outputs
    assert '"stderr"' not in outputs
