"""From a discriminator's logits to its loss, the encoder's, and its accuracy, with the gradient at once.

    L_D     = (1/M) Σ_m (1/n_m) Σ_i a_im [ softplus(l_im) + softplus(-l̃_im) ]
    L_adv/λ = (1/M) Σ_m (1/n_m) Σ_i a_im softplus(-l_im)

with l the logits of codes and l̃ those of draws of the prior. As softplus never takes the exponential of a
large number, a discriminator may be as sure as it likes. Only L_D has a gradient,

    ∂L_D/∂l = a σ(l) / (M n)          ∂L_D/∂l̃ = -a σ(-l̃) / (M n)

which costs next to nothing beside the values. So one pass gives both: in plain torch (`closed`), or as one
kernel on a GPU. The reference lets autograd find the gradient.

Shapes: M modalities, B scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from hpc_brainage.losses.backends import WORTH_TILES, choose, refuse_second_derivative
from hpc_brainage.losses.means import masked_mean

Terms = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def logit_terms(
    fake_MB: torch.Tensor,
    real_MB: torch.Tensor,
    present: Sequence[torch.Tensor],
    counts: Sequence[int | torch.Tensor],
) -> Terms:
    """L_D, and detached L_adv / λ and accuracy, from the logits of codes and of draws of the prior.

    Parameters
    ----------
    present : of each modality, bool (B,); what stands in rows of absent scans does not matter.
    counts : of each modality, its scans in the whole step.
    """
    # Whatever its size: it is a matter of how many operations there are, not of how large they are.
    form = choose(fake_MB, WORTH_TILES)
    if form == "reference":
        return logit_reference(fake_MB, real_MB, present, counts)
    if form == "triton":
        from hpc_brainage.losses.adversarial_triton import one_pass
    else:
        one_pass = closed
    loss, encoder, right = _OnePass.apply(fake_MB, real_MB, present, counts, one_pass)
    return loss, encoder, right


def logit_reference(
    fake_MB: torch.Tensor,
    real_MB: torch.Tensor,
    present: Sequence[torch.Tensor],
    counts: Sequence[int | torch.Tensor],
) -> Terms:
    """`logit_terms` as they are defined."""
    loss = encoder = right = fake_MB.new_zeros(())
    share = 1 / len(present)
    for fake, real, here, n in zip(fake_MB, real_MB, present, counts, strict=True):
        loss = loss + masked_mean(F.softplus(-real) + F.softplus(fake), here, n) * share
        encoder = encoder + masked_mean(F.softplus(-fake.detach()), here, n) * share
        correct = 0.5 * ((real > 0).to(fake) + (fake <= 0).to(fake))
        right = right + masked_mean(correct, here, n) * share
    return loss, encoder, right


def closed(
    fake_MB: torch.Tensor,
    real_MB: torch.Tensor,
    present: Sequence[torch.Tensor],
    counts: Sequence[int | torch.Tensor],
) -> tuple[Terms, torch.Tensor]:
    """The terms, and the gradient of the first for codes and draws, (2, M, B)."""
    here = torch.stack(list(present))
    shares = [1 / (len(counts) * max(int(n), 1)) for n in counts]
    weight = torch.where(here, fake_MB.new_tensor(shares)[:, None], fake_MB.new_zeros(()))
    fake = torch.where(here, fake_MB, torch.zeros_like(fake_MB))
    real = torch.where(here, real_MB, torch.zeros_like(real_MB))
    wrong = torch.stack([fake, -real])
    loss = (F.softplus(wrong) * weight).sum()
    encoder = (F.softplus(-fake) * weight).sum()
    right = 0.5 * (((real > 0).to(weight) + (fake <= 0).to(weight)) * weight).sum()
    gradient = torch.sigmoid(wrong) * weight
    gradient[1].neg_()
    return (loss, encoder, right), gradient


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        fake_MB: torch.Tensor,
        real_MB: torch.Tensor,
        present: Sequence[torch.Tensor],
        counts: Sequence[int | torch.Tensor],
        one_pass: Any,
    ) -> Terms:
        (loss, encoder, right), gradient = one_pass(fake_MB, real_MB, present, counts)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(encoder, right)
        return loss, encoder, right

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        refuse_second_derivative()
        (gradient,) = ctx.saved_tensors
        fake, real = (gradient * upstream).unbind()
        return fake, real, None, None, None
