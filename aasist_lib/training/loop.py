"""The training run: from a store to the weights of a network, reproducible bit for bit.

Training steps on crops (`sampling`) move the weights; scored on dev and kept is an exponential moving average of them
(`ema_decay`). A checkpoint after each epoch lets a killed run resume with the same result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from aasist_lib import metrics, models, params
from aasist_lib.augment import Augment
from aasist_lib.augment.adversarial import pgd
from aasist_lib.base import files, paths, provenance
from aasist_lib.base.errors import UserError, tells_of_full_disk
from aasist_lib.base.jobs import reproducible
from aasist_lib.base.progress import progress
from aasist_lib.store import Store, indexes, logit
from aasist_lib.training import distributed, losses
from aasist_lib.training.sampling import Crops, Masks, PairSampler, mixup

GRADIENT_NORM = 1.0  # gradient clipping: one outlier batch early on can undo the warm-up


class Diverged(UserError):
    """The training loss is not finite."""


@tells_of_full_disk("output")
def fit(
    store: Store | Path | str, output, *, model: dict, train: dict, augment: dict | None = None, seed: int,
    threads: int, checkpoints, leave_out: np.ndarray | None = None, draws: int | None = None,
    on_epoch: Callable[[dict], None] | None = None, compute: dict | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Train a network on the split `train` and choose its best epoch on `dev`; `eval` is never read.

    Under `torchrun` its processes train together (`distributed`); the last of their checkpoints stays.

    Parameters
    ----------
    store
        A `Store` or its folder.
    output
        Folder for network.safetensors and network.json. None: write nothing and keep the last checkpoint, from which a
        later call with a folder writes them without training.
    model, train, augment
        The params sections of these names; without `augment`, crops stay unchanged.
    seed, threads
        The same seed, threads, store and versions give the same bytes.
    checkpoints
        Folder for the state after each epoch. A run with the same settings resumes from it, others start afresh.
        Emptied on success.
    leave_out : (len(store),) bool
        True for utterances excluded from training and from the choice of the epoch.
    draws
        Utterances drawn per epoch, rounded to whole batches; by default the size of the split train.
    on_epoch
        Called with the row of each epoch, also of those before a resumed one. An exception from it ends the run and
        removes the checkpoint.
    compute
        The params section `compute`, of which `accelerator` and `devices` count. Results on GPUs or in several
        processes are not bit-identical to those of one CPU process.

    Returns
    -------
    DataFrame
        One row per epoch: epoch (from 1), lr (of the last step), train_loss, dev_loss (nats, mean of both classes),
        dev_eer (fraction).

    Raises
    ------
    UserError
        If a setting is invalid, a split lacks a class, the store holds features and augmentation needs waveforms,
        `init_from` does not fit, or the loss is not finite (`Diverged`).
    """
    settings = params.checked(params.Train, train, "train")
    store = store if isinstance(store, Store) else Store(store)
    device = distributed.device((compute or {}).get("accelerator", "cpu"))
    rank, processes = distributed.world()
    with reproducible(threads, seed, device.type == "cpu"), distributed.group(device):
        network = _network(model, settings, store, output)
        key = _key(store, network, settings, augment, seed, threads, leave_out, draws)
        checkpoint = Checkpoint(checkpoints, key)
        run = Training(network, store, settings, augment, seed, leave_out, draws, device, threads)
        run.resume(checkpoint.load())
        devices = (compute or {}).get("devices", 1)
        if devices > 1 and processes == 1 and not run.finished():
            call = {
                "store": str(store.folder), "model": model, "train": train, "augment": augment, "seed": seed,
                "threads": threads, "checkpoints": str(checkpoints), "compute": compute, "draws": draws,
                "leave_out": None if leave_out is None else np.asarray(leave_out, bool).tolist(),
            }  # fmt: skip
            distributed.launch(call, devices, checkpoint.folder)
            run.resume(checkpoint.load())
        distributed.check_same_epoch(len(run.history), device)

        def report(row: dict) -> None:
            try:
                if on_epoch and rank == 0:
                    on_epoch(dict(row))
            except Exception:  # such a run is not to be resumed
                checkpoint.remove()
                raise

        for row in run.history:
            report(row)
        with progress(total=settings.max_epochs * run.steps, desc="train", unit="step") as bar:
            bar.skip(len(run.history) * run.steps)
            while not run.finished():
                for batch in run.batches():
                    run.step(batch)
                    bar.update(1)
                row = run.evaluate()
                if rank == 0:
                    checkpoint.save(run.state())
                bar.set_description(f"train: epoch {row['epoch']}, dev EER {row['dev_eer']:.1%}")
                report(row)
        if output is not None and rank == 0:
            run.save(output, model["name"], train, augment, threads)
            if processes == 1:  # another process may yet have to read it
                checkpoint.remove()
    return pd.DataFrame(run.history)


class Training:
    """The state of a run: network and its moving average, optimizer, `history` (a row per epoch), weights of the best.

    `step` learns from a batch, `evaluate` ends the epoch; `epoch` and `steps_done` count from 0.
    """

    def __init__(
        self, network: nn.Module, store: Store, settings: params.Train, augment: dict | None, seed: int,
        leave_out: np.ndarray | None = None, draws: int | None = None, device: torch.device | str = "cpu",
        threads: int = 1,
    ):  # fmt: skip
        self.network, self.store, self.settings, self.seed = network.to(device), store, settings, seed
        self.device, self.threads = torch.device(device), threads
        self.augment = Augment(augment or {}, store.features["sample_rate"])
        self.loss, self.masks = losses.LOSSES[settings.loss], Masks(store, settings, seed)
        if store.content != "waveforms" and (self.augment or settings.adversarial):
            raise UserError(
                "augment and train.adversarial change waveforms, and the store holds features: set "
                "extract.content: waveforms, or every probability to 0"
            )
        if settings.freeze_cnn_epochs and not hasattr(network, "cnn"):
            raise UserError("train.freeze_cnn_epochs: this network has no convolutional part to freeze: set it to 0")
        leave_out = np.zeros(len(store), bool) if leave_out is None else np.asarray(leave_out, bool)
        self.rows = {split: rows[~leave_out[rows]] for split in ("train", "dev") for rows in [store.select(split)]}
        self.targets = (store.table["label"] == "bonafide").to_numpy()
        for split, rows in self.rows.items():
            if len(set(self.targets[rows])) < 2:
                raise UserError(f"split '{split}' needs bona fide and spoofed utterances, and lacks one or both")
        # whole batches only: batch statistics of one or two utterances would be noise
        draws = len(self.rows["train"]) if draws is None else draws
        # a batch larger than the split would repeat it within an epoch
        self.batch_size = min(settings.batch_size, len(self.rows["train"]) // 2 * 2)
        self.steps = max(1, round(draws / self.batch_size))
        self.rank, self.processes = distributed.world()
        self.share = distributed.share(self.batch_size)
        self.parallel = distributed.parallel(network, settings.freeze_cnn_epochs > 0)
        # buffers too: the running statistics of batch normalisation belong to their weights
        decay = get_ema_multi_avg_fn(settings.ema_decay)
        self.average = AveragedModel(network, multi_avg_fn=decay, use_buffers=True).requires_grad_(False).eval()
        weights, others = ([p for p in network.parameters() if (p.ndim > 1) == large] for large in (True, False))
        self.optimizer = torch.optim.AdamW(  # no decay of biases and normalisation scales
            [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.lr,
            fused=True,
        )
        self.history, self.best, self.losses, self.steps_done = [], {}, [], 0

    @property
    def epoch(self) -> int:
        return len(self.history)

    def draws(self) -> PairSampler:
        table = self.store.table[["utt_id", "label", "speaker", "attack", "pair_id"]].iloc[self.rows["train"]]
        return PairSampler(table, self.steps * self.batch_size, self.seed, self.settings.pair_fraction)

    def batches(self) -> Iterator:
        """The batches of an epoch: crops, targets, and (epoch, position) of each."""
        self.network.train()
        self._freeze()
        draws = distributed.Share(self.draws(), self.share)
        draws.set_epoch(self.epoch)
        # reading a crop takes 0.1 ms: a worker pays off only for waveform augmentation
        return iter(
            DataLoader(
                Crops(self.store, self.settings, self.augment, self.seed), sampler=draws, batch_size=self.share,
                generator=torch.Generator(), num_workers=1 if self.augment and self.threads > 1 else 0,
            )
        )  # fmt: skip

    def _freeze(self) -> None:
        """Freeze the convolutions, running statistics too, in the first `freeze_cnn_epochs`."""
        if hasattr(self.network, "cnn"):
            learns = self.epoch >= self.settings.freeze_cnn_epochs
            self.network.cnn.requires_grad_(learns).train(learns)

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        """Move the weights along the gradient of a batch."""
        # for dropout; rank 0 draws as a single process does
        torch.manual_seed(_number(self.seed, self.steps_done, self.rank))
        held, targets, draws = batch
        rng = np.random.default_rng((self.seed, self.steps_done, 2))
        if rng.random() < self.settings.adversarial:
            held = self._adversarial(held, targets, rng)
        with torch.no_grad():
            features = self.masks(self.store.maps(held), draws)
            if self.settings.mixup:
                features, targets = mixup(features, targets, self.settings.mixup, rng)
        features, targets = features.to(self.device), targets.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            outputs = self.parallel(features)
        loss = losses.weighted(self.loss(outputs.float(), targets), targets, self.settings.bonafide_weight)
        self.losses.append(loss.item())
        if not math.isfinite(self.losses[-1]):
            raise Diverged(
                f"the training loss is no longer a number (epoch {self.epoch + 1}): lower train.lr, "
                "or look for features that are not finite"
            )
        share = _schedule(self.steps_done, self.settings.max_epochs * self.steps, self.settings.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * share
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], GRADIENT_NORM)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.steps_done += 1

    def _adversarial(self, held: Tensor, targets: Tensor, rng: np.random.Generator) -> Tensor:
        """Adversarial waveforms within an L-infinity bound: FGSM for one step, PGD for several."""
        self.network.eval()  # keeps adversarial iterates out of the running statistics
        db = rng.uniform(*self.settings.adversarial_db, size=(self.processes, len(held), 1, 1))[self.rank]
        bound = held.norm(dim=2, keepdim=True) / held.shape[2] ** 0.5 * torch.from_numpy(10 ** (-db / 20)).float()

        def gradient(waveforms: Tensor) -> Tensor:
            leaf = waveforms.detach().requires_grad_()
            outputs = self.network(self.store.maps(leaf).to(self.device))
            return torch.autograd.grad(self.loss(outputs, targets.to(self.device)).sum(), leaf)[0]

        moved = pgd(gradient, held, bound, self.settings.adversarial_steps)
        self.network.train()
        self._freeze()
        return moved

    @torch.no_grad()
    def evaluate(self) -> dict:
        """Score dev with the averaged weights, keep them if they are the best so far; the row of this epoch."""
        rows = self.rows["dev"]
        bonafide, logits = self.targets[rows], np.zeros(len(rows))
        mine = slice(self.rank, None, self.processes)
        logits[mine] = [logit(self.average.module, self.store, row) for row in rows[mine].tolist()]
        logits = distributed.all_sum(logits, self.device)
        train_loss = distributed.all_sum(np.mean(self.losses), self.device) / self.processes
        per_utterance = self.loss(torch.from_numpy(logits), torch.from_numpy(bonafide).double()).numpy()
        row = {
            "epoch": self.epoch + 1,
            "lr": float(f"{self.optimizer.param_groups[0]['lr']:.6g}"),
            "train_loss": round(float(train_loss), 6),
            "dev_loss": round(float(per_utterance[bonafide].mean() + per_utterance[~bonafide].mean()) / 2, 6),
            "dev_eer": round(float(metrics.eer(logits[bonafide], logits[~bonafide]).value), 6),
        }
        self.history.append(row)
        self.losses = []
        if self.best_epoch() == len(self.history) - 1:
            weights = self.average.module.state_dict()
            self.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
        return row

    def best_epoch(self) -> int:
        """Index of the lowest dev EER, among equals of the lowest dev loss."""
        return min(range(len(self.history)), key=lambda i: (self.history[i]["dev_eer"], self.history[i]["dev_loss"]))

    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` epochs have passed since the best."""
        done = len(self.history)
        return done > 0 and (done >= self.settings.max_epochs or done - 1 - self.best_epoch() >= self.settings.patience)

    def state(self) -> dict:
        """For a checkpoint: tensors, numbers and texts alone."""
        parts = {"network": self.network, "average": self.average, "optimizer": self.optimizer}
        states = {name: part.state_dict() for name, part in parts.items()}
        return states | {"history": self.history, "best": self.best, "steps_done": self.steps_done}

    def resume(self, state: dict | None) -> None:
        if state:
            for name in ("network", "average", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.history, self.best, self.steps_done = state["history"], state["best"], state["steps_done"]

    def save(self, output, name: str, train: dict, augment: dict | None, threads: int) -> None:
        """Write the best epoch's weights, and everything that tells what they are."""
        self.network.load_state_dict(self.best)
        best = self.history[self.best_epoch()]
        options = dataclasses.asdict(self.network.options)  # spelt out, so that changed defaults spoil no network
        about = {
            "model": {"name": name, **{k: v for k, v in options.items() if k not in ("coefficients", "channels")}},
            "features": self.store.features,
            "train": train,
            "augment": augment or {},
            "seed": self.seed,
            "threads": threads,
            "made_with": provenance.made_with(),
            "coefficients": self.store.coefficients,
            "channels": self.store.channels,
            "prior_spoof": self.prior_spoof(),
            "best_epoch": best["epoch"],
            "dev_eer": best["dev_eer"],
            "dev_loss": best["dev_loss"],
            "parameters": models.parameters(self.network)["total"],
        }
        models.save(self.network.cpu(), output, about)

    def prior_spoof(self) -> float:
        """Weighted share of spoofs among the draws of an epoch: the prior in the network's log odds."""
        bonafide = self.targets[[row for _, _, row, _ in self.draws()]]
        return float(np.average(~bonafide, weights=np.where(bonafide, self.settings.bonafide_weight, 1.0)))


class Checkpoint:
    """The state after the latest epoch, in a file named after a hash of the run's settings."""

    def __init__(self, folder, key: str):
        self.folder = Path(folder)
        self.file = self.folder / f"{key}.ckpt"

    def load(self) -> dict | None:
        """The state, or None if there is none that can be read; only tensors and numbers are unpickled."""
        try:
            return torch.load(self.file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # torch raises many errors for a broken file; starting afresh mends all
            self.file.unlink(missing_ok=True)
            return None

    def save(self, state: dict) -> None:
        """Replace the last state at once, and remove those of runs with other settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(self.file) as beside:
            torch.save(state, beside)
        for other in self.folder.glob("*.ckpt"):
            if other != self.file:
                other.unlink()

    def remove(self) -> None:
        for left in (*self.folder.glob("*.ckpt"), *self.folder.glob("*.partial")):
            left.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _network(model: dict, settings: params.Train, store: Store, output) -> nn.Module:
    """The network at the start of the run."""
    options = dict(model)
    if settings.loss in losses.HEADS:
        options["head"] = losses.HEADS[settings.loss]
    network = models.build(options.pop("name", ""), **options, coefficients=store.coefficients, channels=store.channels)
    if settings.init_from:
        start = (paths.root() / settings.init_from).resolve()
        if output is not None and start == Path(output).resolve():
            raise UserError(
                f"train.init_from: {settings.init_from} is what this run replaces: copy it first, and name the copy"
            )
        _start_from(network, start)
    # channels-last convolutions save a sixth of a step
    network.to(memory_format=torch.channels_last)
    distributed.share_batch_norm(network)
    return network


def _start_from(network: nn.Module, folder: Path) -> None:
    there, _ = models.load(folder)
    theirs, ours = ({k: tuple(v.shape) for k, v in n.state_dict().items()} for n in (there, network))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise UserError(
                f"train.init_from: {name} is {theirs.get(name, 'absent')} in {folder} and {ours.get(name, 'absent')} "
                "in this network: give both the same model and features settings"
            )
    network.load_state_dict(there.state_dict())


def _key(store: Store, network: nn.Module, settings, augment, seed: int, threads: int, leave_out, draws) -> str:
    """Hash of everything that the result depends on; a checkpoint with the same key may be resumed."""
    options = [dataclasses.asdict(network.options), settings.model_dump(), augment]
    about = [*options, store.features, store.content, seed, threads, draws, torch.__version__]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for piece in indexes.text(store.table):
        key.update(piece)
    key.update(b"" if leave_out is None else np.asarray(leave_out, bool).tobytes())
    key.update(provenance.code_key(__name__))  # other code must not finish the run
    for name, tensor in network.state_dict().items():  # distinguishes init_from networks
        key.update(name.encode() + tensor.numpy().tobytes())
    return key.hexdigest()[:16]


def _schedule(step: int, total: int, warmup_fraction: float) -> float:
    """Learning rate over its maximum: linear warm-up, then half a cosine to 0."""
    warmup = round(total * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _number(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
