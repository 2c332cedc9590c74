"""Programs called sbatch, srun, sinfo, squeue, sacct and scancel that keep what they are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_PROGRAMS = {
    "srun": "",
    "sinfo": "echo 'main*|4|8|16000|(null)|1-00:00:00'; echo 'long|2|8|16000|(null)|infinite';"
    " echo 'gpu|2|32|256000+|gpu:a100:4(S:0-1)|12:00:00'",
    "squeue": "cat {told}/queue 2> /dev/null; exit 0",
    "sacct": "cat {told}/accounts 2> /dev/null; exit 0",
    "scancel": 'echo "$@" > {told}/cancelled',
    # The n-th call is job n00; the script that it is given, and its environment, are kept.
    "sbatch": """
n=$(($(ls {told} | grep -c job) + 1))
if [ -e {told}/refuse-$n ]; then cat {told}/refuse-$n >&2; exit 1; fi
cp "$1" {told}/job-$n
env > {told}/env-$n
echo "Submitted batch job ${{n}}00"
""",
}


def pretend_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what SLURM was told, `job-N` and `env-N`; `refuse-N` in it refuses job N.

    What `queue` and `accounts` in it say, squeue and sacct answer.
    """
    told, programs = folder / "told", folder / "programs"
    told.mkdir()
    programs.mkdir()
    for name, script in _PROGRAMS.items():
        (programs / name).write_text("#!/bin/sh\n" + script.format(told=told))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return told
