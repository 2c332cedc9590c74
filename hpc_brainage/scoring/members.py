"""What a bundle's members say together of some scans; the same for people held out and for people scored.

A scan whose person the bundle knows is shown to the members of one fold only, those that never saw the
person; any other scan to all members. The first member of each fold takes a closer look: how sure the code
is, how far from the training people's, and how well the scan is rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from hpc_brainage.modality import ROLES
from hpc_brainage.model.bundle import Bundle
from hpc_brainage.model.member import Prediction
from hpc_brainage.scoring.answers import Answers


def ask_members(
    bundle: Bundle,
    x: Mapping[str, torch.Tensor],
    present: Mapping[str, torch.Tensor],
    sex: torch.Tensor,
    held_out_in: np.ndarray,
) -> Answers:
    """Everything that the members say of B scans.

    Parameters
    ----------
    x : by role, the bundle's features in their own units with NaN where missing, or volumes.
    present : by role, bool (B,).
    sex : (B,) 0 for F, 1 for M, -1 for unknown.
    held_out_in : (B,) the fold in which the person was held out, -1 for somebody unknown.
    """
    sums = _Sums(len(held_out_in))
    each_fold = bundle.info.config.training.ensemble
    for index, (member, fold) in enumerate(zip(bundle.members, bundle.folds, strict=True)):
        mine = np.flatnonzero((held_out_in < 0) | (held_out_in == fold))
        if not len(mine):
            continue
        inputs, here, as_sex = bundle.inputs_of(index, x), dict(present), sex
        if len(mine) < len(held_out_in):
            taken = torch.from_numpy(mine).to(sex.device)
            inputs = {role: value[taken] for role, value in inputs.items()}
            here, as_sex = {role: mask[taken] for role, mask in present.items()}, sex[taken]
        looks = index % each_fold == 0
        said = member.predict(inputs, here, as_sex, closely=looks)
        sums.add(mine, said)
        if looks and said.look is not None and bundle.training_range is not None:
            for role in bundle.training_range.code_mean:
                away = bundle.training_range.distance(role, fold, said.look.codes[role])
                sums.add_mean(f"_distance_{role}", mine, torch.where(said.used[role], away, torch.nan))
    return sums.answers({role: _beyond(bundle, role, x, held_out_in) for role in ROLES})


class _Sums:
    """Sums over members, of which each adds to the scans that it was asked about."""

    def __init__(self, scans: int) -> None:
        self.scans = scans
        self.sums: dict[str, np.ndarray] = {}
        self.times: dict[str, np.ndarray] = {}
        self.usable = np.ones(scans, dtype=bool)
        self.imputed = {role: np.zeros(scans, dtype=np.int64) for role in ROLES}
        self.has = {role: np.zeros(scans, dtype=bool) for role in ROLES}

    def add_mean(self, name: str, rows: np.ndarray, values: torch.Tensor) -> None:
        if name not in self.sums:
            self.sums[name] = np.zeros(self.scans)
            self.times[name] = np.zeros(self.scans, dtype=np.int64)
        self.sums[name][rows] += values.double().cpu().numpy()
        self.times[name][rows] += 1

    def add(self, rows: np.ndarray, said: Prediction) -> None:
        self.add_mean("brain_age", rows, said.age)
        self.add_mean("_square", rows, said.age.square())
        self.add_mean("brain_age_other_sex", rows, said.age_other_sex)
        self.add_mean("_variance", rows, said.sd.square())
        for role, age in said.age_by_role.items():
            self.add_mean(f"brain_age_{role}_only", rows, age)
            self.add_mean(f"_variance_{role}", rows, said.sd_by_role[role].square())
            self.imputed[role][rows] = np.maximum(
                self.imputed[role][rows], said.imputed[role].cpu().numpy()
            )
            self.has[role][rows] |= said.used[role].cpu().numpy()
        self.usable[rows] &= _any(said.used.values()).cpu().numpy()
        if said.look is not None:
            self.add_mean("_variance_of_code", rows, said.look.sd_of_code.square())
            for role, error in said.look.log_errors.items():
                self.add_mean(f"_log_error_{role}", rows, error)

    def mean(self, name: str) -> np.ndarray:
        """The mean over the members asked; NaN where there are none, or where one has none."""
        if name not in self.sums:
            return np.full(self.scans, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums[name] / self.times[name]

    def answers(self, beyond: Mapping[str, np.ndarray]) -> Answers:
        """What the sums come to; `beyond` counts, by role, features beyond the training people's."""
        age = self.mean("brain_age")
        known = np.isfinite(age)
        used = self.times.get("brain_age", np.zeros(self.scans, dtype=np.int64))
        distance = {role: self.mean(f"_distance_{role}") for role in ROLES}
        with np.errstate(invalid="ignore"):
            between = np.maximum(self.mean("_square") - age**2, 0) * used / np.maximum(used - 1, 1)
            within = np.nan_to_num(self.mean("_variance_of_code"))
            return Answers(
                brain_age=age,
                brain_age_other_sex=self.mean("brain_age_other_sex"),
                brain_age_alone={role: self.mean(f"brain_age_{role}_only") for role in ROLES},
                sd_aleatoric=np.sqrt(self.mean("_variance")),
                sd_alone={role: np.sqrt(self.mean(f"_variance_{role}")) for role in ROLES},
                sd_epistemic=np.where(used > 1, np.sqrt(between + within), np.nan),
                mahalanobis=_over_modalities(distance),
                distance=distance,
                log_error={role: self.mean(f"_log_error_{role}") for role in ROLES},
                out_of_range={
                    role: np.where(known & self.has[role], beyond[role], np.nan) for role in ROLES
                },
                imputed=self.imputed,
                has=self.has,
                members_used=np.where(known, used, 0),
                usable=self.usable,
            )


def _over_modalities(distance: Mapping[str, np.ndarray]) -> np.ndarray:
    """Root mean square over the modalities that each scan has; NaN where it has none."""
    each = np.stack(list(distance.values()))
    there = np.isfinite(each)
    with np.errstate(invalid="ignore", divide="ignore"):
        overall: np.ndarray = np.sqrt(np.where(there, each**2, 0).sum(axis=0) / there.sum(axis=0))
    return overall


def _beyond(
    bundle: Bundle, role: str, x: Mapping[str, torch.Tensor], held_out_in: np.ndarray
) -> np.ndarray:
    """Features beyond what training people showed; of a known person, beyond what others showed."""
    counts = np.full(len(held_out_in), np.nan)
    if bundle.training_range is None or role not in bundle.training_range.lowest:
        return counts
    for fold in np.unique(held_out_in):
        rows = np.flatnonzero(held_out_in == fold)
        own = x[role]
        if len(rows) < len(held_out_in):
            own = own[torch.from_numpy(rows).to(own.device)]
        beyond = bundle.training_range.beyond(role, None if fold < 0 else int(fold), own)
        counts[rows] = beyond.cpu().numpy()
    return counts


def _any(masks: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(masks)).any(dim=0)
