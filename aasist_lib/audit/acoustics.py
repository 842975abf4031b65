"""What a corpus sounds like, measured on a sample: levels and average spectra of both classes, spectrograms of pairs.

The datasheet shows it. Reading some hundred recordings takes seconds, so that a stage that has them at hand measures,
and the report, which runs more often and everywhere, draws.
"""

import io
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from aasist_lib import audio
from aasist_lib.base import files
from aasist_lib.base.progress import progress

BANDS = 64  # of an average spectrum, from 0 Hz to half the sample rate
QUIET = 30  # dB below the loudest frame: what is quieter is no voice
RANGE, STEP = 72, 4  # dB: below the loudest point, what a spectrogram shows; and how finely, as its pictures are in git
SECONDS = 2.0  # of each recording of a pair


def sample(table: pd.DataFrame, count: int = 40) -> pd.DataFrame:
    """At most so many utterances of each class in each split: the same ones for the same names, whatever else there is.

    Parameters
    ----------
    table : DataFrame
        A table of utterances.

    Returns
    -------
    DataFrame
        Rows of `table`, in its order.
    """
    drawn = table.assign(place=_places(table["utt_id"])).sort_values(["place", "utt_id"])
    return table.loc[sorted(drawn.groupby(["split", "label"]).head(count).index)]


def families(table: pd.DataFrame, most: int = 10) -> list[pd.DataFrame]:
    """Recordings with the copies made of them: as few recordings as show every kind of machine that copied any.

    Parameters
    ----------
    table : DataFrame
        A table of utterances; `pair_id` names the recording that a copy was made of.
    most : int
        Copies at most, in all.

    Returns
    -------
    list of DataFrame
        Rows of `table`, the recording first, then a copy of each kind; where it can be, each by another speaker.
        Empty where nothing was copied.
    """
    made = table[(table["pair_id"] != "") & (table["label"] == "spoof")].drop_duplicates(["pair_id", "attack"])
    recordings = table[(table["label"] == "bonafide") & table["utt_id"].isin(made["pair_id"])]
    recordings = recordings.assign(place=_places(recordings["utt_id"])).sort_values(["place", "utt_id"])
    kinds = made.groupby("pair_id")["attack"].agg(set)[recordings["utt_id"]].tolist()
    chosen, shown, speakers = [], set(), set()
    while len(recordings):
        new = np.array([len(names - shown) for names in kinds])
        heard = recordings["speaker"].isin(speakers).to_numpy()
        best = int(np.lexsort([[len(names) for names in kinds], ~heard, new])[::-1][0])
        ours = made[made["pair_id"] == recordings["utt_id"].iloc[best]].sort_values("attack")
        if not new[best] or sum(map(len, chosen)) - len(chosen) + len(ours) > most:
            break
        chosen.append(pd.concat([table.loc[[recordings.index[best]]], ours]))
        shown |= kinds[best]
        speakers.add(recordings["speaker"].iloc[best])
    return chosen


def _places(names: pd.Series) -> list[int]:
    return [zlib.crc32(name.encode()) for name in names]


