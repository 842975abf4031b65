"""Tables of the evaluation.

| what | against |
|---|---|
| headline: conditions, counts, values | the metrics of trials picked by hand |
| one statistic with its interval | the bootstrap over the same factors |
| headline: intervals | hold the value; wider by speakers than by trials; the same for the same seed |
| a corpus without conditions, a class that is missing | one row, no row |
| alarms: no number, no class, ties, polarity, dev easier than eval | raised by breaking good scores, else silent |
| operating points | the shares at each threshold, counted; intervals hold them; words for people |
| breakdown by attack and codec | metrics of trials picked by hand |
| by attack, speaker, source; the worst; confusion | counted by hand, known and unseen attacks apart |
| the split narrow beside eval in one table | comes out as it went in, apart, conditions in order; none, no rows |
| pairs | of each attack its own recordings, counted by hand; ties count half; none, an empty table |
| text for people | percent with one decimal, "value (low to high)", words as headings |
| files | six digits, sorted keys, no partial file left, NaN refused |
"""

import json

import numpy as np
import pandas as pd
import pytest

from aasist_lib import evaluation, metrics, plots
from aasist_lib.base.errors import UserError

HUMANS = [("ana", "es", "stamps"), ("ben", "en", "prompts"), ("cyd", "en", "prompts"), ("dov", "ru", "game")]
ATTACKS = [("formant", "known"), ("vocoder", "known"), ("neural", "unseen")]


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """Four people, 30 recordings each; three attacks: a synthesiser's voice and two kinds of copies of them."""
    rng = np.random.default_rng(7)
    rows = [(who, "bonafide", "", "", language, source) for who, language, source in HUMANS for _ in range(30)]
    for attack, condition in ATTACKS:
        for who, language, source in HUMANS if attack != "formant" else [("robot", "en", "formant")] * 4:
            rows += [(who, "spoof", attack, condition, language, source)] * 20
    table = pd.DataFrame(rows, columns=["speaker", "label", "attack", "condition", "language", "source"])
    table.insert(0, "utt_id", [f"utt{i:03}" for i in range(len(table))])
    centre = table["attack"].map({"": 2.0, "formant": -2.5, "vocoder": -1.5, "neural": 0.5})
    who = table["speaker"].map({"ana": 1.0, "ben": 0.0, "cyd": 0.5, "dov": -1.5, "robot": 0.0})
    table["llr"] = centre + who + rng.normal(0, 1.2, len(table))
    return table


def test_headline_counts_and_values(scores):
    table = evaluation.headline(scores, 0.3, replicates=20)
    assert list(table) == ["known", "unseen", "all"]
    bonafide = scores.loc[scores["label"] == "bonafide", "llr"]
    for condition, attacks in (("known", ["formant", "vocoder"]), ("unseen", ["neural"])):
        spoof, row = scores.loc[scores["attack"].isin(attacks), "llr"], table[condition]
        assert (row["n_bonafide"], row["n_spoof"]) == (120, 80 * len(attacks))
        assert row["eer"] == metrics.eer(bonafide, spoof).value
        assert row["min_dcf"] == metrics.min_dcf(bonafide, spoof).value
        assert row["act_dcf"] == metrics.act_dcf(bonafide, spoof)
        assert row["cllr"] == metrics.cllr(bonafide, spoof) and row["min_cllr"] == metrics.min_cllr(bonafide, spoof)
        assert row["auc"] == metrics.auc(bonafide, spoof)
        assert {name: row[name] for name in ("accuracy", "precision", "recall", "f1")}.items() <= metrics.rates(
            bonafide, spoof, 0.3
        ).items()
    assert table["all"]["n_spoof"] == 240
    assert table["known"]["bonafide_rejected"] == table["unseen"]["bonafide_rejected"]
    assert table["known"]["eer"] < table["all"]["eer"] < table["unseen"]["eer"]


def test_headline_intervals(scores):
    by_speakers = evaluation.headline(scores, 0.3, replicates=200, seed=3)
    by_trials = evaluation.headline(scores, 0.3, replicates=200, seed=3, clusters=False)
    assert by_speakers == evaluation.headline(scores, 0.3, replicates=200, seed=3)
    for condition, row in by_speakers.items():
        for name in evaluation.MEASURES.keys() - {"n_bonafide", "n_spoof"}:  # no number without an interval
            assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        width = {kind: t[condition]["eer_high"] - t[condition]["eer_low"] for kind, t in
                 (("speakers", by_speakers), ("trials", by_trials))}  # fmt: skip
        assert width["speakers"] > 1.3 * width["trials"]


