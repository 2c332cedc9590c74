"""Workers of Dask, hired for a run and let go at its end.

Everything between the processes goes over TLS with certificates made for the run, since whoever reaches a
Dask scheduler or worker without runs programs as its user. At a scheduler that runs already, Dask's own
configuration says how (`distributed.comm.tls`).
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_brainage.errors import EnvironmentLacks, ScoringError
from hpc_brainage.scoring.dashboard import dashboard_options, is_there, link_of
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.part_work import DEVICE, THREADS

if TYPE_CHECKING:
    from distributed import Client

    from hpc_brainage.scoring.slurm_crew import SlurmJobs

MOST_DEATHS = 3
"""Workers that may die of a part before it is given up."""
_CONNECT = "30s"
_PATIENCE = 120.0  # seconds; Dask starts a worker of this machine again at once, and loading takes a few
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
    # What a worker holds is torch's and bounded by the blocks that it reads; Dask could only stop it.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


@dataclass
class Crew:
    """Workers that take tasks.

    Attributes
    ----------
    client : of their scheduler.
    wanted : how many there shall be, at most.
    dashboard : where to watch them; "" where there is nothing to see.
    jobs : those of SLURM, to be looked after; None without.
    patience : seconds without any worker after which none is to be expected any more.
    """

    client: Client
    wanted: int
    dashboard: str = ""
    jobs: SlurmJobs | None = None
    patience: float = math.inf
    _deserted: float | None = field(default=None, init=False)

    @property
    def present(self) -> int:
        """Workers that are there now."""
        return len(self.client.scheduler_info(n_workers=-1)["workers"])

    def tend(self, done: int) -> None:
        """To be called now and then: jobs that were lost are submitted again.

        Parameters
        ----------
        done : tasks that are done.

        Raises
        ------
        BrainAgeError : there is no hope of any worker.
        """
        if self.jobs is not None:
            self.jobs.tend(self.present, done)
        elif self.patience < math.inf:
            if self.present:
                self._deserted = None
                return
            now = time.monotonic()
            self._deserted = now if self._deserted is None else self._deserted
            if now - self._deserted >= self.patience:
                raise ScoringError(
                    f"all workers have ended, and none has come back in {self.patience:.0f} seconds",
                    where=os.uname().nodename,
                    expected="a machine with memory for a worker, where processes can be started",
                    hint="then run the same command again: the parts that are done are kept",
                )


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
            yield held.enter_context(_local(fleet, tasks))


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


@contextmanager
def _local(fleet: Fleet, tasks: int) -> Iterator[Crew]:
    """Processes of this machine: one for each GPU, or one for each core."""
    import dask
    import torch
    from distributed import Client, LocalCluster
    from distributed.security import Security

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = torch.cuda.device_count() if fleet.gpus != 0 else 0
    if fleet.gpus and not gpus:
        raise EnvironmentLacks(
            "this machine has no GPU that PyTorch can use", where=f"--gpus-per-worker {fleet.gpus}"
        )
    places = gpus or cores
    count = max(1, min(fleet.workers or places, places, tasks))
    environment = ALLOCATOR | threads_of(max(1, cores // count)) | ({} if gpus else {DEVICE: "cpu"})
    kind: Any = LocalCluster
    if gpus and importlib.util.find_spec("dask_cuda"):
        import dask_cuda

        kind = dask_cuda.LocalCUDACluster
        environment[DEVICE] = "cuda:0"  # each worker sees its own first
    dashboard = dashboard_options(fleet.dashboard)
    scratch = Path(tempfile.mkdtemp(prefix="brainage-dask-"))
    try:
        with (
            _environment_put_back(),
            dask.config.set({"distributed.nanny.pre-spawn-environ": environment}),
            ExitStack() as held,
        ):
            with _not_interrupted():
                cluster = kind(
                    n_workers=count,
                    threads_per_worker=1,
                    memory_limit=0,
                    protocol="tls",
                    security=Security.temporary(),
                    dashboard_address=dashboard["dashboard_address"],
                    scheduler_kwargs={"dashboard": dashboard["dashboard"]},
                    worker_dashboard_address=None,
                    local_directory=str(scratch),
                    silence_logs=logging.CRITICAL,
                )
                client = held.enter_context(Client(held.enter_context(cluster)))
            yield Crew(client, count, link_of(cluster), patience=_PATIENCE)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
        yield Crew(client, max(1, len(workers)), link if is_there(link) else "")


@contextmanager
def _environment_put_back() -> Iterator[None]:
    """Dask sets what workers are to find in this process's own environment, and leaves it there.

    Whatever is started later would inherit the workers' threads, allocator and device.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the end; processes that are started meanwhile never get one.

    It would end the workers and this process at once, and none of them would be there to tidy up.
    """
    warnings = os.environ.get("PYTHONWARNINGS")
    # Of a worker that must be killed in the middle of a task, the tracker tidies up: no word is needed.
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (warnings, "ignore:resource_tracker")))
    resource_tracker.ensure_running()  # now, since it unblocks a Ctrl-C when it is started
    if warnings is None:
        del os.environ["PYTHONWARNINGS"]
    else:
        os.environ["PYTHONWARNINGS"] = warnings
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
