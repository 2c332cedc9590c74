"""`brainage logs`: what the processes of a run have said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpc_brainage.errors import TrainingError

_LINES = 20


def logs(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    rank: Annotated[
        int | None, typer.Option(min=0, help="All that this process has said, over all starts of the job.")
    ] = None,
) -> None:
    """Show the end of the first failed process's log, or of rank 0's where none has failed."""
    from hpc_brainage.cli.follow import last_lines
    from hpc_brainage.cli.resume import run_at
    from hpc_brainage.cli.screen import say
    from hpc_brainage.cluster.run_job import job_of
    from hpc_brainage.cluster.starts import LOGS, newest_start

    run_at(run)
    folder = run / LOGS
    job = job_of(run)
    number = job.id if job is not None and job.id is not None else ""
    start = newest_start(run, number)
    failures = start.failures() if start else []
    shown = rank if rank is not None else failures[0].rank if failures else 0
    log = folder / f"rank-{shown}.log"
    if not log.is_file():
        log = folder / f"job-{number}.log"
    if not log.is_file() or (rank is not None and log.name != f"rank-{rank}.log"):
        there = sorted(path.name for path in folder.glob("*.log")) if folder.is_dir() else []
        raise TrainingError(
            "there is no such log (yet)",
            where=folder if rank is None else folder / f"rank-{rank}.log",
            expected=f"one of {', '.join(there)}" if there else "a run that train --nodes has started",
        )
    if rank is None and failures:
        say(f"rank {shown} on {failures[0].node} failed first; of {len(failures)} in this start of the job")
    lines = last_lines(log, _LINES) if rank is None else log.read_text(errors="replace").splitlines()
    for line in lines:
        say(line)
    say(f"({log})")
