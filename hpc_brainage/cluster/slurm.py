"""Whether there is a SLURM cluster here, what it offers, and what has become of its jobs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import sleep

from hpc_brainage.errors import EnvironmentLacks

_SECONDS = 20
_PARTITION = "%P|%D|%c|%m|%G|%l"
_JOB = "%i|%T|%r|%L|%N"


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind.

    Parameters
    ----------
    count : how many.
    cores, memory_mb, gpus : of each.
    """

    count: int
    cores: int
    memory_mb: int
    gpus: int


@dataclass(frozen=True)
class Partition:
    """A partition, as `sinfo` shows it.

    Parameters
    ----------
    kinds : its nodes, those of one kind together, whatever they are doing now.
    minutes : the longest time of a job; None without a limit.
    is_default : whether jobs that name no partition go there.
    """

    name: str
    kinds: tuple[Nodes, ...]
    minutes: int | None
    is_default: bool

    @property
    def nodes(self) -> int:
        return sum(kind.count for kind in self.kinds)

    def __str__(self) -> str:
        most = max(kind.gpus for kind in self.kinds)
        gpus = f", {most} GPUs each" if most else ""
        return f"{self.name} ({self.nodes} nodes{gpus})"


@dataclass(frozen=True)
class JobState:
    """What SLURM says of a job.

    Parameters
    ----------
    state : SLURM's word, such as PENDING, RUNNING, COMPLETED or FAILED; "" when SLURM knows nothing of it
        any more, or does not answer.
    why : why it waits.
    left : time left, as SLURM writes it.
    nodes : where it runs.
    is_known : False where SLURM is here and does not answer: then the job may be anything.
    """

    state: str
    why: str = ""
    left: str = ""
    nodes: str = ""
    is_known: bool = True

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen any more without somebody doing something."""
        return self.is_known and self.state not in _GOES_ON


_GOES_ON = (
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD",
    "REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT",
)  # fmt: skip
"""States that SLURM's queue shows of a job that is not at its end."""
_MAY_COME_BACK = ("PREEMPTED", "NODE_FAIL")
"""States in which a job is for a moment before it is queued again; where the site cancels what it preempts,
it stays in them."""
_LOOKS, _BETWEEN_LOOKS = 5, 1.0  # seconds


def require_slurm(instead: str) -> None:
    """Make sure that jobs can be submitted from this machine; `instead` is what to do where they cannot.

    Raises
    ------
    EnvironmentLacks : SLURM's commands are not here.
    """
    missing = [name for name in ("sbatch", "srun", "scancel") if shutil.which(name) is None]
    if missing:
        raise EnvironmentLacks(
            f"there is no SLURM on this machine ({missing[0]} is not found)",
            expected="a login node of a cluster",
            hint=instead,
        )


def read_partitions() -> list[Partition]:
    """What the cluster has; empty on a machine that reaches none."""
    lines = _ask(["sinfo", "--noheader", "--exact", "--format", _PARTITION])
    found: dict[str, Partition] = {}
    for line in lines or ():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != 6:
            continue
        name, count, cores, memory, gpus, longest = fields
        before = found.get(name)
        kind = Nodes(_number(count), _number(cores), _number(memory), _gpus(gpus))
        found[name] = Partition(
            name.rstrip("*"),
            (*(before.kinds if before else ()), kind),
            _minutes(longest),
            name.endswith("*"),
        )
    return list(found.values())


def partitions() -> list[str]:
    """SLURM's partitions as "NAME (N nodes)"; empty on a machine that reaches no cluster."""
    return [str(partition) for partition in read_partitions()]


def node_addresses() -> list[str]:
    """Addresses or names of the cluster's nodes, as SLURM itself reaches them."""
    return [line.strip() for line in _ask(["sinfo", "--noheader", "--Node", "--format", "%o"]) or ()]


def settled_state(job: str) -> JobState:
    """What SLURM says of a job; one that was preempted or lost its node has some seconds to come back.

    Raises
    ------
    EnvironmentLacks : SLURM does not answer.
    """
    for look in range(_LOOKS):
        if look:
            sleep(_BETWEEN_LOOKS)
        state = job_states([job])[job]
        if not state.is_known:
            raise EnvironmentLacks(
                "SLURM does not answer, so nobody knows whether the job waits or runs",
                where=f"job {job}",
                hint="try again when squeue answers",
            )
        if state.state not in _MAY_COME_BACK:
            break
    return state


def job_states(jobs: Collection[str]) -> dict[str, JobState]:
    """What SLURM says of each job, from its queue and, of those that have left it, from its accounts."""
    if not jobs:
        return {}
    states = {}
    # One job that SLURM has forgotten makes squeue refuse the whole list, so all of a user's are asked for.
    queue = _ask(["squeue", "--noheader", "--me", "--states=all", "--format", _JOB])
    if queue is None and shutil.which("squeue") is not None:
        # The accounts lag behind, and do not know of a job that has just been submitted.
        return {job: JobState("", is_known=False) for job in jobs}
    for line in queue or ():
        job, state, why, left, nodes = (*line.strip().split("|"), *[""] * 5)[:5]
        if job in jobs:
            states[job] = JobState(state, "" if why == "None" else why, left, nodes)
    ended = [job for job in jobs if job not in states or states[job].is_over]
    if ended:
        words = ["sacct", "-X", "-n", "-P", "-j", ",".join(ended), "-o", "JobID,State"]
        for line in _ask(words) or ():
            job, _, state = line.strip().partition("|")
            if job in ended and state:
                states.setdefault(job, JobState(state.split()[0]))  # as in "CANCELLED by 1000"
    return {job: states.get(job, JobState("")) for job in jobs}


def cancel(job: str) -> None:
    """Take a job out of the queue, running or not.

    Raises
    ------
    EnvironmentLacks : SLURM does not do it.
    """
    try:
        done = subprocess.run(
            ["scancel", job], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise EnvironmentLacks("SLURM cannot be asked to cancel a job", where=str(problem)) from None
    if done.returncode:
        raise EnvironmentLacks("SLURM does not cancel the job", where=done.stderr.strip() or job)


def _ask(words: Sequence[str]) -> list[str] | None:
    """What one of SLURM's programs answers, line by line; None if it is not here or does not answer."""
    if shutil.which(words[0]) is None:
        return None
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return [line for line in done.stdout.splitlines() if line.strip()]


def _number(text: str) -> int:
    """SLURM writes 64000+ where nodes differ, and 1.5K for many."""
    found = re.match(r"([\d.]+)(K?)", text)
    return int(float(found[1]) * (1000 if found[2] else 1)) if found else 0


def _gpus(resources: str) -> int:
    """GPUs in "gpu:2", "gpu:a100:4(S:0-1)" or "gpu:a100:2,gpu:v100:2"."""
    return sum(int(count) for count in re.findall(r"\bgpu:(?:[^:,()]+:)?(\d+)", resources))


def _minutes(text: str) -> int | None:
    """Minutes in "1-00:00:00", "30:00" or "infinite"."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes
