"""The age regressor: from codes, sex and presence to an age, or to a distribution of ages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from hpc_brainage.model.networks import LOG_VARIANCE_RANGE, MLP
from hpc_brainage.model.noise import Draws

AgeForm = Literal["l1", "mse", "huber", "nll", "soft"]

BIN_WIDTH = 0.1
"""Of the bins of age with soft labels, in standard deviations of the training ages."""
BINS_EACH_SIDE = 60
"""Bins below and above the mean age: they reach six standard deviations far."""


@dataclass(frozen=True)
class AgeEstimate:
    """What the regressor says of B scans, on the regression's scale.

    Attributes
    ----------
    mean : (B,) the predicted age; with bins, the expectation over them.
    log_variance : (B,) log of the predicted variance; None where the model predicts none.
    logits : (B, K) of the bins of age; None without bins.
    """

    mean: torch.Tensor
    log_variance: torch.Tensor | None = None
    logits: torch.Tensor | None = None

    def stretched(self, factor_B: torch.Tensor) -> AgeEstimate:
        """The estimate so much farther from the training mean, which is 0, and its spread likewise."""
        factor = factor_B.to(self.mean)
        spread = None if self.log_variance is None else self.log_variance + 2 * factor.log()
        return AgeEstimate(self.mean * factor, spread)


def age_bins(like: torch.Tensor) -> torch.Tensor:
    """Centres of the bins of age (K,), on the device and in the precision of a tensor."""
    numbers = torch.arange(-BINS_EACH_SIDE, BINS_EACH_SIDE + 1, device=like.device)
    return numbers.to(like.dtype) * BIN_WIDTH


def age_outputs(form: AgeForm) -> int:
    """How many numbers of a scan the regressor gives."""
    return {"nll": 2, "soft": 2 * BINS_EACH_SIDE + 1}.get(form, 1)


def age_estimate(out_BK: torch.Tensor, form: AgeForm) -> AgeEstimate:
    """The regressor's outputs, read as the form of the age loss takes them."""
    if form == "nll":
        return AgeEstimate(out_BK[:, 0], out_BK[:, 1].clamp(*LOG_VARIANCE_RANGE))
    if form == "soft":
        share, centres = torch.softmax(out_BK, dim=1), age_bins(out_BK)
        mean = share @ centres
        variance = (share * (centres - mean[:, None]).square()).sum(dim=1)
        smallest = torch.finfo(variance.dtype).tiny
        return AgeEstimate(mean, variance.clamp(min=smallest).log(), out_BK)
    return AgeEstimate(out_BK[:, 0])


def sex_columns(sex_B: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(1, 0) for F, (0, 1) for M and (0, 0) for an unknown sex, (B, 2)."""
    return torch.stack([sex_B == 0, sex_B == 1], dim=1).to(like)


class Regressor(nn.Module):
    """An MLP with a linear output, and the ways in which sex can act inside it.

    Parameters
    ----------
    width : of the input r.
    hidden, dropout : of the MLP.
    sex : `film` scales and shifts each hidden layer by h (1 + γ) + β after its norm, γ and β linear in the
        sex and zero at the start (Perez et al. 2018); `heads` gives each sex its own output. Other modes
        act on r, and do nothing here. An unknown sex has γ = β = 0, and the mean of both outputs.
    outputs : how many numbers of a scan to give.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], dropout: float, sex: str = "none", outputs: int = 1
    ) -> None:
        super().__init__()
        self.sex, self.outputs = sex, outputs
        self.trunk = MLP(width, hidden, dropout)
        self.out = nn.Linear(self.trunk.width, outputs * (2 if sex == "heads" else 1))
        self.film = nn.ModuleList()
        if sex == "film":
            for size in hidden:
                layer = nn.Linear(2, 2 * size, bias=False)
                nn.init.zeros_(layer.weight)
                self.film.append(layer)

    def forward(
        self, r_BR: torch.Tensor, sex_B: torch.Tensor, draws: Draws | None = None, stream: int = 0
    ) -> torch.Tensor:
        """(B, outputs); `sex` as 0 for F, 1 for M, -1 for unknown."""
        columns = sex_columns(sex_B, r_BR)
        h = self.trunk(r_BR, draws, stream, [layer(columns) for layer in self.film])
        out = self.out(h)
        if self.sex != "heads":
            return out
        share = torch.where((sex_B < 0)[:, None], torch.full_like(columns, 0.5), columns)
        return (out.unflatten(1, (2, self.outputs)) * share[:, :, None]).sum(dim=1)
