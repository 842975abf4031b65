"""How much faster than a loop over librosa features are extracted, and whether they are the same.

    python benchmarks/extraction.py [--audio DIR] [--threads 1] [--files 240] [--repeats 5]

With --threads 1 both sides have one thread; with 0 every library takes as many as it likes, as in a script that sets
nothing. librosa then loses much time to threads that wait for each other in its many small matrix operations.

Both sides work on the same recordings in one process: the loop calls `librosa.feature.mfcc` and, for each order,
`librosa.feature.delta`, one recording after the other; the project's side is what `store.extract` does in each of
its processes. They take turns, so that a busy machine slows both. Times are processor seconds of this process (of all
its threads), the median of the repeats; the ratio is given with the reading of the files and without.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--audio", type=Path, help="folder of recordings (default: data/audio of the project)")
    parser.add_argument("--threads", type=int, default=1, help="of each library; 0: its own choice (default: 1)")
    parser.add_argument("--files", type=int, default=240, help="recordings at most, spread over the folder")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def recordings(folder: Path, most: int) -> list[Path]:
    """Audio files below a folder, spread evenly over their sorted names."""
    from aasist_lib.corpora import AUDIO

    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO)
    return found[:: -(-len(found) // most) or 1]


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


def main() -> int:
    options = arguments()
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA") if options.threads else ():
        os.environ[f"{name}_NUM_THREADS"] = str(options.threads)  # read when numpy and torch are imported

    import time

    import librosa
    import numpy as np
    import torch

    from aasist_lib import audio, paths, store
    from aasist_lib.pipeline import params

    torch.set_num_threads(options.threads or 1)  # a process of `store.extract` has one in any case
    store.keep_memory()
    settings = params.read("features")
    rate = settings["sample_rate"]
    front_end = store.build(settings)
    waveforms, files = [], []
    for path in recordings(options.audio or paths.root() / "data/audio", options.files):
        try:
            waveform = audio.read(path, rate)
        except audio.BadAudio:
            continue
        if len(waveform) >= max(0.25 * rate, front_end.min_samples):
            waveforms.append(waveform)
            files.append(path)
    if not files:
        sys.exit("no recordings found: give a folder of them with --audio")

    def by_librosa(signals):
        return [librosa_features(signal, settings) for signal in signals]

    def by_project(signals):
        with torch.inference_mode():
            return [found for held in store.groups(signals, front_end) for found in store.feature_maps(held, front_end)]

    ways = {
        "features alone": (lambda: by_librosa(waveforms), lambda: by_project(waveforms)),
        "reading and features": (
            lambda: by_librosa(librosa.load(path, sr=rate)[0] for path in files),
            lambda: by_project(audio.read(path, rate) for path in files),
        ),
    }
    expected, found = by_librosa(waveforms), by_project(waveforms)  # the first calls of both, not timed
    worst = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))

    seconds = np.array([len(waveform) / rate for waveform in waveforms])
    quarter, half, most = np.quantile(seconds, [0.25, 0.5, 0.75])
    lengths = f"half of them {quarter:.1f} to {most:.1f} s (median {half:.1f} s)"
    threads = options.threads or "any number of"
    print(f"{len(files)} recordings, {seconds.sum():.0f} s of audio, {lengths}; {threads} thread(s)")
    print(f"{'':22}{'librosa loop':>16}{'this project':>16}{'ratio':>8}   (utterances a second and core)")
    for name, sides in ways.items():
        times = np.array([[_processor_seconds(time, side) for side in sides] for _ in range(options.repeats)])
        loop, project = np.median(times, axis=0)
        spread = times[:, 0] / times[:, 1]
        print(
            f"{name:22}{len(files) / loop:16.0f}{len(files) / project:16.0f}{loop / project:8.1f}"
            f"   (from {spread.min():.1f} to {spread.max():.1f} in single repeats)"
        )
    print(f"largest difference: {worst:.1e} (allowed: 1e-3 dB)")
    return 0 if worst <= 1e-3 else 1


def _processor_seconds(time, work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
