"""Plain baselines: what is tested.

| test | what must hold |
|---|---|
| learns | a difference in the features' spread is found by both; the same seed gives the same scores |
| ratio | of one Gaussian a class, the score is the difference of its log densities, worked out by scipy |
| pooled | the regression sees means and deviations, and nothing of the order of frames |
| lacks a class | said by name |
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal
from test_training import write_index

from aasist_lib import metrics
from aasist_lib.base.errors import UserError
from aasist_lib.store import Store
from aasist_lib.studies import baselines

FEATURES = {
    "kind": "mfcc",
    "sample_rate": 16000,
    "n_mfcc": 4,
    "n_fft": 512,
    "hop_length": 160,
    "n_mels": 20,
    "deltas": 0,
}


def write_store(folder, *, labels=("bonafide", "spoof"), shuffled=False):
    """Frames of 4 coefficients, around 0 for real voices and around 1 and wider for fakes."""
    folder.mkdir()
    rng, rows, parts, start = np.random.default_rng(4), [], [], 0
    for number in range(60):
        label = labels[number % len(labels)]
        wide = {"bonafide": 1.0, "spoof": 1.5}[label]
        frames = int(rng.integers(20, 40))
        x = (rng.normal(0.0 if label == "bonafide" else 0.4, wide, (frames, 4))).astype(np.float32)
        parts.append(x[::-1] if shuffled else x)
        split = "train" if number < 40 else "eval"
        rows.append(dict(utt_id=f"u{number}", path="", label=label, split=split, shard=0, start=start, frames=frames))
        start += frames
    np.save(folder / "shard-00000.npy", np.concatenate(parts))
    write_index(folder, pd.DataFrame(rows).assign(seconds=1.0), FEATURES, coefficients=4, channels=1)
    return Store(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("baselines") / "features")


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_learns(store, name):
    rows = store.select("eval")
    options = {"components": 2} if name == "gmm" else {}
    scores = baselines.BASELINES[name](store, rows, seed=3, **options)
    real = (store.table["label"] == "bonafide").to_numpy()[rows]
    assert metrics.eer(scores[real], scores[~real]).value < 0.1
    np.testing.assert_array_equal(scores, baselines.BASELINES[name](store, rows, seed=3, **options))


def test_ratio(store, monkeypatch):
    monkeypatch.setattr(baselines, "FRAMES", 10**9)  # all of them, so that the Gaussians are known
    (row,) = store.select("eval")[:1]
    (found,) = baselines.gmm(store, [row], components=1)
    densities = []
    for label in ("bonafide", "spoof"):
        rows = [r for r in store.select("train") if store.table["label"][r] == label]
        frames = np.concatenate([store.map(r).T for r in rows]).astype(float)
        normal = multivariate_normal(frames.mean(axis=0), np.diag(frames.var(axis=0) + 1e-3))
        densities.append(normal.logpdf(store.map(row).T).mean())
    assert found == pytest.approx(densities[0] - densities[1], abs=1e-4)


def test_pooled(store, tmp_path):
    rows = store.select("eval")
    turned = write_store(tmp_path / "turned", shuffled=True)
    np.testing.assert_allclose(baselines.logistic(store, rows), baselines.logistic(turned, rows), rtol=1e-4)


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_lacks_a_class(tmp_path, name):
    with pytest.raises(UserError, match="'train' needs bona fide and spoofed"):
        baselines.BASELINES[name](write_store(tmp_path / "one", labels=("spoof",)), [0])
