"""The project's folder, and locks on its stages."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aasist_lib.base.errors import UserError


def root() -> Path:
    """The nearest folder from here upwards that holds `dvc.yaml`; UserError if there is none."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(f"no dvc.yaml in {here} or above it: change into the project's folder first")


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Lock out a second run of a stage, with a UserError; the first may have outlived a killed `dvc repro`."""
    with open(lock, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            process = file.read().strip()
            raise UserError(
                f"{lock.stem} is being run already, by process {process}: wait until it is done, or stop it "
                f"(kill {process})"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
