"""Progress: a bar on a terminal, lines in a log; executed notebooks record neither."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from tqdm import tqdm

FIRST, EVERY = 5, 25  # seconds to the first line and between lines; shorter work prints nothing
NOBODY, LOG = "", "log"  # values of AASIST_TERMINAL: the parent process shows progress; lines are wanted


def progress(
    iterable: Iterable | None = None,
    total: int | None = None,
    desc: str = "",
    unit: str = "step",
    cost: float | None = None,
) -> "Bar | Lines":
    """A progress bar on a terminal or in JupyterLab, else a line to standard error at least every 30 seconds.

    In a notebook run by the pipeline, the bar goes to the terminal named by `AASIST_TERMINAL`, since a bar recorded in
    a notebook would differ from run to run; lines go to its error stream, which the pipeline does not record.

    Parameters
    ----------
    iterable
        To loop over; without it, call `update` and `close`, or use a `with` statement.
    total, desc, unit
        As of tqdm; `unit` in the singular.
    cost
        Total cost in any unit, where steps take unequal time: `update` gets each step's share, to estimate the time
        left.

    Returns
    -------
    Bar or Lines
        With tqdm's `update`, `total`, `set_description`, `set_postfix_str` and `close`, and `skip` for steps of an
        earlier run.

    Examples
    --------
    >>> sum(progress(range(4), desc="adding"))
    6
    """
    file = _screen()
    if file or os.environ.get("AASIST_TERMINAL") == NOBODY or sys.stderr is None:
        # mininterval: redrawing twice a second costs nothing in loops of many short steps
        return Bar(
            iterable, total=total, desc=desc, unit=unit, file=file, disable=file is None, leave=False, mininterval=0.5
        )
    return Lines(iterable, total, desc, unit, cost)


def at_hand(bar: "Bar | Lines", finished: Iterable, jobs: Iterable, workers: int, name: Callable) -> Iterator:
    """Pass on `finished` jobs and show the names of the first `workers` unfinished ones beside the bar."""
    waiting = list(jobs)

    def names() -> str:
        return " and ".join(filter(None, map(name, waiting[:workers])))

    bar.set_postfix_str(names())
    for job in finished:
        waiting.remove(job)
        bar.set_postfix_str(names())
        yield job


def _screen():
    """The stream to draw on, or None."""
    terminal = os.environ.get("AASIST_TERMINAL")
    if terminal in (NOBODY, LOG):
        return None
    if terminal is not None:  # the pipeline runs this
        try:
            # NOCTTY: a kernel leads its own session and must not take over the terminal
            return open(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), "w")
        except OSError:
            return None
    if "ipykernel" in sys.modules and hasattr(sys.stderr, "session"):  # a notebook in JupyterLab
        return sys.stderr
    return sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None


class Bar(tqdm):
    """tqdm's bar; it ignores costs."""

    def update(self, n: float = 1, cost: float | None = None) -> None:
        super().update(n)

    def skip(self, n: float, cost: float | None = None) -> None:
        """Count steps of an earlier run, which say nothing about the speed of this one."""
        if not self.disable:
            self.n += n
            self.initial += n
            self.refresh()


class Lines:
    """Progress as log lines at intervals, also while no step ends."""

    def __init__(self, iterable, total, desc, unit, cost):
        self.iterable, self.desc, self.unit, self.cost, self.doing = iterable, desc, unit, cost, ""
        self.total = len(iterable) if total is None and hasattr(iterable, "__len__") else total
        self.n = self.skipped = self.spent = 0
        self.said, self.start, self.ended = False, time.monotonic(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __iter__(self) -> Iterator:
        with self:
            for step in self.iterable:
                yield step
                self.update()

    def update(self, n: float = 1, cost: float | None = None) -> None:
        self.n += n
        self.spent += n if cost is None else cost

    def skip(self, n: float, cost: float | None = None) -> None:
        """As `Bar.skip`."""
        self.n += n
        self.skipped += n if cost is None else cost

    def set_description(self, desc: str) -> None:
        self.desc = desc

    def set_postfix_str(self, doing: str) -> None:
        self.doing = doing

    def close(self) -> None:
        """End the lines; the last one gives the total time."""
        if self.ended.is_set():
            return
        self.ended.set()
        if self.said and self.n == self.total:
            self._say(f"{self._counted()} in {_duration(time.monotonic() - self.start)}")

    def _watch(self) -> None:
        wait = FIRST
        while not self.ended.wait(wait):
            self.said, wait = True, EVERY
            self._say(", ".join(part for part in (self._counted(), self.doing, self._left()) if part))

    def _say(self, text: str) -> None:
        with suppress(OSError, ValueError):  # the work goes on without a writable log
            print(f"{self.desc}: {text}" if self.desc else text, file=sys.stderr, flush=True)

    def _counted(self) -> str:
        if self.total is None and not self.n:  # one long step
            return ""
        done = f"{self.n:,}" if self.total is None else f"{self.n:,} of {self.total:,}"
        return f"{done} {self.unit}{'' if (self.total or self.n) == 1 else 's'}"

    def _left(self) -> str:
        gone = time.monotonic() - self.start
        if not self.spent or self.total is None:
            return f"{_duration(gone)} so far"
        rest = (self.total if self.cost is None else self.cost) - self.skipped - self.spent
        return f"about {_duration(gone * max(rest, 0) / self.spent)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
