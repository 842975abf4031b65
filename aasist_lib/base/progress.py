"""Progress: a bar where a person watches, a line now and then in a log; an executed notebook records neither."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from tqdm import tqdm

FIRST, EVERY = 5, 25  # seconds to the first line and between lines; what takes less time than the first says nothing
NOBODY, LOG = "", "log"  # of AASIST_TERMINAL: who started this process shows the progress of both; wants lines


def progress(
    iterable: Iterable | None = None,
    total: int | None = None,
    desc: str = "",
    unit: str = "step",
    cost: float | None = None,
) -> "Bar | Lines":
    """A progress bar where somebody watches; elsewhere, a line to standard error at least every 30 seconds.

    On a terminal and in JupyterLab it is a plain tqdm bar. In a notebook that the pipeline runs it goes to the
    terminal of whoever started the pipeline (environment variable `AASIST_TERMINAL`, set by the runner), because what
    a bar writes into an executed notebook differs from run to run. Lines go to the notebook's error stream: the
    pipeline passes it on and does not record it.

    Parameters
    ----------
    iterable : iterable, optional
        What is looped over; without it call `update` yourself, and `close`, or use it in a `with` statement.
    total : int, optional
        Expected length, where it cannot be taken from `iterable`.
    desc, unit : str
        What is being done; what is counted, in the singular.
    cost : float, optional
        What all of it costs, in any unit, where steps take unequal time: give each `update` its share. Lines estimate
        the time left from it. By default all steps cost the same.

    Returns
    -------
    Bar or Lines
        Both have tqdm's `update`, `total`, `set_description`, `set_postfix_str` and `close`, and `skip` for what an
        earlier run has done.

    Examples
    --------
    >>> sum(progress(range(4), desc="adding"))
    6
    """
    file = _screen()
    if file or os.environ.get("AASIST_TERMINAL") == NOBODY or sys.stderr is None:
        # mininterval: a bar redrawn every half second is enough, and costs nothing in loops of many short steps
        return Bar(
            iterable, total=total, desc=desc, unit=unit, file=file, disable=file is None, leave=False, mininterval=0.5
        )
    return Lines(iterable, total, desc, unit, cost)


def at_hand(bar: "Bar | Lines", finished: Iterable, jobs: Iterable, workers: int, name: Callable) -> Iterator:
    """Passes on jobs as they finish, and names beside the bar those at hand: the first that have not finished.

    Parameters
    ----------
    bar : Bar or Lines
    finished : iterable of jobs
        As `workers.in_processes` gives them.
    jobs : iterable
        All of them, in the order in which they are started.
    workers : int
        How many are done at a time.
    name : callable
        A job's name.

    Yields
    ------
    object
        Each finished job.
    """
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
            # NOCTTY: a kernel leads a session of its own and must not take the terminal over with it
            return open(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), "w")
        except OSError:
            return None
    if "ipykernel" in sys.modules and hasattr(sys.stderr, "session"):  # a notebook in JupyterLab
        return sys.stderr
    return sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None


class Bar(tqdm):
    """tqdm's bar; it takes costs and makes nothing of them."""

    def update(self, n: float = 1, cost: float | None = None) -> None:
        super().update(n)

    def skip(self, n: float, cost: float | None = None) -> None:
        """Counts what an earlier run has done: it tells nothing of how fast this one is."""
        if not self.disable:
            self.n += n
            self.initial += n
            self.refresh()


class Lines:
    """Says now and then how far the work is, even while no step ends."""

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
        """Counts what is done, and what it cost."""
        self.n += n
        self.spent += n if cost is None else cost

    def skip(self, n: float, cost: float | None = None) -> None:
        """Counts what an earlier run has done: it tells nothing of how fast this one is."""
        self.n += n
        self.skipped += n if cost is None else cost

    def set_description(self, desc: str) -> None:
        """Says otherwise what is being done."""
        self.desc = desc

    def set_postfix_str(self, doing: str) -> None:
        """Says what is at hand just now."""
        self.doing = doing

    def close(self) -> None:
        """Ends the lines; the last one says how long it all took."""
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
        with suppress(OSError, ValueError):  # a log that cannot be written, or is closed: the work goes on
            print(f"{self.desc}: {text}" if self.desc else text, file=sys.stderr, flush=True)

    def _counted(self) -> str:
        if self.total is None and not self.n:  # one thing that takes long
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
