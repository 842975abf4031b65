"""Files that are there whole or not at all, and names that were nearly right."""

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
    """A name beside a file's to write to, which takes the file's place in one step. Its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    os.replace(partial, path)


def write(path, content: str | bytes) -> None:
    """Write a file in one step; text as UTF-8."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path, content) -> None:
    """Write JSON in one step, sorted and indented; ValueError for NaN and infinity, which JSON lacks."""
    write(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def nearest(word, known: Iterable[str]) -> str:
    """What somebody meant who wrote `word`, as a question; else what there is.

    >>> nearest("lcqt", ["mfcc", "cqt"]), nearest("?", ["mfcc", "cqt"])
    ("did you mean 'cqt'?", 'there are mfcc, cqt')
    """
    known = list(known)
    near = difflib.get_close_matches(str(word), known, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known[:30])}"


def check(path) -> None:
    """Refuses what `whole` could not write, before an hour of work and not after it.

    Parameters
    ----------
    path : path

    Raises
    ------
    UserError
        It is a folder, lies in none, or may not be written.
    """
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
            beside = _beside(file)  # os.access would ask for rights alone, not for a disk that takes no writing
            beside.touch()
            beside.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None


@contextmanager
def whole(path) -> Iterator[Path]:
    """Where to write a file that appears under its name when all of it is there, or not at all.

    A link stays one: the file that it points to is replaced. Into what is no regular file, such as a pipe or a device,
    the content is written.

    Parameters
    ----------
    path : path

    Yields
    ------
    Path
        A name beside it, or in a temporary folder.

    Raises
    ------
    UserError
        It cannot be written.
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
    """The regular file, there or not yet, that a name stands for.

    Parameters
    ----------
    path : path

    Returns
    -------
    Path or None
        Without links; None for a pipe, a device, or the file that standard output goes to, which may be appended to.
    """
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
    return file.with_name(f".{os.getpid()}.part")  # short: the name itself may be as long as names can be
