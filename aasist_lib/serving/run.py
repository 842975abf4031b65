"""`aasist serve`: a detector, a socket, and uvicorn around the app."""

import hashlib
import io
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

from aasist_lib.base.errors import UserError
from aasist_lib.serving.limits import Limits

TOKEN = "AASIST_TOKEN"


def build(detector: str | Path, limits: Limits, token: str | None):
    """Load a detector (folder or ONNX file), try it, and create the app; UserError if it does not load or score."""
    try:
        from aasist_lib.serving.app import create_app
    except ModuleNotFoundError as error:
        raise UserError(
            f'the service needs {error.name}: in a checkout of the project, pip install ".[serve]"'
        ) from None
    from aasist_lib.detector import Detector

    quiet()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # recordings are scored in parallel, one thread each
    loaded = Detector.load(detector)
    app = create_app(loaded, hashes(detector), limits, token)
    _try_out(app.state.scorer, detector)
    return app


def _try_out(scorer, detector: str | Path) -> None:
    """Score 2 s of faint noise in the thread pool: finds failures now, and the first request waits for no import."""
    from aasist_lib.serving.inference import Unscorable

    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.01, 32000), 16000, format="WAV")
    try:
        scorer.pool.submit(scorer.score_one, file).result()
    except Unscorable as error:
        raise UserError(f"{detector} does not score faint noise ({error.detail}): train or export it again") from None


def hashes(detector: str | Path) -> dict[str, str]:
    """SHA-256 of network and calibration; both the same for an ONNX file, which contains both."""
    detector = Path(detector)
    network, calibration = detector, detector
    if detector.is_dir():
        network, calibration = detector / "network.safetensors", detector / "calibration.json"
    found = {}
    for name, path in (("network", network), ("calibration", calibration)):
        with open(path, "rb") as file:
            found[f"{name}_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def token(file: str | None = None) -> str | None:
    """Read the token from a file, else from the environment; None if there is none."""
    if file is None:
        return os.environ.get(TOKEN, "").strip() or None
    try:
        found = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"--token-file: {file} cannot be read ({getattr(error, 'strerror', error)})") from None
    if not found:
        raise UserError(f"--token-file: {file} is empty")
    return found


def quiet() -> None:
    """Silence logs of libraries that repeat parts of a request."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    logging.getLogger("mangum.http").setLevel(logging.CRITICAL)


def serve(detector: str | Path, host: str, port: int, limits: Limits, token: str | None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is running; port 0 takes a free one and prints it."""
    listener = _bind(host, port)
    app = build(detector, limits, token)
    concurrency = app.state.concurrency
    import uvicorn

    class Server(uvicorn.Server):
        """Keeps listening until running requests end, so that /readyz can report the shutdown."""

        deadline = None

        async def startup(self, sockets=None):
            await super().startup(sockets)
            _say_where(listener, token)

        def handle_exit(self, sig, frame):
            if self.deadline is not None and sig == signal.SIGINT:  # a second Ctrl-C
                self.force_exit = True
            self.deadline = self.deadline or time.monotonic() + limits.grace
            concurrency.closing = True

        async def on_tick(self, counter):
            if self.deadline and (self.force_exit or not concurrency.count or time.monotonic() > self.deadline):
                self.should_exit = True
            return await super().on_tick(counter)

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none", proxy_headers=False,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    Server(config).run([listener])


def _bind(host: str, port: int) -> socket.socket:
    """Bind the address first, so that one in use is reported before anything is loaded."""
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        taken.close()
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot listen there ({why})") from None
    return taken


def _say_where(listener: socket.socket, token: str | None) -> None:
    host, port = listener.getsockname()[:2]
    print(f"aasist: serving on http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)
    if token is None and not (host.startswith("127.") or host == "::1"):
        said = f"anyone who reaches that address may use it: --token-file or {TOKEN} asks for a token"
        print(f"aasist: {said}", file=sys.stderr, flush=True)
