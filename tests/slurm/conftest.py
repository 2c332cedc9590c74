"""A real SLURM of four nodes, for as long as the tests of this folder run, and how they speak to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SANDBOX = Path(__file__).parents[2] / "slurm" / "sandbox"
_NOT_HERE = 3


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of a sandbox that is up; the test is skipped where there can be none."""
    folder = str(tmp_path_factory.mktemp("slurm"))
    env = os.environ | {"SLURM_SANDBOX": folder}
    up = subprocess.run(
        [SANDBOX, "up", "4"], env=env, capture_output=True, text=True, timeout=100, check=False
    )
    if up.returncode == _NOT_HERE:
        pytest.skip(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    try:
        yield folder
    finally:
        subprocess.run([SANDBOX, "down"], env=env, capture_output=True, timeout=60, check=True)


@pytest.fixture(scope="module")
def slurm(sandbox: str) -> Iterator[None]:
    """sbatch and its relatives talk to the sandbox, and so does slurm/sandbox."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", f"{sandbox}/slurm.conf")
        patch.setenv("SLURM_SANDBOX", sandbox)
        yield
