"""How long a person waits before anything happens.

    python benchmarks/startup.py [--repeats 5]

Wall-clock seconds of whole commands, the least of several: what else the machine does can only make them longer.
Scoring takes the project's detector and a clip of tests/speech; `dvc repro` has nothing to do, and is left out where
the pipeline is not up to date.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def main() -> int:
    """Measures, and prints a line a command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    clip = sorted((ROOT / "tests/speech").glob("*.flac"))[0].relative_to(ROOT)
    commands = {
        "aasist --help": [BIN / "aasist", "--help"],
        "import aasist_lib; aasist_lib.Detector": [sys.executable, "-c", "import aasist_lib; aasist_lib.Detector"],
        "aasist score, one clip": [BIN / "aasist", "score", clip],
    }
    if b"up to date" in subprocess.run([BIN / "dvc", "status"], cwd=ROOT, capture_output=True).stdout:
        commands["dvc repro, nothing to do"] = [BIN / "dvc", "repro"]
    for name, command in commands.items():
        print(f"{name:42}{min(seconds(command) for _ in range(repeats)):6.2f} s")
    return 0


def seconds(command: list) -> float:
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
