"""The age term, on the regression's scale (age standardised over the training people).

`l1`, `mse` and `huber` take one number for each scan. The Gaussian likelihood takes a mean and a
log-variance, so that the model says how sure it is of each scan. Soft labels take a distribution over bins
of age.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

from hpc_brainage.losses.means import masked_mean

HUBER_DELTA = 0.5
"""Where the Huber loss turns from square to absolute: half a standard deviation of the training ages."""


def age_loss(
    predicted_B: torch.Tensor,
    target_B: torch.Tensor,
    mask_B: torch.Tensor,
    count: int | torch.Tensor,
    form: Literal["l1", "mse", "huber"] = "l1",
) -> torch.Tensor:
    """Mean error of a scan over the scans of `mask`, with e = predicted - target:

    `l1` |e| · `mse` e² · `huber` ½ e² where |e| < δ, else δ (|e| - ½ δ) (Huber 1964).
    """
    _same_shape(predicted_B, target_B)
    error = torch.where(mask_B, predicted_B - target_B, torch.zeros_like(predicted_B))
    if form == "l1":
        value = error.abs()
    elif form == "mse":
        value = error.square()
    else:
        within = error.abs().clamp(max=HUBER_DELTA)
        value = within * (error.abs() - 0.5 * within)
    return masked_mean(value, mask_B, count)


def gaussian_nll(
    mean_B: torch.Tensor,
    log_variance_B: torch.Tensor,
    target_B: torch.Tensor,
    mask_B: torch.Tensor,
    count: int | torch.Tensor,
) -> torch.Tensor:
    """Mean of ½ [ℓ + (t - t̂)² exp(-ℓ)], ℓ the log-variance: minus the log-likelihood less ½ log 2π."""
    _same_shape(mean_B, target_B)
    _same_shape(log_variance_B, target_B)
    zero = torch.zeros_like(mean_B)
    error = torch.where(mask_B, mean_B - target_B, zero)
    log_variance = torch.where(mask_B, log_variance_B, zero)
    value = 0.5 * (log_variance + error.square() * torch.exp(-log_variance))
    return masked_mean(value, mask_B, count)


def soft_label_loss(
    logits_BK: torch.Tensor,
    centres_K: torch.Tensor,
    target_B: torch.Tensor,
    mask_B: torch.Tensor,
    count: int | torch.Tensor,
) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of the predicted distribution over bins from the soft label.

    After SFCN (Peng et al. 2021), where bins are one year wide and so is the label's standard deviation.
    """
    if logits_BK.shape != (*target_B.shape, *centres_K.shape):
        raise ValueError(
            f"logits {tuple(logits_BK.shape)} are not those of {len(target_B)} scans"
            f" in {len(centres_K)} bins"
        )
    label = soft_labels(torch.where(mask_B, target_B, torch.zeros_like(target_B)), centres_K)
    logits = torch.where(mask_B[:, None], logits_BK, torch.zeros_like(logits_BK))
    divergence = torch.xlogy(label, label) - label * F.log_softmax(logits, dim=1)
    return masked_mean(divergence.sum(dim=1), mask_B, count)


def soft_labels(target_B: torch.Tensor, centres_K: torch.Tensor) -> torch.Tensor:
    """How much of a normal distribution around each target falls into each bin, (B, K); rows sum to 1.

    The bins are equally wide, and so wide is the distribution's standard deviation. The outermost bins
    take what lies beyond them.
    """
    width = centres_K[1] - centres_K[0]
    edges = centres_K[:-1] + 0.5 * width
    below = torch.special.ndtr((edges[None, :] - target_B[:, None]) / width)
    nothing, everything = torch.zeros_like(below[:, :1]), torch.ones_like(below[:, :1])
    return torch.cat([below, everything], dim=1) - torch.cat([nothing, below], dim=1)


def _same_shape(predicted_B: torch.Tensor, target_B: torch.Tensor) -> None:
    if predicted_B.shape != target_B.shape:
        raise ValueError(
            f"predicted {tuple(predicted_B.shape)} and target {tuple(target_B.shape)} differ in shape"
        )
