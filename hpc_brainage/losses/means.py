"""Means over global counts.

Every term is a sum over the scans it applies to, divided by how many such scans the whole step has on
all processes together. A term to which no scan contributes is exactly zero, in value and gradient. Masks
select, they never multiply: what stands in the row of an absent scan may be NaN.
"""

from __future__ import annotations

import torch


def masked_mean(values_B: torch.Tensor, mask_B: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
    """Sum of `values` where `mask` holds, over `count` (at least 1).

    Raises
    ------
    ValueError : shapes differ; broadcasting (B, 1) against (B,) would give B x B terms in silence.
    """
    if values_B.shape != mask_B.shape:
        raise ValueError(f"values {tuple(values_B.shape)} and mask {tuple(mask_B.shape)} differ in shape")
    total = torch.where(mask_B, values_B, torch.zeros_like(values_B)).sum()
    if isinstance(count, torch.Tensor):
        return total / count.clamp(min=1)
    return total / max(count, 1)
