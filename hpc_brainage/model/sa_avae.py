"""The SA-AVAE: Sex-Aware Adversarial Variational Autoencoder (arXiv 2412.05632).

Each modality m has one encoder that gives a Gaussian code z_m, split into a shared part c_m, which the
modalities of one person should agree on, and a distinct part u_m, which is the modality's own. Decoders
rebuild a modality from its own codes, and from the other modality's shared code with its own distinct
code. The age is regressed from all codes, joined with the sex and with which modalities there were. A
person without a modality borrows the other's shared code and gets the prior's mean, zero, as distinct
code. `docs/method.md` holds the equations.

Shapes: B scans, P components, C shared and U distinct width. Roles come in the fixed order of `ROLES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from hpc_brainage.config import ModelConfig
from hpc_brainage.model.networks import MLP, SFCN, Decoder, Encoder, Regressor

COARSE_GRID = 12
"""Longest side of the grid on which a volume is rebuilt."""


@dataclass(frozen=True)
class BranchSpec:
    """What a branch of the model takes: `components` of a front end, or a volume of shape `grid`."""

    encoder: str
    hidden: tuple[int, ...]
    components: int = 0
    grid: tuple[int, int, int] | None = None

    @property
    def target_grid(self) -> tuple[int, int, int]:
        assert self.grid is not None
        step = max(1, math.ceil(max(self.grid) / COARSE_GRID))
        x, y, z = (max(1, side // step) for side in self.grid)
        return x, y, z

    @property
    def target_width(self) -> int:
        """How many numbers of a scan the decoder rebuilds."""
        return math.prod(self.target_grid) if self.grid else self.components


@dataclass(frozen=True)
class Code:
    """A modality's code of a batch: Gaussian parameters and one draw, each (B, C + U)."""

    mu: torch.Tensor
    log_variance: torch.Tensor
    z: torch.Tensor
    shared_width: int

    @property
    def shared(self) -> torch.Tensor:
        return self.z[:, : self.shared_width]

    @property
    def distinct(self) -> torch.Tensor:
        return self.z[:, self.shared_width :]

    def at_mean(self) -> Code:
        """The same code with the mean in place of the draw."""
        return Code(self.mu, self.log_variance, self.mu, self.shared_width)


class SAAVAE(nn.Module):
    """Encoders, decoders and the age regressor of one model."""

    def __init__(self, branches: Mapping[str, BranchSpec], config: ModelConfig) -> None:
        super().__init__()
        self.roles = tuple(branches)
        self.branches = dict(branches)
        self.config = config
        code = config.shared + config.distinct
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        self.linear_paths = nn.ModuleDict()
        for role, spec in branches.items():
            trunk: MLP | SFCN
            if spec.encoder == "mlp":
                trunk = MLP(spec.components, spec.hidden, config.dropout)
            else:
                trunk = SFCN(spec.hidden, config.dropout)
            self.encoders[role] = Encoder(trunk, code)
            mirror = tuple(reversed(spec.hidden)) if spec.encoder == "mlp" else (128,)
            self.decoders[role] = Decoder(code, mirror, spec.target_width)
            if config.linear_path:
                path = nn.Linear(spec.target_width, 1, bias=False)
                nn.init.zeros_(path.weight)
                self.linear_paths[role] = path
        sex_width = 2 if config.sex == "concat" else 0
        self.regressor = Regressor(
            len(self.roles) * (code + 1) + sex_width, config.regressor, config.dropout
        )

    def encode(
        self,
        x: Mapping[str, torch.Tensor],
        present: Mapping[str, torch.Tensor],
        noise: Mapping[str, torch.Tensor] | None = None,
    ) -> dict[str, Code]:
        """Codes of each modality; where it is absent, all zeros, whatever `x` holds there.

        Parameters
        ----------
        x : by role, components (B, P) or volumes (B, X, Y, Z); rows of absent scans may hold anything.
        present : by role, bool (B,).
        noise : by role, standard normal (B, C + U); without it a code is its mean.
        """
        codes = {}
        for role in self.roles:
            here = present[role]
            clean = torch.where(_like(here, x[role]), x[role], torch.zeros_like(x[role]))
            mu, log_variance = self.encoders[role](clean)
            mu = torch.where(here[:, None], mu, torch.zeros_like(mu))
            log_variance = torch.where(here[:, None], log_variance, torch.zeros_like(log_variance))
            z = mu
            if noise is not None:
                drawn = mu + torch.exp(0.5 * log_variance) * noise[role].to(mu)
                z = torch.where(here[:, None], drawn, mu)
            codes[role] = Code(mu, log_variance, z, self.config.shared)
        return codes

    def decode(self, role: str, shared_BC: torch.Tensor, distinct_BU: torch.Tensor) -> torch.Tensor:
        """The modality's target (B, target width) rebuilt from a shared and a distinct code."""
        return self.decoders[role](torch.cat([shared_BC, distinct_BU], dim=1))

    def target(self, role: str, x: torch.Tensor) -> torch.Tensor:
        """What the decoder should give: the components, or a volume's means on the coarse grid."""
        spec = self.branches[role]
        if spec.grid is None:
            return x
        return F.adaptive_avg_pool3d(x[:, None], spec.target_grid).flatten(1)

    def regress(
        self,
        codes: Mapping[str, Code],
        x: Mapping[str, torch.Tensor],
        present: Mapping[str, torch.Tensor],
        sex: torch.Tensor,
    ) -> torch.Tensor:
        """Age on the regression's scale, shape (B,), from the modalities that `present` names.

        `present` may name fewer modalities than were encoded: the age is then regressed as if the
        others were not there. `sex` is (B,) with 0 for F, 1 for M and -1 for unknown.
        """
        parts = []
        for role in self.roles:
            here = present[role][:, None]
            parts.append(torch.where(here, codes[role].shared, self._borrowed(role, codes, present)))
            parts.append(torch.where(here, codes[role].distinct, 0.0))
        if self.config.sex == "concat":
            parts.append(torch.stack([sex == 0, sex == 1], dim=1).to(parts[0]))
        parts.append(torch.stack([present[role] for role in self.roles], dim=1).to(parts[0]))
        age = self.regressor(torch.cat(parts, dim=1))
        for role, path in self.linear_paths.items():
            linear = self.target(role, x[role])
            clean = torch.where(present[role][:, None], linear, torch.zeros_like(linear))
            age = age + path(clean).squeeze(-1)
        return age

    def _borrowed(
        self, role: str, codes: Mapping[str, Code], present: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """The other modality's shared code where it is there, else the prior's mean."""
        others = [other for other in self.roles if other != role]
        borrowed = torch.zeros_like(codes[role].shared)
        for other in others:
            borrowed = torch.where(present[other][:, None], codes[other].shared, borrowed)
        return borrowed


def _like(mask_B: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return mask_B.view(-1, *([1] * (x.dim() - 1)))
