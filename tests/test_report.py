"""The pages: readable by everybody, without network, the same bytes again.

| what | test |
|---|---|
| the same results give the same bytes, and no clock or path of the machine | test_same_bytes |
| nothing is loaded from the network | test_offline |
| language, landmarks, one h1, skip link, alternative texts, headings of tables | test_accessible |
| a notebook's page: code folded, tables that scroll, links between pages | test_notebook_page |
| what is true of the default corpus alone is left out where the corpus is another | test_other_corpus |
| the leaderboard has a page where it has results | test_leaderboard |
| tables go from DVC to git; missing results are named | test_tables, test_missing |
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

from aasist_lib import evaluation
from aasist_lib.base import paths
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline import __main__ as commands
from aasist_lib.pipeline import report, run
from aasist_lib.store import indexes

ROOT = Path(__file__).parents[1]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="  # one pixel
NOTEBOOKS = {
    "10_extract": "10 Extract: what is seen",
    "40_evaluate": "40 Evaluate: is it right?",
    "62_results": "Results: real voice or <fake>?",
}


def measured(eer, n_spoof):
    row = {"n_bonafide": 200, "n_spoof": n_spoof}
    for name in evaluation.MEASURES.keys() - row.keys():
        row |= {name: eer, f"{name}_low": eer - 0.01, f"{name}_high": eer + 0.02}
    return row


def executed(title):
    """A notebook with a figure, a table and text."""
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
    made = nbformat.v4.new_markdown_cell("## How it was made", id="made", metadata={"tags": ["default-corpus"]})
    return nbformat.v4.new_notebook(cells=[texts[0], cell, texts[1], made])


@pytest.fixture
def project(tmp_path):
    """Results as stages leave them."""
    for name in ("metrics", "runs/tables", "runs/.failed", "features"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    headline = {"unseen": measured(0.25, 50), "known": measured(0.125, 100), "all": measured(0.17, 150)}
    evaluation.save_csv(tmp_path / "runs/tables/eval.csv", evaluation.table(headline, {}))
    trials = [("known", "bonafide", 1.0)] * 180 + [("known", "spoof", -1.0)] * 90
    table = evaluation.confusion_table(pd.DataFrame(trials, columns=["condition", "label", "llr"]), 0)
    evaluation.save_csv(tmp_path / "metrics/confusion.csv", table)
    row = {"label": "bonafide", "split": "eval", "attack": "", "source": "june", "seconds": 1.0}
    indexes.write(tmp_path / "features", pd.DataFrame([row]))
    for name, title in NOTEBOOKS.items():
        nbformat.write(executed(title), tmp_path / f"runs/{name}.ipynb")
    (tmp_path / "runs/.failed/20_train.ipynb").write_text("not to be shown")
    return tmp_path


@pytest.fixture
def pages(project):
    written = report.write(project)
    assert [path.name for path in written] == ["index.html", "10_extract.html", "40_evaluate.html"]
    return {path.stem: read(path) for path in written}


def read(path):
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


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
        for tag in page.select(".scroll"):
            assert tag["tabindex"] == "0" and tag["aria-label"]
        ids = [tag["id"] for tag in page.find_all(id=True)]
        assert len(ids) == len(set(ids))


def test_notebook_page(pages):
    page = pages["10_extract"]
    assert page.title.get_text() == page.h1.get_text() == "10 Extract: what is seen"
    assert page.details.summary.get_text() == "Code [1]" and not page.details.has_attr("open")
    assert "secret" in page.details.get_text() and "secret" not in page.details.find_next_sibling().get_text()
    assert page.img["alt"] == "A red <dot>" and page.find("table").find_parent(class_="scroll")
    assert "printed" in page.get_text() and "How it was made" in page.get_text()
    targets = [tag["href"] for tag in page.article.find_all("a")]
    assert targets == ["40_evaluate.html", "../notebooks/00_overview.ipynb", "https://example.org/x.ipynb"]
    assert [(tag["href"], tag.get_text()) for tag in page.nav.find_all("a")] == [
        ("index.html", "Results"), ("10_extract.html", "10 Extract"), ("40_evaluate.html", "40 Evaluate")
    ]  # fmt: skip
    assert pages["index"].title.get_text() == "Results: real voice or <fake>?"


def test_other_corpus(project):
    stranger = indexes.read(project / "features").assign(source="somebody")
    indexes.write(project / "features", stranger)
    report.write(project)
    page = read(project / "reports/10_extract.html")
    assert "printed" in page.get_text() and "How it was made" not in page.get_text()


def test_leaderboard(project, monkeypatch):
    def papermill(name):
        nbformat.write(executed("93 Leaderboard: which?"), project / f"runs/{name}.ipynb")
        return status

    monkeypatch.setattr(paths, "root", lambda: project)
    monkeypatch.setattr(run, "run", papermill)
    page, status = project / "reports/93_leaderboard.html", 1
    (project / "metrics/leaderboard.json").write_text("{}")
    assert commands.main(["report"]) == 1 and not page.is_file()
    status = 0
    assert commands.main(["report"]) == 0
    assert read(page).nav.find_all("a")[-1].get_text() == "93 Leaderboard"
    page.unlink()  # as DVC does before a stage
    (project / "metrics/leaderboard.json").unlink()
    assert commands.main(["report"]) == 0 and not page.is_file()


def test_tables(project):
    (project / report.TABLES).mkdir()
    (project / report.TABLES / "old.json").write_text("{}")
    report.write(project)
    assert [path.name for path in (project / report.TABLES).iterdir()] == ["eval.csv"]
    assert (project / "reports/confusion.png").read_bytes().startswith(b"\x89PNG")


def test_missing(project):
    shutil.rmtree(project / "runs/tables")
    with pytest.raises(UserError, match="runs/tables is missing: run `dvc repro`"):
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
