"""aasist_lib.store

| what | test |
|---|---|
| what is read is what the front-end gives, whole and in crops | test_round_trip |
| the same bytes with one process and with two | test_workers |
| killed in the middle, started again: goes on, the same bytes | test_killed |
| unusable files are set aside with the reason; too many stop it with the count and the first five | test_bad_files |
| too many missing files stop it before it begins | test_missing_files |
| a path that leaves the corpus is refused | test_paths |
| a name that stands there twice is refused | test_repeated |
| every split is extracted; each is selected by itself | test_splits |
| reading maps memory, it does not load | test_mapped |
| the index reads as the text of older stores does, and has the same content | test_index |
| a flipped bit is found when its shard is read, and by `verify`; no other shard is refused for it | test_flipped |
| extraction goes on: a shard in which a bit has flipped is written again, no other | test_flipped_before_it_ended |
| a damaged shard of a store is written again from the recordings, and only with its own bytes | test_mended |
| copies of the real recordings of train alone, by name the same ones again, told apart from the corpus | test_copies |
"""

import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from aasist_lib import audio, corpora, features
from aasist_lib.base.errors import UserError
from aasist_lib.corpora import copies
from aasist_lib.store import indexes, store

SETTINGS = dict(kind="mfcc", sample_rate=16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64, deltas=2)
ROOT = Path(__file__).parents[1]


