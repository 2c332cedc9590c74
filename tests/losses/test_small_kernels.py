"""The kernels of small operations: in Triton's interpreter, and through its compiler for two GPUs.

Both in processes of their own: Triton decides at its import whether it interprets or compiles.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed on this machine"
)


def ran(words: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    known = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, **known, **more}
    )


def test_the_kernels_are_right_in_the_interpreter(tmp_path: Path) -> None:
    file = str(HERE / "small_kernels_interpreted.py")
    done = ran(["-m", "pytest", "-x", "-p", "no:cacheprovider", file], tmp_path, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    done = ran([str(HERE / "small_kernels_compiled.py")], tmp_path, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["80", "90"]
