"""What a training step sees: balanced and paired draws, random crops and masks, mixup.

Draws come in pairs of a bona fide and a spoofed utterance. `pair_fraction` of the pairs are a recording and its vocoder
copy, cropped at the same time, which differ in nothing but the vocoder. In the others an utterance's probability is
proportional to 1/sqrt(size of its group); groups are speakers (bona fide) and attacks (spoof).

Waveform crops are changed as `augment` says, both of a pair alike; their features get SpecAugment masks and mixup. All
random numbers come from (seed, epoch, position) or (seed, step), so that a resumed run draws the same.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from aasist_lib.augment import Augment
from aasist_lib.params import Train
from aasist_lib.store import Store

CEPSTRA = ("mfcc", "lfcc")  # features to which a microphone adds a constant


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
        """Draw the pairs of this epoch from now on."""
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

    def __init__(self, store: Store, settings: Train, changes: Augment, seed: int):
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

    def __init__(self, store: Store, settings: Train, seed: int):
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


def mixup(features: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., 2018) of features and targets within the batch."""
    share = torch.from_numpy(rng.beta(alpha, alpha, size=len(features))).float()
    others = torch.from_numpy(rng.permutation(len(features)))
    both = share[:, None, None]
    mixed = both * features + (1 - both) * features[others]
    return mixed, share * targets + (1 - share) * targets[others]
