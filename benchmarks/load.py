"""What the service does under load, beside the bare detector, and what an hour-long recording takes.

    python benchmarks/load.py [--detector DIR or FILE] [--seconds 60] [--clients 50] [--workers N] [--processes N]

A really started `aasist serve` on loopback, asked by so many clients at a time, each sending a clip of 4 s as soon as
it has its last answer; or several of them, each on a port of its own and with its share of workers and clients, as
behind a proxy. Beside it, in the same run, `Detector.score_one` in a loop on the same clips: before the
service and after it, in as many threads as the service has workers, a process of its own. The clients run on the same
cores as the service, and no clients beside the loop; their processor time is not counted. Then a new service gets a
recording of an hour.
"""

import argparse
import asyncio
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
from service import ROOT, Service, clips, encoded, form

CLIP_SECONDS = 4.0


def main() -> int:
    """Measures and prints; 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detector", type=Path, help="folder, or ONNX file (default: models/detector, exported)")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--processes", type=int, default=1, help="services, which share workers and clients")
    parser.add_argument("--minutes", type=int, default=60, help="length of the long recording; 0: none")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(*bare(options.detector, options.workers, options.seconds))
        return 0
    if not options.detector:
        with tempfile.TemporaryDirectory() as folder:
            options.detector = Path(folder) / "detector.onnx"
            command = [sys.executable, "-m", "aasist_lib.cli", "export", "--output", str(options.detector)]
            subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            return measured(options)
    return measured(options)


def measured(options: argparse.Namespace) -> int:
    """Prints; 1 if a request failed."""
    again = [sys.executable, __file__, "--bare", "--detector", str(options.detector), "--workers", str(options.workers)]

    def loop() -> np.ndarray:
        command = [*again, "--seconds", str(options.seconds / 4)]
        return np.array(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split(), float)

    before = loop()
    each = ("--workers", max(1, options.workers // options.processes), "--max-requests", max(64, options.clients))
    with ExitStack() as stack:
        services = [stack.enter_context(Service(options.detector, *each)) for _ in range(options.processes)]

        def held() -> tuple[float, float]:
            return sum(service.memory()[0] for service in services), sum(service.processor() for service in services)

        asyncio.run(load(services, options.clients, options.clients / 10))  # caches fill, memory settles
        start, processor = held()
        errors, times, rate = asyncio.run(load(services, options.clients, options.seconds))
        end, spent = held()
        processor = 1000 * (spent - processor) / len(times)
    after = loop()
    alone, alone_processor = (before + after) / 2
    print(f"{options.clients} clients, clips of {CLIP_SECONDS:g} s, {options.seconds:g} s, "
          f"{options.processes} x {each[1]} workers")  # fmt: skip
    print(f"requests              {len(times)}")
    print(f"errors                {errors}")
    print(f"median                {np.median(times):.3f} s")
    print(f"99th percentile       {np.percentile(times, 99):.3f} s")
    print(f"memory                {start:.0f} MiB at the start, {end:.0f} MiB at the end")
    print(f"service               {rate:.1f} clips/s, {processor:.2f} ms of processor time a clip")
    print(f"bare loop             {alone:.1f} clips/s ({before[0]:.1f} before, {after[0]:.1f} after), "
          f"{alone_processor:.2f} ms")  # fmt: skip
    print(f"ratio: {rate / alone:.2f}; of processor time: {alone_processor / processor:.2f}")
    if options.minutes:
        with Service(options.detector) as service:
            start = service.memory()[0]
            seconds = long_recording(service, options.minutes)
            print(f"{options.minutes} minutes scored in {seconds:.1f} s; memory {start:.0f} MiB before, "
                  f"{service.memory()[1]:.0f} MiB at most")  # fmt: skip
    return int(errors > 0)


def bare(detector: Path, workers: int, seconds: float) -> tuple[float, float]:
    """Clips a second without a service, and milliseconds of processor time for each."""
    import torch

    from aasist_lib import Detector

    torch.set_num_threads(1)
    loaded, files = Detector.load(detector), [encoded(clip) for clip in clips(CLIP_SECONDS)]
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda file: loaded.score_one(io.BytesIO(file)), files))
        limit, processor = time.perf_counter() + seconds, time.process_time()

        def work(first: int) -> int:
            done = 0
            while time.perf_counter() < limit:
                loaded.score_one(io.BytesIO(files[(first + done) % len(files)]))
                done += 1
            return done

        done = sum(pool.map(work, range(workers)))
    return done / seconds, 1000 * (time.process_time() - processor) / done


async def load(services: Sequence[Service], clients: int, seconds: float) -> tuple[int, list[float], float]:
    """Ask for that long, client by client another of the services.

    Returns
    -------
    errors : int
        Answers other than 200, and broken connections.
    times : list of float
        Seconds of each request.
    rate : float
        Good answers a second.
    """
    requests = []
    for clip in clips(CLIP_SECONDS):
        body, kind = form(("clip.wav", encoded(clip)))
        head = (
            f"POST /v1/score HTTP/1.1\r\nHost: loopback\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    times, errors, began = [], 0, time.perf_counter()

    async def client(number: int) -> None:
        nonlocal errors
        address = services[number % len(services)].address
        reader, writer = await asyncio.open_connection(*address)
        while time.perf_counter() < began + seconds:
            start = time.perf_counter()
            try:
                writer.write(requests[(number + len(times)) % len(requests)])
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                failed = b" 200 " not in head.split(b"\r\n")[0]
            except (OSError, asyncio.IncompleteReadError):
                failed = True
                reader, writer = await asyncio.open_connection(*address)
            errors += failed
            times.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*map(client, range(clients)))
    return errors, times, (len(times) - errors) / (time.perf_counter() - began)


def long_recording(service: Service, minutes: int) -> float:
    """Seconds from sending a recording of that length to its answer."""
    minute = np.resize(np.concatenate(clips(1.0)), 60 * 16000)
    body, kind = form(("long.flac", encoded(np.tile(minute, minutes), format="FLAC")))
    start = time.perf_counter()
    answer = httpx.post(f"{service.url}/v1/score", content=body, headers={"Content-Type": kind}, timeout=600)
    found = answer.raise_for_status().json()["files"][0]
    assert round(found["seconds"]) == 60 * minutes and len(found["windows"]) > 7 * minutes, "not all of it was scored"
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
