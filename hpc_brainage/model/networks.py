"""Encoders, decoders and discriminators: the parts of the SA-AVAE beside the age regressor.

Shapes: B scans, P components of a front end, H hidden width, D code width, X Y Z a grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hpc_brainage.model.noise import Draws
from hpc_brainage.model.volume_encoders import VolumeEncoder, is_lowered

LOG_VARIANCE_RANGE = (-8.0, 8.0)


class Dropout(nn.Module):
    """Dropout whose mask belongs to the scan and the step; without draws nothing is dropped."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, h_BW: torch.Tensor, draws: Draws | None, stream: int) -> torch.Tensor:
        return h_BW if draws is None else draws.dropout(h_BW, self.probability, stream)


class MLP(nn.Sequential):
    """Linear, LayerNorm, GELU and dropout for each hidden width; no layer after the last hidden one."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float) -> None:
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.LayerNorm(size), nn.GELU(), Dropout(dropout)]
            width = size
        super().__init__(*layers)
        self.width = width

    def forward(
        self,
        x: torch.Tensor,
        draws: Draws | None = None,
        stream: int = 0,
        modulation: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Hidden units (B, width).

        `stream` is that of the first dropout, the others count up from it. `modulation` has for each
        hidden layer, if for any, a scale less one beside a shift, (B, 2 H), for what its norm gives.
        """
        changes = iter(modulation)
        for layer in self:
            if isinstance(layer, Dropout):
                x = layer(x, draws, stream)
                stream += 1
            else:
                x = layer(x)
            if modulation and isinstance(layer, nn.LayerNorm):
                scale, shift = next(changes).chunk(2, dim=1)
                x = x * (1 + scale) + shift
        return x


class LastLayer(nn.Linear):
    """A network's last layer, in the precision of its weights even where autocast lowers all others."""

    def forward(self, h_BH: torch.Tensor) -> torch.Tensor:
        if not is_lowered(h_BH.device):
            return super().forward(h_BH)
        with torch.autocast(h_BH.device.type, enabled=False):
            return super().forward(h_BH.to(self.weight.dtype))


class VolumeTrunk(nn.Module):
    """A volume's encoder, and dropout of the features that it gives."""

    def __init__(self, encoder: VolumeEncoder, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = Dropout(dropout)
        self.width = encoder.width

    def forward(self, x_BXYZ: torch.Tensor, draws: Draws | None = None, stream: int = 0) -> torch.Tensor:
        """Features (B, width)."""
        return self.dropout(self.encoder(x_BXYZ), draws, stream)


class Encoder(nn.Module):
    """A trunk and two linear heads: mean and log-variance of a modality's code."""

    def __init__(self, trunk: MLP | VolumeTrunk, code: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.mu = LastLayer(trunk.width, code)
        self.log_variance = LastLayer(trunk.width, code)

    def forward(
        self, x: torch.Tensor, draws: Draws | None = None, stream: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`mu` and `log_variance`, each (B, code); the log-variance is kept within [-8, 8]."""
        h = self.trunk(x, draws, stream)
        return self.mu(h), self.log_variance(h).clamp(*LOG_VARIANCE_RANGE)


class Decoder(nn.Module):
    """From [shared | distinct] back to the components; the last layer is linear.

    For a volume with `decoder = "coarse"` the target is its block means on a coarse grid, flattened.
    """

    def __init__(self, code: int, hidden: Sequence[int], width: int) -> None:
        super().__init__()
        self.trunk = MLP(code, hidden, dropout=0.0)
        self.out = LastLayer(self.trunk.width, width)

    def forward(self, code_BD: torch.Tensor) -> torch.Tensor:
        return self.out(self.trunk(code_BD))


class Discriminator(nn.Module):
    """Tells a sample of the prior from a code, or the sexes apart; returns logits (B,).

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
