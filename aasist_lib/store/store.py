"""Features or waveforms on disk: written by several processes, memory-mapped when read.

A store is a folder of

- `shard-00000.npy`, ...: utterances one after another. Features are (frames, coefficients), float32 or float16 as the
  front-end says; waveforms (samples, 1), int16, full scale at 32,768
- `index.arrow`: the table of utterances with `shard`, `start`, `frames` and `seconds` of each; see `indexes`
- `rejected.csv`: recordings that could not be used (`utt_id, path, reason, detail`)
- `meta.json`: `content`, feature settings, `coefficients`, `channels`, `frame_rate`, `checksums`, layout version

A shard holds a fixed range of the table's rows and depends on nothing else, so that any number of processes, killed and
restarted, writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aasist_lib import audio, corpora, features
from aasist_lib.augment import vocoders
from aasist_lib.base import files, provenance
from aasist_lib.base.errors import UserError, tells_of_full_disk
from aasist_lib.base.jobs import keep_memory
from aasist_lib.base.workers import in_processes, on_a_cluster
from aasist_lib.corpora.copies import is_vocoded, with_vocoded
from aasist_lib.store import indexes
from aasist_lib.store.indexes import PLACE

VERSION = 3  # of the layout on disk
NEEDED = ["utt_id", "path", "label", "split"]
CONTENTS = ("features", "waveforms")
FULL_SCALE = 2**15  # of waveforms
NUMBERS = {"float32": "<f4", "float16": "<f2"}
RECORD = {"reason": "str", "detail": "str", "checksum": "str"}  # beside the place, of each utterance of a shard
REJECTED = ["utt_id", "path", "reason", "detail"]


@dataclass(frozen=True)
class Summary:
    """Utterances, rejected recordings, vocoder copies, seconds; `splits` by split and label, without the copies."""

    utterances: int
    rejected: int
    seconds: float
    splits: dict
    copies: int = 0

    def to_dict(self) -> dict:
        """For metrics/tables/extract.json."""
        return {
            "utterances": self.utterances, "rejected": self.rejected, "copies": self.copies, "seconds": self.seconds,
            "splits": self.splits,
        }  # fmt: skip


@tells_of_full_disk("folder")
def extract(
    table: pd.DataFrame,
    audio_root,
    folder,
    features: dict,
    *,
    content: str = "features",
    copies: int = 0,
    workers: int = 1,
    min_seconds: float = 0.25,
    max_bad_fraction: float = 0.01,
    compute: dict | None = None,
) -> Summary:
    """Write the features or waveforms of a corpus into the store `folder`.

    Work goes on in `<folder>.partial`. A killed run resumes from the last complete shard, unless the table, the
    settings, a recording (size or modification time) or this code changed. Memory holds the table, and per process a
    few minutes of audio or the longest recording.

    Parameters
    ----------
    table
        The table of utterances; `path` is relative to `audio_root`.
    folder
        Written whole or not at all.
    features
        The section `features` of params.yaml, see `aasist_lib.features.build`.
    content
        "features" or "waveforms"; always the latter for the kind `waveform`.
    copies
        Vocoder copies per bona fide recording of train, added as spoofs of the attack `resynthesis`
        (`vocoders.vocode`); each depends on its utt_id alone.
    workers
        Processes with one thread each; 1 works in this process.
    min_seconds
        Shorter recordings are rejected.
    max_bad_fraction
        Largest accepted share of unusable recordings.
    compute
        The section `compute` of params.yaml: where the processes run, by default here.

    Raises
    ------
    UserError
        If too many recordings are unusable (with the first five reasons and the file that lists all), the table lacks a
        column, repeats an utt_id or has a path outside `audio_root`, or a setting is invalid.
    """
    from aasist_lib.base.progress import progress

    content = "waveforms" if features.get("kind") == "waveform" else content
    audio_root, folder = Path(audio_root), Path(folder)
    front_end = build(features)
    _check(table, audio_root)
    table = with_vocoded(table, copies)
    partial = folder.with_name(f"{folder.name}.partial")
    states = _states(table, audio_root)
    own = ~is_vocoded(table)
    _check_missing(table[own], states[own], max_bad_fraction)
    _start_or_go_on(partial, _key(table, states, [features, content], min_seconds))
    made, size = is_vocoded(table), rows_per_shard(len(table))

    def job(number: int) -> Job:
        rows = slice(number * size, (number + 1) * size)
        names = (table[name].iloc[rows].tolist() for name in ("utt_id", "path"))
        return Job(number, *names, made[rows].tolist(), audio_root, partial, features, min_seconds, content)

    numbers = range(math.ceil(len(table) / size))
    waiting = [number for number in numbers if not _is_done(partial, number)]
    with progress(total=len(table), desc="extract", unit="recording") as bar:
        bar.skip(len(table) - sum(len(made[number * size : (number + 1) * size]) for number in waiting))
        for done in _in_processes(map(job, waiting), min(workers, len(waiting)), compute if waiting else None):
            bar.update(len(done.paths))

    records = [_record(partial, number) for number in numbers]
    sums = {shard_name(number): record.pop("checksum").iloc[0] for number, record in zip(numbers, records, strict=True)}
    places = pd.concat(records, ignore_index=True)
    del records
    bad, table = (places["reason"] != "").to_numpy(), table.reset_index(drop=True)
    of_corpus = ~is_vocoded(table)  # a copy is not rejected again for its recording
    asked = bad & of_corpus
    rejected = pd.concat([table.loc[asked, ["utt_id", "path"]], places.loc[asked, ["reason", "detail"]]], axis=1)
    files.write(partial / "rejected.csv", rejected[REJECTED].to_csv(index=False))
    total = int(of_corpus.sum())
    if len(rejected) > max_bad_fraction * total or len(rejected) == total:
        raise UserError(_too_many(rejected, total, max_bad_fraction, partial / "rejected.csv"))
    index = pd.concat([table, places[PLACE]], axis=1)
    index = index[~bad] if bad.any() else index
    indexes.write(partial, index)
    meta = {
        "version": VERSION,
        "content": content,
        "features": features,
        "coefficients": front_end.coefficients,
        "channels": front_end.channels,
        "frame_rate": front_end.sample_rate / front_end.hop_length,
        "checksums": {indexes.NAME: checksum(partial / indexes.NAME), **sums},
    }
    files.write(partial / "meta.json", json.dumps(meta, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(partial / "done")
    _replace(folder, partial)
    return _summary(index, len(rejected))


class Store:
    """Features or waveforms on disk, read through memory maps.

    Parameters
    ----------
    folder
        What `extract` wrote.
    features
        For a store of waveforms: other features to compute from them than it was written for.

    Attributes
    ----------
    table
        The index; row numbers are positions in it. It is mapped from its file: copy it to change it.
    content
        "features" or "waveforms".
    coefficients, channels
        Rows of a feature map, and the groups of equal size that they form.
    frame_rate, rate
        Per second: frames of a feature map; frames or samples of what it holds.

    Raises
    ------
    UserError
        If there is no store, it has another version, or holds other features than asked for; on the first read of a
        shard, if its checksum is wrong.
    """

    def __init__(self, folder, features: dict | None = None):
        self._given, self.folder = (folder, features), Path(folder)
        try:
            meta = json.loads((self.folder / "meta.json").read_text("utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{self.folder}/meta.json: missing, so this is no store; `dvc repro extract` makes one"
            ) from None
        if meta.get("version") != VERSION:
            raise UserError(
                f"{self.folder}: layout {meta.get('version')} of a store, this code reads {VERSION}; extract again"
            )
        self.table, self.checksums = indexes.read(self.folder), meta["checksums"]
        self.content, self.features = meta["content"], features or meta["features"]
        if self.content == "features":
            if self.features != meta["features"]:
                raise UserError(
                    f"{self.folder} holds features of other settings, {meta['features']}, than {self.features}: "
                    "extract again with these, or with extract.content: waveforms"
                )
            self.front_end, self.coefficients, self.channels = None, meta["coefficients"], meta["channels"]
            self.frame_rate = self.rate = meta["frame_rate"]
        else:
            if self.features["sample_rate"] != meta["features"]["sample_rate"]:
                raise UserError(
                    f"{self.folder} holds waveforms of {meta['features']['sample_rate']} Hz, not of "
                    f"{self.features['sample_rate']} Hz: extract again with that features.sample_rate"
                )
            self.front_end = build(self.features)
            self.coefficients, self.channels = self.front_end.coefficients, self.front_end.channels
            self.frame_rate = self.front_end.sample_rate / self.front_end.hop_length
            self.rate = float(self.front_end.sample_rate)
        self._places = [self.table[name].to_numpy() for name in ("shard", "start", "frames")]
        self._shards = {}

    def __len__(self) -> int:
        return len(self.table)

    def __reduce__(self):  # another process maps the files itself: pickling a map would copy it
        return Store, self._given

    @property
    def recordings(self) -> pd.DataFrame:
        """The rows of `table` without the vocoder copies."""
        return self.table[~is_vocoded(self.table)]

    def select(self, split: str) -> np.ndarray:
        """Row numbers of a split, ascending."""
        return np.flatnonzero((self.table["split"] == split).to_numpy())

    def read(self, row: int, start: int = 0, frames: int | None = None) -> np.ndarray:
        """An utterance, or `frames` of it from `start`: a copy, (coefficients, frames) or (1, samples), float32."""
        shard, first, count = (int(column[row]) for column in self._places)
        start = min(max(start, 0), count)
        stop = count if frames is None else min(start + frames, count)
        mapped = self._shard(shard)
        held = np.array(mapped[first + start : first + stop].T, np.float32, order="C")
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # else all pages ever read count as this process's memory
        return held if self.content == "features" else held / FULL_SCALE

    def maps(self, held: torch.Tensor) -> torch.Tensor:
        """Feature maps, (batch, coefficients, frames), of a batch of what `read` gives."""
        return held if self.front_end is None else self.front_end(held[:, 0])

    def map(self, row: int) -> np.ndarray:
        """Feature map of an utterance: (coefficients, frames), float32."""
        return self.maps(torch.from_numpy(self.read(row))[None])[0].numpy()

    def verify(self) -> None:
        """Compare all files with their checksums; UserError for the first that differs."""
        for name in self.checksums:
            self._verify(name)

    def _verify(self, name: str) -> None:
        try:
            wrong = "" if checksum(self.folder / name) == self.checksums[name] else "not the bytes that were written"
        except OSError as error:
            wrong = f"cannot be read ({error})"
        if wrong:
            raise UserError(
                f"{self.folder}/{name}: {wrong}; remove {self.folder}/ and extract again: `dvc repro extract`"
            )

    def _shard(self, number: int):
        if number not in self._shards:
            name = shard_name(number)
            try:
                self._verify(name)
                self._shards[number] = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
            except (OSError, EOFError, ValueError) as error:
                raise UserError(f"{self.folder}/{name}: cannot be read ({error}); extract again") from None
        return self._shards[number]


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.npy"


def record_name(number: int) -> str:
    """The file that marks a shard as done while the store is written."""
    return f"done/{shard_name(number)}.csv"


def rows_per_shard(utterances: int) -> int:
    """Rows per shard: enough shards to keep all processes busy and to lose little to a kill.

    >>> rows_per_shard(150), rows_per_shard(7000), rows_per_shard(2_000_000)
    (16, 110, 1024)
    """
    return min(max(math.ceil(utterances / 64), 16), 1024)


# Checks, keys and summaries of an extraction.


def build(settings: dict):
    """The front-end of these settings, without gradients."""
    return features.build(settings).eval().requires_grad_(False)


def _check(table: pd.DataFrame, audio_root: Path) -> None:
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise UserError(f"the table of utterances lacks the column {missing[0]}")
    if table.empty:
        raise UserError("the table of utterances is empty: there is nothing to extract")
    taken = [name for name in PLACE if name in table.columns]
    if taken:
        raise UserError(f"the table of utterances has a column {taken[0]}, which the store writes: rename it")
    repeated = _repeated(table["utt_id"])
    if len(repeated):
        raise UserError(f"the table of utterances has the utt_id {repeated.iloc[0]!r} twice")
    corpora.check_paths(table, audio_root)


def _repeated(names: pd.Series) -> pd.Series:
    """Names that occur before; found by their hashes first, since a set of millions of names takes much memory."""
    parts = (names.iloc[start : start + indexes.ROWS] for start in range(0, len(names), indexes.ROWS))
    hashes = np.concatenate([pd.util.hash_pandas_object(part, index=False).to_numpy() for part in parts])
    order = np.sort(hashes)
    suspects = names[np.isin(hashes, order[1:][order[1:] == order[:-1]])]
    return suspects[suspects.duplicated()]


def _states(table: pd.DataFrame, audio_root: Path) -> np.ndarray:
    """Size and modification time of each recording, (len(table), 2); -1 where it is missing."""
    states = np.full((len(table), 2), -1)
    for row, path in enumerate(table["path"]):
        try:
            stat = os.stat(audio_root / path)
        except OSError:
            continue
        states[row] = stat.st_size, stat.st_mtime_ns
    return states


def _check_missing(table: pd.DataFrame, states: np.ndarray, allowed: float) -> None:
    """Fail at the start rather than after hours if too many recordings are missing."""
    missing = table["path"][states[:, 0] < 0].tolist()
    if len(missing) > allowed * len(table) or len(missing) == len(table):
        raise UserError(
            f"{len(missing)} of {len(table)} recordings are missing, more than extract.max_bad_fraction allows "
            f"({allowed:g}): {corpora.preview(missing)}. Put them there, take them out of the corpus, or allow more"
        )


def _key(table: pd.DataFrame, states: np.ndarray, settings: list, min_seconds: float) -> str:
    """Hash of everything that the content of a partial store depends on."""
    key = hashlib.sha256(json.dumps([VERSION, settings, min_seconds], sort_keys=True).encode())
    key.update(provenance.code_key(__name__))
    for piece in indexes.text(table):
        key.update(piece)
    key.update(states.tobytes())
    return key.hexdigest()


def _start_or_go_on(partial: Path, key: str) -> None:
    """Keep a partial store of this key, remove any other."""
    mark = partial / "done/key"
    if mark.is_file() and mark.read_text() == key:
        return
    shutil.rmtree(partial, ignore_errors=True)
    files.write(mark, key)


def _replace(folder: Path, partial: Path) -> None:
    """Put the new store in the place of the old one, which a kill in between leaves as `<folder>.old`."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def checksum(path: Path) -> str:
    """CRC-32 of a file, in hexadecimal: finds any change of up to 32 bits in a row, and others all but surely."""
    found = 0
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            found = zlib.crc32(piece, found)
    return f"{found:08x}"


