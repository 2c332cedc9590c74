"""A job array of `brainage` commands on SLURM, and one more job once they have ended.

Each job runs `python -m hpc_brainage.cli.task WORK TASK`. What it types stands in the folder of the
submission, and so does the code that it runs:

    work.json               the commands, the folder that they are typed in, the package's version
    code/                   the code as it was, where it is a checkout that somebody may edit
    100_submission.sh       the sbatch file of job 100, as it was submitted
    job-100_3.log           what job 3 of the array 100 says, over all its starts
    time-was-up-3           a line for each time that the time of job 3 was up

Nothing is pickled. Whether the work is done is to be seen from the files that the commands write; they must
bear being cut off anywhere and run again. A job that is preempted or whose node dies is queued again by
SLURM; one that is told to stop because its time is nearly up queues itself again.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Strict

from hpc_brainage.cluster.code import keep_code, line_for, require_version
from hpc_brainage.cluster.resources import Resources
from hpc_brainage.cluster.sbatch import TOLD_TO_STOP, Batch
from hpc_brainage.config import Names, Section, parse
from hpc_brainage.errors import UsageError
from hpc_brainage.files import read_json, write_json
from hpc_brainage.provenance import package_version

LAST = "last"
"""The task of the job that comes after the array; those of the array are called 1, 2, ..."""
_WORK = "work.json"
_CODE = "code"
_TASK = "hpc_brainage.cli.task"
_SECONDS_TO_END = 90
"""So long before its time is up, a job is told to stop."""

# What slurm/convert.sbatch has too, word for word, under lines that set task.
BODY = f"""\
job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
# Lines are written as they are said; srun --unbuffered would give a terminal, and its codes in the log.
export PYTHONUNBUFFERED=1
# srun does not take the cores of a task over from sbatch by itself, and takes over --export=NONE.
srun --cpus-per-task="${{SLURM_CPUS_PER_TASK:-1}}" --export=ALL "${{task[@]}}" && exit 0
code=$?
# It was told to stop: it is preempted, or its time is nearly up. It goes on where it was.
case $code in {TOLD_TO_STOP})
  echo "job $job was told to stop and asks to be queued again"
  scontrol requeue "$job" || echo "SLURM does not do so"
esac
exit $code"""


class Work(Section):
    """What the jobs of a submission do."""

    folder: str
    """Where the commands are typed."""
    version: str
    """Of the package."""
    minutes: int
    """That a job may take."""
    commands: Annotated[tuple[Names, ...], Strict(False)]
    """Words of `brainage`, for each job of the array."""
    last: Names

    def words(self, task: str) -> tuple[str, ...]:
        """What a job types after `brainage`; `task` is its number in the array, from 1, or "last".

        Raises
        ------
        UsageError : there is no such task.
        """
        if task == LAST:
            return self.last
        if task.isdecimal() and 1 <= int(task) <= len(self.commands):
            return self.commands[int(task) - 1]
        raise UsageError(
            "there is no such task", where=task, expected=f"1 to {len(self.commands)}, or {LAST}"
        )


@dataclass(frozen=True)
class Submission:
    """What was submitted.

    Parameters
    ----------
    array : id of the job array; None if there was nothing but the last job.
    last : id of the job that runs once every job of the array has ended, however it ended.
    folder : where the logs and job files are.
    """

    array: str | None
    last: str
    folder: Path

    @property
    def ids(self) -> str:
        """As `squeue -j` and `scancel` take them."""
        return self.last if self.array is None else f"{self.array},{self.last}"


def submit(
    commands: Sequence[Sequence[str]], last: Sequence[str], resources: Resources, folder: Path, name: str
) -> Submission:
    """Submit `commands` as a job array, and `last` to run when all of them have ended.

    Parameters
    ----------
    commands : what each job of the array types after `brainage`, in this process's folder. There may be
        none.
    last : the last command; it runs even if jobs of the array failed.
    resources : of each job.
    folder : where all that the jobs need is kept; it must not be there yet. Job numbers may start again at
        any cluster, and a job must never find the files of an older one. The folder around it is made, and
        not left empty.
    name : of the jobs, as `squeue` shows it.

    Raises
    ------
    EnvironmentLacks : no SLURM can be reached.
    UsageError : SLURM refuses the jobs; then none of them is left.
    KeyboardInterrupt : SLURM may have taken jobs or not; the folder is left to them.
    """
    folder = folder.absolute()
    settings = resources.model_dump()
    script = Batch(
        name=name,
        logs=folder,
        asked={key: settings[key] for key in ("partition", "account", "qos", "constraint", "exclude")}
        | {"time": resources.time, "cpus_per_task": resources.cpus, "signal_delay_s": _SECONDS_TO_END},
        memory_gb=resources.memory_gb,
        setup=resources.setup,
        extra=resources.extra,
    )
    folder.mkdir(parents=True)
    array = None
    try:
        work = Work(
            folder=str(Path.cwd()),
            version=package_version(),
            minutes=resources.time,
            commands=tuple(map(tuple, commands)),
            last=tuple(last),
        )
        write_json(folder / _WORK, work.model_dump(mode="json"))
        command = _command(folder)
        if commands:
            array = script.with_more(array=f"1-{len(commands)}").submit(command, settings)
            script = script.with_more(dependency=f"afterany:{array}")
        return Submission(array, script.submit(command, settings), folder)
    except BaseException as problem:
        if array is not None:
            subprocess.run(["scancel", array], check=False)
        elif not isinstance(problem, KeyboardInterrupt):  # else SLURM may have taken jobs that need it
            shutil.rmtree(folder)
            with suppress(OSError):  # other submissions lie there
                folder.parent.rmdir()
        raise


def _command(folder: Path) -> str:
    # -P keeps the folder that the command was typed in, often a checkout, from being looked in first.
    task = shlex.join([sys.executable, "-P", "-m", _TASK, str(folder)])
    lines = [f'task=({task} "${{SLURM_ARRAY_TASK_ID:-{LAST}}}")']
    if (code := keep_code(folder / _CODE)) is not None:
        lines.append(line_for(code))
    return "\n".join([*lines, BODY])


def work_in(folder: Path) -> Work:
    """What the jobs of a submission do.

    Raises
    ------
    UsageError : this is no folder of a submission.
    EnvironmentLacks : another version of the package was installed since it was submitted.
    """
    work = parse(Work, read_json(folder / _WORK, UsageError), folder / _WORK)
    require_version(
        work.version,
        folder,
        hint="submit the command again, to go on with the version that is installed now",
    )
    return work


def note_timeout(folder: Path, task: str) -> int:
    """Note that the time of a job was up; returns how often it was."""
    path = folder / f"time-was-up-{task}"
    with path.open("a") as file:
        file.write(time.strftime("%Y-%m-%dT%H:%M:%S%z\n"))
    return len(path.read_text().splitlines())
