"""What size costs: a store's index, crops, extraction and training in memory, and many files in DVC."""

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import MethodType

import numpy as np
import pandas as pd

from benchmarks.measure import BIN, ROOT, apart, environment, in_turn, memory, seconds, speech, watched

RATE, LENGTH, FILES = 16000, 4, 2000  # Hz, seconds of an utterance that is extracted, recordings
BATCH, CROP = 64, 2.0  # crops, seconds


def store(rows=5_000_000, utterances=5000, folder="features"):
    """Opening a store of so many rows, reading crops, and extraction of so many utterances and ten times as many.

    Memory is the peak of the whole process, its libraries included, which alone come first; of an extraction that of
    all processes together. The utterances are 2,000 FLAC files over and over; ten times 5,000 take 12 GB for a while.
    """
    with tempfile.TemporaryDirectory() as work:
        yield f"index of {rows:,} utterances, written in", seconds(lambda: write_index(rows, Path(work))), "s"
        yield "... size", (Path(work) / "index.arrow").stat().st_size / 1e6, "MB"
        yield "libraries alone, memory", apart(opened, ""), "MB"
        for what, taken, peak in apart(opened, work):
            yield f"{what} in", taken, "s"
            yield f"{what}, memory", peak, "MB"
    yield from apart(crops, str(ROOT / folder))
    with tempfile.TemporaryDirectory() as work:
        record(Path(work))
        for count, workers in ((utterances, 2), (10 * utterances, 2), (10 * utterances, 1)):
            taken, peak = watched(extract, work, count, workers)
            yield f"extraction of {count:,} utterances with {workers} processes", taken, "s"
            yield "... memory", peak, "MB"


