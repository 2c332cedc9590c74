"""Workers as jobs of SLURM, one job each, through dask-jobqueue.

The scheduler lives in the command that was typed, and the jobs end with it. A job whose time is nearly up
lets its worker finish and leave; whichever job is gone while there is work left is submitted again, by this
command alone: SLURM does not queue it again.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hpc_brainage.cluster.code import keep_code
from hpc_brainage.cluster.fits import check_fits
from hpc_brainage.cluster.rendezvous import address_towards, own_address
from hpc_brainage.cluster.resources import Resources, TrainResources
from hpc_brainage.cluster.sbatch import alone, refusal
from hpc_brainage.cluster.slurm import job_states, node_addresses, read_partitions, require_slurm
from hpc_brainage.errors import EnvironmentLacks, UsageError
from hpc_brainage.scoring.crew import ALLOCATOR, Crew, threads_of
from hpc_brainage.scoring.dashboard import dashboard_options, link_of
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.part_work import DEVICE

_LOOKS_EVERY = 10.0  # seconds
_LOST_FOR_NOTHING = 3
"""Jobs in a row, for each worker that is wanted, that may end without a part being done."""
_LIFETIME = "DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION"
_LEAVES_BEFORE = 300  # seconds before its time is up, at most a fifth of it


@contextmanager
def slurm_crew(fleet: Fleet, resources: Resources, tasks: int, logs: Path) -> Iterator[Crew]:
    """Submit the jobs and connect to their scheduler; at the end they are cancelled.

    Raises
    ------
    EnvironmentLacks : there is no SLURM here.
    UsageError : the cluster has not what is asked for.
    """
    require_slurm("leave --cluster away to score on this machine")
    asked = resources.score
    gpus = asked.gpus_per_worker if fleet.gpus is None else fleet.gpus
    settings = _settings(resources, gpus)
    _check_fits(resources, settings)
    wanted = min(fleet.most or fleet.workers or 1, tasks)
    if "%" in str(logs.absolute()):
        raise UsageError("SLURM puts numbers in place of a % in a log's path", where=logs)
    dashboard = dashboard_options(fleet.dashboard)
    logs.mkdir(parents=True, exist_ok=True)

    from distributed import Client
    from distributed.security import Security

    options = ["mem", *(["gpus-per-node"] if gpus else []), *resources.extra]
    with alone(options), ExitStack() as held:
        refused: list[str] = []
        cluster = held.enter_context(
            _cluster_kind(refused)(
                **_job(settings, gpus, resources, logs),
                interface=asked.interface,
                silence_logs=logging.CRITICAL,
                security=Security.temporary(),
                shared_temp_directory=str(logs.absolute()),
                scheduler_options={"host": _address(asked.scheduler_interface)} | dashboard,
            )
        )
        held.callback(cluster.close_certificates)  # before their folder is gone
        client = held.enter_context(Client(cluster))
        processes = max(1, gpus)
        if fleet.most is not None:
            cluster.adapt(minimum_jobs=min(fleet.least or 0, wanted), maximum_jobs=wanted, interval="2s")
        else:
            cluster.scale(jobs=wanted)
        jobs = SlurmJobs(cluster, None if fleet.most else wanted, refused, settings, logs)
        threads = 1 if gpus else asked.cpus_per_worker
        yield Crew(client, wanted * processes, threads, link_of(cluster), jobs)


class SlurmJobs:
    """The jobs of a crew: what has become of them, and others in the place of those that are gone."""

    def __init__(
        self, cluster: Any, count: int | None, refused: list[str], settings: dict[str, Any], logs: Path
    ) -> None:
        """`count` is how many there shall be; None where Dask itself follows the work."""
        self._cluster, self._count, self._refused, self._settings = cluster, count, refused, settings
        self._logs = logs
        self._looked = time.monotonic()
        self._lost, self._done = 0, 0

    def tend(self, present: int, done: int) -> None:
        """Look after the jobs, at most every ten seconds.

        Parameters
        ----------
        present : workers that are there.
        done : parts that this run has scored.

        Raises
        ------
        UsageError, EnvironmentLacks : SLURM refuses the jobs and none is there; or all of them end without
            having scored anything.
        """
        if self._refused and not present:
            raise refusal(_said(self._refused[0]), self._settings)
        if time.monotonic() - self._looked < _LOOKS_EVERY:
            return
        self._looked = time.monotonic()
        if done > self._done:
            self._lost, self._done = 0, done
        self._replace_lost()
        if self._lost > _LOST_FOR_NOTHING * max(1, len(self._cluster.worker_spec)):
            raise EnvironmentLacks(
                f"{self._lost} jobs ended before they had scored anything",
                where=self._logs,
                hint="the logs say why: the nodes must see the same files, and reach this machine",
            )

    def _replace_lost(self) -> None:
        there = {str(worker["name"]) for worker in self._cluster.scheduler_info["workers"].values()}
        numbers = {
            name: job.job_id
            for name, job in dict(self._cluster.workers).items()
            if not any(_belongs(worker, str(name)) for worker in there)
        }
        states = job_states([str(number) for number in numbers.values() if number])
        over = [name for name, number in numbers.items() if not number or states[str(number)].is_over]
        gone = [name for name in dict(self._cluster.worker_spec) if name not in self._cluster.workers]
        self._lost += len(over) + len(gone)
        self._cluster.loop.add_callback(self._forget, [*over, *gone])

    def _forget(self, names: list[Any]) -> None:
        """In the cluster's own thread: these jobs are gone, and others take their place."""
        for name in names:
            self._cluster.workers.pop(name, None)
            self._cluster.worker_spec.pop(name, None)
        self._refused.clear()
        if self._count is not None:
            self._cluster.scale(jobs=self._count)


