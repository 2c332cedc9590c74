"""The job of a training run on SLURM: its sbatch file, its submission, and what is kept of it.

The job runs `python -m hpc_brainage.cli.worker RUN` once for each process: a run's folder says everything,
and nothing of ours is pickled. submitit writes the sbatch file and submits it, and has no part in what
happens then: who starts a job again is settled here, once.

- SLURM does, by itself, when the job is preempted or a node dies (`--requeue`).
- The job does, when it was told that its time is nearly up (`--signal`), has saved and has ended before;
  likewise when it was told so before its processes listened, or when it has lost a process and no process
  says that it failed of itself.
- Nobody does when a process has failed of itself, when the job was started several times without coming any
  further (see `starts`), or when somebody cancelled it.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from hpc_brainage.cluster.code import keep_code, line_for, require_version, room_for_a_job
from hpc_brainage.cluster.ranks import INTERFACE, SCRATCH, START
from hpc_brainage.cluster.resources import SLURM, Resources, TrainResources
from hpc_brainage.cluster.sbatch import TOLD_TO_STOP, Batch
from hpc_brainage.cluster.slurm import cancel
from hpc_brainage.cluster.starts import LOGS, MOST_STARTS_WITHOUT_PROGRESS, UNRECORDED
from hpc_brainage.config import Section, parse
from hpc_brainage.errors import BrainAgeError, EnvironmentLacks, TrainingError
from hpc_brainage.files import read_json, sha256_of, write_json
from hpc_brainage.provenance import package_version

RECORD = "job.json"
CODE = "code"
WORKER = "hpc_brainage.cli.worker"
ASKED = "BRAINAGE_ASKED"
"""Environment variable: the file that says what the job asked for; one of `slurm/train.sbatch` has none."""
_OF_THE_SUBMISSION = {"id", "host", "ticks", "path", "inode"}
"""What a job has once it is submitted, and does not ask for."""

# What slurm/train.sbatch has too, word for word, under lines that set run and worker.
BODY = f"""\
# A start of the job: the first one, and one more each time that it is queued again.
export {START}=$run/{LOGS}/$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}
mkdir -p "${START}"
# Lines are written as they are said; srun --unbuffered would give a terminal, and its codes in the log.
export PYTHONUNBUFFERED=1
# srun does not take the cores of a task over from sbatch by itself, and takes over --export=NONE.
srun --cpus-per-task="${{SLURM_CPUS_PER_TASK:-1}}" --export=ALL --kill-on-bad-exit=1 --open-mode=append \\
  --output="$run/{LOGS}/rank-%t.log" "${{worker[@]}}" "$run" && exit 0
code=$?
cd "${START}" || exit $code
# A process says that it failed of itself, by its exit code where there is no room for a file.
{{ [ $code -eq {UNRECORDED} ] || compgen -G "failed-*.json" > /dev/null; }} && exit $code
# Rank 0 has not come, and would end a job that never comes any further.
if [ ! -e rendezvous.json ]; then
  case $code in {TOLD_TO_STOP}) ;; *) exit $code; esac
  met=$(compgen -G "../$SLURM_JOB_ID-*/rendezvous.json" | wc -l)
  if [ $((${{SLURM_RESTART_COUNT:-0}} + 1 - met)) -ge {MOST_STARTS_WITHOUT_PROGRESS} ]; then
    echo "ended before training began, in {MOST_STARTS_WITHOUT_PROGRESS} starts"
    exit $code
  fi
fi
# The run was stopped and saved, or has lost a node. It goes on where it was.
echo "job $SLURM_JOB_ID ended with exit code $code and asks to be queued again"
scontrol requeue "$SLURM_JOB_ID" || echo "SLURM does not do so; brainage resume $run goes on"
exit $code"""


class RunJob(Section):
    """What a run's job is, kept in the run's folder: enough to submit it again as it was."""

    cluster: Literal["slurm", "local"]
    nodes: int
    resources: Resources
    python: str
    """The Python of each process."""
    code: str | None
    """Folder in the run's folder with the code that the processes run; None for the installed package."""
    version: str
    """Of the package."""
    id: str | None = None
    """Number of SLURM's job, or of the launching process on this machine; None before there is one."""
    host: str = ""
    """The machine of a launching process, and"""
    ticks: int = -1
    """when that was started: another process may have its number later."""
    path: str = ""
    """Where the run was when the job was kept, and"""
    inode: int = 0
    """the number of its folder, by which a run that was moved is told from a copy."""

    @property
    def processes(self) -> int:
        return self.nodes * self.resources.train.processes_per_node

    @property
    def worker(self) -> list[str]:
        """The command of each process, but for the run's folder at its end."""
        # -P keeps the folder that the command was typed in, often a checkout, from being looked in first.
        return [*self.resources.train.container, self.python, "-P", "-m", WORKER]


