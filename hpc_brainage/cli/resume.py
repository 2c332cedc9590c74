"""`brainage resume`: a run that was cut off goes on, as it was started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import TrainingError

if TYPE_CHECKING:
    from hpc_brainage.training.records import RunFolder


def resume(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Say how the job goes until it ends; Ctrl-C leaves it running."),
    ] = False,
) -> None:
    """Go on with a run that was cut off: submitted again if it was a job, else here.

    It asks for what it asked for the last time, and a job runs the code that it ran then.
    """
    from hpc_brainage.cli.launch import is_under_way, launch, show_finished
    from hpc_brainage.cli.screen import say
    from hpc_brainage.cli.train import train_here
    from hpc_brainage.cluster.run_job import RECORD, job_of
    from hpc_brainage.cluster.slurm import require_slurm
    from hpc_brainage.provenance import package_version

    folder = run_at(run)
    if folder.is_finished:
        say("this run is finished; nothing was left to do")
        show_finished(folder)
        return
    folder.config()  # what cannot be read is said here, and not by a job in its log
    job = job_of(run)
    if job is None:
        train_here(run)
        return
    if (run / RECORD).stat().st_uid != os.getuid():
        raise TrainingError(
            "this run is somebody else's, and going on with it would run their code as you",
            where=run,
            hint="brainage train with the same words, as a run of your own",
        )
    if job.cluster == "slurm":
        require_slurm(f"brainage train with the same words and without --cluster goes on with {run} here")
    if not is_under_way(folder, then_follow=follow):
        launch(folder, job.model_copy(update={"version": package_version()}), then_follow=follow)


def run_at(path: Path) -> RunFolder:
    """The run in a folder.

    Raises
    ------
    TrainingError : there is none.
    """
    from hpc_brainage.training.records import RunFolder

    if not (path / "request.json").is_file():
        raise TrainingError("there is no run here", where=path, hint="brainage jobs lists the runs")
    return RunFolder(path)
