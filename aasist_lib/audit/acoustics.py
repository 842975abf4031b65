"""Acoustics of a sample of a corpus: levels and average spectra of both classes, spectrograms of vocoder copies.

Measured by a stage that has the recordings; the datasheet only draws.
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
QUIET = 30  # dB below the loudest frame: quieter frames count as unvoiced
RANGE, STEP = 72, 4  # dB: dynamic range of a spectrogram, and its resolution, coarse because the pictures are in git
SECONDS = 2.0  # of each recording of a pair


def sample(table: pd.DataFrame, count: int = 40) -> pd.DataFrame:
    """At most `count` utterances of each class and split, selected by hash of the name, so the selection is stable."""
    drawn = table.assign(place=_places(table["utt_id"])).sort_values(["place", "utt_id"])
    return table.loc[sorted(drawn.groupby(["split", "label"]).head(count).index)]


def families(table: pd.DataFrame, most: int = 10) -> list[pd.DataFrame]:
    """Recordings with one vocoder copy per attack: as few recordings as cover every attack, `most` copies in all."""
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
    """Levels and spectra of `sample(table)`, and spectrograms of `families(table)`.

    Returns
    -------
    label, split : of the sample.
    level, peak : (n,) dBFS, of the voiced parts and of the largest sample.
    spectrum : (n, 64) dB relative to the total power of the voiced parts.
    family, utt_id, attack : of each spectrogram; attack is "" for the recording.
    spectrogram : (m, bins, frames) uint8, 0 for 72 dB or more below the family's maximum, plus 1 for every 4 dB above
        that.
    sample_rate, frame_rate : in Hz and frames per second.
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
    """Write the result of `measure` as one .npz file, atomically and reproducibly."""
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
