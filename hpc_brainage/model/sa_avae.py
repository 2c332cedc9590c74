"""The SA-AVAE: Sex-Aware Adversarial Variational Autoencoder (arXiv 2412.05632).

Each modality m has one encoder that gives a Gaussian code z_m, split into a shared part c_m, which the
modalities of one person should agree on, and a distinct part u_m, which is the modality's own. Decoders
rebuild a modality from its own codes, and from the other modality's shared code with its own distinct
code. The age is regressed from all codes, joined with the sex and with which modalities there were. A
person without a modality borrows the other's shared code and gets the prior's mean, zero, as distinct
code. What is done with sex, with priors and with missing modalities can be set (`ModelConfig`).
`docs/method.md` holds the equations.

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
from hpc_brainage.modality import ROLES
from hpc_brainage.model.networks import MLP, Decoder, Encoder, VolumeTrunk
from hpc_brainage.model.noise import LAYERS, Draws, Stream
from hpc_brainage.model.regressor import (
    AgeEstimate,
    AgeForm,
    Regressor,
    age_estimate,
    age_outputs,
    sex_columns,
)
from hpc_brainage.model.volume_decoder import VolumeDecoder
from hpc_brainage.model.volume_encoders import volume_encoder

COARSE_GRID = 12
"""Longest side of the grid of coarse blocks, whose means are rebuilt and feed the linear path."""


@dataclass(frozen=True)
class BranchSpec:
    """What a branch of the model takes: `components` of a front end, or a volume of shape `grid`.

    The other settings are those of `ModalityConfig`.
    """

    encoder: str
    hidden: tuple[int, ...]
    components: int = 0
    grid: tuple[int, int, int] | None = None
    checkpointing: bool = False
    decoder: str = "coarse"

    @property
    def coarse_grid(self) -> tuple[int, int, int]:
        assert self.grid is not None
        step = max(1, math.ceil(max(self.grid) / COARSE_GRID))
        x, y, z = (max(1, side // step) for side in self.grid)
        return x, y, z

    @property
    def linear_width(self) -> int:
        """How many numbers of a scan the linear path takes."""
        return math.prod(self.coarse_grid) if self.grid else self.components

    @property
    def target_width(self) -> int:
        """How many numbers of a scan the decoder rebuilds."""
        return math.prod(self.grid) if self.grid and self.decoder == "volume" else self.linear_width


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


def drawn_parts(config: ModelConfig) -> tuple[bool, bool]:
    """Whether training draws the shared and the distinct codes with their own spread σ, or takes means.

    With `sample = "auto"` a part with a KL is drawn. A part with an adversarial prior alone is drawn if the
    other part has a KL: both then come from one variational encoder. Without any KL nothing holds σ, so an
    adversarial autoencoder is deterministic, and so is a part without a prior.
    """
    if config.sample != "auto":
        return (config.sample == "always",) * 2
    priors = (config.prior_shared, config.prior_distinct)
    with_kl = [prior in ("kl", "both") for prior in priors]
    shared, distinct = (
        kl or (any(with_kl) and prior != "none") for kl, prior in zip(with_kl, priors, strict=True)
    )
    return shared, distinct


class SAAVAE(nn.Module):
    """Encoders, decoders and the age regressor of one model.

    Parameters
    ----------
    branches : by role, what the branch takes.
    config : of codes, heads and priors.
    age_form : of the age loss; it decides what the regressor gives of a scan.
    """

    def __init__(
        self, branches: Mapping[str, BranchSpec], config: ModelConfig, age_form: AgeForm = "l1"
    ) -> None:
        super().__init__()
        self.roles = tuple(branches)
        self.branches = dict(branches)
        self.config = config
        self.age_form: AgeForm = age_form
        code = config.shared + config.distinct
        outputs = age_outputs(age_form)
        decoded = code + (2 if config.sex == "concat+decoder" else 0)
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        self.linear_paths = nn.ModuleDict()
        for role, spec in branches.items():
            trunk: MLP | VolumeTrunk
            if spec.grid is None:
                trunk = MLP(spec.components, spec.hidden, config.dropout)
            else:
                volumes = volume_encoder(spec.encoder, spec.grid, spec.hidden, spec.checkpointing)
                trunk = VolumeTrunk(volumes, config.dropout)
            self.encoders[role] = Encoder(trunk, code)
            if spec.grid is not None and spec.decoder == "volume":
                self.decoders[role] = VolumeDecoder(decoded, spec.grid)
            else:
                mirror = tuple(reversed(spec.hidden)) if spec.grid is None else (128,)
                self.decoders[role] = Decoder(decoded, mirror, spec.target_width)
            if config.linear_path:
                path = nn.Linear(spec.linear_width, outputs if age_form == "soft" else 1, bias=False)
                nn.init.zeros_(path.weight)
                self.linear_paths[role] = path
        sex_width = {"concat": 2, "concat+decoder": 2, "embed": config.sex_width}.get(config.sex, 0)
        if config.sex == "embed":
            self.sex_embedding = nn.Linear(2, config.sex_width, bias=False)
        self.regressor = Regressor(
            self.joined_width + sex_width, config.regressor, config.dropout, config.sex, outputs
        )

    @property
    def joined_width(self) -> int:
        """Width of what `join` gives."""
        return len(self.roles) * (self.config.shared + self.config.distinct + 1)

    def encode(
        self,
        x: Mapping[str, torch.Tensor],
        present: Mapping[str, torch.Tensor],
        draws: Draws | None = None,
    ) -> dict[str, Code]:
        """Codes of each modality; where it is absent, all zeros, whatever `x` holds there.

        Parameters
        ----------
        x : by role, components (B, P) or volumes (B, X, Y, Z); rows of absent scans may hold anything.
        present : by role, bool (B,).
        draws : of the batch's scans; with them codes are drawn and dropout acts, without them a code is its
            mean and nothing is random.
        """
        codes = {}
        drawn_shared, drawn_distinct = drawn_parts(self.config)
        places = [ROLES.index(role) for role in self.roles]
        width = self.config.shared + self.config.distinct
        noise = None
        if draws is not None and (drawn_shared or drawn_distinct):
            noise = draws.normals(width, [Stream.CODE + place for place in places])
        for number, (role, (mu, log_variance)) in enumerate(self.gaussians(x, present, draws).items()):
            here = present[role]
            mu = torch.where(here[:, None], mu, torch.zeros_like(mu))
            log_variance = torch.where(here[:, None], log_variance, torch.zeros_like(log_variance))
            z = mu
            if noise is not None:
                step = torch.exp(0.5 * log_variance) * noise[number].to(mu)
                if not drawn_shared:
                    step = F.pad(step[:, self.config.shared :], (self.config.shared, 0))
                elif not drawn_distinct:
                    step = F.pad(step[:, : self.config.shared], (0, self.config.distinct))
                z = torch.where(here[:, None], mu + step, mu)
            codes[role] = Code(mu, log_variance, z, self.config.shared)
        return codes

    def gaussians(
        self,
        x: Mapping[str, torch.Tensor],
        present: Mapping[str, torch.Tensor],
        draws: Draws | None = None,
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """By role, mean and log-variance of the code as the encoder gives them, each (B, C + U).

        As `encode`, but nothing is drawn, and rows of absent scans say nothing.
        """
        found = {}
        for role in self.roles:
            clean = _cleared(x[role], present[role])
            found[role] = self.encoders[role](clean, draws, Stream.ENCODER + ROLES.index(role) * LAYERS)
        return found

    def decode(
        self,
        role: str,
        shared_BC: torch.Tensor,
        distinct_BU: torch.Tensor,
        sex: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The modality's target (B, target width) rebuilt from a shared and a distinct code.

        `sex` (B,) is looked at with `model.sex = "concat+decoder"` only; without it all are unknown.
        """
        return self.decoders[role](self._decoded(shared_BC, distinct_BU, sex))

    def before_last_layer(
        self,
        role: str,
        shared_BC: torch.Tensor,
        distinct_BU: torch.Tensor,
        sex: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, nn.Linear] | None:
        """What the decoder's last layer takes (B, H), and that layer, for a loss that it is a part of.

        None where the decoder does not end in a linear layer, and where an engine that shards parameters
        gathers this layer only for its own forward pass.
        """
        decoder = self.decoders[role]
        if not isinstance(decoder, Decoder):
            return None
        layer = decoder.out
        if layer.weight.shape != (layer.out_features, layer.in_features):
            return None
        hidden_BH = decoder.trunk(self._decoded(shared_BC, distinct_BU, sex))
        return hidden_BH.to(layer.weight.dtype), layer

    def _decoded(
        self, shared_BC: torch.Tensor, distinct_BU: torch.Tensor, sex: torch.Tensor | None
    ) -> torch.Tensor:
        """What a decoder takes (B, D)."""
        parts = [shared_BC, distinct_BU]
        if self.config.sex == "concat+decoder":
            unknown = shared_BC.new_zeros((len(shared_BC), 2))
            parts.append(unknown if sex is None else sex_columns(sex, shared_BC))
        return torch.cat(parts, dim=1)

    def impute(self, role: str, codes: Mapping[str, Code], sex: torch.Tensor | None = None) -> torch.Tensor:
        """A modality's target (B, target width) from the other modality's shared code alone.

        The distinct code is the prior's mean, zero. A row says nothing where the other modality is absent.

        Raises
        ------
        ValueError : the model has no other modality.
        """
        others = [other for other in self.roles if other != role]
        if not others:
            raise ValueError(f"a model of {role} alone has nothing to impute it from")
        shared = codes[others[0]].shared
        return self.decode(role, shared, shared.new_zeros((len(shared), self.config.distinct)), sex)

    def target(self, role: str, x: torch.Tensor) -> torch.Tensor:
        """What the decoder should give (B, target width): the components, or of a volume its means over
        coarse blocks or all of its voxels, each of the same weight."""
        spec = self.branches[role]
        return x.flatten(1) if spec.decoder == "volume" else self._coarse(role, x)

    def _coarse(self, role: str, x: torch.Tensor) -> torch.Tensor:
        """What the linear path takes (B, linear width): the components, or a volume's block means."""
        spec = self.branches[role]
        if spec.grid is None:
            return x
        return F.adaptive_avg_pool3d(x[:, None], spec.coarse_grid).flatten(1)

    def regress(
        self,
        codes: Mapping[str, Code],
        x: Mapping[str, torch.Tensor],
        present: Mapping[str, torch.Tensor],
        sex: torch.Tensor,
        draws: Draws | None = None,
        subset: int = 0,
    ) -> AgeEstimate:
        """Ages on the regression's scale, from the modalities that `present` names.

        `present` may name fewer modalities than were encoded: the age is then regressed as if the
        others were not there. `sex` is (B,) with 0 for F, 1 for M and -1 for unknown. With `draws` dropout
        acts, and `subset` numbers the subsets that the age is regressed from in one step.
        """
        return self.regress_codes(codes, self.linear(x, present), present, sex, draws, subset)

    def regress_codes(
        self,
        codes: Mapping[str, Code],
        linear: Mapping[str, torch.Tensor],
        present: Mapping[str, torch.Tensor],
        sex: torch.Tensor,
        draws: Draws | None = None,
        subset: int = 0,
    ) -> AgeEstimate:
        """`regress`, from what `linear` gives of these modalities or more."""
        joined = self.join(codes, present, draws)
        if self.takes_sex_columns:
            codes_BR, presence = joined.tensor_split([-len(self.roles)], dim=1)
            joined = torch.cat([codes_BR, sex_columns(sex, codes_BR), presence], dim=1)
        return self.regress_joined(joined, linear, present, sex, draws, subset)

    @property
    def takes_sex_columns(self) -> bool:
        """Whether the age regressor takes two columns of sex, between the codes and presence."""
        return self.config.sex in ("concat", "concat+decoder")

    def regress_joined(
        self,
        joined_BR: torch.Tensor,
        linear: Mapping[str, torch.Tensor],
        present: Mapping[str, torch.Tensor],
        sex: torch.Tensor,
        draws: Draws | None = None,
        subset: int = 0,
    ) -> AgeEstimate:
        """`regress`, from codes and presence as `join` gives them, with the columns of sex where there are
        any, and from what `linear` gives of these modalities or more."""
        if self.config.sex == "embed":
            codes_BR, presence = joined_BR.tensor_split([-len(self.roles)], dim=1)
            embedded = self.sex_embedding(sex_columns(sex, codes_BR))
            joined_BR = torch.cat([codes_BR, embedded, presence], dim=1)
        stream = Stream.REGRESSOR + subset * LAYERS
        out = self.regressor(joined_BR, sex, draws, stream)
        for role, step in linear.items():
            here = torch.where(present[role][:, None], step, 0.0)
            out = out + F.pad(here, (0, out.shape[1] - step.shape[1]))
        return age_estimate(out, self.age_form)

    def linear(
        self, x: Mapping[str, torch.Tensor], present: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """By role, what the linear path adds to the regressor's first outputs, (B, 1) or (B, outputs).

        It takes all of `x`, so that it is worth calling once for all subsets of the modalities.
        """
        return {
            role: path(_cleared(self._coarse(role, x[role]), present[role]))
            for role, path in self.linear_paths.items()
        }

    def join(
        self, codes: Mapping[str, Code], present: Mapping[str, torch.Tensor], draws: Draws | None = None
    ) -> torch.Tensor:
        """All codes as `present` leaves them, and presence itself: (B, `joined_width`), without sex.

        Where a modality is absent its distinct code is zero and its shared code borrowed from the other
        modality, or zero if there is none. With `model.missing = "poe"` the shared code of *every*
        modality is the product of experts instead.
        """
        parts = []
        product = self._product(codes, present, draws) if self.config.missing == "poe" else None
        for role in self.roles:
            here = present[role][:, None]
            if product is None:
                own = codes[role].shared
                parts.append(torch.where(here, own, self._borrowed(role, codes, present)))
            else:
                parts.append(product)
            parts.append(torch.where(here, codes[role].distinct, 0.0))
        parts.append(torch.stack([present[role] for role in self.roles], dim=1).to(parts[0]))
        return torch.cat(parts, dim=1)

    def _borrowed(
        self, role: str, codes: Mapping[str, Code], present: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """The other modality's shared code where it is there, else the prior's mean."""
        others = [other for other in self.roles if other != role]
        borrowed = torch.zeros_like(codes[role].shared)
        for other in others:
            borrowed = torch.where(present[other][:, None], codes[other].shared, borrowed)
        return borrowed

    def _product(
        self, codes: Mapping[str, Code], present: Mapping[str, torch.Tensor], draws: Draws | None
    ) -> torch.Tensor:
        """The product of the prior and of the shared codes that there are, (B, C).

        Each expert counts with its precision, the prior with 1: Σ a_m z_m / σ_m² over 1 + Σ a_m / σ_m². Its
        mean where codes are means. Where they are drawn the prior has a draw too, and the result is one
        draw of the product.
        """
        first = codes[self.roles[0]].shared
        total, precision = torch.zeros_like(first), torch.ones_like(first)
        if draws is not None and drawn_parts(self.config)[0]:
            total = draws.normal(self.config.shared, Stream.JOINT).to(first)
        for role in self.roles:
            own = torch.exp(-codes[role].log_variance[:, : self.config.shared])
            own = torch.where(present[role][:, None], own, torch.zeros_like(own))
            total = total + own * codes[role].shared
            precision = precision + own
        return total / precision


def _cleared(x: torch.Tensor, present_B: torch.Tensor) -> torch.Tensor:
    """`x` with zeros for absent scans; `x` itself where a CPU sees that nobody is absent."""
    untold = torch._C._functorch.is_functorch_wrapped_tensor(present_B) or torch.compiler.is_compiling()
    if present_B.device.type == "cpu" and not untold and bool(present_B.all()):
        return x
    return torch.where(present_B.view(-1, *([1] * (x.dim() - 1))), x, 0.0)
