"""A job as sbatch takes it: its file, its submission, and what a refusal means.

submitit writes the file, submits it and reads the job's number. It is given a shell command and no Python
object, so that nothing is pickled, and it has no part in what happens then. It writes one line of its own
above the command, `export SUBMITIT_EXECUTOR=slurm`, which only submitit's own jobs read: it stays, since to
take it out would be to write and submit the file ourselves.
"""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

from hpc_brainage.cluster.resources import EXPORTED, Flags
from hpc_brainage.cluster.slurm import partitions
from hpc_brainage.errors import BrainAgeError, EnvironmentLacks, ExitCode, UsageError

TOLD_TO_STOP = f"{int(ExitCode.STOPPED)}|{128 + signal.SIGUSR2}|{128 + signal.SIGTERM}"
"""Exit codes of what was, as bash takes them; the signal kills a process that does not listen yet."""

# sbatch's variables, which it puts above the file: of what every file says, and to wait for the job's end;
# then of options whose variables are called otherwise, or would ask for the same a second time.
_OF_EVERY_FILE = {
    f"SBATCH_{name}"
    for name in (
        "ARRAY_INX", "ERROR", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "WAIT",
    )
} | set(EXPORTED.values())  # fmt: skip
_OF_OPTIONS = {
    "mem": ("MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE"),
    "gpus-per-node": ("GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK"),
}

# Words of sbatch's refusals, and the settings that they are about; the first that fits.
_REFUSALS = (
    ("accounting/qos policy", ("account", "qos", "time")),
    ("account", ("account", "partition")),
    ("qos", ("qos",)),
    ("partition", ("partition",)),
    ("time limit", ("time",)),
    ("memory", ("memory_gb",)),
    ("feature", ("constraint",)),
    ("node name", ("exclude",)),
    ("node configuration", ("cpus", "cpus_per_task", "gpus_per_node", "memory_gb", "constraint")),
    ("unrecognized option", ("extra",)),
)


@dataclass(frozen=True)
class Batch:
    """What a job asks for, and where it says what it does; everything but its command.

    Parameters
    ----------
    name : of the job, as `squeue` shows it.
    logs : folder for what SLURM, the set-up lines and the command say, and for the sbatch file.
    asked : what the #SBATCH lines say, in submitit's words; what is None is left to the site.
    memory_gb : of a node, in GiB; None leaves it to the site.
    setup : shell lines that run first.
    extra : further options of sbatch.

    Raises
    ------
    UsageError : SLURM could not write into a folder of that name.
    """

    name: str
    logs: Path
    asked: Mapping[str, Any]
    memory_gb: float | None
    setup: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "%" in str(self.logs):
            raise UsageError("SLURM puts numbers in place of a % in a log's path", where=self.logs)

    def with_more(self, **extra: Any) -> Batch:
        """The same with further options of sbatch."""
        return replace(self, extra={**self.extra, **extra})

    def text(self, command: str) -> str:
        """The sbatch file, which `sbatch` takes as it is; `command` may be several shell lines."""
        return _written(command, self.logs, self._parameters())

    def submit(self, command: str, settings: Mapping[str, object]) -> str:
        """Submit it; returns the job's number. The file stays in the folder of the logs.

        `settings` are those of the site's TOML by name, for what is said of a refusal.

        Raises
        ------
        EnvironmentLacks : no SLURM can be reached.
        UsageError : SLURM refuses the job.
        """
        options = re.findall(r"^#SBATCH --([a-z-]+)", self.text(command), re.MULTILINE)
        with refusals(settings), alone(options):
            return _submitted(command, self.logs, self._parameters())

    def _parameters(self) -> dict[str, Any]:
        log = "job-%A_%a.log" if "array" in self.extra else "job-%j.log"
        return {
            **self.asked,
            "job_name": self.name,
            "mem": None if self.memory_gb is None else f"{math.ceil(self.memory_gb * 1024)}M",
            "setup": list(self.setup),
            "stderr_to_stdout": True,
            "use_srun": False,
            "wckey": None,  # else submitit's own, which a site may not know
            "additional_parameters": {"requeue": True, "output": f"{self.logs}/{log}", **self.extra},
        }


