"""Progress bars that a person sees and an executed notebook does not record."""

import os
import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(iterable: Iterable | None = None, total: float | None = None, desc: str = "", unit: str = "it") -> tqdm:
    """A progress bar where somebody watches, and none elsewhere.

    On a terminal and in JupyterLab it is a plain tqdm bar. In a notebook that the pipeline runs it goes to the
    terminal of whoever started the pipeline (environment variable `AASIST_TERMINAL`, set by the runner), because what
    a bar writes into an executed notebook differs from run to run. Logs and pipes get nothing.

    Parameters
    ----------
    iterable : iterable, optional
        What is looped over; without it call `update` yourself.
    total : float, optional
        Expected length, where it cannot be taken from `iterable`.
    desc, unit : str
        What is being done; what is counted.

    Returns
    -------
    tqdm.tqdm

    Examples
    --------
    >>> sum(progress(range(4), desc="adding"))
    6
    """
    file = _screen()
    # mininterval: a bar redrawn every half second is enough, and costs nothing in loops of many short steps
    return tqdm(
        iterable, total=total, desc=desc, unit=unit, file=file, disable=file is None, leave=False, mininterval=0.5
    )


def _screen():
    """The stream to draw on, or None."""
    terminal = os.environ.get("AASIST_TERMINAL")
    if terminal is not None:  # the pipeline runs this; an empty name says that nobody watches
        try:
            # NOCTTY: a kernel leads a session of its own and must not take the terminal over with it
            return open(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), "w") if terminal else None
        except OSError:
            return None
    if "ipykernel" in sys.modules and hasattr(sys.stderr, "session"):  # a notebook in JupyterLab
        return sys.stderr
    return sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None