def _record(partial: Path, number: int) -> pd.DataFrame:
    """Per utterance of a shard: its place or why it was rejected, and the shard's checksum (the same in every row)."""
    return pd.read_csv(partial / record_name(number), dtype=indexes.NUMBERS | RECORD, keep_default_na=False)


def _is_done(partial: Path, number: int) -> bool:
    """Whether a shard exists with the right checksum."""
    shard = partial / shard_name(number)
    if not ((partial / record_name(number)).exists() and shard.exists()):
        return False
    return checksum(shard) == _record(partial, number)["checksum"].iloc[0]


def _too_many(rejected: pd.DataFrame, total: int, allowed: float, listed: str) -> str:
    first = "; ".join(
        f"{row.path}: {row.reason}" + (f" ({row.detail})" if row.detail else "")
        for row in rejected.head(5).itertuples()
    )
    return (
        f"{len(rejected)} of {total} recordings cannot be used, more than extract.max_bad_fraction allows "
        f"({allowed:g}): {first}{'; ...' if len(rejected) > 5 else ''}. All are listed in {listed}: mend or remove "
        "them, or allow more"
    )


def _summary(index: pd.DataFrame, rejected: int) -> Summary:
    splits: dict = {}
    copies = is_vocoded(index)
    index = index.loc[~copies, ["split", "label", "seconds"]]
    for (split, label), rows in index.groupby(["split", "label"]):
        counted = {"utterances": len(rows), "seconds": round(float(rows["seconds"].sum()), 6)}
        splits.setdefault(split, {})[label] = counted
    return Summary(len(index), rejected, round(float(index["seconds"].sum()), 6), splits, int(copies.sum()))


