"""How parameters are stepped, whatever trains them: AdamW, its weight decay, and the fall of its rate."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch

from hpc_brainage.config import TrainingConfig
from hpc_brainage.training.objective import Objective


def adamw(
    parameters: Mapping[str, torch.Tensor], decayed: Collection[str], config: TrainingConfig
) -> torch.optim.AdamW:
    """AdamW over named parameters, with weight decay on those named in `decayed`."""
    held = [value for name, value in parameters.items() if name in decayed]
    free = [value for name, value in parameters.items() if name not in decayed]
    return torch.optim.AdamW(
        [{"params": held, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=config.learning_rate,
        fused=True,
    )


def decayed(objective: Objective) -> set[str]:
    """Weight decay holds matrices; biases, norms and the discriminators are left free of it."""
    return {
        name
        for name, parameter in objective.named_parameters()
        if parameter.dim() > 1 and not name.startswith("discriminator")
    }


def cosine(step: int, total: int) -> float:
    """The share of the learning rate at a step: from 1 down to 0 over the run."""
    return 0.5 * (1 + math.cos(math.pi * min(step, total) / max(total, 1)))
