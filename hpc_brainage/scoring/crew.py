"""Workers of Dask, hired for a run and let go at its end.

Everything between the processes goes over TLS with certificates made for the run, since whoever reaches a
Dask scheduler or worker without runs programs as its user. At a scheduler that runs already, Dask's own
configuration says how (`distributed.comm.tls`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpc_brainage.errors import EnvironmentLacks
from hpc_brainage.scoring.dashboard import is_there
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.part_work import THREADS

if TYPE_CHECKING:
    from distributed import Client

MOST_DEATHS = 3
"""Workers that may die of a part before it is given up."""
_CONNECT = "30s"
_LOOKS_EVERY = 1.0  # seconds
ALLOCATOR = {
    # Memory that is freed is kept for the next block. Dask's own setting gives it back at once, and the
    # system clears it page by page each time that it is taken again: half of a worker's time.
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(1 << 26),
    "MALLOC_ARENA_MAX": "1",  # those of other threads give back every large block at once
}
SETTINGS = {
    "distributed.scheduler.allowed-failures": MOST_DEATHS - 1,
    # A worker has one task at a time: one that kills it costs no other part an attempt.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.worker.multiprocessing-method": "spawn",
    # A worker that was killed starts again where it was. Whoever is not back by then is ended for good,
    # even with a task that it has just taken; Dask's 15 s are too few for a busy machine.
    "distributed.deploy.lost-worker-timeout": "2 minutes",
    # What a worker holds is torch's and bounded by the blocks that it reads; Dask could only stop it.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


class Foreman(Protocol):
    """Looks after the workers of a crew."""

    def tend(self, present: int, done: int) -> None:
        """See that those who are gone are replaced.

        Parameters
        ----------
        present : workers that are there.
        done : tasks that are done.

        Raises
        ------
        BrainAgeError : there is no hope of any worker.
        """


@dataclass
class Crew:
    """Workers that take tasks.

    Attributes
    ----------
    client : of their scheduler.
    wanted : how many there shall be, at most.
    threads : of each, which score a part each; 1 where a GPU computes.
    dashboard : where to watch them; "" where there is nothing to see.
    foreman : who looks after them; None where they are not ours.
    """

    client: Client
    wanted: int
    threads: int = 1
    dashboard: str = ""
    foreman: Foreman | None = None
    _looked: float = field(default=-math.inf, init=False)

    @property
    def present(self) -> int:
        """Workers that are there now."""
        return len(self.client.scheduler_info(n_workers=-1)["workers"])

    def tend(self, done: int) -> None:
        """To be called often: now and then, what was lost is replaced.

        Parameters
        ----------
        done : tasks that are done.

        Raises
        ------
        BrainAgeError : there is no hope of any worker.
        """
        if self.foreman is not None and time.monotonic() - self._looked >= _LOOKS_EVERY:
            self._looked = time.monotonic()
            self.foreman.tend(self.present, done)


@contextmanager
def hired(fleet: Fleet, tasks: int, logs: Path) -> Iterator[Crew]:
    """The workers that a fleet asks for, at most as many as there are tasks.

    Parameters
    ----------
    logs : folder for what jobs say, and for what they need to know of one another.

    Raises
    ------
    EnvironmentLacks : there is no SLURM here, or the scheduler cannot be reached.
    UsageError : the cluster has not, or does not give, what is asked for.
    """
    import dask
    import distributed  # noqa: F401  # its defaults must be there before they are changed for a while

    with ExitStack() as held:
        held.enter_context(dask.config.set(SETTINGS))
        held.enter_context(_in_our_words())
        if fleet.scheduler is not None:
            yield held.enter_context(_existing(fleet.scheduler))
        elif fleet.resources is not None:
            from hpc_brainage.scoring.slurm_crew import slurm_crew

            yield held.enter_context(slurm_crew(fleet, fleet.resources, tasks, logs))
        else:
            from hpc_brainage.scoring.local_crew import local_crew

            yield held.enter_context(local_crew(fleet, tasks))


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Keep Dask's and Tornado's logs from the screen: what fails is said by the task's future, or by us."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado.application")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def threads_of(cores: int) -> dict[str, str]:
    """Environment of a worker with so many cores."""
    return {THREADS: str(cores), "OMP_NUM_THREADS": str(cores), "MKL_NUM_THREADS": str(cores)}


@contextmanager
def _existing(address: str) -> Iterator[Crew]:
    """The workers of a scheduler that runs already; TLS as Dask's configuration says."""
    from distributed import Client

    try:
        client = Client(address, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as problem:
        raise EnvironmentLacks(
            f"no Dask scheduler answers ({problem})",
            where=f"--scheduler {address}",
            expected="the address of one that runs, as in tcp://10.1.2.3:8786",
            hint="for tls:// Dask needs distributed.comm.tls in its configuration",
        ) from None
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        link = str(client.dashboard_link)
        threads = min((worker["nthreads"] for worker in workers.values()), default=1)
        yield Crew(client, max(1, len(workers)), threads, link if is_there(link) else "")
