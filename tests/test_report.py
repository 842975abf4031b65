"""The pages: right numbers, readable by everybody, without network, the same bytes again.

| what | test |
|---|---|
| the same results give the same bytes, and no clock or path of the machine | test_same_bytes |
| nothing is loaded from the network | test_offline |
| language, landmarks, one h1, skip link, alternative texts, captions, headings of tables | test_accessible |
| headline, confusion matrix, corpus and settings show what the files say | test_numbers |
| a speaker of eval who is in another split is told of | test_speaker_in_two_splits |
| alarms before any number, the name of the test set, what each policy does | test_alarms, test_policies |
| a condition without trials is left out | test_one_condition |
| the split narrow is shown apart, and nowhere among eval's figures | test_telephone |
| versions are those that trained the network, where it says so | test_provenance |
| the model card is written with the rest, without an audit too | test_model_card |
| a notebook's page: code folded, tables that scroll, links between pages | test_notebook_page |
| missing results are named | test_missing |
| the leaderboard: order, means, seeds, intervals, attacks, claims, the same part for all | test_leaderboard |
| the leaderboard is as readable as the rest, says what it is of, and goes when its results do | test_leaderboard_page |
| the figures of the leaderboard show the data; the same bytes twice | test_leaderboard_figures |
| `dvc plots show` can be read offline | test_plots_page |
| the table in README.md | test_readme, test_committed_readme_is_current |
| `dvc plots diff`: each confusion matrix under its condition and beside its revision | test_confusion_template |
"""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from aasist_lib import evaluation, plots
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline import report, standings
from aasist_lib.store import indexes

ROOT = Path(__file__).parents[1]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="  # one pixel


def measured(eer, n_spoof):
    row = {"n_bonafide": 200, "n_spoof": n_spoof}
    for name in evaluation.MEASURES.keys() - row.keys():
        row |= {name: eer, f"{name}_low": eer - 0.01, f"{name}_high": eer + 0.02}
    return row


def write_measured(project, headline, narrow=None):
    evaluation.save_csv(project / "runs/tables/eval.csv", evaluation.table(headline, narrow or {}))


