"""One trained model with everything that stands before and after its network.

A bundle holds several members, one for each fold. A member takes features in their own units and gives
ages in years.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hpc_brainage.config import RunConfig
from hpc_brainage.model.age_scale import AgeScale
from hpc_brainage.model.close_look import CloseLook, log_rebuilding_errors, spread_from_codes
from hpc_brainage.model.front_end import FrontEnd
from hpc_brainage.model.regressor import AgeEstimate
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec, Code

SEX_NUMBERS = {"F": 0, "M": 1, "U": -1}
"""How the network is told a person's sex."""

LEAST_KNOWN_SHARE = 0.5
"""A scan that lacks more than this share of a role's features counts as lacking the role."""


class VolumeScaler(nn.Module):
    """Brings volumes to zero mean and unit variance over the training people's voxels."""

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("sd", torch.ones(()))

    def forward(self, x_BXYZ: torch.Tensor) -> torch.Tensor:
        return (x_BXYZ - self.mean) / self.sd


@dataclass(frozen=True)
class Prediction:
    """What a member says of B scans, in years; NaN where it was not computed.

    Attributes
    ----------
    age : (B,) from all modalities the scan has; for an unknown sex the mean over both.
    age_by_role : by role, (B,) from that modality alone.
    age_other_sex : (B,) had the person been of the other sex; NaN for an unknown sex.
    sd : (B,) the standard deviation that the model predicts for the age of a person with such data. NaN
        where the age form predicts none.
    sd_by_role : by role, (B,) the same from that modality alone.
    used : by role, bool (B,), whether the scan had enough of the modality.
    imputed : by role, (B,) features that were missing and took the training median.
    look : what was found beside the age, if it was asked for.
    """

    age: torch.Tensor
    age_by_role: dict[str, torch.Tensor]
    age_other_sex: torch.Tensor
    sd: torch.Tensor
    sd_by_role: dict[str, torch.Tensor]
    used: dict[str, torch.Tensor]
    imputed: dict[str, torch.Tensor]
    look: CloseLook | None = None


