"""The notebooks of the model card, the results and the leaderboard: what they say is what was measured.

| what | test |
|---|---|
| model card: measures, groups, degradations, attacks on purpose and holdout are those of the tables | test_model_card |
| the same where little is known: no sources, no audits, one class | test_little_is_known |
| results: alarms, measures by condition, telephone apart, policies, settings, provenance | test_results |
| leaderboard: order, means, seeds, intervals, attacks, claims, the same part for all | test_leaderboard |
| rows of another build of the corpus are told of | test_stale |
| the figures of the leaderboard show the data; the same bytes twice | test_leaderboard_figures |
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from aasist_lib import evaluation, plots
from aasist_lib.audit import adversarial
from aasist_lib.pipeline import origin, standings
from aasist_lib.store import indexes

ROOT = Path(__file__).parents[1]
AUDITS = ("shortcuts", "robustness", "adversarial", "holdout")
COLUMNS = "label speaker attack split condition language source codec seconds llr".split()
UTTERANCES = pd.DataFrame(
    [
        ("bonafide", "june", "", "train", "", "fr", "june", "pcm", 3600.0, 0.0),
        ("spoof", "june", "world", "train", "", "fr", "june", "pcm", 1800.0, 0.0),
        ("bonafide", "carlo", "", "dev", "", "it", "carlo", "g722", 1800.0, 0.0),
        ("spoof", "carlo", "world", "dev", "", "it", "carlo", "g722", 1800.0, 0.0),
        ("bonafide", "ivrvoice", "", "eval", "", "ru", "ivrvoice", "g722", 1800.0, 2.0),
        ("bonafide", "michael", "", "eval", "", "en", "michael", "pcm", 1800.0, -1.0),
        ("spoof", "ivrvoice", "world", "eval", "known", "ru", "ivrvoice", "g722", 1800.0, -3.0),
        ("spoof", "kokoro-x", "<tts>", "eval", "unseen", "en", "kokoro", "g722", 1800.0, 3.0),
    ],
    columns=COLUMNS,
)
NETWORK = {
    "model": {"name": "cnn_attention", "width": 64}, "parameters": 104874, "seed": 7, "best_epoch": 3,
    "features": {"kind": "mfcc", "sample_rate": 16000}, "train": {"lr": 1e-3}, "augment": {"codecs": ["mp3", "gsm"]},
    "made_with": {"librosa": "0.1", "numpy": "0.2", "python": "3.0", "torch": "0.4"},
}  # fmt: skip
LOCK = """schema: '2.0'
stages:
  extract:
    cmd: x
    deps:
    - {path: data, md5: 0123.dir}
    outs:
    - {path: features, md5: 4567.dir}
    - {path: runs/tables/extract.json, md5: '89'}
