"""How long the table of ASVspoof 2021 DF takes, all 611,829 trials with every check, and a plain loop over its keys.

    python benchmarks/corpora.py [--trials 611829] [--repeats 3]

Makes a folder as the archives unpack (keys of 13 columns, and an empty file for every recording) in a temporary place.
One side is `corpora.read`: keys and folders read, every column, class, attack and name checked, missing recordings
looked for, conditions found, the table sorted. The other is what scripts do: the keys through the `csv` module into a
list of dictionaries with a path, and `os.path.isfile` for each; nothing else is checked. Sides take turns; seconds are
wall clock and processor time of the quickest run, the ratio is of the former.
"""

import argparse
import csv
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
KEYS, AUDIO = "keys/DF/CM/trial_metadata.txt", "ASVspoof2021_DF_eval/flac"
COLUMNS = "speaker trial codec source attack label trim subset vocoder task team gender language".split()
CODECS = "nocodec low_mp3 high_mp3 low_m4a high_m4a low_ogg high_ogg mp3m4a oggm4a".split()


def main() -> int:
    """Measures both sides in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=611_829)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # another number of trials than published is told
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.trials)
        sides = {"corpora.read": by_project, "csv module, no checks": by_loop}
        times: dict[str, list] = {side: [] for side in sides}
        for _ in range(options.repeats):
            for side, work in sides.items():
                start = time.perf_counter(), time.process_time()
                rows = work(Path(folder))
                times[side].append((time.perf_counter() - start[0], time.process_time() - start[1]))
                assert rows == options.trials
    print(f"{options.trials} trials{'':12}{'seconds':>9}{'processor':>11}")
    best = {side: min(found) for side, found in times.items()}
    for side, (wall, processor) in best.items():
        print(f"{side:25}{wall:9.2f}{processor:11.2f}")
    print(f"ratio: {best['corpora.read'][0] / best['csv module, no checks'][0]:.2f}")
    return 0


def make(folder: Path, trials: int) -> None:
    (folder / AUDIO).mkdir(parents=True)
    (folder / KEYS).parent.mkdir(parents=True)
    with open(folder / KEYS, "w") as file:
        for i in range(trials):
            attack, label = ("bonafide", "bonafide") if i % 41 == 0 else (f"A{7 + i % 13:02d}", "spoof")
            name = f"DF_E_{2_000_000 + i * 7919 % 1_000_003}"
            file.write(
                f"LA_{i % 48:04d} {name} {CODECS[i % 9]} asvspoof {attack} {label} notrim "
                f"{'eval' if i % 8 else 'progress'} traditional_vocoder - - - -\n"
            )
            os.close(os.open(folder / AUDIO / f"{name}.flac", os.O_CREAT))


def by_project(folder: Path) -> int:
    from aasist_lib import corpora

    return len(corpora.read(folder, "asvspoof2021_df", subset="all"))


def by_loop(folder: Path) -> int:
    rows = []
    with open(folder / KEYS, newline="") as file:
        for row in csv.DictReader(file, COLUMNS, delimiter=" "):
            row["path"] = os.path.join(folder, AUDIO, row["trial"] + ".flac")
            row["there"] = os.path.isfile(row["path"])
            rows.append(row)
    return len(rows)


if __name__ == "__main__":
    sys.exit(main())
