"""What broken requests do to the service: its own OpenAPI document turned against it, then broken recordings.

    python benchmarks/fuzz.py [--detector models/detector] [--files 2000] [--examples 50] [--seed 0]

A really started `aasist serve` on loopback. schemathesis makes requests from its OpenAPI document, right ones and wrong
ones. Then real speech as wav, flac, ogg, opus and mp3 is broken in many ways (bits flipped, cut short, header fields
overwritten, pieces left out or doubled) and sent. Nothing may answer 5xx, nothing may end the process or print a trace,
and neither memory nor open files may grow. Exit code: 1 if any of that happened.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
from service import ROOT, Service, clips, encoded, form

# Left out: positive_data_acceptance, since no document says which bytes are a recording, and negative_data_rejection,
# since whatever is wrong about a file travels as bytes: several that are no recordings get 200, and an error each.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,missing_required_header,unsupported_method,allow_header_conformance,ignored_auth"
)
FORMATS = {
    "wav": dict(format="WAV"), "flac": dict(format="FLAC"), "ogg": dict(format="OGG"),
    "opus": dict(format="OGG", subtype="OPUS"), "mp3": dict(format="MP3"),
}  # fmt: skip
LEAK = 32  # MiB of growth that still passes: allocators keep a little


def main() -> int:
    """Runs both and prints what came back."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detector", default=ROOT / "models/detector", type=Path)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=50, help="of schemathesis, for every operation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with Service(options.detector, "--max-seconds", 600) as service:
        document = against_document(service, options.examples, options.seed)
        print("\n".join(document.stdout.splitlines()[-25:]))
        broken_files(service, max(20, options.files // 10), options.seed + 1)  # caches fill, memory settles
        memory, files = service.memory()[0], service.open_files()
        statuses = broken_files(service, options.files, options.seed)
        grown, more = service.memory()[0] - memory, service.open_files() - files
        alive, traces = service.process.poll() is None, service.log().count("Traceback")
        print(f"{options.files} broken recordings: " + ", ".join(f"{n} x {s}" for s, n in sorted(statuses.items())))
        print(f"memory: {memory:.0f} MiB before, {grown:+.0f}; open files: {files} before, {more:+d}; "
              f"traces in the log: {traces}; {'still' if alive else 'NOT'} running")  # fmt: skip
    fine = document.returncode == 0 and max(statuses) < 500 and grown < LEAK and more <= 0 and not traces and alive
    print("fine" if fine else "NOT FINE")
    return int(not fine)


def against_document(service: Service, examples: int, seed: int, *options: str) -> subprocess.CompletedProcess:
    """schemathesis against the service's own document."""
    command = ["schemathesis", "run", f"{service.url}/openapi.json", "--checks", CHECKS, "--max-examples", examples]
    command += ["--seed", seed, "--no-color", "--warnings", "off", "--suppress-health-check", "all", *options]
    command[0] = str(Path(sys.executable).parent / command[0])
    with tempfile.TemporaryDirectory() as folder:  # it leaves its examples where it runs
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder)


def broken_files(service: Service, count: int, seed: int) -> Counter:
    """How often each status was answered."""
    statuses = Counter()
    with httpx.Client(base_url=service.url, timeout=120) as client:
        for content in broken(count, seed):
            body, kind = form(("broken", content))
            statuses[client.post("/v1/score", content=body, headers={"Content-Type": kind}).status_code] += 1
    return statuses


def broken(count: int, seed: int) -> Iterator[bytes]:
    """Recordings of two seconds of speech, broken; the same for the same seed."""
    drawn = random.Random(seed)
    whole = [encoded(clip, **options) for options in FORMATS.values() for clip in clips(2.0)[:3]]
    for number in range(count):
        content = bytearray(whole[number % len(whole)])
        for _ in range(drawn.choice((1, 1, 2))):
            drawn.choice((flip, cut, overwrite, splice))(content, drawn)
        yield bytes(content)


def flip(content: bytearray, drawn: random.Random) -> None:
    """Some bits, anywhere."""
    for _ in range(drawn.choice((1, 4, 32)) if content else 0):
        content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)


def cut(content: bytearray, drawn: random.Random) -> None:
    """The end off."""
    del content[drawn.choice((drawn.randrange(64), drawn.randrange(len(content) + 1))) :]


def overwrite(content: bytearray, drawn: random.Random) -> None:
    """A field near the beginning, with a number that a program may stumble over."""
    value = drawn.choice(
        (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, drawn.getrandbits(32))
    )
    size, order = drawn.choice((1, 2, 4)), drawn.choice(("big", "little"))
    start = drawn.randrange(100)
    content[start : start + size] = (value % 256**size).to_bytes(size, order)


def splice(content: bytearray, drawn: random.Random) -> None:
    """A piece doubled or left out."""
    start = drawn.randrange(len(content) + 1)
    piece = content[start : start + drawn.randrange(2000)]
    if drawn.random() < 0.5:
        del content[start : start + len(piece)]
    else:
        content[start:start] = piece * drawn.choice((1, 1, 50))


if __name__ == "__main__":
    sys.exit(main())