"""


@pytest.fixture
def project(tmp_path):
    """The measures of the last run, whatever they are, of a detector and a corpus made up."""
    shutil.copytree(ROOT / "metrics/tables", tmp_path / "runs/tables")
    for name in ("models/network", "models/detector", "features", "scores", "metrics"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for path in (ROOT / "metrics").glob("*.csv"):
        shutil.copy(path, tmp_path / "metrics")
    indexes.write(tmp_path / "features", UTTERANCES)
    scores = UTTERANCES[UTTERANCES["split"] == "eval"]
    scores.to_csv(tmp_path / "scores/eval.csv", index=False)
    points = json.loads((tmp_path / "runs/tables/operating_points.json").read_text())
    detector = {"policy": "equal_error", "thresholds": {name: row["threshold"] for name, row in points.items()}}
    detector |= {"dev_eer": 0.125, "prior_spoof": 0.05, "cost_miss": 1.0, "cost_false_alarm": 10.0}
    (tmp_path / "models/detector/calibration.json").write_text(json.dumps(detector))
    (tmp_path / "models/network/network.json").write_text(json.dumps(NETWORK))
    (tmp_path / "dvc.lock").write_text(LOCK)
    return tmp_path


def measured(project, name):
    return json.loads((project / f"runs/tables/{name}.json").read_text("utf-8"))


def rows(shown, caption):
    """Rows of the table whose caption begins so, by their first cell."""
    (table,) = [table for words, table in shown.tables.items() if words.startswith(caption)]
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)}


def percent(value):
    return round(100 * value, 1)


def test_model_card(project, run_notebook, capsys):
    shown = run_notebook("61_model_card", project)
    headline, narrow = evaluation.apart(pd.read_csv(project / "runs/tables/eval.csv"))
    assert shown.alarms == measured(project, "alarms")["alarms"] + measured(project, "shortcuts")["alarms"]
    for caption, of in (("Eval", headline), ("Telephone speech", narrow)):
        for condition, row in of.items():
            found = rows(shown, caption)["Equal error rate (%)"][evaluation.CONDITIONS[condition]]
            assert found == evaluation.interval(row["eer"], row["eer_low"], row["eer_high"])
    facts = rows(shown, "The detector")
    assert facts["parameters"]["value"] == "104,874" and facts["input"]["value"] == "mfcc, of sound at 16 kHz"
    assert facts["called fake below (LLR)"]["value"] == (
        f"{measured(project, 'operating_points')['equal_error']['threshold']:.2f}"
    )
    assert (ROOT / "LICENSE").read_text("utf-8").startswith(facts["licence"]["value"][:3])
    assert rows(shown, "All settings")["augment.codecs"]["value"] == ["mp3", "gsm"]
    assert rows(shown, "Real recordings that it learnt from") == {"fr": {"language": "fr", "pcm": 1}}
    assert f"{measured(project, 'extract')['copies']:,} more fakes in train" in capsys.readouterr().out
    (by_attack,) = [table for words, table in shown.tables.items() if words.startswith("Fakes by kind")]
    assert by_attack["Attack"].tolist() == ["<tts>", "world"]  # the harder first
    assert list(rows(shown, "Real voices by source")) == ["michael", "ivrvoice"]

    conditions = measured(project, "robustness")["conditions"]
    degraded = rows(shown, "A sample of eval after degradation")
    rooms = [row["eer"] for name, row in conditions.items() if name.startswith("room")]
    assert degraded["Room"]["eer"] == percent(max(rooms)) and degraded["Room"]["eer at its mildest"] == percent(
        min(rooms)
    )
    assert degraded["Clean"]["eer"] == percent(conditions["clean"]["eer"]) and "Band" not in degraded
    rates = [row["eer"] for row in degraded.values()]
    assert rates == sorted(rates, reverse=True)

    changes = measured(project, "adversarial")["adversarial"]
    (table,) = [table for words, table in shown.tables.items() if words.startswith("Fakes changed")]
    assert list(dict.fromkeys(table["change"])) == list(adversarial.METHODS.values())
    for change, db, _, accepted, eer, *_ in table.itertuples(index=False):
        (method,) = [key for key, words in adversarial.METHODS.items() if words == change]
        row = changes[method][db] if db else changes[method]
        assert (accepted, eer) == (percent(row["spoof_accepted"]), percent(row["eer"]))

    held_out = measured(project, "holdout")["held_out"]
    for kind, key in (("attack", "eer"), ("source", "bonafide_rejected")):
        found = rows(shown, f"Left out of training in turn, by {kind}")
        assert {name: row[key] for name, row in found.items()} == {
            name: percent(row[key]) for name, row in held_out[kind].items()
        }
    policies = rows(shown, "Policies")
    for policy, row in measured(project, "operating_points").items():
        assert policies[policy]["Fake below (LLR)"] == f"{row['threshold']:.2f}"
    cllr = rows(shown, "Dev, method affine")["Cllr (bits)"]
    assert cllr["Calibrated"] == f"{measured(project, 'calibration')['after']['cllr']:.3f}"


def test_little_is_known(project, run_notebook, capsys):
    bare = UTTERANCES.assign(speaker="", language="", source="", codec="", condition="")
    indexes.write(project / "features", bare)
    bare[(bare["split"] == "eval") & (bare["label"] == "spoof")].to_csv(project / "scores/eval.csv", index=False)
    evaluation.save_csv(project / "runs/tables/eval.csv", evaluation.table({}, {}))
    empty = {"alarms": [], "shortcuts": {}, "pairs": {}, "conditions": {}, "adversarial": {}, "held_out": {}}
    for name in AUDITS:
        evaluation.save_json(project / f"runs/tables/{name}.json", empty)
    shown = run_notebook("61_model_card", project)
    assert not rows(shown, "Eval") and not rows(shown, "Real voices by source")
    assert set(rows(shown, "Real recordings that it learnt from")) == {"unknown"}
    assert "nothing left out: nan %" in capsys.readouterr().out
    assert not rows(run_notebook("62_results", project), "Results by condition")


def test_results(project, run_notebook, capsys):
    evaluation.save_json(project / "runs/tables/alarms.json", {"alarms": ["upside <down>"]})
    shown = run_notebook("62_results", project)
    said = capsys.readouterr().out
    assert shown.alarms == ["upside <down>"] and next(iter(shown.tables)).startswith("Results by condition")
    assert f"Test set: {measured(project, 'extract')['test_set']}." in said
    assert "whom training or dev has heard: 0" in said
    headline, narrow = evaluation.apart(pd.read_csv(project / "runs/tables/eval.csv"))
    for caption, of in (("Results by condition", headline), ("Telephone speech", narrow)):
        assert rows(shown, caption)["minDCF"]["All attacks"].startswith(f"{of['all']['min_dcf']:.3f}")
    assert list(rows(shown, "Policies")) == list(measured(project, "operating_points"))
    assert len(shown.figures) == 2 and any("bonafide called spoof" in alt for alt in shown.figures)
    settings = "\n".join(shown.variables["settings"])
    assert "threads: " in settings and "workers:" not in settings
    assert rows(shown, "Provenance").keys() >= {"data", "features", "requirements.lock", "seed and threads"}
    indexes.write(project / "features", UTTERANCES.assign(speaker=UTTERANCES["speaker"].replace("june", "michael")))
    run_notebook("62_results", project)
    assert "whom training or dev has heard: 1" in capsys.readouterr().out


def test_provenance(project):
    found = dict(origin.table(project).itertuples(index=False))
    assert found["data"] == "md5 0123.dir" and found["features"] == "md5 4567.dir"
    assert found["trained with"] == "python 3.0, torch 0.4, numpy 0.2, librosa 0.1"
    assert not any(name.startswith("runs/") for name in found)


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


def test_leaderboard(project, run_notebook, capsys):
    (project / "metrics/leaderboard.json").write_text(json.dumps(BOARD))
    shown = run_notebook("93_leaderboard", project)
    said = capsys.readouterr().out
    assert "Without results so far: lost" in said and "Not by make select" in said
    errors = rows(shown, "On eval")
    assert list(errors) == ["report", "small", "mixtures", "old"]  # by dev, not by eval
    assert [errors["small"][name] for name in ("dev_eer", "eer_known", "eer_known_low", "eer_known_high")] == [
        25.0, 15.0, 10.0, 25.0
    ]  # fmt: skip
    assert errors["small"]["min_dcf_all"] == 0.275
    seeds = rows(shown, "Systems with several seeds")
    assert list(seeds) == ["small"] and seeds["small"]["eer_unseen, max of seeds"] == 50.0
    costs = rows(shown, "Parameters, minutes")
    assert costs["small"]["parameters"] == 1234 and costs["mixtures"]["parameters"] == costs["old"]["minutes"] == ""
    part = rows(shown, "On the same 10 recordings")
    assert [part["old"][name] for name in ("share_known", "share_unseen_low", "share_all")] == [22.5, 25.5, 26.5]
    attacks = shown.variables["by_attack"]
    assert attacks.columns.tolist() == list(errors)
    assert attacks.loc["world (known)"].tolist() == pytest.approx([0.4, 0.15, 0.3, 0.45])
    claims = rows(shown, "report, seed.yaml: claimed of <unnamed> data")
    assert claims["f1"] == {"measure": "f1", "claimed (%)": 61.15, "measured here (%)": 42.5} and len(claims) == 2
    assert rows(shown, "What these results were made with; data md5 0123.dir")["c0ffee"]["commit"] == "abc123"
    assert rows(shown, "Recordings of the corpus")["eval"]["bonafide"] == 1200
    (alt,) = [alt for alt in shown.figures if alt.startswith("Equal error rates")]
    assert "Lowest on known: small, 15.0 %" in alt and len(shown.figures) == 3


def test_stale(project, run_notebook, capsys):
    (project / "metrics/selection.json").write_text(json.dumps({"sentence": "It came first.", "data": "89ab.dir"}))
    (project / "metrics/leaderboard.json").write_text(json.dumps(BOARD | {"data": "4567.dir"}))
    run_notebook("93_leaderboard", project)
    said = capsys.readouterr().out
    of = "These rows were measured on another corpus, or on an earlier build of this one (data md5"
    assert f"It came first. {of} 89ab.dir); `make select` measures them anew." in said
    assert f"{of} 4567.dir); `make leaderboard` measures them anew." in said
    assert origin.stale({"data": "4567.dir"}, "4567.dir") == origin.stale({}, "4567.dir") == ""


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
