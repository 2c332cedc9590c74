"""Asking the sandbox's SLURM, with a limit on every question, which is long: the machine may be busy."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=90, check=True).stdout


def wait_for(jobs: str, seconds: float = 200) -> None:
    """Wait until none of the jobs is in the queue any more."""
    wait_until(lambda: not ask("squeue", "--noheader", "--jobs", jobs), seconds)


def wait_until(is_so: Callable[[], object], seconds: float = 100) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, ask("squeue")
        time.sleep(0.3)
