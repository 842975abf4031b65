"""Processes of a Dask cluster, which `workers.in_processes` uses where `compute.backend` is dask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice

from dask.distributed import Client, KilledWorker, LocalCluster, as_completed

from aasist_lib.base.errors import UserError

AHEAD = 2  # jobs submitted per thread of the cluster
SECONDS = 30  # timeout of the connection to a scheduler


def in_cluster(work: Callable, jobs: Iterable, workers: int, setting: str, address: str) -> Iterator[tuple]:
    """As `workers.in_processes` on the Dask scheduler at `address` (empty: a local one); yields jobs and results."""
    # Dask reassigns the jobs of lost workers. Whoever reaches a scheduler can run code on its workers: use TLS.
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
            """Submit enough jobs for the workers there are now; workers may come and go."""
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
