"""Integrated gradients of the predicted age: what each feature adds to it, in years.

For a function f, an input x and a baseline b (Sundararajan, Taly and Yan 2017, "Axiomatic attribution for
deep networks"):

    a_j = (x_j - b_j) ∫₀¹ ∂f/∂x_j ( b + α (x - b) ) dα          Σ_j a_j = f(x) - f(b)

f is the predicted age in years. The baseline of a person is somebody of the same sex, with the same
modalities, whose every feature is at the mean of the member's training people. So sex, and having a
modality or not, get no credit.

A front end is linear from the standardised and clipped features onwards. The path is straight there, so
the integral is only needed over the network's components, and is carried back to the features by the
front end's own loadings. A feature that was imputed stays at the imputed value in the baseline, too: it
gets no credit. A volume's path is straight between voxels and those of the mean training volume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hpc_brainage.evaluation.splits import check_folds
from hpc_brainage.model.front_end import FrontEnd
from hpc_brainage.model.member import Member
from hpc_brainage.training.data import FeatureInput, TrainingData, VolumeInput
from hpc_brainage.training.prediction import Piece, pieces

TOLERANCE = 0.01
"""Years by which a person's attributions may miss the difference that they should add up to."""
_NODES = (16, 64, 256)
"""Points of the path; more are taken for those people only whose sum is not within the tolerance."""
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
            parts = [_attribute(*one) for one in zip(own, same, middles, strict=True)]
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


@dataclass(frozen=True)
class _Found:
    """A piece's attributions, numpy; `years` and `z` by role in the member's own features."""

    years: dict[str, np.ndarray]
    z: dict[str, np.ndarray]
    age: np.ndarray
    baseline: np.ndarray
    missed: np.ndarray


def _attribute(member: Member, piece: Piece, middle: Mapping[str, torch.Tensor]) -> _Found:
    inputs, here, _ = member.prepare(piece.x, piece.present)
    z = {r: _z(member.front_ends[r], piece.x[r], here[r]) for r in inputs if r not in middle}
    start = {
        role: middle[role].expand_as(x)
        if role in middle
        else x - _projected(member.front_ends[role], z[role])
        for role, x in inputs.items()
    }
    # An absent modality does not move along the path, and what stands in its row is not looked at.
    change = {role: _where(here[role], x - start[role]) for role, x in inputs.items()}
    end = {role: start[role] + change[role] for role in start}
    with torch.no_grad():
        age = _ages(member, end, here, piece.sex)
        baseline = _ages(member, start, here, piece.sex)
    gradient = {role: torch.zeros_like(x) for role, x in start.items()}
    missed = torch.full_like(age, torch.inf)
    known = torch.stack(list(here.values())).any(dim=0)
    for nodes in _NODES:
        again = torch.nonzero(known & ~(missed.abs() <= TOLERANCE))[:, 0]
        if not len(again):
            break
        part = [{role: x[again] for role, x in each.items()} for each in (start, change, here)]
        fresh = _mean_gradient(member, part[0], part[1], part[2], piece.sex[again], nodes)
        total = sum((fresh[r] * part[1][r]).double().flatten(1).sum(dim=1) for r in fresh)
        missed[again] = total - (age - baseline)[again]
        for role in gradient:
            gradient[role][again] = fresh[role]
    years = {}
    for role in inputs:
        front_end = member.front_ends[role]
        if isinstance(front_end, FrontEnd):
            loading = gradient[role] @ front_end.basis_FP.T if front_end.components else gradient[role]
            years[role] = (z[role] * loading / front_end.scale).cpu().numpy()
        else:
            years[role] = (gradient[role] * change[role]).cpu().numpy()
    nobody = torch.full_like(age, torch.nan)
    age, baseline, missed = (torch.where(known, value, nobody) for value in (age, baseline, missed))
    return _Found(
        years,
        {role: value.cpu().numpy() for role, value in z.items()},
        age.cpu().numpy(),
        baseline.cpu().numpy(),
        missed.cpu().numpy(),
    )


def _mean_gradient(
    member: Member,
    start: Mapping[str, torch.Tensor],
    change: Mapping[str, torch.Tensor],
    here: Mapping[str, torch.Tensor],
    sex: torch.Tensor,
    nodes: int,
) -> dict[str, torch.Tensor]:
    """The gradient of the age in years, averaged over the path by Gauss and Legendre's rule."""
    mean = {role: torch.zeros_like(x) for role, x in start.items()}
    places, weights = np.polynomial.legendre.leggauss(nodes)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        at = {role: (start[role] + float(place) * change[role]).requires_grad_() for role in start}
        total = _ages(member, at, here, sex).sum()
        for role, slope in zip(at, torch.autograd.grad(total, list(at.values())), strict=True):
            mean[role] += float(weight) * slope
    return mean


def _ages(
    member: Member, inputs: Mapping[str, torch.Tensor], here: Mapping[str, torch.Tensor], sex: torch.Tensor
) -> torch.Tensor:
    """Ages in years from network inputs, float64 (scans,); for an unknown sex the mean over both."""
    codes = member.network.encode(inputs, here)

    def years(as_sex: torch.Tensor) -> torch.Tensor:
        return member.age_scale.to_years(member.regress(codes, inputs, here, as_sex).mean.double())

    told = years(sex)
    if not (sex < 0).any():
        return told
    both = 0.5 * (years(torch.zeros_like(sex)) + years(torch.ones_like(sex)))
    return torch.where(sex < 0, both, told)


def _z(front_end: torch.nn.Module, x: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
    """Clipped distance from the training mean, SD (scans, features); 0 where imputed or absent."""
    assert isinstance(front_end, FrontEnd)
    z = ((x - front_end.mean_F) / front_end.sd_F).clamp(-front_end.clip_sd, front_end.clip_sd)
    return torch.where(torch.isnan(x) | ~here[:, None], torch.zeros_like(z), z)


def _projected(front_end: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    """What standardised features contribute to the network's input."""
    assert isinstance(front_end, FrontEnd)
    return (z @ front_end.basis_FP if front_end.components else z) / front_end.scale


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


def _where(here: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where(here.view(-1, *([1] * (x.dim() - 1))), x, torch.zeros_like(x))
