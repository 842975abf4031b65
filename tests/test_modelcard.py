"""The model card: what it says of the detector is what the stages measured.

| what | test |
|---|---|
| measures by condition and of the split narrow, with intervals, are those of metrics/tables/eval.csv | test_measures |
| attacks and sources: all, the worst first, with the tables' shares and counts | test_attacks, test_sources |
| wear, attacks on purpose and what was left out: the numbers of metrics/tables/ | test_audit |
| every condition of the audit that is wear has words, and no other has | test_conditions |
| what the network is, what trained it on what, and how its thresholds were set | test_details, test_thresholds |
| every heading, link and caption; text is escaped | test_page |
| caveats follow the numbers, and are silent where there are none | test_caveats |
| another corpus: neither conditions, speakers, sources nor audit; one class; many attacks | test_other_corpus |
"""

import json
import re
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from aasist_lib import evaluation
from aasist_lib.audit import adversarial, robustness
from aasist_lib.pipeline import modelcard, report

METRICS = Path(__file__).parents[1] / "metrics"
COLUMNS = "label speaker attack split condition language source codec seconds".split()
USED = pd.DataFrame(
    [
        ("bonafide", "june", "", "train", "", "fr", "june", "pcm", 3600.0),
        ("spoof", "june", "world", "train", "", "fr", "june", "pcm", 1800.0),
        ("bonafide", "carlo", "", "dev", "", "it", "carlo", "g722", 1800.0),
        ("spoof", "carlo", "world", "dev", "", "it", "carlo", "g722", 1800.0),
        ("bonafide", "ivrvoice", "", "eval", "", "ru", "ivrvoice", "g722", 1800.0),
        ("spoof", "kokoro-x", "kokoro", "eval", "unseen", "en", "kokoro", "g722", 1800.0),
    ],
    columns=COLUMNS,
)
NETWORK = {
    "model": {"name": "cnn_attention", "width": 64}, "parameters": 104874, "seed": 7,
    "features": {"kind": "mfcc", "sample_rate": 16000, "n_fft": 256, "hop_length": 64},
    "train": {"loss": "cross_entropy", "lr": 1e-3, "batch_size": 32}, "augment": {"codecs": ["mp3", "gsm"]},
}  # fmt: skip
PROVENANCE = [("data", "md5 0123.dir"), ("models/detector", "md5 4567.dir"), ("seed and threads", "7, 2")]


@pytest.fixture
def results():
    """Those of the last run, whatever they are, of a detector made up."""
    names = ("alarms", "extract", "train", "operating_points", "calibration")
    found = {name: json.loads((METRICS / f"tables/{name}.json").read_text("utf-8")) for name in names}
    found["audit"] = {}
    for name in report.AUDITS:
        found["audit"] |= json.loads((METRICS / f"tables/{name}.json").read_text("utf-8"))
    found |= {name: pd.read_csv(METRICS / f"{name}.csv", keep_default_na=False, na_values=[""])
              for name in ("by_attack", "by_speaker")}  # fmt: skip
    found["headline"], found["narrow"] = evaluation.apart(pd.read_csv(METRICS / "tables/eval.csv"))
    thresholds = {name: row["threshold"] for name, row in found["operating_points"].items()}
    detector = {"policy": "equal_error", "thresholds": thresholds, "dev_eer": 0.125, "prior_spoof": 0.05}
    return found | {"network": NETWORK, "detector": detector | {"cost_miss": 1.0, "cost_false_alarm": 10.0}}


