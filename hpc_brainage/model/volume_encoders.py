"""Encoders for volumes: published networks for three-dimensional images, by name.

All of them take one channel and give one vector of features for each scan, the mean of the last feature
maps. They differ from what was published in three ways only:

- GroupNorm (Wu & He 2018) stands where BatchNorm stood. Few volumes fit on a device, and the statistics of
  two to eight of them are unstable and carry the mix of sites in a batch. A GroupNorm has as many
  parameters, keeps no running state, and treats a scan alike whatever else is in the batch.
- There is no classifier, and no dropout: both belong to whoever takes the features.
- Where a grid is too small to be halved once more, it is left as it is.

Weights are drawn as He et al. (2015) do for networks of rectified units. Convolutions compute with the
channels last, but in training on a processor. With `checkpointing` a block keeps its input alone and is
computed a second time in the backward pass (Chen et al. 2016, "Training deep nets with sublinear memory
cost"), large grids one scan after the other: the first blocks of a volume are where a step's memory goes,
and only one scan's is then there at a time. Less memory, about a third more computation, the same
gradients.

The norms take away a volume's overall level, which reaches the age over the model's linear path.

Shapes: B scans, X Y Z a grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hpc_brainage.errors import ModelError

GROUPS = 8
"""Groups of a norm; fewer where the channels do not divide by it."""

SCORED_AT_ONCE = 2
"""Scans that a processor scores together. More wait for the memory; of one alone PyTorch's convolutions
take a slower way, three times as long in all."""

ONE_BY_ONE = 32**3
"""Voxels of a grid from which on a block that is computed twice takes one scan at a time."""

SMALLEST_SIDE = 8
"""Of a volume for ResNet and DenseNet. Where their first kernel is as long as the volume, PyTorch on a CPU
gives wrong gradients or crashes (seen with 2.13)."""


class Convolution(nn.Conv3d):
    """A convolution that computes with the channels last, but in training on a CPU.

    There that can take twice as long, while scoring takes half the time.

    The layout of the weights decides it. They are brought into that order each time, which costs little
    beside the convolution; as parameters they stay in the usual one, which DeepSpeed needs to send them.
    """

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        trains_on_cpu = h.device.type == "cpu" and torch.is_grad_enabled()
        layout = torch.contiguous_format if trains_on_cpu else torch.channels_last_3d
        # Not `contiguous`: with a single channel any order is, and the first layer would go the slow way.
        weight = self.weight.to(h.dtype, memory_format=layout)
        bias = None if self.bias is None else self.bias.to(h.dtype)
        return F.conv3d(h, weight, bias, self.stride, self.padding)


def is_lowered(device: torch.device) -> bool:
    """Whether autocast lowers the precision of what is computed on a device at this moment."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


