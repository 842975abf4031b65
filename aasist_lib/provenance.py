"""What decides the last digits of a result, beside data, settings, seed and threads."""

import ast
import hashlib
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "numpy", "librosa")


def made_with() -> dict[str, str]:
    """Versions that decide the last digits, kept with what is trained with them.

    Returns
    -------
    dict of str to str
        `python` (as 3.11), each of `LIBRARIES` (without a local suffix such as +cpu). Not the processor:
        `pins.env` makes all alike.

    Examples
    --------
    >>> sorted(made_with())
    ['librosa', 'numpy', 'python', 'torch']
    """
    versions = {name: metadata.version(name).partition("+")[0] for name in LIBRARIES}
    return versions | {"python": platform.python_version().rpartition(".")[0]}


def code_key(paths: Iterable[Path | str]) -> bytes:
    """A hash of what modules do, whatever their comments, docstrings and layout say.

    What took hours is kept under such keys: a better docstring must not throw it away, another number must.

    Parameters
    ----------
    paths : iterable of path
        Python files. Their order and folders do not matter, their names do.

    Returns
    -------
    bytes
        32 of them.

    Raises
    ------
    OSError, SyntaxError
        A file is missing, or no Python.
    """
    key = hashlib.sha256()
    for path in sorted(map(Path, paths), key=lambda path: (path.parent.name, path.name)):
        key.update(f"{path.parent.name}/{path.name}\n{_meaning(ast.parse(path.read_bytes()))}\n".encode())
    return key.digest()


def _meaning(node) -> str:
    """A syntax tree as text, without docstrings and without what is empty (which versions of Python differ in).

    >>> _meaning(ast.parse("# as text\\n'What it does.'\\nx = 2"))
    "Module(body=[Assign(targets=[Name(id='x',ctx=Store())],value=Constant(value=2))])"
    """
    if isinstance(node, list):
        return f"[{','.join(map(_meaning, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _is_text(node.body[:1]):
        fields["body"] = node.body[1:]
    kept = ",".join(f"{name}={_meaning(value)}" for name, value in fields.items() if value not in (None, []))
    return f"{type(node).__name__}({kept})"


def _is_text(first: list[ast.stmt]) -> bool:
    """Whether a body begins with a docstring."""
    return any(isinstance(line, ast.Expr) and isinstance(getattr(line.value, "value", None), str) for line in first)


def commit() -> str:
    """Of the checkout that this code is in, shortened, with a "+" where the code is not as it was committed.

    Returns
    -------
    str
        "" where there is no git or no checkout.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor() -> str:
    """Family and widest vector instructions of this machine, for what was timed on it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    vendor = re.search(r"^vendor_id\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
    widest = next((name for name in ("avx512f", "avx2", "avx") if flags and name in flags[1].split()), None)
    return ", ".join(filter(None, [platform.machine(), vendor and vendor[1], widest and widest.upper().rstrip("F")]))
