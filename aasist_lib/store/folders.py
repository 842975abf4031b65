"""A local folder, or one on any file system that fsspec serves, with the few operations that a store needs."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fsspec.core import url_to_fs

PIECE = 2**20  # bytes read at a time for checksums


class Folder:
    """A folder at a path or URL, `path` where local; files appear complete or not at all."""

    def __init__(self, url):
        self.url = os.fspath(url)
        self._files, self._root = url_to_fs(self.url)
        local = "file" in (self._files.protocol, *self._files.protocol)
        self.path = (Path(self._root) if "://" in self.url else Path(self.url)) if local else None

    def __str__(self) -> str:
        return str(self.path or self.url)

    def beside(self, suffix: str) -> Folder:
        """The folder whose name is this one's with `suffix` appended."""
        return Folder(f"{self}{suffix}")

    def has(self, name: str = "") -> bool:
        """Whether a file of this name exists; without a name, whether the folder does."""
        return self._files.exists(self._at(name))

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """A file or a byte range of it; FileNotFoundError if it is missing."""
        return self._files.cat_file(self._at(name), start, stop)

    def write(self, name: str, content: bytes | str) -> None:
        with self.writing(name) as file:
            file.write(content.encode() if isinstance(content, str) else content)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A seekable file to write to; for a remote folder, a local one that is uploaded when complete."""
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
        """CRC-32 of a file, in hexadecimal."""
        found = 0
        with self._files.open(self._at(name), "rb") as file:
            while piece := file.read(PIECE):
                found = zlib.crc32(piece, found)
        return f"{found:08x}"

    def remove(self, name: str = "") -> None:
        """Remove a subfolder, or this folder, with its content, if it exists."""
        if self.has(name):
            self._files.rm(self._at(name), recursive=True)

    def replace(self, other: Folder) -> None:
        """Take the place of `other`; a kill in between leaves the old one as `<other>.old`."""
        old = other.beside(".old")
        old.remove()
        if other.has():
            other._files.mv(other._root, old._root, recursive=True)
        self._files.mv(self._root, other._root, recursive=True)
        old.remove()

    def move(self, name: str, other: Folder) -> None:
        """Move a file to a folder on the same file system, replacing one of its name."""
        self._files.mv(self._at(name), other._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root
