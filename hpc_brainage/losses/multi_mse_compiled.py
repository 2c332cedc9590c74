"""The one pass over several reconstructions in C, compiled for this processor where there is a compiler.

It is compiled in each process that uses it, into a folder that is gone again at once: half a second, and
no library of another machine, version or person is ever loaded. It shares torch's threads, because the
OpenMP library that it names is already in the process.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

COLUMNS = 8192
"""Columns of a task, as in `multi_mse.c`."""

_SOURCE = Path(__file__).with_name("multi_mse.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c11")
_SECONDS = 60


def lacks() -> str:
    """What is missing for this form on this machine; "" where nothing is. Compiles when first asked."""
    return _compiled()[1]


def compiler_name() -> str:
    """The command of the C compiler, or "" where there is none."""
    return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or ""


def one_pass(
    recons: Sequence[torch.Tensor],
    target: torch.Tensor,
    weights: torch.Tensor,
    squared: bool,
    gradients: Sequence[torch.Tensor] | None,
) -> torch.Tensor:
    """Errors (K, B) in float64; gradients are written where there is room for them.

    Parameters
    ----------
    recons : K of (B, F), float32 with dense columns.
    target : (B, F) with dense columns; of another type it is made float32.
    weights : (K, B) float32.
    squared : or absolute errors.
    gradients : K of (B, F) to be written; each may be its reconstruction itself.
    """
    function = _compiled()[0]
    assert function is not None, "no compiler; `lacks` says so"
    target = target.to(torch.float32)
    (scans, columns), count = target.shape, len(recons)
    pieces = -(-columns // COLUMNS)
    partial = torch.empty(count * scans * pieces, dtype=torch.float64)
    errors = torch.empty((count, scans), dtype=torch.float64)
    weights = weights.contiguous()
    function(
        count, scans, columns, squared, *_pointers(recons), target.data_ptr(), target.stride(0),
        *(_pointers(gradients) if gradients is not None else (None, None)),
        weights.data_ptr(), partial.data_ptr(), errors.data_ptr(),
    )  # fmt: skip
    for written in gradients or ():
        # torch has not seen the writing; an operation that needs the old values must be told.
        torch.autograd.graph.increment_version(written)
    return errors


def _pointers(matrices: Sequence[torch.Tensor]) -> tuple[ctypes.Array, ctypes.Array]:
    count = len(matrices)
    return (
        (ctypes.c_void_p * count)(*[matrix.data_ptr() for matrix in matrices]),
        (ctypes.c_int64 * count)(*[matrix.stride(0) for matrix in matrices]),
    )


@functools.cache
def _compiled() -> tuple[ctypes._CFuncPtr | None, str]:  # type: ignore[name-defined]
    """The function, or None and why not."""
    compiler = compiler_name()
    if not compiler:
        return None, "a C compiler: cc, gcc or clang"
    with tempfile.TemporaryDirectory(prefix="brainage-") as folder:
        library = Path(folder, "multi_mse.so")
        command = [*compiler.split(), *_FLAGS, "-o", str(library), str(_SOURCE)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                return None, f"a C compiler with OpenMP; {compiler} says: {last}"
            function = ctypes.CDLL(str(library)).multi_mse
        except (OSError, subprocess.SubprocessError) as reason:
            return None, f"a C compiler with OpenMP; {compiler} failed: {reason}"
    number, place = ctypes.c_int64, ctypes.c_void_p
    function.restype = None
    function.argtypes = [
        number, number, number, ctypes.c_int, place, place, place, number, place, place, place, place,
        place,
    ]  # fmt: skip
    return function, ""
