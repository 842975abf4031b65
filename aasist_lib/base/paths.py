"""Where the project is, and who writes there."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aasist_lib.base.errors import UserError


def root() -> Path:
    """Top folder of the project: the nearest one, here or above, that holds `dvc.yaml`.

    Stages run in it and JupyterLab runs notebooks in `notebooks/`; paths that start from `root()` work in both,
    and in the copies that `dvc exp run --temp` makes.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    UserError
        When no folder from the working directory upwards holds `dvc.yaml`.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(f"no dvc.yaml in {here} or above it: change into the project's folder first")


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Keeps a second run of a stage from the files of the first, which may have outlived a killed `dvc repro`.

    Parameters
    ----------
    lock : pathlib.Path
        A file to lock; the system lets go of it when the process ends, however it does.

    Raises
    ------
    UserError
        Another process has it.
    """
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
