"""What the audit sets side by side, and what it puts on record.

| what | test |
|---|---|
| the detector and shortcuts in one table; which goals are missed | test_beside |
| what the report's index shows: no row without an error rate, nothing that JSON has not | test_headline |
| records: nested by name, without what is not there | test_records |
| a figure, or a sentence where there is nothing to draw | test_draw |
| a part that this corpus is too small for leaves a sentence; any other error is one | test_possible |
"""

import json
import math

import numpy as np
import pandas as pd
import pytest

from aasist_lib import evaluation
from aasist_lib.audit import auditing
from aasist_lib.base.errors import UserError

DETECTOR = {
    "known": {"eer": 0.1, "eer_low": 0.05, "eer_high": 0.2},
    "all": {"eer": 0.17, "eer_low": 0.1, "eer_high": 0.3},
}
BASELINES = {
    "silence": {"all": {"eer": 0.34, "eer_low": 0.3, "eer_high": 0.4}},
    "level": {"all": {"eer": 0.36}},
    "all": {"all": {"eer": 0.31}, "known": {"eer": 0.2}},
    "source": {},
}


def test_beside():
    table = auditing.beside(BASELINES, DETECTOR)
    assert table["name"].tolist() == ["detector", "silence", "level", "all", "source"]
    assert table["missed"].tolist() == [False, True, False, False, False]
    assert table["eer_known"].tolist()[::3] == [0.1, 0.2] and np.isnan(table["eer_known"].iloc[1])
    shown = auditing.comparison_text(table)
    assert shown.iloc[1].tolist()[:2] == ["silence", "34.0 (30.0 to 40.0)"]
    assert shown["Goal (%)"].tolist()[:4] == ["", "35 or worse: missed", "35 or worse: met", "30 or worse: met"]
    assert "Unseen attacks (%)" not in shown and shown.iloc[2, 1] == "36.0" and shown.iloc[4, 1] == ""
    assert auditing.comparison_text(auditing.beside({}, DETECTOR)).shape[0] == 1


def test_headline(tmp_path):
    found = auditing.headline(auditing.beside(BASELINES, DETECTOR))
    assert [row["name"] for row in found] == ["detector", "silence", "level", "all"]
    assert found[0] == {"name": "detector", "words": "the detector", "eer": 0.17, "eer_low": 0.1, "eer_high": 0.3}
    assert found[2] == {"name": "level", "words": "level", "eer": 0.36}
    evaluation.save_json(tmp_path / "audit.json", {"headline": found})
    assert json.loads((tmp_path / "audit.json").read_text())["headline"] == found
    assert auditing.headline(auditing.beside({}, {})) == []


def test_records():
    rows = [("none", math.nan, 0.2, "x"), ("pgd", 40.0, 0.9, "y"), ("pgd", 60.0, math.nan, "z")]
    table = pd.DataFrame(rows, columns=["method", "db", "eer", "words"])
    assert auditing.records(table, "method", "db") == {"none": {"eer": 0.2}, "pgd": {"40": {"eer": 0.9}, "60": {}}}
    assert auditing.records(table.head(0), "method") == {}


def test_draw(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(auditing.plots, "show", lambda figure, alt: shown.append((figure, alt)))
    for nothing in (pd.DataFrame(), pd.DataFrame({"eer": [math.nan]})):
        auditing.draw(nothing, str, 7, alt="seven")
    assert shown == [] and capsys.readouterr().out.count("Nothing to draw") == 2
    auditing.draw(pd.DataFrame({"eer": [math.nan, 0.2]}), str, 7, alt="seven")
    assert shown == [("7", "seven")]


def test_possible(capsys):
    def part(x, *, y=1):
        if x < 0:
            raise UserError("eval has no fakes")
        return x / y

    assert auditing.or_skip(part, 6, y=2, empty=None) == 3
    assert capsys.readouterr().out == ""
    assert auditing.or_skip(part, -1, empty={}) == {}
    assert capsys.readouterr().out == "Left out: eval has no fakes\n"
    with pytest.raises(ZeroDivisionError):
        auditing.or_skip(part, 1, y=0, empty={})
