"""What decides the last digits of a result besides data, settings, seed and threads."""

import ast
import functools
import hashlib
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "numpy", "librosa")
LIBRARY = Path(__file__).parents[1]
NO_RESULT = ("cluster", "errors", "paths", "progress", "provenance", "workers")  # modules of `base` that decide none


def made_with() -> dict[str, str]:
    """Versions that decide the last digits: Python and `LIBRARIES`, without local suffixes such as +cpu."""
    versions = {name: metadata.version(name).partition("+")[0] for name in LIBRARIES}
    return versions | {"python": platform.python_version().rpartition(".")[0]}


def code_of(*sources: str) -> dict[str, str]:
    """A hash of each module of this library that the code needs, directly or not.

    `sources` are names of modules ("aasist_lib.training") or Python code. Comments, docstrings and layout do not count,
    nor do the modules `NO_RESULT` of `base`. OSError if there is no such module.

    >>> sorted(code_of("from aasist_lib.base import files, paths"))
    ['aasist_lib.base.files']
    """
    found, waiting, without = {}, [], {"aasist_lib.base", *(f"aasist_lib.base.{name}" for name in NO_RESULT)}
    for source in sources:
        waiting += [source] if source.startswith("aasist_lib.") else _imports(ast.parse(source), "")
    while waiting:
        name = waiting.pop()
        if name in found or name in without:
            continue
        tree, meaning = _parsed(_file(name).read_bytes())
        found[name] = hashlib.sha256(meaning.encode()).hexdigest()
        waiting += _imports(tree, name if _file(name).name == "__init__.py" else name.rpartition(".")[0])
    return dict(sorted(found.items()))


def code_key(*modules: str, alone: Iterable[str] = ()) -> bytes:
    """A hash (32 bytes) of what modules and all that they import do; `alone` are counted without their imports.

    It is the key of kept work: a changed docstring keeps it, a changed number does not. `params` does not count, since
    it only says which settings are valid.
    """
    found = code_of(*modules) | {name: _parsed(_file(name).read_bytes())[1] for name in alone}
    found.pop("aasist_lib.params", None)
    return hashlib.sha256(repr(sorted(found.values())).encode()).digest()


def _imports(tree: ast.AST, package: str) -> list[str]:
    """Modules of the library imported anywhere in the code of a package; re-exported names count as their origin."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("aasist_lib.")]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -node.level + 1 or None] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            if module.partition(".")[0] == "aasist_lib":
                found += [_origin(module, alias.name) for alias in node.names]
    return [name for name in found if name != "aasist_lib"]


def _origin(module: str, name: str) -> str:
    """The module that `name` of `module` is, or is defined in."""
    if _file(f"{module}.{name}").is_file():
        return f"{module}.{name}"
    if (room := _file(module)).name == "__init__.py":
        for node in _parsed(room.read_bytes())[0].body:
            if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
                return _origin(node.module, name)
    return module


def _file(module: str) -> Path:
    path = LIBRARY.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache  # most stages need most modules
def _parsed(source: bytes) -> tuple[ast.Module, str]:
    """A module's syntax tree, and what it does."""
    tree = ast.parse(source)
    return tree, _meaning(tree)


def _meaning(node) -> str:
    """A syntax tree as text, without docstrings and empty fields, in which versions of Python differ."""
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
    """Short hash of the checkout's commit, with "+" for uncommitted changes in this folder; "" without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(LIBRARY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor() -> str:
    """Architecture, vendor and widest vector instructions of this machine, for timings."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    vendor = re.search(r"^vendor_id\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
    widest = next((name for name in ("avx512f", "avx2", "avx") if flags and name in flags[1].split()), None)
    return ", ".join(filter(None, [platform.machine(), vendor and vendor[1], widest and widest.upper().rstrip("F")]))