def write_index(rows, folder):
    """A store without shards."""
    from aasist_lib import corpora
    from aasist_lib.store import indexes

    number = np.arange(rows)
    speaker = "s" + pd.Series(number % 4000).astype("str").str.zfill(5)
    utt_id = speaker + "-" + pd.Series(number).astype("str").str.zfill(8)
    table = pd.DataFrame({"utt_id": utt_id, "path": "audio/" + speaker + "/" + utt_id + ".flac", "speaker": speaker})
    table = table.reindex(columns=corpora.COLUMNS, fill_value="")
    fake, frames = number % 10 > 0, 200 + number % 601
    table["label"], table["split"] = np.where(fake, "spoof", "bonafide"), np.where(number % 5, "train", "eval")
    table["attack"], table["language"] = np.where(fake, "attack-07", ""), "en"
    places = {"shard": number // 1024, "start": np.cumsum(frames) - frames, "frames": frames, "seconds": frames / 250}
    settings = dict(kind="waveform", sample_rate=RATE)
    meta = {
        "features": settings,
        "content": "waveforms",
        "version": 2,
        "coefficients": 1,
        "channels": 1,
        "checksums": {},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    indexes.write(folder, table.assign(**places))


def opened(folder):
    """Seconds and MB after opening and after selecting a split; MB of the libraries alone without a folder."""
    from aasist_lib.store import Store

    if not folder:
        return memory()["VmHWM"]
    start = time.perf_counter()
    store = Store(folder)
    found = [("index opened", time.perf_counter() - start, memory()["VmHWM"])]
    store.select("train")
    return [*found, ("... and a split selected", time.perf_counter() - start, memory()["VmHWM"])]


def crops(folder, batches=50):
    """Reading random crops beside a training step on them, and comparing all checksums."""
    from aasist_lib.store import Store

    store, rng, times = Store(folder), np.random.default_rng(0), []
    length = round(CROP * store.rate)
    rows = np.flatnonzero(store.table["frames"] >= length)
    for _ in range(batches):  # the first ones compare every shard with its checksum
        drawn = rng.choice(rows, BATCH)
        starts = rng.integers(store.table["frames"].to_numpy()[drawn] - length + 1)
        places = list(zip(drawn.tolist(), starts.tolist(), strict=True))
        times.append(seconds(lambda places=places: [store.read(row, start, length) for row, start in places]))
    yield f"{BATCH} random crops of {CROP:g} s, first", 1e3 * times[0], "ms"
    yield f"{BATCH} random crops of {CROP:g} s, later", 1e3 * float(np.median(times[batches // 2 :])), "ms"
    yield "all checksums", seconds(store.verify), "s"
    yield "... of files of", sum((Path(folder) / name).stat().st_size for name in store.checksums) / 1e9, "GB"


def record(folder):
    """Recordings of 4 s: real speech from a random moment on, and noise 30 dB below it, so that no two are the same."""
    import soundfile

    from aasist_lib.augment import effects

    rng, sound = np.random.default_rng(0), speech(RATE)
    for number in range(FILES):
        clip = np.roll(sound, -rng.integers(len(sound)))[: LENGTH * RATE]
        soundfile.write(folder / f"{number:04d}.flac", np.clip(effects.noise(clip, 30, rng), -1, 1), RATE)


def extract(folder, utterances, workers):
    """Seconds that `store.extract` takes for so many."""
    from aasist_lib import corpora, params, store

    rows = [{"utt_id": f"u{i:08d}", "path": f"{i % FILES:04d}.flac"} for i in range(utterances)]
    table = pd.DataFrame(rows).assign(label="bonafide", split="train").reindex(columns=corpora.COLUMNS, fill_value="")
    del rows
    with tempfile.TemporaryDirectory() as made:
        return seconds(lambda: store.extract(
            table, folder, Path(made) / "store", params.read("features"), workers=workers
        ))  # fmt: skip


def training(rounds=30, threads=0, folder="features"):
    """A training step as `training.fit` does it beside a plain one, and what reading its crops takes.

    A step is forward and backward pass, clipping, optimiser and average of the weights. The plain one has torch's usual
    memory format, dropout and attention, AdamW and average with usual options, and no deterministic algorithms.
    """
    import torch

    from aasist_lib import params
    from aasist_lib.store import Store

    settings, opened_store = params.load(ROOT / "params.yaml"), Store(ROOT / folder)
    torch.set_num_threads(threads or settings["threads"])
    train, rng = settings["train"], np.random.default_rng(0)
    length = round(train["crop_seconds"] * opened_store.rate)
    rows = np.flatnonzero(opened_store.table["frames"] >= length)

    def read():
        drawn = rng.choice(rows, train["batch_size"]).tolist()
        return torch.from_numpy(np.stack([opened_store.read(row, 0, length) for row in drawn]))

    maps = opened_store.maps(read())
    steps = {
        name: training_step(plain, settings, opened_store, maps)
        for name, plain in (("training step, now", 0), ("training step, plain", 1))
    }
    times = in_turn(
        steps | {"reading crops": read, "reading crops, and the front-end on them": lambda: opened_store.maps(read())},
        rounds,
    )
    for name, found in times.items():
        yield name, 1e3 * float(np.median(found)), "ms"
    yield (
        "plain is slower",
        float(np.median(np.divide(times["training step, plain"], times["training step, now"]))),
        "times",
    )


def training_step(plain, settings, opened_store, maps):
    """A function that does one step."""
    import torch
    from torch import nn
    from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

    from aasist_lib import models
    from aasist_lib.models import layers

    def attend(self, x, need_weights=False):  # torch's own attention in place of the project's
        y = self.norm1(x)
        y, weights = self.attention(y, y, y, need_weights=need_weights, average_attn_weights=False)
        x = x + self.dropout(y)
        return x + self.dropout(self.feed_forward(self.norm2(x))), weights

    network = models.build(
        **settings["model"], coefficients=opened_store.coefficients, channels=opened_store.channels
    ).train()  # fmt: skip
    if not plain:
        network.to(memory_format=torch.channels_last)
    for module in list(network.modules()) if plain else ():
        if isinstance(module, layers.Attention):
            module.forward = MethodType(attend, module)
        for name, part in module.named_children():
            if type(part) is layers.Dropout:
                setattr(module, name, nn.Dropout(part.p))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=None if plain else True)
    average = {"avg_fn": get_ema_avg_fn(0.999)} if plain else {"multi_avg_fn": get_ema_multi_avg_fn(0.999)}
    averaged, targets = AveragedModel(network, use_buffers=True, **average), torch.arange(len(maps)) % 2.0

    def step():
        torch.use_deterministic_algorithms(not plain)
        torch.utils.deterministic.fill_uninitialized_memory = False
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(maps), targets).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(network)

    return step


def memory_of(folder, steps, batch):
    """Seconds and MB of a training on a store."""
    from aasist_lib import params, training

    settings = params.load(ROOT / "params.yaml")
    train = settings["train"] | {"max_epochs": 1} | ({"batch_size": batch} if batch else {})
    with tempfile.TemporaryDirectory() as work:
        taken = seconds(lambda: training.fit(
            folder, Path(work) / "network", model=settings["model"], train=train, augment=settings["augment"],
            seed=settings["seed"], threads=settings["threads"], checkpoints=Path(work) / "checkpoints",
            draws=steps * train["batch_size"],
        ))  # fmt: skip
    return taken, memory()["VmHWM"], memory()["RssFile"]


def training_memory(utterances=5000, times=10, steps=200, batch=0, folder="features"):
    """The most memory of a training on so many utterances of the store, and on its shards under so many names."""
    with tempfile.TemporaryDirectory() as work:
        for number in (1, times):
            larger = repeated(ROOT / folder, Path(work) / f"store-{number}", utterances, number)
            taken, most, files = apart(memory_of, str(larger), steps, batch)
            yield f"training on {number} x {utterances:,} utterances", taken, "s"
            yield "... memory at most", most / 1e3, "GB"
            yield "... of it files, at the end", files / 1e3, "GB"


def repeated(store, folder, utterances, times):
    """A store of so many times so many utterances from all over the other's, its shards links to them."""
    from aasist_lib.store import indexes

    folder.mkdir()
    index = indexes.read(store)
    index = index.iloc[np.linspace(0, len(index) - 1, min(utterances, len(index))).astype(int)].reset_index(drop=True)
    shards, parts, meta = index["shard"].max() + 1, [], json.loads((store / "meta.json").read_text())
    sums, meta["checksums"] = meta["checksums"], {}
    for number in range(times):
        part = index.assign(shard=index["shard"] + number * shards)
        if number:
            part["utt_id"] += f"-{number}"
            part.loc[part["pair_id"] != "", "pair_id"] += f"-{number}"
        parts.append(part)
        for shard in range(shards):
            old, new = f"shard-{shard:05d}.npy", f"shard-{number * shards + shard:05d}.npy"
            (folder / new).symlink_to((store / old).resolve())
            meta["checksums"][new] = sums[old]
    indexes.write(folder, pd.concat(parts))
    (folder / "meta.json").write_text(json.dumps(meta))
    shutil.copy(store / "rejected.csv", folder / "rejected.csv")
    return folder


def embeddings(steps=3, width=768, layers=12, batch=32):
    """A head on an encoder's stored states beside one with the encoder in every step; one thread of processor time.

    The encoder has the size of wav2vec2-base and random weights, which take as long as learned ones. A step's time is
    the difference of two trainings, so that what comes before and after the steps does not count.
    """
    import soundfile
    import torch
    import transformers
    from transformers.utils import logging

    from aasist_lib import audio, corpora, params, training
    from aasist_lib import store as stores

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    common = {"sample_rate": RATE, "n_fft": 256, "hop_length": 64, "deltas": 0, "normalise": "none"}
    changes = {"max_epochs": 1, "batch_size": batch, "crop_seconds": 2.0, "time_mask_frames": 15}
    two = [layers // 3, 2 * layers // 3]
    sides = {"encoder in every step": None, "all states": "all", f"states {two[0]} and {two[1]}": two}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        encoder = {"encoder": str(work / "encoder")}
        config = transformers.Wav2Vec2Config(hidden_size=width, num_hidden_layers=layers)
        transformers.Wav2Vec2Model(config).save_pretrained(work / "encoder")
        settings = params.overlaid({"model": {"name": "wav2vec2", "wav2vec2": encoder}})
        rows = []
        for path in sorted(path for path in (ROOT / "tests/speech").iterdir() if path.suffix != ".md"):
            wave = audio.read(path, RATE)
            fine = 10 / np.abs(wave).max()
            for label, made in {"bonafide": wave, "spoof": np.round(wave * fine) / fine}.items():
                name = f"{path.stem}-{label}"
                soundfile.write(work / f"{name}.wav", made, RATE, subtype="FLOAT")
                rows.append({"utt_id": name, "path": f"{name}.wav", "label": label, "speaker": path.stem})
        table = pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="")
        table = table.assign(split=["dev"] * 4 + ["train"] * (len(table) - 4))

        def fit(count):
            return seconds(lambda: training.fit(
                work / "store", work / "network", model=settings["model"], train=settings["train"] | changes, seed=1,
                threads=1, checkpoints=work / "checkpoints", draws=count * batch,
            ), time.process_time)  # fmt: skip

        for name, states in sides.items():
            kind = {"kind": "wav2vec2", "layers": states, **encoder} if states else {"kind": "waveform"}
            stores.extract(table, work, work / "store", common | kind)
            hours = stores.Store(work / "store").table["seconds"].sum() / 3600
            yield f"{name}: store", sum(x.stat().st_size for x in (work / "store").glob("*.npy")) / 1e9 / hours, "GB/h"
            more = steps * (10 if states else 1)
            yield f"{name}: a step", (fit(1 + more) - fit(1)) / more, "s"


def layout(files=50_000, size=1000, shard=1024):
    """What DVC takes for so many files of so many bytes, and for the same bytes in shards."""
    for name, each in (("files as they are", 1), (f"shards of {shard}", shard)):
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            names = environment() | {"DVC_SITE_CACHE_DIR": str(work / "site"), "DVC_NO_ANALYTICS": "1"}

            def dvc(*arguments, work=work, names=names):
                return seconds(lambda: subprocess.run(
                    [BIN / "dvc", *arguments], cwd=work, env=names, check=True, stdout=subprocess.DEVNULL
                ))  # fmt: skip

            dvc("init", "--no-scm", "--quiet")
            dvc("config", "cache.type", "hardlink")
            for number in range(0, files, each):
                path = work / f"data/{number // 1000:04d}/{number:08d}"
                path.parent.mkdir(parents=True, exist_ok=True)
                part = range(number, min(number + each, files))
                path.write_bytes(b"".join(f"{file:08d}".encode().ljust(size, b".") for file in part))
            yield f"{name}", -(-files // each), "files"
            yield "... dvc add", dvc("add", "data"), "s"
            yield "... dvc status", dvc("status"), "s"
            shutil.rmtree(work / "site")
            shutil.rmtree(work / ".dvc/tmp")
            yield "... dvc status in a fresh clone", dvc("status"), "s"
