"""The search for settings: what is tested.

| test | what must hold |
|---|---|
| search | trials run; hopeless ones are stopped early; the table tells; nothing of a trial stays; best is the lowest |
| same again | one process: the same settings and error rates in the same order |
| interrupted | within a trial: tried again from its latest epoch, and all as without the interruption |
| another search | other settings, space or corpus: another study; what does not matter starts none |
| eval unread | eval rows that cannot be read change nothing |
| no number | a loss that is none ends a trial, not the search |
| alone, broken | a second search in the folder, a study.db that is none: one line |
| command | killed with SIGKILL and started again: goes on, with the number of trials asked for; tuned.yaml loads |
| dvc | `dvc exp run` takes the printed line and sets just that |
| on_epoch | told of each epoch, also of those before a checkpoint; what it raises leaves none |
| the file | the committed one is valid and begins with params.yaml itself; mistakes are named in one line |
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import soundfile as sf
from ruamel.yaml import YAML

from aasist_lib import corpora, params, training
from aasist_lib import store as storing
from aasist_lib.base.errors import UserError
from aasist_lib.store import Store, indexes
from aasist_lib.studies import tuning
from aasist_lib.studies.__main__ import main
from aasist_lib.studies.plans import waveforms
from aasist_lib.studies.tuning import Plan, nested, runs
from aasist_lib.training import loop

ROOT = Path(__file__).parents[1]
SPEECH = sorted((ROOT / "tests/speech").glob("*.flac"))
SMALL = {
    "extract": {"content": "waveforms", "copies": 0},
    "features": {
        "kind": "logspec",
        "n_fft": 512,
        "hop_length": 256,
        "deltas": 0,
        "normalise": "none",
        "logspec": {"n_bands": 16},
    },
    "model": {"cnn_attention": {"width": 8, "heads": 2, "spectrum": False}},
    "train": {"batch_size": 4, "crop_seconds": 0.5, "ema_decay": 0.5, "warmup_fraction": 0.0},
}
FILE = {
    "trials": 8, "seed": 3, "epochs": 3, "draws": 48, "prune": {"trials": 2, "epochs": 1}, "change": SMALL,
    "space": {
        "train.lr": {"choices": [3.0e-3, 1.0e-12]},  # the second learns nothing
        "train.weight_decay": {"low": 1.0e-3, "high": 1.0e-1, "log": True},
        "model.cnn_attention.dropout": {"low": 0.0, "high": 0.3},
    },
}  # fmt: skip


def write(path: Path, **changes) -> Path:
    with open(path, "w", encoding="utf-8") as file:
        YAML().dump({**FILE, **changes}, file)
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project's folder with a small corpus, and a store of its waveforms."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "data/audio").mkdir(parents=True)
    (folder / "experiments").mkdir()
    rows = []
    for number in range(36):
        speech, rate = sf.read(SPEECH[number // 2 % len(SPEECH)])
        speech = np.resize(np.roll(speech, 997 * number), rate) * 0.5 / np.abs(speech).max()
        fake, split = number % 2, ("train", "dev", "eval")[number // 12]
        samples = np.round(speech * 8) / 8 if fake else speech
        sf.write(folder / f"data/audio/u{number:02d}.flac", samples, rate)
        rows.append(
            dict(
                utt_id=f"u{number:02d}", path=f"audio/u{number:02d}.flac", label="spoof" if fake else "bonafide",
                speaker=f"s{number // 4}", attack="coarse" if fake else "", split=split,
                condition="known" if fake and split == "eval" else "", pair_id="",
            )
        )  # fmt: skip
    table = pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="")
    table.to_csv(folder / "data/protocol.csv", index=False)
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "dvc.yaml").write_text("stages:\n  all:\n    cmd: cp params.yaml seen.yaml\n    deps: [params.yaml]\n")
    write(folder / "experiments/tune.yaml")
    (folder / "waveforms").symlink_to(waveforms(folder, 1))
    return folder


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Trials run in this process, which is quicker; `command` has processes of its own."""
    monkeypatch.setattr(tuning, "in_processes", lambda work, jobs, *_: map(lambda job: work(job), jobs))
    monkeypatch.setenv("AASIST_TERMINAL", "")