@pytest.fixture
def project(tmp_path):
    """Results as stages leave them, of 200 real voices, 100 known and 50 unseen fakes."""
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("metrics", "runs/tables", "features", "models/network"):
        (tmp_path / name).mkdir(parents=True)
    made_with = {"librosa": "0.1", "numpy": "0.2", "python": "3.0", "torch": "0.4"}
    (tmp_path / "models/network/network.json").write_text(json.dumps({"made_with": made_with}))
    headline = {"unseen": measured(0.25, 50), "known": measured(0.125, 100), "all": measured(0.17, 150)}
    write_measured(tmp_path, headline)
    (tmp_path / "runs/tables/extract.json").write_text(json.dumps({"test_set": "ASVspoof 2021 DF, subset eval"}))
    (tmp_path / "runs/tables/alarms.json").write_text(json.dumps({"alarms": []}))
    points = {"equal_error": {"threshold": 0.0, "bonafide_rejected": 0.1}, "few_misses": {"threshold": 1.5}}
    (tmp_path / "runs/tables/operating_points.json").write_text(json.dumps(points))
    (tmp_path / "models/detector").mkdir()
    calibrated = {"policy": "equal_error", "min_spoof_found": 0.95}
    (tmp_path / "runs/tables/calibration.json").write_text(json.dumps({"after": {"cllr": 0.25}}))
    (tmp_path / "models/detector/calibration.json").write_text(json.dumps(calibrated))
    (tmp_path / "runs/tables/train.json").write_text(json.dumps({"best_epoch": 3, "parameters": 123456}))
    trials = [("", "bonafide", 1.0)] * 180 + [("", "bonafide", -1.0)] * 20
    trials += [("known", "spoof", -1.0)] * 90 + [("known", "spoof", 1.0)] * 10
    trials += [("unseen", "spoof", -1.0)] * 30 + [("unseen", "spoof", 1.0)] * 20
    table = evaluation.confusion_table(pd.DataFrame(trials, columns=["condition", "label", "llr"]), 0)
    evaluation.save_csv(tmp_path / "metrics/confusion.csv", table)
    history = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [0.7, 0.4, 0.2], "dev_loss": [0.7, 0.5, 0.4]})
    history.assign(dev_eer=[0.5, 0.3, 0.2]).to_csv(tmp_path / "metrics/history.csv", index=False)
    scored = [
        ("bonafide", "eval", "", "", "anna", 1.0), ("bonafide", "eval", "", "", "jan", -1.0),
        ("spoof", "eval", "vocoder", "known", "anna", -2.0), ("spoof", "eval", "<tts>", "unseen", "robot", -0.5),
    ]  # fmt: skip
    scores = pd.DataFrame(scored, columns=["label", "split", "attack", "condition", "speaker", "llr"])
    scores = scores.assign(language="cs", source="x", seconds=1800.0)
    evaluation.save_csv(tmp_path / "metrics/by_attack.csv", evaluation.by_attack(scores, 0))
    evaluation.save_csv(tmp_path / "metrics/by_speaker.csv", evaluation.by_speaker(scores, 0))
    indexes.write(tmp_path / "features", scores)
    for name, title in {"10_extract": "10 Extract: what is seen", "40_evaluate": "40 Evaluate: is it right?"}.items():
        cell = nbformat.v4.new_code_cell("secret = 1", id="code", execution_count=1)
        cell.outputs = [
            nbformat.v4.new_output(
                "display_data", {"image/png": PNG}, metadata={"image/png": {"alt": "A red <dot>", "width": 10}}
            ),
            nbformat.v4.new_output(
                "display_data", {"text/html": '<table><thead><tr><th scope="col">a</th></tr></thead></table>'}
            ),
            nbformat.v4.new_output("stream", text="printed"),
        ]
        links = "[next](40_evaluate.ipynb), [first](00_overview.ipynb), [web](https://example.org/x.ipynb)"
        texts = [
            nbformat.v4.new_markdown_cell(text, id=f"text-{i}") for i, text in enumerate((f"# {title}\n\nText.", links))
        ]
        notebook = nbformat.v4.new_notebook(cells=[texts[0], cell, texts[1]])
        nbformat.write(notebook, tmp_path / f"runs/{name}.ipynb")
    (tmp_path / "runs/.failed").mkdir()
    (tmp_path / "runs/.failed/20_train.ipynb").write_text("not to be shown")
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  extract:\n    cmd: x\n    deps:\n    - {path: data, md5: 0123.dir}\n"
        "    outs:\n    - {path: features, md5: 4567.dir}\n    - {path: runs/tables/extract.json, md5: '89'}\n"
    )
    return tmp_path


@pytest.fixture
def pages(project):
    written = report.write(project)
    names = ["index", "10_extract", "40_evaluate", "datasheet", "model_card"]
    assert [path.name for path in written] == [f"{name}.html" for name in names]
    return {path.stem: BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in written}


def test_alarms(project, pages):
    assert "Test set: ASVspoof 2021 DF, subset eval" in _plain(pages["index"].main)
    assert not pages["index"].select("[role=alert]")
    alarms = ["is the polarity <inverted>?", "there are no bona fide trials"]
    (project / "runs/tables/alarms.json").write_text(json.dumps({"alarms": alarms}))
    report.write(project)
    page = BeautifulSoup((project / "reports/index.html").read_text("utf-8"), "html.parser")
    assert [_plain(box) for box in page.select("[role=alert]")] == [f"Alarm: {alarm}." for alarm in alarms]
    text = _plain(page.main)
    assert text.index("polarity") < text.index("%")


def test_policies(pages):
    table = next(table for table in pages["index"].select("table") if "Policies" in _plain(table.caption))
    rows = [_plain(row) for row in table.tbody.select("tr")]
    assert rows[0] == "equal_error both mistakes equally often 0.00 100"
    assert "at least 95 % of fakes caught" in rows[1]


