"""Ways to measure: sides that take turns, work in a process of its own, and its memory. Linux alone."""

import importlib
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
POOLS = [f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")]
BIN = Path(sys.executable).parent


def seconds(work: Callable, clock: Callable = time.perf_counter) -> float:
    """Seconds of one call; `time.process_time` as the clock counts those of all threads, so other work matters less."""
    start = clock()
    work()
    return clock() - start


def in_turn(sides: dict[str, Callable], rounds: int, clock: Callable = time.perf_counter) -> dict[str, list[float]]:
    """Seconds of each side, round by round: a busy machine slows all of them. A first round warms up."""
    times = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, work in sides.items():
            times[name].append(seconds(work, clock))
    return {name: found[1:] for name, found in times.items()}


def command(*arguments) -> None:
    """Run a command in the project; its output is shown if it fails."""
    done = subprocess.run(list(map(str, arguments)), cwd=ROOT, capture_output=True, text=True, env=environment())
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")


def environment(threads: int | None = None) -> dict[str, str]:
    """Variables for a process that uses this checkout, and so many threads."""
    kept = {name: value for name, value in os.environ.items() if name not in POOLS}
    return kept | dict.fromkeys(POOLS if threads else (), str(threads)) | {"PYTHONPATH": str(ROOT)}


def apart(function: Callable, *arguments, threads: int | None = None, **options):
    """What a public function gives in a process of its own, whose libraries and memory are fresh."""
    return watched(function, *arguments, threads=threads, watch=False, **options)[0]


def watched(function: Callable, *arguments, threads: int | None = None, watch: bool = True, **options) -> tuple:
    """The same, and the most MB that it and its processes had together; pages that they share count once."""
    module = function.__module__ if function.__module__ != "__main__" else "benchmarks.__main__"
    given = json.dumps([module, function.__name__, arguments, options], default=str)
    started = [sys.executable, "-c", "from benchmarks import measure; measure.answer()", given]
    process = subprocess.Popen(started, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(threads))
    most = 0.0
    while watch and process.poll() is None:
        most = max(most, _together(process.pid))
        time.sleep(0.25)  # to look takes time, too
    said = process.communicate()[0]
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(said.splitlines()[-1]), most


def answer() -> None:
    """Of the process that `apart` starts."""
    module, name, arguments, options = json.loads(sys.argv[1])
    found = getattr(importlib.import_module(module), name)(*arguments, **options)
    print("\n" + json.dumps(list(found) if inspect.isgenerator(found) else found))


def _together(pid: int) -> float:
    import psutil

    found = 0
    try:
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            found += each.memory_full_info().pss
    except psutil.Error:  # one has ended meanwhile
        pass
    return found / 1e6


def memory(pid: int | str = "self") -> dict[str, float]:
    """MB of a process by the kernel's names: VmRSS now, VmHWM at most, RssFile of it mapped files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = (line.partition(":") for line in lines if line.endswith("kB"))
    return {name: int(rest.split()[0]) * 1024 / 1e6 for name, _, rest in fields}


def speech(rate: int = 16000) -> np.ndarray:
    """The recordings of tests/speech, joined."""
    from aasist_lib import audio

    paths = sorted(path for path in (ROOT / "tests/speech").iterdir() if path.suffix in {".wav", ".flac", ".ogg"})
    return np.concatenate([audio.read(path, rate) for path in paths])
