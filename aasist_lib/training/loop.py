"""The training run: from a store to the weights of a network, reproducible bit for bit.

Sampling: draws come in pairs of a bona fide and a spoofed utterance. `pair_fraction` of the pairs are a recording and
its vocoder copy, cropped at the same time, which differ in nothing but the vocoder. In the others an utterance's
probability is proportional to 1/sqrt(size of its group); groups are speakers (bona fide) and attacks (spoof).

Augmentation: waveform crops are changed as `augment` says, both of a pair alike, and optionally made adversarial;
their features get SpecAugment masks and optional mixup. Scored on dev and kept is an exponential moving average of the
weights (`averaging`).

All random numbers come from (seed, epoch, position) or (seed, step), so that a killed run resumes from the checkpoint
after each epoch with the same result.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler

from aasist_lib import metrics, models
from aasist_lib.augment import Augment
from aasist_lib.base import paths, provenance
from aasist_lib.base.errors import UserError, tells_of_full_disk
from aasist_lib.base.progress import progress
from aasist_lib.params import Train as Settings
from aasist_lib.params import checked
from aasist_lib.store import Store, indexes
from aasist_lib.training import distributed, losses

CEPSTRA = ("mfcc", "lfcc")  # features to which a microphone adds a constant
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
    settings, store = checked(Settings, train, "train"), store if isinstance(store, Store) else Store(store)
    accelerator = distributed.chosen((compute or {}).get("accelerator", "cpu"))
    rank, processes = distributed.world()
    with _reproducible(threads, seed, accelerator == "cpu"), _quiet():
        name, options = model.get("name", ""), {k: v for k, v in model.items() if k != "name"}
        if settings.loss in losses.HEADS:
            options["head"] = losses.HEADS[settings.loss]
        network = models.build(name, **options, coefficients=store.coefficients, channels=store.channels)
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
        changes = Augment(augment or {}, store.features["sample_rate"])
        module = Training(network, store, settings, changes, seed, leave_out, draws, background=threads > 1)
        key = _key(store, network, settings, augment, seed, threads, leave_out, draws)
        checkpoint = Checkpoint(checkpoints, key)
        module.history = checkpoint.history()
        devices = (compute or {}).get("devices", 1)
        if devices > 1 and processes == 1 and not module.finished():
            call = {
                "store": str(store.folder), "model": model, "train": train, "augment": augment, "seed": seed,
                "threads": threads, "checkpoints": str(checkpoints), "compute": compute, "draws": draws,
                "leave_out": None if leave_out is None else np.asarray(leave_out, bool).tolist(),
            }  # fmt: skip
            distributed.launch(call, devices, checkpoint.folder)
            module.history = checkpoint.history()
        tell = EpochCallback(on_epoch if rank == 0 else None, checkpoint)
        for row in module.history:
            tell(row)
        if not module.finished():
            bar = Progress(settings, module)
            trainer = pl.Trainer(
                **distributed.trainer(accelerator, settings.freeze_cnn_epochs > 0),
                max_epochs=settings.max_epochs,
                gradient_clip_val=GRADIENT_NORM,
                callbacks=[checkpoint, tell, *([bar] if rank == 0 else [])],
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            _run(trainer, module, checkpoint.latest())
        else:
            module.on_load_checkpoint(checkpoint.load())
        if output is None or rank > 0:
            return pd.DataFrame(module.history)
        network.load_state_dict(module.best)
        best = module.history[module.best_epoch()]
        about = {
            "model": _described(name, network),
            "features": store.features,
            "train": train,
            "augment": augment or {},
            "seed": seed,
            "threads": threads,
            "made_with": provenance.made_with(),
            "coefficients": store.coefficients,
            "channels": store.channels,
            "prior_spoof": module.prior_spoof(),
            "best_epoch": best["epoch"],
            "dev_eer": best["dev_eer"],
            "dev_loss": best["dev_loss"],
            "parameters": models.parameters(network)["total"],
        }
        models.save(network, output, about)
        if processes == 1:  # another process may yet have to read it
            checkpoint.remove()
    return pd.DataFrame(module.history)


def scores(
    network_folder, store: Store | Path | str, split: str, *, threads: int = 2, rows: np.ndarray | None = None
) -> pd.DataFrame:
    """Raw logits of a split, or of these `rows` of the store.

    Returns
    -------
    DataFrame
        The table's columns, `seconds`, and `score`, the logit, higher for bona fide. Long utterances get the mean of
        their windows' logits weighted by length, as in `Detector`.

    Raises
    ------
    UserError
        If the split is empty, or the network was trained on other features.
    """
    network, about = models.load(network_folder)
    store = store if isinstance(store, Store) else Store(store)
    if store.features != about["features"]:
        raise UserError(
            f"{store.folder} holds {store.features}, but {network_folder} was trained on {about['features']}: "
            "extract again with those settings, or train again"
        )
    rows = store.select(split) if rows is None else rows
    if not len(rows):
        raise UserError(f"{store.folder} has no utterances of split '{split}'")
    with _reproducible(threads), torch.inference_mode():
        found = [_logit(network, store, row) for row in progress(rows, desc=f"score {split}", unit="recording")]
    columns = [c for c in store.table.columns if c not in ("shard", "start", "frames")]
    return store.table.loc[rows, columns].reset_index(drop=True).assign(score=np.array(found))


def _logit(network: nn.Module, store: Store, row: int) -> float:
    """The logit of one utterance, alone, since padding would change it."""
    spans = models.windows(int(store.table["frames"].iloc[row]), store.rate)
    parts = (torch.from_numpy(store.read(row, start, end - start))[None] for start, end in spans)
    device = next(network.parameters()).device
    logits = [network(store.maps(part).to(device)).item() for part in parts]
    return float(np.average(logits, weights=[end - start for start, end in spans]))


class PairSampler(Sampler):
    """Sampler of (epoch, position, row, moment), bona fide and spoof in turn; `moment` in [0, 1) places the crop."""

    def __init__(self, table: pd.DataFrame, count: int, seed: int, pair_fraction: float = 0.0):
        self.couples, self.seed, self.epoch = count // 2, seed, 0
        bonafide, spoof = (table[table["label"] == label] for label in ("bonafide", "spoof"))
        recordings = pd.Series(bonafide.index, index=bonafide["utt_id"])
        copies = spoof[spoof["pair_id"].isin(recordings.index)]
        # ascending, as the row numbers that index `table`
        self.copied, self.recorded = copies.index.to_numpy(), recordings[copies["pair_id"]].to_numpy(dtype=int)
        self.pairs = round(pair_fraction * self.couples) if len(copies) else 0
        self.bonafide, self.spoof = self._weighted(bonafide["speaker"]), self._weighted(spoof["attack"])
        self.copies = self._weighted(copies["attack"])

    @staticmethod
    def _weighted(groups: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, group number of each, and weights that sum to 1."""
        weights = groups.map(groups.value_counts()).to_numpy(dtype=float) ** -0.5
        return groups.index.to_numpy(), groups.factorize(sort=True)[0], weights / weights.sum()

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return 2 * self.couples

    def __iter__(self):
        rng = np.random.default_rng((self.seed, self.epoch))
        copies = self._drawn(rng, self.copies, self.pairs)
        singles = [self._drawn(rng, of, self.couples - self.pairs) for of in (self.bonafide, self.spoof)]
        moments = rng.random((self.couples, 2))
        moments[: self.pairs, 1] = moments[: self.pairs, 0]
        bonafide = np.concatenate([self.recorded[np.searchsorted(self.copied, copies)], singles[0]])
        rows = np.stack([bonafide, np.concatenate([copies, singles[1]])], axis=1)
        order = rng.permutation(self.couples)
        drawn = zip(rows[order].ravel().tolist(), moments[order].ravel().tolist(), strict=True)
        return ((self.epoch, position, row, moment) for position, (row, moment) in enumerate(drawn))

    @staticmethod
    def _drawn(rng: np.random.Generator, weighted: tuple, count: int) -> np.ndarray:
        """Rows, in random order."""
        candidates, groups, weights = weighted
        if not count:
            return candidates[:0].astype(int)
        # systematic (low-variance) resampling: utterances and groups come up as their weights say, to within one draw
        order = rng.permutation(len(candidates))
        order = order[np.argsort(groups[order], kind="stable")]
        edges = np.cumsum(weights[order])
        steps = (np.arange(count) + rng.random()) / count
        return rng.permutation(candidates[order][np.searchsorted(edges[:-1], steps, side="right")])


