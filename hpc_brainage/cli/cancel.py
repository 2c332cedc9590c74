"""`brainage cancel`: ends a run's job or training, and keeps what the run has."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from hpc_brainage.errors import TrainingError


def cancel(run: Annotated[Path, typer.Argument(help="The folder of the run.")]) -> None:
    """End a run's job, waiting or running, or its training on this machine; what it has saved stays, and
    brainage resume goes on with it."""
    from hpc_brainage.cli.jobs import job_now, trains_apart_from
    from hpc_brainage.cli.resume import run_at
    from hpc_brainage.cli.screen import say
    from hpc_brainage.cluster import slurm
    from hpc_brainage.cluster.local import is_running

    folder = run_at(run)
    job = job_now(run)
    if job is None or job.id is None or trains_apart_from(job, folder):
        _stop_process(run)
        return
    if job.cluster == "local":
        if job.host != os.uname().nodename:
            raise TrainingError("this run is trained on another machine", where=f"{run}: {job.host}")
        if not is_running(job):
            raise TrainingError("this run's processes have ended already", where=run)
        with suppress(ProcessLookupError):
            os.kill(int(job.id), signal.SIGTERM)  # it asks its processes to save
    else:
        state = slurm.settled_state(job.id)
        if state.is_over and state.state:
            raise TrainingError(f"job {job.id} has ended already ({state.state.lower()})", where=run)
        slurm.cancel(job.id)
    say(f"cancelled  job {job.id}; brainage resume {run} goes on with what is saved")


def _stop_process(run: Path) -> None:
    """Tell a training that no job runs to save and to end."""
    from hpc_brainage.cli.screen import say
    from hpc_brainage.training.lease import holder_here
    from hpc_brainage.training.records import LEASE

    process = holder_here(run / LEASE)
    if process is None:
        elsewhere = (run / LEASE).exists()
        raise TrainingError(
            "this run has no job, and nobody trains it on this machine",
            where=run,
            hint="Ctrl-C where it is trained, or brainage cancel there" if elsewhere else None,
        )
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    say(f"told process {process} to save and to end; brainage resume {run} goes on with what is saved")
