"""Integrated gradients of one member's ages: what each of its inputs adds, in years.

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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from hpc_brainage.model.front_end import FrontEnd
from hpc_brainage.model.member import Member

TOLERANCE = 0.01
"""Years by which a person's attributions may miss the difference that they should add up to."""
_NODES = (16, 64, 256)
"""Points of the path; more are taken for those people only whose sum is not within the tolerance."""


@dataclass(frozen=True)
class Attributed:
    """What each input of some scans adds to their predicted ages, numpy, years.

    Attributes
    ----------
    years : by role, (scans, features of the member), or of a volume (scans, *grid); 0 where the scan lacks
        the modality, or the feature was imputed.
    z : by role, clipped distance of each feature from the training mean, SD; none for a volume.
    age, baseline : predicted age of the scan and of its baseline (scans,); NaN without a usable modality.
    missed : by how much the sum of attributions misses age - baseline.
    """

    years: dict[str, np.ndarray]
    z: dict[str, np.ndarray]
    age: np.ndarray
    baseline: np.ndarray
    missed: np.ndarray


def attribute_member(
    member: Member,
    x: Mapping[str, torch.Tensor],
    present: Mapping[str, torch.Tensor],
    sex: torch.Tensor,
    middle: Mapping[str, torch.Tensor] | None = None,
) -> Attributed:
    """Integrated gradients of the ages that one member says; the caller has put it into `eval()`.

    Parameters
    ----------
    x, present, sex : scans as `Member.predict` takes them.
    middle : by role, of each volume, the baseline as the network takes it, (1, *grid).
    """
    inputs, here, _ = member.prepare(x, present)
    middle = middle or {}
    z = {r: _z(member.front_ends[r], x[r], here[r]) for r in inputs if r not in middle}
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
        age = _ages(member, end, here, sex)
        baseline = _ages(member, start, here, sex)
    gradient = {role: torch.zeros_like(x) for role, x in start.items()}
    missed = torch.full_like(age, torch.inf)
    known = torch.stack(list(here.values())).any(dim=0)
    for nodes in _NODES:
        again = torch.nonzero(known & ~(missed.abs() <= TOLERANCE))[:, 0]
        if not len(again):
            break
        part = [{role: x[again] for role, x in each.items()} for each in (start, change, here)]
        fresh = _mean_gradient(member, part[0], part[1], part[2], sex[again], nodes)
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
    return Attributed(
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


def _where(here: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where(here.view(-1, *([1] * (x.dim() - 1))), x, torch.zeros_like(x))
