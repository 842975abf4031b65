"""What the service does under load, beside the bare detector, and what an hour-long recording takes."""

import asyncio
import io
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import numpy as np

from benchmarks.measure import BIN, ROOT, apart, command
from benchmarks.service import Service, clips, encoded, form

CLIP_SECONDS = 4.0


def load(seconds=60, clients=50, workers=0, processes=1, minutes=60, detector="models/detector"):
    """A really started `aasist serve`, asked by so many clients that each wait for their last answer.

    Or several services, which share workers and clients as behind a proxy. Beside it, before and after, `score_one` in
    a loop on the same clips, in as many threads. Clients run on the same cores as the service. Then a new service gets
    a long recording.
    """
    workers = workers or os.cpu_count()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        onnx = f"{folder}/detector.onnx"
        command(BIN / "aasist", "export", "--detector", ROOT / detector, "--output", onnx)
        before = apart(loop, onnx, workers, seconds / 4)
        each = ("--workers", max(1, workers // processes), "--max-requests", max(64, clients))
        services = [stack.enter_context(Service(onnx, *each)) for _ in range(processes)]
        asyncio.run(ask(services, clients, clients / 10))  # caches fill, memory settles
        start, spent = (sum(found) for found in zip(*((x.memory()[0], x.processor()) for x in services), strict=True))
        errors, times, rate = asyncio.run(ask(services, clients, seconds))
        end, after = (sum(found) for found in zip(*((x.memory()[0], x.processor()) for x in services), strict=True))
        stack.close()
        alone, alone_spent = np.mean([before, apart(loop, onnx, workers, seconds / 4)], axis=0).tolist()
        spent = 1e3 * (after - spent) / len(times)
        asked = f"{clients} clients, {processes} x {each[1]} workers"
        yield f"{asked}: requests", len(times), ""
        yield "... errors", errors, ""
        yield "... median", float(np.median(times)), "s"
        yield "... 99th percentile", float(np.percentile(times, 99)), "s"
        yield "... memory at the start", start, "MiB"
        yield "... memory at the end", end, "MiB"
        yield "service", rate, "clips/s"
        yield "... processor time", spent, "ms a clip"
        yield "bare loop", alone, "clips/s"
        yield "... processor time", alone_spent, "ms a clip"
        if minutes:
            with Service(onnx) as service:
                yield f"{minutes} minutes scored", long_recording(service, minutes), "s"
                yield "... memory at most", service.memory()[1], "MiB"


def loop(detector, workers, seconds):
    """Clips a second without a service, and milliseconds of processor time for each."""
    import torch

    from aasist_lib import Detector

    torch.set_num_threads(1)
    loaded, files = Detector.load(detector), [encoded(clip) for clip in clips(CLIP_SECONDS)]
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda file: loaded.score_one(io.BytesIO(file)), files))
        limit, processor = time.perf_counter() + seconds, time.process_time()

        def work(first):
            done = 0
            while time.perf_counter() < limit:
                loaded.score_one(io.BytesIO(files[(first + done) % len(files)]))
                done += 1
            return done

        done = sum(pool.map(work, range(workers)))
    return done / seconds, 1e3 * (time.process_time() - processor) / done


async def ask(services: Sequence[Service], clients: int, seconds: float) -> tuple[int, list[float], float]:
    """Ask for that long, client by client another service: failed requests, seconds of each, good answers a second."""
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
