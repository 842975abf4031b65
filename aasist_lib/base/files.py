"""Atomic writing of files, and suggestions for misspelt names."""

import difflib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aasist_lib.base.errors import UserError


@contextmanager
def replacing(path) -> Iterator[Path]:
    """A path beside a file to write to, which atomically replaces the file; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    os.replace(partial, path)


def write(path, content: str | bytes) -> None:
    """Write a file atomically; text as UTF-8."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path, content) -> None:
    """Write JSON atomically, sorted and indented; ValueError for NaN and infinity."""
    write(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def nearest(word, known: Iterable[str]) -> str:
    """The known name nearest to a misspelt `word`, as a question; else the known names."""
    known = list(known)
    near = difflib.get_close_matches(str(word), known, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known[:30])}"


def check(path) -> None:
    """Fail early, with a UserError, where `whole` could not write `path`."""
    try:
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder: name a file in it")
        file = target(path)
        if file is None:
            if not os.access(path, os.W_OK):
                raise PermissionError(0, "Permission denied")
        elif not os.path.isdir(file.parent):
            raise UserError(f"{path} cannot be written: {file.parent} is not a folder: make it first")
        else:
            beside = _beside(file)  # os.access checks permissions only, not a read-only disk
            beside.touch()
            beside.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None


@contextmanager
def whole(path) -> Iterator[Path]:
    """A path to write to, whose content appears under `path` when it is complete, or not at all.

    Links are kept: the file that they point to is replaced. Pipes and devices get the content at the end. UserError if
    `path` cannot be written.
    """
    try:
        file = target(path)
        if file is None:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / "whole"
                with open(Path(folder) / "whole", "rb") as made, _into(path) as into:
                    shutil.copyfileobj(made, into)
            return
        try:
            yield _beside(file)
            os.replace(_beside(file), file)
        finally:
            _beside(file).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None


def target(path) -> Path | None:
    """The regular file, existing or not, behind links; None for a pipe, a device or the file of standard output."""
    try:
        there = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path)) if stat.S_ISREG(there.st_mode) and not _is_output(there) else None


def _is_output(there: os.stat_result) -> bool:
    return os.path.samestat(there, os.fstat(1))


def _into(path):
    return open(os.dup(1) if _is_output(os.stat(path)) else path, "wb")


def _beside(file: Path) -> Path:
    return file.with_name(f".{os.getpid()}.part")  # short, since the file's own name may have the maximum length
