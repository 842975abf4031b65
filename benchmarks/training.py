"""How long a training step takes, what makes it quicker, and how much memory a training takes.

    python benchmarks/training.py [steps] [--threads 1] [--rounds 8] [--steps 4] [--all]
    python benchmarks/training.py memory [--utterances 5000] [--times 10] [--steps 200]

`steps` sets a training step as `training.fit` does it against a plain one: the same network in torch's usual memory
format with torch's own dropout and attention, AdamW and a moving average of the weights with their usual options, no
deterministic algorithms. Sides between the two change one thing each, those with a `+` add one to what is done now.
All take the crops of the store `features/` in batches of params.yaml, in one process and in turn, so that a busy
machine slows all; a ratio is the median over the rounds of two neighbours. A step is the forward pass, loss, backward
pass, clipping, optimiser and average; reading crops and masking them are told apart. Results are compared without
dropout, whose numbers are drawn in another way: the largest difference of the loss over the first steps.

`memory` trains on 5,000 utterances of the store and on so many times as many (its shards under so many names), each in
a process of its own, and prints the most memory that the process held.
"""

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import MethodType

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from aasist_lib import augment, models, params
from aasist_lib.models import layers
from aasist_lib.store import Store, indexes
from aasist_lib.training import loop as training
from aasist_lib.training import losses

ROOT = Path(__file__).parents[1]
COMPARED = 20  # steps of which the losses are compared
WARM_UP = 0.1  # share of the learning rate, as early in a training


@dataclasses.dataclass(frozen=True)
class How:
    """What sides differ in."""

    channels_last: bool = True
    fused: bool = True  # AdamW in one pass
    together: bool = True  # the average, all weights in one call
    attention: bool = True  # this project's, and its dropout
    deterministic: bool = True
    fill: bool = False  # of memory that is yet to be written, which deterministic algorithms ask for
    compiled: bool = False
    bfloat16: bool = False
    threads: int = 0  # 0: as asked for


NOW = How()
PLAIN = How(channels_last=False, fused=False, together=False, attention=False, deterministic=False)
SIDES = {
    "plain": PLAIN,
    "plain, channels last": dataclasses.replace(PLAIN, channels_last=True),
    "plain, fused AdamW": dataclasses.replace(PLAIN, fused=True),
    "plain, average together": dataclasses.replace(PLAIN, together=True),
    "plain, own attention": dataclasses.replace(PLAIN, attention=True),
    "now": NOW,
    "now + memory filled": dataclasses.replace(NOW, fill=True),
    "now + torch's attention": dataclasses.replace(NOW, attention=False),
}
MORE = {
    "now + bfloat16": dataclasses.replace(NOW, bfloat16=True),
    "now + compiled": dataclasses.replace(NOW, compiled=True),
    "now + 1 thread": dataclasses.replace(NOW, threads=1),
    "now + 2 threads": dataclasses.replace(NOW, threads=2),
    "now + 4 threads": dataclasses.replace(NOW, threads=4),
}


