"""Starting the processes of a run, as a launcher does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

_SECONDS = 100


def launch(world: int, *arguments: str) -> None:
    """Run `python ARGUMENTS` as `world` processes of one run, and fail with what they said if one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        where["PYTHONPATH"] = str(Path(__file__).parent)  # a test file that is run imports its neighbours
        started.append(
            subprocess.Popen(
                [sys.executable, *arguments],
                env=os.environ | place | where,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    try:
        outputs = [process.communicate(timeout=_SECONDS)[0].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), outputs
