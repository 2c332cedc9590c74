"""Where a run is trained: in this process, in several of this machine, or as a job of SLURM."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import typer

from hpc_brainage.cluster.resources import SLURM, Flags, Resources, read_resources
from hpc_brainage.errors import EnvironmentLacks, ExitCode, TrainingError, UsageError

if TYPE_CHECKING:
    from hpc_brainage.cluster.run_job import RunJob
    from hpc_brainage.config import RunConfig, TrainingConfig
    from hpc_brainage.training.records import RunFolder

AUTO, LOCAL = "auto", "local"


def choose(cluster: str, nodes: int, gpus_per_node: int | None, flags: Flags) -> tuple[str, Resources]:
    """Where to train, "here", "local" or "slurm", and with what; nothing is done yet.

    Raises
    ------
    EnvironmentLacks : SLURM is needed and not there.
    UsageError : the site's TOML or a flag is wrong, the cluster does not have what is asked for, or flags
        are for jobs and there is to be none.
    """
    from hpc_brainage.cluster.fits import check_fits
    from hpc_brainage.cluster.slurm import read_partitions, require_slurm

    several = nodes > 1 or gpus_per_node is not None
    resources = read_resources(cluster, (AUTO, LOCAL)) if cluster not in (AUTO, LOCAL) else Resources()
    if gpus_per_node is not None:
        # One process on each, whatever number of tasks the site's TOML has for its own number of GPUs.
        asked = resources.train.model_copy(update={"gpus_per_node": gpus_per_node, "tasks_per_node": None})
        resources = resources.model_copy(update={"train": asked})
    if cluster == LOCAL or (cluster == AUTO and not several):
        flags.refuse_without_jobs()
        processes = nodes * resources.train.processes_per_node
        return ("here" if processes == 1 else LOCAL), resources
    resources = flags.over(resources)
    there = read_partitions()
    if cluster == AUTO and not there:
        asked_for = f"--nodes {nodes}" if nodes > 1 else f"--gpus-per-node {gpus_per_node}"
        if shutil.which("sinfo"):
            raise EnvironmentLacks(
                f"{asked_for} needs a SLURM cluster, and SLURM does not answer",
                hint="try again when sinfo answers; or --cluster local trains here in as many processes",
            )
        raise EnvironmentLacks(
            f"{asked_for} needs a SLURM cluster, and this machine reaches none",
            hint="run the command on a cluster's login node, or leave --nodes out to train here, or say"
            " --cluster local to train here in as many processes",
        )
    require_slurm("leave --cluster away to train on this machine")
    check_fits(nodes, resources, there)
    return SLURM, resources


def check_shares(processes: int, settings: TrainingConfig) -> None:
    """Make sure that each process has a scan of every step, before anything waits for nodes.

    Raises
    ------
    UsageError : there are more processes than a step has scans.
    """
    shares = processes * settings.accumulation
    if settings.batch_size < shares:
        parts = f" in {settings.accumulation} parts each" if settings.accumulation > 1 else ""
        raise UsageError(
            f"{processes} processes cannot share a step of {settings.batch_size} scans{parts}",
            where="training.batch_size",
            expected=f"at least {shares}",
            hint="--set training.batch_size=N, or use fewer processes",
        )


def refuse_to_print(way: str) -> None:
    """Only a job has an sbatch file."""
    if way != SLURM:
        raise UsageError(
            "there is no job to print",
            where="--dry-run",
            expected="--nodes N on a cluster's login node, or --cluster slurm or SITE.toml",
        )


def is_under_way(run: RunFolder, *, then_follow: bool) -> bool:
    """Whether a job of this run waits or runs already: then it is said, and followed if that is wanted.

    Raises
    ------
    TrainingError : something else trains in the folder: a command, or the processes of another machine.
    """
    from hpc_brainage.cli.follow import follow
    from hpc_brainage.cli.jobs import job_now
    from hpc_brainage.cli.screen import say
    from hpc_brainage.training.lease import Lease, holding_job
    from hpc_brainage.training.records import LEASE

    job = job_now(run.path)
    there = None if job is None else _there(job)
    if job is None or there is None:
        if job is None or job.cluster != SLURM or job.id != holding_job(run.path / LEASE):
            # What is kept of that job must stay as it is: brainage jobs and cancel go by it.
            Lease(run.path / LEASE).refuse_if_held()
        return False
    say(f"{there}; nothing was submitted")
    if then_follow and job.cluster == SLURM:
        follow(run, job)
        show_finished(run)
    else:
        say_how_to_follow(run)
    return True


def _there(job: RunJob) -> str | None:
    """Which job of a run waits or runs, in words; None if it is over."""
    from hpc_brainage.cluster.local import is_running
    from hpc_brainage.cluster.slurm import settled_state

    if job.id is None:
        return None
    if job.cluster == SLURM:
        state = settled_state(job.id)
        return (
            None if state.is_over else f"job {job.id} of this run is there already ({state.state.lower()})"
        )
    if job.host != os.uname().nodename or int(job.id) == os.getpid() or not is_running(job):
        return None
    return f"this run is trained here already (process {job.id})"


def refuse_other_words(run: RunFolder, settings: RunConfig, where: str | None) -> None:
    """Make sure that a run is not prepared anew by other settings under a job that waits for it or runs.

    Raises
    ------
    TrainingError : there is such a job.
    EnvironmentLacks : SLURM does not say whether there is.
    """
    from hpc_brainage.cli.jobs import job_now

    if not (run.path / "request.json").is_file() or run.is_finished:
        return
    if run.config() == settings and run.request().get("where") == where:
        return
    job = job_now(run.path)
    if job is not None and (there := _there(job)):
        raise TrainingError(
            f"{there}, with other settings",
            where=run.path,
            hint=f"first brainage cancel {run.path}, or give the new run another --name",
        )


def launch(run: RunFolder, job: RunJob, *, then_follow: bool) -> None:
    """Start the job of a prepared run: submit it, or run its processes here and wait for them.

    Raises
    ------
    TrainingError : it ended without finishing the run.
    """
    from hpc_brainage.cli.follow import Epochs, follow, why_it_failed
    from hpc_brainage.cli.screen import say
    from hpc_brainage.cluster.local import run_here
    from hpc_brainage.cluster.run_job import submit_run

    if job.cluster == SLURM:
        try:
            job = submit_run(run.path, job, lambda number: _refuse_a_second_job(run.path, number))
        except KeyboardInterrupt:
            named = quote(f"brainage-{run.path.name}")
            say(f"SLURM may have taken a job of this run: squeue --me -n {named}")
            raise
        processes = "process" if job.processes == 1 else "processes"
        nodes = "node" if job.nodes == 1 else "nodes"
        say(f"submitted  job {job.id}: {job.processes} {processes} on {job.nodes} {nodes} -> {run.path}")
        if then_follow:
            follow(run, job)
            show_finished(run)
        else:
            say_how_to_follow(run)
        return
    say(f"training in {job.processes} processes -> {run.path}")
    epochs = Epochs(run)
    code = run_here(run.path, job, epochs.show)
    epochs.show()
    if not run.is_finished:
        if code == ExitCode.STOPPED:
            say(f"stopped; brainage resume {run.path} goes on")
            raise typer.Exit(code)
        raise why_it_failed(run.path, "", None)
    show_finished(run)


def _refuse_a_second_job(run: Path, number: str) -> None:
    """Make sure that no other job has begun to train a run while this one was submitted for it.

    Raises
    ------
    TrainingError : one has.
    """
    from hpc_brainage.cli.jobs import another_job

    if first := another_job(run, than=number):
        raise TrainingError(
            f"job {first} trains this run already; job {number} was cancelled",
            where=run,
            hint="brainage jobs says how it is",
        )


def say_how_to_follow(run: RunFolder) -> None:
    from hpc_brainage.cli.screen import say

    say("follow     the same command with --follow, or brainage jobs")
    say(f"logs       brainage logs {run.path}  (in {run.path}/logs)")
    say(f"cancel     brainage cancel {run.path}")


def show_finished(run: RunFolder) -> None:
    """The result of a run that is finished."""
    from hpc_brainage.cli.train import show_result
    from hpc_brainage.model.bundle import load_bundle

    show_result(load_bundle(run.model), run.path)
