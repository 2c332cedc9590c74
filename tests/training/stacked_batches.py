"""Batches of several members as one, for `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hpc_brainage.training.objective import Batch

_OF_A_MEMBER = ("x", "present", "sex", "age", "scan", "counts", "seed")


def stacked_fields(given: Sequence[Batch]) -> dict[str, Any]:
    """What differs between the members' batches, each tensor stacked along a new first dimension."""
    stacked: dict[str, Any] = {}
    for name in _OF_A_MEMBER:
        values = [getattr(own, name) for own in given]
        if isinstance(values[0], dict):
            stacked[name] = {key: torch.stack([value[key] for value in values]) for key in values[0]}
        else:
            stacked[name] = torch.stack(values)
    return stacked
