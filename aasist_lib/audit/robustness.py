"""Robustness to degradations, and feature reliance.

A sample of eval is scored clean and under every condition of `CONDITIONS`. The family "robustness" degrades recordings
(noise, codecs, rooms, cuts). The family "uses" removes one property (silence, level, duration, a frequency band) or
swaps it between the classes: a higher error rate shows that the detector relies on it.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from aasist_lib import audio, evaluation, metrics, models
from aasist_lib.augment import effects
from aasist_lib.augment.effects import Silences
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import cache_key, done, runs, single_threaded, write
from aasist_lib.base.progress import progress
from aasist_lib.corpora.folds import in_proportion
from aasist_lib.detector import MIN_SECONDS, Detector

BABBLE = 6  # voices mixed
LEVEL = -26.0  # dBFS, the usual level of speech (ITU-T P.56) and that of the default corpus
FLOOR = 40.0  # dB below the recording: noise floor of the default corpus, and level of a removed band
SECONDS = 2.0  # of all recordings with equal duration: a training crop
BANDS = [(0, 500), (500, 1000), (1000, 2000), (2000, 3000), (3000, 4000), (4000, 5500), (5500, 7000)]  # Hz
PIECE = 25  # utterances per job
FAMILIES = {"robustness": "What happens to recordings", "uses": "What the detector goes by"}


@dataclass(frozen=True)
class Context:
    """Waveforms of other speakers for babble, and silences of another clip of the other and of the same class."""

    others: list = field(default_factory=list)
    swapped: Silences = Silences(0, 0, 0)
    shuffled: Silences = Silences(0, 0, 0)


@dataclass(frozen=True)
class Condition:
    """Change of recordings before scoring: `apply` maps (waveform, rate, rng, `Context`) to a waveform."""

    name: str
    kind: str
    words: str
    apply: Callable
    family: str = "robustness"


def _plain(effect: Callable, *arguments) -> Callable:
    return lambda x, rate, rng, context: effect(x, *arguments)


def _at_rate(effect: Callable, *arguments) -> Callable:
    return lambda x, rate, rng, context: effect(x, rate, *arguments)


def _drawn(effect: Callable, *arguments) -> Callable:
    return lambda x, rate, rng, context: effect(x, rate, *arguments, rng)


def _noise(x, rate, rng, context, colour, snr_db):
    others = context.others
    if colour == "babble":
        others = [others[i] for i in rng.permutation(len(others))[:BABBLE]]
    return effects.noise(x, snr_db, rng, colour, others)


def _without_band(x, rate, rng, context, low, high):
    """Replaces the band by noise at the level of the corpus's noise floor, since an empty band would be unnatural."""
    added = rng.standard_normal(len(x)) * effects.rms(x) * 10 ** (-FLOOR / 20)
    rest = effects.band_stop(added, rate, low, high)
    return effects.band_stop(x, rate, low, high) + (added - rest).astype(np.float32)


def _silences_of(x, rate, rng, context, whose):
    other = getattr(context, whose)
    x = effects.with_pause(effects.trim(x, rate), rate, other.pause, rng)
    return effects.with_silence(x, rate, other.before, other.after, rng)


