"""Training: what is tested.

| test | what must hold |
|---|---|
| learns | a difference between the classes that is there is found; weights, json and history are written |
| same bytes | twice the same run: the same safetensors and json, nothing left behind, nothing printed |
| killed | SIGKILL after an epoch, started again: goes on, and the same bytes as without the kill |
| killed at any step | the same, of kills amid epochs, one after another |
| interrupted | Ctrl-C, or the kernel's stop button: a KeyboardInterrupt, gone on from |
| afresh | a checkpoint of other settings, or a broken one, is not gone on from |
| eval unread | eval shards full of NaN change nothing; dev gives no gradients |
| left out | what a run must not see may be NaN and changes nothing; fewer draws, fewer steps |
| balance | classes half and half; groups by the root of their size; no more repeats than needed |
| batches | a batch larger than the split is all of it, once an epoch |
| pairs | a recording, then a copy of it, cut at the same moment; none where there are no copies |
| losses | by their formulas; a weight of two is as good as two of them; the one-class softmax ends in a cosine |
| waveforms | a store of them trains as one of features does, and changes them at random, a couple alike |
| mixup | targets and maps are mixed alike |
| adversarial | no sample moves beyond the bound, and the loss grows |
| ema_decay | what is kept is the moving average of the weights, and with 0 the last ones |
| crops | short utterances wrap, masks hit all channels of a coefficient alike and take the mean |
| schedule, patience, best epoch | as documented |
| init_from, freeze | start from a network; shapes that differ are named; frozen parts stay the same to the bit |
| scores | one by one, long ones in windows; another front-end is refused |
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file

from aasist_lib import metrics, models
from aasist_lib import store as storing
from aasist_lib.augment import Augment
from aasist_lib.base.errors import UserError
from aasist_lib.base.progress import NOBODY
from aasist_lib.params import Train
from aasist_lib.store import Store, indexes
from aasist_lib.store.store import VERSION, checksum
from aasist_lib.training import loop as training
from aasist_lib.training import losses, sampling

FEATURES = dict(kind="mfcc", sample_rate=16000, n_mfcc=8, n_fft=512, hop_length=160, n_mels=32, deltas=2)
MODEL = dict(name="cnn_attention", width=16, heads=2, dropout=0.3)
TRAIN = dict(
    max_epochs=6,
    patience=5,
    batch_size=8,
    precision="float32",
    crop_seconds=0.64,
    loss="cross_entropy",
    bonafide_weight=1.0,
    lr=2.0e-3,
    weight_decay=1.0e-2,
    warmup_fraction=0.1,
    time_masks=1,
    time_mask_frames=8,
    coefficient_masks=1,
    coefficient_mask_width=2,
    channel_jitter=0.0,
    pair_fraction=0.5,
    mixup=0.0,
    adversarial=0.0,
    adversarial_db=[30.0, 60.0],
    adversarial_steps=1,
    ema_decay=0.5,
    init_from="",
    freeze_cnn_epochs=0,
)
NOTHING = Augment({}, 16000)
SPEECH = sorted((Path(__file__).parent / "speech").glob("*.flac"))
SPLITS = {"train": 48, "dev": 16, "eval": 16}


def write_store(folder: Path, *, poison_eval=False, lengths=(30, 110), difference=0.8) -> Path:
    """A store as `store.extract` writes it, one shard a split; spoofs move more slowly than real speech."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(5), []
    for shard, (split, count) in enumerate(SPLITS.items()):
        parts, start = [], 0
        for i in range(count):
            label = "spoof" if i % 3 else "bonafide"
            frames = int(rng.integers(*lengths))
            x = rng.standard_normal((frames, 24)).astype(np.float32) * 10
            if label == "spoof":
                x[1:] = (1 - difference) * x[1:] + difference * x[:-1]
            parts.append(np.full_like(x, np.nan) if poison_eval and split == "eval" else x)
            rows.append(
                dict(
                    utt_id=f"{split}_{i:03d}", path=f"audio/{split}_{i:03d}.flac", label=label,
                    speaker=f"s{i % 4}", attack=f"a{i % 5}" if label == "spoof" else "", split=split,
                    condition="unseen" if split == "eval" and label == "spoof" else "", language="en",
                    source="made", codec="", pair_id=f"{split}_{i - 1:03d}" if i % 3 == 1 else "",
                    shard=shard, start=start, frames=frames,
                    seconds=frames / 100,
                )
            )  # fmt: skip
            start += frames
        np.save(folder / f"shard-{shard:05d}.npy", np.concatenate(parts))
    pd.DataFrame(columns=["utt_id", "path", "reason"]).to_csv(folder / "rejected.csv", index=False)
    write_index(folder, rows, FEATURES, coefficients=24, channels=3)
    return folder


