"""The leaderboard: what is tested.

| test | what must hold |
|---|---|
| runs | networks and a baseline, each with its seeds, from one store of waveforms; every measure is there |
| measures | EER on eval, by attack and on the share is that of the scores that were kept |
| resumes | what is done is not done again; a changed setting is, and nothing else |
| on another machine | a result counts by what the store holds and the code does, not by times and places |
| measured again | another threshold or other code that measures needs no training where the scores are |
| again | everything anew, on demand |
| stopped | minutes of a training that was stopped count up to its last checkpoint |
| share | a fixed part of dev and eval, every speaker and attack in it, whatever the order of the table |
| published | AASIST as published: bona fide less spoof logit of each clip, goes on where it was stopped |
| published | where the weights are absent, the result is kept, or one line says where to get them |
| table | means over seeds, their spread, ordered by the error rate on dev |
| the file | the committed one holds systems that can be built; mistakes are named in one line |
| the seed's report | its file and the line to run it by say the same |
| command | writes metrics/, and has nothing to do the second time, nor on a fresh checkout |
| refusals | a store of features, one name twice |
"""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from aasist_lib import corpora, evaluation, features, metrics, models, params, store
from aasist_lib.base import provenance
from aasist_lib.base.errors import UserError
from aasist_lib.models import aasist
from aasist_lib.pipeline import standings
from aasist_lib.studies import leaderboard, runner, systems
from aasist_lib.studies.leaderboard import command
from aasist_lib.studies.plans import read
from aasist_lib.studies.systems import System

COMMITTED = Path(__file__).parents[1] / "params.yaml"
REFERENCE = Path(__file__).resolve().parents[2] / "shared/reference/aasist"
SPEECH = sorted((Path(__file__).parent / "speech").glob("*.flac"))
SMALL = {
    "features": {"kind": "logspec", "n_fft": 512, "hop_length": 256, "deltas": 0, "logspec": {"n_bands": 16}},
    "model": {"cnn_attention": {"width": 8, "heads": 2, "spectrum": False}},
    "train": {"max_epochs": 1, "batch_size": 4, "crop_seconds": 0.5},
    "evaluate": {"bootstrap": 20},
}


def system(name, seeds=(1,), baseline="", **changes) -> System:
    settings = params.overlaid(params.merged(SMALL, changes), COMMITTED)
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
    for content in store.CONTENTS:
        settings = params.overlaid(SMALL, COMMITTED)["features"]
        store.extract(pd.DataFrame(rows), folder, folder / content, settings, content=content)
    pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="").to_csv(folder / "protocol.csv", index=False)
    return {content: folder / content for content in store.CONTENTS}


SYSTEMS = (
    system("network", seeds=(1, 2)),
    system("transformer", model={"name": "transformer", "transformer": {"width": 8, "heads": 2, "layers": 1}}),
    system("regression", baseline="logistic"),
)
FEW = 4  # utterances of the share


