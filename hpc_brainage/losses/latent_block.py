"""From the Gaussian parameters of a step's codes to everything that is made of them.

Between the encoders and the rest of the model stand many small operations on small tensors: a code is
drawn, its KL and the distances between two modalities' codes are taken, absent codes are borrowed or zero,
and all are put beside sex and presence for each subset of the modalities that the age is learned from.
On a GPU they cost what their launches cost. Here they are one operation with two forms: the reference in
plain torch, which is the definition and what a processor takes, and one kernel each way (`latent_triton`).

What `SAAVAE.encode` and `SAAVAE.join` do for one modality and one subset the reference does for all at
once, with the same results.

Shapes: M modalities (1 or 2), S subsets of them, B scans, C shared and U distinct width, D = C + U.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from hpc_brainage.losses.backends import choose
from hpc_brainage.losses.kl import kl_loss
from hpc_brainage.losses.ratio import RatioKind, ratio_loss


class Noise(Protocol):
    """Where normal numbers come from: of these scans, in this step (`model.noise.Draws`)."""

    @property
    def scan(self) -> torch.Tensor: ...
    @property
    def seed(self) -> int | torch.Tensor: ...
    @property
    def step(self) -> int: ...
    def normals(self, width: int, streams: Sequence[int]) -> torch.Tensor: ...


@dataclass(frozen=True)
class LatentForm:
    """What is asked of the block; it does not change from step to step.

    Parameters
    ----------
    shared, distinct : C and U.
    streams : of the noise of each modality's code.
    joint_stream : of the prior's own draw in a product of experts.
    draw_shared, draw_distinct : whether a part is drawn with its own spread, or its mean is taken.
    kl_shared, kl_distinct, free_bits : what the KL covers, and its free bits (`losses.kl`).
    ratio : form of the distance ratio (`losses.ratio`), None for none.
    ratio_on : distances between means or between draws.
    missing : what stands for an absent shared code (`ModelConfig.missing`).
    subsets : which modalities the age is learned from, each time one flag for each modality.
    """

    shared: int
    distinct: int
    streams: tuple[int, ...]
    joint_stream: int
    draw_shared: bool = True
    draw_distinct: bool = True
    kl_shared: bool = False
    kl_distinct: bool = True
    free_bits: float = 0.0
    ratio: RatioKind | None = "sq"
    ratio_on: Literal["mu", "z"] = "mu"
    missing: Literal["borrow", "poe"] = "borrow"
    subsets: tuple[tuple[bool, ...], ...] = ((True, True),)


@dataclass(frozen=True)
class Latent:
    """What the block gives.

    Attributes
    ----------
    z : (M, B, D) a draw of each modality's code, zero where it is absent.
    joined : (S, B, R) of each subset [c | u] of each modality, the two columns of sex if it was given, and
        which modalities there are; R = M (D + 1), and 2 more with the sex.
    kl, ratio : the terms; zero where they are not asked for.
    """

    z: torch.Tensor
    joined: torch.Tensor
    kl: torch.Tensor
    ratio: torch.Tensor


def latent_block(
    mu: Sequence[torch.Tensor],
    log_variance: Sequence[torch.Tensor],
    present: Sequence[torch.Tensor],
    sex: torch.Tensor | None,
    noise: Noise,
    counts: Sequence[int | torch.Tensor],
    form: LatentForm,
) -> Latent:
    """Draw the codes, take their terms, and join them for each subset.

    Parameters
    ----------
    mu, log_variance : of each modality, (B, D); rows of absent scans may hold anything, and get the
        gradient zero.
    present : of each modality, bool (B,).
    sex : (B,) 0 for F, 1 for M and -1 for unknown, to have its columns in `joined`; or None.
    counts : scans of each modality in the whole step; after them, scans that have both, if there are two.

    Raises
    ------
    ValueError : shapes, types, devices or numbers of modalities do not fit.
    """
    _check(mu, log_variance, present, counts, form)
    if choose(mu[0], 0) != "triton":
        return latent_reference(mu, log_variance, present, sex, noise, counts, form)
    from hpc_brainage.losses.latent_triton import latent_fused

    return Latent(*latent_fused(mu, log_variance, present, sex, noise, counts, form))


def latent_reference(
    mu: Sequence[torch.Tensor],
    log_variance: Sequence[torch.Tensor],
    present: Sequence[torch.Tensor],
    sex: torch.Tensor | None,
    noise: Noise,
    counts: Sequence[int | torch.Tensor],
    form: LatentForm,
) -> Latent:
    """`latent_block` in plain torch, modalities and subsets stacked: fewer and larger operations."""
    here = torch.stack(list(present))
    there, means, logs = here[:, :, None], torch.stack(list(mu)), torch.stack(list(log_variance))
    means = torch.where(there, means, torch.zeros_like(means))
    logs = torch.where(there, logs, torch.zeros_like(logs))
    z = means
    if form.draw_shared or form.draw_distinct:
        spread = torch.exp(0.5 * logs) * noise.normals(form.shared + form.distinct, form.streams).to(logs)
        column = torch.arange(form.shared + form.distinct, device=z.device)
        drawn = there
        if not (form.draw_shared and form.draw_distinct):
            drawn = there & ((column < form.shared) == form.draw_shared)
        z = means + torch.where(drawn, spread, torch.zeros_like(spread))
    kl = ratio = means.new_zeros(())
    if form.kl_shared or form.kl_distinct:
        part = slice(0 if form.kl_shared else form.shared, None if form.kl_distinct else form.shared)
        for place in range(len(mu)):
            own = (means[place, :, part], logs[place, :, part], here[place])
            kl = kl + kl_loss(*own, counts[place], form.free_bits)
    if form.ratio and len(mu) == 2:
        shared, distinct = (z if form.ratio_on == "z" else means).tensor_split([form.shared], dim=2)
        pair = here[0] & here[1]
        ratio = ratio_loss((shared[0], shared[1]), (distinct[0], distinct[1]), pair, counts[-1], form.ratio)
    return Latent(z, _joined(z, logs, here, sex, noise, form), kl, ratio)


def _joined(
    z: torch.Tensor,
    logs: torch.Tensor,
    here: torch.Tensor,
    sex: torch.Tensor | None,
    noise: Noise,
    form: LatentForm,
) -> torch.Tensor:
    """`Latent.joined`; `z` and `logs` (M, B, D) are zero where `here` (M, B) is not."""
    members = torch.tensor(form.subsets, device=here.device)
    seen = (here & members[:, :, None])[..., None]  # (S, M, B, 1)
    shared, distinct = z.tensor_split([form.shared], dim=2)
    zero = z.new_zeros(())
    if form.missing == "poe":
        total = zero
        if form.draw_shared:
            total = noise.normals(form.shared, (form.joint_stream,))[0].to(z)
        precision = torch.where(seen, torch.exp(-logs[:, :, : form.shared]), zero)
        product = (total + (precision * shared).sum(dim=1)) / (1 + precision.sum(dim=1))
        c = product[:, None].expand(-1, len(here), -1, -1)
    elif len(here) == 2:
        c = torch.where(seen, shared, torch.where(seen.flip(1), shared.flip(0), zero))
    else:
        c = torch.where(seen, shared, zero)
    codes = torch.cat([c, torch.where(seen, distinct, zero)], dim=3)
    parts = [codes.transpose(1, 2).flatten(2)]
    if sex is not None:
        columns = torch.stack([sex == 0, sex == 1], dim=1).to(z)
        parts.append(columns.expand(len(members), -1, -1))
    parts.append(seen[..., 0].transpose(1, 2).to(z))
    return torch.cat(parts, dim=2)


def _check(
    mu: Sequence[torch.Tensor],
    log_variance: Sequence[torch.Tensor],
    present: Sequence[torch.Tensor],
    counts: Sequence[int | torch.Tensor],
    form: LatentForm,
) -> None:
    scans, width = present[0].shape[0], form.shared + form.distinct
    for name, tensors in {"mu": mu, "log_variance": log_variance}.items():
        for tensor in tensors:
            if tensor.shape != (scans, width):
                raise ValueError(
                    f"{name} {tuple(tensor.shape)} is not a code of {width} for each of {scans} scans"
                )
    gaussians = [*mu, *log_variance]
    if any(one.dtype != gaussians[0].dtype or not one.is_floating_point() for one in gaussians):
        raise ValueError("means and log-variances are not all of one floating type")
    if any(mask.dtype != torch.bool or mask.shape != (scans,) for mask in present):
        raise ValueError("whether a modality is present is one bool for each scan")
    if any(one.device != gaussians[0].device for one in (*gaussians, *present)):
        raise ValueError("means, log-variances and presence are not all on one device")
    modalities = len(present)
    wanted = {"modalities": modalities, "counts": modalities + (modalities == 2)}
    found = {"modalities": {len(mu), len(log_variance), len(form.streams)}, "counts": {len(counts)}}
    for what, number in wanted.items():
        if found[what] != {number} or any(len(subset) != modalities for subset in form.subsets):
            raise ValueError(f"the {what} of means, log-variances, streams, counts and subsets differ")