def search(project, work, store=None, **changes) -> tuning.Search:
    path = write(work / "tune.yaml", **changes)
    return tuning.Search(Plan(path, project / "params.yaml"), store or project / "waveforms", work / "build")


def tried(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["state"].isin(["complete", "pruned"])].drop(columns=["trial", "minutes"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def found(project, tmp_path_factory):
    """(table, study) of one uninterrupted search that the tests compare with."""
    work = tmp_path_factory.mktemp("found")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "in_processes", lambda work, jobs, *_: map(lambda job: work(job), jobs))
        asked = search(project, work)
        study = tuning.run(asked, FILE["trials"])
    assert sorted(path.name for path in (work / "build").iterdir()) == ["search.lock", "study.db"]
    return tuning.table(study, asked), study


def test_copies(project, tmp_path, monkeypatch):
    """A trial trains with as many copies as its settings say; the store has more."""
    opened, seen = Store(project / "waveforms"), []
    assert opened.table["utt_id"].str.endswith("~2").any()
    fit = training.fit

    def watched(*given, **options):
        seen.append(options["leave_out"])
        return fit(*given, **options)

    monkeypatch.setattr(training, "fit", watched)
    tuning.run(search(project, tmp_path, trials=1), 1)
    assert {name[-2:] for name in opened.table["utt_id"][seen[0]]} == {"~1", "~2"}


def test_search(found):
    table, study = found
    assert len(table) == 8 and set(table["state"]) == {"complete", "pruned"}
    pruned = table["state"] == "pruned"
    assert table["train.lr"][pruned].eq(1.0e-12).mean() > 0.5 and (table["epochs"][pruned] < 3).all()
    assert (table["epochs"][~pruned] == 3).all() and table["dev_eer"].between(0, 1).all()
    best = tuning.best(study)
    assert best.value == table["dev_eer"][~pruned].min() == table["dev_eer"][best.number]
    assert table["train.weight_decay"].between(1.0e-3, 1.0e-1).all() and table["train.weight_decay"].nunique() > 5
    assert all(value == float(f"{value:.3g}") for value in table["train.weight_decay"])


def test_same_again(project, found, tmp_path):
    asked = search(project, tmp_path)
    tuning.run(asked, 3)
    again = tuning.table(tuning.run(asked, 8), asked)  # in two goes, which chance does not notice
    pd.testing.assert_frame_equal(tried(again), tried(found[0]))


def test_interrupted(project, found, tmp_path, monkeypatch):
    asked, epochs, fit = search(project, tmp_path), [], training.fit

    def stopped(*given, on_epoch, **named):
        def told(row):
            on_epoch(row)
            epochs.append(row["epoch"])
            if len(epochs) == 5:  # the second trial's second, after the checkpoint
                raise KeyboardInterrupt

        return fit(*given, on_epoch=told, **named)

    monkeypatch.setattr(training, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        tuning.run(asked, 8)
    (kept,) = (tmp_path / "build").glob("*/trial-*/checkpoints/*.ckpt")
    kept = kept.stat().st_mtime_ns, kept
    steps, step = [], loop.Training.step
    monkeypatch.setattr(loop.Training, "step", lambda *given: steps.append(1) or step(*given))
    epochs += [0] * 10
    table = tuning.table(tuning.run(asked, 8), asked)
    assert table["state"].tolist().count("fail") == 1
    pd.testing.assert_frame_equal(tried(table), tried(found[0]))
    done = found[0]["epochs"]
    assert len(steps) == 12 * (sum(done[1:]) - 2)  # the first trial, and two epochs of the second, are not done again
    assert not list((tmp_path / "build").glob("*/trial-*"))


def test_another_search(project, tmp_path, monkeypatch):
    name = search(project, tmp_path).name()
    other = dict(FILE["space"], **{"train.weight_decay": {"low": 1.0e-3, "high": 2.0e-1, "log": True}})
    assert search(project, tmp_path, trials=90).name() == name  # more trials go on with it
    changed = {**SMALL, "train": {**SMALL["train"], "batch_size": 8}}
    for change in ({"space": other}, {"seed": 4}, {"epochs": 2}, {"draws": 8}, {"change": changed}):
        assert search(project, tmp_path, **change).name() != name
    text = (project / "params.yaml").read_text("utf-8")
    (tmp_path / "waveforms").symlink_to(project / "waveforms")

    def edited(old, new):
        (tmp_path / "params.yaml").write_text(re.sub(old, new, text, count=1), "utf-8")
        return search(tmp_path, tmp_path).name()

    for old, new in (("^", "# a comment\n"), ("  worst: 10", "  worst: 11"), (" lr: 1.0e-3", " lr: 2.0e-3")):
        assert edited(old, new) == name
    assert edited("mixup: 0.0", "mixup: 0.1") != name and edited("seed: 20261122", "seed: 1") != name
    shutil.copytree(project / "waveforms", tmp_path / "rebuilt")
    shard = tmp_path / "rebuilt/shard-00000.npy"
    os.utime(shard, ns=(1, 1))
    assert search(project, tmp_path, tmp_path / "rebuilt").name() != name


def test_eval_unread(project, found, tmp_path):
    shutil.copytree(project / "waveforms", tmp_path / "waveforms")
    index = Store(tmp_path / "waveforms").table.copy()
    index.loc[index["split"] == "eval", "shard"] = 99
    indexes.write(tmp_path / "waveforms", index)
    broken = Store(tmp_path / "waveforms", Store(project / "waveforms").features)
    with pytest.raises(UserError, match="shard-00099.npy: cannot be read"):
        broken.read(int(broken.select("eval")[0]))
    asked = search(project, tmp_path, tmp_path / "waveforms")
    table = tuning.table(tuning.run(asked, 2), asked)
    pd.testing.assert_frame_equal(tried(table), tried(found[0])[:2])


def test_no_number(project, tmp_path):
    """A learning rate that no weight survives."""
    asked = search(project, tmp_path, space={"train.lr": {"choices": [1.0e30]}})
    study = tuning.run(asked, 2)
    assert tuning.table(study, asked)["state"].tolist() == ["pruned", "pruned"] and tuning.best(study) is None
    assert tuning.importance(study) == {}


def test_importance():
    study = optuna.create_study()
    for number in range(20):
        drawn = {"a": number / 20, "b": (7 * number % 20) / 20}
        kinds = {name: optuna.distributions.FloatDistribution(0, 1) for name in drawn}
        study.add_trial(optuna.create_trial(params=drawn, distributions=kinds, value=(drawn["a"] - 0.5) ** 2))
    shares = tuning.importance(study)
    assert list(shares) == ["a", "b"] and sum(shares.values()) == pytest.approx(1)


def test_alone(project, tmp_path):
    asked = search(project, tmp_path)
    asked.folder.mkdir()
    with open(asked.folder / "search.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="search is being run already, by process"):
            tuning.run(asked, 1)
    (asked.folder / "study.db").write_text("no database " * 100)
    with pytest.raises(UserError, match="study.db is no study that can be gone on with .*: move it away"):
        tuning.run(asked, 1)
    features = params.overlaid(SMALL, project / "params.yaml")["features"]
    table = pd.read_csv(project / "data/protocol.csv", keep_default_na=False)
    storing.extract(table, project / "data", tmp_path / "features", features)
    with pytest.raises(UserError, match="holds features, and trials differ in theirs"):
        tuning.run(search(project, tmp_path, tmp_path / "features"), 1)


@pytest.fixture(scope="module")
def command(project):
    """What the command printed when it was started again after a SIGKILL."""
    given = [sys.executable, "-m", "aasist_lib.studies", "tune", "--trials", "4"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(given, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not list((project / "build/tune").glob("*/trial-*/checkpoints/*.ckpt")):
            assert child.poll() is None and time.monotonic() < deadline, child.stdout.read()
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = subprocess.run(given, cwd=project, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_command(project, command):
    table = pd.read_csv(project / "build/tune/trials.csv")
    assert table["state"].isin(["complete", "pruned"]).sum() == 4 and 1 <= (table["state"] == "fail").sum() <= 2
    failed = table[table["state"] == "fail"]["train.weight_decay"].dropna()  # which are tried again
    assert failed.isin(table[table["state"] != "fail"]["train.weight_decay"]).all()
    text = (project / "experiments/tuned.yaml").read_text("utf-8")
    complete = table[table["state"] == "complete"]
    assert text.startswith("# Found best of 4 short trials by `make tune` (tune.yaml): EER on dev ")
    assert f"EER on dev {complete['dev_eer'].min():.2%}" in text.splitlines()[0]
    assert f"EER on dev {complete['dev_eer'].min():.2%}" in command.splitlines()[0]
    tuned = YAML(typ="safe", pure=True).load(text)
    settings = params.overlaid(tuned, project / "params.yaml")
    best = complete.sort_values(["dev_eer", "trial"]).iloc[0]
    assert settings["train"]["lr"] == best["train.lr"] and settings["features"]["kind"] == "logspec"
    assert settings["train"]["weight_decay"] == best["train.weight_decay"]
    assert settings["train"]["max_epochs"] == params.load(project / "params.yaml")["train"]["max_epochs"]


AWKWARD = {
    "features.kind": "mfcc+wavelet", "train.init_from": "it's a \\ folder: {x}, [y] $HOME", "train.lr": 1.0e-9,
    "corpus.bonafide": "", "corpus.eval_format": "wavefake", "augment.codecs": ["mp3", "g711"], "train.patience": 3,
    "augment.band_hz": [3400.0, 8000.0], "model.cnn_attention.spectrum": False, "calibrate.prior_spoof": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("awkward", [False, True])
def test_dvc(project, command, tmp_path, awkward):
    """In a repository of git and DVC with one stage."""
    line = command.splitlines()[-1]
    wanted = YAML(typ="safe", pure=True).load(project / "experiments/tuned.yaml")
    if awkward:
        line, wanted = runs(AWKWARD), nested(AWKWARD)
    assert line.startswith("dvc exp run -S ")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project / name, tmp_path)
    setup = "git init -q && dvc init -q && git add -A && git -c user.name=x -c user.email=x@example.org commit -qm x"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    given = ["bash", "-c", f"{setup} && {line}"]
    done = subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert params.load(tmp_path / "seen.yaml") == params.overlaid(wanted, project / "params.yaml")


def test_on_epoch(project, tmp_path):
    asked = search(project, tmp_path)
    settings = asked.plan.settings({"train.lr": 3.0e-3})
    store = Store(project / "waveforms", settings["features"])
    told = []

    def fit(on_epoch):
        parts = {name: settings[name] for name in ("model", "train", "augment")}
        checkpoints = tmp_path / "checkpoints"
        return training.fit(
            store, tmp_path / "network", seed=1, threads=1, checkpoints=checkpoints, draws=8, on_epoch=on_epoch, **parts
        )

    def ends(row, error):
        told.append(row)
        if row["epoch"] == 2:
            raise error

    with pytest.raises(KeyboardInterrupt):  # somebody's Ctrl-C is to be gone on from
        fit(lambda row: ends(row, KeyboardInterrupt))
    assert [row["epoch"] for row in told] == [1, 2] and list((tmp_path / "checkpoints").glob("*.ckpt"))
    history = told.copy()
    with pytest.raises(RuntimeError, match="enough"):
        fit(lambda row: ends(row, RuntimeError("enough")))
    assert told[2:] == history and not (tmp_path / "checkpoints").exists() and not (tmp_path / "network").exists()
    told.clear()
    whole = fit(told.append)
    assert told == whole.to_dict("records") and told[:2] == history and len(told) == 3


def test_the_committed_file():
    plan = Plan(ROOT / "experiments/tune.yaml", ROOT / "params.yaml")
    settings = plan.settings(plan.first)
    now = params.load(ROOT / "params.yaml")
    assert set(plan.first) == set(plan.space) and len(plan.space) >= 8
    for section in ("features", "model", "augment"):
        assert settings[section] == now[section]
    assert settings["train"] == now["train"] | {"max_epochs": plan.asked.epochs}
    drawn = {key: part.drawn(plan.first[key]) for key, part in plan.space.items()}
    assert plan.tried(optuna.trial.FixedTrial(drawn)) == plan.first


@pytest.mark.parametrize(
    "change, said",
    [
        ({"trails": 3}, "tune.yaml: trails is not a setting: did you mean 'trials'?"),
        ({"space": {}}, "tune.yaml: space: {}: dictionary should have at least 1 item"),
        ({"space": {"train.lrr": {"low": 0.1, "high": 0.2}}}, "train.lrr is not a setting: did you mean 'lr'?"),
        (
            {"space": {"train": {"choices": [1]}}},
            "space: train is a section: name a setting in it, such as train.max_epochs",
        ),
        ({"space": {"train.lr": {"low": 0.2, "high": 0.1}}}, "space: train.lr: 0.2 to 0.1 is no range"),
        ({"space": {"train.lr": {"low": 0.0, "high": 0.1, "log": True}}}, "0.0 to 0.1 is no range of logarithms"),
        ({"space": {"train.lr": {"low": "3e-4", "high": 0.1}}}, "low and high must be numbers such as 3.0e-4"),
        ({"space": {"train.lr": {"low": 0.1, "high": 0.2, "logg": True}}}, "logg is not a setting: did you mean 'log'"),
        ({"space": {"train.lr": [0.1, 0.2]}}, "space: train.lr must hold `key: value` lines, not [0.1, 0.2]"),
        ({"space": {"train.lr": {"choices": [0.1, 0.1]}}}, "choices must be a list of different values"),
        ({"space": {"features.kind": {"choices": ["mfcc", "lffc"]}}}, "did you mean 'lfcc'?"),
        ({"space": {"model.cnn_attention.width": {"low": 8, "high": 16}}}, "width (9) must be a multiple of heads (2)"),
        ({"space": {"corpus.profile": {"choices": ["tiny"]}}}, "corpus.profile: trials have it from params.yaml"),
        ({"space": {"train.max_epochs": {"low": 1, "high": 9}}}, "train.max_epochs: a trial has as many as `epochs`"),
        ({"space": {"train.batch_size": {"choices": [4]}}}, "train.batch_size is in change and in space"),
        (
            {"change": {"extract": {"content": "features"}}, "space": {"augment.room": {"low": 0.0, "high": 0.5}}},
            "(augment.room), which needs waveforms",
        ),
    ],
)
def test_mistakes(tmp_path, change, said):
    with pytest.raises(UserError) as told:
        Plan(write(tmp_path / "tune.yaml", **change), ROOT / "params.yaml")
    assert said in str(told.value) and "tune.yaml" in str(told.value) and len(str(told.value).splitlines()) == 1


def test_mistakes_at_the_command(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert main(["tune", "--workers", "0"]) == 2 and capsys.readouterr().err == "--workers 0: must be 1 or more\n"
    assert main(["tune", "--trials", "0"]) == 2 and capsys.readouterr().err == "--trials 0: must be 1 or more\n"
    assert main(["tune", "--space", str(tmp_path / "none.yaml")]) == 2
    assert re.fullmatch(r".*none.yaml cannot be read: .*No such file.*\n", capsys.readouterr().err)
    space = write(tmp_path / "hot.yaml", space={"train.lr": {"choices": [1.0e30]}}, trials=1)
    assert main(["tune", "--space", str(space)]) == 2
    assert capsys.readouterr().err.startswith("hot.yaml: no trial went to its end: lower train.lr")
