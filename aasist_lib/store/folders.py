"""A folder of this machine, or of any file system that fsspec serves, by the few things that a store does with one."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fsspec.core import url_to_fs

PIECE = 2**20  # bytes read at a time where a file is only passed over


class Folder:
    """Where it lies is said by a path or a URL: `features`, `file:///mnt/features`, `s3://bucket/features`.

    A file gets its name when it is complete, so that one that has its name is whole.

    Parameters
    ----------
    url : path or str
        Of a URL, fsspec needs the package that serves it (s3fs for s3://), which finds keys in its own way.

    Attributes
    ----------
    path : Path or None
        Where it is on this machine; None elsewhere.

    Examples
    --------
    >>> folder = Folder("memory://example")
    >>> folder.write("a.txt", b"some text")
    >>> folder.read("a.txt", 5), folder.has("b.txt"), folder.path
    (b'text', False, None)
    """

    def __init__(self, url):
        self.url = os.fspath(url)
        self._files, self._root = url_to_fs(self.url)
        local = "file" in (self._files.protocol, *self._files.protocol)
        self.path = (Path(self._root) if "://" in self.url else Path(self.url)) if local else None

    def __str__(self) -> str:
        return str(self.path or self.url)

    def beside(self, suffix: str) -> Folder:
        """The folder next to this one whose name has this end more."""
        return Folder(f"{self}{suffix}")

    def has(self, name: str = "") -> bool:
        """Whether there is a file of this name; without one, whether the folder is there."""
        return self._files.exists(self._at(name))

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """A file, or a part of it; FileNotFoundError if there is none."""
        return self._files.cat_file(self._at(name), start, stop)

    def write(self, name: str, content: bytes | str) -> None:
        with self.writing(name) as file:
            file.write(content.encode() if isinstance(content, str) else content)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file to write to and to go back in. Elsewhere than here, it is kept here until it is complete."""
        if self.path:
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(target.name + ".new")
            with open(beside, "wb") as file:
                yield file
            os.replace(beside, target)
            return
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            self._files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
            self._files.put_file(file.name, self._at(name))

    def checksum(self, name: str) -> str:
        """CRC-32 of a file, in hexadecimal: finds any change of up to 32 bits in a row, and others all but surely."""
        found = 0
        with self._files.open(self._at(name), "rb") as file:
            while piece := file.read(PIECE):
                found = zlib.crc32(piece, found)
        return f"{found:08x}"

    def remove(self, name: str = "") -> None:
        """A folder in this one, or this one, with what is in it; nothing happens where it is not there."""
        if self.has(name):
            self._files.rm(self._at(name), recursive=True)

    def replace(self, other: Folder) -> None:
        """Take the other's place; whoever is killed in between finds the old one beside it, as `<other>.old`."""
        old = other.beside(".old")
        old.remove()
        if other.has():
            other._files.mv(other._root, old._root, recursive=True)
        self._files.mv(self._root, other._root, recursive=True)
        old.remove()

    def move(self, name: str, other: Folder) -> None:
        """Give a file to another folder of the same file system, in the place of one of that name."""
        self._files.mv(self._at(name), other._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root
