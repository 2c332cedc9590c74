"""A real SLURM of two nodes, for as long as the tests of this folder run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SANDBOX = Path(__file__).parents[2] / "slurm" / "sandbox"
_NOT_HERE = 3


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """sbatch and its relatives talk to the sandbox; the test is skipped where there can be none."""
    place = {"SLURM_SANDBOX": str(tmp_path_factory.mktemp("slurm"))}
    up = subprocess.run(
        [SANDBOX, "up", "2"],
        env=os.environ | place,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if up.returncode == _NOT_HERE:
        pytest.skip(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", f"{place['SLURM_SANDBOX']}/slurm.conf")
            yield
    finally:
        subprocess.run(
            [SANDBOX, "down"], env=os.environ | place, capture_output=True, timeout=60, check=True
        )
