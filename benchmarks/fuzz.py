"""What broken requests do to the service: its own OpenAPI document turned against it, then broken recordings.

Nothing may answer 5xx, nothing may end the process or print a trace, and neither memory nor open files may grow.
"""

import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator

import httpx

from benchmarks.measure import BIN, ROOT
from benchmarks.service import Service, clips, encoded, form

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


def fuzz(files=2000, examples=50, seed=0, detector="models/detector"):
    """schemathesis against a really started `aasist serve`, then real speech broken in many ways."""
    with Service(ROOT / detector, "--max-seconds", 600) as service:
        document = against_document(service, examples, seed)
        print("\n".join(document.stdout.splitlines()[-25:]))
        broken_files(service, max(20, files // 10), seed + 1)  # caches fill, memory settles
        memory, before = service.memory()[0], service.open_files()
        statuses = broken_files(service, files, seed)
        grown, more = service.memory()[0] - memory, service.open_files() - before
        alive, traces = service.process.poll() is None, service.log().count("Traceback")
    fine = document.returncode == 0 and max(statuses) < 500 and grown < LEAK and more <= 0 and not traces and alive
    if not fine:
        sys.exit(f"NOT FINE: {dict(statuses)}, memory {grown:+.0f} MiB, open files {more:+d}, traces {traces}")
    for status, count in sorted(statuses.items()):
        yield f"broken recordings, status {status}", count, ""
    yield "memory grew by", grown, "MiB"


def against_document(service: Service, examples: int, seed: int, *options: str) -> subprocess.CompletedProcess:
    """schemathesis against the service's own document."""
    command = ["schemathesis", "run", f"{service.url}/openapi.json", "--checks", CHECKS, "--max-examples", examples]
    command += ["--seed", seed, "--no-color", "--warnings", "off", "--suppress-health-check", "all", *options]
    command[0] = str(BIN / "schemathesis")
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
