"""Where a run is trained: in this process, in several of this machine, or as a job of SLURM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hpc_brainage.cli.worker import STOPPED_EXIT
from hpc_brainage.cluster.resources import SLURM, Resources, read_resources
from hpc_brainage.errors import EnvironmentLacks, UsageError

if TYPE_CHECKING:
    from hpc_brainage.cluster.run_job import RunJob
    from hpc_brainage.training.records import RunFolder

AUTO, LOCAL = "auto", "local"


def choose(cluster: str, nodes: int, gpus_per_node: int | None) -> tuple[str, Resources]:
    """Where to train, "here", "local" or "slurm", and with what; nothing is done yet.

    Raises
    ------
    EnvironmentLacks : SLURM is needed and not there.
    UsageError : the site's TOML is wrong, or the cluster does not have what is asked for.
    """
    from hpc_brainage.cluster.fits import check_fits
    from hpc_brainage.cluster.slurm import read_partitions, require_slurm

    several = nodes > 1 or gpus_per_node is not None
    resources = read_resources(cluster) if cluster not in (AUTO, LOCAL) else Resources()
    if gpus_per_node is not None:
        asked = resources.train.model_copy(update={"gpus_per_node": gpus_per_node})
        resources = resources.model_copy(update={"train": asked})
    if cluster == LOCAL or (cluster == AUTO and not several):
        processes = nodes * resources.train.processes_per_node
        return ("here" if processes == 1 else LOCAL), resources
    there = read_partitions()
    if cluster == AUTO and not there:
        asked_for = f"--nodes {nodes}" if nodes > 1 else f"--gpus-per-node {gpus_per_node}"
        raise EnvironmentLacks(
            f"{asked_for} needs a SLURM cluster, and this machine reaches none",
            hint="run the command on a cluster's login node, or leave --nodes out to train here, or say"
            " --cluster local to train here in as many processes",
        )
    require_slurm("leave --cluster away to train on this machine")
    check_fits(nodes, resources, there)
    return SLURM, resources


def refuse_to_print(way: str) -> None:
    """Only a job has an sbatch file."""
    if way != SLURM:
        raise UsageError(
            "there is no job to print",
            where="--dry-run",
            expected="--nodes N on a cluster's login node, or --cluster slurm or SITE.toml",
        )


def is_under_way(run: RunFolder, *, then_follow: bool) -> bool:
    """Whether a job of this run waits or runs already: then it is said, and followed if that is wanted."""
    from hpc_brainage.cli.follow import follow
    from hpc_brainage.cli.screen import say
    from hpc_brainage.cluster.run_job import job_of
    from hpc_brainage.cluster.slurm import job_states

    job = job_of(run.path)
    if job is None or job.cluster != SLURM or job.id is None:
        return False
    state = job_states([job.id])[job.id]
    if state.is_over:
        return False
    say(f"job {job.id} of this run is there already ({state.state.lower()}); nothing was submitted")
    if then_follow:
        follow(run, job)
        show_finished(run)
    else:
        say_how_to_follow(run, job.id)
    return True


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
        job = submit_run(run.path, job)
        nodes = "node" if job.nodes == 1 else "nodes"
        say(f"submitted  job {job.id}: {job.processes} processes on {job.nodes} {nodes} -> {run.path}")
        if then_follow:
            follow(run, job)
            show_finished(run)
        else:
            say_how_to_follow(run, str(job.id))
        return
    say(f"training in {job.processes} processes -> {run.path}")
    epochs = Epochs(run)
    code = run_here(run.path, job, epochs.show)
    epochs.show()
    if not run.is_finished:
        if code == STOPPED_EXIT:
            say(f"stopped; brainage resume {run.path} goes on")
            raise typer.Exit(code)
        raise why_it_failed(run.path, "", None)
    show_finished(run)


def say_how_to_follow(run: RunFolder, job: str) -> None:
    from hpc_brainage.cli.screen import say

    say("follow     the same command with --follow, or brainage jobs")
    say(f"logs       brainage logs {run.path}  (in {run.path}/logs)")
    say(f"cancel     brainage cancel {run.path}")


def show_finished(run: RunFolder) -> None:
    """The result of a run that is finished."""
    from hpc_brainage.cli.train import show_result
    from hpc_brainage.model.bundle import load_bundle

    show_result(load_bundle(run.model), run.path)
