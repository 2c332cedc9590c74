"""The sex term: telling the sexes apart, or keeping a network from telling."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from hpc_brainage.losses.means import masked_mean


def sex_loss(
    logit_B: torch.Tensor, sex_B: torch.Tensor, mask_B: torch.Tensor, count: int | torch.Tensor
) -> torch.Tensor:
    """Mean binary cross-entropy of the logit of being male, over the scans of `mask` of known sex.

    Parameters
    ----------
    logit_B : above 0 for M, below 0 for F.
    sex_B : 0 for F, 1 for M, -1 for unknown; unknown sexes are left out.
    mask_B : the scans that count, if their sex is known.
    count : how many scans count, on all processes together.
    """
    if logit_B.shape != sex_B.shape:
        raise ValueError(f"logits {tuple(logit_B.shape)} and sexes {tuple(sex_B.shape)} differ in shape")
    known = mask_B & (sex_B >= 0)
    sign = torch.where(sex_B == 1, -torch.ones_like(logit_B), torch.ones_like(logit_B))
    logit = torch.where(known, logit_B, torch.zeros_like(logit_B))
    return masked_mean(F.softplus(sign * logit), known, count)


def reversed_gradient(x: torch.Tensor, weight: float) -> torch.Tensor:
    """`x` itself, whose gradient is turned round and weighted (Ganin and Lempitsky 2015).

    What stands behind it learns as ever; what stands before it learns to make that worse, `weight` times.
    """
    return x.detach() - weight * (x - x.detach())
