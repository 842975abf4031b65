"""A really started `aasist serve` on a free port of loopback, for load.py, fuzz.py and the tests. Linux alone."""

import io
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.measure import ROOT, memory, speech

STARTS_WITHIN = 120  # seconds


class Service:
    """Context manager: `aasist serve` with further options, and variables of its environment."""

    def __init__(self, detector, *options, **environment):
        command = [sys.executable, "-m", "aasist_lib.cli", "serve", "--detector", str(detector), "--port", "0"]
        self._log = tempfile.TemporaryFile("w+")
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [*command, *map(str, options)], stdout=self._log, stderr=self._log, text=True,
            env=os.environ | {"PYTHONPATH": path} | environment,
        )  # fmt: skip
        limit = time.monotonic() + STARTS_WITHIN
        while not (found := re.search(r"serving on (http://\S+)", self.log())):
            if self.process.poll() is not None or time.monotonic() > limit:
                self.process.kill()
                raise RuntimeError(f"the service did not start: {self.log()}")
            time.sleep(0.05)
        self.url = found[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self._log.close()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    def log(self) -> str:
        """What it has printed."""
        return os.pread(self._log.fileno(), 2**24, 0).decode()

    def memory(self) -> tuple[float, float]:
        """MiB that it holds now, and the most that it ever held."""
        held = memory(self.process.pid)
        return held["VmRSS"] * 1e6 / 2**20, held["VmHWM"] * 1e6 / 2**20

    def processor(self) -> float:
        """Seconds of processor time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """Of the process, sockets included."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def clips(seconds: float, rate: int = 16000) -> list[np.ndarray]:
    """Real speech, joined and cut to pieces of that length."""
    sound, size = speech(rate), round(seconds * rate)
    return [sound[start : start + size] for start in range(0, len(sound) - size + 1, size)]


def encoded(samples: np.ndarray, rate: int = 16000, format: str = "WAV", **options) -> bytes:
    """A file's bytes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, **options)
    return file.getvalue()


def form(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """Body and content type of a form with these files."""
    parts = [
        f'--limit\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join([*parts, b"--limit--\r\n"]), "multipart/form-data; boundary=limit"
