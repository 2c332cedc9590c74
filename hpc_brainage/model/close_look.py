"""What a trained network says of a scan beside its age: how sure the code is, and how well it is rebuilt.

Shapes: B scans, C shared and U distinct width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hpc_brainage.model.sa_avae import SAAVAE, Code, drawn_parts


@dataclass(frozen=True)
class CloseLook:
    """Of B scans, whatever a member can tell beside the age.

    Attributes
    ----------
    sd_of_code : (B,) standard deviation of the age over draws of the codes, years; NaN where the model
        draws none.
    codes : by role, (B, C + U) means of the codes; zeros where the modality is absent.
    log_errors : by role, (B,) log of the mean squared error of the rebuilt components; NaN where the
        modality is absent. Empty if the model was not trained to rebuild.
    """

    sd_of_code: torch.Tensor
    codes: dict[str, torch.Tensor]
    log_errors: dict[str, torch.Tensor]


def spread_from_codes(
    network: SAAVAE,
    codes: Mapping[str, Code],
    inputs: Mapping[str, torch.Tensor],
    present: Mapping[str, torch.Tensor],
    sex: torch.Tensor,
) -> torch.Tensor:
    """Standard deviation (B,) of the regressed age over draws of the codes, on the regression's scale.

    To first order in the codes' own spread: Var t = Σ_j (∂t/∂z_j)² σ_j², with the gradient at the codes'
    means. It is what infinitely many draws would give if the regressor were linear, has no noise of its
    own, and takes one backward pass through the regressor. Parts of the code that training does not draw
    do not count; if it draws none all is NaN. A product of experts has the prior's draw too.
    """
    shared_drawn, distinct_drawn = drawn_parts(network.config)
    first = codes[network.roles[0]]
    if not (shared_drawn or distinct_drawn):
        return torch.full_like(first.mu[:, 0], torch.nan)
    width = network.config.shared
    means = {role: code.mu.detach().clone().requires_grad_() for role, code in codes.items()}
    linear = network.linear(inputs, present)  # no code is in it
    with torch.enable_grad():
        at = {role: Code(mu, codes[role].log_variance, mu, width) for role, mu in means.items()}
        age = network.regress_codes(at, linear, present, sex).mean
        slopes = torch.autograd.grad(age.sum(), list(means.values()))
    total = torch.zeros_like(age)
    prior = torch.zeros_like(first.mu[:, :width])
    for role, slope in zip(means, slopes, strict=True):
        variance = torch.where(present[role][:, None], codes[role].log_variance.exp(), 0.0)
        parts = slope.square() * variance
        if shared_drawn:
            total = total + parts[:, :width].sum(dim=1)
            # Of a product c = Σ p_m c_m / P the slope in c_m is that in c times p_m / P, and the prior's
            # draw has the variance 1 / P²: the same number from every modality that is there.
            prior = torch.maximum(prior, (slope * variance)[:, :width].square())
        if distinct_drawn:
            total = total + parts[:, width:].sum(dim=1)
    if shared_drawn and network.config.missing == "poe":
        total = total + prior.sum(dim=1)
    return total.detach().sqrt()


def log_rebuilding_errors(
    network: SAAVAE,
    codes: Mapping[str, Code],
    inputs: Mapping[str, torch.Tensor],
    present: Mapping[str, torch.Tensor],
    sex: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """By role, log of the mean squared difference (B,) between what is rebuilt from a scan's own code
    means and what should be; NaN where the modality is absent."""
    found = {}
    for role in network.roles:
        rebuilt = network.decode(role, codes[role].shared, codes[role].distinct, sex)
        error = (rebuilt - network.target(role, inputs[role])).square().mean(dim=1)
        found[role] = torch.where(present[role], error.clamp(min=1e-30).log(), torch.nan)
    return found
