"""Every claim about speed and size, measured here and now.

    python -m benchmarks [NAME [option=value ...] ...]

Runs the benchmarks one after the other, each in a process of its own, and writes their figures to
results/<processor>.md; those run with options are only shown. Leave the machine alone meanwhile: sides that are
compared take turns, and still a busy machine shakes them.
"""

import ast
import inspect
import os
import platform
import re
import sys
from pathlib import Path

from benchmarks import fuzz, load, measure, scale, speed

# in the order of the pipeline
USUAL = {
    function.__name__: function
    for function in (
        speed.extraction, scale.store, scale.training, scale.training_memory, scale.embeddings, speed.pins,
        speed.scoring, speed.exported, speed.metrics, speed.startup, speed.functions, scale.layout,
    )
}  # fmt: skip
BENCHMARKS = USUAL | {"load": load.load, "fuzz": fuzz.fuzz}  # by name alone


def main() -> int:
    """Run what is asked for; 2 for what there is not."""
    chosen = [[name, {}] for name in USUAL] if not sys.argv[1:] else []
    for word in sys.argv[1:]:
        name, _, value = word.partition("=")
        if not value and name in BENCHMARKS:
            chosen.append([name, {}])
        elif value and chosen and name in inspect.signature(BENCHMARKS[chosen[-1][0]]).parameters:
            chosen[-1][1][name] = literal(value)
        else:
            options = [f"  {name}{str(inspect.signature(work))}" for name, work in BENCHMARKS.items()]
            print(__doc__, f"There is no {word}; there are:", *options, sep="\n", file=sys.stderr)
            return 2
    about = measure.apart(machine)
    path = Path(__file__).parent / "results" / f"{re.sub(r'[^a-z0-9]+', '-', about['processor'].lower()).strip('-')}.md"
    for name, options in chosen:
        figures = measure.apart(BENCHMARKS[name], **options)
        asked = " ".join(["python -m benchmarks", name, *(f"{key}={value}" for key, value in options.items())])
        part = f"`{asked}`, commit {about['commit']}\n\n{table(figures)}"
        print(f"## {name}\n\n{part}\n", flush=True)
        if not options:
            write(path, about["head"], name, part)
    return 0


def literal(text: str):
    """A number, or else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def machine() -> dict[str, str]:
    """The processor's name, the commit, and the head of the page."""
    from aasist_lib.base import provenance

    named = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = named[1] if named else platform.machine()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = ", ".join(f"{name} {version}" for name, version in provenance.made_with().items())
    head = f"# {processor}\n\n{os.cpu_count()} cores, {gigabytes:.0f} GB of memory; {versions}. Made by `make bench`.\n"
    return {"processor": processor, "commit": provenance.commit(), "head": head}


def table(figures: list[tuple]) -> str:
    """Figures as a table: what, value, unit."""
    lines = ["| | | |", "|---|---:|---|"]
    for what, value, unit in figures:
        lines.append(f"| {what} | {f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'} | {unit} |")
    return "\n".join(lines)


def write(path: Path, head: str, name: str, part: str) -> None:
    """Put a benchmark's part into the page of results, in place of an older one."""
    old = re.split(r"^## (\w+)\n+", path.read_text("utf-8") if path.is_file() else "", flags=re.MULTILINE)
    parts = dict(zip(old[1::2], old[2::2], strict=True)) | {name: part}
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + "".join(f"\n## {x}\n\n{parts[x].rstrip()}\n" for x in BENCHMARKS if x in parts), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
