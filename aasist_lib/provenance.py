"""What decides the last digits of a result, beside data, settings, seed and threads."""

import platform
import re
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "numpy", "librosa")


def made_with() -> dict[str, str]:
    """Versions and processor of this machine, kept with what is trained on it.

    Returns
    -------
    dict of str to str
        `python` (as 3.11), each of `LIBRARIES` (without a local suffix such as +cpu), `processor`.

    Examples
    --------
    >>> sorted(made_with())
    ['librosa', 'numpy', 'processor', 'python', 'torch']
    """
    versions = {name: metadata.version(name).partition("+")[0] for name in LIBRARIES}
    return versions | {"python": platform.python_version().rpartition(".")[0], "processor": _processor()}


def _processor() -> str:
    """Family and widest vector instructions: what decides the last digits of a sum, whichever machine of its kind."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    vendor = re.search(r"^vendor_id\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
    widest = next((name for name in ("avx512f", "avx2", "avx") if flags and name in flags[1].split()), None)
    return ", ".join(filter(None, [platform.machine(), vendor and vendor[1], widest and widest.upper().rstrip("F")]))