class Member(nn.Module):
    """Front ends, network and age scale of one model."""

    def __init__(
        self, front_ends: Mapping[str, FrontEnd | VolumeScaler], age_scale: AgeScale, config: RunConfig
    ) -> None:
        super().__init__()
        self.front_ends = nn.ModuleDict(front_ends)
        self.age_scale = age_scale
        self.config = config
        branches = {role: _branch(front_end, config, role) for role, front_end in front_ends.items()}
        self.network = SAAVAE(branches, config.model, config.loss.age_form)

    @property
    def roles(self) -> tuple[str, ...]:
        return self.network.roles

    def features(self, role: str) -> tuple[str, ...]:
        """Names of the features that the role's front end takes; none for a volume."""
        front_end = self.front_ends[role]
        return front_end.features if isinstance(front_end, FrontEnd) else ()

    def prepare(
        self, x: Mapping[str, torch.Tensor], present: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Network inputs, presence and imputed counts from features in their own units."""
        inputs, here, imputed = {}, {}, {}
        for role in self.roles:
            inputs[role], here[role], imputed[role] = self.prepare_role(role, x[role], present[role])
        return inputs, here, imputed

    @torch.no_grad()
    def prepare_role(
        self, role: str, x: torch.Tensor, present_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`prepare` for one role: input, presence and imputed count of each scan."""
        front_end = self.front_ends[role]
        if not isinstance(front_end, FrontEnd):
            return front_end(x), present_B, torch.zeros(len(x), dtype=torch.int64, device=x.device)
        components, missing = front_end.and_missing(x)
        known = 1 - missing / len(front_end.features)
        here = present_B & (known >= LEAST_KNOWN_SHARE)
        return components, here, torch.where(here, missing, torch.zeros_like(missing))

    @torch.no_grad()
    def predict(
        self,
        x: Mapping[str, torch.Tensor],
        present: Mapping[str, torch.Tensor],
        sex: torch.Tensor,
        closely: bool = False,
    ) -> Prediction:
        """Ages in years, from the codes' means; the caller has put the member into `eval()`.

        Parameters
        ----------
        x : by role, (B, features of this member) with NaN where missing, or volumes (B, X, Y, Z).
        present : by role, bool (B,).
        sex : (B,) 0 for F, 1 for M, -1 for unknown.
        closely : take a `CloseLook` too.
        """
        inputs, here, imputed = self.prepare(x, present)
        codes = self.network.encode(inputs, here)
        linear = self.network.linear(inputs, here)
        unknown = sex < 0
        any_unknown = bool(unknown.any())

        def years(
            seen: Mapping[str, torch.Tensor], as_sex: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """The age, and the variance that is predicted for it in years squared."""
            said = self.network.regress_codes(codes, linear, seen, as_sex).stretched(self._stretch(seen))
            anything = torch.stack(list(seen.values())).any(dim=0)
            age = self.age_scale.to_years(said.mean.double())
            nothing = torch.full_like(age, torch.nan)
            if said.log_variance is None:
                return torch.where(anything, age, nothing), nothing
            sd = self.age_scale.sd_in_years((0.5 * said.log_variance.double()).exp(), age)
            return torch.where(anything, age, nothing), torch.where(anything, sd.square(), nothing)

        def averaged(seen: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            known = years(seen, sex)
            if not any_unknown:
                return known
            pairs = zip(
                known, years(seen, torch.zeros_like(sex)), years(seen, torch.ones_like(sex)), strict=True
            )
            age, variance = (torch.where(unknown, 0.5 * (f + m), own) for own, f, m in pairs)
            return age, variance

        nobody = torch.zeros_like(unknown)
        by_role = {
            role: averaged({other: here[other] if other == role else nobody for other in self.roles})
            for role in self.roles
        }
        other_sex, _ = years(here, torch.where(unknown, sex, 1 - sex))
        other_sex = torch.where(unknown, torch.full_like(other_sex, torch.nan), other_sex)
        age, variance = averaged(here)
        return Prediction(
            age,
            {role: own for role, (own, _) in by_role.items()},
            other_sex,
            variance.sqrt(),
            {role: own.sqrt() for role, (_, own) in by_role.items()},
            here,
            imputed,
            self._look(codes, inputs, here, sex, age) if closely else None,
        )

    def regress(
        self,
        codes: Mapping[str, Code],
        inputs: Mapping[str, torch.Tensor],
        present: Mapping[str, torch.Tensor],
        sex: torch.Tensor,
    ) -> AgeEstimate:
        """`SAAVAE.regress` for scans that are not trained on: stretched as the settings say."""
        said = self.network.regress(codes, inputs, present, sex)
        return said.stretched(self._stretch(present))

    def _stretch(self, present: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """How much farther from the training mean each age is put (B,), by the modalities there are."""
        settings = self.config.model
        here = torch.stack(list(present.values()))
        factor = torch.full(here.shape[1:], settings.stretch_both, device=here.device)
        for role, own in zip(present, here, strict=True):
            alone = own & (here.sum(dim=0) == 1)
            factor = torch.where(alone, getattr(settings, f"stretch_{role}"), factor)
        return factor

    def _look(
        self,
        codes: Mapping[str, Code],
        inputs: Mapping[str, torch.Tensor],
        here: Mapping[str, torch.Tensor],
        sex: torch.Tensor,
        age: torch.Tensor,
    ) -> CloseLook:
        sd = spread_from_codes(self.network, codes, inputs, here, sex) * self._stretch(here)
        log_errors = {}
        if self.config.loss.reconstruction > 0:  # else nobody taught the decoders
            log_errors = log_rebuilding_errors(self.network, codes, inputs, here, sex)
        means = {role: code.mu for role, code in codes.items()}
        return CloseLook(self.age_scale.sd_in_years(sd.double(), age), means, log_errors)

    def describe(self) -> dict[str, Any]:
        """What `from_record` needs, beside the weights, to build the same member."""
        front_ends: dict[str, Any] = {}
        for role, front_end in self.front_ends.items():
            if isinstance(front_end, FrontEnd):
                front_ends[role] = {
                    "kind": "features",
                    "features": list(front_end.features),
                    "components": front_end.components,
                    "clip_sd": front_end.clip_sd,
                }
            else:
                assert isinstance(front_end, VolumeScaler)
                front_ends[role] = {"kind": "volume", "grid": list(front_end.grid)}
        scale = self.age_scale
        return {
            "front_ends": front_ends,
            "age_scale": {"kind": scale.kind, "center": scale.center, "spread": scale.spread},
        }

    @classmethod
    def from_record(cls, record: dict[str, Any], config: RunConfig) -> Member:
        front_ends: dict[str, FrontEnd | VolumeScaler] = {}
        for role, spec in record["front_ends"].items():
            if spec["kind"] == "features":
                front_ends[role] = FrontEnd(spec["features"], spec["components"], spec["clip_sd"])
            else:
                x, y, z = spec["grid"]
                front_ends[role] = VolumeScaler((x, y, z))
        return cls(front_ends, AgeScale(**record["age_scale"]), config)


def _branch(front_end: FrontEnd | VolumeScaler, config: RunConfig, role: str) -> BranchSpec:
    settings = config.modality(role)
    if isinstance(front_end, FrontEnd):
        return BranchSpec(settings.encoder, settings.hidden, components=front_end.width)
    return BranchSpec(
        settings.encoder,
        settings.hidden,
        grid=front_end.grid,
        checkpointing=settings.checkpointing,
        decoder=settings.decoder,
    )