def measure(table: pd.DataFrame, root: Path | str, sample_rate: int) -> dict[str, np.ndarray]:
    """Levels and spectra of `sample(table)`, spectrograms of `families(table)`.

    Parameters
    ----------
    table : DataFrame
        A table of utterances whose recordings can be read.
    root : path
        Folder of the corpus.
    sample_rate : int
        In Hz.

    Returns
    -------
    dict
        `sample_rate`; of the sample `label`, `split` (text), `level`, `peak` (dBFS, of the voiced parts and of the
        largest sample) and `spectrum` (utterances, 64 bands; dB relative to the utterance's total power in the voiced
        parts); of the families `family` (number), `utt_id`, `attack` (empty for the recording), and `spectrogram`
        (recordings and copies, bins, frames; 0 for 72 dB or more below the family's loudest point, and 1 more for
        every 4 dB above that; what lies beyond the end is 0) with `frame_rate` in frames a second.
    """
    root, rows = Path(root), sample(table)
    found = [
        _measured(audio.read(root / path, sample_rate), sample_rate)
        for path in progress(rows["path"], desc="levels and spectra", unit="recording")
    ]
    groups = families(table)
    shown = pd.concat([rows.assign(family=i) for i, rows in enumerate(groups)]) if groups else table.head(0)
    read = {path: audio.read(root / path, sample_rate) for path in shown["path"]}
    pictures = [_pictures([read[path] for path in rows["path"]], sample_rate) for rows in groups]
    return {
        "sample_rate": np.array(sample_rate),
        "label": _text(rows["label"]),
        "split": _text(rows["split"]),
        "level": np.array([level for level, _, _ in found], np.float32),
        "peak": np.array([peak for _, peak, _ in found], np.float32),
        "spectrum": np.array([spectrum for _, _, spectrum in found], np.float32).reshape(-1, BANDS),
        "family": shown["family"].to_numpy(np.int64) if groups else np.zeros(0, np.int64),
        "utt_id": _text(shown["utt_id"]),
        "attack": _text(shown["attack"]),
        "spectrogram": np.concatenate(pictures) if groups else np.zeros((0, 1, 1), np.uint8),
        "frame_rate": np.array(sample_rate / _hop(sample_rate)),
    }


def save(path: Path, measured: dict[str, np.ndarray]) -> None:
    """Write what `measure` gave as one .npz file, in one step: the same bytes for the same numbers.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    measured : dict of str to ndarray
        As `measure` gives it; every value one row an utterance.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **measured)
    files.write(path, buffer.getvalue())


def _text(column: pd.Series) -> np.ndarray:
    return column.to_numpy(str) if len(column) else np.zeros(0, "U1")


def _measured(samples: np.ndarray, rate: int) -> tuple[float, float, np.ndarray]:
    """Level and peak (dBFS) and average spectrum (dB of the total, by band) of one recording."""
    power = _power(samples, 2 * BANDS * 4, BANDS * 4)  # 32 ms at 16 kHz
    total = power.sum(axis=1)
    voiced = total >= total.max() * 10 ** (-QUIET / 10)
    level = 10 * np.log10((_frames(samples, 2 * BANDS * 4, BANDS * 4)[voiced] ** 2).mean() + 1e-12)
    peak = 20 * np.log10(np.abs(samples).max() + 1e-6)
    bands = power[voiced].mean(axis=0)[1:].reshape(BANDS, -1).sum(axis=1)
    spectrum = 10 * np.log10(bands / (bands.sum() + 1e-20) + 1e-10)
    return round(float(level), 2), round(float(peak), 2), np.round(spectrum, 2)


def _pictures(waveforms: list[np.ndarray], rate: int) -> np.ndarray:
    """Spectrograms of the beginnings of a recording and its copies: (waveforms, bins, frames), uint8."""
    size, hop = 2 * _hop(rate), _hop(rate)
    frames = int(SECONDS * rate) // hop
    levels = [10 * np.log10(_power(wave[: (frames + 1) * hop], size, hop).T + 1e-12)[:, :frames] for wave in waveforms]
    loudest = max(level.max() for level in levels)
    result = np.zeros((len(levels), levels[0].shape[0], frames), np.uint8)
    for picture, level in zip(result, levels, strict=True):
        picture[:, : level.shape[1]] = np.round(np.maximum(RANGE + level - loudest, 0) / STEP)
    return result


def _hop(rate: int) -> int:
    return round(0.01 * rate)  # 10 ms, half of a window


def _power(samples: np.ndarray, size: int, hop: int) -> np.ndarray:
    """Power spectra of Hann windows: (frames, size // 2 + 1)."""
    return np.abs(np.fft.rfft(_frames(samples, size, hop) * np.hanning(size))) ** 2


def _frames(samples: np.ndarray, size: int, hop: int) -> np.ndarray:
    padded = np.pad(samples.astype(np.float64), (0, max(0, size - len(samples))))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
