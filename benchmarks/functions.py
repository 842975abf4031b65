"""What a cloud function of the service costs: its start, a request, and a million of them at given prices.

    python benchmarks/functions.py [--requests 30] [--gb 1.0] [--price-request 0.20] [--price-gb-second 0.0000166667]

The handler for AWS Lambda is called in a process of its own with an event as an HTTP API sends it, a form with 4 s of
speech, on an ONNX file and on one thread. Cold is from the start of the interpreter to the first answer, without what
the platform needs to fetch the code; warm is the median of the answers after it. Size is what `pip` would unpack: the
package's own dependencies and those of the extras serve and functions, as they lie in this environment, and the file.

Prices are yours to give: dollars for a million requests and for a second of a gigabyte. The defaults are list prices of
AWS Lambda on x86 in US East as third parties quote them (looked at in November 2026), without free tier and traffic.
"""

import argparse
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 4


def main() -> int:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--detector", type=Path, default=ROOT / "models/detector")
    parser.add_argument("--gb", type=float, default=1.0, help="memory that the function is given")
    parser.add_argument("--price-request", type=float, default=0.20, metavar="DOLLARS", help="for a million")
    parser.add_argument("--price-gb-second", type=float, default=0.0000166667, metavar="DOLLARS")
    parser.add_argument("--child", metavar="EVENT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(answered(Path(options.child), options.requests)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        command = [sys.executable, "-m", "aasist_lib.cli", "export", "--detector", options.detector]
        subprocess.run([*command, "--output", work / "detector.onnx"], check=True, capture_output=True, cwd=ROOT)
        (work / "event.json").write_text(json.dumps(event()))
        command = [sys.executable, __file__, "--child", str(work / "event.json"), "--requests", str(options.requests)]
        environment = os.environ | {
            "AASIST_DETECTOR": str(work / "detector.onnx"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)
        }  # fmt: skip
        start = time.time()
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found = json.loads(done.stdout)
        megabytes = size() + (work / "detector.onnx").stat().st_size / 1e6
    warm = statistics.median(found["seconds"])
    print(f"package and detector: {megabytes:.0f} MB")
    print(f"cold: {found['first'] - start:.2f} s to the first answer")
    print(f"warm: {1000 * warm:.1f} ms for {SECONDS} s of speech")
    dollars = options.price_request + 1e6 * warm * options.gb * options.price_gb_second
    print(f"a million requests at {options.gb:g} GB: {1e6 * warm * options.gb:.0f} GB seconds, {dollars:.2f} dollars")
    return 0


def answered(path: Path, requests: int) -> dict:
    """When the first answer was there, and the seconds of each after it."""
    from aasist_lib.serving import functions

    asked, seconds, first = json.loads(path.read_text()), [], 0.0
    for _ in range(requests + 1):
        start = time.perf_counter()
        answer = functions.aws_lambda(asked, None)
        if answer["statusCode"] != 200:
            sys.exit(answer["body"])
        first = first or time.time()
        seconds.append(time.perf_counter() - start)
    return {"first": first, "seconds": seconds[1:]}


def event() -> dict:
    """A request with 4 s of real speech as a form."""
    import io

    import numpy as np
    import soundfile

    from aasist_lib import audio

    clip = audio.read(sorted((ROOT / "tests/speech").glob("*.flac"))[0], 16000)
    file = io.BytesIO()
    soundfile.write(file, np.resize(clip, SECONDS * 16000), 16000, format="FLAC")
    head = '--limit\r\nContent-Disposition: form-data; name="file"; filename="voice.flac"\r\n\r\n'
    body = head.encode() + file.getvalue() + b"\r\n--limit--\r\n"
    kind = "multipart/form-data; boundary=limit"
    return {
        "version": "2.0", "routeKey": "$default", "rawPath": "/v1/score", "rawQueryString": "",
        "headers": {"host": "example.org", "content-type": kind, "content-length": str(len(body))},
        "requestContext": {
            "http": {"method": "POST", "path": "/v1/score", "sourceIp": "192.0.2.1"}, "stage": "$default"
        },
        "body": base64.b64encode(body).decode(), "isBase64Encoded": True,
    }  # fmt: skip


def size() -> float:
    """MB of all that `aasist[serve,functions]` needs."""
    waiting, seen, total = [("aasist", {"serve", "functions"})], set(), 0
    while waiting:
        name, extras = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system or Python
        if name != "aasist":
            total += sum(file.locate().stat().st_size for file in found.files or () if file.locate().is_file())
        for line in found.requires or ():
            needed, _, condition = line.partition(";")
            extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", condition)
            if extra is None or extra[1] in extras:
                waiting.append((re.match(r"[\w.-]+", needed)[0], set()))
    return total / 1e6


if __name__ == "__main__":
    sys.exit(main())