def rendered(results, used=USED, ours=True):
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(report.TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    nav = [("index.html", "Results"), ("51_robustness.html", "51 Robustness"), ("model_card.html", "Model card")]
    shown = modelcard.values(results, used, PROVENANCE) | {"ours": ours, "summary": "In short."}
    text = templates.get_template("model_card.html.j2").render(nav=nav, page="model_card.html", title="Card", **shown)
    return BeautifulSoup(text, "html.parser")


def plain(tag):
    return re.sub(r"\s+", " ", tag.get_text(" ", strip=True).replace("\u00a0", " "))


def captioned(page, caption):
    """Cells of a table, a mapping from heading to text for each name in its first column."""
    (found,) = [table for table in page.find_all("table") if table.caption.get_text() == caption]
    names, *rows = [[plain(cell) for cell in row.find_all(["th", "td"])] for row in found.find_all("tr")]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


def shown(row, key):
    """A measure with its interval as a cell of the page has it."""
    return evaluation.interval(*(row.get(key + end) for end in ("", "_low", "_high"))).translate({40: None, 41: None})


def test_measures(results):
    results["narrow"] = {"all": results["headline"]["all"] | {"eer": 0.4375, "eer_low": 0.25, "eer_high": 0.5}}
    page = rendered(results)
    table = captioned(page, "Eval, with 95 % intervals")
    names = {words: key for key, (words, _) in evaluation.MEASURES.items() if key in modelcard.SHOWN}
    assert set(table) == set(names)
    for words, key in names.items():
        for condition, heading in evaluation.CONDITIONS.items():
            row, percent = results["headline"][condition], evaluation.MEASURES[key][1]
            ends = [f"{100 * row[name]:.1f}" if percent else f"{row[name]:.3f}" if isinstance(row[name], float)
                    else str(row[name]) for name in (key, f"{key}_low", f"{key}_high") if name in row]  # fmt: skip
            assert table[words][heading] == (f"{ends[0]} {ends[1]} to {ends[2]}" if len(ends) > 1 else ends[0])
    apart = captioned(page, "Telephone speech, measured apart, with 95 % intervals")
    assert apart["Equal error rate (%)"] == {"Measure": "Equal error rate (%)", "All attacks": "43.8 25.0 to 50.0"}


def test_attacks(results):
    table = captioned(rendered(results), "Fakes by kind, the hardest first")
    measured = results["by_attack"].set_index("attack")
    assert set(table) == set(measured.index)
    for attack, row in table.items():
        assert row["Equal error rate (%)"] == f"{100 * measured.loc[attack, 'eer']:.1f}"
        assert row["Fakes let through (%)"] == f"{100 * measured.loc[attack, 'spoof_accepted']:.1f}"
        assert row["Fakes"] == str(measured.loc[attack, "n_spoof"])
    assert measured.loc[list(table), "eer"].is_monotonic_decreasing


def test_sources(results):
    results["by_speaker"] = pd.DataFrame(
        {
            "speaker": ["a", "b", "c", "robot"],
            "source": ["one", "one", "two", "tts"],
            "n_bonafide": [3, 5, 100, 0],
            "bonafide_rejected": [0.333333, 0.2, 0.01, np.nan],
        }  # fmt: skip
    )
    page = rendered(results)
    table = captioned(page, "Real voices by source, the worst treated first")
    assert list(table) == ["one", "two"]
    assert list(table["one"].values()) == ["one", "2", "8", "2", "25.0"]
    assert "from 1.0 % (two) to 25.0 % (one) of real voices" in plain(page)


def test_audit(results):
    page = rendered(results)
    conditions = results["audit"]["conditions"]
    wear = captioned(page, "A sample of eval after wear, the worst first (95 % intervals)")
    rows = list(wear.values())
    assert rows[0]["Equal error rate (%)"] == shown(conditions["clean"], "eer")
    rates = [float(row["Equal error rate (%)"].split()[0]) for row in rows[1:]]
    assert rates == sorted(rates, reverse=True)
    rooms = [row for name, row in conditions.items() if name.startswith("room")]
    (room,) = [row for name, row in wear.items() if name.startswith("Room")]
    assert room["Equal error rate (%)"] == shown(max(rooms, key=lambda row: row["eer"]), "eer")
    assert room["Equal error rate at its mildest (%)"].split()[0] == f"{100 * min(row['eer'] for row in rooms):.1f}"
    attacks = captioned(page, "Fakes changed with full knowledge of the detector")
    for method, strengths in results["audit"]["adversarial"].items():
        for db, row in {"": strengths}.items() if method == "none" else strengths.items():
            cells = attacks[adversarial.METHODS[method] + (f", {db} dB below" if db else "")]
            assert cells["Fakes let through (%)"] == shown({"x": row["spoof_accepted"]}, "x")
            assert cells["Equal error rate (%)"] == shown(row, "eer")
    assert next(iter(attacks)) == "Unchanged" and list(attacks)[-1].startswith("PGD, 40")
    held_out = results["audit"]["held_out"]
    table = captioned(page, "Kinds of attack left out of training in turn")
    assert {name: row["Equal error rate (%)"] for name, row in table.items()} == {
        name: shown(row, "eer") for name, row in held_out["attack"].items()
    }
    table = captioned(page, "Sources of real voices left out of training in turn")
    assert {name: float(row["Called fake (%)"]) for name, row in table.items()} == {
        name: round(100 * row["bonafide_rejected"], 1) for name, row in held_out["source"].items()
    }
    assert f"errs at {evaluation.interval(held_out['reference']['reference']['eer'])}" in plain(page)


def test_conditions():
    for condition in robustness.CONDITIONS.values():
        found = modelcard.wear(condition.name)
        if condition.family == "uses" or condition.name == "clean":
            assert found is None
        else:
            assert found[0] == condition.kind and found[1] and condition.name.partition("_")[2] in found[1]
    assert modelcard.ON_PURPOSE == adversarial.METHODS


def test_details(results):
    results["extract"]["copies"] = 1234
    page = rendered(results)
    facts = dict(zip(map(plain, page.dl.find_all("dt")), map(plain, page.dl.find_all("dd")), strict=True))
    assert facts["Network"].startswith("cnn_attention: ") and facts["Parameters"] == "104,874"
    assert facts["It is given"] == "mfcc, windows of 16 ms, every 4 ms, of sound at 16 kHz"
    trained = results["train"]
    assert (
        f"epoch {trained['best_epoch']} of {trained['epochs']} kept" in facts["Recipe"] and "seed 7" in facts["Recipe"]
    )
    assert facts["models/detector"] == "md5 4567.dir" and "seed and threads" not in facts
    threshold = results["operating_points"]["equal_error"]["threshold"]
    assert facts["Decides by"] == f"policy equal_error: fake below an LLR of {threshold:.2f}"
    settings = captioned(page, "Settings, as the network's own file has them")
    assert settings["augment.codecs"]["Value"] == "mp3, gsm" and settings["train.lr"]["Value"] == "0.001"
    lines = {plain(line.strong): plain(line) for line in page.find(id="data").parent.find_all("li")}
    assert list(lines) == ["train", "dev", "eval"]
    assert lines["train"].startswith(
        "train : 1.5 hours: 1 real recording of 1 speaker in 1 language; 1 fake of 1 kind. And 1,234 fakes more"
    )
    use = plain(page.find(id="use").parent)
    assert "real voices in French, which had last come through these chains: PCM, never coded." in use
    assert (Path(__file__).parents[1] / "LICENSE").read_text("utf-8").startswith(facts["Licence"][:3])


def test_thresholds(results):
    page = rendered(results)
    section = plain(page.find(id="thresholds").parent)
    cllr = {name: f"{results['calibration'][name]['cllr']:.2f}" for name in ("before", "held_out", "after")}
    assert (
        "Cllr on dev is {after} bits, before the fit {before}, with attack and speaker held out {held_out}".format(
            **cllr
        )
        in section
    )
    assert "equal_error decides" in section and "5 % of trials are fakes" in section
    table = captioned(page, "Policies, each set on dev, and what they do on eval (95 % intervals)")
    for policy, row in results["operating_points"].items():
        assert table[policy]["Fake below (LLR)"] == f"{row['threshold']:.2f}"
        called = table[policy]["Of 1,000 real voices, called fake"].split()[0]
        assert called == f"{1000 * row['bonafide_rejected']:.0f}"


def test_page(results):
    results["by_attack"].loc[0, "attack"] = "<tts>"
    page = rendered(results)
    assert str(rendered(results)) == str(page)
    assert [plain(tag) for tag in page.find_all("h2")] == [
        "Model details", "Intended use", "Data", "Measures", "Known failures", "Thresholds",
        "Caveats and recommendations",
    ]  # fmt: skip
    assert len(page.find_all("h1")) == 1 and not page.find_all(["script", "img", "link"])
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    targets = [tag["href"] for tag in page.find_all("a") if tag["href"].startswith("#")]
    assert len(targets) == 8 and {target[1:] for target in targets} <= set(ids)
    assert all(table.caption and table.find("th", scope="col") for table in page.find_all("table"))
    assert "<tts>" in captioned(page, "Fakes by kind, the hardest first")
    assert "not measured" not in plain(page) and "not made" not in plain(page)
    assert "nan" not in plain(page).lower().split()


def test_caveats(results):
    known, unseen, everything = (
        {"spoof_accepted": x, "bonafide_rejected": 0.25, "cllr": 2 * x} for x in (0.125, 0.75, 0.4)
    )
    results["headline"] = {"known": known, "unseen": unseen, "all": everything}
    results["narrow"] = {"known": {"bonafide_rejected": 0.5}}
    passing = {"40": {"eer": 0.9, "success": 0.5}, "100": {"eer": 0.8}}
    passing = {"none": {"eer": 0.1, "success": 0.0}, "pgd": passing}
    results["audit"] = {"alarms": ["silence tells"], "adversarial": passing}
    said = dict(modelcard.values(results, USED, [])["caveats"])
    said = {about: words.replace("\u00a0", " ") for about, words in said.items()}
    assert said["New machines"] == "of fakes of kinds that it never met 75.0 % pass, of known kinds 12.5 %"
    assert "is 12.5 %, it calls 25.0 % of eval's real voices fake and lets 40.0 %" in said["The threshold"]
    assert "(unseen attacks 1.50 bits)" in said["Likelihood ratios"]
    assert said["The telephone"] == "over it 50.0 % of real voices are called fake, and an unknown share of fakes pass"
    assert "up to 50.0 % of the fakes" in said["Attacks on purpose"]
    assert said["Few witnesses"] == "eval has 1 real speaker: read the ends of the intervals"
    assert said["Alarm of the audit"] == "silence tells"
    page = rendered(results)
    table = captioned(page, "Fakes changed with full knowledge of the detector")
    assert list(table) == ["Unchanged", "PGD, 100 dB below", "PGD, 40 dB below"]
    unseen["cllr"] = 1.0
    results["audit"] = {}
    said = dict(modelcard.values(results, USED.assign(speaker=""), [])["caveats"])
    assert not {"Likelihood ratios", "Attacks on purpose", "Few witnesses", "Alarm of the audit"} & set(said)


def test_other_corpus(results, tmp_path):
    rng = np.random.default_rng(1)
    label = ["bonafide"] * 50 + ["spoof"] * 50
    scores = pd.DataFrame({"label": label, "llr": rng.normal(size=100) + 2 * (np.array(label) == "bonafide")})
    scores = scores.assign(
        speaker="", condition="", language="", source="", attack=[""] * 50 + [f"A{i}" for i in range(50)]
    )
    results |= {"headline": evaluation.headline(scores, 0.5, replicates=0), "narrow": {}}
    results |= {"audit": {}, "calibration": {}}
    for name in ("by_attack", "by_speaker"):
        evaluation.save_csv(tmp_path / f"{name}.csv", getattr(evaluation, name)(scores, 0.5))
        results[name] = report._csv(tmp_path / f"{name}.csv")
    results |= {"operating_points": evaluation.operating_points(scores, {"equal_error": 0.5}, replicates=0)}
    results |= {"network": {"model": {"name": "aasist"}, "features": {"kind": "waveform", "sample_rate": 16000}}}
    results["detector"] = {"policy": "equal_error"}
    used = USED.assign(speaker="", language="", source="", codec="")
    page = rendered(results, used, ours=False)
    text = plain(page)
    assert list(captioned(page, "Eval, with 95 % intervals")["Fakes"]) == ["Measure", "All attacks"]
    attacks = captioned(page, "Fakes by kind, the hardest first")
    assert len(attacks) == modelcard.MOST and f"The {modelcard.MOST} worst of 50" in text
    assert "Condition" not in next(iter(attacks.values()))
    for words in (
        "does not say where its real voices come from", "languages that nobody wrote down", "Wear was not measured",
        "Attacks on purpose were not measured", "with something left out were not made", "the terms of the corpus",
        "waveform, of sound at 16 kHz", "train : 1.5 hours: 1 real recording; 1 fake of 1 kind.",
    ):  # fmt: skip
        assert words in text
    assert "Telephone" not in text
    # one class alone: nothing is measured, and the page says so
    only = scores[scores["label"] == "spoof"]
    results |= {"headline": {}, "narrow": {}, "operating_points": {}, "by_attack": evaluation.by_attack(only, 0.5)}
    results["by_speaker"] = evaluation.by_speaker(only, 0.5)
    assert "Nothing could be measured" in plain(rendered(results, used))
    results["by_attack"] = evaluation.by_attack(scores[scores["label"] == "bonafide"], 0.5)
    assert "There are no fakes to count" in plain(rendered(results, used))
