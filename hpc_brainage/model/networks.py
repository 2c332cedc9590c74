"""Encoders, decoders, the age regressor and the discriminator: the parts of the SA-AVAE.

Shapes: B scans, P components of a front end, H hidden width, D code width, X Y Z a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

LOG_VARIANCE_RANGE = (-8.0, 8.0)


class MLP(nn.Sequential):
    """Linear, LayerNorm, GELU and dropout for each hidden width; no layer after the last hidden one."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float) -> None:
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.LayerNorm(size), nn.GELU(), nn.Dropout(dropout)]
            width = size
        super().__init__(*layers)
        self.width = width


class SFCN(nn.Module):
    """A simple fully convolutional trunk for volumes (after Peng et al. 2021).

    Each block is a 3 x 3 x 3 convolution, GroupNorm (batches of volumes are too small for batch
    statistics, and those would carry the site mix of a batch), GELU, and max pooling while the grid
    allows it; then the mean over what is left of the grid. The norms take away a volume's overall level,
    which reaches the age over the model's linear path.
    """

    def __init__(self, channels: Sequence[int], dropout: float) -> None:
        super().__init__()
        widths = (1, *channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(before, after, 3, padding=1, bias=False),
                nn.GroupNorm(min(8, after), after),
                nn.GELU(),
            )
            for before, after in pairwise(widths)
        )
        self.dropout = nn.Dropout(dropout)
        self.width = widths[-1]

    def forward(self, x_BXYZ: torch.Tensor) -> torch.Tensor:
        """Features of shape (B, channels of the last block)."""
        h = x_BXYZ[:, None]
        for block in self.blocks:
            h = block(h)
            if min(h.shape[2:]) >= 2:
                h = F.max_pool3d(h, 2)
        return self.dropout(h.mean(dim=(2, 3, 4)))


class Encoder(nn.Module):
    """A trunk and two linear heads: mean and log-variance of a modality's code."""

    def __init__(self, trunk: MLP | SFCN, code: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.mu = nn.Linear(trunk.width, code)
        self.log_variance = nn.Linear(trunk.width, code)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`mu` and `log_variance`, each (B, code); the log-variance is kept within [-8, 8]."""
        h = self.trunk(x)
        return self.mu(h), self.log_variance(h).clamp(*LOG_VARIANCE_RANGE)


class Decoder(nn.Module):
    """From [shared | distinct] back to the components; the last layer is linear.

    For a volume the target is its block means on a coarse grid (see `SAAVAE.target`), flattened.
    """

    def __init__(self, code: int, hidden: Sequence[int], width: int) -> None:
        super().__init__()
        self.trunk = MLP(code, hidden, dropout=0.0)
        self.out = nn.Linear(self.trunk.width, width)

    def forward(self, code_BD: torch.Tensor) -> torch.Tensor:
        return self.out(self.trunk(code_BD))


class Regressor(nn.Module):
    """From codes, sex and presence to one number, the age on the regression's scale, shape (B,)."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.trunk = MLP(width, hidden, dropout)
        self.out = nn.Linear(self.trunk.width, 1)

    def forward(self, r_BR: torch.Tensor) -> torch.Tensor:
        return self.out(self.trunk(r_BR)).squeeze(-1)


class Discriminator(nn.Module):
    """Tells a sample of the prior from a shared code; one for all modalities; returns logits (B,).

    It sees a scan at a time, never a batch: the single-pass gradient of `losses.adversarial` needs that.
    """

    def __init__(self, code: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = code
        for size in hidden:
            layers += [nn.Linear(width, size), nn.LeakyReLU(0.2)]
            width = size
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, code_BD: torch.Tensor) -> torch.Tensor:
        return self.net(code_BD).squeeze(-1)
