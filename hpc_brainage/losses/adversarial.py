"""The adversarial prior of codes, in one backward pass.

The discriminator D learns to tell draws of the prior z̃ from codes c, the encoder learns to be
taken for the prior (the non-saturating game of Goodfellow et al. 2014, on logits l = D(·)):

    L_D   = mean softplus(-D(z̃)) + mean softplus(D(c))      gradient to D's parameters only
    L_adv = λ mean softplus(-D(c))                            gradient to the encoder only

Two optimizers and two passes are the usual way, and the one that goes wrong quietly when an engine
shards the parameters. Here only L_D is computed, and c passes a *bridge* on its way into D. Forward, the
bridge changes nothing. Backward, the gradient that arrives is, for each scan, w σ(l) ∂l/∂c, where w is
the scan's weight in the mean; the encoder needs -λ w σ(-l) ∂l/∂c. D treats scans one by one, so the
bridge only has to multiply each scan's gradient by -λ σ(-l)/σ(l) = -λ exp(-l). Both gradients are then
exact, and each network's parameters are touched by its own loss alone.

The bridge cannot be vectorised over members. Where many members are trained in one pass and nothing shards
their parameters, D is evaluated twice instead: with its parameters on detached codes, and with detached
parameters on the codes. The gradients are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from hpc_brainage.losses.adversarial_logits import logit_terms
from hpc_brainage.losses.means import masked_mean

_LARGEST_LOGIT = 80.0
"""exp(80) is still finite in single precision. Beyond it the encoder's gradient fades: a discriminator that
is sure to e^-80 has to become less sure by its own loss first."""


@dataclass(frozen=True)
class AdversarialTerms:
    """`discriminator` enters the objective: its value is L_D, its gradients those of L_D for D and of L_adv
    for the encoder. `encoder` is L_adv / λ, for the log, and `accuracy` the share of draws and codes that D
    tells apart rightly; both are detached."""

    discriminator: torch.Tensor
    encoder: torch.Tensor
    accuracy: torch.Tensor


def adversarial_terms(
    discriminator: nn.Module,
    codes: Mapping[str, torch.Tensor],
    prior: Mapping[str, torch.Tensor],
    present: Mapping[str, torch.Tensor],
    counts: Mapping[str, int | torch.Tensor],
    weight: float,
    single_pass: bool = True,
) -> AdversarialTerms:
    """L_D over all modalities, with the encoder's gradient of λ L_adv attached to `codes`.

    Parameters
    ----------
    discriminator : (B, C) -> logits (B,), each from its own row only.
    codes, prior : by role, codes and draws of N(0, I), each (B, C).
    present : by role, bool (B,).
    counts : by role, scans with this modality in the whole step.
    weight : λ.
    single_pass : over the bridge, with one evaluation of D; else with two.
    """
    roles = list(codes)
    here, n = [present[role] for role in roles], [counts[role] for role in roles]
    together = torch.cat([codes[role] for role in roles])
    gate = _Gate(weight)
    seen = _bridge(together, gate) if single_pass else together.detach()
    drawn = torch.cat([prior[role] for role in roles]).to(seen)
    fake, real = discriminator(torch.cat([seen, drawn])).chunk(2)
    gate.logit = fake.detach()
    shape = (len(roles), len(here[0]))
    loss_d, loss_adv, right = logit_terms(fake.view(shape), real.view(shape), here, n)
    if not single_pass:
        live = weight * _against_frozen(discriminator, together, here, n)
        loss_d = loss_d + (live - live.detach())
    return AdversarialTerms(loss_d, loss_adv.detach(), right)


def _against_frozen(
    discriminator: nn.Module,
    codes: torch.Tensor,
    present: Sequence[torch.Tensor],
    counts: Sequence[int | torch.Tensor],
) -> torch.Tensor:
    """L_adv / λ with a gradient for the codes, (M B, C), and none for D's parameters."""
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    logits = functional_call(discriminator, frozen, (codes,)).chunk(len(present))
    terms = [
        masked_mean(F.softplus(-logit), here, n)
        for logit, here, n in zip(logits, present, counts, strict=True)
    ]
    return torch.stack(terms).mean()


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