# The work of an extraction, shard by shard.


@dataclass(frozen=True)
class Job:
    """One shard, a range of the table's rows; it is done when its record exists."""

    number: int
    utt_ids: list[str]
    paths: list[str]
    made: list[bool]  # whether to make a vocoder copy
    audio_root: Path
    partial: Path
    features: dict
    min_seconds: float
    content: str = "features"


def _in_processes(jobs: Iterable[Job], workers: int, compute: dict | None):
    """Run the jobs in `workers` processes; yield each when it is done."""
    if workers <= 1 and not on_a_cluster(compute):
        yield from _here(jobs)
        return
    yield from in_processes(_work_with_one_thread, jobs, workers, "extract.workers", compute)


def _here(jobs: Iterable[Job]):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker process: other thread counts give other bytes
    try:
        for job in jobs:
            _work(job)
            yield job
    finally:
        torch.set_num_threads(threads)


def _work_with_one_thread(job: Job) -> None:
    torch.set_num_threads(1)
    _work(job)


def _work(job: Job) -> None:
    """Write a shard, then its record."""
    keep_memory()
    front_end = build(job.features)
    shard, records = job.partial / shard_name(job.number), []
    with files.replacing(shard) as beside, open(beside, "w+b") as file, torch.inference_mode():
        shape = (NUMBERS[front_end.number], front_end.coefficients) if job.content == "features" else ("<i2", 1)
        _write_header(file, 0, *shape)
        start = 0
        for path, utt_id, made in zip(job.paths, job.utt_ids, job.made, strict=True):
            place = {"frames": 0, "seconds": 0.0, "reason": "", "detail": ""}
            try:
                waveform = _waveform(job.audio_root / path, front_end, job.min_seconds, utt_id if made else "")
                content = _features(waveform, front_end) if job.content == "features" else _integers(waveform)
            except audio.BadAudio as error:
                place |= {"reason": error.reason, "detail": error.detail}
            else:
                file.write(content.tobytes())
                place |= {"frames": len(content), "seconds": round(len(waveform) / front_end.sample_rate, 6)}
            records.append({"shard": job.number, "start": start, **place})
            start += place["frames"]
        file.seek(0)
        _write_header(file, start, *shape)
    record = pd.DataFrame(records).assign(checksum=checksum(shard))
    files.write(job.partial / record_name(job.number), record.to_csv(index=False))