def table_of(paths, copies=1):
    rows = [
        {"utt_id": f"{path.stem}-{k}", "path": path.name, "label": ("bonafide", "spoof")[k % 2], "split": "train"}
        for path in paths for k in range(copies)
    ]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="").sort_values("utt_id", ignore_index=True)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(speech, speech_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "features"
    summary = store.extract(table_of(speech_files, 3), speech, folder, SETTINGS, workers=2)
    assert summary.utterances == 3 * len(speech_files) and summary.rejected == 0
    return folder


def test_round_trip(made, speech):
    opened, front_end = store.Store(made), features.build(SETTINGS)
    assert (opened.coefficients, opened.channels, opened.frame_rate) == (60, 3, 100)
    for row in opened.select("train")[::5]:
        wave = audio.read(speech / opened.table["path"][row], 16000)
        wanted = front_end(torch.from_numpy(wave)[None])[0].numpy()
        found = opened.read(row)
        assert found.shape == wanted.shape == (60, opened.table["frames"][row])
        assert np.abs(found - wanted).max() < 1e-3
        np.testing.assert_array_equal(opened.read(row, 10, 20), found[:, 10:30])
        assert opened.table["seconds"][row] == pytest.approx(len(wave) / 16000, abs=1e-3)
    assert len(opened.select("dev")) == 0
    assert (opened.table["speaker"] == "").all()  # empty text, no missing values


def test_workers(made, speech, speech_files, tmp_path):
    store.extract(table_of(speech_files, 3), speech, tmp_path / "one", SETTINGS, workers=1)
    assert bytes_of(tmp_path / "one") == bytes_of(made)


def test_killed(made, speech, speech_files, tmp_path):
    folder, table = tmp_path / "features", tmp_path / "table.csv"
    table_of(speech_files, 3).to_csv(table, index=False)
    code = (
        "import pandas as pd, time; from aasist_lib.store import store\n"
        "work = store._work\n"
        "def slowly(job):\n    work(job); time.sleep(0.5)\n"
        "store._work = slowly\n"
        f"store.extract(pd.read_csv({str(table)!r}, dtype=str, keep_default_na=False), {str(speech)!r}, "
        f"{str(folder)!r}, {SETTINGS!r}, workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    done = tmp_path / "features.partial/done"
    while len(list(done.glob("*.csv"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    again = []
    progress_of = store._work
    try:
        store._work = lambda job: (again.append(job.number), progress_of(job))
        store.extract(table_of(speech_files, 3), speech, folder, SETTINGS, workers=1)
    finally:
        store._work = progress_of
    assert 0 not in again and len(again) >= 1
    assert bytes_of(folder) == bytes_of(made)


def test_bad_files(speech, speech_files, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(speech, corpus)
    cut = (speech / "asterisk-en-conf-kicked.flac").read_bytes()[:9000]
    bad = {"empty.wav": b"", "text.wav": b"not audio", "cut.flac": cut}
    for name, data in bad.items():
        (corpus / name).write_bytes(data)
    paths = [*speech_files, *(corpus / name for name in bad), corpus / "absent.wav"]
    summary = store.extract(table_of(paths), corpus, tmp_path / "features", SETTINGS, max_bad_fraction=0.5)
    assert summary.rejected == 4
    rejected = pd.read_csv(tmp_path / "features/rejected.csv").set_index("path")["reason"]
    assert rejected.to_dict() == {
        "empty.wav": "empty", "text.wav": "not audio", "cut.flac": "truncated", "absent.wav": "missing"
    }  # fmt: skip
    assert not set(rejected.index) & set(store.Store(tmp_path / "features").table["path"])
    with pytest.raises(UserError, match=r"4 of 26 recordings cannot be used.*absent.wav: missing"):
        store.extract(table_of(paths), corpus, tmp_path / "other", SETTINGS, max_bad_fraction=0.1)
    assert not (tmp_path / "other").exists() and (tmp_path / "other.partial/rejected.csv").is_file()


def test_missing_files(speech, speech_files, tmp_path):
    paths = [*speech_files, *(speech / f"absent-{i}.wav" for i in range(7))]
    with pytest.raises(UserError) as error:
        store.extract(table_of(paths), speech, tmp_path / "features", SETTINGS, max_bad_fraction=0.2)
    assert str(error.value) == (
        "7 of 29 recordings are missing, more than extract.max_bad_fraction allows (0.2): absent-0.wav, absent-1.wav, "
        "absent-2.wav, absent-3.wav, absent-4.wav and 2 more. Put them there, take them out of the corpus, or allow "
        "more"
    )
    assert not list(tmp_path.iterdir())  # it did not begin
    assert store.extract(table_of(paths), speech, tmp_path / "features", SETTINGS, max_bad_fraction=0.3).rejected == 7


def test_too_short(speech, speech_files, tmp_path):
    summary = store.extract(
        table_of(speech_files), speech, tmp_path / "features", SETTINGS, min_seconds=1.5, max_bad_fraction=0.5
    )
    rejected = pd.read_csv(tmp_path / "features/rejected.csv")
    assert summary.rejected == len(rejected) == 2 and set(rejected["reason"]) == {"too short"}


@pytest.mark.parametrize("path", ["../secret.wav", "/secret.wav", "a/../../secret.wav"])
def test_paths(speech, speech_files, tmp_path, path):
    table = table_of(speech_files[:2])
    table.loc[0, "path"] = path
    with pytest.raises(UserError, match="leaves the corpus"):
        store.extract(table, speech, tmp_path / "features", SETTINGS)


def test_repeated(speech, speech_files, tmp_path):
    table = table_of(speech_files[:4])
    table.loc[3, "utt_id"] = table["utt_id"][1]
    with pytest.raises(UserError, match=f"has the utt_id '{table['utt_id'][1]}' twice"):
        store.extract(table, speech, tmp_path / "features", SETTINGS)


def test_splits(speech, speech_files, tmp_path):
    names = ["train", "dev", "eval", "narrow"]
    table = table_of(speech_files[:8]).assign(split=names * 2)
    summary = store.extract(table, speech, tmp_path / "features", SETTINGS)
    assert set(summary.splits) == set(names)
    opened = store.Store(tmp_path / "features")
    for name in names:
        assert opened.select(name).tolist() == np.flatnonzero(table["split"] == name).tolist()


def test_mapped(made):
    opened = store.Store(made)
    opened.read(0)
    assert all(isinstance(shard, np.memmap) for shard in opened._shards.values())
    assert not opened.table["start"].to_numpy().flags.writeable  # a map, as the shards are
    again = pickle.loads(pickle.dumps(opened))
    assert not again._shards and not again.table["start"].to_numpy().flags.writeable
    np.testing.assert_array_equal(again.read(3), opened.read(3))


def test_index(made, tmp_path, speech_files):
    text = pd.concat([table_of(speech_files, 3), store.Store(made).table[store.PLACE]], axis=1).to_csv(index=False)
    assert b"".join(indexes.text(indexes.read(made))) == text.encode()
    numbers = pd.DataFrame({"utt_id": ["a", "b"], "speaker": [1, 2], "codec": [None, "mp3"]})  # as text they would be
    indexes.write(tmp_path / "other", numbers)
    found = indexes.read(tmp_path / "other")
    assert found.to_dict("list") == {"utt_id": ["a", "b"], "speaker": ["1", "2"], "codec": ["", "mp3"]}


def flip(path, byte):
    """As a disk or a cable may do."""
    with open(path, "r+b") as file:
        file.seek(byte)
        (old,) = file.read(1)
        file.seek(byte)
        file.write(bytes([old ^ 4]))


def test_flipped(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "features")
    store.Store(folder).verify()
    flip(folder / "shard-00001.npy", 9000)
    opened = store.Store(folder)
    damaged = f"{folder}/shard-00001.npy: not the bytes that were written.*extract again"
    rows = np.flatnonzero(opened.table["shard"] == 1)
    np.testing.assert_array_equal(opened.read(0), store.Store(made).read(0))
    for read in (opened.verify, lambda: opened.read(rows[0]), lambda: opened.read(rows[-1])):
        with pytest.raises(UserError, match=damaged) as error:
            read()
        assert "\n" not in str(error.value)
    flip(folder / "shard-00001.npy", 9000)
    flip(folder / "index.arrow", 2000)
    with pytest.raises(UserError, match="index.arrow: not the bytes"):
        store.Store(folder).verify()


def test_flipped_before_it_ended(made, speech, speech_files, tmp_path, monkeypatch):
    work, again = store._work, []

    def until_the_last(job):
        if job.number == 4:
            raise KeyboardInterrupt
        work(job)

    monkeypatch.setattr(store, "_work", until_the_last)
    with pytest.raises(KeyboardInterrupt):
        store.extract(table_of(speech_files, 3), speech, tmp_path / "features", SETTINGS)
    flip(tmp_path / "features.partial/shard-00002.npy", 7000)
    monkeypatch.setattr(store, "_work", lambda job: (again.append(job.number), work(job)))
    store.extract(table_of(speech_files, 3), speech, tmp_path / "features", SETTINGS)
    assert again == [2, 4]
    assert bytes_of(tmp_path / "features") == bytes_of(made)


def test_broken_recording_with_copies(speech, speech_files, tmp_path):
    table = table_of(speech_files[:6])
    for path in speech_files[:6]:
        (tmp_path / path.name).write_bytes(path.read_bytes() if path != speech_files[0] else b"no sound")
    settings = dict(content="waveforms", copies=2)
    with pytest.raises(UserError, match=f"^1 of 6 recordings cannot be used.*: {speech_files[0].name}: [^;]*All are"):
        store.extract(table, tmp_path, tmp_path / "features", SETTINGS, **settings)
    summary = store.extract(table, tmp_path, tmp_path / "features", SETTINGS, max_bad_fraction=0.2, **settings)
    assert (summary.utterances, summary.rejected, summary.copies) == (5, 1, 10)
    assert len(pd.read_csv(tmp_path / "features/rejected.csv")) == 1


def test_copies(speech, speech_files, tmp_path):
    table = table_of(speech_files[:6], 2)
    table.loc[table["utt_id"].str.startswith(speech_files[5].stem), "split"] = "eval"
    summary = store.extract(table, speech, tmp_path / "one", SETTINGS, content="waveforms", copies=2, workers=2)
    assert (summary.utterances, summary.copies) == (12, 10)
    opened = store.Store(tmp_path / "one")
    added = opened.table.drop(opened.recordings.index)
    assert opened.recordings["utt_id"].tolist() == table["utt_id"].tolist()
    assert set(added["label"] + added["split"] + added["attack"]) == {"spoof" + "train" + copies.RESYNTHESIS}
    assert added["utt_id"].tolist() == [f"{name}~{n}" for name in added["pair_id"].unique() for n in (1, 2)]
    row_of = dict(zip(opened.table["utt_id"], opened.table.index, strict=True))
    for copy in added.itertuples():
        x, y = opened.read(row_of[copy.pair_id])[0], opened.read(copy.Index)[0]
        assert len(x) == len(y) and np.sqrt(np.mean(y**2)) == pytest.approx(np.sqrt(np.mean(x**2)), rel=0.05)
        assert np.abs(x - y).max() > 0.001
    # no other recording beside it changes a copy
    fewer = table[table["utt_id"].isin(added["pair_id"].unique()[:2])]
    store.extract(fewer, speech, tmp_path / "two", SETTINGS, content="waveforms", copies=1)
    again = store.Store(tmp_path / "two")
    for copy in again.table.drop(again.recordings.index).itertuples():
        np.testing.assert_array_equal(again.read(copy.Index), opened.read(row_of[copy.utt_id]))
