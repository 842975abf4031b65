"""Systems of a leaderboard (networks, baselines and published weights), and their scores.

Scores depend only on what `System.key` hashes, so the same store and code give the same scores.
"""

import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aasist_lib import features, models, training
from aasist_lib.base import provenance
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import done, runs, single_threaded, write
from aasist_lib.corpora import copies
from aasist_lib.corpora.folds import in_proportion
from aasist_lib.models import aasist
from aasist_lib.store import Store, scoring
from aasist_lib.studies import baselines

PIECE = 25  # utterances per job
SPLITS = ("dev", "eval")  # scored: the first for selection and calibration, the second to report
SECONDS = 4.0  # of the utterance whose scoring time is measured
REPEATS = 15  # timings, of which the median is taken
SHARE_SEED = 1  # of the utterances that a slow system is scored on; never changed
WAVEFORM = {"kind": "waveform", "sample_rate": aasist.SAMPLE_RATE}  # input of the published weights


@dataclass(frozen=True)
class System:
    """System to compare: network, classical baseline (key of `baselines.BASELINES`) or published weights.

    `settings` are sections of params.yaml: features, model, augment, train, calibrate, evaluate, and `copies` of
    extract.
    """

    name: str
    about: str
    settings: dict = field(hash=False)
    seeds: tuple[int, ...] = (1,)
    baseline: str = ""
    published: Path | None = None

    @property
    def kind(self) -> str:
        """network, baseline or published."""
        return "published" if self.published else "baseline" if self.baseline else "network"

    def key(self, seed: int, corpus: str, utterances: int) -> str:
        """Hash of what the scores depend on; "" where the published weights are missing."""
        if self.kind == "published":
            if not self.published.is_file():
                return ""
            about, code = [hashlib.sha256(self.published.read_bytes()).hexdigest(), utterances], [models.__name__]
        elif self.kind == "baseline":
            about, code = [self.baseline, self.settings["features"]], [baselines.__name__]
        else:
            about = [self.settings[name] for name in ("features", "model", "augment", "train", "extract")]
            code = [training.__name__]
        key = hashlib.sha256(json.dumps([corpus, seed, about], sort_keys=True).encode())
        key.update(provenance.code_key(*code, alone=[__name__]))
        return key.hexdigest()[:16]


def scored(
    system: System, seed: int, store: Path, stem: Path, *, utterances: int, key: str
) -> tuple[dict, pd.DataFrame]:
    """Train if needed, and score dev and eval; work begun under another `key` (`System.key`) is discarded.

    `stem` is the path without suffix of the network, its checkpoints and scored pieces; published weights score
    `utterances` of dev and of eval each. Returns parameters, minutes of training, milliseconds to score 4 s of audio on
    one core and best_epoch (None where not applicable), and the table with score, higher for bona fide, dev first.
    """
    if system.kind == "published":
        return _published(system, store, stem, utterances, key)
    return _fitted(system, seed, store) if system.kind == "baseline" else _trained(system, seed, store, stem, key)


def _trained(system: System, seed: int, store: Path, stem: Path, key: str) -> tuple[dict, pd.DataFrame]:
    checkpoints, clock = stem.with_suffix(".checkpoints"), stem.with_suffix(".clock")
    parts = {name: system.settings[name] for name in ("model", "train", "augment")}
    held, start = Store(store, system.settings["features"]), time.time()
    before = _spent(clock, checkpoints, key)
    clock.write_text(json.dumps({"key": key, "start": start, "before": before}), "utf-8")
    out = copies.excess_copies(held.table, system.settings["extract"]["copies"])
    training.fit(held, stem, seed=seed, threads=1, checkpoints=checkpoints, leave_out=out, **parts)
    minutes = (before + time.time() - start) / 60
    clock.unlink()
    scores = pd.concat([scoring.scores(stem, held, split, threads=1) for split in SPLITS], ignore_index=True)
    network, trained = models.load(stem)
    about = {"parameters": trained["parameters"], "best_epoch": trained["best_epoch"], "minutes": minutes}
    return about | {"milliseconds": milliseconds(network, system.settings["features"])}, scores


