"""Reconstruction: squared error of a rebuilt modality."""

from __future__ import annotations

import torch

from hpc_brainage.losses.means import masked_mean


def reconstruction_loss(
    rebuilt_BF: torch.Tensor, target_BF: torch.Tensor, mask_B: torch.Tensor, count: int | torch.Tensor
) -> torch.Tensor:
    """(1 / (n F)) sum_i a_i |x_i - x̂_i|²: the same weight for 800 as for 500,000 features.

    The self term takes all scans that have the modality, the cross term those that have both.
    """
    if rebuilt_BF.shape != target_BF.shape:
        raise ValueError(
            f"rebuilt {tuple(rebuilt_BF.shape)} and target {tuple(target_BF.shape)} differ in shape"
        )
    here = mask_B[:, None]
    difference = torch.where(here, rebuilt_BF - target_BF, torch.zeros_like(rebuilt_BF))
    return masked_mean(difference.square().mean(dim=1), mask_B, count)
