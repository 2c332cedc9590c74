"""A decoder for volumes: from a code back to every voxel.

A linear layer turns the code into a small grid. Each stage then doubles the grid by repeating its voxels,
and convolves it; resizing before a convolution avoids the checkerboards of transposed convolutions
(Odena et al. 2016, "Deconvolution and checkerboard artifacts", Distill). The grids are those of the volume
halved again and again, rounded up. So a doubled grid has at most one plane too many, which is left out: the
last grid is exactly that of the volume, and no stage computes more than it needs.

There are no norms: each would take a scan's overall level out of what is rebuilt.

Shapes: B scans, D code width, X Y Z a grid.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from hpc_brainage.model.volume_encoders import Convolution

LONGEST_START = 7
"""Longest side of the grid that the code is turned into: 4 x 5 x 4 for a volume of 121 x 145 x 121."""

CHANNELS = (128, 64, 32, 16, 8)
"""Channels of the first grid and after each stage; further stages have as many as the last."""


class VolumeDecoder(nn.Module):
    """From [shared | distinct] to the voxels of a volume; the last layer is linear.

    Attributes
    ----------
    grids : the grid that the code is turned into, the grid after each stage, at last the volume's.
    """

    def __init__(self, code: int, grid: tuple[int, int, int]) -> None:
        super().__init__()
        grids = [grid]
        while max(grids[0]) > LONGEST_START:
            x, y, z = grids[0]
            grids.insert(0, (-(-x // 2), -(-y // 2), -(-z // 2)))
        self.grids = tuple(grids)
        x, y, z = grids[0]
        self.first = nn.Linear(code, CHANNELS[0] * x * y * z)
        channels = [CHANNELS[min(place, len(CHANNELS) - 1)] for place in range(max(1, len(grids) - 1))]
        self.stages = nn.ModuleList(
            Convolution(before, after, 3, padding=1) for before, after in pairwise([*channels, 1])
        )
        for stage in self.stages:
            assert isinstance(stage, Convolution)
            assert stage.bias is not None
            nn.init.kaiming_normal_(stage.weight, nonlinearity="relu")
            nn.init.zeros_(stage.bias)

    def forward(self, code_BD: torch.Tensor) -> torch.Tensor:
        """All voxels of a volume, flattened in the order X, Y, Z: shape (B, X * Y * Z)."""
        h = self.first(code_BD).unflatten(1, (CHANNELS[0], *self.grids[0]))
        for stage, grid in zip(self.stages, self.grids[1:] or self.grids, strict=True):
            # To a size of 2n or 2n - 1 the nearest of n voxels is each twice, the last one perhaps once.
            h = stage(F.interpolate(torch.relu(h), size=grid, mode="nearest"))
        return h.flatten(1)
