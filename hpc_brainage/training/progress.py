"""How far a member's training is, beside its parameters and their moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class BestEpoch:
    """The network of the epoch with the smallest validation error so far, years."""

    error: float = float("inf")
    epoch: int = -1
    state: dict[str, torch.Tensor] | None = None

    def offer(self, error: float, epoch: int, state: dict[str, torch.Tensor]) -> None:
        if error < self.error:
            self.error, self.epoch, self.state = error, epoch, state


@dataclass
class Progress:
    """Where training stands after a step. All random draws follow from it, so no generator is kept.

    Attributes
    ----------
    epoch : the one under way.
    step : steps taken since the beginning.
    taken : steps taken of this epoch.
    sums : this process's share of each term, summed over the steps of this epoch.
    best : the best epoch so far.
    """

    epoch: int = 0
    step: int = 0
    taken: int = 0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    best: BestEpoch = field(default_factory=BestEpoch)

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Count a step, with its terms."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.step += 1
        self.taken += 1

    def next_epoch(self) -> None:
        self.epoch += 1
        self.taken, self.sums = 0, {}

    def describe(self, shares: Sequence[Sequence[float]]) -> dict[str, Any]:
        """What a checkpoint says of it, given every process's sums; the best network is kept beside it."""
        best = None if self.best.state is None else {"error": self.best.error, "epoch": self.best.epoch}
        place = {"epoch": self.epoch, "step": self.step, "taken": self.taken}
        return place | {"terms": list(self.sums), "sums": [list(share) for share in shares], "best": best}

    @classmethod
    def from_record(
        cls,
        record: Mapping[str, Any],
        best: dict[str, torch.Tensor],
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> Progress:
        """The progress of one process of `world_size`; with another number of processes than before, the
        first one takes all of the sums."""
        shares = torch.tensor(record["sums"], dtype=torch.float32)
        mine = shares[rank] if len(shares) == world_size else shares.sum(dim=0) * (rank == 0)
        sums = dict(zip(record["terms"], mine.to(device).unbind(), strict=True))
        found = record["best"]
        kept = BestEpoch(found["error"], found["epoch"], best) if found else BestEpoch()
        return cls(record["epoch"], record["step"], record["taken"], sums, kept)