def _written(command: str, logs: Path, parameters: Mapping[str, Any]) -> str:
    write, _ = of_submitit()
    return str(write(command, logs, **parameters))


def _submitted(command: str, logs: Path, parameters: Mapping[str, Any]) -> str:
    from submitit import SlurmExecutor

    _, submit = of_submitit()
    executor = SlurmExecutor(logs)
    executor.update_parameters(**parameters)
    with redirect_stderr(StringIO()):  # submitit prints a refusal, too, which `refusals` says in our words
        return str(submit(executor, command).job_id)


def of_submitit() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """How submitit writes the file of a shell command, and how its executor submits one.

    Neither belongs to what submitit promises to keep; a test looks at both.

    Raises
    ------
    EnvironmentLacks : the submitit that is installed has them no more.
    """
    import submitit

    try:
        from submitit.slurm.slurm import _make_sbatch_string

        return _make_sbatch_string, submitit.SlurmExecutor._submit_command
    except (ImportError, AttributeError) as problem:
        raise EnvironmentLacks(
            f"submitit {submitit.__version__} submits no shell command any more ({problem})",
            expected="submitit 1.5",
            hint="pip install 'submitit==1.5.*'; slurm/train.sbatch and slurm/convert.sbatch do without it",
        ) from None


@contextmanager
def alone(options: Iterable[str]) -> Iterator[None]:
    """Let a job be what its file says: hide from sbatch what the environment has instead.

    That is what an interactive job sets, which the jobs submitted from there would take for their own, and
    sbatch's own variables for what the file says, with these further `options` in it.
    """
    hidden = set(_OF_EVERY_FILE)
    for option in options:
        names = _OF_OPTIONS.get(option, (option.replace("-", "_").upper(),))
        hidden.update(f"SBATCH_{name}" for name in names)
    if "SLURM_JOB_ID" in os.environ:
        kept = ("SLURM_CONF", "SLURM_CLUSTERS")
        hidden.update(key for key in os.environ if key.startswith("SLURM_") and key not in kept)
    inherited = {key: os.environ.pop(key) for key in hidden if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(inherited)


@contextmanager
def refusals(settings: Mapping[str, object]) -> Iterator[None]:
    """Say in our words why sbatch does not take a job, and which of the settings it is about."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        yield
    except (FailedJobError, FailedSubmissionError) as problem:
        raise refusal(str(problem), settings) from None


def _hint(about: tuple[str, ...]) -> str:
    """How the settings that a refusal is about are set; some of them by a flag, too."""
    flags = [f"--{name}" for name in about if name in Flags.__dataclass_fields__]
    by_flag = f"by {' or '.join(flags)}, or " if flags else ""
    return f"set it {by_flag}in the TOML that --cluster names, as in configs/cluster/example.toml"


def _named(about: tuple[str, ...], settings: Mapping[str, object]) -> str | None:
    """The settings that a refusal is about, as they were asked for; where none was, their names."""
    asked = [f"{name} = {settings[name]!r}" for name in about if settings.get(name) is not None]
    return ", ".join(asked or (f"{name} is not set" for name in about)) or None


def refusal(message: str, settings: Mapping[str, object]) -> BrainAgeError:
    """What a message of sbatch means; `settings` are those of the site's TOML, by name."""
    said = "; ".join(
        line.removeprefix("sbatch: ").removeprefix("error: ") for line in message.strip().splitlines()
    )
    if "unable to contact" in said.casefold():
        return EnvironmentLacks(f"SLURM does not answer ({said})", hint="submit again when it does")
    about = next((names for words, names in _REFUSALS if words in said.casefold()), ())
    there = partitions() if "partition" in about else []
    return UsageError(
        f"SLURM refuses the jobs ({said})",
        where=_named(about, settings),
        expected=f"partitions of this cluster: {', '.join(there)}" if there else None,
        hint=_hint(about),
    )
