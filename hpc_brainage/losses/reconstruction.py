"""Reconstruction: which scans of a rebuilt modality count, and how much."""

from __future__ import annotations

import torch


def scan_weights(
    mask_B: torch.Tensor, count: int | torch.Tensor, features: int, dtype: torch.dtype
) -> torch.Tensor:
    """a_i / (n F) of each scan (B,): with them a sum of errors is the mean that a term is.

    A mean over features has the same weight for 800 as for 500,000 of them. The self term takes all n scans
    of the step that have the modality, the cross term those that have both.
    """
    if isinstance(count, torch.Tensor):
        share = 1 / (count.clamp(min=1).to(dtype) * features)
    else:
        share = torch.tensor(1 / (max(count, 1) * features), dtype=dtype, device=mask_B.device)
    return torch.where(mask_B, share, torch.zeros_like(share))
