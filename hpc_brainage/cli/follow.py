"""A run's progress as it is written down, whoever trains it: this machine, or a job that comes and goes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import typer

from hpc_brainage.cluster.slurm import JobState, job_states
from hpc_brainage.cluster.starts import LOGS, newest_start, starts_of
from hpc_brainage.errors import NO_ROOM, EnvironmentLacks, ExitCode, TrainingError

if TYPE_CHECKING:
    from hpc_brainage.cluster.run_job import RunJob
    from hpc_brainage.training.records import RunFolder

_GLANCE = 1.0
_SOON, _LATER = 1.0, 10.0
"""Seconds between two questions to SLURM: in the first minute, and afterwards."""
_SURE = 5
"""Looks after which a job that seems to be over is: one that is queued again is over for a moment."""
_CANCELLED = "CANCELLED"
_SHOWN_BEFORE = 3
_LAST_LINES = 12
_SMALL = 1 << 14  # bytes


class Epochs:
    """Says each epoch of a run once; again, where a start of the job does it again and comes elsewhere."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._said = run, set[str]()
        training = run.config().training
        self._members, self._epochs = training.members, training.epochs
        self._seen: tuple[int, int] | None = None

    def show(self) -> None:
        """Say what is new since the last time; of what was there at first, only the end."""
        from hpc_brainage.cli.screen import say

        try:
            facts = self._run.metrics.stat()
        except FileNotFoundError:
            return
        first, seen = self._seen is None, (facts.st_mtime_ns, facts.st_size)
        if seen == self._seen:
            return
        self._seen = seen
        status = self._run.status()
        passed_over = status.get("passed_over") if status.get("state") == "running" else None
        if passed_over and passed_over not in self._said:
            self._said.add(passed_over)
            say(passed_over)
        lines = [self._line(record) for record in records_of(self._run.metrics)]
        fresh = [line for line in lines if line not in self._said]
        self._said.update(fresh)
        if first and len(fresh) > _SHOWN_BEFORE:
            say(f"... {len(fresh) - _SHOWN_BEFORE} epochs before")
            fresh = fresh[-_SHOWN_BEFORE:]
        for line in fresh:
            say(line)

    def _line(self, record: dict[str, Any]) -> str:
        words = [
            f"member {record['member'] + 1} of {self._members}",
            f"epoch {record['epoch'] + 1} of {self._epochs}",
            f"loss {record['loss']:.3f}",
        ]
        if (error := record.get("validation_mae")) is not None:
            words.append(f"validation MAE {error:.2f} y")
        return ", ".join(words)


def records_of(metrics: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are whole: the last one may be in the making."""
    found = []
    for line in metrics.read_text().splitlines() if metrics.is_file() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def follow(run: RunFolder, job: RunJob) -> None:
    """Say how a run on SLURM goes until it is finished, however often it is queued again.

    Ctrl-C ends this, and not the job.

    Raises
    ------
    TrainingError : the job ended without finishing the run.
    EnvironmentLacks : SLURM says nothing of the job any more.
    """
    from hpc_brainage.cli.screen import say

    number = str(job.id)
    epochs, said, over, began, asked = Epochs(run), "", 0, monotonic(), 0.0
    say(f"following job {number}; Ctrl-C ends this and leaves the job running")
    try:
        while True:
            epochs.show()
            if run.is_finished:
                epochs.show()
                return
            if monotonic() - asked >= (_SOON if monotonic() - began < 60 or over else _LATER):
                asked = monotonic()
                state = job_states([number])[number]
                if (words := _words(number, state, run.path)) != said and not over:
                    say(words)
                    said = words
                over = over + 1 if state.is_over else 0
                if over >= _SURE:
                    break
            sleep(_GLANCE)
    except KeyboardInterrupt:
        say(f"job {number} goes on; brainage jobs says how it is, brainage cancel {run.path} ends it")
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
    if not run.is_finished:
        raise why_it_failed(run.path, number, state)


def _words(job: str, state: JobState, run: Path) -> str:
    starts = sum(start["job"] == job for start in starts_of(run))
    again = f", for the {_nth(starts)} time" if state.state == "RUNNING" and starts > 1 else ""
    why = f" ({state.why})" if state.why and state.state == "PENDING" else ""
    where = f" on {state.nodes}" if state.nodes and state.state == "RUNNING" else ""
    if not state.is_known:
        return f"job {job}: SLURM does not answer now"
    return f"job {job}: {state.state.lower() or 'SLURM says nothing'}{why}{where}{again}"


def _nth(number: int) -> str:
    return (
        f"{number}{'th' if 10 < number % 100 < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
    )


def why_it_failed(run: Path, job: str, state: JobState | None) -> TrainingError | EnvironmentLacks:
    """What ended a run before it was finished: somebody, or the first process that failed, and its log."""
    from hpc_brainage.cli.screen import say

    if state is not None and not state.state:
        return EnvironmentLacks(
            "SLURM says nothing of the job any more", where=f"job {job}", hint=f"brainage resume {run}"
        )
    if state is not None and state.state == _CANCELLED:
        # What its processes say as they are ended is no failure of theirs.
        return TrainingError(
            "the job was cancelled", where=f"job {job}", hint=f"brainage resume {run} goes on"
        )
    how = f"the job ended as {state.state}" if state else "the processes ended"
    start = newest_start(run, job)
    failures = start.failures() if start else []
    if failures:
        first = failures[0]
        log = run / LOGS / f"rank-{first.rank}.log"
        others = f" ({len(failures) - 1} more after it)" if len(failures) > 1 else ""
        what = f"rank {first.rank} on {first.node} failed{others}: {first.what.splitlines()[0]}"
    else:
        log, what = run / LOGS / f"job-{job}.log", how
        if not _has_room(run):
            what = f"{how}, and the disk of the run's folder is full"
        if not log.is_file() or not log.read_text(errors="replace").strip():
            log = run / LOGS / "rank-0.log"
    for line in last_lines(log, _LAST_LINES):
        say(f"  | {line}")
    return TrainingError(what, where=log, hint=f"mend it, then brainage resume {run}")


def _has_room(folder: Path) -> bool:
    """Whether a small file can be written there; only that shows a share of the disk that is used up."""
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(_SMALL))
            file.flush()
            os.fsync(file.fileno())  # some file systems find out only then
    except OSError as problem:
        return problem.errno not in NO_ROOM
    return True


def last_lines(path: Path, count: int) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-count:] if path.is_file() else []