_CONDITIONS = [
    Condition("clean", "Clean", "As they are", _plain(lambda x: x)),
    *(
        Condition(f"{colour}_{snr}", kind, f"{kind}, SNR {snr} dB", partial(_noise, colour=colour, snr_db=snr))
        for colour, kind in (("white", "White noise"), ("pink", "Pink noise"), ("babble", "Babble"))
        for snr in (20, 10, 5, 0)
    ),
    Condition("mp3", "Codec", "MP3, 56 kbit/s", _at_rate(effects.codec, "mp3")),
    Condition("mp3_low", "Codec", "MP3, 24 kbit/s", _at_rate(effects.codec, "mp3_low")),
    Condition("vorbis", "Codec", "Vorbis, lowest quality", _at_rate(effects.codec, "vorbis")),
    Condition("opus", "Codec", "Opus, 20 kbit/s", _at_rate(effects.codec, "opus")),
    Condition("g722", "Codec", "G.722, 64 kbit/s", _at_rate(effects.codec, "g722")),
    Condition("g711", "Codec", "G.711 (8 kHz)", _at_rate(effects.codec, "g711")),
    Condition("gsm", "Codec", "GSM (8 kHz)", _at_rate(effects.codec, "gsm")),
    Condition("resampled_8000", "Resampling", "To 8 kHz and back", _at_rate(effects.resampled, 8000)),
    Condition("room_0.3", "Room", "Room, reverberation 0.3 s", _drawn(effects.room, 0.3)),
    Condition("room_0.6", "Room", "Room, reverberation 0.6 s", _drawn(effects.room, 0.6)),
    Condition("room_1.0", "Room", "Room, reverberation 1.0 s", _drawn(effects.room, 1.0)),
    Condition("clipped_1", "Clipping", "1 % of samples clipped", _plain(effects.clipped, 0.01)),
    Condition("clipped_10", "Clipping", "10 % of samples clipped", _plain(effects.clipped, 0.1)),
    Condition("speed_0.95", "Speed", "5 % slower and lower", _plain(effects.speed, 0.95)),
    Condition("speed_1.05", "Speed", "5 % faster and higher", _plain(effects.speed, 1.05)),
    Condition("cut_4", "Cut", "At most 4 s", _drawn(effects.cut, 4)),
    Condition("cut_2", "Cut", "At most 2 s", _drawn(effects.cut, 2)),
    Condition("cut_1", "Cut", "At most 1 s", _drawn(effects.cut, 1)),
    Condition("silence_trimmed", "Silence", "No silence at the edges", _at_rate(effects.trim), "uses"),
    Condition("silence_removed", "Silence", "No silence at all", _at_rate(effects.trim, True), "uses"),
    # shuffled is the control: both change the silences alike, so only the difference is due to the class
    *(
        Condition(f"silence_{whose}", "Silence", f"Silence of {of} class", partial(_silences_of, whose=whose), "uses")
        for whose, of in (("shuffled", "their own"), ("swapped", "the other"))
    ),
    Condition("level_equal", "Level", f"All at {LEVEL:g} dBFS", _at_rate(effects.normalise_level, LEVEL), "uses"),
    Condition("duration_equal", "Duration", f"All {SECONDS:g} s long", _drawn(effects.fix_length, SECONDS), "uses"),
    *(
        Condition(f"without_{a}_{b}", "Band", f"Without {a} to {b} Hz", partial(_without_band, low=a, high=b), "uses")
        for a, b in BANDS
    ),
]
CONDITIONS: dict[str, Condition] = {condition.name: condition for condition in _CONDITIONS}


# Utterances and their contexts.


