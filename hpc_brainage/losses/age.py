"""The age term."""

from __future__ import annotations

from typing import Literal

import torch

from hpc_brainage.losses.means import masked_mean


def age_loss(
    predicted_B: torch.Tensor,
    target_B: torch.Tensor,
    mask_B: torch.Tensor,
    count: int | torch.Tensor,
    form: Literal["l1", "mse"] = "l1",
) -> torch.Tensor:
    """Mean absolute or squared error on the regression's scale, over the scans of `mask`."""
    if predicted_B.shape != target_B.shape:
        raise ValueError(
            f"predicted {tuple(predicted_B.shape)} and target {tuple(target_B.shape)} differ in shape"
        )
    error = torch.where(mask_B, predicted_B - target_B, torch.zeros_like(predicted_B))
    return masked_mean(error.abs() if form == "l1" else error.square(), mask_B, count)