def write_index(folder: Path, rows, features: dict, **meta) -> None:
    """What makes a store of a folder with shards."""
    indexes.write(folder, pd.DataFrame(rows))
    sums = {path.name: checksum(path) for path in folder.glob("shard-*.npy")}
    meta |= dict(features=features, content="features", version=VERSION, checksums=sums)
    (folder / "meta.json").write_text(
        json.dumps(meta | {"frame_rate": features["sample_rate"] / features["hop_length"]})
    )


def fit(store: Path, work: Path, name="network", checkpoints="checkpoints", model=None, **train):
    return training.fit(
        store, work / name, model={**MODEL, **(model or {})}, train={**TRAIN, **train}, seed=7, threads=1,
        checkpoints=work / checkpoints,
    )  # fmt: skip


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("training") / "features")


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """(folder, history) of one uninterrupted run that the tests compare with."""
    work = tmp_path_factory.mktemp("trained")
    return work / "network", fit(store, work)


def test_learns_and_writes(trained):
    folder, history = trained
    assert list(history.columns) == ["epoch", "lr", "train_loss", "dev_loss", "dev_eer"]
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))
    assert history["dev_eer"].min() < 0.2 and history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    about = json.loads((folder / "network.json").read_text())
    best = history.sort_values(["dev_eer", "dev_loss"]).iloc[0]
    assert about["prior_spoof"] == 0.5  # couples of a bona fide and a spoofed utterance
    assert (about["best_epoch"], about["dev_eer"]) == (best["epoch"], best["dev_eer"])
    assert about["features"] == FEATURES and about["train"] == TRAIN and about["seed"] == 7
    assert about["model"] == {**MODEL, "spectrum": False, "head": "linear"}
    assert sorted(bytes_of(folder)) == ["network.json", "network.safetensors"]


def test_the_best_epoch_is_kept(store, trained):
    folder, history = trained
    dev = storing.scores(folder, store, "dev", threads=1)
    bonafide = dev["label"] == "bonafide"
    eer = metrics.eer(dev["score"][bonafide], dev["score"][~bonafide]).value
    assert round(float(eer), 6) == history["dev_eer"].min()


def test_same_bytes_again_and_silent(store, trained, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AASIST_TERMINAL", NOBODY)  # no progress
    torch.rand(3)  # whatever the caller drew before must not matter
    history = fit(store, tmp_path)
    assert bytes_of(tmp_path / "network") == bytes_of(trained[0])
    pd.testing.assert_frame_equal(history, trained[1])
    assert [path.name for path in tmp_path.iterdir()] == ["network"]  # no logs, no checkpoints
    assert capfd.readouterr() == ("", "")


def test_leaves_torch_as_it_was(store, tmp_path):
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    fit(store, tmp_path, max_epochs=1)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_training import fit
fit(Path({store!r}), Path({work!r}))
"""


def test_killed_and_started_again(store, trained, tmp_path):
    code = CHILD.format(tests=str(Path(__file__).parent), store=str(store), work=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    try:
        deadline = time.monotonic() + 60
        while not (kept := list(tmp_path.glob("checkpoints/*.ckpt"))) and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "network").exists()
    done = len(torch.load(kept[0], weights_only=True)["history"])
    assert 1 <= done < 6
    steps = count_steps(lambda: fit(store, tmp_path))
    assert steps == (6 - done) * 6  # what was done is not done again
    assert bytes_of(tmp_path / "network") == bytes_of(trained[0])
    assert not (tmp_path / "checkpoints").exists()


KILLED = """
import os, signal
from aasist_lib.training import loop as training
original = training.Training.step
def step(self, batch):
    if self.steps_done == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, batch)