class Norm(nn.GroupNorm):
    """A group norm that gives the precision that it takes; its means and variances are single at least."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.to(h.dtype), self.bias.to(h.dtype)
        return F.group_norm(h, self.num_groups, weight, bias, self.eps)


class VolumeEncoder(nn.Module):
    """Blocks one after the other, and the mean over what is left of the grid.

    Attributes
    ----------
    width : features of a scan.
    """

    def __init__(self, blocks: Iterable[nn.Module], width: int, checkpointing: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.width = width
        self.checkpointing = checkpointing
        for module in self.modules():
            if isinstance(module, Convolution):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x_BXYZ: torch.Tensor) -> torch.Tensor:
        """Features of shape (B, width); where autocast lowers the precision, in that.

        All of it: left to itself, autocast would have norms on a GPU and pools on a processor give single
        precision, and what they give is most of what a step keeps.
        """
        h, device = x_BXYZ[:, None].contiguous(), x_BXYZ.device.type
        if not is_lowered(x_BXYZ.device):
            return self._features(h)
        h = h.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return self._features(h)

    def _features(self, h: torch.Tensor) -> torch.Tensor:
        if h.device.type == "cpu" and not torch.is_grad_enabled() and len(h) >= 2 * SCORED_AT_ONCE:
            return torch.cat([self._features(own) for own in h.tensor_split(len(h) // SCORED_AT_ONCE)])
        twice = self.checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            h = _computed_twice(block, h) if twice else block(h)
        return h.mean(dim=(2, 3, 4))


class SFCN(VolumeEncoder):
    """The simple fully convolutional network of brain age.

    Peng et al. 2021, "Accurate brain age prediction with lightweight deep neural networks", Medical Image
    Analysis 68. Each block but the last is a 3 x 3 x 3 convolution, a norm, max pooling by 2 and ReLU; the
    last is a 1 x 1 x 1 convolution, a norm and ReLU. The paper's channels are 32, 64, 128, 256, 256 and
    64, and the features are then averaged, as here.

    Parameters
    ----------
    channels : of the blocks, at least two.
    """

    def __init__(self, channels: Sequence[int], checkpointing: bool = False) -> None:
        *spatial, last = channels
        blocks: list[nn.Module] = [
            nn.Sequential(
                Convolution(before, after, 3, padding=1), _norm(after), _Halve(nn.MaxPool3d(2)), nn.ReLU()
            )
            for before, after in pairwise((1, *spatial))
        ]
        blocks.append(nn.Sequential(Convolution(spatial[-1], last, 1), _norm(last), nn.ReLU()))
        super().__init__(blocks, last, checkpointing)


class ResNet18(VolumeEncoder):
    """The residual network of 18 layers, with three dimensions in place of two.

    He et al. 2016, "Deep residual learning for image recognition", CVPR, table 1 and projection shortcuts
    where the shape changes (option B). Stem: 7 x 7 x 7 convolution with stride 2, then max pooling of 3
    with stride 2. Four stages of two basic blocks with 64, 128, 256 and 512 channels.
    """

    def __init__(self, checkpointing: bool = False) -> None:
        blocks: list[nn.Module] = [_stem()]
        before = 64
        for stage, after in enumerate((64, 128, 256, 512)):
            stride = 2 if stage else 1
            blocks += [_Residual(before, after, stride), _Residual(after, after, 1)]
            before = after
        super().__init__(blocks, before, checkpointing)


class DenseNet121(VolumeEncoder):
    """The densely connected network of 121 layers, with three dimensions in place of two.

    Huang et al. 2017, "Densely connected convolutional networks", CVPR, table 1: the stem of ResNet, dense
    blocks of 6, 12, 24 and 16 layers that add 32 channels each through a bottleneck of 128, and between
    them transitions that halve channels and grid; a last norm and ReLU.
    """

    def __init__(self, checkpointing: bool = False) -> None:
        blocks: list[nn.Module] = [_stem()]
        channels = 64
        for place, layers in enumerate((6, 12, 24, 16)):
            if place:
                blocks.append(
                    nn.Sequential(
                        _norm(channels),
                        nn.ReLU(),
                        Convolution(channels, channels // 2, 1, bias=False),
                        _Halve(_MeanPool(2)),
                    )
                )
                channels //= 2
            for _ in range(layers):
                blocks.append(_Dense(channels))
                channels += _Dense.growth
        blocks.append(nn.Sequential(_norm(channels), nn.ReLU()))
        super().__init__(blocks, channels, checkpointing)


def volume_encoder(
    name: str, grid: tuple[int, int, int], hidden: Sequence[int], checkpointing: bool = False
) -> VolumeEncoder:
    """The encoder that a branch's settings name, for volumes of shape `grid`.

    Parameters
    ----------
    name : one of `config.VOLUME_ENCODERS`.
    hidden : the SFCN's channels; nothing for the others.

    Raises
    ------
    ModelError : the grid is too small for the encoder.
    """
    if name == "sfcn":
        return SFCN(hidden, checkpointing)
    if min(grid) < SMALLEST_SIDE:
        raise ModelError(
            f"volumes of {' x '.join(map(str, grid))} voxels are too small for the encoder {name}",
            expected=f"at least {SMALLEST_SIDE} voxels along each axis",
            hint="use the encoder sfcn",
        )
    return {"resnet18_3d": ResNet18, "densenet121_3d": DenseNet121}[name](checkpointing)


def _computed_twice(block: nn.Module, h: torch.Tensor) -> torch.Tensor:
    """What the block gives, of which it keeps nothing but `h` for the backward pass."""
    parts = h.split(1) if h[0, 0].numel() >= ONE_BY_ONE else (h,)
    # No block draws random numbers, so none have to be drawn again.
    given = [checkpoint(block, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(given) if len(given) > 1 else given[0]


class _Halve(nn.Module):
    """Pooling by 2, left out where a side of the grid is 1 already."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.pool(h) if min(h.shape[2:]) >= 2 else h


class _MeanPool(nn.AvgPool3d):
    """A mean over blocks of voxels; on a processor PyTorch has none in bfloat16."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        if h.device.type == "cpu" and h.dtype == torch.bfloat16:
            return super().forward(h.float()).to(h.dtype)
        return super().forward(h)


class _Residual(nn.Module):
    """A basic block: ReLU( norm conv ReLU norm conv x + shortcut x )."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            Convolution(before, after, 3, stride=stride, padding=1, bias=False),
            _norm(after),
            nn.ReLU(),
            Convolution(after, after, 3, padding=1, bias=False),
            _norm(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                Convolution(before, after, 1, stride=stride, bias=False), _norm(after)
            )

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(h) + self.shortcut(h))


class _Dense(nn.Module):
    """A dense layer: norm, ReLU, 1 x 1 x 1 to 128, norm, ReLU, 3 x 3 x 3 to 32, put beside its input."""

    growth = 32

    def __init__(self, channels: int) -> None:
        super().__init__()
        bottleneck = 4 * self.growth
        self.path = nn.Sequential(
            _norm(channels),
            nn.ReLU(),
            Convolution(channels, bottleneck, 1, bias=False),
            _norm(bottleneck),
            nn.ReLU(),
            Convolution(bottleneck, self.growth, 3, padding=1, bias=False),
        )

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.cat([h, self.path(h)], dim=1)


def _stem() -> nn.Sequential:
    """The first layers of ResNet and DenseNet: a quarter of the grid, 64 channels."""
    return nn.Sequential(
        Convolution(1, 64, 7, stride=2, padding=3, bias=False),
        _norm(64),
        nn.ReLU(),
        nn.MaxPool3d(3, stride=2, padding=1),
    )


def _norm(channels: int) -> Norm:
    return Norm(math.gcd(GROUPS, channels), channels)
