"""What drives the ages of held-out people: attributions by the members that never saw them, averaged.

The attributions of one member are integrated gradients (`hpc_brainage.model.attribution`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hpc_brainage.evaluation.splits import check_folds
from hpc_brainage.model.attribution import attribute_member
from hpc_brainage.model.member import Member
from hpc_brainage.training.data import FeatureInput, TrainingData, VolumeInput
from hpc_brainage.training.prediction import pieces

_VOLUMES_TO_AVERAGE = 128


@dataclass(frozen=True)
class Attribution:
    """What each input adds to the predicted age of each held-out scan, in years.

    Attributes
    ----------
    names : by role, the features that any member takes, in the order of the data; none for a volume.
    years : by role, float32 (scans, features); 0 for a feature that the scan's members do not take, that
        was imputed, or whose modality is absent. Empty for a volume.
    standardised : by role, the features' distance from the training mean in SD, clipped as the member
        does, float32 (scans, features); 0 where `years` must be 0.
    maps : by role, of a volume, mean and mean absolute years of each voxel over scans, two arrays of the
        grid's shape.
    age, baseline : predicted age of the scan and of its baseline, years (scans,); NaN where no member may
        or can speak of the scan.
    missed : by how much the sum of attributions misses age - baseline, years (scans,).
    fold : in which each scan was held out.
    """

    names: dict[str, tuple[str, ...]]
    years: dict[str, np.ndarray]
    standardised: dict[str, np.ndarray]
    maps: dict[str, tuple[np.ndarray, np.ndarray]]
    age: np.ndarray
    baseline: np.ndarray
    missed: np.ndarray
    fold: np.ndarray

    @property
    def judged(self) -> np.ndarray:
        """Bool (scans,), who has an attribution."""
        return np.isfinite(self.age)


def attribute(
    members: Sequence[Member], data: TrainingData, fold: np.ndarray, ensemble: int = 1
) -> Attribution:
    """Integrated gradients for every scan, by the members that never saw the person.

    What the mean of several members says is attributed by the mean of their attributions.

    Parameters
    ----------
    members : `ensemble` for each fold, side by side; what is asked is their mean.
    fold : the fold in which each scan was held out, shape (scans,); -1 for none.
    ensemble : members of each fold.

    Raises
    ------
    UsageError : the folds do not fit the members and the data.
    """
    check_folds(members[::ensemble], data, fold)
    n = len(fold)
    names: dict[str, tuple[str, ...]] = {}
    years: dict[str, np.ndarray] = {}
    standardised: dict[str, np.ndarray] = {}
    sums: dict[str, list[np.ndarray]] = {}
    for role in members[0].roles:
        source = data.inputs[role]
        if isinstance(source, FeatureInput):
            taken = {name for member in members for name in member.features(role)}
            names[role] = tuple(name for name in source.names if name in taken)
            years[role], standardised[role] = (
                np.zeros((n, len(names[role])), dtype=np.float32) for _ in range(2)
            )
        else:
            sums[role] = [np.zeros(source.grid) for _ in range(2)]
    age, baseline, missed = (np.where(fold < 0, np.nan, 0.0) for _ in range(3))
    for index in np.unique(fold[fold >= 0]):
        rows = np.flatnonzero(fold == index)
        own = members[index * ensemble : (index + 1) * ensemble]
        middles = [_middle(member.eval(), data, np.flatnonzero(fold != index)) for member in own]
        columns = [{role: _columns(member.features(role), names[role]) for role in names} for member in own]
        # Members of a fold may take other features, so each gets the scans as it takes them.
        for same in zip(*(pieces(member, data, rows) for member in own), strict=True):
            place = same[0].rows
            parts = [
                attribute_member(member, piece.x, piece.present, piece.sex, middle)
                for member, piece, middle in zip(own, same, middles, strict=True)
            ]
            for part, column in zip(parts, columns, strict=True):
                age[place] += part.age / ensemble
                baseline[place] += part.baseline / ensemble
                missed[place] += part.missed / ensemble
                for role in names:
                    cells = np.ix_(place, column[role])
                    years[role][cells] += part.years[role] / ensemble
                    standardised[role][cells] += part.z[role] / ensemble
            for role, (signed, absolute) in sums.items():
                together = np.mean([part.years[role] for part in parts], axis=0)
                signed += together.sum(axis=0)
                absolute += np.abs(together).sum(axis=0)
    maps = {}
    for role, (signed, absolute) in sums.items():
        people = max(int((np.isfinite(age) & data.inputs[role].present).sum()), 1)
        maps[role] = (signed / people, absolute / people)
    return Attribution(names, years, standardised, maps, age, baseline, missed, fold.copy())


def _middle(member: Member, data: TrainingData, train: np.ndarray) -> dict[str, torch.Tensor]:
    """By role, of volumes, the mean volume of (up to 128) training people as the network takes it."""
    found = {}
    for role in member.roles:
        source = data.inputs[role]
        if isinstance(source, VolumeInput):
            own = train[source.present[train]]
            chosen = own[
                np.unique(np.linspace(0, len(own) - 1, min(len(own), _VOLUMES_TO_AVERAGE)).astype(int))
            ]
            total = torch.zeros(source.grid, dtype=torch.float64)
            for row in chosen:
                total += source.read(np.array([row]))[0].double()
            mean = (total / len(chosen)).float().to(next(member.parameters()).device)
            found[role] = member.front_ends[role](mean[None])
    return found


def _columns(own: Sequence[str], names: Sequence[str]) -> np.ndarray:
    place = {name: index for index, name in enumerate(names)}
    return np.array([place[name] for name in own], dtype=np.int64)
