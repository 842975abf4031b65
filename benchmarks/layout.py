"""What DVC itself costs where a corpus is many small files, and where it is few large ones.

    python benchmarks/layout.py [--files 50000] [--size 1000] [--shard 1024]

A folder of so many files (of so many bytes, no two alike) and the same bytes in shards are tracked in a repository of
their own: wall-clock seconds of `dvc add`, which hashes and copies or links them into the cache, of `dvc status` right
after it and, as in a fresh clone on another day, without DVC's memory of what it has hashed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent


def main() -> int:
    """Measures both layouts, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=1000, help="bytes of each")
    parser.add_argument("--shard", type=int, default=1024, help="files that a shard holds")
    options = parser.parse_args()
    print(f"{'seconds':28}{'files':>9}{'dvc add':>10}{'dvc status':>12}{'... anew':>10}")
    for name, each in (("as they are", 1), (f"shards of {options.shard}", options.shard)):
        count, *seconds = measure(options.files, options.size, each)
        print(f"{name:28}{count:9}{seconds[0]:10.1f}{seconds[1]:12.1f}{seconds[2]:10.1f}", flush=True)
    return 0


def measure(files: int, size: int, each: int) -> tuple[int, float, float, float]:
    """How many files there are then; seconds to add them, to look at them, and to look at them without memory."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        environment = os.environ | {"DVC_SITE_CACHE_DIR": str(work / "site"), "DVC_NO_ANALYTICS": "1"}

        def dvc(*arguments: str) -> float:
            start = time.perf_counter()
            command = [str(BIN / "dvc"), *arguments]
            done = subprocess.run(command, cwd=work, capture_output=True, env=environment, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            return time.perf_counter() - start

        dvc("init", "--no-scm", "--quiet")
        dvc("config", "cache.type", "hardlink")
        shards = range(0, files, each)
        for number in shards:
            path = work / f"data/{number // 1000:04d}/{number:08d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            held = range(number, min(number + each, files))
            path.write_bytes(b"".join(f"{file:08d}".encode().ljust(size, b".") for file in held))
        added, after = dvc("add", "data"), dvc("status")
        shutil.rmtree(work / "site")
        shutil.rmtree(work / ".dvc/tmp")
        return len(shards), added, after, dvc("status")


if __name__ == "__main__":
    sys.exit(main())
