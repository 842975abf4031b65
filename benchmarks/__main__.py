"""Every claim about speed and size, measured here and now: `make bench`.

    python -m benchmarks [NAME ...]

Runs the benchmarks one after the other, each in a process of its own, shows what they print, and writes it to
results/<processor>.md, under the processor's name, the number of its cores and the commit. A benchmark named replaces
its own part of that file. Leave the machine alone meanwhile: figures are ratios of what ran side by side wherever
something can be compared, and still a busy machine shakes them.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from aasist_lib.base import provenance

HERE = Path(__file__).parent
# in the order of the pipeline; what needs minutes and little else is last
COMMANDS = {
    "extraction": ["extraction.py"],
    "store": ["store.py"],
    "training": ["training.py"],
    "pins": ["pins.py"],
    "memory": ["training.py", "memory"],
    "scoring": ["scoring.py"],
    "exported": ["exported.py"],
    "startup": ["startup.py"],
    "functions": ["functions.py"],
    "layout": ["layout.py"],
}


def main() -> int:
    """Runs what is asked for; 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COMMANDS)}; all by default")
    names = parser.parse_args().names or list(COMMANDS)
    unknown = sorted(set(names) - set(COMMANDS))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(COMMANDS)}")
    processor = processor_name()
    path = HERE / "results" / f"{re.sub(r'[^a-z0-9]+', '-', processor.lower()).strip('-')}.md"
    parts = read(path)
    status = 0
    for name in names:
        print(f"== {name}", flush=True)
        found = run(COMMANDS[name])
        status |= found.returncode != 0
        if found.returncode == 0:
            said = f"`python benchmarks/{' '.join(COMMANDS[name])}`, commit {provenance.commit()}"
            parts[name] = f"{said}\n\n```\n{found.stdout.rstrip()}\n```"
            write(path, processor, parts)
    print(path.relative_to(HERE.parent))
    return status


def run(command: list[str]) -> subprocess.CompletedProcess:
    """Its output, which is shown as it comes."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / command[0]), *command[1:]], cwd=HERE.parent, stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return subprocess.CompletedProcess(command, process.wait(), "".join(lines))


def read(path: Path) -> dict[str, str]:
    """The parts of a file of results, by benchmark."""
    text = path.read_text("utf-8") if path.is_file() else ""
    parts = re.split(r"^## (\w+)\n+", text, flags=re.MULTILINE)
    return {name: part.rstrip() for name, part in zip(parts[1::2], parts[2::2], strict=True)}


def write(path: Path, processor: str, parts: dict[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    versions = ", ".join(f"{name} {version}" for name, version in provenance.made_with().items())
    head = f"# {processor}\n\n{os.cpu_count()} cores, {memory():.0f} GB of memory; {versions}. Made by `make bench`.\n"
    ordered = {name: parts[name] for name in COMMANDS if name in parts}
    path.write_text(head + "".join(f"\n## {name}\n\n{part}\n" for name, part in ordered.items()), "utf-8")


def processor_name() -> str:
    """As its maker calls it."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def memory() -> float:
    """Of the machine, in GB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


if __name__ == "__main__":
    sys.exit(main())
