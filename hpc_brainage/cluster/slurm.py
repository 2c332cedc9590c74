"""Whether there is a SLURM cluster here, and what it offers."""

from __future__ import annotations

import shutil
import subprocess

from hpc_brainage.errors import EnvironmentLacks

_SECONDS = 20


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


def partitions() -> list[str]:
    """SLURM's partitions as "NAME (N nodes)"; empty on a machine that reaches no cluster."""
    if shutil.which("sbatch") is None:
        return []
    command = ["sinfo", "--noheader", "--format", "%R (%D nodes)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return (
        [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
    )
