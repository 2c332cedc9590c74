"""The adversarial prior on shared codes, in one forward and one backward pass.

The discriminator D learns to tell draws of the prior z̃ from shared codes c, the encoder learns to be
taken for the prior (the non-saturating game of Goodfellow et al. 2014, on logits l = D(·)):

    L_D   = mean softplus(-D(z̃)) + mean softplus(D(c))      gradient to D's parameters only
    L_adv = λ mean softplus(-D(c))                            gradient to the encoder only

Two optimizers and two passes are the usual way, and the one that goes wrong quietly when an engine
shards the parameters. Here only L_D is computed, and c passes a *bridge* on its way into D. Forward, the
bridge changes nothing. Backward, the gradient that arrives is, for each scan, w σ(l) ∂l/∂c, where w is
the scan's weight in the mean; the encoder needs -λ w σ(-l) ∂l/∂c. D treats scans one by one, so the
bridge only has to multiply each scan's gradient by -λ σ(-l)/σ(l) = -λ exp(-l). Both gradients are then
exact, and each network's parameters are touched by its own loss alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from hpc_brainage.losses.means import masked_mean

_LARGEST_LOGIT = 80.0
"""exp(80) is still finite in single precision. Beyond it the encoder's gradient fades: a discriminator that
is sure to e^-80 has to become less sure by its own loss first."""


@dataclass(frozen=True)
class AdversarialTerms:
    """`discriminator` enters the objective; `encoder` is L_adv / λ, for the log (its gradient reaches the
    encoder over the bridge); `accuracy` is the share of draws and codes that D tells apart rightly."""

    discriminator: torch.Tensor
    encoder: torch.Tensor
    accuracy: torch.Tensor


def adversarial_terms(
    discriminator: Callable[[torch.Tensor], torch.Tensor],
    codes: Mapping[str, torch.Tensor],
    prior: Mapping[str, torch.Tensor],
    present: Mapping[str, torch.Tensor],
    counts: Mapping[str, int | torch.Tensor],
    weight: float,
) -> AdversarialTerms:
    """L_D over all modalities, with the encoder's gradient of λ L_adv attached to `codes`.

    Parameters
    ----------
    discriminator : (B, C) -> logits (B,), each from its own row only.
    codes, prior : by role, shared codes and draws of N(0, I), each (B, C).
    present : by role, bool (B,).
    counts : by role, scans with this modality in the whole step.
    weight : λ.
    """
    roles = list(codes)
    gates = {role: _Gate(weight) for role in roles}
    inputs = [torch.cat([_bridge(codes[role], gates[role]), prior[role].to(codes[role])]) for role in roles]
    logits = discriminator(torch.cat(inputs)).chunk(len(roles))
    loss_d = loss_adv = right = codes[roles[0]].new_zeros(())
    for role, both in zip(roles, logits, strict=True):
        fake, real = both.chunk(2)
        gates[role].logit = fake.detach()
        here, n = present[role], counts[role]
        loss_d = loss_d + masked_mean(F.softplus(-real) + F.softplus(fake), here, n) / len(roles)
        with torch.no_grad():
            loss_adv = loss_adv + masked_mean(F.softplus(-fake), here, n) / len(roles)
            correct = 0.5 * ((real > 0).to(fake) + (fake <= 0).to(fake))
            right = right + masked_mean(correct, here, n) / len(roles)
    return AdversarialTerms(loss_d, loss_adv, right)


class _Gate:
    """Carries D's logits, known only after the bridge was crossed, back to the bridge."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.logit: torch.Tensor | None = None

    def factor(self) -> torch.Tensor:
        assert self.logit is not None, "the discriminator has not been run"
        logit = self.logit.to(torch.promote_types(self.logit.dtype, torch.float32))
        return -self.weight * torch.exp(-logit.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT))


class _Bridge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, code_BC: torch.Tensor, gate: _Gate) -> torch.Tensor:
        ctx.gate = gate
        return code_BC.view_as(code_BC)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_BC: torch.Tensor) -> tuple[torch.Tensor, None]:
        return (gradient_BC * ctx.gate.factor()[:, None]).to(gradient_BC.dtype), None


def _bridge(code_BC: torch.Tensor, gate: _Gate) -> torch.Tensor:
    return _Bridge.apply(code_BC, gate)
