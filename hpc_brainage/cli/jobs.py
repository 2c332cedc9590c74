"""`brainage jobs`: the runs of a folder, and how each of them is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import BrainAgeError

if TYPE_CHECKING:
    from hpc_brainage.cluster.run_job import RunJob
    from hpc_brainage.cluster.slurm import JobState
    from hpc_brainage.training.records import RunFolder

_COLUMNS = (
    "run", "job", "state", ">step", ">epoch", ">member", ">validation MAE", ">restarts", ">time left",
)  # fmt: skip


def jobs(
    runs: Annotated[Path, typer.Option(help="The folder that runs are kept in.")] = Path("runs"),
) -> None:
    """List the runs of a folder with the state of their jobs and how far they are."""
    from hpc_brainage.cli.screen import say, table
    from hpc_brainage.cluster.slurm import job_states
    from hpc_brainage.training.records import RunFolder, runs_in

    folders = [RunFolder(path) for path in runs_in(runs)]
    if not folders:
        say(f"there are no runs in {runs}")
        return
    known: dict[Path, RunJob | None] = {}
    unread: dict[Path, BrainAgeError] = {}
    for run in folders:
        try:
            known[run.path] = job_now(run.path)
        except BrainAgeError as problem:
            unread[run.path] = problem
    states = job_states([job.id for job in known.values() if job and job.id and job.cluster == "slurm"])
    rows = []
    for run in folders:
        if run.path in known:
            try:
                rows.append(_row(run, known[run.path], states))
            except BrainAgeError as problem:
                unread[run.path] = problem
        if run.path in unread:
            rows.append((run.path.name, "-", "not readable", *["-"] * (len(_COLUMNS) - 3)))
    table("", _COLUMNS, rows)
    for run in folders:
        if run.path in unread:
            say(f"{run.path.name}: {unread[run.path]}")
        elif not run.is_finished and (passed_over := run.status().get("passed_over")):
            say(f"{run.path.name}: {passed_over}")


def _row(run: RunFolder, job: RunJob | None, states: dict[str, JobState]) -> tuple[object, ...]:
    from hpc_brainage.cli.follow import records_of
    from hpc_brainage.cli.screen import years

    records = records_of(run.metrics)
    last = records[-1] if records else {}
    training = run.config().training
    is_of_slurm = job is not None and job.cluster == "slurm" and not trains_apart_from(job, run)
    state = states.get(job.id or "") if job is not None and is_of_slurm else None
    return (
        run.path.name,
        job.id if job is not None and state else "this machine",
        _state(run, job, state),
        last.get("step", "-"),
        f"{last['epoch'] + 1}/{training.epochs}" if last else "-",
        # Of members that are trained in one pass the last line is of any.
        f"{len({record['member'] for record in records})}/{training.members}" if last else "-",
        years(last.get("validation_mae")),
        run.status().get("restarts", 0),
        state.left if state and state.state == "RUNNING" else "-",
    )


def _state(run: RunFolder, job: RunJob | None, state: JobState | None) -> str:
    from hpc_brainage.training.lease import holder_is_gone
    from hpc_brainage.training.records import LEASE

    if run.is_finished:
        return "finished"
    if state and not state.is_known:
        return "SLURM does not answer"
    if state and state.state:
        return state.state.lower() + (f" ({state.why})" if state.state == "PENDING" and state.why else "")
    said = str(run.status().get("state", "prepared"))
    if said != "running" or trains_apart_from(job, run):
        return said
    return "interrupted" if _has_ended_here(job) or holder_is_gone(run.path / LEASE) else said


def job_now(run: Path) -> RunJob | None:
    """The job of a run: the one of SLURM that trains it, whichever was kept; else the one that was.

    Raises
    ------
    TrainingError : what is kept of its job is damaged.
    """
    from hpc_brainage.cluster.run_job import job_of

    job = job_of(run)
    if job is None or (number := another_job(run, than=job.id)) is None:
        return job
    return job.model_copy(update={"cluster": "slurm", "id": number})


def another_job(run: Path, than: str | None) -> str | None:
    """The number of the job of SLURM that trains a run, as its lease says, if that is another one."""
    from hpc_brainage.cluster.run_job import job_of
    from hpc_brainage.cluster.slurm import job_states

    job, number = job_of(run), leased_by(run)
    is_a_copy = job is not None and job.id is None  # and so is its lease
    if number is None or number == than or is_a_copy or job_states([number])[number].is_over:
        return None
    return number


def leased_by(run: Path) -> str | None:
    """The number of the run's job of SLURM that has left its lease, or holds it; None of anybody else."""
    from hpc_brainage.cluster.starts import LOGS
    from hpc_brainage.training.lease import holding_job
    from hpc_brainage.training.records import LEASE

    number = holding_job(run / LEASE)
    # A command that is typed within some job has a number, too, and is none of the run's jobs.
    return number if number and any((run / LOGS).glob(f"{number}-*")) else None


def trains_apart_from(job: RunJob | None, run: RunFolder) -> bool:
    """Whether a run that once had this job is trained by somebody else now: `train` without `--nodes`."""
    from hpc_brainage.training.lease import holder_here, holder_is_gone
    from hpc_brainage.training.records import LEASE

    lease = run.path / LEASE
    if job is None or not lease.exists() or holder_is_gone(lease):
        return False
    if job.cluster == "slurm":
        return leased_by(run.path) is None
    return _has_ended_here(job) and holder_here(lease) is not None


def _has_ended_here(job: RunJob | None) -> bool:
    from hpc_brainage.cluster.local import is_running

    is_local = job is not None and job.cluster == "local" and job.host == os.uname().nodename
    return job is not None and is_local and not is_running(job)
