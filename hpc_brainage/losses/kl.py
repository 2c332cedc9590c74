"""Kullback-Leibler divergence of a Gaussian code from the prior N(0, I)."""

from __future__ import annotations

import torch

from hpc_brainage.losses.means import masked_mean


def kl_loss(
    mu_BD: torch.Tensor,
    log_variance_BD: torch.Tensor,
    mask_B: torch.Tensor,
    count: int | torch.Tensor,
    free_bits: float = 0.0,
) -> torch.Tensor:
    """(1/n) sum_i a_i sum_j max(½ (μ² + σ² - 1 - log σ²)_ij, δ): a sum over dimensions, a mean over scans.

    δ is `free_bits`, in nats for each dimension of each scan (after Kingma et al. 2016, who take the
    average over a batch before the maximum; a maximum of averages would not split over processes). With 0
    it is the divergence itself, which is never negative.
    """
    here = mask_B[:, None]
    mu = torch.where(here, mu_BD, torch.zeros_like(mu_BD))
    log_variance = torch.where(here, log_variance_BD, torch.zeros_like(log_variance_BD))
    divergence_BD = 0.5 * (mu.square() + log_variance.exp() - 1.0 - log_variance)
    if free_bits:
        divergence_BD = divergence_BD.clamp(min=free_bits)
    return masked_mean(divergence_BD.sum(dim=1), mask_B, count)