def _write_header(file, frames: int, kind: str, width: int) -> None:
    """The header of an .npy file; numpy pads it, so that more frames do not lengthen it."""
    about = {"descr": kind, "fortran_order": False, "shape": (frames, width)}
    np.lib.format.write_array_header_1_0(file, about)


def _waveform(path: Path, front_end, min_seconds: float, copy: str) -> np.ndarray:
    """The recording, or its vocoder copy if `copy` is the utt_id of one; BadAudio if it cannot be used."""
    waveform = audio.read(path, front_end.sample_rate)
    shortest = max(min_seconds, front_end.min_samples / front_end.sample_rate)
    seconds = len(waveform) / front_end.sample_rate
    if seconds < shortest:
        raise audio.BadAudio(path, "too short", f"{seconds:.3f} s, less than {shortest:g} s")
    if copy:
        rng = np.random.default_rng(zlib.crc32(copy.encode()))
        return vocoders.vocode(waveform, front_end.sample_rate, rng)
    return waveform


def _features(waveform: np.ndarray, front_end) -> np.ndarray:
    """The feature map, (frames, coefficients), as the store keeps it; BadAudio if numbers of that type cannot."""
    with np.errstate(over="ignore"):
        content = front_end(torch.from_numpy(waveform)[None])[0].T.numpy().astype(NUMBERS[front_end.number])
    if not np.isfinite(content).all():
        raise audio.BadAudio("", "not finite", f"a coefficient is beyond the range of {front_end.number}")
    return content


def _integers(waveform: np.ndarray) -> np.ndarray:
    """A waveform as int16, (samples, 1), clipped at full scale."""
    return np.clip(np.round(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")[:, None]
