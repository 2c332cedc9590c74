"""Whether there is a SLURM cluster here, and what it offers."""

from __future__ import annotations

import shutil
import subprocess

_SECONDS = 20


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
