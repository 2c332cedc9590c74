"""Kullback-Leibler divergence of a Gaussian code from the prior N(0, I)."""

from __future__ import annotations

import torch

from hpc_brainage.losses.means import masked_mean


def kl_loss(
    mu_BD: torch.Tensor,
    log_variance_BD: torch.Tensor,
    mask_B: torch.Tensor,
    count: int | torch.Tensor,
) -> torch.Tensor:
    """(1/n) sum_i a_i ½ sum_j (μ² + σ² - 1 - log σ²): summed over dimensions, averaged over scans."""
    divergence = 0.5 * (mu_BD.square() + log_variance_BD.exp() - 1.0 - log_variance_BD).sum(dim=1)
    return masked_mean(divergence, mask_B, count)
