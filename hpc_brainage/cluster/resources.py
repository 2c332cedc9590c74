"""What one job asks of a cluster, and how a site wants to be asked.

A site has one TOML for it, such as `configs/cluster/example.toml`; `slurm` alone stands for a site whose
defaults will do. Flags of the command line go above it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from hpc_brainage.config import Names, Section, parse, read_toml
from hpc_brainage.errors import UsageError

SLURM = "slurm"
# What the sbatch file says already, or what would send the logs or the jobs elsewhere.
_NOT_EXTRA = (
    "partition", "account", "qos", "time", "mem", "cpus-per-task", "constraint", "exclude", "array",
    "chdir", "dependency", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode",
    "output", "parsable", "requeue", "no-requeue", "signal", "wait", "wrap", "gpus-per-node",
)  # fmt: skip
EXPORTED = {
    "partition": "SBATCH_PARTITION",
    "account": "SBATCH_ACCOUNT",
    "qos": "SBATCH_QOS",
    "constraint": "SBATCH_CONSTRAINT",
    "time": "SBATCH_TIMELIMIT",
}
"""Variables of sbatch for what a site's TOML may leave open; sbatch itself would put them above it."""
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")


def _minutes(value: Any) -> int:
    if isinstance(value, str) and (clock := _CLOCK.fullmatch(value.strip())):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        value = math.ceil((((days * 24) + hours) * 60 + minutes) + seconds / 60)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        # "02:00" is left out on purpose: SLURM takes it for two minutes, people for two hours.
        raise ValueError(f'a time is "HH:MM:SS", "D-HH:MM:SS" or whole minutes, not {value!r}')
    return value


Text = Annotated[str, Field(min_length=1)]
Minutes = Annotated[int, BeforeValidator(_minutes)]


class TrainResources(Section):
    """What a training job asks for. What is None is not asked for, or is as for all jobs of the site."""

    partition: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    time: Minutes | None = None
    """Longest time of one start of the job; a run that takes longer is queued again and goes on."""
    gpus_per_node: int = Field(0, ge=0)
    tasks_per_node: int | None = Field(None, ge=1)
    """Processes of a node; None for one on each GPU, or one on a node without GPUs."""
    cpus_per_task: int = Field(2, ge=1)
    memory_gb: float | None = Field(None, gt=0)
    """Memory of a node, in GiB."""
    save_seconds: int = Field(90, ge=10, le=3600)
    """So long before its time is up, the job is told to save what it has."""
    container: Names = ()
    """Words before the command of each process, such as `apptainer exec --nv image.sif`."""
    python: Text | None = None
    """The Python of each process; None for the one that submits. A container has its own."""
    scratch: Text | None = None
    """Folder on each node's own disk for compiled kernels; None for $TMPDIR, or /tmp."""
    interface: Text | None = None
    """Network interface between the nodes, such as ib0; None leaves the choice to NCCL and gloo."""

    @property
    def processes_per_node(self) -> int:
        return self.tasks_per_node or self.gpus_per_node or 1


class ScoreResources(Section):
    """What a job that scores asks for: one worker. What is None is as for all jobs of the site."""

    partition: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    time: Minutes | None = None
    """Longest time of one job; while there is work left, another one follows it."""
    gpus_per_worker: int = Field(0, ge=0)
    cpus_per_worker: int = Field(2, ge=1)
    memory_gb: float = Field(8, gt=0)
    """Memory of a worker, in GiB."""
    interface: Text | None = None
    """Network interface of the nodes, such as ib0; None for the one that reaches the command."""
    scheduler_interface: Text | None = None
    """Likewise of the machine where the command is typed; None for the one that reaches the nodes."""


