"""Around a call of sbatch: what it must not see of this shell, and what its refusals mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hpc_brainage.cluster.slurm import partitions
from hpc_brainage.errors import BrainAgeError, EnvironmentLacks, UsageError

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


@contextmanager
def outside_of_any_job() -> Iterator[None]:
    """Hide what an interactive job sets: the jobs submitted from there would take it for their own."""
    inherited = {}
    if "SLURM_JOB_ID" in os.environ:
        inherited = {
            key: os.environ.pop(key)
            for key in list(os.environ)
            if key.startswith("SLURM_") and key not in ("SLURM_CONF", "SLURM_CLUSTERS")
        }
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
        where=", ".join(f"{name} = {settings[name]!r}" for name in about if name in settings) or None,
        expected=f"partitions of this cluster: {', '.join(there)}" if there else None,
        hint="set it in the TOML that --cluster names, as in configs/cluster/example.toml",
    )
