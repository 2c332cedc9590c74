"""The front end: from the features a cohort has to the components a network sees.

A feature table comes with missing values, with measures on scales from 1e-3 to 1e6, and with many more
columns than people. The front end selects, imputes, standardises, clips and projects. It is fitted on
the training people of one fold and nobody else, and it is part of the model: its arrays are saved with
the weights, and a feature is found by its name.

The projection is a principal component analysis without whitening: a leading component keeps its larger
variance, and all components are divided by one number, the standard deviation of the first over the
training people, so that none is larger than a standardised feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from hpc_brainage.errors import ModelError

_CONSTANT = 1e-12
_AT_ONCE = 1 << 17
"""Numbers that stay in a processor's cache from one step to the next."""


class FrontEnd(nn.Module):
    """Select, impute, standardise, clip and project features.

    Buffers (F features used, P components): `median_F`, `mean_F`, `sd_F`, `basis_FP` (orthonormal columns;
    no columns if the features are used as they are) and `scale`.
    """

    median_F: torch.Tensor
    mean_F: torch.Tensor
    sd_F: torch.Tensor
    basis_FP: torch.Tensor
    center_F: torch.Tensor
    scale: torch.Tensor

    def __init__(self, features: Sequence[str], components: int, clip_sd: float) -> None:
        """An unfitted front end over `features` (names, in the order in which columns will come)."""
        super().__init__()
        self.features = tuple(features)
        self.components = components
        self.clip_sd = clip_sd
        width = len(self.features)
        for name in ("median_F", "mean_F", "sd_F", "center_F"):
            self.register_buffer(name, torch.zeros(width))
        self.register_buffer("basis_FP", torch.zeros(width, components))
        self.register_buffer("scale", torch.ones(()))

    @property
    def width(self) -> int:
        """How many numbers come out for a scan."""
        return self.components or len(self.features)

    @torch.no_grad()
    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        """Components of shape (scans, width); NaN features take the training median."""
        return self.and_missing(x_BF)[0]

    @torch.no_grad()
    def and_missing(self, x_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Components (scans, width), and how many features each scan lacks, int64 (scans,).

        On a processor a few scans at a time are brought through all steps before the projection, while they
        are in its cache: over all at once every step would wait for the memory.
        """
        on_cpu = x_BF.device.type == "cpu"
        length = max(1, _AT_ONCE // x_BF.shape[1]) if on_cpu else max(1, len(x_BF))
        centred_BF = torch.empty_like(x_BF)
        missing_B = torch.zeros(len(x_BF), dtype=torch.int64, device=x_BF.device)
        for own, centred, missing in zip(
            x_BF.split(length), centred_BF.split(length), missing_B.split(length), strict=True
        ):
            if bool(torch.isnan(own.sum())):  # a sum is quick, and is NaN if anything is
                gaps = torch.isnan(own)
                missing.copy_(
                    gaps.view(torch.uint8).sum(dim=1, dtype=torch.int32)
                )  # of bool: twice as long
                torch.where(gaps, self.median_F, own, out=centred)
                centred.sub_(self.mean_F)
            else:
                torch.sub(own, self.mean_F, out=centred)
            centred.div_(self.sd_F).clamp_(-self.clip_sd, self.clip_sd).sub_(self.center_F)
        components = centred_BF @ self.basis_FP if self.components else centred_BF
        return components.div_(self.scale), missing_B


def fit_front_end(
    x_NF: np.ndarray,
    features: Sequence[str],
    *,
    components: int,
    clip_sd: float,
    max_missing: float,
) -> FrontEnd:
    """Fit a front end on the people of one training fold.

    Parameters
    ----------
    x_NF : float array of shape (people, features); NaN where a feature is missing.
    features : names of the columns.
    components : principal components to keep, at most people - 1 and features; 0 keeps the features.
    clip_sd : standard deviations at which standardised features are clipped.
    max_missing : features missing in a larger share of these people are left out, and so are constants.

    Raises
    ------
    ModelError : no feature is left, or fewer than two people.
    """
    x = np.asarray(x_NF, dtype=np.float64)
    if len(x) < 2:
        raise ModelError("too few people to fit a front end", expected="at least two training people")
    with np.errstate(invalid="ignore"):
        missing = np.isnan(x).mean(axis=0)
    usable = missing <= max_missing
    x = x[:, usable]
    if x.shape[1]:
        median = np.nanmedian(x, axis=0)
        x = np.where(np.isnan(x), median, x)
        mean, sd = x.mean(axis=0), x.std(axis=0)
        varies = sd > _CONSTANT * np.maximum(1.0, np.abs(mean))
        x, median, mean, sd = x[:, varies], median[varies], mean[varies], sd[varies]
    if not x.shape[1]:
        raise ModelError(
            "no usable feature is left",
            expected=f"features that vary and are present in {1 - max_missing:.0%} of the training people",
            hint="look at the store with `brainage inspect`",
        )
    used = [features[i] for i in np.flatnonzero(usable)[varies]]
    standard = np.clip((x - mean) / sd, -clip_sd, clip_sd)
    center = standard.mean(axis=0)
    centred = standard - center

    kept = min(components, len(x) - 1, x.shape[1])
    if kept:
        basis, variance = _principal_components(centred, kept)
        kept = basis.shape[1]
    front_end = FrontEnd(used, kept, clip_sd)
    if kept:
        front_end.basis_FP.copy_(torch.from_numpy(basis))
        front_end.scale.fill_(float(np.sqrt(variance[0])))
    front_end.median_F.copy_(torch.from_numpy(median))
    front_end.mean_F.copy_(torch.from_numpy(mean))
    front_end.sd_F.copy_(torch.from_numpy(sd))
    front_end.center_F.copy_(torch.from_numpy(center))
    return front_end


def _principal_components(centred_NF: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvectors (F, kept) and their variances, from the smaller of the two Gram matrices.

    Directions without variance (people who share their data) are left out, so fewer may come back. A
    component's sign is arbitrary; the largest loading is made positive, so that a fit can be repeated.
    """
    people, width = centred_NF.shape
    gram = centred_NF.T @ centred_NF if width <= people else centred_NF @ centred_NF.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:kept], vectors[:, ::-1][:, :kept]
    real = values > np.finfo(float).eps * max(people, width) * max(values[0], 0)
    values, basis = values[real], vectors[:, real]
    if width > people:
        basis = centred_NF.T @ basis / np.sqrt(values)
    largest = np.abs(basis).argmax(axis=0)
    basis = basis * np.sign(basis[largest, np.arange(basis.shape[1])])
    return basis, values / people