def _plain(tag):
    return tag.get_text(" ", strip=True).replace("\u00a0", " ")


def cells(table):
    return [[_plain(cell) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]


def captioned(page, caption):
    (found,) = [table for table in page.find_all("table") if table.caption and table.caption.get_text() == caption]
    return cells(found)


def test_same_bytes(project):
    first = {path: path.read_bytes() for path in report.write(project)}
    assert {path: path.read_bytes() for path in report.write(project)} == first
    for data in first.values():
        assert str(project).encode() not in data and b"uuid" not in data
        assert not re.search(rb"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", data)
        assert not re.search(rb"[ \t]\n", data)


def test_offline(pages):
    for page in pages.values():
        assert not page.find_all(["script", "link", "iframe"])
        for tag in page.find_all(src=True):
            assert tag["src"].startswith("data:")
        assert not re.search(r"url\(|@import", page.style.get_text())


def test_accessible(pages):
    for page in pages.values():
        assert page.html["lang"] == "en" and page.find("meta", attrs={"name": "viewport"}) and page.title.get_text()
        assert "prefers-color-scheme: dark" in page.style.get_text()
        for landmark in ("header", "nav", "main", "footer"):
            assert len(page.find_all(landmark)) == 1, landmark
        assert page.body.find("a")["href"] == f"#{page.main['id']}"  # the first thing the tab key reaches
        assert len(page.find_all("h1")) == 1
        levels = [int(tag.name[1]) for tag in page.find_all(re.compile("^h[1-6]$"))]
        assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
        (here,) = page.find_all(attrs={"aria-current": "page"})
        assert here.find_parent("nav")
        assert all(tag.get("alt") for tag in page.find_all("img"))
        assert all(tag.get("aria-label") for tag in page.find_all("svg"))
        for tag in page.select(".scroll"):
            assert tag["tabindex"] == "0" and tag["aria-label"]
        ids = [tag["id"] for tag in page.find_all(id=True)]
        assert len(ids) == len(set(ids))
        for tag in page.find_all(attrs={"aria-labelledby": True}):
            assert tag["aria-labelledby"] in ids
    for name in ("index", "datasheet", "model_card"):
        for table in pages[name].find_all("table"):
            assert table.caption and table.find("th", scope=True)


def test_numbers(pages):
    page = pages["index"]
    headline = captioned(page, "Results by condition, with 95 % intervals")
    assert headline[0] == ["Measure", "Known attacks", "Unseen attacks", "All attacks"]
    assert headline[1][1:] == ["12.5 11.5 to 14.5", "25.0 24.0 to 27.0", "17.0 16.0 to 19.0"]
    assert {row[0].split(" ")[0] for row in headline} >= {
        "Accuracy",
        "Precision",
        "Recall",
        "F1",
        "minDCF",
        "actDCF",
        "Cllr",
    }
    assert captioned(page, "Known attacks") == [
        ["", "called real", "called fake"],
        ["real voice", "180 90.0 %", "20 10.0 %"],
        ["fake", "10 10.0 %", "90 90.0 %"],
    ]
    assert captioned(page, "Unseen attacks")[1:] == [
        ["real voice", "180 90.0 %", "20 10.0 %"],
        ["fake", "20 40.0 %", "30 60.0 %"],
    ]
    lead = _plain(page.select_one(".lead"))
    assert "errs in 12.5 %" in lead and "about one in 8" in lead and "it is 25.0 % (24.0 % to 27.0 %)" in lead
    assert [_plain(tag) for tag in page.select(".tiles .value")] == ["12.5 %", "12.5 %", "25.0 %", "25.0 %", "17.0 %"]
    assert ["eval", "fake", "2", "1.00", "2", "2"] in captioned(page, "Recordings that were used")
    # the robot has no voice of its own, and belongs to an unseen attack
    assert captioned(page, "By speaker")[3][3:] == ["0", "", "0", "", "", "1", "0.0", ""]
    assert "a speaker whom neither training" in page.get_text()
    assert "<tts>" in {row[1] for row in captioned(page, "By kind of attack")}
    assert "123,456 parameters" in page.get_text(" ", strip=True)
    settings = captioned(page, "params.yaml")
    rows = {name: rest for name, *rest in settings}
    assert rows["train"] == [] and "workers" not in rows
    assert rows["threads"][0].isdigit() and "torch" in rows["threads"][1]
    assert {line.get_text() for line in page.find_all("dt")} >= {"data", "features", "requirements.lock"}
    assert "md5 4567.dir" in page.dl.get_text() and "metrics/" not in page.dl.get_text()
    points = page.find("polyline")["points"].split()
    assert len(points) == 3 and points[0] == "34.0,10.0"


def test_one_condition(project):
    write_measured(project, {"all": measured(0.0005, 150)})
    report.write(project)
    text = (project / "reports/index.html").read_text("utf-8")
    assert "fewer than one in a thousand" in text and "never met" not in text


def test_telephone(project, pages):
    assert "telephone" not in _plain(pages["index"].main)
    headline, _ = report._measured(project)
    write_measured(project, headline, {"known": measured(0.375, 30), "all": measured(0.4375, 60)})
    used = indexes.read(project / "features")
    more = used.iloc[[-1]].assign(split="narrow", speaker="jan")
    indexes.write(project / "features", pd.concat([used, more]))
    (project / "README.md").write_text("<!-- metrics -->\n<!-- /metrics -->\n")
    report.write(project)
    page = BeautifulSoup((project / "reports/index.html").read_text("utf-8"), "html.parser")
    rows = captioned(page, "Telephone speech, measured apart (95 % intervals)")
    assert rows[1] == ["Known attacks", *["37.5 (36.5 to 39.5)"] * 3, "200", "30"]
    assert rows[2][0] == "All attacks" and len(rows) == 3
    assert "errs in 37.5 % of cases with fakes of known kinds" in _plain(page.main)
    assert "(in wide band: 12.5 %)" in _plain(page.main)
    for caption in ("Results by condition, with 95 % intervals", "Known attacks", "By speaker"):
        assert captioned(page, caption) == captioned(pages["index"], caption)
    assert [_plain(tag) for tag in page.select(".tiles .value")] == [
        _plain(tag) for tag in pages["index"].select(".tiles .value")
    ]
    assert ["narrow", "fake", "1", "0.50", "1", "1"] in captioned(page, "Recordings that were used")
    assert "a speaker whom neither training" in page.get_text()  # jan is in eval and narrow, which train nobody
    report.update_readme(project)
    assert (project / "README.md").read_text().splitlines()[1] == (
        "| Measure | Known attacks | Unseen attacks | All attacks |"
    )


def test_one_class(project):
    """Nothing could be measured: the page says why, and shows what there is."""
    write_measured(project, {})
    (project / "runs/tables/alarms.json").write_text(json.dumps({"alarms": ["there are no bona fide trials"]}))
    report.write(project)
    page = BeautifulSoup((project / "reports/index.html").read_text("utf-8"), "html.parser")
    assert "no bona fide trials" in _plain(page.select_one("[role=alert]"))
    assert "Nothing could be measured" in _plain(page.main) and not page.select(".tiles, .headline")
    assert page.select("table.confusion")


def test_model_card(project, pages):
    page = pages["model_card"]
    errors = captioned(page, "Eval, with 95 % intervals")[1]
    assert errors == ["Equal error rate (%)", "12.5 11.5 to 14.5", "25.0 24.0 to 27.0", "17.0 16.0 to 19.0"]
    assert "Wear was not measured" in _plain(page.main) and "md5 4567.dir" not in _plain(page.dl)
    assert [tag["href"] for tag in pages["index"].main.find_all("a") if "model_card" in tag["href"]]
    conditions = {"clean": {"eer": 0.5}, "gsm": {"eer": 0.75}}
    (project / "runs/tables/robustness.json").write_text(json.dumps({"conditions": conditions}))
    (project / "runs/tables/alarms.json").write_text(json.dumps({"alarms": ["upside <down>"]}))
    report.write(project)
    page = BeautifulSoup((project / "reports/model_card.html").read_text("utf-8"), "html.parser")
    assert "75.0" in _plain(page.main) and "Wear was not" not in _plain(page.main)
    assert _plain(page.select_one("[role=alert]")) == "Alarm: upside <down>."


def test_speaker_in_two_splits(project):
    used = indexes.read(project / "features").copy()
    used.loc[used["label"].eq("bonafide") & used["speaker"].eq("anna"), "split"] = "train"
    indexes.write(project / "features", used)
    report.write(project)
    assert "Training or dev has heard 1 of the speakers" in (project / "reports/index.html").read_text("utf-8")


def test_notebook_page(pages):
    page = pages["10_extract"]
    assert page.title.get_text() == page.h1.get_text() == "10 Extract: what is seen"
    assert page.details.summary.get_text() == "Code [1]" and not page.details.has_attr("open")
    assert "secret" in page.details.get_text() and "secret" not in page.details.find_next_sibling().get_text()
    assert page.img["alt"] == "A red <dot>" and page.find("table").find_parent(class_="scroll")
    assert "printed" in page.get_text()
    targets = [tag["href"] for tag in page.article.find_all("a")]
    assert targets == ["40_evaluate.html", "../notebooks/00_overview.ipynb", "https://example.org/x.ipynb"]
    assert [tag.get_text() for tag in page.nav.find_all("a")] == [
        "Results", "10 Extract", "40 Evaluate", "Datasheet", "Model card"
    ]  # fmt: skip
    assert [tag["href"] for tag in pages["index"].main.find_all("a") if "datasheet" in tag["href"]]


def result(system, seed, dev, known, unseen, kind="network", **more):
    def measures(eer):
        row = {"n_bonafide": 200, "n_spoof": 150}
        for name in ("eer", "min_dcf", "cllr", "accuracy", "precision", "recall", "f1"):
            row |= {name: eer, f"{name}_low": eer - 0.05, f"{name}_high": eer + 0.1}
        return row

    everything = {"known": measures(known), "unseen": measures(unseen), "all": measures((known + unseen) / 2)}
    attacks = {"world": ("known", known), "<tts>": ("unseen", unseen)}
    return {
        "key": "k", "corpus": "c0ffee", "system": system, "about": f"a {system}", "kind": kind, "seed": seed,
        "commit": "abc123", "made_with": {"torch": "0.4", "processor": "abacus"}, "parameters": 1234,
        "minutes": 3.0, "milliseconds": 20.0, "dev": measures(dev), "eval": everything,
        "share": {name: measures(row["eer"] / 2) | {"n_bonafide": 6, "n_spoof": 4} for name, row in everything.items()},
        "by_attack": {
            attack: {"condition": condition, "n_spoof": 75, "eer": eer, "eer_low": eer - 0.01, "eer_high": eer + 0.01}
            for attack, (condition, eer) in attacks.items()
        },
    } | more  # fmt: skip


BOARD = {
    "data": "0123.dir",
    "counts": {"dev": {"bonafide": 5, "spoof": 6}, "eval": {"bonafide": 1200, "spoof": 8}},
    "systems": {
        "small": {"about": "x"},
        "report": {"file": "seed.yaml", "claimed": {"accuracy": 69.81, "f1": 61.15, "of": "<unnamed> data"}},
        "lost": {"about": "x"},
    },
    "results": [
        result("small", 1, 0.2, 0.1, 0.3), result("small", 2, 0.3, 0.2, 0.5),
        result("report", 1, 0.15, 0.4, 0.45, milliseconds=40.0),
        result("mixtures", 1, 0.35, 0.3, 0.3, "baseline", parameters=None, milliseconds=None),
        result("old", 1, 0.4, 0.45, 0.61, "published", minutes=None, milliseconds=900.0),
    ],
}  # fmt: skip


@pytest.fixture
def board(project):
    """The leaderboard's page."""
    (project / "metrics/leaderboard.json").write_text(json.dumps(BOARD))
    assert "leaderboard.html" in [path.name for path in report.write(project)]
    return BeautifulSoup((project / "reports/leaderboard.html").read_text("utf-8"), "html.parser")


def test_leaderboard(board):
    errors = captioned(board, "On eval, sorted by the equal error rate on dev")
    assert [row[0].split()[1] for row in errors[1:]] == ["report", "small", "mixtures", "old"]  # by dev, not by eval
    assert errors[2][1:5] == [
        "25.0 20.0 to 35.0 seeds 20.0 to 30.0", "15.0 10.0 to 25.0 seeds 10.0 to 20.0",
        "40.0 35.0 to 50.0 seeds 30.0 to 50.0", "27.5 22.5 to 37.5 seeds 20.0 to 35.0",
    ]  # fmt: skip
    assert errors[2][5] == "0.275 0.225 to 0.375" and "seeds" not in "".join(errors[1])
    assert "published weights, not trained here; on 350 recordings of dev and 350 of eval" in errors[4][0]
    costs = captioned(board, "Size and time, on one core")
    assert costs[2][1:] == ["1,234", "3.0", "20", "2", "350 and 350"]
    assert costs[3][1] == costs[3][3] == "" and costs[4][2] == ""
    part = captioned(board, "Equal error rates on that part of eval")
    assert part[4][1:] == ["22.5 17.5 to 32.5", "30.5 25.5 to 40.5", "26.5 21.5 to 36.5"] and len(part) == 5
    assert "On the same 10 recordings" in board.get_text()
    (heat,) = board.select("table.heat")
    rows = cells(heat)
    assert rows[0] == ["Attack", "report", "small", "mixtures", "old"]
    assert rows[1:3] == [["Known attacks"], ["world 75 fakes", "40.0 39.0 to 41.0", "15.0 14.0 to 16.0",
                                            "30.0 29.0 to 31.0", "45.0 44.0 to 46.0"]]  # fmt: skip
    assert rows[4][0] == "<tts> 75 fakes" and [td["style"] for td in heat.select("td")][0] == "--share: 0.40"
    claims = captioned(board, "Claimed and measured: report (%)")
    assert claims[1:] == [["Accuracy", "69.81", "42.5 37.5 to 52.5"], ["F1", "61.15", "42.5 37.5 to 52.5"]]
    text = _plain(board.main)
    assert "They were not measured here, and are of <unnamed> data." in text.replace("\n", " ")
    lead = _plain(board.select_one(".lead"))
    assert lead.startswith("Of 4 systems, report errs least on dev") and "in 15.0 % of cases (10.0 % to 25.0 %)" in lead
    assert "Without results so far: lost." in text
    described = dict(
        zip((_plain(tag) for tag in board.select("dt")), (_plain(tag) for tag in board.select("dd")), strict=True)
    )
    assert described["data"] == "md5 0123.dir" and described["waveforms of it"] == "c0ffee"
    assert described["code, at commit"] == "abc123" and described["eval"] == "1,200 bonafide and 8 spoof"


def test_leaderboard_page(project, pages, board):
    assert not (pages["index"].select('a[href="leaderboard.html"]'))
    index = BeautifulSoup((project / "reports/index.html").read_text("utf-8"), "html.parser")
    assert len(index.main.select('a[href="leaderboard.html"]')) == 1
    assert [tag.get_text() for tag in index.nav.find_all("a")][-3:-1] == ["Leaderboard", "Datasheet"]
    test_accessible({"index": board, "datasheet": index, "model_card": index, "leaderboard": board})
    test_offline({"leaderboard": board})
    assert [int(tag["width"]) <= 480 for tag in board.find_all("img")] == [True, True]
    assert "report, 40.0 % (35.0 % to 50.0 %)" not in board.find("img")["alt"]
    assert "known attacks lowest for small, 15.0 %" in _plain_alt(board.find("img"))
    assert not board.select(".chosen") and not board.select("[role=note]")
    test_same_bytes(project)
    chosen = {"sentence": "It came <first> in folds.", "data": "89ab.dir"}
    (project / "metrics/selection.json").write_text(json.dumps(chosen))
    (project / "metrics/leaderboard.json").write_text(json.dumps(BOARD | {"data": "4567.dir"}))
    report.write(project)
    page = BeautifulSoup((project / "reports/leaderboard.html").read_text("utf-8"), "html.parser")
    of = "These rows were measured on another corpus, or on an earlier build of this one (data md5"
    text = _plain(page.select_one(".chosen"))
    assert f"It came <first> in folds. {of} 89ab.dir); `make select` measures them anew." in text
    assert _plain(page.select_one("[role=note]")) == f"{of} 4567.dir); `make leaderboard` measures them anew."
    (project / "metrics/leaderboard.json").write_text(json.dumps(BOARD | {"results": []}))
    report.write(project)
    assert "Nothing has been measured yet" in (project / "reports/leaderboard.html").read_text("utf-8")
    (project / "metrics/leaderboard.json").unlink()
    report.write(project)
    assert not (project / "reports/leaderboard.html").exists()
    assert "leaderboard.html" not in (project / "reports/index.html").read_text("utf-8")


def _plain_alt(image):
    return image["alt"].replace("\u00a0", " ")


def test_leaderboard_figures():
    ranked = standings.table(BOARD["results"])
    runs = pd.DataFrame(
        [
            {
                "system": one["system"],
                "eer_known": one["eval"]["known"]["eer"],
                "eer_unseen": one["eval"]["unseen"]["eer"],
            }
            for one in BOARD["results"]
        ]
    )
    (axes,) = plots.standings(ranked, runs).axes
    means = {box.get_label(): box.lines[0].get_xdata().round(6).tolist() for box in axes.containers}
    assert means == {"known attacks": [40, 15, 30, 45], "unseen attacks": [45, 40, 30, 61]}
    strokes = [line.get_xdata().round(6).tolist() for line in axes.lines if line.get_marker() == "|"]
    assert sorted(strokes) == [[10, 20], [30, 50]]  # of the one with two seeds
    bars = axes.containers[0].lines[2][0].get_segments()
    assert [bar[:, 0].round(6).tolist() for bar in bars] == [[35, 50], [10, 25], [25, 40], [40, 55]]
    assert [text.get_text() for text in axes.texts] == ["1  report", "2  small", "3  mixtures", "4  old"]
    (axes,) = plots.cost(ranked).axes
    places = sorted(tuple(place) for dots in axes.collections for place in dots.get_offsets().round(6).tolist())
    assert places == [(20, 27.5), (40, 42.5), (900, 53)] and axes.get_xscale() == "log"
    assert {text.get_text() for text in axes.texts} == {"1", "2", "4"}  # the third was not timed
    (front,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert front.get_xdata().tolist() == [20]  # quickest and best at once
    for make in (lambda: plots.standings(ranked, runs), lambda: plots.cost(ranked)):
        assert plots.png(make()) == plots.png(make())
        assert make().axes[0].get_title(loc="left") and make().axes[0].get_xlabel()
    plots.png(plots.standings(ranked.filter(regex="^(system|dev_eer|eer_all.*)$"), runs.assign(eer_all=0.2)))


@pytest.mark.parametrize(
    "name", ["runs/tables", "runs/tables/eval.csv", "metrics/confusion.csv", "features/index.arrow"]
)
def test_missing(project, name):
    shutil.rmtree(project / name) if name == "runs/tables" else (project / name).unlink()
    name = name.replace("runs/tables/", "tables/")  # where it would have been copied to
    with pytest.raises(UserError, match=re.escape(f"{name} is missing: run `dvc repro`")):
        report.write(project)


def test_readme(project):
    path = project / "README.md"
    path.write_text("before\n<!-- metrics -->\nold\n<!-- /metrics -->\nafter\n")
    report.write(project)
    with pytest.raises(UserError, match="README.md does not show"):
        report.update_readme(project, only_check=True)
    report.update_readme(project)
    report.update_readme(project, only_check=True)
    lines = path.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert lines[2] == "| Measure | Known attacks | Unseen attacks | All attacks |"
    assert lines[4].startswith("| Equal error rate (%) | 12.5 (11.5 to 14.5) | 25.0 (24.0 to 27.0) |")
    path.write_text("no place for it")
    with pytest.raises(UserError, match="README.md needs the lines"):
        report.update_readme(project)


def test_committed_readme_is_current(tmp_path):
    """Of the last commit, not of the working tree: another machine's figures there are no mistake yet."""
    (tmp_path / report.TABLES).mkdir(parents=True)
    for name in ("README.md", f"{report.TABLES}/eval.csv"):
        shown = subprocess.run(["git", "show", f"HEAD:./{name}"], cwd=ROOT, capture_output=True)
        if shown.returncode:
            pytest.skip(f"git has no {name} here")
        (tmp_path / name).write_bytes(shown.stdout)
    report.update_readme(tmp_path, only_check=True)


def test_provenance(project):
    rows = dict(report._provenance(project))
    assert rows["trained with"] == "python 3.0, torch 0.4, numpy 0.2, librosa 0.1"


def test_plots_page(project):
    from dvc_render.html import HTML
    from dvc_render.vega import VegaRenderer

    text = report.write_plots_page(project).read_text("utf-8")
    page = HTML(text).with_scripts(VegaRenderer.SCRIPTS).with_element("<p>a plot</p>").embed()
    assert "<p>a plot</p>" in page and "vegaEmbed" in page
    assert "jsdelivr" not in page and not re.search(r"<script[^>]+src", page)


def test_confusion_template():
    import vl_convert

    revisions, conditions, labels = ("HEAD", "workspace"), ("known", "unseen"), ("bonafide", "spoof")
    cells = list(itertools.product(revisions[::-1], conditions, labels, labels))  # dvc begins with the workspace
    columns = ("rev", "condition", "actual", "predicted", "trials")
    values = [dict(zip(columns, (*cell, str(i + 1)), strict=True)) for i, cell in enumerate(cells)]
    template = (ROOT / ".dvc/plots/confusion_counts.json").read_text("utf-8")
    filled = {'"<DVC_METRIC_DATA>"': json.dumps(values), "<DVC_METRIC_X>": "actual", "<DVC_METRIC_Y>": "predicted"}
    for anchor, text in filled.items():
        template = template.replace(anchor, text)
    found = {}

    def walk(element, x, y):  # where each text stands on the page, with the shifts of all that holds it
        shift = re.match(r"translate\(([-\d.]+),([-\d.]+)\)", element.get("transform", ""))
        x, y = (x + float(shift[1]), y + float(shift[2])) if shift else (x, y)
        if count := re.match(r"(\d+) \(", element.text or ""):
            found[int(count[1])] = x, y
        for child in element:
            walk(child, x, y)

    walk(ElementTree.fromstring(vl_convert.vegalite_to_svg(template)), 0, 0)
    assert len(found) == len(cells)
    places = {cell: found[i + 1] for i, cell in enumerate(cells)}
    across, down = ({places[cell][i] for cell in cells} for i in (0, 1))
    for (revision, condition, actual, predicted), (x, y) in places.items():
        assert sorted(across).index(x) == 2 * conditions.index(condition) + labels.index(predicted)
        assert sorted(down).index(y) == 2 * revisions.index(revision) + labels.index(actual)