def _spent(clock: Path, checkpoints: Path, key: str) -> float:
    """Training seconds of interrupted runs, up to the checkpoint to resume from."""
    last = max((path.stat().st_mtime for path in checkpoints.glob("*.ckpt")), default=0.0)
    earlier = json.loads(clock.read_text("utf-8")) if clock.is_file() else {}
    if not last or earlier.get("key") != key:
        return 0.0
    return earlier["before"] + max(0.0, last - earlier["start"])


def _fitted(system: System, seed: int, store: Path) -> tuple[dict, pd.DataFrame]:
    held, start = Store(store, system.settings["features"]), time.monotonic()
    rows = np.concatenate([held.select(split) for split in SPLITS])
    values = baselines.BASELINES[system.baseline](held, rows, seed=seed)
    about = {"parameters": None, "best_epoch": None, "milliseconds": None}
    return about | {"minutes": (time.monotonic() - start) / 60}, _columns(held, rows).assign(score=values)


@dataclass(frozen=True)
class Piece:
    """Some utterances to score with published weights; done when its file exists."""

    path: Path
    store: Path
    weights: Path
    utt_ids: tuple[str, ...]


def _published(system: System, store: Path, stem: Path, utterances: int, key: str) -> tuple[dict, pd.DataFrame]:
    held = Store(store)
    if held.features["sample_rate"] != aasist.SAMPLE_RATE:
        raise UserError(
            f"{system.name}: published weights take {aasist.SAMPLE_RATE} Hz, and {store} holds waveforms of "
            f"{held.features['sample_rate']} Hz: leave it out of experiments/leaderboard.yaml"
        )
    network = aasist.load_published(system.published)
    rows = np.concatenate([share(held.table, split, utterances) for split in SPLITS])
    folder = stem.with_suffix(".pieces")
    pieces = [
        Piece(folder / f"piece-{number:03d}.json", Path(store), system.published, tuple(part["utt_id"]))
        for number, part in enumerate(runs(held.table.iloc[rows], PIECE))
    ]
    found = done(pieces, _score_piece, folder, key, 1, system.name)
    about = {"parameters": models.parameters(network)["total"], "best_epoch": None, "minutes": None}
    about["milliseconds"] = milliseconds(network, WAVEFORM)
    shutil.rmtree(folder)
    return about, _columns(held, rows).assign(score=found["score"].to_numpy())


def _score_piece(piece: Piece) -> None:
    store, network = Store(piece.store), aasist.load_published(piece.weights)
    rows = pd.Series(store.table.index, store.table["utt_id"])[list(piece.utt_ids)]
    with single_threaded(), torch.inference_mode():
        logits = [network.logits(torch.from_numpy(store.read(row))[None])[0] for row in rows]
    found = [(bonafide - spoof).item() for spoof, bonafide in logits]
    write(piece.path, [{"utt_id": name, "score": score} for name, score in zip(piece.utt_ids, found, strict=True)])


def _columns(store: Store, rows: np.ndarray) -> pd.DataFrame:
    return store.table.iloc[rows].drop(columns=["shard", "start", "frames"]).reset_index(drop=True)


def share(table: pd.DataFrame, split: str, count: int) -> np.ndarray:
    """Row numbers of about `count` utterances of a split, half bona fide, in proportion to speakers and attacks.

    The selection depends on names alone; a class with fewer than half of `count` is not filled up by the other.
    """
    where = np.arange(len(table))
    of = table.assign(row=where)[(table["split"] == split).to_numpy()]
    parts = [
        in_proportion(of[of["label"] == label], column, count // 2, SHARE_SEED)["row"]
        for label, column in (("bonafide", "speaker"), ("spoof", "attack"))
    ]
    return np.sort(pd.concat(parts).to_numpy())


def milliseconds(network: torch.nn.Module, of: Mapping) -> float:
    """Median time for one core to score 4 s of audio, from the waveform; `of` is the section `features`."""
    front_end = features.build(dict(of)).eval()
    waveform = 0.1 * torch.randn(1, round(SECONDS * front_end.sample_rate), generator=torch.Generator().manual_seed(0))
    times = []
    with single_threaded(), torch.inference_mode():
        for _ in range(REPEATS + 2):  # the first two are for warm-up
            start = time.perf_counter()
            network(front_end(waveform))
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[2:])
