"""Processes that do a part of the work each, and end, with the programs they started, when this one does."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from aasist_lib.errors import UserError


def in_processes(work: Callable, jobs: Iterable, workers: int, setting: str) -> Iterator:
    """Does the jobs in so many processes, one each at a time.

    An error in one of them, Ctrl-C, or a loop over the results that is left early ends all the others at once.

    Parameters
    ----------
    work : callable
        Does a job; what it returns is dropped. Pickled, as the jobs are: a function of a module.
    jobs : iterable
        Started in this order.
    workers : int
        Processes.
    setting : str
        Where the person sets how many, for the message.

    Yields
    ------
    object
        Each job, when it is done.

    Raises
    ------
    UserError
        If a process was killed.
    """
    context = multiprocessing.get_context("spawn")  # a forked copy of torch's or a notebook's threads may hang
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(max(1, workers), context, initializer=_prepare)
    try:
        futures = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BaseException as error:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        raise UserError(
            f"a process was killed, likely for want of memory: set {setting} lower and start again; it goes on from "
            "what is done"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare() -> None:
    os.setpgrp()  # Ctrl-C in a terminal is for the parent, which then ends its processes

    def end(*_):
        os.killpg(0, signal.SIGKILL)  # this process, and the programs that it started

    signal.signal(signal.SIGTERM, end)
    parent = multiprocessing.parent_process()

    def end_with_parent():  # a parent that was killed cannot end them
        parent.join()
        end()

    threading.Thread(target=end_with_parent, daemon=True).start()