class Side:
    """A network in training, one way or another; the same weights at the start as every other side.

    Parameters
    ----------
    how : How
    store : Store
    settings : dict
        All of params.yaml.
    dropout : float, optional
        In place of the settings' own.
    """

    def __init__(self, how: How, store: Store, settings: dict, dropout: float | None = None):
        self.how, self.store = how, store
        options = {key: value for key, value in settings["model"].items() if key != "name"}
        if dropout is not None:
            options["dropout"] = dropout
        with torch.random.fork_rng():
            torch.manual_seed(settings["seed"])
            self.network = models.build(
                settings["model"]["name"], **options, coefficients=store.coefficients, channels=store.channels
            )
        if how.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if not how.attention:
            _torchs_own(self.network)
        train = training.Settings(**settings["train"])
        changes = augment.Augment({}, store.features["sample_rate"])
        self.module = training.Training(self.network, store, train, changes, settings["seed"])
        groups = [
            {"params": group["params"], "weight_decay": group["weight_decay"]}
            for group in self.module.configure_optimizers()["optimizer"].param_groups
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=train.lr * WARM_UP, fused=how.fused or None)
        functions = (
            {"multi_avg_fn": get_ema_multi_avg_fn(train.averaging)}
            if how.together
            else {"avg_fn": get_ema_avg_fn(train.averaging)}
        )
        self.average = AveragedModel(self.network, use_buffers=True, **functions)
        self.forward = torch.compile(self.network) if how.compiled else self.network
        self.batches = iter(())
        self.network.train()

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The next one; epochs follow each other."""
        found = next(self.batches, None)
        if found is None:
            self.batches = iter(self.module.train_dataloader())
            found = next(self.batches)
        return found

    def masked(self, batch) -> torch.Tensor:
        with torch.no_grad():
            return self.module.masks(self.store.maps(batch[0]), batch[2])

    def step(self, features: torch.Tensor, targets: torch.Tensor) -> float:
        """A training step; its loss."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.how.bfloat16):
            outputs = self.forward(features)
        loss = losses.weighted(self.module.loss(outputs.float(), targets), targets, 1.0)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), training.GRADIENT_NORM)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return loss.item()

    @contextmanager
    def running(self, threads: int):
        """Torch as this side wants it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.how.threads or threads)
        torch.use_deterministic_algorithms(self.how.deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = self.how.fill
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(False)
            torch.utils.deterministic.fill_uninitialized_memory = True


def _torchs_own(network: nn.Module) -> None:
    """Attention and dropout as torch has them, in place of this project's."""

    def forward(self, x, need_weights=False):
        y = self.norm1(x)
        y, weights = self.attention(y, y, y, need_weights=need_weights, average_attn_weights=False)
        x = x + self.dropout(y)
        return x + self.dropout(self.feed_forward(self.norm2(x))), weights

    for module in list(network.modules()):
        if isinstance(module, layers.Attention):
            module.forward = MethodType(forward, module)
        for name, part in module.named_children():
            if type(part) is layers.Dropout:
                setattr(module, name, nn.Dropout(part.p))


def steps(options: argparse.Namespace) -> None:
    """Prints the table of steps."""
    settings, store = params.load(ROOT / "params.yaml"), Store(ROOT / "features")
    wanted = SIDES | (MORE if options.all else {})
    if options.all and not shutil.which("g++"):
        print("no g++, which torch.compile needs: left out")
        del wanted["now + compiled"]
    sides, apart = {name: Side(how, store, settings) for name, how in wanted.items()}, {}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    reading, masking = [], []
    for name, side in sides.items():
        with side.running(options.threads):
            apart[name] = differences(store, settings, wanted[name])
            for _ in range(3):  # warm
                side.step(side.masked(batch := side.batch()), batch[1])
    for _ in range(options.rounds):
        for name, side in sides.items():
            with side.running(options.threads):
                spent = []
                for _ in range(options.steps):
                    start = time.perf_counter()
                    batch = side.batch()
                    read = time.perf_counter()
                    features = side.masked(batch)
                    begin = time.perf_counter()
                    side.step(features, batch[1])
                    spent.append(time.perf_counter() - begin)
                    if name == "now":
                        reading.append(read - start)
                        masking.append(begin - read)
                taken[name].append(float(np.median(spent)))
    print(f"{settings['model']['name']}, batches of {settings['train']['batch_size']}, {options.threads} thread(s)")
    print(f"{'':26}{'ms':>8}{'plain is so many times slower':>32}{'loss differs by':>18}")
    for name, times in taken.items():
        ratio = np.median(np.array(taken["plain"]) / np.array(times))
        reference = apart["plain"]
        differs = float(np.abs(np.array(apart[name]) - np.array(reference)).max())
        print(f"{name:26}{1e3 * np.median(times):8.1f}{ratio:32.2f}{differs:18.1e}")
    step = np.median(taken["now"])
    whole = step + np.median(reading) + np.median(masking)
    for name, part in (("reading crops", reading), ("masking them", masking)):
        print(f"{name}: {1e3 * np.median(part):.1f} ms, {np.median(part) / whole:.1%} of a whole step")