@pytest.mark.parametrize("factors", [(), ("speaker",), ("attack", "speaker")])
def test_with_interval(scores, factors):
    row = evaluation.with_interval(evaluation.only_eer, scores, factors=factors, replicates=30, seed=4)
    classes, clusters = evaluation.split_classes(scores), evaluation.clusters_of(scores)
    chosen = {name: clusters[name] for name in evaluation.FACTORS if name in factors}
    ends = metrics.bootstrap(evaluation.only_eer, *classes, clusters=chosen, replicates=30, seed=4)["eer"]
    assert row == {"eer": metrics.eer(*classes).value, "eer_low": ends[0], "eer_high": ends[1]}
    assert evaluation.with_interval(evaluation.only_eer, scores, replicates=0) == {"eer": row["eer"]}


def test_costs_reach_the_headline(scores):
    row = evaluation.headline(scores, 0.3, replicates=2, prior_spoof=0.5, cost_false_alarm=1.0)["all"]
    assert row["min_dcf"] == metrics.min_dcf(*evaluation.split_classes(scores), 0.5, 1.0, 1.0).value


def test_without_conditions_there_is_only_all(scores):
    table = evaluation.headline(scores.assign(condition="", speaker=""), 0.0, replicates=5)
    assert list(table) == ["all"]
    only_known = evaluation.headline(scores[scores["condition"] != "unseen"], 0.0, replicates=5)
    assert list(only_known) == ["known", "all"]
    assert evaluation.headline(scores[scores["label"] == "bonafide"], 0.0) == {}
    with pytest.raises(UserError, match="dev"):
        evaluation.select(scores, "dev")


def test_headline_without_threshold_and_intervals(scores):
    row = evaluation.headline(scores, replicates=0)["known"]
    assert "accuracy" not in row and "eer_low" not in row and row["rocch_eer"] <= row["eer"] + 1e-12


def test_good_scores_raise_no_alarm(scores):
    assert evaluation.alarms(scores, dev_eer=0.2) == []


@pytest.mark.parametrize(
    "broken, words",
    [
        (lambda t: t.assign(llr=-t["llr"]), ["inverted"]),
        (lambda t: t.assign(llr=t["llr"].where(t.index != 3)), ["1 of 360 scores are not finite numbers", "utt003"]),
        (lambda t: t.assign(llr=t["llr"].where(t.index != 3, np.inf)), ["not finite"]),
        (lambda t: t[t["label"] == "spoof"], ["no bona fide trials"]),
        (lambda t: t[t["label"] == "bonafide"], ["no spoofed trials"]),
        (
            lambda t: t.groupby(["label", "condition"]).head(1),
            ["only 1 bona fide and 1 spoofed (known attacks) and 1 spoofed (unseen attacks) trials", "95 % of others"],
        ),
        (lambda t: t[t.groupby("attack").cumcount() < 12], ["only 12 bona fide and 12 spoofed (unseen", "22 % of oth"]),
        (lambda t: t.assign(llr=t["llr"].round(1)), ["in common with another", "ASVspoof packages"]),
    ],
)
def test_alarms(scores, broken, words):
    (alarm,) = evaluation.alarms(broken(scores))
    assert all(word in alarm for word in words)


def test_alarm_when_dev_is_much_easier(scores):
    there = evaluation.headline(scores, replicates=0)
    (alarm,) = evaluation.alarms(scores, dev_eer=there["unseen"]["eer"] / 2)
    assert "unseen attacks" in alarm and f"{100 * there['unseen']['eer']:.1f} %" in alarm


def test_trials_without_a_score_are_left_out(scores):
    holes = scores.assign(llr=scores["llr"].where(scores.index % 7 != 0))
    assert evaluation.headline(holes, 0.3, replicates=5) == evaluation.headline(holes.dropna(), 0.3, replicates=5)


