"""Workers as processes of this machine: one for each GPU, or one for each core."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import active_children, resource_tracker
from pathlib import Path
from typing import Any

from hpc_brainage.errors import EnvironmentLacks, ScoringError
from hpc_brainage.scoring.crew import ALLOCATOR, Crew, threads_of
from hpc_brainage.scoring.dashboard import dashboard_options, link_of
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.part_work import DEVICE

_PATIENCE = 120.0  # seconds; starting takes a few, and on a busy machine tens
_LOST_FOR_NOTHING = 3
"""Workers in a row, for each that is wanted, that may be given up without a part being done."""
_LEAVE = 30.0  # seconds
# A worker that was killed is started again, however long that takes.
_LOST_IS_NOT_GONE = {"distributed.deploy.lost-worker-timeout": "1000 days"}


@contextmanager
def local_crew(fleet: Fleet, tasks: int) -> Iterator[Crew]:
    """Start the processes, which are let go at the end; they come when they are ready.

    Raises
    ------
    EnvironmentLacks : there is no such GPU, or dask-cuda is there and cannot be used.
    """
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
    threads = max(1, cores // count)
    environment = ALLOCATOR | threads_of(threads) | ({} if gpus else {DEVICE: "cpu"})
    kind: Any = LocalCluster
    if gpus and importlib.util.find_spec("dask_cuda"):
        kind = _cuda_cluster()
        environment[DEVICE] = "cuda:0"  # each worker sees its own first
    dashboard = dashboard_options(fleet.dashboard)
    scratch = Path(tempfile.mkdtemp(prefix="brainage-dask-"))
    try:
        with (
            _environment_put_back(),
            dask.config.set({"distributed.nanny.pre-spawn-environ": environment, **_LOST_IS_NOT_GONE}),
            ExitStack() as held,
        ):
            strangers = set(active_children())
            with _not_interrupted():
                cluster = kind(
                    # Dask would wait here for one that does not come; dask-cuda takes nothing else.
                    n_workers=0 if kind is LocalCluster else count,
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
                held.callback(_let_go, cluster, strangers)
                client = held.enter_context(Client(cluster))
                cluster.scale(count)
            yield Crew(
                client, count, 1 if gpus else threads, link_of(cluster), LocalWorkers(cluster, count)
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class LocalWorkers:
    """The processes of a crew: others in the place of those that Dask has given up."""

    def __init__(self, cluster: Any, count: int) -> None:
        self._cluster, self._count = cluster, count
        self._lost, self._done = 0, 0
        self._deserted: float | None = None

    def tend(self, present: int, done: int) -> None:
        """See what has become of the workers.

        Parameters
        ----------
        present : workers that are there.
        done : parts that this run has scored.

        Raises
        ------
        ScoringError : none has been there for long, or they end again and again.
        """
        if done > self._done:
            self._lost, self._done = 0, done
        now = time.monotonic()
        if present:
            self._deserted = None
        elif self._deserted is None:
            self._deserted = now
        elif now - self._deserted >= _PATIENCE:
            raise _hopeless(f"there is no worker, and none has come in {_PATIENCE:.0f} seconds")
        self._replace_given_up()
        if self._lost > _LOST_FOR_NOTHING * self._count:
            raise _hopeless(f"{self._lost} workers could not be started or ended at once")

    def _replace_given_up(self) -> None:
        """Dask gives up a worker that fails to start, as when it reaches the scheduler too late."""
        each = dict(self._cluster.workers)
        given_up = [name for name, worker in each.items() if worker.status.name in ("closed", "failed")]
        self._lost += len(given_up)
        if given_up:
            self._cluster.loop.add_callback(self._start_again, given_up)

    def _start_again(self, names: list[Any]) -> None:
        """In the cluster's own thread: the places of these are free, under their old names."""
        for name in names:
            self._cluster.workers.pop(name, None)
        self._cluster.scale(self._count)


def _hopeless(what: str) -> ScoringError:
    return ScoringError(
        what,
        where=os.uname().nodename,
        expected="a machine with memory for a worker, where processes can be started",
        hint="then run the same command again: the parts that are done are kept",
    )


def _cuda_cluster() -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except Exception as problem:  # what it needs, and what that says, depends on driver and versions
        raise EnvironmentLacks(
            f"dask-cuda is installed, and cannot be used ({problem})",
            where="--gpus-per-worker",
            expected="a dask-cuda that fits this Dask and this machine's driver, or none",
            hint="without it (pip uninstall dask-cuda) each worker takes a GPU of its own just as well",
        ) from None
    return LocalCUDACluster


def _let_go(cluster: Any, strangers: set[Any]) -> None:
    """Close the cluster; processes that do not follow are killed, since Dask would wait for ever.

    Parameters
    ----------
    strangers : processes of this one that were there before.
    """

    def kill() -> None:
        for process in set(active_children()) - strangers:
            process.kill()

    last_word = threading.Timer(_LEAVE, kill)
    last_word.daemon = True
    last_word.start()
    try:
        with suppress(TimeoutError):
            cluster.close(timeout=2 * _LEAVE)
    finally:
        last_word.cancel()


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
