"""The one pass over several reconstructions in C, compiled for this processor where there is a compiler.

It is compiled in each process that uses it, into a folder that is gone again at once: half a second, and
no library of another machine, version or person is ever loaded. It shares torch's threads, because the
OpenMP library that it names is already in the process.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_name("multi_mse.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c11")
_SECONDS = 60


def lacks() -> str:
    """What is missing for this form on this machine; "" where nothing is. Compiles when first asked."""
    return _compiled()[1]


def compiler_name() -> str:
    """The command of the C compiler, or "" where there is none."""
    named = os.environ.get("CC")
    return named or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or ""


def one_pass(
    recons: Sequence[torch.Tensor],
    target: torch.Tensor,
    weights: torch.Tensor,
    squared: bool,
    gradients: Sequence[torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the errors (K, B), in float32; gradients are written where there is room for them.

    Parameters
    ----------
    recons : K of (B, F), float32 with dense columns.
    target : (B, F) with dense columns; of another type it is made float32.
    weights : (K, B) float32.
    squared : or absolute errors.
    gradients : K of (B, F) to be written; each may be its reconstruction itself.
    """
    target, weights = target.to(torch.float32), weights.contiguous()
    (scans, columns), count = target.shape, len(recons)
    places = [recon.data_ptr() for recon in recons] + [recon.stride(0) for recon in recons]
    if gradients is not None:
        places += [written.data_ptr() for written in gradients]
        places += [written.stride(0) for written in gradients]
    errors, loss = torch.empty((count, scans)), torch.empty(())
    failed = _functions().multi_mse(
        count, scans, columns, squared, gradients is not None, _numbers(len(places))(*places),
        target.data_ptr(), target.stride(0), weights.data_ptr(), errors.data_ptr(), loss.data_ptr(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the errors of each scan")
    return loss, errors


def layer_pass(
    rebuilt: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    squared: bool,
    errors: torch.Tensor,
) -> torch.Tensor:
    """Make a linear layer's reconstructions their own gradients; gives these, summed, the bias's own (F,).

    Parameters
    ----------
    rebuilt : (K·B, F) float32, dense, in which the bias is not yet.
    bias : (F,) float32.
    target : (B, F) with dense columns; of another type it is made float32.
    weights : (K, B) float32.
    squared : or absolute errors.
    errors : (K, B) float64, dense; the errors are added to it.
    """
    target, weights, bias = target.to(torch.float32), weights.contiguous(), bias.contiguous()
    sums = torch.empty_like(bias)
    failed = _functions().layer_mse(
        *weights.shape, rebuilt.shape[1], squared, rebuilt.data_ptr(), bias.data_ptr(), target.data_ptr(),
        target.stride(0), weights.data_ptr(), sums.data_ptr(), errors.data_ptr(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the errors of each scan")
    return sums


_numbers = functools.cache(lambda count: ctypes.c_int64 * count)
"""The type of so many numbers; made anew it would take longer than what it is for."""


def _functions() -> ctypes.CDLL:
    library = _compiled()[0]
    assert library is not None, "no compiler; `lacks` says so"
    return library


@functools.cache
def _compiled() -> tuple[ctypes.CDLL | None, str]:
    """The functions, or None and why not."""
    compiler = compiler_name()
    if not compiler:
        return None, "a C compiler: cc, gcc or clang"
    try:
        # What cannot be removed again (as on NFS, where the loaded library is still open) stays.
        with tempfile.TemporaryDirectory(prefix="brainage-", ignore_cleanup_errors=True) as folder:
            library = Path(folder, "multi_mse.so")
            words = shlex.split(compiler) if compiler == os.environ.get("CC") else [compiler]
            command = [*words, *_FLAGS, "-o", str(library), str(_SOURCE)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                return None, f"a C compiler with OpenMP; {compiler} says: {last}"
            functions = ctypes.CDLL(str(library))
    except (OSError, ValueError, subprocess.SubprocessError) as reason:
        return None, f"a C compiler with OpenMP; {compiler} failed: {reason}"
    number, place, truth = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    functions.multi_mse.argtypes = [
        number, number, number, truth, truth, place, place, number, place, place, place
    ]  # fmt: skip
    functions.layer_mse.argtypes = [
        number, number, number, truth, place, place, place, number, place, place, place
    ]  # fmt: skip
    return functions, ""
