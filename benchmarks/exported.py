"""How quick and how right an exported detector is, in float32 and in int8, beside the same one in torch.

    taskset -c 0 python benchmarks/exported.py [--detector DIR] [--clips 400] [--rounds 30]

Prints milliseconds for 4 s of waveform to a log-likelihood ratio: the least, the median, and the median of the ratios
within a turn, since all three take turns. They are of processor time of one thread, so that other work on the machine
matters little. Then, on clips of eval, evenly drawn, as many of each class: the equal error rate of each, how far the
log-likelihood ratios lie from torch's, and how many decisions differ.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from aasist_lib import Detector, audio, corpora, metrics, params
from aasist_lib.base import paths
from aasist_lib.base.progress import progress
from aasist_lib.serving import export

SECONDS = 4.0


def main() -> None:
    """Exports both ways, measures, and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detector", type=Path, help="default: models/detector of the project")
    parser.add_argument("--clips", type=int, default=400, help="of eval, half of each class; 0: speed alone")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = paths.root()
    table, _ = corpora.from_settings(root / "data", params.read("corpus", root / "params.yaml"))
    sides = {"torch": Detector.load(options.detector or root / "models/detector")}
    with tempfile.TemporaryDirectory() as folder:
        for name, clips in (("float32", None), ("int8", export.dev_clips(table, root / "data"))):
            export.export(sides["torch"], Path(folder) / f"{name}.onnx", clips=clips)
            sides[name] = Detector.load(Path(folder) / f"{name}.onnx")
            print(f"{name}.onnx: {(Path(folder) / f'{name}.onnx').stat().st_size / 1e6:.2f} MB")
    speed(sides, options.rounds)
    if options.clips:
        agreement(sides, table[table["split"] == "eval"], root / "data", options.clips)


def speed(sides: dict[str, Detector], rounds: int) -> None:
    """Milliseconds for one waveform."""
    rng = np.random.default_rng(0)
    waveform = rng.normal(0, 0.1, round(SECONDS * sides["torch"].sample_rate)).astype(np.float32)
    taken = {name: [] for name in sides}
    for turn in range(rounds + 3):
        for name, detector in sides.items():
            began = time.process_time()
            for _ in range(10):
                detector.calibrated(detector.backend(waveform))
            if turn >= 3:  # the first ones make buffers
                taken[name].append((time.process_time() - began) * 100)
    print(f"\n{SECONDS:g} s to an LLR, ms{'least':>10}{'median':>10}{'to torch':>10}{'to float32':>12}")
    for name, times in taken.items():
        ratios = [np.median(np.divide(times, taken[other])) for other in ("torch", "float32")]
        print(f"{name:20}{min(times):10.2f}{np.median(times):10.2f}{ratios[0]:10.2f}{ratios[1]:12.2f}")


def agreement(sides: dict[str, Detector], table, root: Path, count: int) -> None:
    """Equal error rates, and differences from torch."""
    drawn = []
    for _, rows in table.groupby("label", sort=True):
        drawn += rows.index[np.unique(np.linspace(0, len(rows) - 1, count // 2).astype(int))].tolist()
    llr, label = {name: [] for name in sides}, []
    for row in progress(table.loc[drawn].itertuples(), total=len(drawn), desc="clips", unit="clip"):
        try:
            found = [detector.score_one(root / row.path).llr for detector in sides.values()]
        except audio.BadAudio:
            continue
        label.append(row.label)
        for name, value in zip(sides, found, strict=True):
            llr[name].append(value)
    real, threshold = np.array(label) == "bonafide", sides["torch"].threshold
    expected = np.array(llr["torch"])
    print(
        f"\n{len(real)} clips of eval{'EER (%)':>14}{'largest':>12}{'mean':>12}{'decisions':>12}   differences of LLRs"
    )
    for name, found in ((name, np.array(found)) for name, found in llr.items()):
        away, other = np.abs(found - expected), (found < threshold) != (expected < threshold)
        error = 100 * metrics.eer(found[real], found[~real]).value
        print(f"{name:20}{error:11.2f}{away.max():12.2g}{away.mean():12.2g}{other.sum():12d}")


if __name__ == "__main__":
    main()
