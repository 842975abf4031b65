"""What it costs to score a recording: 4 s of speech on one core, and an hour in one file.

    python benchmarks/scoring.py [--repeats 40] [--detector DIR]

From the waveform to the log-likelihood ratio, on one thread, side by side with AASIST at its published size (its
weights are random here, which take as long): the two take turns, and the medians are compared. The hour is a FLAC of a
recording repeated, scored by `aasist score` in a process of its own, whose peak memory is the kernel's count.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS, HOUR = 4.0, 3600


def main() -> int:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--detector", type=Path, default=ROOT / "models/detector")
    options = parser.parse_args()
    # first: a process that is started counts as its own peak what its parent holds at that moment
    seconds, megabytes = an_hour(options.detector)
    print(f"{'4 s of speech, one core':32}{'ms':>8}{'times the project':>20}")
    times = side_by_side(options.detector, options.repeats)
    own = times["this project"]
    for name, milliseconds in times.items():
        print(f"{name:32}{milliseconds:8.1f}{milliseconds / own:20.1f}")
    print(f"\nan hour in one file: {seconds:.1f} s, {megabytes:.0f} MB at most")
    return 0


def side_by_side(folder: Path, repeats: int) -> dict[str, float]:
    """Median milliseconds of each."""
    import torch

    from aasist_lib import Detector, audio, models

    torch.set_num_threads(1)
    detector = Detector.load(folder)
    clip = next(path for path in sorted((ROOT / "tests/speech").glob("*.flac")))
    waveform = torch.from_numpy(audio.read(clip, 16000))
    waveform = waveform.repeat(1 + int(SECONDS * 16000) // len(waveform))[: int(SECONDS * 16000)]
    torch.manual_seed(0)
    aasist = models.build("aasist", coefficients=1, channels=1).eval()
    samples = waveform.numpy()
    ways = {
        "this project": lambda: float(detector.calibrated(detector.backend(samples))),
        "AASIST": lambda: aasist(waveform[None, None]).item(),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for turn in range(repeats + 2):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                if turn >= 2:  # the first ones warm up
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def an_hour(folder: Path) -> tuple[float, float]:
    """Seconds and MB."""
    import numpy as np
    import soundfile

    from aasist_lib import audio

    clip = audio.read(sorted((ROOT / "tests/speech").glob("*.flac"))[0], 16000)
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "hour.flac"
        with soundfile.SoundFile(path, "w", 16000, 1) as file:
            left = HOUR * 16000
            while left > 0:
                file.write(np.ascontiguousarray(clip[:left]))
                left -= len(clip)
        start = time.perf_counter()
        command = [sys.executable, "-m", "aasist_lib.cli", "score", str(path), "--detector", str(folder)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3


if __name__ == "__main__":
    sys.exit(main())