training.Training.step = step
"""


def test_killed_at_any_step(store, trained, tmp_path):
    """Twice, each time at a step by chance inside an epoch that is not the first."""
    epochs = sorted(np.random.default_rng().choice(np.arange(1, 6), 2, replace=False).tolist())
    kills = [6 * epoch + int(np.random.default_rng().integers(1, 6)) for epoch in epochs]
    child = CHILD.format(tests=str(Path(__file__).parent), store=str(store), work=str(tmp_path))
    for at in kills:
        code = KILLED.format(at=at) + child
        done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
        assert done.returncode == -signal.SIGKILL, kills
        (kept,) = tmp_path.glob("checkpoints/*.ckpt")
        assert len(torch.load(kept, weights_only=True)["history"]) == at // 6, kills
    assert count_steps(lambda: fit(store, tmp_path)) == 36 - 6 * (kills[-1] // 6)
    assert bytes_of(tmp_path / "network") == bytes_of(trained[0]), kills


def count_steps(run) -> int:
    steps, original = [], training.Training.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training.Training, "step", lambda self, batch: steps.append(1) or original(self, batch), raising=True
        )
        run()
    return len(steps)


@pytest.fixture(scope="module")
def stopped(store, tmp_path_factory):
    """A run stopped when it was to write its result: all of its epochs are in the checkpoint."""
    work = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(models, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        fit(store, work)
    return work


@pytest.fixture
def interrupted(stopped, tmp_path):
    """A copy of it, to go on with."""
    return shutil.copytree(stopped, tmp_path / "interrupted")


def test_stopped_after_the_last_epoch(store, trained, interrupted):
    assert count_steps(lambda: fit(store, interrupted)) == 0
    assert bytes_of(interrupted / "network") == bytes_of(trained[0])


@pytest.mark.parametrize("change", [{"lr": 1.0e-3}, {"max_epochs": 5}])
def test_other_settings_start_afresh(store, interrupted, change):
    epochs = {**TRAIN, **change}["max_epochs"]
    assert count_steps(lambda: fit(store, interrupted, **change)) == epochs * 6


def test_interrupted_by_hand(store, trained, tmp_path, monkeypatch):
    handler, original = signal.getsignal(signal.SIGINT), training.Training.step

    def stop(self, batch):
        if self.epoch == 2:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Training, "step", stop)
        fit(store, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert count_steps(lambda: fit(store, tmp_path)) == 4 * 6
    assert bytes_of(tmp_path / "network") == bytes_of(trained[0])


def test_a_broken_checkpoint_starts_afresh(store, trained, interrupted):
    (kept,) = interrupted.glob("checkpoints/*.ckpt")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert count_steps(lambda: fit(store, interrupted)) == 36
    assert bytes_of(interrupted / "network") == bytes_of(trained[0])


def test_checkpoints_are_not_unpickled(interrupted):
    (kept,) = interrupted.glob("checkpoints/*.ckpt")
    torch.save({"history": [Trap()]}, kept)
    assert training.Checkpoint(kept.parent, kept.stem).load() is None
    assert not Trap.sprung


class Trap:
    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def test_eval_is_never_read(trained, tmp_path):
    poisoned = write_store(tmp_path / "features", poison_eval=True)
    fit(poisoned, tmp_path)
    assert bytes_of(tmp_path / "network") == bytes_of(trained[0])
    (tmp_path / "features/shard-00002.npy").unlink()
    fit(poisoned, tmp_path, name="without")
    assert bytes_of(tmp_path / "without") == bytes_of(trained[0])


def test_what_is_left_out_is_never_read(tmp_path):
    weights, steps = [], []
    for name, poison in (("clean", False), ("poisoned", True)):
        folder = write_store(tmp_path / name)
        table = Store(folder).table
        left_out = ((table["attack"] == "a1") | (table["speaker"] == "s0")).to_numpy()
        for shard in table["shard"].unique():
            x = np.load(folder / f"shard-{shard:05d}.npy")
            for row in table[left_out & (table["shard"] == shard) & poison].itertuples():
                x[row.start : row.start + row.frames] = np.nan
            np.save(folder / f"shard-{shard:05d}.npy", x)
        write_index(folder, table, FEATURES, coefficients=24, channels=3)  # with their checksums
        how = dict(model=MODEL, train=TRAIN | {"max_epochs": 1}, seed=7, threads=1, leave_out=left_out, draws=40)
        run = partial(training.fit, folder, tmp_path / f"network-{name}", checkpoints=tmp_path / "c", **how)
        steps.append(count_steps(run))
        weights.append(bytes_of(tmp_path / f"network-{name}"))
    assert weights[0] == weights[1]
    assert steps == [5, 5]
    with pytest.raises(UserError, match="split 'train' needs bona fide"):
        left_out = (table["label"] == "spoof").to_numpy()
        training.fit(
            folder, tmp_path / "none", model=MODEL, train=TRAIN, seed=7, threads=1, checkpoints=tmp_path / "c",
            leave_out=left_out,
        )  # fmt: skip


def test_dev_gives_no_gradients(store, tmp_path, monkeypatch):
    reads = []
    original = Store.read
    monkeypatch.setattr(
        Store, "read", lambda self, row, *where: reads.append((torch.is_grad_enabled(), int(row)))
        or original(self, row, *where)
    )  # fmt: skip
    fit(store, tmp_path, max_epochs=1)
    rows = {split: set(Store(store).select(split)) for split in SPLITS}
    assert {row for grad, row in reads if grad} <= rows["train"]
    assert {row for grad, row in reads if not grad} >= rows["dev"]
    assert not {row for _, row in reads} & rows["eval"]


def table(bonafide: dict, spoof: dict) -> pd.DataFrame:
    rows = [("bonafide", name, "") for name, count in bonafide.items() for _ in range(count)]
    rows += [("spoof", "", name) for name, count in spoof.items() for _ in range(count)]
    found = pd.DataFrame(rows, columns=["label", "speaker", "attack"]).assign(pair_id="")
    found["utt_id"] = [f"u{number}" for number in range(len(found))]
    return found.set_axis(found.index + 100)  # row numbers of a store need not start at 0


def test_balance():
    rows = table({"ann": 400, "bob": 100}, {"tts": 900, "vc": 100})
    draws = sampling.PairSampler(rows, 3000, seed=1)
    found = list(draws)
    assert len(found) == len(draws) == 3000
    assert [position for _, position, _, _ in found] == list(range(3000))
    drawn = rows.loc[[row for _, _, row, _ in found]]
    assert drawn["label"].tolist() == ["bonafide", "spoof"] * 1500
    assert drawn["label"].value_counts().to_dict() == {"bonafide": 1500, "spoof": 1500}
    assert drawn["speaker"].value_counts()[["ann", "bob"]].tolist() == pytest.approx([1000, 500], abs=1)
    assert drawn["attack"].value_counts()[["tts", "vc"]].tolist() == pytest.approx([1125, 375], abs=1)
    # each as often as its weight says, to within one
    times = drawn.index.value_counts()
    assert times.loc[rows.index[rows["attack"] == "tts"]].isin([1, 2]).all()


def test_draws_differ_by_epoch_and_seed_alone():
    rows = table({"ann": 20, "bob": 5}, {"tts": 40})

    def rows_drawn(seed, epoch):
        draws = sampling.PairSampler(rows, 64, seed)
        draws.set_epoch(epoch)
        return [row for _, _, row, _ in draws]

    assert rows_drawn(1, 3) == rows_drawn(1, 3)
    assert rows_drawn(1, 3) != rows_drawn(1, 4) != rows_drawn(2, 4)


def test_pairs():
    rows = table({"ann": 40, "bob": 40}, {"tts": 100, "world": 90, "lpc": 10})
    copies = rows.index[rows["attack"].isin(["world", "lpc"])]
    recordings = rows["utt_id"].iloc[:80].tolist()
    rows.loc[copies, "pair_id"] = [recordings[number % 80] for number in range(100)]
    rows.loc[copies[0], "pair_id"] = "of another split"  # no couple: its recording is not to be trained on
    draws = sampling.PairSampler(rows, 400, seed=1, pair_fraction=0.75)
    found = [(rows.loc[row], moment) for _, _, row, moment in draws]
    couples = list(zip(found[::2], found[1::2], strict=True))
    assert all(a["label"] == "bonafide" and b["label"] == "spoof" for (a, _), (b, _) in couples)
    pairs = [couple for couple in couples if couple[0][0]["utt_id"] == couple[1][0]["pair_id"]]
    assert 150 <= len(pairs) <= 156  # a few of the others are pairs by chance
    assert sum(a == b for (_, a), (_, b) in couples) == 150
    drawn = pd.Series([b["attack"] for (_, a), (b, c) in couples if a == c]).value_counts()
    assert drawn[["world", "lpc"]].tolist() == pytest.approx([112.5, 37.5], abs=1.5)
    assert [i for i, ((_, a), (_, b)) in enumerate(couples) if a == b] != list(range(150))  # spread over the batches
    alone = list(sampling.PairSampler(table({"ann": 8}, {"tts": 8}), 16, seed=1, pair_fraction=0.75))
    assert len(alone) == 16 and len({moment for *_, moment in alone}) == 16


def test_batch_larger_than_the_split(store, tmp_path):
    for size in (SPLITS["train"], 500):
        fit(store, tmp_path, name=f"of {size}", batch_size=size, max_epochs=1)
    whole, larger = (bytes_of(tmp_path / f"of {size}")["network.safetensors"] for size in (SPLITS["train"], 500))
    assert larger == whole


def test_averaging(store, tmp_path, monkeypatch):
    seen, original = [], training.Training.step

    def look(self, batch):
        original(self, batch)
        seen.append(self.network.output.weight.detach().clone())

    monkeypatch.setattr(training.Training, "step", look)
    fit(store, tmp_path, ema_decay=0.75, max_epochs=1)
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    kept = load_file(tmp_path / "network/network.safetensors")["output.weight"]
    torch.testing.assert_close(kept, expected)
    seen.clear()
    fit(store, tmp_path, name="last", ema_decay=0.0, max_epochs=1)
    torch.testing.assert_close(load_file(tmp_path / "last/network.safetensors")["output.weight"], seen[-1])


def test_crops(store, monkeypatch):
    plain = Train(**{**TRAIN, "time_masks": 0, "coefficient_masks": 0})
    opened, lengths = Store(store), Store(store).table["frames"].to_numpy()
    crops = sampling.Crops(opened, plain, NOTHING, seed=3)
    assert crops.length == 64
    short, long = int(np.argmin(lengths)), int(np.argmax(lengths))
    found, target, draw = crops[0, 6, short, 0.4]
    assert draw.tolist() == [0, 6]
    assert found.shape == (24, 64) and found.dtype == np.float32
    assert target == (opened.table["label"][short] == "bonafide")
    n = lengths[short]
    np.testing.assert_array_equal(found[:, n:], found[:, : 64 - n])  # it repeats
    whole = opened.read(short)
    assert any(np.array_equal(np.roll(whole, -k, axis=1)[:, : min(n, 64)], found[:, :n]) for k in range(n))
    whole, last = opened.read(long), lengths[long] - 64
    for moment, start in ((0.0, 0), (0.5, (last + 1) // 2), (0.9999, last)):
        np.testing.assert_array_equal(crops[4, 5, long, moment][0], whole[:, start : start + 64])


def changed_maps(store: Store, settings: Train, draw: tuple) -> np.ndarray:
    held, _, place = sampling.Crops(store, settings, NOTHING, 3)[draw]
    masks = sampling.Masks(store, settings, 3)
    return masks(torch.from_numpy(held)[None], torch.from_numpy(place)[None])[0].numpy()


def test_masks(store):
    settings = Train(**{**TRAIN, "time_mask_frames": 10, "coefficient_mask_width": 3})
    plain = Train(**{**TRAIN, "time_masks": 0, "coefficient_masks": 0})
    opened = Store(store)
    masked_frames, masked_coefficients = set(), set()
    for position in range(40):
        draw = (0, position, 1, 0.3)
        before, after = changed_maps(opened, plain, draw), changed_maps(opened, settings, draw)
        changed = before != after
        frames, coefficients = changed.all(axis=0), changed.all(axis=1).reshape(3, 8)
        assert (coefficients == coefficients[0]).all()  # a coefficient goes with its slopes
        np.testing.assert_array_equal(changed, frames | coefficients.reshape(24, 1))
        mean = np.broadcast_to(before.mean(axis=1, keepdims=True), before.shape)
        np.testing.assert_array_equal(after[changed], mean[changed])
        masked_frames.add(int(frames.sum()))
        masked_coefficients.add(int(coefficients[0].sum()))
    assert masked_coefficients == {0, 1, 2, 3} and min(masked_frames) == 0 and max(masked_frames) == 10


def test_channel_jitter(store):
    plain = Train(**{**TRAIN, "time_masks": 0, "coefficient_masks": 0})
    opened, jittered = Store(store), plain.model_copy(update={"channel_jitter": 6.0})
    added = []
    for position in range(60):
        draw = (0, position, 1, 0.3)
        before, after = changed_maps(opened, plain, draw), changed_maps(opened, jittered, draw)
        np.testing.assert_array_equal(before[8:], after[8:])  # slopes do not notice a constant
        offsets = after[:8] - before[:8]
        np.testing.assert_allclose(offsets, np.broadcast_to(offsets[:, :1], offsets.shape), atol=1e-4)
        added.append(offsets[:, 0])
    spread = np.std(added, axis=0)
    assert 4 < spread[0] < 8 and spread[7] < spread[0] / 2


def test_the_store_stays_as_it_is(store, trained, tmp_path):
    assert bytes_of(store) == bytes_of(write_store(tmp_path / "again"))


def test_schedule(trained):
    shares = np.array([training._schedule(step, 100, 0.1) for step in range(100)])
    assert shares.argmax() in (9, 10) and shares.max() == 1
    assert (np.diff(shares[:10]) > 0).all() and (np.diff(shares[10:]) < 0).all() and 0 < shares[-1] < 0.001
    last = [TRAIN["lr"] * training._schedule(6 * epoch - 1, 36, 0.1) for epoch in range(1, 7)]
    np.testing.assert_allclose(trained[1]["lr"], last, rtol=1e-4)


def test_patience_and_best_epoch(store):
    module = training.Training(
        models.build(**MODEL, coefficients=24, channels=3), Store(store),
        Train(**{**TRAIN, "max_epochs": 9, "patience": 2}), None, seed=1,
    )  # fmt: skip

    def after(*eers, losses=(0.5,) * 9):
        module.history = [
            {"epoch": i + 1, "dev_eer": eer, "dev_loss": loss}
            for i, (eer, loss) in enumerate(zip(eers, losses, strict=False))
        ]
        return module

    assert not after().finished() and not after(0.3, 0.2, 0.25).finished()
    assert after(0.3, 0.2, 0.25, 0.2).finished() and module.best_epoch() == 1
    assert not after(0.3, 0.2, 0.25, 0.1).finished()
    assert after(*np.linspace(0.4, 0.1, 9)).finished()
    assert after(0.3, 0.2, 0.2, losses=(0.6, 0.5, 0.4)).best_epoch() == 2


def test_stops_early(store, tmp_path):
    history = fit(store, tmp_path, max_epochs=40, patience=2, lr=3.0e-3)
    assert len(history) < 40
    eers = history[["dev_eer", "dev_loss"]].apply(tuple, axis=1)
    assert eers.idxmin() == len(history) - 3


def test_starts_from_another_network(store, trained, tmp_path):
    history = fit(store, tmp_path, init_from=str(trained[0]), lr=1.0e-9, max_epochs=1)
    started = load_file(tmp_path / "network/network.safetensors")["output.weight"]
    torch.testing.assert_close(started, load_file(trained[0] / "network.safetensors")["output.weight"])
    assert history["train_loss"][0] < trained[1]["train_loss"][0]


def test_shapes_that_differ_are_named(store, trained, tmp_path):
    with pytest.raises(UserError, match=r"train.init_from: output.weight is \(1, 32\) in .* and \(1, 48\) in this"):
        fit(store, tmp_path, model={"width": 24}, init_from=str(trained[0]))
    with pytest.raises(UserError, match="nowhere.*missing"):
        fit(store, tmp_path, init_from=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is what this run replaces: copy it first"):
        fit(store, tmp_path, init_from=str(tmp_path / "network"))


def test_frozen_convolutions(store, trained, tmp_path):
    fit(store, tmp_path, init_from=str(trained[0]), freeze_cnn_epochs=2, max_epochs=2)
    before, after = (load_file(folder / "network.safetensors") for folder in (trained[0], tmp_path / "network"))
    assert any(name.endswith("running_mean") for name in before)
    for name in before:  # running means of batch normalisation stay too
        assert torch.equal(before[name], after[name]) == name.startswith("cnn."), name
    fit(store, tmp_path, init_from=str(trained[0]), freeze_cnn_epochs=1, max_epochs=2, patience=9, name="thawed")
    thawed = load_file(tmp_path / "thawed/network.safetensors")
    if json.loads((tmp_path / "thawed/network.json").read_text())["best_epoch"] == 2:
        assert not torch.equal(before["cnn.1.weight"], thawed["cnn.1.weight"])


def test_scores(store, trained, tmp_path):
    found = storing.scores(trained[0], store, "eval", threads=1)
    rows = Store(store).select("eval")
    assert found["utt_id"].tolist() == [f"eval_{i:03d}" for i in range(16)]
    assert not {"shard", "start", "frames"} & set(found.columns) and "seconds" in found
    network, _ = models.load(trained[0])
    with torch.inference_mode():
        alone = [network(torch.from_numpy(np.array(Store(store).read(row)))[None]).item() for row in rows]
    np.testing.assert_allclose(found["score"], alone, atol=1e-6)


def test_scores_of_some_rows(store, trained):
    dev = storing.scores(trained[0], store, "dev", threads=1)
    rows = Store(store).select("dev")[[5, 2]]
    some = storing.scores(trained[0], store, "", threads=1, rows=rows)
    assert some["utt_id"].tolist() == dev["utt_id"].iloc[[5, 2]].tolist()
    assert some["score"].tolist() == dev["score"].iloc[[5, 2]].tolist()


def test_long_utterances_are_scored_in_windows(trained, tmp_path):
    long = write_store(tmp_path / "features", lengths=(1300, 1999))
    found = storing.scores(trained[0], long, "dev", threads=1)
    opened, network = Store(long), models.load(trained[0])[0]
    row = opened.select("dev")[0]
    frames = int(opened.table["frames"][row])
    edges = [0, 800, frames]
    whole = np.array(opened.read(row))
    with torch.inference_mode():
        parts = [network(torch.from_numpy(whole[None, :, a:b])).item() for a, b in zip(edges, edges[1:], strict=False)]
    assert found["score"][0] == pytest.approx(np.average(parts, weights=np.diff(edges)), abs=1e-6)


def test_scores_refuse_other_features(store, trained, tmp_path):
    other = write_store(tmp_path / "features")
    meta = json.loads((other / "meta.json").read_text())
    (other / "meta.json").write_text(json.dumps({**meta, "features": {**FEATURES, "n_mels": 40}}))
    with pytest.raises(UserError, match="n_mels.*40.*trained on"):
        storing.scores(trained[0], other, "dev")
    with pytest.raises(UserError, match="no utterances of split 'test'"):
        storing.scores(trained[0], store, "test")


def test_errors_of_people(store, tmp_path):
    with pytest.raises(UserError, match="train: learning_rate is not a setting"):
        fit(store, tmp_path, learning_rate=1.0)
    with pytest.raises(UserError, match="no longer a number.*epoch 1"):
        fit(store, tmp_path, lr=1.0e30)
    lacking = write_store(tmp_path / "features")
    index = indexes.read(lacking)
    indexes.write(lacking, index[(index["split"] != "dev") | (index["label"] == "spoof")])
    with pytest.raises(UserError, match="split 'dev'"):
        fit(lacking, tmp_path)


# waveforms: real speech against copies of it through a coarse quantiser


@pytest.fixture(scope="module")
def waveforms(tmp_path_factory) -> dict[str, Path]:
    """Two stores of the same twelve recordings: as waveforms, and as features."""
    folder = tmp_path_factory.mktemp("waveforms")
    rows = []
    (folder / "audio").mkdir()
    for number in range(12):
        speech, rate = sf.read(SPEECH[number // 2 % len(SPEECH)])
        speech = np.resize(speech, rate) * 0.5 / np.abs(speech).max()
        fake = number % 2
        samples = np.round(speech * 12) / 12 if fake else speech
        name = f"u{number:02d}"
        sf.write(folder / f"audio/{name}.flac", samples, rate)
        rows.append(
            dict(
                utt_id=name, path=f"audio/{name}.flac", label="spoof" if fake else "bonafide", speaker="ann",
                attack="coarse" if fake else "", split="train" if number < 8 else "dev",
                pair_id=f"u{number - 1:02d}" if fake else "",
            )
        )  # fmt: skip
    table = pd.DataFrame(rows)
    for content in storing.CONTENTS:
        storing.extract(table, folder, folder / content, FEATURES, content=content)
    return {content: folder / content for content in storing.CONTENTS}


def test_waveforms_are_held(waveforms):
    features, held = Store(waveforms["features"]), Store(waveforms["waveforms"])
    assert (held.coefficients, held.channels, held.frame_rate) == (24, 3, 100.0) and held.rate == 16000
    assert held.read(3).shape[0] == 1 and held.read(3, 100, 50).shape == (1, 50)
    np.testing.assert_allclose(held.map(3), features.map(3), atol=1e-3)
    assert held.table["seconds"].tolist() == features.table["seconds"].tolist()


def test_waveforms_score_as_features_do(waveforms, tmp_path):
    fit(waveforms["features"], tmp_path, max_epochs=2)
    scores = [storing.scores(tmp_path / "network", folder, "dev", threads=1)["score"] for folder in waveforms.values()]
    np.testing.assert_allclose(*scores, atol=1e-3)


CHANGES = {"noise": 1.0, "noise_snr_db": [10.0, 10.0], "gain": 1.0, "gain_db": [-6.0, 6.0]}


def test_waveforms_are_changed(waveforms, tmp_path):
    opened, plain = Store(waveforms["waveforms"]), Train(**TRAIN)
    before, after = (sampling.Crops(opened, plain, Augment(how, 16000), 3) for how in ({}, CHANGES))
    added = [after[0, position, 2, 0.3][0] - before[0, position, 2, 0.3][0] for position in range(4)]
    assert np.array_equal(added[0], added[1]) and np.array_equal(added[2], added[3])  # of a couple
    assert not np.allclose(added[1], added[2])
    how = {"model": MODEL, "train": TRAIN | {"max_epochs": 2}, "seed": 7, "checkpoints": tmp_path / "checkpoints"}
    for name, threads in (("here", 1), ("again", 1), ("beside", 2)):
        folder = tmp_path / name
        history = training.fit(waveforms["waveforms"], folder, augment=CHANGES, threads=threads, **how)
        assert np.isfinite(history["train_loss"]).all()
        assert json.loads((folder / "network.json").read_text())["augment"] == CHANGES
    here, again = (bytes_of(tmp_path / name)["network.safetensors"] for name in ("here", "again"))
    assert here == again
    with pytest.raises(UserError, match="the store holds features: set extract.content: waveforms"):
        training.fit(waveforms["features"], tmp_path / "none", augment=CHANGES, threads=1, **how)


def test_stopped_while_another_process_changes_waveforms(waveforms, tmp_path, monkeypatch):
    """It draws ahead: after a stop from the epoch that is gone on with, not from the first."""

    def run(name):
        training.fit(
            waveforms["waveforms"], tmp_path / name, model=MODEL, train=TRAIN | {"max_epochs": 4}, augment=CHANGES,
            seed=7, threads=2, checkpoints=tmp_path / "checkpoints",
        )  # fmt: skip
        return bytes_of(tmp_path / name)

    undisturbed, step = run("undisturbed"), training.Training.step

    def stopped(self, batch):
        if self.steps_done == 2:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Training, "step", stopped)
        run("stopped")
    assert len(list(tmp_path.glob("checkpoints/*.ckpt"))) == 1 and not (tmp_path / "stopped").exists()
    assert run("stopped") == undisturbed


def test_mixup():
    maps, targets = torch.randn(6, 4, 5), torch.tensor([0.0, 1, 0, 1, 0, 1])
    maps[:, 0, 0] = targets
    mixed, soft = sampling.mixup(maps, targets, 0.4, np.random.default_rng(0))
    torch.testing.assert_close(mixed[:, 0, 0], soft)
    assert ((soft >= 0) & (soft <= 1)).all() and ((soft > 0.01) & (soft < 0.99)).any()


def test_adversarial(waveforms, tmp_path, monkeypatch):
    moved, original = [], training.Training._adversarial

    def look(self, held, targets, rng):
        found = original(self, held, targets, rng)
        self.network.eval()
        with torch.no_grad():
            before, after = (self.loss(self.network(self.store.maps(x)), targets).mean().item() for x in (held, found))
        self.network.train()
        bound = held.square().mean(dim=2).sqrt() * 10 ** (-30 / 20)
        moved.append(((found - held).abs().amax(dim=2) / bound).max().item())
        assert after > before
        return found

    monkeypatch.setattr(training.Training, "_adversarial", look)
    for steps in (1, 3):
        fit(
            waveforms["waveforms"], tmp_path, name=f"n{steps}", max_epochs=2, adversarial=1.0,
            adversarial_db=[30.0, 30.0], adversarial_steps=steps,
        )  # fmt: skip
    assert moved and max(moved) <= 1.001 and min(moved) > 0.5
    with pytest.raises(UserError, match="the store holds features"):
        fit(waveforms["features"], tmp_path, adversarial=0.5)


def test_losses(store, tmp_path):
    outputs, targets = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 1.0])
    found = losses.cross_entropy(outputs, targets)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    torch.testing.assert_close(found, expected)
    p = torch.where(targets == 1, outputs.sigmoid(), 1 - outputs.sigmoid())
    torch.testing.assert_close(losses.focal(outputs, targets), -((1 - p) ** 2) * p.log())
    twice = losses.weighted(found[[0, 0, 1, 2, 2]], targets[[0, 0, 1, 2, 2]], 1.0)
    torch.testing.assert_close(losses.weighted(found, targets, 2.0), twice)
    for name in losses.LOSSES:
        history = fit(store, tmp_path, name=name, loss=name, max_epochs=4, lr=5.0e-3)
        assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0], name
    scores = storing.scores(tmp_path / "one_class", store, "dev", threads=1)["score"]
    assert scores.between(-1, 1).all()
    with pytest.raises(UserError, match="train: loss: 'hinge' is none of cross_entropy, focal, one_class"):
        fit(store, tmp_path, loss="hinge")


def test_bfloat16_learns_about_the_same(store, trained, tmp_path):
    history = fit(store, tmp_path, precision="bfloat16")
    np.testing.assert_allclose(history["train_loss"], trained[1]["train_loss"], atol=0.05)
    kept = load_file(tmp_path / "network/network.safetensors")
    assert {tensor.dtype for tensor in kept.values()} <= {torch.float32, torch.int64}


def test_weights_are_in_the_prior(store, tmp_path):
    fit(store, tmp_path, bonafide_weight=3.0, max_epochs=1)
    assert json.loads((tmp_path / "network/network.json").read_text())["prior_spoof"] == 0.25