class Resources(Section):
    """What each job of a cluster may use. What is None is not asked for: the site's default holds."""

    partition: Text | None = None
    """Partition, or several of them with commas between."""
    account: Text | None = None
    """The account that pays."""
    qos: Text | None = None
    """Quality of service."""
    time: Minutes = 120
    """Longest time of one job that converts, in minutes; in the file also as "HH:MM:SS" or "D-HH:MM:SS"."""
    cpus: int = Field(2, ge=1)
    """Cores of one job that converts."""
    memory_gb: float = Field(4, gt=0)
    """Memory of one job that converts, in GiB."""
    constraint: Text | None = None
    """Features that a node must have."""
    exclude: Text | None = None
    """Nodes that are not to be used."""
    setup: Names = ()
    """Shell lines that run first in each job, such as `module load`."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further options of sbatch, without the dashes; `true` for one that takes no value."""
    train: TrainResources = TrainResources()
    """What a training job asks for instead."""
    score: ScoreResources = ScoreResources()
    """What a job that scores asks for instead."""

    @field_validator("extra")
    @classmethod
    def _options_of_sbatch(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for key, value in extra.items():
            option = key.replace("_", "-")
            if option in _NOT_EXTRA:
                raise ValueError(
                    f"{key} is not for [extra]: it has a setting of its own, or is set for you"
                )
            if not re.fullmatch(r"[a-z][a-z0-9-]*", option):
                raise ValueError(f"{key} is no option of sbatch")
            if value is False or not isinstance(value, str | int | float):
                raise ValueError(f"{key} is {value!r}, where sbatch takes a text, a number or true")
        return extra


@dataclass(frozen=True)
class Flags:
    """What the command line asks of each job, as it was typed; None leaves it to the site's TOML."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None

    def typed(self) -> dict[str, str]:
        """The flags that were typed, as `--partition`, and their words."""
        return {f"--{name}": word for name, word in asdict(self).items() if word is not None}

    def over(self, resources: Resources) -> Resources:
        """The resources with what was typed in place of theirs, whatever the job is for.

        What neither says is as sbatch's variables in the environment do.

        Raises
        ------
        UsageError : a word is empty, or no time.
        """
        asked: dict[str, Any] = {}
        for flag, word in self.typed().items():
            name = flag.removeprefix("--")
            asked[name] = _value(name, word, f"{flag} {word}")
        resources = _over_exported(resources, but=asked)
        # Training and scoring have a partition, a qos and a time of their own; one account pays for all.
        of_kinds = {name: value for name, value in asked.items() if name != "account"}
        kinds = {name: getattr(resources, name).model_copy(update=of_kinds) for name in ("train", "score")}
        return resources.model_copy(update=asked | kinds)

    def refuse_without_jobs(self) -> None:
        """Make sure that nothing is asked of jobs where none is submitted.

        Raises
        ------
        UsageError : something is.
        """
        for flag, word in self.typed().items():
            raise UsageError(
                "no job is submitted that could ask for it",
                where=f"{flag} {word}",
                expected="--cluster slurm, or your site's TOML, as well",
                hint=f"leave {flag} away to work on this machine",
            )


NO_FLAGS = Flags()


def _over_exported(resources: Resources, but: Collection[str]) -> Resources:
    """The resources with what sbatch's variables say of what is left open, but for these names."""
    train, said = resources.train, {}
    for name, variable in EXPORTED.items():
        word = os.environ.get(variable)
        is_open = name not in resources.model_fields_set or (name == "time" and train.time is None)
        if word and is_open and name not in but:
            said[name] = _value(name, word, f"{variable}={word}")
    if "time" in said and train.time is None:  # the one time is for jobs that train, the other for the rest
        train = train.model_copy(update={"time": said["time"]})
    left_open = {name: value for name, value in said.items() if name not in resources.model_fields_set}
    return resources.model_copy(update=left_open | {"train": train})


def _value(name: str, word: str, where: str) -> Any:
    """What a word says of a setting; `where` is where it stands."""
    value = int(word) if name == "time" and word.isdecimal() else word
    return getattr(parse(Resources, {name: value}, where=where), name)


def read_resources(where: str, others: Sequence[str] = ()) -> Resources:
    """The resources of a site: `slurm`, or the path of its TOML.

    `others` are words that the command would have taken, too.

    Raises
    ------
    UsageError : there is no such file, it is no TOML, or it has an unknown key or a wrong value.
    """
    if where == SLURM:
        return Resources()
    path = Path(where).expanduser()
    if not path.exists():
        raise UsageError(
            "there is no such cluster",
            where=f"--cluster {where}",
            expected=f"{', '.join([*others, SLURM])}, or the path of a TOML such as"
            " configs/cluster/example.toml",
        )
    return parse(Resources, read_toml(path), where=path)