class Crops(Dataset):
    """(epoch, position, row, moment) to the map or augmented waveform of a crop, the target, and (epoch, position)."""

    def __init__(self, store: Store, settings: Settings, changes: Augment, seed: int):
        self.store, self.changes, self.seed = store, changes, seed
        self.length = max(1, round(settings.crop_seconds * store.rate))
        self.lengths = store.table["frames"].to_numpy()
        self.targets = (store.table["label"] == "bonafide").to_numpy(dtype=np.float32)

    def __getitem__(self, draw: tuple[int, int, int, float]) -> tuple[np.ndarray, np.float32, np.ndarray]:
        epoch, position, row, moment = draw
        length = int(self.lengths[row])
        if length < self.length:
            start = int(moment * length)
            held = self.store.read(row)[:, (start + np.arange(self.length)) % length]  # the utterance repeats
        else:
            start = int(moment * (length - self.length + 1))
            held = self.store.read(row, start, self.length)
        if self.changes:
            # a pair shares its seed, so that room and codec carry no information on the class
            held = self.changes(held[0], np.random.default_rng((self.seed, epoch, position // 2, 1)))[None]
        return held, self.targets[row], np.array([epoch, position])


class Masks:
    """Random changes of feature maps: channel jitter and SpecAugment masks."""

    def __init__(self, store: Store, settings: Settings, seed: int):
        self.store, self.settings, self.seed = store, settings, seed
        # normalisation over time has removed the channel already
        as_they_are = store.features["kind"] in CEPSTRA and store.features.get("normalise", "none") == "none"
        self.jitter = settings.channel_jitter if as_they_are else 0.0

    def __call__(self, maps: Tensor, draws: Tensor) -> Tensor:
        """(batch, coefficients, frames) and (batch, 2), epoch and position of each, to maps of the same shape."""
        return torch.from_numpy(
            np.stack([
                self.one(one, np.random.default_rng((self.seed, *draw)))
                for one, draw in zip(maps.numpy().copy(), draws.tolist(), strict=True)
            ])
        )  # fmt: skip

    def one(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(coefficients, frames), changed in place."""
        if self.jitter:
            static = len(features) // self.store.channels
            features[:static] += self._recording_channel(rng, static)[:, None]
        return self._masked(features, rng)

    def _recording_channel(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Cepstral offset of a random microphone, (count,), smooth over frequency; deltas are unaffected."""
        spread = self.jitter / (1 + np.arange(count) / 3)
        return (rng.normal(size=count) * spread).astype(np.float32)

    def _masked(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """SpecAugment (Park et al., 2019): spans of time, and of coefficients with their deltas, take the mean."""
        settings, mean = self.settings, features.mean(axis=1, keepdims=True)
        by_channel = features.reshape(self.store.channels, -1, features.shape[1])
        means = np.broadcast_to(mean, features.shape).reshape(by_channel.shape)
        for _ in range(settings.coefficient_masks):
            span = _span(rng, by_channel.shape[1], settings.coefficient_mask_width)
            by_channel[:, span] = means[:, span]
        for _ in range(settings.time_masks):
            features[:, _span(rng, features.shape[1], settings.time_mask_frames)] = mean
        return features


def _span(rng: np.random.Generator, length: int, widest: int) -> slice:
    width = int(rng.integers(min(widest, length - 1) + 1))
    start = int(rng.integers(length - width + 1))
    return slice(start, start + width)


class Training(pl.LightningModule):
    """Lightning module: training steps on crops, and per epoch the scores of dev, a row of `history`, and `best`."""

    def __init__(
        self, network: nn.Module, store: Store, settings: Settings, changes: Augment, seed: int,
        leave_out: np.ndarray | None = None, draws: int | None = None, background: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.network, self.store, self.settings, self.seed = network, store, settings, seed
        self.changes, self.background = changes, background
        self.loss, self.masks = losses.named(settings.loss), Masks(store, settings, seed)
        if store.holds != "waveforms" and (changes or settings.adversarial):
            raise UserError(
                "augment and train.adversarial change waveforms, and the store holds features: set "
                "extract.holds: waveforms, or every probability to 0"
            )
        # buffers too: the running statistics of batch normalisation belong to their weights
        decay = get_ema_multi_avg_fn(settings.averaging)
        self.average = AveragedModel(network, multi_avg_fn=decay, use_buffers=True).requires_grad_(False)
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
        self.share, (self.rank, self.processes) = distributed.share(self.batch_size), distributed.world()
        self.history, self.best, self.losses, self.logits = [], {}, [], []
        if settings.freeze_cnn_epochs and not hasattr(network, "cnn"):
            raise UserError("train.freeze_cnn_epochs: this network has no convolutional part to freeze: set it to 0")

    # data

    def draws(self) -> PairSampler:
        table = self.store.table[["utt_id", "label", "speaker", "attack", "pair_id"]].iloc[self.rows["train"]]
        return PairSampler(table, self.steps * self.batch_size, self.seed, self.settings.pair_fraction)

    def train_dataloader(self) -> DataLoader:
        draws = distributed.Share(self.draws(), self.share)
        # a background worker asks for draws at once; Lightning, resuming from a checkpoint, sets the epoch only later
        draws.set_epoch(len(self.history))
        crops = Crops(self.store, self.settings, self.changes, self.seed)
        # reading a crop takes 0.1 ms: a worker pays off only for waveform augmentation
        return DataLoader(
            crops, sampler=draws, batch_size=self.share, generator=torch.Generator(),
            num_workers=1 if self.changes and self.background else 0,
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader:
        rows = self.rows["dev"][self.rank :: self.processes].tolist()
        return DataLoader(rows, batch_size=None, generator=torch.Generator())

    def transfer_batch_to_device(self, batch, device: torch.device, dataloader_idx: int):
        return batch  # features are computed and masked on the CPU

    # one epoch

    def prior_spoof(self) -> float:
        """Weighted share of spoofs among the draws of an epoch: the prior in the network's log odds."""
        rows = [row for _, _, row, _ in self.draws()]
        return float(np.average(~self.targets[rows], weights=self._weights(self.targets[rows])))

    def _weights(self, bonafide: np.ndarray) -> np.ndarray:
        return np.where(bonafide, self.settings.bonafide_weight, 1.0)

    def on_fit_start(self) -> None:
        distributed.agree(len(self.history), self.device)

    def on_train_epoch_start(self) -> None:
        self.losses = []
        frozen = self.current_epoch < self.settings.freeze_cnn_epochs
        self.network.train()
        if hasattr(self.network, "cnn"):
            self.network.cnn.requires_grad_(not frozen).train(not frozen)  # running statistics stay too

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        # for dropout; rank 0 draws as a single process does
        torch.manual_seed(_number(self.seed, self.global_step, self.rank))
        held, targets, draws = batch
        rng = np.random.default_rng((self.seed, self.global_step, 2))
        if rng.random() < self.settings.adversarial:
            held = self._adversarial(held, targets, rng)
        with torch.no_grad():
            features = self.masks(self.store.maps(held), draws)
            if self.settings.mixup:
                features, targets = _mixed(features, targets, self.settings.mixup, rng)
        features, targets = features.to(self.device), targets.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            outputs = self.network(features)
        loss = losses.weighted(self.loss(outputs.float(), targets), targets, self.settings.bonafide_weight)
        self.losses.append(loss.item())
        if not math.isfinite(self.losses[-1]):
            raise Diverged(
                f"the training loss is no longer a number (epoch {self.current_epoch + 1}): lower train.lr, "
                "or look for features that are not finite"
            )
        self.lr = self.optimizers().param_groups[0]["lr"]
        return loss

    def _adversarial(self, held: Tensor, targets: Tensor, rng: np.random.Generator) -> Tensor:
        """Adversarial waveforms within an L-infinity bound: FGSM for one step, PGD for several."""
        self.network.eval()  # keeps adversarial iterates out of the running statistics
        steps, size = self.settings.adversarial_steps, (self.processes, len(held), 1, 1)
        db = rng.uniform(*self.settings.adversarial_db, size=size)[self.rank]
        bound = held.norm(dim=2, keepdim=True) / held.shape[2] ** 0.5 * torch.from_numpy(10 ** (-db / 20)).float()
        moved = held
        for _ in range(steps):
            leaf = moved.detach().requires_grad_()
            outputs = self.network(self.store.maps(leaf).to(self.device))
            loss = self.loss(outputs, targets.to(self.device)).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
            step = bound * (1.0 if steps == 1 else 2.5 / steps) * gradient.nan_to_num().sign()
            moved = torch.minimum(torch.maximum(moved + step, held - bound), held + bound)
        self.network.train()
        if self.current_epoch < self.settings.freeze_cnn_epochs:
            self.network.cnn.eval()
        return moved.detach()

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        self.average.update_parameters(self.network)

    def on_validation_epoch_start(self) -> None:
        self.logits = []

    def validation_step(self, row: int, batch_idx: int) -> None:
        self.logits.append(_logit(self.average.module, self.store, row))

    def on_validation_epoch_end(self) -> None:
        bonafide = self.targets[self.rows["dev"]]
        logits = np.zeros(len(bonafide))
        logits[self.rank :: self.processes] = self.logits
        logits = distributed.of_all(logits, self.device)
        train_loss = distributed.of_all(np.mean(self.losses), self.device) / self.processes
        per_utterance = self.loss(torch.from_numpy(logits), torch.from_numpy(bonafide).double()).numpy()
        row = {
            "epoch": self.current_epoch + 1,
            "lr": float(f"{self.lr:.6g}"),
            "train_loss": round(float(train_loss), 6),
            "dev_loss": round(float(per_utterance[bonafide].mean() + per_utterance[~bonafide].mean()) / 2, 6),
            "dev_eer": round(float(metrics.eer(logits[bonafide], logits[~bonafide]).value), 6),
        }
        self.history.append(row)
        if self.best_epoch() == len(self.history) - 1:
            weights = self.average.module.state_dict()
            self.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}

    # when to stop, what to keep

    def best_epoch(self) -> int:
        """Index of the lowest dev EER, among equals of the lowest dev loss."""
        return min(range(len(self.history)), key=lambda i: (self.history[i]["dev_eer"], self.history[i]["dev_loss"]))

    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` epochs have passed since the best."""
        done = len(self.history)
        return done > 0 and (done >= self.settings.max_epochs or done - 1 - self.best_epoch() >= self.settings.patience)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint.update(history=self.history, best=self.best)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.history, self.best = checkpoint["history"], checkpoint["best"]

    def configure_optimizers(self):
        parameters = list(self.network.parameters())
        groups = [  # weight decay for weights, not for biases and normalisation scales
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.lr, fused=True)
        total = self.settings.max_epochs * self.steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _schedule(step, total, self.settings.warmup_fraction)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _schedule(step: int, total: int, warmup_fraction: float) -> float:
    """Learning rate over its maximum: linear warm-up, then half a cosine to 0."""
    warmup = round(total * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _mixed(features: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., 2018) of features and targets within the batch."""
    share = torch.from_numpy(rng.beta(alpha, alpha, size=len(features))).float()
    others = torch.from_numpy(rng.permutation(len(features)))
    both = share[:, None, None]
    mixed = both * features + (1 - both) * features[others]
    return mixed, share * targets + (1 - share) * targets[others]


class Checkpoint(pl.Callback):
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

    def history(self) -> list[dict]:
        state = self.load()
        return state["history"] if state else []

    def latest(self) -> str | None:
        return str(self.file) if self.file.exists() else None

    def remove(self) -> None:
        for left in (*self.folder.glob("*.ckpt"), *self.folder.glob("*.part")):
            left.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Training) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_suffix(".part")
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            os.replace(beside, self.file)  # atomic: a kill leaves the former state or this one
            for other in self.folder.glob("*.ckpt"):
                if other != self.file:
                    other.unlink()  # from a run with other settings
        trainer.should_stop = module.finished()


class EpochCallback(pl.Callback):
    """Calls `on_epoch` after each epoch; if it raises, the checkpoint is removed so that the run is not resumed."""

    def __init__(self, on_epoch: Callable[[dict], None] | None, checkpoint: Checkpoint):
        self.on_epoch, self.checkpoint = on_epoch, checkpoint

    def __call__(self, row: dict) -> None:
        try:
            if self.on_epoch:
                self.on_epoch(dict(row))
        except Exception:
            self.checkpoint.remove()
            raise

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Training) -> None:
        self(module.history[-1])


class Progress(pl.Callback):
    """One bar for the whole run, with the latest dev EER."""

    def __init__(self, settings: Settings, module: Training):
        self.total, self.done = settings.max_epochs * module.steps, len(module.history) * module.steps

    def on_train_start(self, trainer, module) -> None:
        self.bar = progress(total=self.total, desc="train", unit="step")
        self.bar.skip(self.done)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.bar.update(1)

    def on_train_epoch_end(self, trainer, module) -> None:
        row = module.history[-1]
        self.bar.set_description(f"train: epoch {row['epoch']}, dev EER {row['dev_eer']:.1%}")

    def on_train_end(self, trainer, module) -> None:
        self.bar.close()

    def on_exception(self, trainer, module, exception) -> None:
        self.bar.close()


def _described(name: str, network: nn.Module) -> dict:
    """The section `model` with every option spelt out, so that changed defaults spoil no trained network."""
    options = dataclasses.asdict(network.options)
    return {"name": name, **{k: v for k, v in options.items() if k not in ("coefficients", "channels")}}


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


def _key(
    store: Store, network: nn.Module, settings: Settings, augment, seed: int, threads: int, leave_out, draws
) -> str:
    """Hash of everything that the result depends on; a checkpoint with the same key may be resumed."""
    options = [dataclasses.asdict(network.options), settings.model_dump(), augment]
    about = [*options, store.features, store.holds, seed, threads, draws]
    key = hashlib.sha256(json.dumps([*about, torch.__version__, pl.__version__], sort_keys=True).encode())
    for piece in indexes.text(store.table):
        key.update(piece)
    key.update(b"" if leave_out is None else np.asarray(leave_out, bool).tobytes())
    key.update(provenance.code_key(__name__))  # other code must not finish the run
    for name, tensor in network.state_dict().items():  # distinguishes init_from networks
        key.update(name.encode() + tensor.numpy().tobytes())
    return key.hexdigest()[:16]


def _number(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _run(trainer: pl.Trainer, module: Training, latest: str | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=latest, weights_only=True)
    except SystemExit:  # Lightning turns Ctrl-C into it; JupyterLab expects KeyboardInterrupt
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


@contextmanager
def _reproducible(threads: int, seed: int | None = None, strictly: bool = True):
    """Fixed threads, deterministic algorithms and seed; the caller's settings are restored."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strictly)  # some GPU operations have no deterministic version
            # nothing is read before it is written, and filling takes a tenth of a step
            torch.utils.deterministic.fill_uninitialized_memory = False
            if seed is not None:
                torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            torch.utils.deterministic.fill_uninitialized_memory = filled


@contextmanager
def _quiet():
    """Silence Lightning's messages, which executed notebooks would record."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
