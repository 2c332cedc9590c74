"""`brainage doctor`: what this machine has, and what each missing part costs."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_SECONDS = 20


def doctor() -> None:
    """Show what this machine has for training and scoring, and what each missing part costs."""
    from hpc_brainage.cli.screen import say, table

    checks: tuple[tuple[str, Callable[[], tuple[str, str]]], ...] = (
        ("Python", _python),
        ("torch", _torch),
        ("CUDA devices", _cuda),
        ("Triton", _triton),
        ("DeepSpeed", _deepspeed),
        ("C++ compiler", _compiler),
        ("SLURM", _slurm),
        ("cores", _cores),
        ("memory", _memory),
        ("disk here", _disk),
    )
    table(
        "this machine", ("part", "found", "what that means"), [(name, *check()) for name, check in checks]
    )
    say("Everything marked as missing is optional; `brainage demo` needs none of it.")


def _python() -> tuple[str, str]:
    return platform.python_version(), sys.executable


def _torch() -> tuple[str, str]:
    try:
        import torch
    except Exception as problem:
        return "missing", f"nothing can be trained or scored ({problem}): install torch"
    return torch.__version__, f"{torch.get_num_threads()} threads"


def _cuda() -> tuple[str, str]:
    try:
        import torch

        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except Exception as problem:
        return "missing", f"training and scoring run on the CPU ({problem})"
    if not devices:
        return "none", "training and scoring run on the CPU: feature tables are quick, volumes slow"
    return f"{len(devices)} x {devices[0].name}", f"{devices[0].total_memory / 2**30:.0f} GiB each"


def _triton() -> tuple[str, str]:
    found = _installed("triton")
    return (found, "") if found else ("missing", "no fused GPU kernels; nothing is lost on a CPU")


def _deepspeed() -> tuple[str, str]:
    found = _installed("deepspeed")
    return (found, "") if found else ("missing", "nothing can be trained: install deepspeed")


def _compiler() -> tuple[str, str]:
    name = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not name:
        return "missing", "torch.compile and DeepSpeed's own CPU operations are not used; none is required"
    return _first_line([name, "--version"]) or name, ""


def _slurm() -> tuple[str, str]:
    if shutil.which("sbatch") is None:
        return "missing", "everything runs on this machine; --nodes needs a cluster's login node"
    from hpc_brainage.cluster.slurm import partitions

    found = partitions()
    if not found:
        return "no cluster", "sbatch is installed but reaches no cluster: everything runs on this machine"
    return _first_line(["sbatch", "--version"]) or "sbatch", ", ".join(found)


def _cores() -> tuple[str, str]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return str(usable), "" if usable > 1 else "conversion and scoring run one at a time"


def _memory() -> tuple[str, str]:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        return "unknown", ""
    meaning = "" if free > 4 else "less than 4 GiB free: train on fewer features"
    return f"{total:.0f} GiB, {free:.0f} GiB free", meaning


def _disk() -> tuple[str, str]:
    usage = shutil.disk_usage(Path.cwd())
    free = usage.free / 2**30
    return (
        f"{free:.0f} GiB free",
        "" if free > 400 else "the whole of OpenBHB is 350 GB; its tables are small",
    )


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.stdout else ""