def differences(store: Store, settings: dict, how: How) -> list[float]:
    """Losses of the first steps without dropout."""
    side = Side(how, store, settings, dropout=0.0)
    return [side.step(side.masked(batch := side.batch()), batch[1]) for _ in range(COMPARED)]


def memory(options: argparse.Namespace) -> None:
    """Prints the most memory that a training held, of the store and of a larger one."""
    print(f"{'utterances':>10}{'seconds':>10}{'peak, GB':>10}{'of it files, GB, at the end':>30}")
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, options.times):
            larger = _repeated(ROOT / "features", Path(folder) / f"store-{times}", options.utterances, times)
            command = [sys.executable, __file__, "fit", "--store", str(larger), "--steps", str(options.steps)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found = json.loads(said.splitlines()[-1])
            print(
                f"{found['utterances']:10}{found['seconds']:10.0f}{found['VmHWM'] / 2**20:10.2f}"
                f"{found['RssFile'] / 2**20:30.2f}",
                flush=True,
            )


def _repeated(store: Path, folder: Path, utterances: int, times: int) -> Path:
    """A store of so many times so many utterances from all over the other's, its shards links to them."""
    folder.mkdir()
    index = indexes.read(store)
    index = index.iloc[np.linspace(0, len(index) - 1, min(utterances, len(index))).astype(int)].reset_index(drop=True)
    shards = index["shard"].max() + 1
    parts = []
    for number in range(times):
        part = index.assign(shard=index["shard"] + number * shards)
        if number:
            part["utt_id"] += f"-{number}"
            part.loc[part["pair_id"] != "", "pair_id"] += f"-{number}"
        parts.append(part)
        for shard in range(shards):
            place = folder / f"shard-{number * shards + shard:05d}.npy"
            place.symlink_to((store / f"shard-{shard:05d}.npy").resolve())
    indexes.write(folder, pd.concat(parts))
    meta = json.loads((store / "meta.json").read_text())
    sums = [meta["checksums"][f"shard-{shard:05d}.npy"] for shard in range(shards)]
    meta["checksums"] = {f"shard-{number:05d}.npy": sums[number % shards] for number in range(times * shards)}
    (folder / "meta.json").write_text(json.dumps(meta))
    shutil.copy(store / "rejected.csv", folder / "rejected.csv")
    return folder


def fit(options: argparse.Namespace) -> None:
    """One training; prints what the process held of memory, in KiB."""
    settings, start = params.load(ROOT / "params.yaml"), time.monotonic()
    store = Store(options.store)
    with tempfile.TemporaryDirectory() as folder:
        training.fit(
            store, Path(folder) / "network", model=settings["model"], train=settings["train"] | {"max_epochs": 1},
            augment=settings["augment"], seed=settings["seed"], threads=settings["threads"],
            checkpoints=Path(folder) / "checkpoints", draws=options.steps * settings["train"]["batch_size"],
        )  # fmt: skip
    lines = Path("/proc/self/status").read_text().splitlines()
    held = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}
    print(json.dumps({"utterances": len(store), "seconds": time.monotonic() - start} | held))


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=("steps", "memory", "fit"), default="steps")
    parser.add_argument("--threads", type=int, default=params.read("threads", ROOT / "params.yaml"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, help="of a round (4), or of a training (200)")
    parser.add_argument("--all", action="store_true", help="bfloat16, torch.compile and other threads too")
    parser.add_argument("--utterances", type=int, default=5000, help="in the smaller store, whose memory is measured")
    parser.add_argument("--times", type=int, default=10, help="as many utterances in the larger store")
    parser.add_argument("--store", type=Path, default=ROOT / "features", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.steps = options.steps or (4 if options.what == "steps" else 200)
    {"steps": steps, "memory": memory, "fit": fit}[options.what](options)


if __name__ == "__main__":
    main()
