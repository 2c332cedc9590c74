"""A job array of commands on SLURM, and one more job once they have ended.

Jobs are written and submitted through submitit. Nothing of what a job returns is read back: whether the
work is done is to be seen from the files that the commands write. The commands must bear being run again,
since a job that is preempted, whose node dies, or whose time is up, is queued again.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_brainage.cluster.resources import Resources
from hpc_brainage.cluster.sbatch import outside_of_any_job, refusals
from hpc_brainage.errors import UsageError

if TYPE_CHECKING:
    from submitit import SlurmExecutor
    from submitit.helpers import DelayedSubmission

# A command that never ends in its time must not come back for ever.
_MOST_TIMEOUTS = 10


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


@dataclass(frozen=True)
class Command:
    """A command as a job runs it: in its folder, with its output in the job's log.

    The job ends with the command's own exit code.
    """

    words: tuple[str, ...]
    folder: str

    def __call__(self) -> None:
        code = subprocess.run(self.words, cwd=self.folder, check=False).returncode
        if code:
            sys.exit(code if code > 0 else 128 - code)  # a signal, counted as a shell does

    def checkpoint(self) -> DelayedSubmission:
        """Called shortly before the time is up, or the job is preempted: the same command once more."""
        return _delayed(self)


def _delayed(command: Command) -> DelayedSubmission:
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(command)


def submit(
    commands: Sequence[Sequence[str]], last: Sequence[str], resources: Resources, folder: Path, name: str
) -> Submission:
    """Submit `commands` as a job array, and `last` to run when all of them have ended.

    Parameters
    ----------
    commands : one command for each job of the array; they are run in this process's folder. There may be
        none.
    last : the last command; it runs even if jobs of the array failed.
    resources : of each job.
    folder : where logs and job files go; it must not be there yet. Job numbers may start again at any
        cluster, and a job must never find the files of an older one.
    name : of the jobs, as `squeue` shows it.

    Raises
    ------
    EnvironmentLacks : no SLURM can be reached.
    UsageError : SLURM refuses the jobs; then none of them is left.
    """
    if "%" in str(folder.absolute()):
        raise UsageError("SLURM puts numbers in place of a % in a log's path", where=folder)
    folder.mkdir(parents=True)
    executor = _executor(resources, folder, name)
    array = None
    try:
        with refusals(resources.model_dump()), outside_of_any_job():
            if commands:
                elements = executor.submit_array([_command(words) for words in commands])
                array = elements[0].job_id.partition("_")[0]
                executor.update_parameters(dependency=f"afterany:{array}")
            return Submission(array, executor.submit(_command(last)).job_id, folder)
    except BaseException:
        if array is None:
            shutil.rmtree(folder)
        else:
            subprocess.run(["scancel", array], check=False)
        raise


def _command(words: Sequence[str]) -> Command:
    return Command(tuple(words), str(Path.cwd()))


def _executor(resources: Resources, folder: Path, name: str) -> SlurmExecutor:
    import submitit

    executor = submitit.SlurmExecutor(folder, max_num_timeout=_MOST_TIMEOUTS)
    executor.update_parameters(
        job_name=name,
        partition=resources.partition,
        account=resources.account,
        qos=resources.qos,
        time=resources.time,
        cpus_per_task=resources.cpus,
        mem=f"{math.ceil(resources.memory_gb * 1024)}M",
        constraint=resources.constraint,
        exclude=resources.exclude,
        setup=list(resources.setup),
        # Since SLURM 22.05, a step has one core unless it asks for as many as its job has.
        srun_args=[f"--cpus-per-task={resources.cpus}"],
        stderr_to_stdout=True,
        wckey=None,  # else submitit's own, which a site may not know
        additional_parameters={"requeue": True} | resources.extra,
    )
    return executor
