"""Web pages that work offline: one for each executed notebook, with links between them.

The same results give the same bytes. Their origin is stated by content (hashes, settings, versions), not by time, host
or commit: a page in git cannot name the commit that contains it.
"""

import json
import re
import shutil
from pathlib import Path

import pandas as pd

from aasist_lib import evaluation, params, plots
from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline import datasheet

TEMPLATES = Path(__file__).with_name("templates")
TABLES = "metrics/tables"
INDEX, LEADERBOARD = "62_results", "93_leaderboard"  # notebooks: that of index.html, and one that is no stage's
README = ("eer", "accuracy", "precision", "recall", "f1", "min_dcf")  # rows of its table


def write(root: Path) -> list[Path]:
    """Write reports/: a page for each notebook in `runs/`, and the figure of README.md.

    `runs/tables/`, kept by DVC, is first copied to `metrics/tables/`, kept by git.

    Parameters
    ----------
    root
        Top folder of the project.

    Returns
    -------
    pages
        Paths of the pages, the index first.

    Raises
    ------
    UserError
        Results of a stage are missing.
    """
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    if not (root / "runs/tables").is_dir():
        raise UserError("runs/tables is missing: run `dvc repro`")
    # a stage with outputs in git (other than metrics and plots) has no run cache
    shutil.rmtree(root / TABLES, ignore_errors=True)
    shutil.copytree(root / "runs/tables", root / TABLES)
    notebooks = sorted((root / "runs").glob("*.ipynb"), key=lambda path: (path.stem != INDEX, path.stem))
    pages = {path.stem: "index.html" if path.stem == INDEX else f"{path.stem}.html" for path in notebooks}
    nav = [(pages[path.stem], _title(path)) for path in notebooks]
    default = datasheet.is_default(datasheet.utterances(root), params.read("corpus", root / "params.yaml"))
    exporter = HTMLExporter(
        template_name="basic",
        raw_template=(TEMPLATES / "notebook.html.j2").read_text(encoding="utf-8"),
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        config=Config({"TagRemovePreprocessor": {"remove_cell_tags": set() if default else {"default-corpus"}}}),
    )
    resources = {"nav": nav, "style": (TEMPLATES / "style.css").read_text(encoding="utf-8")}

    def link(found):  # notebooks have pages here, or are read in the repository
        stem = Path(found[1]).stem
        return f'href="{pages.get(stem, f"../notebooks/{stem}.ipynb")}"'

    (root / "reports").mkdir(exist_ok=True)
    for path, (name, title) in zip(notebooks, nav, strict=True):
        text, _ = exporter.from_filename(str(path), resources | {"page": name, "title": title})
        text = re.sub(r'href="([^":]+\.ipynb)"', link, text)
        files.write(root / "reports" / name, "\n".join(line.rstrip() for line in text.splitlines()) + "\n")
    confusion = pd.read_csv(root / "metrics/confusion.csv", keep_default_na=False)
    (root / "reports/confusion.png").write_bytes(plots.png(plots.confusion(confusion)))
    write_plots_page(root)
    return [root / "reports" / name for name, _ in nav]


def update_readme(root: Path, *, only_check: bool = False) -> None:
    """Write the table of metrics into README.md, or, with `only_check`, raise UserError if it is outdated."""
    path = root / "README.md"
    old = path.read_text(encoding="utf-8")
    headline, _ = evaluation.apart(pd.read_csv(root / TABLES / "eval.csv"))
    table = evaluation.headline_table(headline)
    table = table[table["Measure"].isin([evaluation.MEASURES[key][0] for key in README])]
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.itertuples(index=False)]
    block = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    new, found = re.subn(
        r"(<!-- metrics -->\n).*?(<!-- /metrics -->)", lambda m: f"{m[1]}{block}\n{m[2]}", old, flags=re.DOTALL
    )
    if found != 1:
        raise UserError("README.md needs the lines <!-- metrics --> and <!-- /metrics -->, once")
    if new == old:
        return
    if only_check:
        raise UserError(f"README.md does not show {TABLES}/eval.csv: run `python -m aasist_lib.pipeline readme`")
    files.write(path, new)


def write_plots_page(root: Path) -> Path:
    """Write `.cache/plots.html`, the template of `dvc plots show`, with its drawing library (0.9 MB) inside."""
    import vl_convert

    page = (TEMPLATES / "plots.html").read_text(encoding="utf-8")
    path = root / ".cache/plots.html"
    path.parent.mkdir(exist_ok=True)
    files.write(path, page.replace("{vega}", vl_convert.javascript_bundle()))
    return path


def _title(path: Path) -> str:
    """First heading of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else path.stem
