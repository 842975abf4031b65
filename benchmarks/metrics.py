"""Metrics and bootstrap of 600,000 trials, against loops as people write them: `python benchmarks/metrics.py`.

Prints seconds for all point metrics, for 1,000 bootstrap samples of EER and minDCF (by trials, and by speakers and
attacks), the ratio to a plain loop that draws, sorts and measures each sample, and the peak of memory.
"""

import resource
import time

import numpy as np

from aasist_lib import metrics

BONAFIDE, SPOOF, SPEAKERS, ATTACKS, REPLICATES, PLAIN = 60_000, 540_000, 400, 16, 1000, 10
POINT = ("eer", "rocch_eer", "min_dcf", "act_dcf", "cllr", "min_cllr", "auc")


def main() -> None:
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(1, 1, BONAFIDE), rng.normal(-1, 1.3, SPOOF)
    clusters = {
        "speaker": (rng.integers(SPEAKERS, size=BONAFIDE), rng.integers(SPEAKERS, size=SPOOF)),
        "attack": (None, rng.integers(ATTACKS, size=SPOOF)),
    }
    asv = metrics.ASVRates(0.02, 0.02, 0.3)

    def point():
        for name in POINT:
            getattr(metrics, name)(bonafide, spoof)
        metrics.min_tdcf(bonafide, spoof, asv)
        metrics.min_tdcf(bonafide, spoof, asv, year=2019)
        metrics.a_dcf(bonafide, spoof[: SPOOF // 2], spoof[SPOOF // 2 :])

    print(f"all point metrics of {BONAFIDE + SPOOF:,} trials: {_seconds(point):.2f} s")
    plain = _seconds(lambda: _plain(bonafide, spoof, rng)) / PLAIN * REPLICATES
    for name, given in (("trials", None), ("speakers and attacks", clusters)):
        took = _seconds(lambda given=given: metrics.bootstrap(_statistics, bonafide, spoof, clusters=given))
        print(f"{REPLICATES:,} samples by {name}: {took:.1f} s, {plain / took:.1f} times as fast as the plain loop")
    print(f"peak of memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def _statistics(counts: metrics.Counts) -> dict[str, float]:
    curve = counts.det()
    return {"eer": curve.eer().value, "min_dcf": curve.min_dcf().value}


def _plain(bonafide, spoof, rng) -> None:
    """Draw trials, sort them, walk along all thresholds: what a paper's script does."""
    for _ in range(PLAIN):
        real, fake = rng.choice(bonafide, len(bonafide)), rng.choice(spoof, len(spoof))
        labels = np.concatenate([np.ones(len(real)), np.zeros(len(fake))])
        labels = labels[np.argsort(np.concatenate([real, fake]), kind="mergesort")]
        rejected = np.append(0, np.cumsum(labels) / len(real))
        accepted = np.append(1, 1 - np.cumsum(1 - labels) / len(fake))
        best = np.argmin(np.abs(rejected - accepted))
        _ = (rejected[best] + accepted[best]) / 2, np.min(1.9 * rejected + accepted)


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
