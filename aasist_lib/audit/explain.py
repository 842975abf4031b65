"""Explanation of one score: relevance of windows, times and bands, and the most similar training clips.

Times and bands are tiles of the short-time spectrum; a removed tile is reduced to the noise floor of its band. This
works for any front-end and network, in the unit of the score. Occlusion is the drop of the score when one tile is
removed; integrated gradients (Sundararajan, Taly and Yan 2017) accumulate its slopes from all tiles removed to none.
`agreement` compares both maps, and `deletion` tests whether they name what decides, as in Samek et al. (2017).
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from scipy.ndimage import median_filter
from scipy.stats import spearmanr
from torch import Tensor

from aasist_lib import audio, models
from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.base.progress import progress
from aasist_lib.calibration import Affine
from aasist_lib.detector import MIN_SECONDS, Detector, verbal_llr
from aasist_lib.store import Store, indexes

EXCERPT_SECONDS = models.WINDOW_SECONDS  # of a long recording, mapped: the window that is scored in one piece
WINDOW_SECONDS, HOP_SECONDS, MOST_WINDOWS = 2.0, 0.5, 600
TILE_SECONDS, LEAST_TIMES, BANDS = 0.25, 4, 8
FRAME_SECONDS = 0.032  # of the short-time spectrum
FLOOR, NEIGHBOURS = 0.1, 17  # quantile over time; bins in the median
DEEPEST = 1e-4  # lowest floor, as amplitude relative to the loudest
BATCH_SECONDS = 32.0  # per batch
STEPS = 32
COUNTS = (1, 2, 4, 8, 16, 32)  # tiles that `deletion` removes


@dataclass(frozen=True)
class Recording:
    """Recording to inspect; `name` is its utt_id or file name, `row` that of the corpus (empty for an own file)."""

    path: Path
    name: str
    row: dict
    waveform: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.rate

    @property
    def excerpt(self) -> np.ndarray:
        """The first `EXCERPT_SECONDS` of the waveform."""
        return self.waveform[: round(EXCERPT_SECONDS * self.rate)]

    @property
    def about(self) -> str:
        """Description in one line."""
        known = [self.row.get(key, "") for key in ("split", "label", "attack", "speaker", "language")]
        said = ", ".join(value for value in known if value) if self.row else "a file of your own"
        return f"{self.name} ({said}): {self.seconds:.2f} s at {self.rate} Hz"


def choose(root, utterance: str, table: pd.DataFrame, detector: Detector) -> Recording:
    """Recording for a file, or an utt_id or path of the corpus; "" selects the eval clip nearest to the threshold.

    `root` is the project folder, with `data/` and perhaps `scores/eval.csv`. `UserError` if not found, too short or
    unreadable.
    """
    root = Path(root)
    row = _row(root, utterance, table, detector.threshold)
    path = root / "data" / row["path"] if row else next(_files(root, utterance))
    rate = detector.front_end.sample_rate
    waveform = audio.read(path, rate)
    if len(waveform) < MIN_SECONDS * rate:
        raise UserError(f"{path}: too short: {len(waveform) / rate:.2f} s, and {MIN_SECONDS} s are needed")
    return Recording(path, row["utt_id"] if row else path.name, row, waveform, rate)


def _row(root: Path, utterance: str, table: pd.DataFrame, threshold: float) -> dict:
    if not utterance:
        return _unsure(root / "scores/eval.csv", table, threshold)
    named = table[(table["utt_id"] == utterance) | (table["path"] == utterance)]
    if named.empty:
        file = next(_files(root, utterance), None)
        if file is None:
            hint = files.nearest(utterance, table["utt_id"])
            raise UserError(f"utterance '{utterance}': no such file, and neither utt_id nor path of the corpus: {hint}")
        inside = (root / "data").resolve()
        named = table[[(inside / path) == file.resolve() for path in table["path"]]]
    return named.iloc[0].to_dict() if len(named) else {}


def _files(root: Path, utterance: str):
    places = (Path(utterance).expanduser(), root / utterance, root / "data" / utterance)
    return (place for place in places if place.is_file())


def _unsure(scores: Path, table: pd.DataFrame, threshold: float) -> dict:
    rows = table[table["split"] == "eval"] if (table["split"] == "eval").any() else table
    if rows.empty:
        raise UserError("the corpus holds no utterances: name a file of your own as `utterance`, or run `dvc repro`")
    if scores.is_file():
        scored = pd.read_csv(scores, usecols=["utt_id", "llr"], dtype={"utt_id": str}).set_index("utt_id")["llr"]
        distance = (rows["utt_id"].map(scored) - threshold).abs()
        if distance.notna().any():
            return rows.loc[distance.idxmin()].to_dict()
    return rows.iloc[0].to_dict()


def player(waveform: np.ndarray, rate: int, seconds: float = 5.0):
    """IPython audio player of the first seconds of a waveform, 16-bit to keep the notebook small."""
    from IPython.display import Audio

    file = io.BytesIO()
    soundfile.write(file, waveform[: round(seconds * rate)], rate, format="WAV", subtype="PCM_16")
    return Audio(data=file.getvalue())


def seen(detector: Detector, recording: Recording) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Static features (coefficients, frames) of the excerpt and attention pooling (tokens,); None where missing."""
    with torch.inference_mode():
        found = detector.front_end(torch.from_numpy(recording.excerpt)[None])[0].numpy()
    pooling = models.attention(detector.network, found)[1]
    return (found[: len(found) // detector.front_end.channels] if len(found) > 1 else None), pooling


# Score and time course.


def verdict(detector: Detector, recording: Recording) -> str:
    """LLR and decision for the recording in words, with the truth if known; `UserError` if it cannot be scored."""
    row = detector.score_file(recording.path)
    if row["error"]:
        raise UserError(f"{recording.path}: {row['error']}")
    text = (
        f"LLR {row['llr']:+.2f}, decision: {row['decision']} (spoof below {detector.threshold:+.2f}, policy "
        f"{detector.policy}). Such a recording is {verbal_llr(row['llr'])}; this is not a probability, and other kinds "
        "of fakes or recordings can mislead the detector."
    )
    if recording.row:
        right = "right" if recording.row["label"] == row["decision"] else "wrong"
        text += f" In truth it is {recording.row['label']}: the decision is {right}."
    return text


def windows(
    detector: Detector, waveform: np.ndarray, seconds: float = WINDOW_SECONDS, hop: float = HOP_SECONDS
) -> pd.DataFrame:
    """LLRs and decisions in sliding windows, at most `hop` seconds apart unless above `MOST_WINDOWS`."""
    rate = detector.front_end.sample_rate
    size = min(round(seconds * rate), len(waveform))
    count = min(1 + -(-(len(waveform) - size) // round(hop * rate)), MOST_WINDOWS)
    starts = np.linspace(0, len(waveform) - size, count).round().astype(int)
    logits = []
    with torch.inference_mode():
        together = max(1, int(BATCH_SECONDS * rate) // size)
        for first in range(0, len(starts), together):
            pieces = np.stack([waveform[start : start + size] for start in starts[first : first + together]])
            logits.append(_logits(detector, torch.from_numpy(pieces)).numpy())
    llr = detector.calibrated(np.concatenate(logits))
    start = starts / rate
    decision = np.where(llr < detector.threshold, "spoof", "bonafide")
    return pd.DataFrame({"start": start, "end": start + size / rate, "llr": llr, "decision": decision})


def windows_words(table: pd.DataFrame) -> str:
    """Summary of `windows` in one sentence."""
    fake = int((table["decision"] == "spoof").sum())
    low, high = (table.loc[position] for position in (table["llr"].idxmin(), table["llr"].idxmax()))
    if len(table) == 1:
        return f"The recording is one window; its LLR is {low['llr']:+.2f}."
    return (
        f"{fake} of {len(table)} windows would be called fake. The lowest LLR, {low['llr']:+.2f}, has the window from "
        f"{low['start']:.1f} to {low['end']:.1f} s, the highest, {high['llr']:+.2f}, that from {high['start']:.1f} to "
        f"{high['end']:.1f} s."
    )


def _logits(detector: Detector, waveforms: Tensor) -> Tensor:
    """(n, samples) to (n,), float64."""
    return detector.network(detector.front_end(waveforms)).double()


# Times and bands.


class Tiles:
    """Waveform as tiles of time by band, each of which can be removed.

    A removed tile keeps its phases but is limited to its noise floor: the 10 % quantile of the bin over time, or the
    median of such floors of the bins around if that is lower, so that hum is not taken for a floor. No floor is lower
    than 80 dB below the loudest bin.

    Parameters
    ----------
    waveform : (samples,) float32.
    seconds : approximate duration of a tile; all are equal, and there are at least `LEAST_TIMES`.
    bands : number of bands of equal width in mel, from 0 Hz to half the rate.

    Attributes
    ----------
    shape : (bands, times).
    times, hertz : edges in seconds (times + 1,) and in Hz (bands + 1,).
    decibels : (bins, frames), relative to the loudest bin.
    energy : (bands, times).
    """

    def __init__(self, waveform: np.ndarray, rate: int, seconds: float = TILE_SECONDS, bands: int = BANDS):
        self._waveform = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
        self._hop = round(FRAME_SECONDS * rate) // 4
        self._window = torch.hann_window(4 * self._hop)
        spectrum = torch.stft(self._waveform, 4 * self._hop, self._hop, window=self._window, return_complex=True)
        size = spectrum.abs().numpy()
        floor = np.quantile(size, FLOOR, axis=1)
        floor = np.minimum(floor, median_filter(floor, NEIGHBOURS, mode="nearest"))
        floor = np.maximum(floor, DEEPEST * size.max())[:, None]
        # what is removed with all tiles
        self._surplus = spectrum * torch.from_numpy(1 - np.minimum(1, floor / np.maximum(size, 1e-20))).float()
        duration = len(waveform) / rate
        self.shape = bands, max(LEAST_TIMES, round(duration / seconds))
        self.times = np.linspace(0, duration, self.shape[1] + 1)
        self.hertz = 700 * (np.geomspace(1, 1 + rate / 2 / 700, bands + 1) - 1)
        bins, frames = np.arange(size.shape[0]) * rate / (4 * self._hop), np.arange(size.shape[1]) * self._hop / rate
        self._band = torch.from_numpy(np.clip(np.searchsorted(self.hertz, bins, "right") - 1, 0, bands - 1))
        self._time = torch.from_numpy(np.clip(np.searchsorted(self.times, frames, "right") - 1, 0, self.shape[1] - 1))
        self.decibels = 20 * np.log10(np.maximum(size, 1e-5 * size.max() + 1e-20) / (size.max() + 1e-20))
        rows = np.add.reduceat(size**2, np.searchsorted(self._band.numpy(), np.arange(bands)), axis=0)
        self.energy = np.add.reduceat(rows, np.searchsorted(self._time.numpy(), np.arange(self.shape[1])), axis=1)

    def waveforms(self, kept: Tensor) -> Tensor:
        """Waveforms (n, samples) with tiles weighted by `kept` (n, bands, times), 1 for unchanged; differentiable."""
        gone = (1 - kept)[:, self._band][:, :, self._time] * self._surplus
        missing = torch.istft(gone, 4 * self._hop, self._hop, window=self._window, length=len(self._waveform))
        return self._waveform - missing

    def without(self, taken: np.ndarray) -> np.ndarray:
        """Waveform (samples,) without the tiles where `taken` (bands, times) is true."""
        return self.waveforms(torch.from_numpy(~np.asarray(taken, dtype=bool)).float()[None])[0].numpy()


def unit(detector: Detector) -> tuple[float, str]:
    """Factor from logit to relevance and its unit: LLR, or logit for isotonic calibration, which has flat parts."""
    return (detector.calibrated.scale, "LLR") if isinstance(detector.calibrated, Affine) else (1.0, "logit")


def score(detector: Detector, tiles: Tiles, taken: np.ndarray) -> np.ndarray:
    """Scores (n,) without the tiles `taken` (n, bands, times), in `unit`; LLRs lack the calibration's offset."""
    kept = torch.from_numpy(~np.asarray(taken, dtype=bool)).float()
    with torch.inference_mode():
        parts = kept.split(max(1, int(BATCH_SECONDS / tiles.times[-1])))
        found = [_logits(detector, tiles.waveforms(part)) for part in progress(parts, desc="tiles")]
    return unit(detector)[0] * torch.cat(found).numpy()


def occlusion(detector: Detector, tiles: Tiles) -> np.ndarray:
    """Relevance (bands, times) in `unit`: drop of the score when one tile is removed, positive for bona fide."""
    count = tiles.shape[0] * tiles.shape[1]
    each = np.concatenate([np.zeros((1, count), bool), np.eye(count, dtype=bool)])
    found = score(detector, tiles, each.reshape(-1, *tiles.shape))
    return (found[0] - found[1:]).reshape(tiles.shape)


def gradients(detector: Detector, tiles: Tiles, steps: int = STEPS) -> np.ndarray:
    """Relevance (bands, times) by integrated gradients, in `unit`; the sum is about score minus noise floor's score."""
    total = np.zeros(tiles.shape)
    for step in range(steps):
        kept = torch.full((1, *tiles.shape), (step + 0.5) / steps, requires_grad=True)
        (slope,) = torch.autograd.grad(_logits(detector, tiles.waveforms(kept)).sum(), kept)
        total += np.nan_to_num(slope[0].double().numpy())
    return unit(detector)[0] * total / steps


def agreement(first: np.ndarray, second: np.ndarray) -> tuple[float, str]:
    """Spearman's rank correlation of two maps, and what it means; NaN for constant maps or fewer than three tiles."""
    first, second = np.ravel(first), np.ravel(second)
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan"), "Too few tiles differ for a rank correlation of the two maps."
    found = float(spearmanr(first, second).statistic)
    words = "well" if found >= 0.7 else "in part" if found >= 0.4 else "hardly"
    said = f"Rank correlation of occlusion and gradients over {len(first)} tiles: {found:.2f}. They agree {words}."
    return found, said


def deletion(
    detector: Detector, tiles: Tiles, maps: Mapping[str, np.ndarray], draws: int = 40, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Deletion test: change of the score against the decision as tiles are removed, by map and at random.

    Parameters
    ----------
    maps : name -> (bands, times), as from `occlusion`; tiles that support the decision most are removed first.
    draws : number of random orders.

    Returns
    -------
    table : one row per number of `tiles`, of `COUNTS` up to half of all: a column for each map, loudest (most energy),
        random (mean), random_low and random_high (95 %), in `unit`, positive against the decision.
    chance : map -> fraction of random orders with at least this mean change; near 0 if the map names what decides.
    """
    count = tiles.shape[0] * tiles.shape[1]
    with torch.inference_mode():
        whole = _logits(detector, tiles.waveforms(torch.ones(1, *tiles.shape))).numpy()
    way = 1.0 if float(detector.calibrated(whole)[0]) >= detector.threshold else -1.0
    rng = np.random.default_rng(seed)
    orders = [np.argsort(-way * np.ravel(found), kind="stable") for found in maps.values()]
    orders.append(np.argsort(-np.ravel(tiles.energy), kind="stable"))
    orders += [rng.permutation(count) for _ in range(draws)]
    counts = [k for k in COUNTS if k <= max(1, count // 2)]
    taken = np.zeros((1 + len(counts) * len(orders), count), dtype=bool)  # nothing, then each order for each count
    for row, (k, order) in zip(taken[1:], product(counts, orders), strict=True):
        row[order[:k]] = True
    found = score(detector, tiles, taken.reshape(-1, *tiles.shape))
    moved = way * (found[0] - found[1:]).reshape(len(counts), len(orders))
    random = moved[:, -draws:]
    low, high = np.quantile(random, [0.025, 0.975], axis=1)
    table = {"tiles": counts} | dict(zip([*maps, "loudest"], moved.T, strict=False))
    table |= {"random": random.mean(axis=1), "random_low": low, "random_high": high}
    chance = {name: float(np.mean(random.mean(axis=0) >= table[name].mean())) for name in maps}
    return pd.DataFrame(table), chance


def deletion_words(table: pd.DataFrame, chance: Mapping[str, float], named: str = "LLR") -> list[str]:
    """`deletion` in words, one sentence per map, for the largest number of tiles up to 8."""
    row = table[table["tiles"] <= 8].iloc[-1]
    tiles = f"{int(row['tiles'])} tiles" if row["tiles"] > 1 else "tile"
    others = f"{row['random']:.2f} ({row['random_low']:.2f} to {row['random_high']:.2f})"
    return [
        f"Without the first {tiles} by {name} the {named} moves by {row[name]:.2f} against the decision, without as "
        f"many drawn at random by {others}. Over all numbers of tiles, {100 * share:.0f} % of random orders move it as "
        "far: " + ("the map names what decides." if share <= 0.05 else "it may be chance, so do not read this map.")
        for name, share in chance.items()
    ]


# Similar clips.


def embed(detector: Detector, waveform: np.ndarray) -> np.ndarray:
    """Embedding (size,) of a waveform: input of the last layer, averaged over windows by their length."""
    spans = models.windows(len(waveform), detector.front_end.sample_rate)
    parts = [detector.front_end(torch.from_numpy(waveform[None, start:end])) for start, end in spans]
    return _embedded(detector.network, parts, spans)


def _embedded(network, parts, spans) -> np.ndarray:
    with torch.inference_mode():
        found = [network.embed(part)[0].numpy() for part in parts]
    return np.average(found, axis=0, weights=[end - start for start, end in spans]).astype(np.float32)


def embeddings(
    detector: Detector, folder, splits=("train", "dev"), cache: Path | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Embeddings (rows, size) of a store's clips, with their rows of its table; `cache` is a file for the result.

    Eval is excluded by default: it is only for measurement. `UserError` for other features or without clips of
    `splits`.
    """
    store = Store(folder, detector.about["features"])
    # spoof rows that share a file are vocoder copies made in extraction, of which there is no audio
    heard = ~store.table["path"].duplicated(keep=False) | (store.table["label"] == "bonafide")
    rows = np.flatnonzero(store.table["split"].isin(splits) & heard)
    if not len(rows):
        raise UserError(
            f"{folder} holds no clips of {' or '.join(splits)}: run `dvc repro extract` on a corpus with them"
        )
    table = store.table.loc[rows].reset_index(drop=True)
    key = _key(detector, store, splits)
    if cache is not None and Path(cache).is_file():
        try:
            with np.load(cache, allow_pickle=False) as kept:
                if str(kept["key"]) == key:
                    return table, kept["vectors"]
        except (OSError, ValueError, KeyError):  # broken cache: computed again
            pass
    found = []
    for row in progress(rows, desc="embed the corpus", unit="recording"):
        spans = models.windows(int(store.table["frames"].iloc[row]), store.rate)
        parts = (store.maps(torch.from_numpy(store.read(row, start, end - start))[None]) for start, end in spans)
        found.append(_embedded(detector.network, parts, spans))
    vectors = np.stack(found)
    if cache is not None:
        with files.replacing(cache) as partial, open(partial, "wb") as file:
            np.savez(file, key=np.array(key), vectors=vectors)
    return table, vectors


def _key(detector: Detector, store: Store, splits) -> str:
    """Hash of everything that embeddings depend on: weights, settings and content of the store."""
    found = hashlib.sha256(json.dumps([detector.about, list(splits)], sort_keys=True).encode())
    for name, tensor in sorted(detector.network.state_dict().items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    for path in (store.folder / "meta.json", store.folder / indexes.NAME):
        found.update(path.read_bytes())
    return found.hexdigest()


def nearest(embedding: np.ndarray, table: pd.DataFrame, vectors: np.ndarray, count: int = 3) -> pd.DataFrame:
    """The `count` clips of each class nearest in cosine distance; `typical` is the median distance of the class."""
    if not len(table):
        raise UserError("no clips to search for the nearest: run `dvc repro extract`, or name splits that have clips")
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(embedding)
    distance = np.clip(1 - vectors.astype(np.float64) @ embedding / np.maximum(lengths, 1e-20), 0, 2)
    found = table.assign(distance=distance)
    found["typical"] = found.groupby("label")["distance"].transform("median")
    found = found.sort_values(["label", "distance", "utt_id"])
    return found.groupby("label", sort=True).head(count).reset_index(drop=True)


def nearest_readable(found: pd.DataFrame) -> pd.DataFrame:
    """`nearest` as text."""
    return pd.DataFrame(
        {
            "clip": found["utt_id"],
            "what it is": np.where(found["label"] == "bonafide", "real voice", "fake by " + found["attack"]),
            "who speaks": found["speaker"],
            "language": found["language"],
            "split": found["split"],
            "distance": found["distance"].map("{:.4f}".format),
            "median of its class": found["typical"].map("{:.4f}".format),
        }
    )
