"""What a store of millions of utterances costs to open, a batch of crops to read, and its extraction in memory.

    python benchmarks/store.py [--rows 5000000] [--store features] [--utterances 100]

- Opening: an index of so many made-up rows is written to a temporary folder; a process of its own opens it. Memory is
  the peak of the whole process, its libraries included, which alone come first.
- Reading: 64 crops of 2 s from random utterances of a store, the first batches, which compare every shard with its
  checksum, and the later ones; beside it a training step of the network of params.yaml on as many crops.
- Extracting features as params.yaml says: so many utterances of 4 s and ten times as many with two processes, these
  with one, too. They are 2,000 FLAC files, speech of tests/speech from a random moment on and noise, over and over.
  Memory is the peak of all processes together; pages that they share count once. The larger store takes 12 GB for a
  while.

Needs Linux, which says what memory a process has.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
BATCH, SECONDS, BATCHES = 64, 2.0, 50
RATE, LENGTH, FILES = 16000, 4, 2000  # Hz, seconds of an utterance that is extracted, recordings
OPENINGS = ("libraries", "index.arrow")


def main() -> int:
    """Measures all three and prints what came out, or one of them in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--store", type=Path, default=ROOT / "features")
    parser.add_argument("--utterances", type=int, default=5000)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)  # of the process that measures one
    options = parser.parse_args()
    if options.side:
        what, folder = options.side
        found = opened(what, folder) if what in OPENINGS else extracted(*map(int, what.split()), Path(folder))
        print(json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        opening(options.rows, Path(folder))
    if options.store.is_dir():
        reading(options.store)
    extracting(options.utterances)
    return 0


def in_a_process(*side) -> subprocess.Popen:
    command = [sys.executable, __file__, "--side", *map(str, side)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


# Opening.


def opening(rows: int, folder: Path) -> None:
    start = time.perf_counter()
    make(rows, folder)
    print(f"{rows:,} utterances; written in {time.perf_counter() - start:.1f} s")
    print(f"{'':14}{'open, s':>9}{'peak, MB':>10}{'and select a split, s':>23}{'peak, MB':>10}{'size, MB':>10}")
    for what in OPENINGS:
        found = json.loads(in_a_process(what, folder).communicate()[0])
        size = f"{(folder / what).stat().st_size / 1e6:10.0f}" if what != "libraries" else ""
        print(f"{what:14}" + "".join(f"{value:{width}.{digits}f}" for value, width, digits in found) + size)


def make(rows: int, folder: Path) -> None:
    """A store without shards."""
    import numpy as np
    import pandas as pd

    from aasist_lib import corpora
    from aasist_lib.store import indexes

    number = np.arange(rows)
    speaker = "s" + pd.Series(number % 4000).astype("str").str.zfill(5)
    utt_id = speaker + "-" + pd.Series(number).astype("str").str.zfill(8)
    table = pd.DataFrame({"utt_id": utt_id, "path": "audio/" + speaker + "/" + utt_id + ".flac", "speaker": speaker})
    table = table.reindex(columns=corpora.COLUMNS, fill_value="")
    fake = number % 10 > 0
    table["label"], table["split"] = np.where(fake, "spoof", "bonafide"), np.where(number % 5, "train", "eval")
    table["attack"], table["language"] = np.where(fake, "attack-07", ""), "en"
    frames = 200 + number % 601
    places = {"shard": number // 1024, "start": np.cumsum(frames) - frames, "frames": frames, "seconds": frames / 250}
    table = table.assign(**places)
    settings = dict(kind="waveform", sample_rate=16000)
    meta = {"features": settings, "holds": "waveforms", "version": 2, "coefficients": 1, "channels": 1, "checksums": {}}
    (folder / "meta.json").write_text(json.dumps(meta))
    indexes.write(folder, table)


def opened(what: str, folder: str) -> list:
    """(value, width, digits) of seconds and peak memory, after opening and after a split was selected."""
    from aasist_lib.store import Store

    start, found = time.perf_counter(), []
    if what == "libraries":
        return [(0, 9, 3), (peak(), 10, 0)]
    store = Store(folder)
    found += [(time.perf_counter() - start, 9, 3), (peak(), 10, 0)]
    assert len(store.select("train")) == 4 * len(store) // 5
    return found + [(time.perf_counter() - start, 23, 3), (peak(), 10, 0)]


def peak() -> float:
    """MB. Not that of getrusage, which begins with what the process had that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


# Reading.


def reading(folder: Path) -> None:
    import numpy as np
    import torch

    from aasist_lib import models, params
    from aasist_lib.store import Store

    store, rng, times = Store(folder), np.random.default_rng(0), []
    length = round(SECONDS * store.rate)
    rows = np.flatnonzero(store.table["frames"] >= length)
    for _ in range(BATCHES):
        drawn = rng.choice(rows, BATCH)
        starts = (rng.integers(store.table["frames"].to_numpy()[drawn] - length + 1)).tolist()
        begun = time.perf_counter()
        crops = np.stack([store.read(row, start, length) for row, start in zip(drawn.tolist(), starts, strict=True)])
        times.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    store.verify()
    size = sum((folder / name).stat().st_size for name in store.checksums) / 1e9
    verified = time.perf_counter() - begun
    torch.set_num_threads(params.read("threads"))
    network = models.build(**params.read("model"), coefficients=store.coefficients, channels=store.channels).train()
    optimiser = torch.optim.AdamW(network.parameters())
    targets, steps = torch.arange(BATCH) % 2.0, []
    for _ in range(6):
        begun = time.perf_counter()
        optimiser.zero_grad()
        outputs = network(store.maps(torch.from_numpy(crops)))
        torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets).backward()
        optimiser.step()
        steps.append(time.perf_counter() - begun)
    later, step = np.median(times[BATCHES // 2 :]), np.median(steps[1:])
    print(f"\n{BATCH} random crops of {SECONDS:g} s: first {times[0] * 1e3:.0f} ms, later {later * 1e3:.1f} ms")
    print(f"a training step on them: {step * 1e3:.0f} ms; reading is {later / step:.1%} of it")
    each = 1e3 * verified / max(1, len(store.checksums))
    print(f"all checksums: {verified:.2f} s of {size:.2f} GB, {each:.0f} ms a file")


# Extracting.


def extracting(utterances: int) -> None:
    print(f"\n{'utterances':>10}{'processes':>11}{'seconds':>9}{'a second':>10}{'peak, MB':>10}")
    rates, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder))
        for count, workers in ((utterances, 2), (10 * utterances, 2), (10 * utterances, 1)):
            process, most = in_a_process(f"{count} {workers}", folder), 0.0
            while process.poll() is None:
                most = max(most, together(process.pid))
                time.sleep(0.25)  # to look takes time, too
            seconds = json.loads(process.stdout.read())
            rates.append(count / seconds)
            peaks.append(most)
            print(f"{count:10,}{workers:11}{seconds:9.1f}{rates[-1]:10.0f}{most:10.0f}", flush=True)
    print(f"two processes: {rates[1] / rates[2]:.2f} times as fast; ten times as many: {peaks[1] / peaks[0]:.2f} times "
          "the memory")  # fmt: skip


def together(pid: int) -> float:
    """MB that a process and those below it have in memory now."""
    import psutil

    found = 0
    try:
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            found += each.memory_full_info().pss
    except psutil.Error:  # one has ended meanwhile
        pass
    return found / 1e6


def extracted(utterances: int, workers: int, folder: Path) -> float:
    """Seconds that `store.extract` takes for so many."""
    import pandas as pd

    from aasist_lib import corpora, params, store

    rows = [{"utt_id": f"u{i:08d}", "path": f"{i % FILES:04d}.flac"} for i in range(utterances)]
    table = pd.DataFrame(rows).assign(label="bonafide", split="train").reindex(columns=corpora.COLUMNS, fill_value="")
    del rows
    with tempfile.TemporaryDirectory() as made:
        start = time.perf_counter()
        store.extract(table, folder, Path(made) / "store", params.read("features"), workers=workers)
        return time.perf_counter() - start


def record(folder: Path) -> None:
    """Recordings of 4 s: real speech from a random moment on, and noise 30 dB below it, so that no two are the same."""
    import numpy as np
    import soundfile

    from aasist_lib import audio
    from aasist_lib.augment import effects

    speech = np.concatenate([audio.read(path, RATE) for path in sorted((ROOT / "tests/speech").glob("*.flac"))])
    rng = np.random.default_rng(0)
    for number in range(FILES):
        clip = np.roll(speech, -rng.integers(len(speech)))[: LENGTH * RATE]
        soundfile.write(folder / f"{number:04d}.flac", np.clip(effects.noise(clip, 30, rng), -1, 1), RATE)


if __name__ == "__main__":
    sys.exit(main())
