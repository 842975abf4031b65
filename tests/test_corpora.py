"""aasist_lib.corpora

| what | test |
|---|---|
| a protocol round-trips, empty cells stay text | test_protocol |
| a folder of bonafide/ and spoof/ becomes the same table, conditions included | test_folder |
| an attack of eval that dev alone has is neither known nor unseen | test_folder_refuses_attacks_of_dev_alone |
| what a table must not say is refused by name, paths that leave the corpus too | test_refused |
| declared conditions that train or dev contradict are refused, whatever cannot be known is not | test_conditions |
| a protocol that is no table is refused in one line | test_no_table |
"""

import pandas as pd
import pytest

from aasist_lib import corpora
from aasist_lib.errors import UserError

ROWS = [
    {"utt_id": "b", "path": "audio/b.flac", "label": "spoof", "split": "eval", "condition": "unseen", "attack": "x"},
    {"utt_id": "a", "path": "audio/a.flac", "label": "bonafide", "split": "eval", "speaker": "NA"},
    {"utt_id": "c", "path": "audio/c.flac", "label": "spoof", "split": "eval", "condition": "known", "attack": "y"},
    {"utt_id": "d", "path": "audio/d.flac", "label": "spoof", "split": "train", "attack": "y"},
    {"utt_id": "e", "path": "audio/e.flac", "label": "spoof", "split": "dev", "attack": "z"},
]
FILES = [
    "train/bonafide/ann/1.wav", "train/spoof/espeak/1.flac", "dev/bonafide/2.ogg", "eval/bonafide/bob/3.wav",
    "eval/spoof/espeak/4.wav", "eval/spoof/vits/5.WAV", "eval/spoof/vits/notes.txt", "eval/spoof/6.wav",
]  # fmt: skip


def write(folder, rows):
    pd.DataFrame(rows).fillna("").to_csv(folder / "protocol.csv", index=False)
    return folder


def touch(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_protocol(tmp_path):
    table = corpora.read(write(tmp_path, ROWS), "protocol")
    assert list(table.columns) == corpora.COLUMNS
    assert list(table["utt_id"]) == ["a", "b", "c", "d", "e"]
    assert table.loc[0, "speaker"] == "NA" and table.loc[0, "attack"] == ""  # neither became a missing value


def test_folder(tmp_path):
    table = corpora.read(touch(tmp_path, FILES), "folder").set_index("path")
    assert len(table) == 7
    assert table.loc["train/bonafide/ann/1.wav", "speaker"] == "ann"
    assert table.loc["eval/spoof/espeak/4.wav", "condition"] == "known"
    assert table.loc["eval/spoof/vits/5.WAV", ["condition", "attack"]].tolist() == ["unseen", "vits"]
    assert table.loc["eval/spoof/6.wav", ["condition", "attack"]].tolist() == ["unseen", "unnamed"]
    assert set(table.loc[table["split"] != "eval", "condition"]) == {""}


@pytest.mark.parametrize("name, attack", [("dev/spoof/vits/7.wav", "vits"), ("dev/spoof/8.wav", "unnamed")])
def test_folder_refuses_attacks_of_dev_alone(tmp_path, name, attack):
    touch(tmp_path, [*FILES, name])
    with pytest.raises(UserError, match=f"dev and eval have the attack {attack}, train has not"):
        corpora.read(tmp_path, "folder")
    touch(tmp_path, [name.replace("dev", "train")])
    table = corpora.read(tmp_path, "folder")
    assert set(table.loc[(table["split"] == "eval") & (table["attack"] == attack), "condition"]) == {"known"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": "fake"}, "label of b is 'fake'"),
        ({"split": "test"}, "split of b is 'test'"),
        ({"utt_id": "a"}, "utt_id a occurs more than once"),
        ({"utt_id": " "}, "path 'audio/b.flac' has no utt_id"),
        ({"condition": ""}, "its condition must be known or unseen"),
        ({"path": "../../etc/passwd"}, "b: the path '../../etc/passwd' leaves the corpus"),
        ({"path": "/etc/passwd"}, "b: the path '/etc/passwd' leaves the corpus"),
        ({"path": ""}, "b: the path '' leaves the corpus"),
    ],
)
def test_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        corpora.read(write(tmp_path, [ROWS[0] | change, *ROWS[1:]]), "protocol")


@pytest.mark.parametrize(
    "condition, attack, message",
    [
        ("unseen", "y", "b is said to be unseen, but train has its attack y"),
        ("known", "x", "b is said to be known, but train lacks its attack x"),
        ("unseen", "z", "dev and eval have the attack z"),
        ("known", "z", "dev and eval have the attack z"),
    ],
)
def test_conditions(tmp_path, condition, attack, message):
    changed = [ROWS[0] | {"condition": condition, "attack": attack}, *ROWS[1:]]
    with pytest.raises(UserError, match=message):
        corpora.read(write(tmp_path, changed), "protocol")
    changed[0]["attack"] = ""  # a machine that nobody has named
    assert corpora.read(write(tmp_path, changed), "protocol").loc[1, "condition"] == condition


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", "utt_id,path,label,split\né,a.wav,spoof,dev\n".encode("latin-1"), b"utt_id,path\n1,2\n1,2,3\n"],
)
def test_no_table(tmp_path, data):
    (tmp_path / "protocol.csv").write_bytes(data)
    with pytest.raises(UserError, match=r"^\S+protocol.csv: not a CSV table in UTF-8 \(.+\)$"):
        corpora.read(tmp_path)


def test_refused_without_files(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        corpora.read(tmp_path / "nothing")
    with pytest.raises(UserError, match="nearest is 'protocol'"):
        corpora.read(tmp_path, "protocoll")
    with pytest.raises(UserError, match="protocol.csv: not found"):
        corpora.read(tmp_path)
    (tmp_path / "protocol.csv").write_text("utt_id,path,label,split\n")
    with pytest.raises(UserError, match="holds no utterances"):
        corpora.read(tmp_path)
