"""aasist_lib.corpora

| what | test |
|---|---|
| a protocol round-trips, empty cells stay text | test_protocol |
| a folder of bonafide/ and spoof/ becomes the same table, conditions included | test_folder |
| what a table must not say is refused by name | test_refused |
"""

import pandas as pd
import pytest

from aasist_lib import corpora
from aasist_lib.errors import UserError

ROWS = [
    {"utt_id": "b", "path": "audio/b.flac", "label": "spoof", "split": "eval", "condition": "unseen", "attack": "x"},
    {"utt_id": "a", "path": "audio/a.flac", "label": "bonafide", "split": "eval", "speaker": "NA"},
    {"utt_id": "c", "path": "audio/c.flac", "label": "spoof", "split": "eval", "condition": "known", "attack": "y"},
]


def write(folder, rows):
    pd.DataFrame(rows).fillna("").to_csv(folder / "protocol.csv", index=False)
    return folder


def test_protocol(tmp_path):
    table = corpora.read(write(tmp_path, ROWS), "protocol")
    assert list(table.columns) == corpora.COLUMNS
    assert list(table["utt_id"]) == ["a", "b", "c"]
    assert table.loc[0, "speaker"] == "NA" and table.loc[0, "attack"] == ""  # neither became a missing value


def test_folder(tmp_path):
    for name in (
        "train/bonafide/ann/1.wav", "train/spoof/espeak/1.flac", "dev/bonafide/2.ogg", "eval/bonafide/bob/3.wav",
        "eval/spoof/espeak/4.wav", "eval/spoof/vits/5.WAV", "eval/spoof/vits/notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table = corpora.read(tmp_path, "folder").set_index("path")
    assert len(table) == 6
    assert table.loc["train/bonafide/ann/1.wav", "speaker"] == "ann"
    assert table.loc["eval/spoof/espeak/4.wav", "condition"] == "known"
    assert table.loc["eval/spoof/vits/5.WAV", ["condition", "attack"]].tolist() == ["unseen", "vits"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": "fake"}, "label of b is 'fake'"),
        ({"split": "test"}, "split of b is 'test'"),
        ({"utt_id": "a"}, "utt_id a occurs more than once"),
        ({"condition": ""}, "its condition must be known or unseen"),
    ],
)
def test_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        corpora.read(write(tmp_path, [ROWS[0] | change, *ROWS[1:]]), "protocol")


def test_refused_without_files(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        corpora.read(tmp_path / "nothing")
    with pytest.raises(UserError, match="nearest is 'protocol'"):
        corpora.read(tmp_path, "protocoll")
    with pytest.raises(UserError, match="protocol.csv: not found"):
        corpora.read(tmp_path)
