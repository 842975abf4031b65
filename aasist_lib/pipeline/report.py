"""Web pages that work offline: an index of results, a page per executed notebook, datasheet and model card.

The same results give the same bytes. Their origin is stated by content (hashes, settings, versions), not by time, host
or commit: a page in git cannot name the commit that contains it.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from aasist_lib import evaluation, params, plots
from aasist_lib.base import files, provenance
from aasist_lib.base.errors import UserError
from aasist_lib.corpora.copies import is_vocoded
from aasist_lib.pipeline import datasheet, modelcard, standings
from aasist_lib.store import indexes

TEMPLATES = Path(__file__).with_name("templates")
MEASURED = ("alarms", "extract", "train", "operating_points", "calibration")  # of metrics/tables/, for the model card
AUDITS = ("shortcuts", "robustness", "adversarial", "holdout")
TABLES = "metrics/tables"
README = ("eer", "accuracy", "precision", "recall", "f1", "min_dcf")  # rows of its table
BOARD = "Leaderboard: which detector errs least?"

# explanations of the measures for readers new to them
MEANING = {
    "eer": "at the threshold where both kinds of error are equally frequent; guessing gives 50",
    "rocch_eer": "the same, if one may mix two thresholds; never above 50, so it hides a detector upside down",
    "bonafide_rejected": "at the threshold that dev chose",
    "spoof_accepted": "at the same threshold",
    "accuracy": "of all decisions",
    "precision": "of what was called fake, so much was; depends on how many fakes the test holds",
    "recall": "of the fakes, so much was found",
    "f1": "harmonic mean of precision and recall",
    "auc": "how often a fake scores lower than a real voice, of all pairs; guessing gives 50",
    "min_dcf": "expected cost at the best threshold for these recordings; 1 is deciding without listening",
    "act_dcf": "expected cost at the threshold that calibration implies; close to minDCF if that is right",
    "cllr": "how far the likelihood ratios can be trusted; 0 is perfect, 1 says nothing",
    "min_cllr": "what is left of Cllr after the best recalibration: what the scores cannot tell apart",
}


def write(root: Path) -> list[Path]:
    """Write reports/: index, a page for each notebook in `runs/`, datasheet, model card, and the figure of README.md.

    The leaderboard gets a page if `metrics/leaderboard.json` exists. `runs/tables/`, kept by DVC, is first copied to
    `metrics/tables/`, kept by git.

    Parameters
    ----------
    root
        Top folder of the project.

    Returns
    -------
    pages
        Paths of the pages.

    Raises
    ------
    UserError
        Results of a stage are missing.
    """
    if not (root / "runs/tables").is_dir():
        raise UserError("runs/tables is missing: run `dvc repro`")
    # a stage with outputs in git (other than metrics and plots) has no run cache
    shutil.rmtree(root / TABLES, ignore_errors=True)
    shutil.copytree(root / "runs/tables", root / TABLES)
    notebooks = sorted((root / "runs").glob("*.ipynb"))
    used = _index(root / "features")
    stages = [(f"{path.stem}.html", _title(path)) for path in notebooks]
    board = root / "metrics/leaderboard.json"
    others = [("leaderboard.html", BOARD)] if board.is_file() else []
    nav = [
        ("index.html", "Results"),
        *stages,
        *others,
        ("datasheet.html", "Datasheet"),
        ("model_card.html", "Model card"),
    ]
    pages = {"index.html": ("index.html.j2", {"title": "Real voice or fake?", **_results(root, used)})}
    known = {name for name, _ in nav}
    for path, (name, title) in zip(notebooks, stages, strict=True):
        pages[name] = ("stage.html.j2", {"title": title, "body": Markup(_body(path, known))})
    if others:
        pages["leaderboard.html"] = ("leaderboard.html.j2", {"title": BOARD, **_board(root, board)})
    sheet = _datasheet(root, used)
    pages["datasheet.html"] = ("datasheet.html.j2", {"title": "Datasheet of the corpus", **sheet})
    card = _model_card(root, used) | {"ours": sheet["ours"]}
    pages["model_card.html"] = ("model_card.html.j2", {"title": "Model card of the detector", **card})
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = root / "reports"
    folder.mkdir(exist_ok=True)
    if not others:
        (folder / "leaderboard.html").unlink(missing_ok=True)
    for name, (template, values) in pages.items():
        text = templates.get_template(template).render(nav=nav, page=name, **values)
        files.write(folder / name, "\n".join(line.rstrip() for line in text.splitlines()) + "\n")
    (folder / "confusion.png").write_bytes(plots.png(plots.confusion(_csv(root / "metrics/confusion.csv"))))
    write_plots_page(root)
    return [folder / name for name in pages]


def update_readme(root: Path, *, only_check: bool = False) -> None:
    """Write the table of metrics into README.md, or, with `only_check`, raise UserError if it is outdated."""
    path = root / "README.md"
    old = path.read_text(encoding="utf-8")
    table = evaluation.headline_table(_measured(root)[0])
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


def _datasheet(root: Path, used: pd.DataFrame) -> dict:
    rejected = _json(root / TABLES / "extract.json").get("rejected", 0)
    corpus = params.read("corpus", root / "params.yaml")
    return datasheet.values(used, corpus, root / "runs/acoustics.npz", rejected)


def _model_card(root: Path, used: pd.DataFrame) -> dict:
    results = {name: _json(root / TABLES / f"{name}.json") for name in MEASURED}
    results |= {name: _csv(root / f"metrics/{name}.csv") for name in ("by_attack", "by_speaker")}
    results["audit"] = {}
    for path in (root / TABLES / f"{name}.json" for name in AUDITS):
        results["audit"] |= _json(path) if path.is_file() else {}
    results["network"] = _json(root / "models/network/network.json")
    results["detector"] = _json(root / "models/detector/calibration.json")
    results["headline"], results["narrow"] = _measured(root)
    summary = _summary(results["headline"])
    return modelcard.values(results, used, _provenance(root)) | {"summary": summary}


def _measured(root: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """Measures of eval and of the split narrow, by condition."""
    return evaluation.apart(_csv(root / TABLES / "eval.csv"))


def _board(root: Path, board: Path) -> dict:
    """Content of the leaderboard page, and how the default was chosen if metrics/selection.json exists."""
    selection = root / "metrics/selection.json"
    chosen, data = _json(selection) if selection.is_file() else {}, standings.data_of(standings.stages(root))
    words = chosen.get("sentence", ""), standings.stale(chosen, data, "make select")
    return standings.values(_json(board), " ".join(filter(None, words)), data)


def _results(root: Path, used: pd.DataFrame) -> dict:
    """Content of the index, from metrics/, the index of features/ (`used`), params.yaml and dvc.lock."""
    metrics, tables = root / "metrics", root / TABLES
    headline, narrow = _measured(root)
    meaning = {words: MEANING.get(key, "") for key, (words, _) in evaluation.MEASURES.items()}
    calibrated = _json(root / "models/detector/calibration.json")
    return {
        "headline": headline,
        "alarms": _json(tables / "alarms.json")["alarms"],
        "test_set": _json(tables / "extract.json")["test_set"],
        "points": evaluation.operating_points_table(_json(tables / "operating_points.json"), calibrated),
        "policy": calibrated["policy"],
        "summary": _summary(headline),
        "table": evaluation.headline_table(headline),
        "meaning": meaning,
        "confusion": _confusion(_csv(metrics / "confusion.csv")),
        "attacks": evaluation.readable(_csv(metrics / "by_attack.csv")),
        "speakers": evaluation.readable(_csv(metrics / "by_speaker.csv")),
        "telephone": _telephone(headline, narrow),
        "corpus": _corpus(used),
        "speakers_in_two_splits": _speakers_in_two_splits(used),
        "training": _json(tables / "train.json"),
        "history": _curves(_csv(metrics / "history.csv")),
        "settings": _settings(root / "params.yaml"),
        "provenance": _provenance(root),
        "percent": lambda share: f"{100 * share:.1f}\u00a0%",
        "conditions": evaluation.CONDITIONS,
    }


def _summary(headline: dict) -> str:
    """The results in plain words."""

    def percent(row, key):
        return f"{100 * row[key]:.1f}\u00a0%"

    def wrong(share):
        return f"about one in {round(1 / share)}" if share > 0.001 else "fewer than one in a thousand"

    if not headline:
        return "Nothing could be measured."
    first = headline.get("known") or next(iter(headline.values()))
    kinds = "fakes of kinds that training has seen" if "known" in headline else "the fakes of the test"
    words = (
        f"Set against {kinds}, the detector errs in {percent(first, 'eer')} of cases when both kinds of error "
        f"are equally frequent, {wrong(first['eer'])} (95\u00a0% interval {percent(first, 'eer_low')} to "
        f"{percent(first, 'eer_high')})."
    )
    if "known" in headline and "unseen" in headline:
        unseen = headline["unseen"]
        words += (
            f" For kinds that it has never met it is {percent(unseen, 'eer')} ({percent(unseen, 'eer_low')} to "
            f"{percent(unseen, 'eer_high')}); guessing would give 50\u00a0%. At the threshold chosen beforehand "
            f"it finds {percent(first, 'recall')} of the known kinds of fakes and {percent(unseen, 'recall')} of the "
            f"unseen ones, and calls {percent(first, 'bonafide_rejected')} of real voices fake."
        )
    return words


def _telephone(headline: dict, narrow: dict) -> dict | None:
    """A sentence and a small table on the split narrow; None if there is none."""
    if not narrow:
        return None

    def percent(row, key):
        return f"{100 * row[key]:.1f}\u00a0%"

    condition = next(iter(narrow))
    row, before = narrow[condition], headline.get(condition)
    instead = f" (in wide band: {percent(before, 'eer')})" if before else ""
    kinds = {"known": " with fakes of known kinds", "unseen": " with fakes of unseen kinds"}.get(condition, "")
    words = (
        "Speech as the telephone passes it, of which neither training nor dev has any, is measured apart, with the "
        f"same detector and the same threshold: it errs in {percent(row, 'eer')} of cases{kinds} when both kinds of "
        f"error are equally frequent{instead}, and calls {percent(row, 'bonafide_rejected')} of real voices fake."
    )
    columns = ("eer", "bonafide_rejected", "spoof_accepted", "n_bonafide", "n_spoof")
    rows = []
    for name, values in narrow.items():
        cells = {"Condition": evaluation.CONDITIONS[name]}
        for key in columns:
            heading, is_share = evaluation.MEASURES[key]
            ends = (values[key], values.get(f"{key}_low"), values.get(f"{key}_high"))
            cells[heading] = evaluation.interval(*ends, percent=is_share)
        rows.append(cells)
    return {"words": words, "table": pd.DataFrame(rows)}


def _confusion(table: pd.DataFrame) -> list[dict]:
    """Counts and row shares of the confusion matrices by condition."""
    matrices = []
    for condition, cells in table.groupby("condition", sort=False):
        trials = cells.set_index(["actual", "predicted"])["trials"]
        rows = []
        for actual in ("bonafide", "spoof"):
            counts = [int(trials[actual, predicted]) for predicted in ("bonafide", "spoof")]
            rows.append((actual, [(count, count / max(sum(counts), 1)) for count in counts]))
        matrices.append({"words": evaluation.CONDITIONS[condition], "rows": rows})
    return matrices


def _corpus(table: pd.DataFrame) -> pd.DataFrame:
    """Utterances, hours, speakers and attacks by split and class."""
    rows = [
        {
            "Split": split,
            "Class": {"bonafide": "real", "spoof": "fake"}[label],
            "Utterances": len(group),
            "Hours": f"{group['seconds'].astype(float).sum() / 3600:.2f}",
            "Speakers": group["speaker"].nunique(),
            "Kinds of attack": group["attack"].nunique() if label == "spoof" else "",
        }
        for split in datasheet.SPLITS
        for label, group in table[table["split"] == split].groupby("label", sort=True)
    ]
    return pd.DataFrame(rows)


def _speakers_in_two_splits(table: pd.DataFrame) -> int:
    """Number of eval speakers who are in train or dev; -1 if speakers are unknown."""
    if (table["speaker"] == "").any():
        return -1
    heard = table["split"].isin(("train", "dev"))
    return len(set(table.loc[table["split"] == "eval", "speaker"]) & set(table.loc[heard, "speaker"]))


def _curves(history: pd.DataFrame) -> list[dict]:
    """Points of the learning curves, in a view box of 300 by 150."""
    figures = []
    for title, unit, factor, columns in (
        ("Loss", "", 1, {"train_loss": "train", "dev_loss": "dev"}),
        ("Equal error rate on dev", " %", 100, {"dev_eer": "dev"}),
    ):
        columns = {column: name for column, name in columns.items() if column in history}
        top = factor * max((history[column].max() for column in columns), default=0)
        if not top > 0:
            continue
        last = max(len(history) - 1, 1)
        lines = [
            {
                "name": name,
                "last": f"{factor * history[column].iloc[-1]:.3g}{unit}",
                "points": " ".join(
                    f"{34 + 256 * epoch / last:.1f},{132 - 122 * factor * value / top:.1f}"
                    for epoch, value in enumerate(history[column])
                ),
            }
            for column, name in columns.items()
        ]
        figures.append({"title": title, "top": f"{top:.3g}{unit}", "epochs": len(history), "lines": lines})
    return figures


def _settings(path: Path) -> list[dict]:
    """Sections of params.yaml with their comments, without `workers`, which changes no result."""
    sections, general = [], {"name": "general", "rows": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        found = re.match(r"( *)(\w+):\s*((?:[^#\s][^#]*?)?)\s*(?:#\s*(.*))?$", line)
        if not found:
            continue
        indent, key, value, comment = found.groups()
        if not indent and not value:
            sections.append({"name": key, "rows": []})
        elif key != "workers":
            (sections[-1] if indent else general)["rows"].append((key, value, comment or ""))
    return [general, *sections]


def _provenance(root: Path) -> list[tuple[str, str]]:
    """Origin of the results: hashes of the stages' outputs, settings and versions."""
    stages = standings.stages(root)
    data = standings.data_of(stages)
    rows = [("data", f"md5 {data}")] if data else []
    for stage in ("extract", "train", "calibrate", "evaluate"):
        for out in stages.get(stage, {}).get("outs", []):
            if not out["path"].startswith(("metrics/", "runs/tables/")):  # those are in git
                rows.append((out["path"], f"md5 {out['md5']}"))
    with open(root / "requirements.lock", "rb") as file:
        rows.append(("requirements.lock", f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"))
    general = params.load(root / "params.yaml")
    rows.append(("seed and threads", f"{general['seed']}, {general['threads']}"))
    # results may come from DVC's cache: network.json has the versions that trained, not this process
    made_with = _json(root / "models/network/network.json")["made_with"]
    versions = ", ".join(f"{name} {made_with[name]}" for name in ("python", *provenance.LIBRARIES))
    return [*rows, ("trained with", versions)]


def _title(path: Path) -> str:
    """First heading of a notebook."""
    text = "\n".join("".join(cell["source"]) for cell in _json(path)["cells"] if cell["cell_type"] == "markdown")
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else path.stem


def _body(path: Path, pages: set[str]) -> str:
    """An executed notebook as HTML, with folded code."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        raw_template=(TEMPLATES / "notebook.html.j2").read_text(encoding="utf-8"),
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_filename(str(path))

    def link(found):  # notebooks have pages here, or are read in the repository
        name = f"{Path(found[1]).stem}.html"
        return f'href="{name if name in pages else f"../notebooks/{Path(found[1]).name}"}"'

    return re.sub(r'href="([^":]+\.ipynb)"', link, body)


def _json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent.name}/{path.name} is missing: run `dvc repro`") from None


def _index(folder: Path) -> pd.DataFrame:
    """The utterances used, without copies: text columns, empty where missing, and `seconds`."""
    if not (folder / indexes.NAME).exists():
        raise UserError(f"{folder.name}/{indexes.NAME} is missing: run `dvc repro`")
    table = indexes.read(folder)
    columns = "utt_id label speaker attack split condition language source codec pair_id".split()
    found = table.reindex(columns=columns, fill_value="").assign(seconds=table["seconds"])
    return found[~is_vocoded(found)]  # without copies


def _csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise UserError(f"{path.parent.name}/{path.name} is missing: run `dvc repro`") from None
    return table.fillna({column: "" for column in table.select_dtypes(exclude="number")})
