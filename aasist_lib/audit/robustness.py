"""Robustness to degradations, and feature reliance.

A sample of eval is scored clean and under every condition of `CONDITIONS`. The family "robustness" degrades recordings
(noise, codecs, rooms, cuts). The family "uses" removes one property (silence, level, duration, a frequency band) or
swaps it between the classes: a higher error rate shows that the detector relies on it.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from aasist_lib.base import provenance
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import done, runs, single_threaded, write
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
    family: str
    kind: str
    words: str
    apply: Callable


def _with_noise(x, rate, rng, context, *, snr_db, colour):
    others = context.others
    if colour == "babble":
        others = [others[i] for i in rng.permutation(len(others))[:BABBLE]]
    return effects.noise(x, snr_db, rng, colour, others)


def _without_band(x, rate, rng, context, *, low, high):
    """Replaces the band by noise at the level of the corpus's noise floor, since an empty band would be unnatural."""
    added = rng.standard_normal(len(x)) * effects.rms(x) * 10 ** (-FLOOR / 20)
    rest = effects.band_stop(added, rate, low, high)
    return effects.band_stop(x, rate, low, high) + (added - rest).astype(np.float32)


def _with_silences_of(x, rate, rng, context, *, whose):
    other = getattr(context, whose)
    x = effects.with_pause(effects.trim(x, rate), rate, other.pause, rng)
    return effects.with_silence(x, rate, other.before, other.after, rng)


def _conditions() -> Iterator[Condition]:
    def made(function, *arguments):
        return lambda x, rate, rng, context: function(x, rate, *arguments)

    def drawn(function, *arguments):
        return lambda x, rate, rng, context: function(x, rate, *arguments, rng)

    robustness, uses = partial(Condition, family="robustness"), partial(Condition, family="uses")
    yield robustness("clean", kind="Clean", words="As they are", apply=lambda x, rate, rng, context: x)
    for colour, kind in {"white": "White noise", "pink": "Pink noise", "babble": "Babble"}.items():
        for snr in (20, 10, 5, 0):
            apply = partial(_with_noise, snr_db=snr, colour=colour)
            yield robustness(f"{colour}_{snr}", kind=kind, words=f"{kind}, SNR {snr} dB", apply=apply)
    for name, words in {
        "mp3": "MP3, 56 kbit/s", "mp3_low": "MP3, 24 kbit/s", "vorbis": "Vorbis, lowest quality",
        "opus": "Opus, 20 kbit/s", "g722": "G.722, 64 kbit/s", "g711": "G.711 (8 kHz)", "gsm": "GSM (8 kHz)",
    }.items():  # fmt: skip
        yield robustness(name, kind="Codec", words=words, apply=made(effects.codec, name))
    words = "To 8 kHz and back"
    yield robustness("resampled_8000", kind="Resampling", words=words, apply=made(effects.resampled, 8000))
    for rt60 in (0.3, 0.6, 1.0):
        words = f"Room, reverberation {rt60} s"
        yield robustness(f"room_{rt60}", kind="Room", words=words, apply=drawn(effects.room, rt60))
    for percent in (1, 10):
        apply = partial(lambda x, rate, rng, context, share: effects.clipped(x, share), share=percent / 100)
        words = f"{percent} % of samples clipped"
        yield robustness(f"clipped_{percent}", kind="Clipping", words=words, apply=apply)
    for factor, words in {0.95: "5 % slower and lower", 1.05: "5 % faster and higher"}.items():
        apply = partial(lambda x, rate, rng, context, factor: effects.speed(x, factor), factor=factor)
        yield robustness(f"speed_{factor}", kind="Speed", words=words, apply=apply)
    for seconds in (4, 2, 1):
        words = f"At most {seconds} s"
        yield robustness(f"cut_{seconds}", kind="Cut", words=words, apply=drawn(effects.cut, seconds))

    yield uses("silence_trimmed", kind="Silence", words="No silence at the edges", apply=made(effects.trim))
    words = "No silence at all"
    yield uses("silence_removed", kind="Silence", words=words, apply=made(effects.trim, True))
    # shuffled is the control: both change the silences alike, so only the difference is due to the class
    for whose, words in {"shuffled": "Silence of their own class", "swapped": "Silence of the other class"}.items():
        yield uses(f"silence_{whose}", kind="Silence", words=words, apply=partial(_with_silences_of, whose=whose))
    yield uses("level_equal", kind="Level", words=f"All at {LEVEL:g} dBFS", apply=made(effects.normalise_level, LEVEL))
    words = f"All {SECONDS:g} s long"
    yield uses("duration_equal", kind="Duration", words=words, apply=drawn(effects.fix_length, SECONDS))
    for low, high in BANDS:
        apply = partial(_without_band, low=low, high=high)
        yield uses(f"without_{low}_{high}", kind="Band", words=f"Without {low} to {high} Hz", apply=apply)


CONDITIONS: dict[str, Condition] = {condition.name: condition for condition in _conditions()}


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
    key = cache_key(__name__, detector_folder, recordings, [jobs])
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


# Caching.


def cache_key(module: str, detector_folder, recordings: Sequence[Path], rest) -> str:
    """Hash of all that scores depend on: code, detector, recordings (size and time of change), and repr(rest)."""
    key = hashlib.sha256(repr(rest).encode())
    key.update(provenance.code_key(module))
    for path in sorted(Path(detector_folder).iterdir()):
        key.update(path.read_bytes())
    for path in recordings:
        stat = path.stat() if path.is_file() else None
        key.update(b"%d %d\n" % (stat.st_size, stat.st_mtime_ns) if stat else b"missing\n")
    return key.hexdigest()


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
        return {
            "eer": counts.eer().value,
            "act_dcf": counts.act_dcf(**costs),
            "bonafide_rejected": rates["bonafide_rejected"],
            "spoof_accepted": rates["spoof_accepted"],
        }

    heard = np.isfinite(clean) & np.isfinite(changed)
    trials = trials[heard].assign(clean=clean[heard], llr=changed[heard])
    before, after = (evaluation.split_classes(trials, column) for column in ("clean", "llr"))
    row = {name: getattr(condition, name) for name in ("family", "kind", "words")}
    row = {"condition": condition.name} | row
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
