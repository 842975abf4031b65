"""How much faster than a loop over librosa features are extracted, and whether they are the same.

    python benchmarks/extraction.py [--audio DIR] [--files 240] [--repeats 5]

The loop calls `librosa.feature.mfcc` and, for each order, `librosa.feature.delta`, one recording after the other. It
runs as in a script that sets nothing, where its libraries take a thread for every core, and once more with all of
them held to one thread, which serves librosa well: in its many small matrix operations threads mostly wait for each
other. The project's side is what `store.extract` does in each of its processes, which have one thread.

Every measurement is a process of its own, since threads that wait in one would be charged to the other; the sides
take turns, so that a busy machine slows both. Times are processor seconds (of all threads), so that rates are per
core; the ratio is that of the medians. The settings are those of params.yaml.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

SIDES = {"librosa loop": None, "librosa loop, 1 thread": 1, "this project": 1}  # threads
POOLS = [f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")]


def main() -> int:
    """Measures all sides in turn and prints the table; 1 if the values differ by more than 1e-3 dB."""
    options = arguments()
    if options.side:
        print(json.dumps(measure(options.side, options)))
        return 0
    times: dict[str, list] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side in SIDES:
            times[side].append(in_a_process(side))
    first = times["this project"][0]
    print(f"{first['files']} recordings, {first['seconds']:.0f} s of audio; utterances a second and core")
    print(f"{'':24}{'features':>10}{'ratio':>7}{'with reading':>16}{'ratio':>7}")
    rates = {
        side: [sorted(first["files"] / run[what] for run in runs)[len(runs) // 2] for what in ("features", "reading")]
        for side, runs in times.items()
    }
    for side, (features, reading) in rates.items():
        ratios = [own / other for own, other in zip(rates["this project"], (features, reading), strict=True)]
        print(f"{side:24}{features:10.0f}{ratios[0]:7.1f}{reading:16.0f}{ratios[1]:7.1f}")
    print(f"largest difference: {first['difference']:.1e} dB (allowed: 1e-3)")
    return 0 if first["difference"] <= 1e-3 else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--audio", type=Path, help="folder of recordings (default: data/audio of the project)")
    parser.add_argument("--files", type=int, default=240, help="recordings at most, spread over the folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # of the process that measures one
    return parser.parse_args()


def in_a_process(side: str) -> dict:
    environment = {name: value for name, value in os.environ.items() if name not in POOLS}
    if SIDES[side]:
        environment |= dict.fromkeys(POOLS, str(SIDES[side]))
    command = [sys.executable, *sys.argv, "--side", side]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def measure(side: str, options: argparse.Namespace) -> dict:
    """Processor seconds of one side, with and without the reading of the files, after a first call of each."""
    import librosa
    import numpy as np
    import torch

    from aasist_lib import audio, params, store
    from aasist_lib.base import paths
    from aasist_lib.base.jobs import keep_memory

    torch.set_num_threads(1)
    keep_memory()
    settings = params.read("features")
    rate, front_end = settings["sample_rate"], store.build(settings)
    files, waveforms = recordings(options.audio or paths.root() / "data/audio", options.files, front_end)

    def by_librosa(signals):
        return [librosa_features(signal, settings) for signal in signals]

    def by_project(signals):
        with torch.inference_mode():
            return [front_end(torch.from_numpy(signal)[None])[0].T.numpy() for signal in signals]

    ways = {
        "features": (lambda: by_librosa(waveforms), lambda: by_project(waveforms)),
        "reading": (
            lambda: by_librosa(librosa.load(path, sr=rate)[0] for path in files),
            lambda: by_project(audio.read(path, rate) for path in files),
        ),
    }
    found = {"files": len(files), "seconds": sum(map(len, waveforms)) / rate}
    if side == "this project":
        pairs = zip(by_librosa(waveforms[:40]), by_project(waveforms[:40]), strict=True)
        found["difference"] = max(float(np.abs(a - b).max()) for a, b in pairs)
    for name, sides in ways.items():
        work = sides[side == "this project"]
        work()
        start = time.process_time()
        work()
        found[name] = time.process_time() - start
    return found


def recordings(folder: Path, most: int, front_end) -> tuple[list[Path], list]:
    """Audio files below a folder, spread evenly over their sorted names, that are long enough; and their samples."""
    from aasist_lib import audio

    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in audio.ENDINGS)
    files, waveforms = [], []
    for path in found[:: -(-len(found) // most) or 1]:
        try:
            waveform = audio.read(path, front_end.sample_rate)
        except audio.BadAudio:
            continue
        if len(waveform) >= max(0.25 * front_end.sample_rate, front_end.min_samples):
            files.append(path)
            waveforms.append(waveform)
    if not files:
        sys.exit("no recordings found: give a folder of them with --audio")
    return files, waveforms


def librosa_features(waveform, settings: dict):
    """(frames, coefficients) by librosa, laid out as the store keeps them."""
    import librosa
    import numpy as np

    mfcc = librosa.feature.mfcc(
        y=waveform,
        sr=settings["sample_rate"],
        n_mfcc=settings["n_mfcc"],
        n_fft=settings["n_fft"],
        hop_length=settings["hop_length"],
        n_mels=settings["n_mels"],
    )
    deltas = [librosa.feature.delta(mfcc, order=order) for order in range(1, settings["deltas"] + 1)]
    return np.concatenate([mfcc, *deltas]).T


if __name__ == "__main__":
    sys.exit(main())
