"""aasist_lib.corpora

| what | test |
|---|---|
| a protocol round-trips, empty cells stay text | test_protocol |
| a folder of bonafide/ and spoof/ becomes the same table, conditions included | test_folder |
| an attack of eval that dev alone has is neither known nor unseen | test_folder_refuses_attacks_of_dev_alone |
| what a table must not say is refused by name, paths that leave the corpus too | test_refused |
| declared conditions that train or dev contradict are refused, whatever cannot be known is not | test_conditions |
| a protocol that is no table is refused in one line | test_no_table |
| lengths are those of the recordings; files that cannot be opened are left out | test_measured |
| the summary counts names, not their absence, in the order of the splits | test_summary |
| the example is the most copied recording, or one of each class | test_example |
| the store holds what librosa computes; the sample is spread over it | test_differences_from_librosa |
"""

import numpy as np
import pandas as pd
import pytest
import soundfile

from aasist_lib import corpora, store
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


def test_measured(speech, speech_files):
    names = [*(path.name for path in speech_files), "README.md", "absent.wav"]
    table = corpora.measured(pd.DataFrame({"path": names}), speech)
    assert list(table["path"]) == names[:-2]
    assert table["seconds"].tolist() == [soundfile.info(path).duration for path in speech_files]


def test_summary(tmp_path):
    table = corpora.read(touch(tmp_path, FILES), "folder").assign(seconds=1800.0)
    assert corpora.summary(table).to_numpy().tolist() == [
        ["train", "bonafide", 1, 1, 0, 0, 0.5],
        ["train", "spoof", 1, 0, 0, 1, 0.5],
        ["dev", "bonafide", 1, 0, 0, 0, 0.5],
        ["eval", "bonafide", 1, 1, 0, 0, 0.5],
        ["eval", "spoof", 3, 0, 0, 3, 1.5],
    ]


def test_example(tmp_path):
    table = corpora.read(write(tmp_path, ROWS))
    assert list(corpora.example(table)["utt_id"]) == ["a", "b"]  # nothing was copied
    assert list(corpora.example(table[table["label"] == "spoof"])["utt_id"]) == ["b"]
    assert corpora.example(table[:0]).empty
    table.loc[[1, 2, 4], "pair_id"] = "set aside"  # copies of a recording that is not there
    assert list(corpora.example(table)["utt_id"]) == ["a", "b"]
    table.loc[3, "pair_id"] = "a"
    assert list(corpora.example(table).index) == [0, 3]
    more = table.assign(utt_id="2" + table["utt_id"], pair_id=["", "2a", "2a", "", ""])
    assert list(corpora.example(pd.concat([table, more]))["utt_id"]) == ["2a", "2b", "2c"]


def test_differences_from_librosa(speech, speech_files, tmp_path):
    rows = [{"utt_id": path.stem, "path": path.name, "label": "bonafide", "split": "train"} for path in speech_files]
    settings = dict(kind="mfcc", sample_rate=16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64, deltas=2)
    table = pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="")
    store.extract(table, speech, tmp_path / "features", settings)
    opened = store.Store(tmp_path / "features")
    assert len(rows) == 22
    few = corpora.differences_from_librosa(opened, speech, 3)
    assert list(few.index) == [rows[0]["utt_id"], rows[10]["utt_id"], rows[-1]["utt_id"]]
    every = corpora.differences_from_librosa(opened, speech, 1000)
    assert list(every.index) == list(opened.table["utt_id"]) and every.max() < 1e-3
    shard = np.load(tmp_path / "features/shard-00000.npy")
    shard[5, 7] += 1  # a frame of the first recording
    np.save(tmp_path / "features/shard-00000.npy", shard)
    assert corpora.differences_from_librosa(store.Store(tmp_path / "features"), speech, 3).iloc[0] > 0.9
