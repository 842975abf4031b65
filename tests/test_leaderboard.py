"""The leaderboard: what is tested.

| test | what must hold |
|---|---|
| runs | networks and a baseline, each with its seeds, from one store of waveforms; every measure is there |
| resumes | what is done is not done again; a changed setting is, and nothing else |
| measures | EER on eval is that of the scores that were kept |
| table | means over seeds, their spread, ordered by the error rate |
| the file | the committed one holds systems that can be built; mistakes are named |
| command | writes metrics/, and has nothing to do the second time |
| refusals | a store of features, one name twice |
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from aasist_lib import corpora, features, leaderboard, metrics, models, store
from aasist_lib.errors import UserError
from aasist_lib.leaderboard import System
from aasist_lib.pipeline import params
from aasist_lib.pipeline.leaderboard import read
from aasist_lib.pipeline.leaderboard import run as command

COMMITTED = Path(__file__).parents[1] / "params.yaml"
SPEECH = sorted((Path(__file__).parent / "speech").glob("*.flac"))
SMALL = {
    "features": {"kind": "logspec", "n_fft": 512, "hop_length": 256, "deltas": 0, "logspec": {"n_bands": 16}},
    "model": {"cnn_attention": {"width": 8, "heads": 2, "spectrum": False}},
    "train": {"max_epochs": 1, "batch_size": 4, "crop_seconds": 0.5},
    "evaluate": {"bootstrap": 20},
}


def system(name, seeds=(1,), baseline="", **changes) -> System:
    settings = params.overlaid(params._merged(SMALL, changes), COMMITTED)
    return System(name, f"the {name}", settings, seeds, baseline)


@pytest.fixture(scope="module")
def waveforms(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("leaderboard")
    (folder / "audio").mkdir()
    rows = []
    for number in range(36):
        speech, rate = sf.read(SPEECH[number // 2 % len(SPEECH)])
        speech = np.resize(np.roll(speech, 997 * number), rate) * 0.5 / np.abs(speech).max()
        fake, split = number % 2, ("train", "dev", "eval")[number // 12]
        samples = np.round(speech * 12) / 12 if fake else speech
        sf.write(folder / f"audio/u{number:02d}.flac", samples, rate)
        rows.append(
            dict(
                utt_id=f"u{number:02d}", path=f"audio/u{number:02d}.flac", label="spoof" if fake else "bonafide",
                speaker=f"s{number // 4}", attack=f"coarse{number // 4 % 2}" if fake else "", split=split,
                condition="known" if fake and split == "eval" else "", pair_id="",
            )
        )  # fmt: skip
    for holds in store.HOLDS:
        settings = params.overlaid(SMALL, COMMITTED)["features"]
        store.extract(pd.DataFrame(rows), folder, folder / holds, settings, holds=holds)
    pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="").to_csv(folder / "protocol.csv", index=False)
    return {holds: folder / holds for holds in store.HOLDS}


SYSTEMS = (
    system("network", seeds=(1, 2)),
    system("transformer", model={"name": "transformer", "transformer": {"width": 8, "heads": 2, "layers": 1}}),
    system("regression", baseline="logistic"),
)


@pytest.fixture(scope="module")
def results(waveforms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, leaderboard.run(SYSTEMS, waveforms["waveforms"], folder)


def test_runs(results):
    folder, found = results
    assert [(row["system"], row["seed"]) for row in found] == [
        ("network", 1), ("network", 2), ("transformer", 1), ("regression", 1)
    ]  # fmt: skip
    for row in found:
        assert {"eer", "eer_low", "eer_high", "min_dcf", "cllr", "accuracy"} <= set(row["eval"]["all"])
        assert set(row["by_attack"]) == {"coarse0", "coarse1"} and row["minutes"] > 0
        scores = pd.read_csv(folder / f"{row['system']}-{row['seed']}-eval.csv", keep_default_na=False)
        real = scores["label"] == "bonafide"
        eer = metrics.eer(scores["llr"][real], scores["llr"][~real]).value
        assert row["eval"]["all"]["eer"] == pytest.approx(eer, abs=1e-6)
    assert [row["parameters"] is None for row in found] == [False, False, False, True]
    assert found[0]["milliseconds"] > 0 and found[0]["by_attack"] != found[1]["by_attack"]


def test_resumes(results, waveforms, monkeypatch):
    folder, found = results
    begun = []

    def here(work, jobs, *_):
        begun.extend(jobs)
        return [work(job) for job in jobs]

    monkeypatch.setattr(leaderboard, "in_processes", here)
    assert leaderboard.run(SYSTEMS, waveforms["waveforms"], folder) == found and not begun
    changed = (SYSTEMS[0], SYSTEMS[1], system("regression", baseline="logistic", features={"normalise": "mean"}))
    again = leaderboard.run(changed, waveforms["waveforms"], folder)
    assert [job.system.name for job in begun] == ["regression"]
    assert again[:3] == found[:3] and again[3]["key"] != found[3]["key"]
    (folder / "network-2.json").write_text("{")  # half of one
    assert json.dumps(leaderboard.run(SYSTEMS[:1], waveforms["waveforms"], folder)[0]) == json.dumps(found[0])
    assert [job.seed for job in begun[1:]] == [2]


def test_table():
    def result(system, seed, eer):
        measures = {"eer": eer, "eer_low": eer - 0.1, "eer_high": eer + 0.1, "min_dcf": 0.5}
        about = {"about": "x", "parameters": 10 if system == "a" else None, "minutes": 2.0, "milliseconds": None}
        return about | {"system": system, "seed": seed, "dev_eer": 0.1, "eval": {"all": measures}}

    found = leaderboard.table([result("a", 1, 0.3), result("a", 2, 0.4), result("b", 1, 0.2)])
    assert found["system"].tolist() == ["b", "a"] and found["seeds"].tolist() == [1, 2]
    assert found["eer_all"].tolist() == pytest.approx([0.2, 0.35])
    assert found["eer_all_low"].tolist() == pytest.approx([0.1, 0.25])
    assert found["eer_all_spread"].tolist() == pytest.approx([0.0, 0.1])
    assert found["min_dcf_all"].tolist() == [0.5, 0.5] and np.isnan(found["parameters"][0])


def test_refusals(waveforms, tmp_path):
    with pytest.raises(UserError, match="holds features, and systems differ in theirs"):
        leaderboard.run(SYSTEMS, waveforms["features"], tmp_path)
    with pytest.raises(UserError, match="two systems are called network"):
        leaderboard.run([SYSTEMS[0], SYSTEMS[0]], waveforms["waveforms"], tmp_path)


def test_the_committed_file(tmp_path):
    systems = read(COMMITTED.parent / "experiments/leaderboard.yaml", COMMITTED)
    assert len(systems) >= 8 and systems[0].settings["train"] == params.load(COMMITTED)["train"]
    assert {found.baseline for found in systems} == {"", "gmm", "logistic"}
    for found in systems:  # each can be built, features and network together
        front_end = features.build(found.settings["features"])
        if not found.baseline:
            shape = {"coefficients": front_end.coefficients, "channels": front_end.channels}
            models.build(**found.settings["model"], **shape)
    path = tmp_path / "systems.yaml"
    path.write_text("seeds: [1]\nsystems:\n  mine: {about: x, changes: {}}\n")
    with pytest.raises(UserError, match="systems.yaml: mine: changes is none of about, baseline, change, seeds"):
        read(path, COMMITTED)
    path.write_text("seeds: [1]\nsystems:\n  mine: {about: x, change: {train: {lrr: 1.0}}}\n")
    with pytest.raises(UserError, match="systems.yaml: mine: train.lrr is not a setting"):
        read(path, COMMITTED)


def test_command(waveforms, tmp_path, monkeypatch):
    """On a small corpus in a folder of its own; called again, the waveforms and the runs are there."""
    (tmp_path / "data").symlink_to(waveforms["waveforms"].parent)
    (tmp_path / "params.yaml").write_text(COMMITTED.read_text("utf-8"), "utf-8")
    (tmp_path / "systems.yaml").write_text(
        "seeds: [1]\nsystems:\n  plain: {about: regression, baseline: logistic, change: {evaluate: {bootstrap: 20}}}\n"
    )
    table = pd.read_csv(command(tmp_path, 1, tmp_path / "systems.yaml"))
    assert table["system"].tolist() == ["plain"] and table["eer_all"].between(0, 1).all()
    assert json.loads((tmp_path / "metrics/leaderboard.json").read_text())["results"][0]["seed"] == 1
    monkeypatch.setattr(store, "extract", None)
    monkeypatch.setattr(leaderboard, "in_processes", None)
    command(tmp_path, 1, tmp_path / "systems.yaml")
