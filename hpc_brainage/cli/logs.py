"""`brainage logs`: what the processes of a run have said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import TrainingError

if TYPE_CHECKING:
    from hpc_brainage.cluster.run_job import RunJob

_LINES = 20


def logs(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    rank: Annotated[
        int | None, typer.Option(min=0, help="All that this process has said, over all starts of the job.")
    ] = None,
) -> None:
    """Show the end of the first failed process's log, or of rank 0's where none has failed; of the job's,
    where the job failed and no process says why."""
    from hpc_brainage.cli.follow import last_lines
    from hpc_brainage.cli.jobs import job_now
    from hpc_brainage.cli.resume import run_at
    from hpc_brainage.cli.screen import say
    from hpc_brainage.cluster.starts import LOGS, newest_start

    run_at(run)
    folder = run / LOGS
    job = job_now(run)
    number = job.id if job is not None and job.id is not None else ""
    has_failed = _has_failed(job)
    start = newest_start(run, number)
    if start is not None and has_failed and not start.folder.name.startswith(f"{number}-"):
        start = None  # an earlier job's: this one did not get so far
    failures = start.failures() if start else []
    shown = rank if rank is not None else failures[0].rank if failures else 0
    log, of_the_job = folder / f"rank-{shown}.log", folder / f"job-{number}.log"
    says_why = _has_words(log) and (failures or not has_failed)
    if rank is None and not says_why and _has_words(of_the_job):
        log = of_the_job
    if not log.is_file():
        awaited = f"job {number} to have started" if number else "a run that train --nodes has started"
        there = sorted(path.name for path in folder.glob("*.log")) if folder.is_dir() else []
        raise TrainingError(
            "there is no such log (yet)",
            where=folder if rank is None else folder / f"rank-{rank}.log",
            expected=f"one of {', '.join(there)}" if there else awaited,
        )
    if rank is None and failures:
        say(f"rank {shown} on {failures[0].node} failed first; of {len(failures)} in this start of the job")
    lines = last_lines(log, _LINES) if rank is None else log.read_text(errors="replace").splitlines()
    for line in lines:
        say(line)
    say(f"({log})")


def _has_words(log: Path) -> bool:
    return log.is_file() and bool(log.read_text(errors="replace").strip())


def _has_failed(job: RunJob | None) -> bool:
    """Whether SLURM says that a job is over, and neither done nor cancelled."""
    from hpc_brainage.cluster.slurm import job_states

    if job is None or job.id is None or job.cluster != "slurm":
        return False
    state = job_states([job.id])[job.id]
    return state.is_over and state.state not in ("", "COMPLETED", "CANCELLED")
