"""What one member has of a checkpoint that was written of many at once.

On one process the members of tables are trained in one pass (see `stacked`), and saved together. More
processes train them one by one, and each goes on from its own share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpc_brainage.training.snapshot import Snapshot, Snapshots

_STACK = re.compile(r"members-(\d+)-(\d+)")


def stack_name(first: int, last: int) -> str:
    """The folder of a stack among the checkpoints, by the numbers of its first and last member."""
    return f"members-{first}-{last}"


@dataclass
class Stacks:
    """The checkpoints of stacks among those of a run; nobody adds to them meanwhile.

    The one that was read last is kept: the members that come next were in it, too.
    """

    checkpoints: Path
    key: str
    _held: tuple[Path, Snapshot | None] | None = None

    def newest_with(self, member: int) -> tuple[int, int, int] | None:
        """The newest whole checkpoint of a stack that a member was in: the stack's first and last number,
        and the step."""
        for folder in sorted(self.checkpoints.glob("members-*")):
            name = _STACK.fullmatch(folder.name)
            if name is None or not int(name[1]) <= member <= int(name[2]):
                continue
            if self._held is None or self._held[0] != folder:
                self._held = folder, Snapshots(folder, self.key).newest()
            found = self._held[1]
            if found is not None and member in found.record.get("members", ()):
                return int(name[1]), int(name[2]), found.step
        return None

    def share(self, first: int, last: int, step: int, member: int) -> Snapshot:
        """What a member has of the checkpoint that `newest_with` has named, in whichever process.

        Raises
        ------
        TrainingError : it is not there, or not whole.
        """
        folder = self.checkpoints / stack_name(first, last)
        found = self._held[1] if self._held and self._held[0] == folder else None
        if found is None:
            found = Snapshots(folder, self.key).read(step)
            self._held = folder, found
        return _share_of(found, member)


def _share_of(found: Snapshot, member: int) -> Snapshot:
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
    return Snapshot(found.step, tensors, {**record, "sums": sums})
