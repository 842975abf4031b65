"""Two classical baselines: Gaussian mixtures and logistic regression.

Both learn from the train split of a store and give one score per row, higher for bona fide. Neither is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from aasist_lib.base.errors import UserError
from aasist_lib.base.progress import progress
from aasist_lib.store import Store

FRAMES = 100_000  # drawn per class to train the mixtures
LARGEST = 20_000  # frames scored at a time


@threadpool_limits.wrap(limits=1)  # the bytes depend on the number of threads
def gmm(store: Store, rows: Sequence[int], *, seed: int = 0, components: int = 64) -> np.ndarray:
    """Mean log-likelihood ratio over frames (nats) of a Gaussian mixture per class, as in the ASVspoof baselines.

    `seed` is of the frames drawn for training and of the initialisation; covariances are diagonal.
    """
    mixtures = []
    for number, rows_of in enumerate(_train(store)):
        rng = np.random.default_rng((seed, number))
        each = max(1, FRAMES // len(rows_of))
        frames = np.concatenate(
            [_some(store.map(row).T, each, rng) for row in progress(rows_of, desc="gmm: read", unit="recording")]
        )
        mixtures.append(GaussianMixture(components, covariance_type="diag", reg_covar=1e-3, random_state=seed))
        mixtures[-1].fit(frames.astype(np.float64))
    real, fake = mixtures

    def ratio(row: int) -> float:
        frames = store.map(row).T
        parts = np.array_split(frames, -(-len(frames) // LARGEST))
        return float(np.concatenate([real.score_samples(part) - fake.score_samples(part) for part in parts]).mean())

    return _each(ratio, rows, "gmm: score")


def logistic(store: Store, rows: Sequence[int], *, seed: int = 0) -> np.ndarray:
    """Log odds of a logistic regression on means and standard deviations of the features; `seed` is unused."""
    real, fake = _train(store)
    train = _each(lambda row: _pooled(store.map(row)), [*real, *fake], "logistic: read")
    labels = np.repeat([1, 0], [len(real), len(fake)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000))
    model.fit(train, labels)
    return model.decision_function(_each(lambda row: _pooled(store.map(row)), rows, "logistic: score"))


BASELINES: dict[str, Callable[..., np.ndarray]] = {"gmm": gmm, "logistic": logistic}


def _train(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train: bona fide, spoof."""
    recordings = store.recordings  # without the vocoder copies of extract: these baselines learn from the corpus alone
    rows = recordings.index[recordings["split"] == "train"].to_numpy()
    real = (store.table["label"].to_numpy() == "bonafide")[rows]
    if real.all() or not real.any():
        raise UserError(f"{store.folder}: split 'train' needs bona fide and spoofed utterances, and lacks one or both")
    return rows[real], rows[~real]


def _some(frames: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return frames[np.sort(rng.permutation(len(frames))[:count])]


def _pooled(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features.mean(axis=1), features.std(axis=1)])


def _each(work: Callable, rows: Sequence[int], doing: str) -> np.ndarray:
    return np.array([work(row) for row in progress(rows, desc=doing, unit="recording")])
