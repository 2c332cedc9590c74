"""What one member has of a checkpoint that was written of many at once.

On one process the members of tables are trained in one pass (see `stacked`), and saved together. More
processes train them one by one, and each goes on from its own share.
"""

from __future__ import annotations

import re
from pathlib import Path

from hpc_brainage.training.snapshot import Snapshot, Snapshots

_STACK = re.compile(r"members-(\d+)-(\d+)")


def stack_name(first: int, last: int) -> str:
    """The folder of a stack among the checkpoints, by the numbers of its first and last member."""
    return f"members-{first}-{last}"


def newest_with(checkpoints: Path, key: str, member: int) -> tuple[int, int, int] | None:
    """The newest whole checkpoint of a stack that a member was in: the stack's first and last number, and
    the step."""
    for folder in sorted(checkpoints.glob("members-*")):
        if (name := _STACK.fullmatch(folder.name)) is None:
            continue
        snapshots = Snapshots(folder, key)
        step = snapshots.newest()
        if step is not None and member in snapshots.read(step).record.get("members", ()):
            return int(name[1]), int(name[2]), step
    return None


def share_of(found: Snapshot, member: int) -> Snapshot:
    """A member's own tensors and progress, as one process would have saved them of it alone."""
    record = found.record
    members, terms = record["members"], record["terms"]
    place = members.index(member)
    tensors = {
        # The number of steps is one for all of them.
        name: values if name.startswith("step/") else values.view(len(members), -1)[place]
        for name, values in found.tensors.items()
        if not name.startswith("sums/")
    }
    sums = [[float(found.tensors[f"sums/{term}"][place]) for term in terms]]
    return Snapshot(tensors, {**record, "sums": sums})
