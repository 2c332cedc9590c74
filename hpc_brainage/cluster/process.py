"""Which process of this machine is meant: its number alone may be another one's later."""

from __future__ import annotations

from pathlib import Path


def started_at(process: int) -> int:
    """When a process was started, in ticks of the kernel; 0 of one that is not there, or is a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] == "Z" else int(fields[19])
    except (OSError, IndexError):
        return 0