def plan_job(run: Path, nodes: int, resources: Resources, cluster: Literal["slurm", "local"]) -> RunJob:
    """The job of a prepared run, with the code as it is now kept in the run's folder, and room for logs."""
    with room_for_a_job(run):
        # SLURM makes no folder for its output, and ends a job without one.
        (run / LOGS).mkdir(exist_ok=True)
        kept = keep_code(run.absolute() / CODE)
    return RunJob(
        cluster=cluster,
        nodes=nodes,
        resources=resources,
        python=resources.train.python or sys.executable,
        code=None if kept is None else f"{CODE}/{kept.name}",
        version=package_version(),
        **_place(run),
    )


def job_of(run: Path) -> RunJob | None:
    """The job that a run was given last, if any; a copy of a run has what was asked for, and no number.

    Raises
    ------
    TrainingError : what is kept of it is damaged.
    """
    path = run / RECORD
    if not path.is_file():
        return None
    try:
        job, here = parse(RunJob, read_json(path), path), _place(run)
    except BrainAgeError as problem:
        raise TrainingError(
            f"what is kept of the run's job cannot be read: {problem.what}",
            where=problem.where,
            hint=f"remove {path}; brainage train with the same words goes on with what is saved",
        ) from None
    is_its_own = not job.path or job.path == here["path"] or job.inode == here["inode"]
    return job.model_copy(update=here if is_its_own else here | {"id": None})


def code_of(run: Path, job: RunJob) -> Path | None:
    """What Python has to look in for the job's code; None for the installed package.

    Raises
    ------
    TrainingError : the code is gone: other code must not go on with the run in its place.
    """
    if job.code is None:
        return None
    folder = run.absolute() / job.code
    if not folder.is_dir():
        raise TrainingError(
            "the code that the run was started with is gone",
            where=folder,
            hint="bring it back, or go on with the code as it is now: brainage train with the same words",
        )
    return folder


def _place(run: Path) -> dict[str, Any]:
    return {"path": str(run.resolve()), "inode": run.stat().st_ino}


def keep_job(run: Path, job: RunJob) -> None:
    write_json(run / RECORD, job.model_dump(mode="json"))


def keep_this_job(run: Path) -> None:
    """Let what is kept of a run's job speak of the job of SLURM that this process belongs to: it trains.

    Whoever submitted it may have kept nothing (by hand, or interrupted), or another one: of two jobs that
    were submitted in the same instant it may be the earlier one that comes first and trains.
    """
    number = os.environ.get("SLURM_JOB_ID")
    if number is None or START not in os.environ:  # or it is a command within a job
        return
    with suppress(TrainingError):  # what is damaged is written anew
        kept = job_of(run)
        if kept is not None and (kept.cluster, kept.id) == (SLURM, number):
            return
    job = _asked_for() or _asked_by_hand()
    with suppress(OSError):  # a full disk stops no training
        keep_job(run, job.model_copy(update=_place(run) | {"id": number}))


def _asked_for() -> RunJob | None:
    """What the job that this process belongs to asked for, as its sbatch file says; None if it does not."""
    path = os.environ.get(ASKED)
    with suppress(BrainAgeError):
        return None if path is None else parse(RunJob, read_json(Path(path)), path)
    return None