def _belongs(worker: str, job: str) -> bool:
    """Whether a worker is one of a job's: several of them are numbered."""
    return worker == job or worker.startswith(f"{job}-")


def _settings(resources: Resources, gpus: int) -> dict[str, Any]:
    """What a job asks for, in the words of the site's TOML."""
    asked = resources.score
    settings = asked.model_dump() | {"account": resources.account, "exclude": resources.exclude}
    for name in ("partition", "qos", "constraint", "time"):
        settings[name] = settings[name] or getattr(resources, name)
    return settings | {"gpus_per_worker": gpus, "gpus_per_node": gpus, "extra": resources.extra}


def _check_fits(resources: Resources, settings: dict[str, Any]) -> None:
    names = ("partition", "qos", "constraint", "time", "gpus_per_node", "memory_gb")
    job = TrainResources(
        **{name: settings[name] for name in names},
        tasks_per_node=1,
        cpus_per_task=settings["cpus_per_worker"],
    )
    check_fits(1, resources.model_copy(update={"train": job}), read_partitions())


def _job(settings: dict[str, Any], gpus: int, resources: Resources, logs: Path) -> dict[str, Any]:
    """The job of a worker, in dask-jobqueue's words; with several GPUs it has a process for each."""
    seconds, processes = 60 * settings["time"], max(1, gpus)
    environment = ALLOCATOR | threads_of(max(1, settings["cpus_per_worker"] // processes))
    # A worker that leaves gives its work back; one that is cut off costs a part an attempt. As a word on
    # the command line, dask-cuda's worker would not know it.
    environment[_LIFETIME] = f"{seconds - min(_LEAVES_BEFORE, seconds // 5)}s"
    has_cuda_worker = bool(gpus) and importlib.util.find_spec("dask_cuda") is not None
    if has_cuda_worker:
        environment[DEVICE] = "cuda:0"  # each worker sees its own first
    elif not gpus:
        environment[DEVICE] = "cpu"
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    if (code := keep_code(logs.absolute() / "code")) is not None:
        exports.append(f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}")
    options = {name: settings[name] for name in ("qos", "constraint", "exclude")}
    options |= {"gpus-per-node": gpus or None, "nodes": 1, "output": f"{logs.absolute()}/job-%j.log"}
    options |= {name.replace("_", "-"): value for name, value in settings["extra"].items()}
    return {
        "queue": settings["partition"],
        "account": settings["account"],
        "walltime": str(settings["time"]),
        "cores": processes,
        "processes": processes,
        "job_cpu": settings["cpus_per_worker"],
        "memory": f"{settings['memory_gb']}GiB",
        "job_mem": f"{math.ceil(settings['memory_gb'] * 1024)}M",
        "python": shlex.quote(sys.executable),
        "job_name": "brainage-score",
        "job_directives_skip": ["#SBATCH -e ", "#SBATCH -o "],
        "job_extra_directives": ["--no-requeue", *_directives(options)],
        "job_script_prologue": [*resources.setup, *exports],
        "local_directory": '"${TMPDIR:-/tmp}"',
        "worker_command": "dask_cuda.cli" if has_cuda_worker else "distributed.cli.dask_worker",
        # A worker's own dashboard would be there for whoever reaches its node.
        "worker_extra_args": ["--no-dashboard"],
    }


def _directives(options: dict[str, Any]) -> list[str]:
    return [
        f"--{name}" if value is True else f"--{name}={shlex.quote(str(value))}"
        for name, value in options.items()
        if value is not None
    ]


def _address(interface: str | None) -> str:
    """How the nodes reach this machine."""
    if interface is not None:
        return own_address(interface)
    found = (address_towards(node) for node in node_addresses())
    address = next((address for address in found if address), None)
    if address is None:
        raise EnvironmentLacks(
            "this machine does not know how its cluster's nodes reach it",
            where=os.uname().nodename,
            hint="name the interface: scheduler_interface under [score] in the TOML that --cluster names",
        )
    return address


def _cluster_kind(refused: list[str]) -> Any:
    """dask-jobqueue's cluster; it notes refusals, quotes paths, and closes its files in time."""
    with _ctrl_c_as_before():
        from dask_jobqueue import SLURMCluster
        from dask_jobqueue.slurm import SLURMJob
    from distributed.core import Status

    class Job(SLURMJob):
        async def start(self) -> None:
            try:
                await super().start()
            except RuntimeError as problem:
                refused.append(str(problem))
                self.status = Status.running  # without a number: it is looked after like one that was lost

    class Cluster(SLURMCluster):
        job_cls = Job

        def _get_worker_security(self, security: Any) -> Any:
            files = super()._get_worker_security(security)
            for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
                setattr(files, name, shlex.quote(getattr(files, name)))
            return files

        def close_certificates(self) -> None:
            for name in ("ca_file", "cert", "key"):
                if (file := getattr(self, f"_job_{name}", None)) is not None:
                    file.close()

    return Cluster


@contextmanager
def _ctrl_c_as_before() -> Iterator[None]:
    """Importing dask-jobqueue lets Ctrl-C end the process without a word, as if all were done."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) != before:
            signal.signal(signal.SIGINT, before)


def _said(problem: str) -> str:
    """What sbatch said, out of dask-jobqueue's message."""
    return problem.partition("stderr:\n")[2].strip() or problem
