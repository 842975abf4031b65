"""The one kind of error that a person is meant to read."""

import errno
import functools
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# no space left, or none of what this person may use, or of what one file may take
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Something the person can mend: one line that says what was wrong, where, and what to do.

    Command-line programs print it without a traceback and exit with 2; so do notebooks, in JupyterLab and as stages.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def exit_status(command: Callable[[], int], stage: str = "") -> int:
    """Runs a command and says on standard error what went wrong.

    DVC adds only that the stage failed, so the last line of a stage says what to do next.

    Parameters
    ----------
    command : callable
        Returns an exit status.
    stage : str
        Name of the stage; without it, errors that nobody foresaw are raised.

    Returns
    -------
    int
        That of the command; 2 where the person has to mend something, 130 where they stopped it, 1 after an error that
        nobody foresaw.
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
    """Turns an error of a write to a full disk into one line.

    Libraries say it in their own way, often without its number: any error is taken for it that comes while nothing
    more can be written.

    Parameters
    ----------
    where : path
        What is being written; it need not exist.

    Raises
    ------
    UserError
        The disk is full.

    Examples
    --------
    >>> with full_disk_told("features"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    aasist_lib.base.errors.UserError: features: the disk is full; make room and start again, it goes on from what is done
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) not in FULL and not _full(Path(where)):
            raise
        raise UserError(f"{where}: the disk is full; make room and start again, it goes on from what is done") from None


def tells_of_full_disk(argument: str) -> Callable:
    """Decorates a function whose argument of this name is what it writes: see `full_disk_told`."""

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def telling(*args, **kwargs):
            with full_disk_told(signature.bind(*args, **kwargs).arguments[argument]):
                return function(*args, **kwargs)

        return telling

    return decorate


def _full(where: Path) -> bool:
    """Whether not even a few bytes more can be written beside `where`."""
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
            pass  # a folder that cannot be written to, which is another error than a full disk
    return False