def _asked_by_hand() -> RunJob:
    """What a job of `slurm/train.sbatch` asked for, as far as SLURM tells its processes."""
    said = os.environ.get
    nodes = int(said("SLURM_JOB_NUM_NODES", "1"))
    train = TrainResources(
        gpus_per_node=int(said("SLURM_GPUS_ON_NODE", "0")),
        tasks_per_node=max(1, int(said("SLURM_NTASKS", "1")) // nodes),
        cpus_per_task=int(said("SLURM_CPUS_PER_TASK", "1")),
        partition=said("SLURM_JOB_PARTITION") or None,
        qos=said("SLURM_JOB_QOS") or None,
    )
    return RunJob(
        cluster="slurm",
        nodes=nodes,
        resources=Resources(account=said("SLURM_JOB_ACCOUNT") or None, train=train),
        python=sys.executable,
        code=None,
        version=package_version(),
    )


def check_version(run: Path) -> None:
    """Make sure that a job runs the package that it was submitted with.

    Raises
    ------
    EnvironmentLacks : another version was installed meanwhile.
    """
    job = _asked_for() or job_of(run)
    if job is not None:
        hint = "brainage resume submits it with the version that is installed now"
        require_version(job.version, run, hint=hint)


def batch_file(run: Path, job: RunJob) -> str:
    """The sbatch file of a run, which `sbatch` takes as it is."""
    with room_for_a_job(run):
        return _batch(run, job).text(_command(run, job))


def submit_run(run: Path, job: RunJob, check: Callable[[str], object] = lambda number: None) -> RunJob:
    """Submit a run's job; returns it with its number, which is kept in the run's folder too.

    Parameters
    ----------
    check : called with the number, once there is one. Where that raises, or the number cannot be kept, the
        job is cancelled: nobody would know of it.

    Raises
    ------
    EnvironmentLacks : no SLURM can be reached, or the run's folder cannot be written.
    UsageError : SLURM refuses the job.
    """
    with room_for_a_job(run):
        number = _batch(run, job).submit(_command(run, job), _settings(job))
        job = job.model_copy(update={"id": number})
        try:
            check(number)
            keep_job(run, job)
        except BaseException as problem:
            _take_back(number, problem)
            raise
    return job


def _take_back(number: str, why: BaseException) -> None:
    try:
        cancel(number)
    except EnvironmentLacks as problem:
        raise EnvironmentLacks(
            f"job {number} was submitted, is not kept, and SLURM does not cancel it ({why})",
            where=problem.where,
            hint=f"scancel {number}",
        ) from None


def _keep_asked(run: Path, job: RunJob) -> str:
    """Keep what a job asks for, for whoever submits it; the file in the run's folder."""
    content = job.model_dump(mode="json", exclude=_OF_THE_SUBMISSION)
    name = f"{LOGS}/asked-{sha256_of(content)[:8]}.json"
    if not (run / name).is_file():
        write_json(run / name, content)
    return name


def _batch(run: Path, job: RunJob) -> Batch:
    settings, asked = _settings(job), job.resources.train
    as_they_are = ("partition", "account", "qos", "constraint", "exclude", "time", "cpus_per_task")
    return Batch(
        name=f"brainage-{run.name}",
        logs=run.absolute() / LOGS,
        asked={name: settings[name] for name in as_they_are}
        | {
            "nodes": job.nodes,
            "ntasks_per_node": asked.processes_per_node,
            "gpus_per_node": asked.gpus_per_node or None,
            "signal_delay_s": asked.save_seconds,
        },
        memory_gb=asked.memory_gb,
        setup=job.resources.setup,
        extra=settings["extra"],
    )


def _settings(job: RunJob) -> dict[str, Any]:
    """What the job asks for, in the words of the site's TOML."""
    asked, of_all = job.resources.train, job.resources
    settings = asked.model_dump() | {"account": of_all.account, "exclude": of_all.exclude}
    for name in ("partition", "qos", "constraint"):
        settings[name] = settings[name] or getattr(of_all, name)
    return settings | {"extra": of_all.extra}


def _command(run: Path, job: RunJob) -> str:
    asked = job.resources.train
    lines = [
        f"run={shlex.quote(str(run.absolute()))}",
        f"worker=({shlex.join(job.worker)})",
        f"export {ASKED}=$run/{_keep_asked(run, job)}",
    ]
    if (code := code_of(run, job)) is not None:
        lines.append(line_for(code))
    for name, value in ((SCRATCH, asked.scratch), (INTERFACE, asked.interface)):
        if value is not None:
            lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join([*lines, BODY])