@pytest.fixture(scope="module")
def results(waveforms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, leaderboard.run(SYSTEMS, waveforms["waveforms"], folder, utterances=FEW)


@pytest.fixture
def begun(monkeypatch) -> list:
    """The jobs that were worked on, in this process."""
    jobs = []

    def here(work, waiting, *_):
        for job in waiting:
            jobs.append(job)
            work(job)
            yield job

    monkeypatch.setattr(runner, "in_processes", here)
    return jobs


def run(systems, waveforms, folder, **options):
    return leaderboard.run(systems, waveforms["waveforms"], folder, utterances=FEW, **options)


def eer(scores: pd.DataFrame) -> float:
    return metrics.eer(*evaluation.split_classes(scores)).value


def test_runs(results):
    folder, found = results
    assert [(row["system"], row["seed"]) for row in found] == [
        ("network", 1), ("network", 2), ("transformer", 1), ("regression", 1)
    ]  # fmt: skip
    for row in found:
        measures = {f"{name}{end}" for name in leaderboard.MEASURES for end in ("", "_low", "_high")}
        assert measures <= set(row["dev"]) and measures | {"precision", "f1_low"} <= set(row["eval"]["all"])
        assert row["dev"]["eer_low"] <= row["dev"]["eer_high"]
        assert set(row["eval"]) == set(row["share"]) == {"known", "all"} and row["minutes"] > 0
        assert len(row["corpus"]) == 16 and "torch" in row["made_with"] and isinstance(row["commit"], str)
    assert [row["parameters"] is None for row in found] == [False, False, False, True]
    assert [row["kind"] for row in found] == ["network"] * 3 + ["baseline"]
    assert found[0]["milliseconds"] > 0 and found[0]["by_attack"] != found[1]["by_attack"]


def test_measures(results, waveforms):
    folder, found = results
    table = store.Store(waveforms["waveforms"]).table
    chosen = table["utt_id"].iloc[systems.share(table, "eval", FEW)]
    for row in found:
        dev, test = (
            pd.read_csv(folder / f"{row['system']}-{row['seed']}-{split}.csv", keep_default_na=False)
            for split in ("dev", "eval")
        )
        assert row["eval"]["all"]["eer"] == pytest.approx(eer(test), abs=1e-6)
        assert row["dev"]["eer"] == pytest.approx(eer(dev), abs=1e-6)
        called = evaluation.decide(test["llr"], row["threshold"])
        assert row["eval"]["all"]["accuracy"] == pytest.approx((called == test["label"]).mean(), abs=1e-6)
        shared = test[test["utt_id"].isin(chosen)]
        assert row["share"]["all"]["eer"] == pytest.approx(eer(shared), abs=1e-6)
        assert row["share"]["all"]["n_bonafide"] + row["share"]["all"]["n_spoof"] == len(chosen) < len(test)
        assert set(row["by_attack"]) == {"coarse0", "coarse1"}
        for attack, one in row["by_attack"].items():
            of = test[(test["label"] == "bonafide") | (test["attack"] == attack)]
            assert one["eer"] == pytest.approx(eer(of), abs=1e-6) and one["condition"] == "known"
            assert one["eer_low"] <= one["eer_high"] and one["n_spoof"] == (of["label"] == "spoof").sum()


def test_resumes(results, waveforms, begun):
    folder, found = results
    assert run(SYSTEMS, waveforms, folder) == found and not begun
    changed = (SYSTEMS[0], SYSTEMS[1], system("regression", baseline="logistic", features={"normalise": "cmn"}))
    saved = []
    again = run(changed, waveforms, folder, save=saved.append)
    assert [job.system.name for job in begun] == ["regression"]
    assert again[:3] == found[:3] and again[3]["key"] != found[3]["key"]
    assert saved == [found[:3], again]  # at the start, and after what was made
    (folder / "network-2.json").write_text("{")  # half of one
    assert json.dumps(run(SYSTEMS[:1], waveforms, folder)) == json.dumps(found[:2])
    assert [job.seed for job in begun[1:]] == [2]


def test_on_another_machine(results, waveforms, begun, tmp_path, monkeypatch):
    """Kept results count without their folder, wherever the store lies and whenever it was written."""
    found = results[1]
    there = shutil.copytree(waveforms["waveforms"], tmp_path / "elsewhere")
    for path in there.iterdir():
        os.utime(path, (1, 1))
    assert run(SYSTEMS, {"waveforms": there}, tmp_path / "runs", kept=found) == found and not begun
    renamed = (replace(SYSTEMS[0], about="said better"), *SYSTEMS[1:])
    assert run(renamed, {"waveforms": there}, tmp_path / "runs", kept=found)[0]["about"] == "said better"
    # the code that measures is another, but there are no scores to measure: the results stand
    measured_otherwise(monkeypatch)
    assert run(SYSTEMS, {"waveforms": there}, tmp_path / "runs", kept=found) == found and not begun
    monkeypatch.undo()
    shard = np.load(there / "shard-00000.npy")
    shard[1000] += 1
    np.save(there / "shard-00000.npy", shard)
    monkeypatch.setattr(runner, "in_processes", lambda work, waiting, *_: begun.extend(waiting) or ())
    assert run(SYSTEMS, {"waveforms": there}, tmp_path / "runs", kept=found) == [] and len(begun) == 4


def measured_otherwise(monkeypatch) -> None:
    """As if the code that measures, and no other, were another."""
    code_key = provenance.code_key
    monkeypatch.setattr(
        provenance,
        "code_key",
        lambda *modules, **more: code_key(*modules, **more)[:: -1 if leaderboard.__name__ in more["alone"] else 1],
    )


def test_measured_again(results, waveforms, begun, tmp_path, monkeypatch):
    folder = shutil.copytree(results[0], tmp_path / "runs")
    found = results[1]
    monkeypatch.setattr(leaderboard, "scored", None)  # nothing is trained or scored
    other = system("network", calibrate={"policy": "min_tpr"})
    (row,) = run([other], waveforms, folder)
    assert len(begun) == 1 and row["threshold"] != found[0]["threshold"]
    assert row["eval"]["all"]["eer"] == found[0]["eval"]["all"]["eer"] and row["minutes"] == found[0]["minutes"]
    measured_otherwise(monkeypatch)
    again = run(SYSTEMS[:1], waveforms, folder)
    assert len(begun) == 3 and again[0]["measured_by"] != found[0]["measured_by"]
    same = [{**row, "measured_by": ""} for row in found[:2]]
    assert [{**row, "measured_by": ""} for row in again] == same  # from the scores on disk, to the last digit


def test_again(results, waveforms, begun, tmp_path):
    folder = shutil.copytree(results[0], tmp_path / "runs")
    saved = []
    run(SYSTEMS[2:], waveforms, folder, kept=results[1], save=saved.append, again=True)
    assert [job.name for job in begun] == ["regression-1"] and saved[0] == []
    run(SYSTEMS[2:], waveforms, folder)
    assert len(begun) == 1


def test_stopped(tmp_path):
    clock, checkpoints = tmp_path / "x.clock", tmp_path / "x.checkpoints"
    checkpoints.mkdir()
    clock.write_text(json.dumps({"key": "k", "start": 1000.0, "before": 60.0}))
    assert systems._spent(clock, checkpoints, "k") == 0  # without a checkpoint all is done again
    (checkpoints / "a.ckpt").write_bytes(b"")
    os.utime(checkpoints / "a.ckpt", (1300, 1300))
    assert systems._spent(clock, checkpoints, "k") == pytest.approx(360)
    assert systems._spent(clock, checkpoints, "other") == 0


def test_share():
    table = pd.DataFrame(
        [(f"b{i:03}", "bonafide", f"s{i % 3}", "", "eval") for i in range(60)]
        + [(f"f{i:03}", "spoof", "r", "rare" if i < 2 else "common", "eval") for i in range(120)]
        + [(f"d{i:03}", "spoof", "r", "common", "dev") for i in range(50)],
        columns=["utt_id", "label", "speaker", "attack", "split"],
    )
    rows = table.iloc[systems.share(table, "eval", 40)]
    assert len(rows) in range(38, 43) and set(rows["split"]) == {"eval"}
    assert rows["label"].value_counts()["bonafide"] in (20, 21)
    assert set(rows["speaker"]) == {"s0", "s1", "s2", "r"} and set(rows["attack"]) == {"", "rare", "common"}
    shuffled = table.sample(frac=1, random_state=1)
    assert set(shuffled.iloc[systems.share(shuffled, "eval", 40)]["utt_id"]) == set(rows["utt_id"])
    assert len(systems.share(table, "eval", 4000)) == 180


@pytest.fixture
def weights(tmp_path) -> Path:
    if not (REFERENCE / "AASIST-L.pth").is_file():
        pytest.skip("the published weights are not here: they are no part of this repository")
    (tmp_path / "weights").mkdir()
    return Path(shutil.copy(REFERENCE / "AASIST-L.pth", tmp_path / "weights/AASIST-L.pth"))


def test_published(weights, waveforms, begun, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(systems, "REPEATS", 1)
    monkeypatch.setattr(systems, "PIECE", 3)
    scored = []

    def one_piece_then_stopped(piece, work=systems._score_piece):
        if scored.append(piece.utt_ids) or len(scored) == 2:
            raise KeyboardInterrupt
        work(piece)

    monkeypatch.setattr(systems, "_score_piece", one_piece_then_stopped)
    ours, folder = replace(system("aasist"), published=weights), tmp_path / "runs"
    with pytest.raises(KeyboardInterrupt):
        run([ours], waveforms, folder)
    (row,) = run([ours], waveforms, folder)
    pieces = [scored[0], *scored[2:]]  # the first was not scored again
    held = store.Store(waveforms["waveforms"])
    asked = [held.table["utt_id"].iloc[systems.share(held.table, split, FEW)].tolist() for split in ("dev", "eval")]
    assert sum(map(list, pieces), []) == asked[0] + asked[1] and scored[0] not in scored[1:]
    assert row["parameters"] == 85306 and row["milliseconds"] > 0 and row["minutes"] is row["best_epoch"] is None
    assert row["kind"] == "published" and row["eval"]["all"]["eer"] == row["share"]["all"]["eer"]

    kept = pd.read_csv(folder / "aasist-1-eval.csv", keep_default_na=False)
    assert kept["utt_id"].tolist() == asked[1]
    network, place = aasist.load_published(weights), held.table.set_index("utt_id").index.get_loc
    waveform = held.read(place(asked[1][0]))[0]
    crop = torch.from_numpy(np.resize(waveform, 64600))[None, None]  # repeated, and cut
    with torch.inference_mode():
        spoof, bonafide = network.logits(crop)[0].tolist()
    assert kept["score"][0] == pytest.approx(bonafide - spoof, abs=1e-3)

    # absent: its result is kept, on demand too, for this corpus alone
    weights.unlink()
    count = len(scored)
    for again in (False, True):
        assert run([ours, SYSTEMS[2]], waveforms, tmp_path / "new", kept=[row], again=again)[0] == row
    assert len(scored) == count and not capsys.readouterr().err
    for strange in ([], [row | {"corpus": "of another store"}]):
        others = run([ours, SYSTEMS[2]], waveforms, tmp_path / "new", kept=strange)
        assert [one["system"] for one in others] == ["regression"]
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and str(weights) in line and "clovaai/aasist" in line and "MIT" in line


def test_published_as_safetensors(weights, tmp_path):
    save_file(torch.load(weights, map_location="cpu", weights_only=True), tmp_path / "same.safetensors")
    one, other = (aasist.load_published(path).state_dict() for path in (weights, tmp_path / "same.safetensors"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="broken.safetensors cannot be read as weights"):
        aasist.load_published(tmp_path / "broken.safetensors")


def test_table():
    def result(system, seed, dev, eer):
        measures = {"eer": eer, "eer_low": eer - 0.1, "eer_high": eer + 0.1, "min_dcf": 0.5, "n_spoof": 3}
        about = {"about": "x", "parameters": 10 if system == "a" else None, "minutes": 2.0, "milliseconds": None}
        about |= {"system": system, "seed": seed, "kind": "network"}
        measures = {"dev": measures | {"eer": dev}, "eval": {"all": measures}, "share": {"all": {"eer": eer / 2}}}
        return about | measures

    found = standings.table([result("a", 1, 0.15, 0.3), result("a", 2, 0.25, 0.4), result("b", 1, 0.1, 0.5)])
    assert found["system"].tolist() == ["b", "a"] and found["seeds"].tolist() == [1, 2]
    assert found["dev_eer"].tolist() == pytest.approx([0.1, 0.2])
    assert found["eer_all"].tolist() == pytest.approx([0.5, 0.35])
    assert found["eer_all_low"].tolist() == pytest.approx([0.4, 0.25])
    assert found["eer_all_spread"].tolist() == pytest.approx([0.0, 0.1])
    assert found["dev_eer_spread"].tolist() == pytest.approx([0.0, 0.1])
    assert found["share_all"].tolist() == pytest.approx([0.25, 0.175])
    assert found["min_dcf_all"].tolist() == [0.5, 0.5] and np.isnan(found["parameters"][0])
    assert found["n_eval"].tolist() == [3, 3] and standings.table([]).empty


def test_refusals(waveforms, tmp_path):
    with pytest.raises(UserError, match="holds features, and systems differ in theirs"):
        leaderboard.run(SYSTEMS, waveforms["features"], tmp_path)
    with pytest.raises(UserError, match="two systems are called network"):
        leaderboard.run([SYSTEMS[0], SYSTEMS[0]], waveforms["waveforms"], tmp_path)


def test_the_committed_file():
    _, systems = read(COMMITTED.parent / "experiments/leaderboard.yaml", COMMITTED)
    assert len(systems) >= 8 and systems[0].settings["train"] == params.load(COMMITTED)["train"]
    assert {found.baseline for found in systems} == {"", "gmm", "logistic"}
    for found in systems:  # each can be built, features and network together
        front_end = features.build(found.settings["features"])
        if not found.baseline:
            shape = {"coefficients": front_end.coefficients, "channels": front_end.channels}
            models.build(**found.settings["model"], **shape)
    (published,) = [found for found in systems if found.kind == "published"]
    assert published.published == COMMITTED.parent / "build/leaderboard/AASIST.pth" and published.seeds == (1,)


@pytest.mark.parametrize(
    "text, said",
    [
        ("mine: {about: x, changes: {}}", "systems.yaml: systems.mine.changes is not a setting: did you mean 'change'"),
        ("mine: {about: x, change: {train: {lrr: 1.0}}}", "systems.yaml: mine: train.lrr is not a setting"),
        ("mine: {about: x, baseline: gms}", "systems.yaml: systems.mine.baseline: 'gms' is none of '', gmm, logistic"),
        ("mine: {about: x, file: absent.yaml}", "absent.yaml cannot be read"),
        ("mine: {about: x, file: other.yaml}", "other.yaml (systems.yaml: mine): train.lrr is not a setting"),
        (
            "mine: {about: x, file: other.yaml, change: {seed: 1}}",
            "systems.yaml: systems.mine: change and file both say",
        ),
        ("{}\nutterance: 5", "systems.yaml: utterance is not a setting: did you mean 'utterances'"),
    ],
)
def test_mistakes(tmp_path, text, said):
    path = tmp_path / "systems.yaml"
    path.write_text(f"seeds: [1]\nsystems:\n  {text}\n")
    (tmp_path / "other.yaml").write_text("train: {lrr: 1.0}\n")
    with pytest.raises(UserError) as told:
        read(path, COMMITTED)
    assert said in str(told.value) and "\n" not in str(told.value)


def test_the_seeds_report():
    """What the file says is what the line in its first comment sets, and what the leaderboard trains."""
    path = COMMITTED.parent / "experiments/seed_report.yaml"
    text = path.read_text("utf-8")
    line = next(line for line in text.splitlines() if "dvc exp run" in line)
    asked = dict(pair.split("=") for pair in re.findall(r"-S (\S+)", line))

    def flat(settings, above=""):
        for key, value in settings.items():
            yield from flat(value, f"{above}{key}.") if isinstance(value, dict) else [(f"{above}{key}", value)]

    yaml = YAML(typ="safe", pure=True)
    said = dict(flat(yaml.load(text)))
    assert {key: yaml.load(value) for key, value in asked.items()} == said
    _, systems = read(path.with_name("leaderboard.yaml"), COMMITTED)
    (ours,) = [one for one in systems if one.name == "seed-report"]
    assert ours.settings["model"] | {"dropout": 0.3, "name": "cnn_attention"} == ours.settings["model"]
    train = ours.settings["train"]
    assert (train["lr"], train["patience"], train["freeze_cnn_epochs"] > 0) == (1e-5, 5, True)
    assert ours.settings["features"]["kind"] == "mfcc" and len(ours.seeds) > 1


@pytest.mark.parametrize("number", [0, 1])
def test_copies_left_out(waveforms, tmp_path, monkeypatch, number):
    """A system trains with as many copies of each recording as it asks for, whatever the store has."""
    table = pd.read_csv(waveforms["waveforms"].parent / "protocol.csv", dtype=str, keep_default_na=False)
    settings = system("mine").settings
    root = waveforms["waveforms"].parent
    store.extract(table, root, tmp_path / "store", settings["features"], content="waveforms", copies=2)
    found, fit = {}, systems.training.fit

    def seen(*given, **options):
        found["out"] = options["leave_out"]
        return fit(*given, **options)

    monkeypatch.setattr(systems.training, "fit", seen)
    asked = System("mine", "", settings | {"extract": {"copies": number}})
    _, scores = systems.scored(asked, 1, tmp_path / "store", tmp_path / "mine", utterances=4, key="k")
    names = store.Store(tmp_path / "store").table["utt_id"][found["out"]]
    assert set(names.str[-2:]) == {f"~{n}" for n in range(number + 1, 3)} and len(names) == 6 * (2 - number)
    assert not scores["utt_id"].str.contains("~").any()


def test_command(waveforms, begun, tmp_path, monkeypatch):
    """On a small corpus in a folder of its own; called again, the waveforms and the runs are there."""
    (tmp_path / "data").symlink_to(waveforms["waveforms"].parent)
    (tmp_path / "params.yaml").write_text(COMMITTED.read_text("utf-8"), "utf-8")
    (tmp_path / "data.dvc").write_text("outs:\n- {path: data, md5: 0123.dir}\n")
    systems_file = tmp_path / "experiments/leaderboard.yaml"
    systems_file.parent.mkdir()
    systems_file.write_text(
        "seeds: [1]\nutterances: 4\nsystems:\n"
        "  plain: {about: regression, baseline: logistic, change: {evaluate: {bootstrap: 20}}, claimed: {f1: 99}}\n"
    )
    table = pd.read_csv(command(tmp_path, 1))
    assert table["system"].tolist() == ["plain"] and table["eer_all"].between(0, 1).all() and len(begun) == 1
    board = json.loads((tmp_path / "metrics/leaderboard.json").read_text())
    assert board["results"][0]["seed"] == 1 and board["data"] == "0123.dir"
    assert board["systems"] == {"plain": {"about": "regression", "claimed": {"f1": 99}}}
    assert board["counts"]["eval"] == {"bonafide": 6, "spoof": 6}
    assert board["counts"]["train"] == {"bonafide": 6, "spoof": 6}  # of the corpus; the store has copies beside
    held = store.Store(tmp_path / "build/leaderboard/waveforms").table
    assert held["utt_id"].str.endswith("~2").sum() == 6 and not held["utt_id"].str.endswith("~3").any()
    extract = store.extract
    monkeypatch.setattr(store, "extract", None)
    command(tmp_path, 1)
    assert len(begun) == 1
    monkeypatch.setattr(store, "extract", extract)
    shutil.rmtree(tmp_path / "build")  # as in a fresh checkout, where metrics/ is all there is
    before = (tmp_path / "metrics/leaderboard.json").read_bytes()
    command(tmp_path, 1)
    assert len(begun) == 1 and (tmp_path / "metrics/leaderboard.json").read_bytes() == before
    command(tmp_path, 1, again=True)
    assert len(begun) == 2
    other = shutil.copy(systems_file, tmp_path / "mine.yaml")
    assert command(tmp_path, 1, Path(other)) == tmp_path / "metrics/mine.csv"
    (tmp_path / "metrics/leaderboard.json").write_text("{")
    with pytest.raises(UserError, match="leaderboard.json cannot be read"):
        command(tmp_path, 1)
