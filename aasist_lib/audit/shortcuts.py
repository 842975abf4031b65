"""Shortcut baselines: how well cues other than the voice separate the classes.

A corpus can be solved without speech, by duration, silence, level, bandwidth, background noise or source (for silence,
see Müller et al. 2021, "Speech is silver, silence is golden"). A simple classifier learns from such cues alone on train
and is read on eval. Its error rate bounds what a shortcut could explain; a fair corpus gives about 50 %.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import fft
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from aasist_lib import audio, corpora, evaluation, metrics
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import cache_key, done, runs, write
from aasist_lib.base.progress import progress

FRAME, HOP = 0.025, 0.010  # seconds
SPEECH = 30.0  # dB below the loudest frame: louder frames are speech
NOISE = 0.1  # fraction of frames, the quietest, that are background
SMALLEST = 1e-12  # power of a frame, so that digital silence has a level: -120 dBFS
DEPTH = 1e-10  # of the mean power: floor of the spectra
BANDS = 24
BLOCK = 4096  # frames at a time: an hour at once would take half a gigabyte
ROWS = 128  # utterances per job

_SPECTRUM = tuple(f"band_{number:02d}" for number in range(BANDS))
GROUPS: dict[str, tuple[str, ...]] = {
    "duration": ("seconds",),
    "silence": ("leading", "trailing", "quiet_share", "longest_pause"),
    "level": ("rms", "peak", "voiced_level", "crest_factor", "clipped_share"),
    "spectrum": ("rolloff_95", "rolloff_99", "tilt", *_SPECTRUM),
    "noise": ("floor_02", "floor_10", "floor_25", "floor_below_speech", "noise_flatness", "noise_tilt"),
}
CUES = tuple(cue for group in GROUPS.values() for cue in group)
GROUPS["all"] = CUES
SOURCE = "source"  # the baseline that classifies the source of a recording
WORDS = {  # cue of each baseline
    "duration": "duration",
    "silence": "silence",
    "level": "level",
    "spectrum": "average spectrum",
    "noise": "background noise",
    "all": "all of these cues",
    SOURCE: "source that it is from",
}
LIMIT, LIMIT_ALL = 0.35, 0.30  # equal error rates below which a single cue, and all cues together, raise an alarm

FOLDS = 8  # of train, to choose a baseline's settings
KNOTS = (0, 5)  # numbers of knots of the linear spline of a cue
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse, as in scikit-learn: the strongest first


def cues(waveform: np.ndarray, sample_rate: int) -> dict[str, float]:
    """Cues of a waveform (samples,), by name as in `GROUPS["all"]`; `UserError` without samples or with channels.

    Frames are 25 ms every 10 ms; speech is up to 30 dB below the loudest frame, background the quietest tenth of
    frames.

    - seconds; leading, trailing, longest_pause (s, without speech), quiet_share (fraction from first to last speech
      frame)
    - rms, peak, voiced_level (dBFS), crest_factor (dB), clipped_share (samples within 5 % of the peak)
    - rolloff_95, rolloff_99 (Hz), tilt (dB per octave), band_00 to band_23 (mel bands, dB relative to their mean)
    - floor_02, floor_10, floor_25 (percentiles of frame level, dBFS), floor_below_speech (dB), noise_flatness (dB, near
      0 for white noise, Gray and Markel 1974), noise_tilt (dB per octave)
    """
    waveform = np.asarray(waveform, np.float32)
    if waveform.ndim != 1 or not len(waveform):
        raise UserError(f"cues: a waveform of shape {waveform.shape}, where one channel with samples is needed")
    seconds, power = len(waveform) / sample_rate, waveform.astype(np.float64) ** 2
    peak = float(np.sqrt(power.max()))
    frames = _frames(waveform, sample_rate)
    blocks = (frames[start : start + BLOCK] for start in range(0, len(frames), BLOCK))
    levels = _decibel(np.concatenate([(block**2).mean(axis=1, dtype=np.float64) for block in blocks]))
    speech = levels > levels.max() - SPEECH
    noise = np.zeros(len(levels), bool)
    noise[np.argsort(levels, kind="stable")[: max(1, round(NOISE * len(levels)))]] = True
    smallest = DEPTH * power.mean() or SMALLEST  # relative to the level, so that the spectrum does not reveal it
    total, logs, background = _spectra(frames, noise, smallest)

    first, last = np.flatnonzero(speech)[[0, -1]]
    inside = ~speech[first : last + 1]
    voiced = float(_decibel((10 ** (levels[speech] / 10)).mean()))
    rms, top = float(_decibel(power.mean())), float(_decibel(peak**2))
    frequencies = np.arange(len(total)) * sample_rate / (2 * (len(total) - 1))
    edges, centres = _bands(sample_rate, len(total))
    share = np.cumsum(total) / (total.sum() or 1)
    width = np.diff(np.append(edges, len(total)))
    bands = np.add.reduceat(logs, edges) / width
    quiet = _decibel(np.add.reduceat(background, edges) / width, smallest)
    floor = dict(zip(("floor_02", "floor_10", "floor_25"), np.quantile(levels, [0.02, 0.1, 0.25]), strict=True))
    found = {
        "seconds": seconds,
        "leading": first * HOP,
        "trailing": (len(levels) - 1 - last) * HOP,
        "quiet_share": inside.mean(),
        "longest_pause": _longest(inside) * HOP,
        "rms": rms,
        "peak": top,
        "voiced_level": voiced,
        "crest_factor": top - rms,
        "clipped_share": (np.abs(waveform) >= 0.95 * peak).mean(),
        "rolloff_95": frequencies[min(np.searchsorted(share, 0.95), len(total) - 1)],
        "rolloff_99": frequencies[min(np.searchsorted(share, 0.99), len(total) - 1)],
        "tilt": _slope(np.log2(centres), bands),
        **dict(zip(_SPECTRUM, bands - bands.mean(), strict=True)),
        **floor,
        "floor_below_speech": voiced - floor["floor_10"],
        "noise_flatness": (_decibel(background, smallest) - _decibel(background.mean(), smallest)).mean(),
        "noise_tilt": _slope(np.log2(centres), quiet),
    }
    return {name: float(found[name]) for name in CUES}


def measure(table: pd.DataFrame, root, sample_rate: int, folder, workers: int = 1) -> pd.DataFrame:
    """Cues of every utterance, one column per cue, NaN where a recording cannot be used.

    Parameters
    ----------
    table : utterances, with utt_id and path relative to `root`.
    sample_rate : in Hz, at which recordings are read.
    folder : finished work is kept in it while recordings, rate and code stay the same.
    workers : processes; the cues do not depend on it.

    Raises
    ------
    UserError
        A path leads out of `root`, no recording can be used, or a process was killed.
    """
    root, folder = Path(root), Path(folder)
    corpora.check_paths(table, root)
    jobs = [
        _Job(
            folder / f"piece-{number:04d}.json", rows["utt_id"].tolist(), [root / path for path in rows["path"]],
            sample_rate,
        )
        for number, rows in enumerate(runs(table, ROWS))
    ]  # fmt: skip
    recordings = [path for job in jobs for path in job.paths]
    key = cache_key(__name__, [recordings, sample_rate, ROWS], states=recordings)
    found = done(jobs, _work, folder, key, workers, "cues").reindex(columns=CUES).set_axis(table.index)
    if found.isna().all(axis=None):
        raise UserError(f"{root}: no recording of the table of utterances can be read, so there are no cues")
    return found


@dataclass(frozen=True)
class _Job:
    """Consecutive rows of the table; done when its file exists."""

    path: Path
    utt_ids: list[str]
    paths: list[Path]
    sample_rate: int


def _work(job: _Job) -> None:
    rows = []
    for path in job.paths:
        try:
            rows.append(cues(audio.read(path, job.sample_rate), job.sample_rate))
        except audio.BadAudio:  # extract counts and lists them
            rows.append(dict.fromkeys(CUES, np.nan))
    write(job.path, rows)


def baselines(
    table: pd.DataFrame, cues: pd.DataFrame, *, replicates: int = 1000, seed: int = 0
) -> dict[str, dict[str, dict[str, float]]]:
    """Error rates of each group of cues alone, learnt on train and read on eval.

    Balanced logistic regression on piecewise linear functions of the cues (straight, or with knots at five quantiles of
    train). Knots and penalty are chosen on train with speakers and attacks held out, as eval requires. "source"
    classifies the source of a recording from all cues; its score is the expected fraction of bona fide in train.

    Parameters
    ----------
    table : utterances, with utt_id, label, speaker, attack, split, condition and source.
    cues : from `measure`; utterances without cues are left out.
    replicates, seed : of the bootstrap over speakers and attacks; 0 replicates give no intervals.

    Returns
    -------
    baseline -> condition -> {"n_bonafide", "n_spoof", "eer", "eer_low", "eer_high"} as fractions; "source" only where
    train has several. Above 0.5, a cue points the other way in eval than in train.

    Raises
    ------
    UserError
        Rows differ between table and cues, train or eval lacks a class, or there are too few groups to resample.
    """
    if not table.index.equals(cues.index):
        raise UserError(f"baselines: {len(table)} utterances and cues of {len(cues)}, which are not the same rows")
    usable = np.isfinite(cues[list(CUES)].to_numpy()).all(axis=1)
    table, cues = table[usable], cues[usable]
    train, trials = table[table["split"] == "train"], table[table["split"] == "eval"]
    for split, rows in (("train", train), ("eval", trials)):
        missing = {"bonafide", "spoof"} - set(rows["label"])
        if missing:
            raise UserError(
                f"{split} has no {evaluation.CLASSES[min(missing)]} recordings with cues: shortcuts are learnt on "
                "train and read on eval, and need both classes in both"
            )
    folds, results = _folds(train), {}
    names = tuple(GROUPS) if train["source"].nunique() < 2 else (*GROUPS, SOURCE)
    with threadpool_limits(1):  # the bytes depend on the number of threads, and the tables are too small to gain
        for name in progress(names, desc="shortcuts", unit="baseline"):
            values = cues[list(GROUPS.get(name, CUES))].to_numpy()
            known, asked = values[table["split"] == "train"], values[table["split"] == "eval"]
            learn = _learn_source if name == SOURCE else _learn_class
            knots, penalty = _chosen(learn, known, train, folds)
            expand = _splines(known, knots)
            score = learn(expand(known), train, penalty)
            results[name] = _error_rates(trials.assign(llr=score(expand(asked))), replicates, seed)
    return results


def alarms(
    results: Mapping[str, Mapping], *, limit: float = LIMIT, limit_all: float = LIMIT_ALL, condition: str = "all"
) -> list[str]:
    """One sentence for each baseline of `baselines` whose equal error rate on eval is below its limit."""
    where = "eval" if condition == "all" else f"eval, {evaluation.CONDITIONS[condition].lower()}"
    found = []
    for name, measured in results.items():
        row, lowest = measured.get(condition), limit_all if name == "all" else limit
        if row is None or not row["eer"] < lowest:
            continue
        interval = f" ({100 * row['eer_low']:.1f} to {100 * row['eer_high']:.1f} %)" if "eer_low" in row else ""
        found.append(
            f"{WORDS.get(name, name)}: this alone tells fakes from real voices at an equal error rate of "
            f"{100 * row['eer']:.1f} %{interval} on {where} (limit: {100 * lowest:g} %)"
        )
    return found


Score = Callable[[np.ndarray], np.ndarray]  # (utterances, columns) to (utterances,), higher for bona fide


def _learn_class(columns: np.ndarray, table: pd.DataFrame, inverse_penalty: float) -> Score:
    model = _model(inverse_penalty, class_weight="balanced").fit(columns, table["label"] == "bonafide")
    return model.decision_function


def _learn_source(columns: np.ndarray, table: pd.DataFrame, inverse_penalty: float) -> Score:
    model = _model(inverse_penalty).fit(columns, table["source"].to_numpy(str))
    real = (table["label"] == "bonafide").groupby(table["source"].to_numpy(str)).agg(["sum", "size"])
    share = ((real["sum"] + 1) / (real["size"] + 2)).loc[model.classes_].to_numpy()  # Laplace smoothing
    return lambda asked: model.predict_proba(asked) @ share


def _model(inverse_penalty: float, **options) -> LogisticRegression:
    return LogisticRegression(C=inverse_penalty, max_iter=1000, tol=1e-3, **options)


def _splines(values: np.ndarray, knots: int) -> Callable[[np.ndarray], np.ndarray]:
    """Expand cues to linear splines: themselves and their excess over each knot, standardised on `values`."""
    # clipped to nearly all of train, so that lines do not extrapolate
    ends = np.quantile(values, [0.005, 0.995], axis=0)
    places = np.quantile(values, np.linspace(0, 1, knots + 2)[1:-1], axis=0)

    def expand(cues):
        cues = np.clip(cues, *ends)
        return np.hstack([cues, *(np.maximum(cues - place, 0) for place in places)])

    scaler = StandardScaler().fit(expand(values))
    return lambda cues: scaler.transform(expand(cues))


def _chosen(learn: Callable, values: np.ndarray, train: pd.DataFrame, folds: np.ndarray) -> tuple[int, float]:
    """Number of knots and penalty with the lowest mean EER over folds with held-out speakers and attacks."""
    settings = [(knots, penalty) for penalty in PENALTIES for knots in KNOTS]  # in a tie, the strongest penalty
    real, speaker = (train["label"] == "bonafide").to_numpy(), train["speaker"].to_numpy(str)
    rates = dict.fromkeys(settings, 0.0)
    for fold in range(folds.max() + 1):
        held = folds == fold
        copies = ~real & np.isin(speaker, np.setdiff1d(speaker[held & real], [""]))  # they reveal the held-out speaker
        left = ~held & ~copies
        if train[left]["label"].nunique() < 2 or (learn is _learn_source and train[left]["source"].nunique() < 2):
            continue
        for knots in KNOTS:
            expand = _splines(values[left], knots)
            known, asked = expand(values[left]), expand(values[held])
            for penalty in PENALTIES:
                scores = learn(known, train[left], penalty)(asked)
                rates[knots, penalty] += metrics.eer(scores[real[held]], scores[~real[held]]).value
    return min(settings, key=rates.get)


def _folds(train: pd.DataFrame) -> np.ndarray:
    """Fold (rows,) of balanced size: bona fide by speaker, spoof by attack.

    Rows without a name, and all rows of a class with a single group, are groups of their own.
    """
    dealt = []
    for label, column in (("bonafide", "speaker"), ("spoof", "attack")):
        rows = train[train["label"] == label]
        names = rows[column].where(rows[column] != "", "\n" + rows["utt_id"])
        dealt.append(names if names.nunique() > 1 else rows["utt_id"])
    count = max(1, min(FOLDS, *(names.nunique() for names in dealt)))
    folds = pd.Series(0, index=train.index)
    for names in dealt:
        sizes, load, where = names.value_counts().sort_index(), np.zeros(count), {}
        for name, size in sizes.sort_values(ascending=False, kind="stable").items():
            where[name] = int(load.argmin())
            load[where[name]] += size
        folds[names.index] = names.map(where)
    return folds.to_numpy()


def _error_rates(trials: pd.DataFrame, replicates: int, seed: int) -> dict[str, dict[str, float]]:
    rates = {}
    for condition in evaluation.CONDITIONS:
        rows = evaluation.select(trials, condition)
        counts = {f"n_{label}": int((rows["label"] == label).sum()) for label in ("bonafide", "spoof")}
        if all(counts.values()):
            options = {"replicates": replicates, "seed": seed}
            rates[condition] = counts | evaluation.with_interval(evaluation.only_eer, rows, **options)
    return rates


# Signal processing.


def _decibel(power, smallest: float = SMALLEST):
    return 10 * np.log10(np.maximum(power, smallest))


def _frames(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """View (frames, samples of a frame); a shorter waveform is padded with zeros."""
    size, hop = round(FRAME * sample_rate), round(HOP * sample_rate)
    if len(waveform) < size:
        waveform = np.pad(waveform, (0, size - len(waveform)))
    return np.lib.stride_tricks.sliding_window_view(waveform, size)[::hop]


def _spectra(frames: np.ndarray, noise: np.ndarray, smallest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean power, mean level in dB, and mean power of the background, each (bins,)."""
    size = frames.shape[1]
    n_fft = 1 << (size - 1).bit_length()
    window = np.hanning(size + 2)[1:-1].astype(np.float32)
    sums = np.zeros((3, n_fft // 2 + 1))
    for start in range(0, len(frames), BLOCK):
        spectrum = fft.rfft(frames[start : start + BLOCK] * window, n_fft)
        power = spectrum.real**2 + spectrum.imag**2
        power /= (window**2).sum()  # white noise of power 1 has 1 in every bin
        sums[0] += power.sum(axis=0, dtype=np.float64)
        sums[1] += _decibel(power, smallest).sum(axis=0, dtype=np.float64)
        sums[2] += power[noise[start : start + BLOCK]].sum(axis=0, dtype=np.float64)
    return sums[0] / len(frames), sums[1] / len(frames), sums[2] / noise.sum()


def _bands(sample_rate: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """First bin of each band and its centre in Hz; equally wide in mel (O'Shaughnessy 1987), without bin 0."""
    highest = 2595 * np.log10(1 + sample_rate / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, BANDS + 1) / 2595) - 1)
    edges = np.round(hertz[:-1] / (sample_rate / 2) * (bins - 1)).astype(int)
    number = np.arange(BANDS)  # every band has its own bin, and none has bin 0
    edges = np.maximum.accumulate(np.maximum(edges, 1) - number) + number
    return edges, (hertz[:-1] + hertz[1:]) / 2


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of the least-squares line."""
    x = x - x.mean()
    return (x * y).sum() / (x * x).sum()


def _longest(flags: np.ndarray) -> int:
    """Length of the longest run of true values."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return int((ends[1::2] - ends[::2]).max(initial=0))
