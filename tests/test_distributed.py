"""One training in several processes: what is tested, on a store of real speech.

| test | what must hold |
|---|---|
| two as one | two processes give the losses, dev EER and weights of one, to rounding, without dropout |
| killed | all processes SIGKILLed in the middle of an epoch and started again: the bytes of a run without that |
| stage | `torchrun -m aasist_lib.training` leaves what the stage's call writes out without a step |
| deal | of every batch each process gets its part, whole couples, and all parts make the batch |
| what cannot be | a batch that does not divide, a GPU where there is none, devices that do not agree: one line |
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile as sf
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from test_training import FEATURES, MODEL, SPEECH, TRAIN, bytes_of, count_steps, table

from aasist_lib import params, store
from aasist_lib.base.errors import UserError
from aasist_lib.training import distributed, sampling
from aasist_lib.training import loop as training

ROOT = Path(__file__).parents[1]
HOW = dict(
    model=MODEL | {"dropout": 0.0}, train=TRAIN | {"max_epochs": 4, "bonafide_weight": 2.0, "lr": 5.0e-4},
    augment=None, seed=7, threads=1, draws=48,
)  # fmt: skip


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """A store of pieces of recordings and of copies through a coarse quantiser."""
    folder, rows = tmp_path_factory.mktemp("speech"), []
    for number, path in enumerate(SPEECH * 2):
        wave, rate = sf.read(path, always_2d=True)
        wave = np.resize(np.roll(wave[:, 0], number * 997), rate) / np.abs(wave[:, 0]).max()
        for label, made in {"bonafide": 0.5 * wave, "spoof": np.round(40 * wave) / 80}.items():
            name = f"{label}-{number:02d}"
            sf.write(folder / f"{name}.flac", made, rate)
            rows.append(
                dict(
                    utt_id=name, path=f"{name}.flac", label=label, speaker=path.stem,
                    attack="" if label == "bonafide" else "coarse", split="dev" if number % 3 else "train",
                    pair_id="" if label == "bonafide" else f"bonafide-{number:02d}",
                )
            )  # fmt: skip
    store.extract(pd.DataFrame(rows), folder, folder / "features", FEATURES)
    return folder / "features"


@pytest.fixture(scope="module")
def two(speech, tmp_path_factory):
    """(folder, history) of a run in two processes."""
    work = tmp_path_factory.mktemp("two")
    history = training.fit(speech, work / "network", checkpoints=work / "c", compute={"devices": 2}, **HOW)
    return work / "network", history


def test_two_as_one(speech, two, tmp_path):
    folder, history = two
    alone = training.fit(speech, tmp_path / "network", checkpoints=tmp_path / "c", **HOW)
    assert len(history) == 4 and history["train_loss"].is_unique
    for name in ("lr", "train_loss", "dev_loss", "dev_eer"):
        np.testing.assert_allclose(history[name], alone[name], rtol=2e-3, atol=1e-5, err_msg=name)
    one, other = (load_file(place / "network.safetensors") for place in (folder, tmp_path / "network"))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-2, atol=2e-3, msg=name)
    assert not (folder.parent / "c").exists() and not (tmp_path / "c").exists()


CHILD = """
import json, sys
from aasist_lib import training
training.fit(**json.loads(sys.argv[1]), compute={"devices": 2})
"""


def test_killed(speech, two, tmp_path):
    given = HOW | {"store": str(speech), "output": str(tmp_path / "network"), "checkpoints": str(tmp_path / "c")}
    child = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(given)], cwd=ROOT, start_new_session=True)
    try:
        deadline = time.monotonic() + 600
        while not (kept := list(tmp_path.glob("c/*.ckpt"))) and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.002)
    finally:
        for process in [*descendants(child.pid), child.pid]:
            os.kill(process, signal.SIGKILL)
        child.wait()
    assert len(torch.load(kept[0], weights_only=True)["history"]) < 4 and not (tmp_path / "network").exists()
    training.fit(**given, compute={"devices": 2})
    assert bytes_of(tmp_path / "network") == bytes_of(two[0])


def descendants(process: int) -> list[int]:
    """Processes that it started, and those that they did."""
    return [child.pid for child in psutil.Process(process).children(recursive=True)]


def test_stage(speech, two, tmp_path):
    """As on several hosts: the command in a project, then the stage's own call."""
    (tmp_path / "features").symlink_to(speech)
    (tmp_path / "dvc.yaml").touch()
    text = (ROOT / "params.yaml").read_text("utf-8")
    settings = YAML(typ="safe", pure=True).load(text)
    settings["model"]["cnn_attention"] = {"width": 16, "heads": 2, "dropout": 0.0, "spectrum": False}
    settings["train"] |= HOW["train"] | {"max_epochs": 1}
    settings["augment"] |= dict.fromkeys(("codec", "noise", "equaliser", "band"), 0.0)  # the store holds features
    settings |= {"threads": 1, "seed": 7}
    (tmp_path / "params.yaml").write_text(json.dumps(settings), "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "aasist_lib.training"], cwd=tmp_path, env=environment, check=True)
    names = ("model", "train", "augment", "seed", "threads", "compute")
    given = {name: params.read(name, tmp_path / "params.yaml") for name in names}
    call = dict(store=speech, output=tmp_path / "network", checkpoints=tmp_path / "build/checkpoints", **given)
    assert count_steps(lambda: training.fit(**call)) == 0
    assert bytes_of(tmp_path / "network").keys() == bytes_of(two[0]).keys()


def in_world(monkeypatch, rank: int, size: int) -> None:
    """This process as torchrun would have started it."""
    for name, value in {"RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))


def test_deal(monkeypatch):
    draws = sampling.PairSampler(table({"ann": 40}, {"tts": 50}), 64, seed=1)
    parts = []
    for rank in range(4):
        in_world(monkeypatch, rank, 4)
        assert distributed.share(16) == 4
        dealt = distributed.Share(draws, 4)
        dealt.set_epoch(3)
        parts.append(list(dealt))
        assert len(parts[-1]) == len(dealt) == 16
        assert all(a[1] + 1 == b[1] and a[1] % 2 == 0 for a, b in zip(parts[-1][::2], parts[-1][1::2], strict=True))
    whole = list(draws)
    for batch in range(4):
        dealt = [draw for part in parts for draw in part[4 * batch : 4 * batch + 4]]
        assert dealt == whole[16 * batch : 16 * batch + 16]


def test_what_cannot_be(speech, tmp_path, monkeypatch, capfd):
    how = HOW | {"store": speech, "output": tmp_path / "network", "checkpoints": tmp_path / "c"}
    with pytest.raises(UserError, match="^compute.accelerator: 'tpu' is none of cpu, gpu, auto$"):
        training.fit(**how, compute={"accelerator": "tpu"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="^compute.accelerator: gpu, but torch finds 0 here, not 1: set it to cpu or"):
        training.fit(**how, compute={"accelerator": "gpu"})
    assert distributed.device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert distributed.device("auto") == distributed.device("gpu") == torch.device("cuda", 0)
    in_world(monkeypatch, 0, 2)
    assert distributed.device("auto").type == "cpu"  # one for two processes
    monkeypatch.setattr(distributed, "group", lambda place: nullcontext())
    with pytest.raises(UserError, match="^train.batch_size: 8 is not so many pairs for each of 3 processes alike$"):
        in_world(monkeypatch, 0, 3)
        training.fit(**how)
    monkeypatch.setattr(distributed, "all_sum", lambda epochs, place: epochs)  # the others have none
    with pytest.raises(UserError, match="different checkpoints"):
        distributed.check_same_epoch(1, "cpu")
