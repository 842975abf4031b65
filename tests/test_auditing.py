"""What the notebooks of the audits set side by side, and what they put on record.

| what | test |
|---|---|
| the detector and shortcuts in one table; which goals are missed | test_comparison |
| records: nested by name, without what is not there | test_to_nested_dict |
"""

import math

import numpy as np
import pandas as pd

from aasist_lib.audit import auditing

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


def test_comparison():
    table = auditing.comparison(BASELINES, DETECTOR)
    assert table["name"].tolist() == ["detector", "silence", "level", "all", "source"]
    assert table["missed"].tolist() == [False, True, False, False, False]
    assert table["eer_known"].tolist()[::3] == [0.1, 0.2] and np.isnan(table["eer_known"].iloc[1])
    shown = auditing.comparison_text(table)
    assert shown.iloc[1].tolist()[:2] == ["silence", "34.0 (30.0 to 40.0)"]
    assert shown["Goal (%)"].tolist()[:4] == ["", "35 or worse: missed", "35 or worse: met", "30 or worse: met"]
    assert "Unseen attacks (%)" not in shown and shown.iloc[2, 1] == "36.0" and shown.iloc[4, 1] == ""
    assert auditing.comparison_text(auditing.comparison({}, DETECTOR)).shape[0] == 1


def test_to_nested_dict():
    rows = [("none", math.nan, 0.2, "x"), ("pgd", 40.0, 0.9, "y"), ("pgd", 60.0, math.nan, "z")]
    table = pd.DataFrame(rows, columns=["method", "db", "eer", "words"])
    assert auditing.to_nested_dict(table, "method", "db") == {
        "none": {"eer": 0.2},
        "pgd": {"40": {"eer": 0.9}, "60": {}},
    }
    assert auditing.to_nested_dict(table.head(0), "method") == {}
