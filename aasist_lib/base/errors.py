"""The one kind of error that users are meant to read."""

import errno
import functools
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# no space left, quota exceeded, file too large
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """An error that the user can fix: one line that says what was wrong, where, and what to do.

    Commands and notebooks print it without a traceback; commands exit with status 2.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def exit_status(command: Callable[[], int], stage: str = "") -> int:
    """Run a command and print its error to standard error.

    Parameters
    ----------
    command
        Returns an exit status.
    stage
        Name of a pipeline stage, for a last line on what to do next; without it, unexpected errors are raised.

    Returns
    -------
    int
        The command's status; 2 for errors that the user can fix, 130 for Ctrl-C, 1 for unexpected errors.
    """
    try:
        status = command()
    except UserError as error:
        print(error, file=sys.stderr)
        status = 2
    except ModuleNotFoundError as error:
        print(f"{sys.executable} has no {error.name}: activate the environment (. .venv/bin/activate)", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        if not stage:
            raise
        traceback.print_exc()
        status = 1
    if status and stage:
        print(f"{stage}: mend this and give the same command again", file=sys.stderr, flush=True)
    return status


@contextmanager
def full_disk_told(where: Path | str) -> Iterator[None]:
    """Turn an error of a write to a full disk into a UserError that names `where`, which need not exist."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # libraries often drop the error number: any error counts while nothing more can be written
        if getattr(error, "errno", None) not in FULL and not _full(Path(where)):
            raise
        raise UserError(f"{where}: the disk is full; make room and start again, it goes on from what is done") from None


def tells_of_full_disk(argument: str) -> Callable:
    """Decorate a function with `full_disk_told` for the path in this argument."""

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def telling(*args, **kwargs):
            with full_disk_told(signature.bind(*args, **kwargs).arguments[argument]):
                return function(*args, **kwargs)

        return telling

    return decorate


def _full(where: Path) -> bool:
    """Whether not even a few bytes can be written beside `where`."""
    there = next(folder for folder in Path(where).absolute().parents if folder.is_dir())
    try:
        with open(there / ".room", "wb") as file:
            file.write(bytes(1 << 14))
    except OSError as error:
        return error.errno in FULL
    finally:
        try:
            (there / ".room").unlink(missing_ok=True)
        except OSError:
            pass  # a read-only folder is not a full disk
    return False
