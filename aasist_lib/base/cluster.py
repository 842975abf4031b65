"""Processes of a Dask cluster: what `workers.in_processes` uses where `compute.backend` is dask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice

from dask.distributed import Client, KilledWorker, LocalCluster, as_completed

from aasist_lib.base.errors import UserError

AHEAD = 2  # jobs a thread of the cluster that are handed out at a time
SECONDS = 30  # in which a scheduler answers


def in_cluster(work: Callable, jobs: Iterable, workers: int, setting: str, address: str) -> Iterator[tuple]:
    """Does the jobs on a cluster, as `workers.in_processes` does here; yields each with its result, when it is done.

    Where a worker ends or is lost, Dask gives what it was at to another. Workers need this library, of the same
    version, and the files that the jobs name, under the same names. Whoever reaches a scheduler can have its workers
    run anything: on a network that others are on, have Dask use TLS.

    Parameters
    ----------
    work, jobs, workers, setting
        As in `workers.in_processes`; so many workers are started where `address` is empty.
    address : str
        Of a scheduler that runs, such as tcp://10.0.0.1:8786.

    Raises
    ------
    UserError
        If no scheduler answers there, or if several workers were killed at the same job.
    """
    jobs = iter(jobs)
    with ExitStack() as stack:
        if not address:
            options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
            address = stack.enter_context(LocalCluster(**options))
        try:
            client = stack.enter_context(Client(address, timeout=SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            raise UserError(f"no scheduler answers at {address} ({error}): start one, or correct the address") from None
        at_work = {}

        def hand_out():
            """As many as keep the workers busy that there are now; others may come and go."""
            wanted = AHEAD * max(1, sum(client.nthreads().values())) - len(at_work)
            new = {client.submit(work, job, pure=False): job for job in islice(jobs, max(0, wanted))}
            at_work.update(new)
            return list(new)

        done = as_completed(hand_out(), loop=client.loop)
        for future in done:
            try:
                result = future.result()
            except KilledWorker:
                raise UserError(
                    f"several processes were killed at the same job, likely for want of memory: set {setting} lower or "
                    "give the workers more memory, and start again; it goes on from what is done"
                ) from None
            job = at_work.pop(future)
            done.update(hand_out())
            yield job, result
