"""The processes of a run on this machine, as if each had a node of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from hpc_brainage.cluster.process import started_at
from hpc_brainage.cluster.ranks import INTERFACE, SCRATCH, START
from hpc_brainage.cluster.run_job import RunJob, code_of, keep_job
from hpc_brainage.cluster.starts import LOGS, Start
from hpc_brainage.errors import ExitCode

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_GLANCE = 0.1
_TIME_TO_SAVE = 60.0
"""Seconds that processes have to end by themselves: once one has failed, or when all shall stop."""


def run_here(run: Path, job: RunJob, look: Callable[[], object]) -> int:
    """Run a run's processes on this machine to their end, each with its own log.

    A process that fails ends the others, and so does whatever interrupts this function; they are given the
    time to save what they have. They do not outlive this process, however it ends.

    Called in the main thread. SIGTERM, and SIGHUP of a terminal that is closed, tell all to stop, as a
    cluster does; not where they are ignored, as under nohup.

    Parameters
    ----------
    look : called now and then meanwhile.

    Returns
    -------
    The first exit code that is not 0, or 0; ExitCode.STOPPED where all were told to stop.
    """
    start = _new_start(run)
    launcher = {"id": str(os.getpid()), "host": os.uname().nodename, "ticks": started_at(os.getpid())}
    keep_job(run, job.model_copy(update=launcher))
    processes: list[subprocess.Popen[bytes]] = []
    codes: list[int] = []
    told: list[int] = []
    heard = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, lambda got, frame: told.append(got)) for number in heard}
    try:
        for rank in range(job.processes):
            processes += [_process(run, job, start, rank)]
        while len(codes) < len(processes) and not any(codes) and not told:
            time.sleep(_GLANCE)
            look()
            codes = [process.returncode for process in processes if process.poll() is not None]
    finally:
        _end(processes)
        for number, handler in before.items():
            signal.signal(number, handler)
    if told and len(codes) < len(processes):
        return int(ExitCode.STOPPED)
    return next((process.returncode for process in processes if process.returncode), 0)


def _new_start(run: Path) -> Start:
    """A start that is not SLURM's; its number stands for a job's."""
    number = int(time.time())
    while True:
        folder = run.absolute() / LOGS / f"{number}-local"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return Start(folder)


def _process(run: Path, job: RunJob, start: Start, rank: int) -> subprocess.Popen[bytes]:
    asked = job.resources.train
    # Of an interactive SLURM job nothing may be taken for this run's.
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    env |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(job.processes),
        # More threads than cores, waiting for one another, make each step many times slower.
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // job.processes)),
        START: str(start.folder),
    }
    if (code := code_of(run, job)) is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(code), env.get("PYTHONPATH"))))
    env |= {
        name: value for name, value in ((SCRATCH, asked.scratch), (INTERFACE, asked.interface)) if value
    }
    with (run / LOGS / f"rank-{rank}.log").open("ab") as log:
        return subprocess.Popen(
            [*job.worker, str(run.absolute())],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches them as a request to save, through us
            preexec_fn=partial(_end_with, os.getpid()),
        )


def _end_with(launcher: int) -> None:
    """Let the kernel tell this process to stop when the one that launched it is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:  # it went before we could say so
        os._exit(ExitCode.STOPPED)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask what still runs to end, and see to it that it does."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    until = time.monotonic() + _TIME_TO_SAVE
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_running(job: RunJob) -> bool:
    """Whether the process that launched a job on this machine is there, and no other of its number."""
    return job.id is not None and started_at(int(job.id)) == job.ticks
