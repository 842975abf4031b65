"""How long `aasist metrics` takes for the trials of ASVspoof 5, and the plain Python of an evaluation script.

    python benchmarks/metrics_command.py [--trials 680774] [--repeats 3]

Makes a score file and a protocol of that many trials in the layout of ASVspoof 5 (names, 16 attacks, 12 codecs, scores
of two normal distributions) in a temporary folder. One side is the whole command as a person types it, without the
bootstrap: start, reading, checks, every measure, and the tables by attack and codec. The other is the loop that
evaluation scripts have: both files line by line into dictionaries, then the equal error rate alone by a sort and one
pass over the trials, as a process of its own too. Sides take turns; times are wall clock, the ratio is of the medians.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PLAIN = """
import sys
keys = {}
for line in open(sys.argv[2]):
    fields = line.split()
    keys[fields[1]] = fields[8]
trials = []
with open(sys.argv[1]) as file:
    next(file)
    for line in file:
        name, score = line.rstrip().split(chr(9))
        trials.append((float(score), keys[name] == "bonafide"))
trials.sort()
real = sum(is_real for _, is_real in trials)
fake = len(trials) - real
below = [0, 0]
best = 2.0, 0.0
for _, is_real in trials:
    below[is_real] += 1
    rejected, accepted = below[1] / real, 1 - below[0] / fake
    best = min(best, (abs(rejected - accepted), (rejected + accepted) / 2))
print(best[1])
"""


def main() -> int:
    """Measures both sides in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=680_774)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), options.trials)
        command = [
            sys.executable,
            "-m",
            "aasist_lib.cli",
            "metrics",
            *files,
            "--format",
            "asvspoof5",
            "--bootstrap",
            "0",
        ]
        sides = {"aasist metrics": command, "plain Python, EER alone": [sys.executable, "-c", PLAIN, *files]}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.repeats):
            for side, arguments in sides.items():
                start = time.perf_counter()
                subprocess.run(arguments, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
                seconds[side].append(time.perf_counter() - start)
    medians = {side: sorted(times)[len(times) // 2] for side, times in seconds.items()}
    print(f"{options.trials} trials; seconds, of {options.repeats} runs the median")
    for side, median in medians.items():
        print(f"{side:26}{median:8.2f}{median / medians['plain Python, EER alone']:8.2f} times plain Python")
    return 0


def write(folder: Path, count: int) -> list[str]:
    """A score file and a protocol in the layout of ASVspoof 5."""
    rng = np.random.default_rng(0)
    names = rng.permutation(count)
    real = rng.random(count) < 0.2
    scores = rng.normal(np.where(real, 2, -1), 1.5)
    speakers, attacks, codecs = (rng.integers(n, size=count) for n in (370, 16, 12))
    with open(folder / "scores.tsv", "w") as file:
        file.write("filename\tcm-score\n")
        file.writelines(f"E_{name:010d}\t{score:.8f}\n" for name, score in zip(names, scores, strict=True))
    order = rng.permutation(count)
    with open(folder / "keys.tsv", "w") as file:
        for i in order:
            codec = f"C{codecs[i]:02d} 1 E_{names[i]:010d}" if codecs[i] else "- - -"
            attack = "- bonafide bonafide" if real[i] else f"AC1 A{17 + attacks[i]} spoof"
            file.write(f"E_{speakers[i]:04d} E_{names[i]:010d} F {codec} {attack} -\n")
    return [str(folder / "scores.tsv"), str(folder / "keys.tsv")]


if __name__ == "__main__":
    sys.exit(main())