def test_operating_points(scores):
    points = evaluation.operating_points(scores, {"equal_error": 0.3, "min_tpr": 1.5}, replicates=50)
    bonafide = scores[scores["label"] == "bonafide"]
    unseen = scores[scores["condition"] == "unseen"]
    for row, threshold in ((points["equal_error"], 0.3), (points["min_tpr"], 1.5)):
        assert row["threshold"] == threshold
        assert row["bonafide_rejected"] == (bonafide["llr"] < threshold).mean()
        assert row["spoof_accepted_unseen"] == (unseen["llr"] >= threshold).mean()
        for name in ("bonafide_rejected", "spoof_accepted_known", "spoof_accepted_unseen"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    table = evaluation.operating_points_table(points, {"min_tpr": 0.95})
    assert "at least 95 % of fakes caught" in table.iloc[1, 1]
    assert table.iloc[0, 3].startswith(f"{1000 * points['equal_error']['bonafide_rejected']:.0f} (")


def test_breakdown(scores):
    table = evaluation.breakdown(scores, "attack").set_index("attack")
    bonafide, neural = (
        scores.loc[rows, "llr"] for rows in (scores["label"] == "bonafide", scores["attack"] == "neural")
    )
    assert table.loc["neural", "eer"] == metrics.eer(bonafide, neural).value
    assert table.loc["neural", "min_dcf"] == metrics.min_dcf(bonafide, neural).value
    coded = scores.assign(codec=np.where(scores["source"] == "formant", "only fakes", scores["language"]))
    table = evaluation.breakdown(coded, "codec").set_index("codec")
    en = coded[coded["codec"] == "en"]
    assert table.loc["en", "eer"] == metrics.eer(*evaluation.split_classes(en)).value
    assert table.loc["only fakes", "n_bonafide"] == 0 and np.isnan(table.loc["only fakes", "eer"])


def test_by_attack(scores):
    table = evaluation.by_attack(scores, 0.3).set_index("attack")
    assert table["condition"].to_dict() == dict(ATTACKS)
    assert table["n_spoof"].to_list() == [80, 80, 80] and table["speakers"].to_dict()["formant"] == 1
    neural = scores.loc[scores["attack"] == "neural", "llr"]
    bonafide = scores.loc[scores["label"] == "bonafide", "llr"]
    assert table.loc["neural", "spoof_accepted"] == np.mean(neural >= 0.3)
    assert table.loc["neural", "eer"] == metrics.eer(bonafide, neural).value
    assert table.loc["neural", "eer"] == table["eer"].max()


def test_by_speaker(scores):
    table = evaluation.by_speaker(scores, 0.3).set_index("speaker")
    assert table["n_bonafide"].to_dict() == {"ana": 30, "ben": 30, "cyd": 30, "dov": 30, "robot": 0}
    assert table["n_spoof_known"].to_dict() == {"ana": 20, "ben": 20, "cyd": 20, "dov": 20, "robot": 80}
    assert table["n_spoof_unseen"].to_dict() == {"ana": 20, "ben": 20, "cyd": 20, "dov": 20, "robot": 0}
    dov = scores[scores["speaker"] == "dov"].set_index("attack")["llr"]
    assert table.loc["dov", "bonafide_rejected"] == np.mean(dov[""] < 0.3) == table["bonafide_rejected"].max()
    for condition, attack in (("known", "vocoder"), ("unseen", "neural")):
        assert table.loc["dov", f"spoof_accepted_{condition}"] == np.mean(dov[attack] >= 0.3)
        assert table.loc["dov", f"eer_{condition}"] == metrics.eer(dov[""], dov[attack]).value
    assert table.loc["robot", ["bonafide_rejected", "eer_known", "spoof_accepted_unseen", "eer_unseen"]].isna().all()
    plain = evaluation.by_speaker(scores.assign(condition=""), 0.3).set_index("speaker")
    assert list(plain)[4:] == ["n_spoof", "spoof_accepted", "eer"] and plain.loc["dov", "n_spoof"] == 40


def test_by_source_of_real_voices(scores):
    table = evaluation.by_human(scores, 0.3).set_index("source")
    assert table["n_bonafide"].to_dict() == {"game": 30, "prompts": 60, "stamps": 30}
    assert table.loc["prompts", "speakers"] == 2 and table["bonafide_rejected"].idxmax() == "game"
    game = scores.loc[(scores["source"] == "game") & (scores["label"] == "bonafide"), "llr"]
    for condition in ("known", "unseen"):
        spoof = scores.loc[scores["condition"] == condition, "llr"]
        assert table.loc["game", f"eer_{condition}"] == metrics.eer(game, spoof).value
    assert "eer" in evaluation.by_human(scores.assign(condition=""), 0.3)
    assert list(evaluation.by_human(scores, 0.3, "language")["language"]) == ["en", "es", "ru"]


def test_worst_errors_first():
    scores = pd.DataFrame(
        {
            "utt_id": list("abcdef"),
            "label": ["bonafide", "bonafide", "spoof", "spoof", "spoof", "spoof"],
            "llr": [-4.0, 5.0, 3.0, 4.0, 4.0, -9.0],
        }
    ).assign(attack="", speaker="", source="", condition=list("  kuuu"))
    worst = evaluation.worst(scores, 1.0, n=3)
    assert worst["utt_id"].to_list() == ["a", "d", "e"]  # 5 beyond the threshold, then twice 3: by name
    assert worst["condition"].to_list() == [" ", "u", "u"]
    assert evaluation.worst(scores, 1.0, n=10)["utt_id"].to_list() == ["a", "d", "e", "c"]
    assert evaluation.worst(scores[scores["utt_id"] == "b"], 1.0).empty


def test_confusion_table(scores):
    table = evaluation.confusion_table(scores, 0.3).set_index(["condition", "actual", "predicted"])["trials"]
    predicted = evaluation.decide(scores["llr"], 0.3)
    for condition in ("known", "unseen"):  # real voices belong to both
        chosen = (scores["label"] == "bonafide") | (scores["condition"] == condition)
        expected = pd.crosstab(scores["label"][chosen], predicted[chosen]).stack()
        assert table[condition].to_dict() == expected.to_dict()
    assert len(table) == 8
    assert evaluation.confusion_table(scores.assign(condition=""), 0.3)["condition"].unique().tolist() == ["all"]
    # neither left out nor taken for a known attack: spoofs that say nothing where others do
    partly = scores.assign(condition=scores["condition"].replace("unseen", ""))
    assert evaluation.confusion_table(partly, 0.3)["condition"].unique().tolist() == ["known", "all"]
    with pytest.raises(UserError, match="calibrate first"):
        evaluation.confusion_table(scores, float("nan"))


@pytest.mark.parametrize("label", ["bonafide", "spoof"])
def test_tables_of_one_class(scores, label):
    """An evaluation of one class ends in a report with an alarm, not in the middle."""
    one = scores[scores["label"] == label]
    cells = evaluation.confusion_table(one, 0.3).set_index(["actual", "predicted"])["trials"]
    assert cells[label].sum() == len(one) and cells.sum() == len(one)
    assert evaluation.headline(one, 0.3) == {}
    assert list(evaluation.operating_points(one, {"min_cost": 0.3})["min_cost"]) == ["threshold"]
    by_attack = evaluation.by_attack(one, 0.3)
    assert len(by_attack) == one["attack"].replace("", np.nan).nunique() and by_attack["eer"].isna().all()
    assert plots.png(plots.bars(by_attack, "attack", "eer", "condition", title="t", label="l", guess=0.5))
    assert plots.png(plots.confusion(evaluation.confusion_table(one, 0.3))) and plots.png(plots.det({}))
    assert len(evaluation.by_speaker(one, 0.3)) == one["speaker"].nunique()


def test_tables_for_people(scores):
    headline = evaluation.headline(scores, 0.3, replicates=20)
    table = evaluation.headline_table(headline).set_index("Measure")
    row = headline["unseen"]
    text = f"{100 * row['eer']:.1f} ({100 * row['eer_low']:.1f} to {100 * row['eer_high']:.1f})"
    assert table.loc["Equal error rate (%)", "Unseen attacks"] == text
    assert table.loc["Fakes", "Known attacks"] == "160"
    plain = evaluation.headline_table({"Raw": evaluation.measures([1.0, 2.0], [0.0, 1.5])}).set_index("Measure")
    assert plain.loc["Equal error rate (%)", "Raw"] == "50.0" and "Accuracy (%)" not in plain.index
    readable = evaluation.readable(evaluation.by_speaker(scores, 0.3)).set_index("Speaker")
    assert readable.loc["robot", "Real voices called fake (%)"] == ""
    assert readable.loc["robot", "Known attacks: fakes"] == 80
    assert readable.loc["robot", "Unseen attacks: EER (%)"] == "" != readable.loc["dov", "Unseen attacks: EER (%)"]
    share = evaluation.by_speaker(scores, 0.3).set_index("speaker").loc["dov", "bonafide_rejected"]
    assert readable.loc["dov", "Real voices called fake (%)"] == f"{100 * share:.1f}"
    assert "Condition" not in evaluation.readable(evaluation.by_attack(scores.assign(condition=""), 0.3))


def test_numbers_as_text():
    assert evaluation.interval(None) == evaluation.interval(np.nan, 0.1, 0.2) == ""
    assert evaluation.interval(0.5, np.nan, np.nan) == "50.0"
    table = pd.DataFrame({"name": ["a", "b"], "eer": [0.25, np.nan], "eer_low": 0.125, "eer_high": 0.5, "cllr": 1})
    shown = evaluation.cells(table.astype({"cllr": float}), {"name": "Name", "eer": "EER", "cllr": "Cllr", "f1": "F1"})
    assert shown.to_dict("list") == {
        "Name": ["a", "b"], "EER": ["25.0 (12.5 to 50.0)", ""], "Cllr": ["1.000", "1.000"], "F1": ["", ""],
    }  # fmt: skip


def test_narrow_apart(scores, tmp_path):
    of_eval = evaluation.headline(scores, 0.3, replicates=20)
    fakes_unnamed = scores.assign(condition="", llr=scores["llr"] - 5)
    of_narrow = evaluation.headline(fakes_unnamed, 0.3, replicates=20)
    assert list(of_narrow) == ["all"] and of_narrow["all"]["spoof_accepted"] != of_eval["all"]["spoof_accepted"]
    path = tmp_path / "eval.csv"
    evaluation.save_csv(path, evaluation.table(of_eval, of_narrow))
    found = evaluation.apart(pd.read_csv(path))
    assert [list(table) for table in found] == [["known", "unseen", "all"], ["all"]]
    for table, wanted in zip(found, (of_eval, of_narrow), strict=True):
        for condition, row in table.items():
            assert row == pytest.approx(wanted[condition], abs=1e-6)
            assert isinstance(row["n_spoof"], int)  # a count is no 80.000
    evaluation.save_csv(path, evaluation.table(of_eval, evaluation.headline(scores.head(0), 0.3)))
    assert evaluation.apart(pd.read_csv(path))[1] == {}


def test_files(tmp_path):
    path = tmp_path / "metrics/eval.json"
    evaluation.save_json(path, {"known": {"n": np.int64(3), "eer": np.float64(1 / 3)}, "a": [-0.0, 1e-9]})
    assert (
        path.read_text()
        == '{\n  "a": [\n    0.0,\n    0.0\n  ],\n  "known": {\n    "eer": 0.333333,\n    "n": 3\n  }\n}\n'
    )
    assert json.loads(path.read_text())["known"]["n"] == 3
    with pytest.raises(ValueError, match="nan"):
        evaluation.save_json(path, {"eer": float("nan")})
    assert json.loads(path.read_text())["known"]["n"] == 3  # what was there is still whole
    evaluation.save_csv(tmp_path / "scores/dev.csv", pd.DataFrame({"utt_id": ["é"], "llr": [1 / 3], "eer": [np.nan]}))
    assert (tmp_path / "scores/dev.csv").read_bytes() == "utt_id,llr,eer\né,0.333333,\n".encode()
    assert not list(tmp_path.rglob("*.partial"))


def test_pairs():
    rows = [
        ("r1", "bonafide", "", "", "", 2.0),
        ("r2", "bonafide", "", "", "", 0.0),
        ("r3", "bonafide", "", "", "", -9.0),  # nobody copied it
        ("c1", "spoof", "robot", "known", "r1", 1.0),
        ("c2", "spoof", "robot", "known", "r2", 1.0),
        ("c3", "spoof", "echo", "unseen", "r2", -1.0),
        ("c4", "spoof", "echo", "unseen", "r1", 2.0),
        ("t1", "spoof", "tts", "known", "", 5.0),  # no copy
        ("t2", "spoof", "echo", "unseen", "elsewhere", 5.0),  # of a recording of another split
    ]
    scores = pd.DataFrame(rows, columns=["utt_id", "label", "attack", "condition", "pair_id", "llr"])
    table = evaluation.pairs(scores).set_index("attack")
    assert list(table.index) == ["robot", "echo", "all copies"]
    assert table["n_pairs"].tolist() == [2, 2, 4]
    assert table["preferred"].tolist() == [0.5, 0.75, 0.625]
    assert table.loc["robot", "eer"] == metrics.eer([2.0, 0.0], [1.0, 1.0]).value
    assert table.loc["all copies", "eer"] == metrics.eer([2.0, 0.0], [1.0, 1.0, -1.0, 2.0]).value
    assert evaluation.readable(table.reset_index()).columns[-1] == "Recording scores above its copy (%)"
    assert evaluation.pairs(scores[scores["attack"] == "tts"]).empty
    assert evaluation.pairs(scores.assign(pair_id="")).columns.tolist()[0] == "attack"
