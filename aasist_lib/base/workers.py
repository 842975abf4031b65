"""Processes that do a part of the work each, and end, with the programs they started, when this one does."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from aasist_lib.base.errors import UserError

AHEAD = 2  # jobs a process that are handed out at a time: one to do, one to go on with


def on_a_cluster(compute: dict | None) -> bool:
    """Whether these settings (section `compute` of params.yaml) ask for processes of Dask."""
    return bool(compute) and compute["backend"] == "dask"


def in_processes(work: Callable, jobs: Iterable, workers: int, setting: str, compute: dict | None = None) -> Iterator:
    """Does the jobs in so many processes, one each at a time.

    Jobs are taken from `jobs` when a process is about to need one. An error in one of them, Ctrl-C, or a loop over the
    results that is left early ends all the others at once.

    Parameters
    ----------
    work : callable
        Does a job; what it returns is dropped. Pickled, as the jobs are: a function of a module.
    jobs : iterable
        Started in this order.
    workers : int
        Processes; of a cluster that runs already, as many as it has.
    setting : str
        Where the person sets how many, for the message.
    compute : dict, optional
        The section `compute` of params.yaml: `backend`, of which `dask` asks for a cluster, and the `address` of its
        scheduler, where it is not to be one of this machine. By default, processes of this machine without Dask.

    Yields
    ------
    object
        Each job, when it is done.

    Raises
    ------
    UserError
        If a process was killed; on a cluster, if all that tried the same job were, or if there is none.
    """
    if on_a_cluster(compute):
        from aasist_lib.base.cluster import in_cluster

        yield from (job for job, _ in in_cluster(work, jobs, workers, setting, compute["address"]))
        return
    context = multiprocessing.get_context("spawn")  # a forked copy of torch's or a notebook's threads may hang
    others = multiprocessing.active_children()
    jobs, workers = iter(jobs), max(1, workers)
    pool = ProcessPoolExecutor(workers, context, initializer=_prepare)
    try:
        with _interrupted_later():  # the processes start here
            futures = {pool.submit(work, job): job for job in itertools.islice(jobs, AHEAD * workers)}
        while futures:
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                future.result()
                done = futures.pop(future)
                futures |= {pool.submit(work, job): job for job in itertools.islice(jobs, 1)}
                yield done
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


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Ctrl-C waits until the processes are there that start here. They inherit that it is for the parent alone."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    held, handler = [], None
    if threading.current_thread() is threading.main_thread():  # where Python handles what another thread received
        handler = signal.signal(signal.SIGINT, lambda *_: held.append(True))
    try:
        yield
    finally:
        if handler:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if held:
        signal.raise_signal(signal.SIGINT)


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