def sample(table: pd.DataFrame, count: int = 500, seed: int = 0) -> pd.DataFrame:
    """Fixed part of eval: about `count` clips, half bona fide, in proportion to speakers and attacks, by name."""
    rows = table[table["split"] == "eval"]
    parts = [
        in_proportion(rows[rows["label"] == label], column, count // 2, seed)["utt_id"]
        for label, column in (("bonafide", "speaker"), ("spoof", "attack"))
    ]
    return rows[rows["utt_id"].isin(pd.concat(parts))]


def _babble(voices: pd.DataFrame, chosen: pd.DataFrame, seed: int) -> list[str]:
    """Paths of bona fide recordings for babble: of dev, else of those not scored here, else of all."""
    voices = voices[voices["label"] == "bonafide"]
    rest = voices[~voices["utt_id"].isin(chosen["utt_id"])]
    pools = (rest[rest["split"] == "dev"], rest, voices)
    pool = next((pool for pool in pools if len(pool)), None)
    if pool is None:
        raise UserError("there is no real voice to make babble of: leave babble out, or give the table of all voices")
    return in_proportion(pool, "speaker", 4 * BABBLE, seed)["path"].tolist()[: 8 * BABBLE]


def _contexts(chosen: pd.DataFrame, root: Path, rate: int, seed: int) -> dict[str, tuple[Silences, Silences]]:
    """Silences of an utterance of the other class, and of another one of the same class, for each utterance."""
    found = {}
    for name, path in zip(chosen["utt_id"], chosen["path"], strict=True):
        waveform = _read(root / path, rate)
        found[name] = Silences(0, 0, 0) if waveform is None else effects.silences(waveform, rate)
    orders = {
        label: sorted(rows["utt_id"], key=lambda name: zlib.crc32(f"{seed} silence {name}".encode()))
        for label, rows in chosen.groupby("label")
    }
    contexts = {}
    for label, names in orders.items():
        others = next((others for other, others in orders.items() if other != label), names)
        for i, name in enumerate(names):
            contexts[name] = found[others[i % len(others)]], found[names[i - 1]]
    return contexts


# Scoring.


@dataclass(frozen=True)
class Job:
    """Some utterances under all conditions; done when its file exists."""

    path: Path
    utt_ids: list[str]
    paths: list[Path]
    contexts: list[tuple[Silences, Silences]]
    babble: list[Path]
    conditions: list[str]
    detector: Path
    seed: int


def score(
    table: pd.DataFrame,
    root,
    detector_folder,
    folder,
    *,
    voices: pd.DataFrame | None = None,
    conditions: Sequence[str] | None = None,
    workers: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Score utterances under conditions, as `Detector` would score a file of the result.

    Finished work is kept in `folder` while utterances, recordings, conditions, detector, seed and code stay the same.

    Parameters
    ----------
    table : utterances to score, such as from `sample`.
    root : folder that the paths in the table are relative to.
    voices : all utterances, for babble from their bona fide recordings; default `table`.
    conditions : keys of `CONDITIONS`; default all.
    workers : processes of one thread each; the scores do not depend on it.

    Returns
    -------
    LLRs by utt_id, one column per condition; NaN for a recording that is unreadable or becomes too short.

    Raises
    ------
    UserError
        A condition is unknown, there is nothing to score, no bona fide recording for babble, or no detector.
    """
    names = list(CONDITIONS) if conditions is None else list(conditions)
    for name in names:
        if name not in CONDITIONS:
            raise UserError(f"conditions: {name!r} is not one of {', '.join(CONDITIONS)}")
    if table.empty:
        raise UserError("there are no utterances to score: has the table any of split eval?")
    root, folder = Path(root), Path(folder)
    rate = Detector.load(detector_folder).front_end.sample_rate
    contexts = _contexts(table, root, rate, seed)
    babble = []
    if any(CONDITIONS[name].kind == "Babble" for name in names):
        babble = [root / path for path in _babble(table if voices is None else voices, table, seed)]
    jobs = [
        Job(
            folder / f"piece-{number:04d}.json", rows["utt_id"].tolist(), [root / path for path in rows["path"]],
            [contexts[name] for name in rows["utt_id"]], babble, names, Path(detector_folder), seed,
        )
        for number, rows in enumerate(runs(table, PIECE))
    ]  # fmt: skip
    recordings = [*(root / path for path in table["path"]), *babble]
    key = cache_key(__name__, [jobs], contents=Path(detector_folder).iterdir(), states=recordings)
    return done(jobs, _score, folder, key, workers, "robustness").set_index("utt_id")


def _score(job: Job) -> None:
    """Write the scores of a job's utterances."""
    with single_threaded():
        loaded = Detector.load(job.detector)
        rate = loaded.front_end.sample_rate
        others = [x for x in (_read(path, rate) for path in job.babble) if x is not None]
        rows = []
        for name, path, (swapped, shuffled) in zip(job.utt_ids, job.paths, job.contexts, strict=True):
            waveform = _read(path, rate)
            row: dict = {"utt_id": name}
            for condition in job.conditions:
                rng = np.random.default_rng((job.seed, zlib.crc32(f"{name} {condition}".encode())))
                row[condition] = np.nan
                if waveform is not None:
                    changed = CONDITIONS[condition].apply(waveform, rate, rng, Context(others, swapped, shuffled))
                    row[condition] = llr(loaded, changed)
            rows.append(row)
    write(job.path, rows)


def _read(path: Path, rate: int) -> np.ndarray | None:
    try:
        return audio.read(path, rate)
    except audio.BadAudio:  # the stages before have listed it
        return None


def llr(loaded: Detector, waveform: np.ndarray) -> float:
    """LLR of a waveform, as `Detector.score` gives it for a file; NaN if it is too short or the logit is not finite."""
    if len(waveform) < MIN_SECONDS * loaded.front_end.sample_rate:
        return float("nan")
    try:
        with torch.inference_mode():
            value = logit(loaded, torch.from_numpy(waveform)).item()
    except UserError:  # some front-ends and networks need more samples than `Detector` requires
        return float("nan")
    return float(loaded.calibrated(value)) if np.isfinite(value) else float("nan")


def logit(loaded: Detector, waveform: Tensor) -> Tensor:
    """Logit of a waveform (samples,): mean over windows, weighted by length; differentiable."""
    spans = models.windows(len(waveform), loaded.front_end.sample_rate)
    logits = [loaded.network(loaded.front_end(waveform[None, start:end])).double()[0] for start, end in spans]
    weights = torch.tensor([end - start for start, end in spans], dtype=torch.float64)
    return torch.stack(logits) @ weights / weights.sum()


# Summary.


def summary(
    table: pd.DataFrame,
    scores: pd.DataFrame,
    threshold: float,
    costs: Mapping[str, float],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Error rates under each condition, with intervals, and their delta to clean on the same trials.

    `table` has label, speaker, attack and condition of every utt_id, `scores` are from `score`, `threshold` is an LLR
    chosen on dev, and `costs` are those of actDCF. Rates are fractions; a condition without both classes has no
    measures.
    """
    if "clean" not in scores:
        raise UserError("summary: the scores lack the condition clean, which the others are compared with")
    trials = table.set_index("utt_id").loc[scores.index]
    rows = [
        _row(CONDITIONS[name], trials, scores["clean"], scores[name], threshold, costs, replicates, seed)
        for name in progress(scores.columns, desc="intervals", unit="condition")
    ]
    return pd.DataFrame(rows)


def _row(condition, trials, clean, changed, threshold, costs, replicates, seed) -> dict:
    def statistic(counts):
        rates = counts.rates(threshold)
        return {"eer": counts.eer().value, "act_dcf": counts.act_dcf(**costs)} | {
            name: rates[name] for name in ("bonafide_rejected", "spoof_accepted")
        }

    heard = np.isfinite(clean) & np.isfinite(changed)
    trials = trials[heard].assign(clean=clean[heard], llr=changed[heard])
    before, after = (evaluation.split_classes(trials, column) for column in ("clean", "llr"))
    row = {"condition": condition.name, "family": condition.family, "kind": condition.kind, "words": condition.words}
    row |= {"n_bonafide": len(after[0]), "n_spoof": len(after[1]), "unscored": int((~heard).sum())}
    if not len(after[0]) or not len(after[1]):
        return row
    options = {"replicates": replicates, "seed": seed}
    row |= evaluation.with_interval(statistic, trials, **options)
    for kind in ("known", "unseen"):
        of_kind = evaluation.split_classes(evaluation.select(trials, kind))
        row[f"eer_{kind}"] = metrics.eer(*of_kind).value if len(of_kind[1]) else np.nan
    row["eer_change"] = row["eer"] - metrics.eer(*before).value
    if replicates:
        clusters = evaluation.clusters_of(trials)
        change = metrics.paired(evaluation.only_eer, before, after, clusters=clusters, **options)["eer"]
        row |= {"eer_change_low": change.low, "eer_change_high": change.high}
    return row


def readable(summary: pd.DataFrame, family: str) -> pd.DataFrame:
    """Rows of one family of `FAMILIES` of `summary` as text, in percent, with intervals; clean comes first."""
    rows = summary[(summary["family"] == family) | (summary["condition"] == "clean")]
    headings = {
        "words": "Condition",
        "eer": "Equal error rate (%)",
        "eer_change": "More than clean (points)",
        "eer_known": "Known attacks (%)",
        "eer_unseen": "Unseen attacks (%)",
        "act_dcf": "actDCF",
        "bonafide_rejected": "Real voices called fake (%)",
        "spoof_accepted": "Fakes let through (%)",
    }
    headings = {name: words for name, words in headings.items() if name in rows and rows[name].notna().any()}
    with_ends = ("eer", "eer_change")  # intervals of all measures would fill the page
    ends = [f"{name}{end}" for name in headings if name not in with_ends for end in ("_low", "_high")]
    text = evaluation.cells(rows.drop(columns=ends, errors="ignore"), headings)
    if rows["unscored"].any():
        text["Not scored"] = rows["unscored"].to_numpy()
    return text
