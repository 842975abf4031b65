"""Worker processes that end, with the programs they started, when this process does."""

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

AHEAD = 2  # jobs submitted per process: one running, one waiting


def on_a_cluster(compute: dict | None) -> bool:
    """Whether the section `compute` of params.yaml asks for Dask."""
    return bool(compute) and compute["backend"] == "dask"


def in_processes(work: Callable, jobs: Iterable, workers: int, setting: str, compute: dict | None = None) -> Iterator:
    """Run jobs in worker processes, one each at a time; yield each job when it is done.

    Jobs are taken from the iterable as processes need them. An error in a job, Ctrl-C or leaving the loop over the
    results ends all processes at once.

    Parameters
    ----------
    work
        A module-level function of a job; its result is dropped.
    jobs
        Started in this order; pickled.
    workers
        Processes; a running cluster uses all that it has.
    setting
        The setting of the number of workers, for messages.
    compute
        The section `compute` of params.yaml: "dask" as `backend` asks for a cluster at `address` (empty: a local one).

    Raises
    ------
    UserError
        If a process was killed; on a cluster, if all that tried a job were, or no scheduler answers.
    """
    if on_a_cluster(compute):
        from aasist_lib.base.cluster import in_cluster

        yield from (job for job, _ in in_cluster(work, jobs, workers, setting, compute["address"]))
        return
    context = multiprocessing.get_context("spawn")  # forking with torch's or a notebook's threads may hang
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
    """Defer Ctrl-C until the worker processes have started; they inherit that it is for the parent."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    held, handler = [], None
    if threading.current_thread() is threading.main_thread():  # the thread that runs Python's signal handlers
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
        os.killpg(0, signal.SIGKILL)  # this process and the programs it started

    signal.signal(signal.SIGTERM, end)
    parent = multiprocessing.parent_process()

    def end_with_parent():  # a parent that was killed cannot end them
        parent.join()
        end()

    threading.Thread(target=end_with_parent, daemon=True).start()
