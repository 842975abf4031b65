"""Selection: what is tested.

| what | test |
|---|---|
| every kind and every source is left out once, related ones together; copies made here in no fold | test_folds |
| a training never reads what its fold leaves out, nor eval, nor more copies than asked | test_never_read |
| results of every kind and source, resumed from disk or from elsewhere, none trained twice | test_resumed |
| the table's means, differences and intervals, by hand | test_table |
| tables and maps for people; a file that is missing | test_shown |
| how the default stands, in words | test_sentence |
| the command writes metrics/ and trains nothing twice, nor on a fresh checkout | test_command |
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from aasist_lib import params, plots, store, training
from aasist_lib.base.errors import UserError
from aasist_lib.corpora import copies
from aasist_lib.studies import plans, runner, selection
from aasist_lib.studies.systems import System

ROOT = Path(__file__).parents[1]
SPEECH = sorted((ROOT / "tests/speech").glob("festvox-ru_*.wav"))
SMALL = {
    "features": {"kind": "lfcc", "n_fft": 512, "hop_length": 160, "deltas": 0, "lfcc": {"n_lfcc": 8, "n_filters": 12}},
    "model": {"cnn_attention": {"width": 8, "heads": 2, "dropout": 0.0, "spectrum": False}},
    "train": {"max_epochs": 1, "batch_size": 4, "crop_seconds": 0.5, "warmup_fraction": 0.0},
}
KINDS = ("coarse", "clipped", "reversed")


def system(name, number=1):
    settings = params.overlaid(SMALL, ROOT / "params.yaml")
    settings["extract"] = {"copies": number}
    return System(name, f"the {name}", settings)


@pytest.fixture(scope="module")
def waveforms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("selection")
    (folder / "audio").mkdir()
    rows = []
    for number in range(48):
        speech, rate = sf.read(SPEECH[number % len(SPEECH)])
        speech = np.resize(np.roll(speech, 997 * number), rate // 2) * 0.5 / np.abs(speech).max()
        split, person, kind = ("train", "dev", "eval")[number // 16], number // 4, number // 2 % 3
        fake = number % 2
        if fake:
            speech = (np.round(speech * 12) / 12, np.clip(speech, -0.1, 0.1), speech[::-1])[kind]
        sf.write(folder / f"audio/u{number:02d}.flac", speech, rate)
        rows.append(
            dict(
                utt_id=f"u{number:02d}", path=f"audio/u{number:02d}.flac", label="spoof" if fake else "bonafide",
                speaker=f"s{person}", attack=KINDS[kind] if fake else "", split=split, condition="",
                source=f"p{person}", pair_id=f"u{number - 1:02d}" if fake else "",
            )
        )  # fmt: skip
    settings = params.overlaid(SMALL, ROOT / "params.yaml")["features"]
    store.extract(pd.DataFrame(rows), folder, folder / "waveforms", settings, content="waveforms", copies=2)
    return folder / "waveforms"


@pytest.fixture(scope="module")
def results(waveforms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, selection.run([system("default"), system("bare", 0)], waveforms, folder, folds=2)


def test_folds(waveforms):
    table = store.Store(waveforms).table
    for count in (2, 3):
        found = selection.folds(table, count)
        attacks = [name for fold in found for item in fold if item.kind == "attack" for name in item.names]
        sources = [name for fold in found for item in fold if item.kind == "source" for name in item.names]
        assert sorted(attacks) == sorted(KINDS) and sorted(sources) == sorted({f"p{n}" for n in range(4)})
        assert all({item.kind for item in fold} == {"attack", "source"} for fold in found)
    related = table.assign(attack=table["attack"].replace({"coarse": "world", "clipped": "world_vc"}))
    assert any(item.names == ("world", "world_vc") for item in selection.folds(related, 2)[0])


@pytest.mark.parametrize("number", [0, 1])
def test_never_read(waveforms, tmp_path, monkeypatch, number):
    opened = store.Store(waveforms)
    table, seen, chosen = opened.table, set(), {}

    def read(self, row, *given):
        seen.add(row)
        return original(self, row, *given)

    def fit(*given, **settings):
        found = fitted(*given, **settings)
        chosen["rows"], chosen["out"] = set(seen), settings["leave_out"]
        return found

    original, fitted = store.Store.read, training.fit
    monkeypatch.setattr(store.Store, "read", read)
    monkeypatch.setattr(training, "fit", fit)
    job = selection.Job(system("default", number), 1, waveforms, tmp_path, "key", fold=0, folds=2)
    selection.measured(job)
    rows = table.loc[sorted(chosen["rows"])]
    items = selection.folds(table, 2)[0]
    attacks = {name for item in items if item.kind == "attack" for name in item.names}
    sources = {name for item in items if item.kind == "source" for name in item.names}
    assert attacks and sources and len(rows) > 4
    assert not set(rows["attack"]) & attacks
    learnt = rows[rows["split"] == "train"]
    assert not set(learnt["source"]) & sources
    assert set(rows["split"]) == {"train", "dev"}
    assert "eval" not in set(table.loc[sorted(seen), "split"])
    made = rows[copies.is_vocoded(rows)]
    assert set(made["utt_id"].str[-1]) == {str(n) for n in range(1, number + 1)}


def test_resumed(results, waveforms, tmp_path, monkeypatch):
    folder, found = results
    assert [(row["system"], row["fold"]) for row in found] == [(n, k) for n in ("default", "bare") for k in (0, 1)]
    for name in ("default", "bare"):
        asked = [row for row in found if row["system"] == name]
        assert sorted(kind for row in asked for kind in row["left_out"]) == sorted(KINDS)
        assert sorted(name for row in asked for name in row["sources"]) == [f"p{n}" for n in range(4)]

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "fit", never)
    monkeypatch.setattr(runner, "in_processes", never)
    both = [system("default"), system("bare", 0)]
    assert selection.run(both, waveforms, folder, folds=2) == found
    saved = []
    elsewhere = json.loads(json.dumps(found))
    assert selection.run(both, waveforms, tmp_path / "new", folds=2, kept=elsewhere, save=saved.append) == found
    assert saved == [found]
    with pytest.raises(AssertionError, match="trained again"):  # other settings, other runs
        selection.run([system("default", 2)], waveforms, folder, folds=2, kept=elsewhere)


def result(name, left_out, known=0.1):
    return {
        "system": name, "left_out": left_out, "known": known, "dev_eer": known, "minutes": 2.0,
        "sources": {"p": 0.2}, "pairs": {"world": 0.4},
    }  # fmt: skip


def test_table():
    kinds = [f"k{n}" for n in range(12)]
    one = [result("default", {k: 0.2 for k in kinds[:6]}), result("default", {k: 0.3 for k in kinds[6:]}, 0.3)]
    other = [result("other", {k: 0.1 for k in kinds[:6]}), result("other", {k: 0.6 for k in kinds[6:]})]
    found = selection.table(one + other, against="default").set_index("system")
    assert found.index.tolist() == ["default", "other"]
    assert found.loc["default", "eer"] == pytest.approx(0.25) and found.loc["default", "known"] == pytest.approx(0.2)
    assert found.loc["default", "worse"] == 0 == found.loc["default", "worse_high"]
    assert found.loc["other", "worse"] == pytest.approx(0.1) and found.loc["other", "inverted"] == 6
    assert found.loc["other", "worse_low"] < 0.1 < found.loc["other", "worse_high"]
    assert found.loc["other", "kinds"] == 12 and found.loc["other", "alarms"] == pytest.approx(0.2)


def test_shown(tmp_path):
    rows = [result("default", {"k0": 0.2, "k1": 0.6}), result("other", {"k0": 0.3})]
    matrix = selection.matrix(rows, "left_out")
    assert matrix.index.tolist() == ["k1", "k0"] and matrix.columns.tolist() == ["default", "other"]
    assert np.isnan(matrix.loc["k1", "other"]) and matrix.loc["k0", "other"] == 0.3
    found = selection.table(rows, against="default")
    shown = selection.readable(found, {"default": "as it is", "other": "another"})
    assert shown["Candidate"].tolist() == ["other", "default"] and shown.iloc[1, 2].startswith("40.0 (")
    fig = plots.error_map(matrix, "A title")
    assert [text.get_text() for text in fig.axes[0].texts] == ["60", "20", "30"]
    path = tmp_path / "selection.json"
    board = {"about": {"default": ""}, "results": rows, "data": "0123.dir"}
    path.write_text(json.dumps(board | {"sentence": ""}))
    assert selection.read(path) == board
    with pytest.raises(UserError, match="absent.json is missing or broken: `make select` writes it"):
        selection.read(tmp_path / "absent.json")


def test_sentence():
    one, other = (result(name, {f"k{n}": value for n in range(4)}) for name, value in (("default", 0.2), ("x", 0.1)))
    assert "x errs least, at 10.0%: more than chance explains" in selection.sentence([one, other])
    assert "the least of 2 candidates" in selection.sentence([one, result("x", other["left_out"] | {"k0": 0.9})])
    assert selection.sentence([other]) == ""


def test_command(waveforms, tmp_path, monkeypatch):
    """With results that are made up: trainings have tests of their own."""
    asked = []

    def measured(job):
        asked.append((job.system.name, job.fold, job.draws))
        return result(job.system.name, {"k0": 0.2}) | {"key": job.key, "seed": job.seed, "fold": job.fold}

    monkeypatch.setattr(selection, "measured", measured)
    monkeypatch.setattr(plans, "waveforms", lambda *_: waveforms)
    monkeypatch.setattr(runner, "in_processes", lambda work, jobs, *_: (work(job) or job for job in jobs))
    monkeypatch.setenv("AASIST_TERMINAL", "")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text("utf-8"), "utf-8")
    (tmp_path / "data.dvc").write_text("outs:\n- {path: data, md5: 0123.dir}\n")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/selection.yaml").write_text(
        "seeds: [1]\nfolds: 2\ndraws: 6\nsystems:\n"
        "  default: {about: as it is}\n  bare: {about: no copies, change: {extract: {copies: 0}}}\n"
    )
    assert pd.read_csv(selection.command(tmp_path, 1))["system"].tolist() == ["default", "bare"]
    assert asked == [(name, fold, 6) for name in ("default", "bare") for fold in (0, 1)]
    path = tmp_path / "metrics/selection.json"
    board = selection.read(path)
    assert board["about"] == {"default": "as it is", "bare": "no copies"} and board["data"] == "0123.dir"
    assert len(board["results"]) == 4 and "the least of 2 candidates" in json.loads(path.read_text())["sentence"]
    shutil.rmtree(tmp_path / "build")
    before = path.read_bytes()
    selection.command(tmp_path, 1)
    assert len(asked) == 4 and path.read_bytes() == before
