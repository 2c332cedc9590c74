"""Inputs and forms of the latent block, for the tests of its reference and of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hpc_brainage.losses.latent_block import Latent, LatentForm
from hpc_brainage.model.noise import Draws

FORMS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "product of experts": {"missing": "poe", "shared": 4},
    "one modality": {"modalities": 1},
    "one modality, product": {"modalities": 1, "missing": "poe"},
    "width one": {"shared": 1, "distinct": 1},
    "wide": {"shared": 21, "distinct": 20},
    "roots": {"ratio": "l2", "ratio_on": "z"},
    "logarithms": {"ratio": "log"},
    "bounded, free bits": {"ratio": "bounded", "kl_shared": True, "free_bits": 0.4},
    "of sums": {"ratio": "batch_sq", "shared": 4, "distinct": 4, "ratio_on": "z"},
    "shared at its mean": {"draw_shared": False},
    "distinct at its mean": {"draw_distinct": False, "ratio_on": "z", "missing": "poe"},
    "no terms": {"draw_shared": False, "draw_distinct": False, "ratio": None, "kl_distinct": False},
    "no sex, one subset": {"sex": False, "subsets": ((True, True),)},
}


@dataclass(frozen=True)
class Case:
    """Arguments of `latent_block`."""

    mu: list[torch.Tensor]
    log_variance: list[torch.Tensor]
    present: list[torch.Tensor]
    sex: torch.Tensor | None
    noise: Draws
    counts: list[int]
    form: LatentForm

    def to(self, dtype: torch.dtype) -> Case:
        def leaves(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            return [one.detach().to(dtype).requires_grad_() for one in tensors]

        return replace(self, mu=leaves(self.mu), log_variance=leaves(self.log_variance))

    def among(self, rows: torch.Tensor) -> Case:
        """The same scans in another order, or some of them; counts stay those of the whole step."""
        return replace(
            self,
            mu=[one.detach()[rows].requires_grad_() for one in self.mu],
            log_variance=[one.detach()[rows].requires_grad_() for one in self.log_variance],
            present=[one[rows] for one in self.present],
            sex=None if self.sex is None else self.sex[rows],
            noise=replace(self.noise, scan=self.noise.scan[rows]),
        )


def case(scans: int = 7, modalities: int = 2, sex: bool = True, here: str = "some", **form: Any) -> Case:
    """Scans drawn at random, with identifiers beyond 2**32; `here` says who has what."""
    draw = torch.Generator().manual_seed(scans)
    form = {"shared": 3, "distinct": 2} | form
    width = form["shared"] + form["distinct"]
    gaussians = torch.randn(2, modalities, scans, width, generator=draw, dtype=torch.float64)
    some = torch.rand(modalities, scans, generator=draw) > 0.3
    present = {"some": some, "nobody": some & False, "all": some | True}
    if here == "one":
        present["one"] = torch.zeros_like(some)
        present["one"][:, scans // 2] = True
    masks = list(present[here])
    counts = [int(mask.sum()) for mask in masks]
    subsets: tuple[tuple[bool, ...], ...] = ((True,),)
    if modalities == 2:
        counts.append(int((masks[0] & masks[1]).sum()))
        subsets = ((True, True), (True, False), (False, True))
    settings = {"streams": tuple(range(modalities)), "joint_stream": 8, "subsets": subsets} | form
    scan = torch.randint(0, 2**45, (scans,), generator=draw)
    return Case(
        list(gaussians[0]),
        list(gaussians[1]),
        masks,
        torch.randint(-1, 2, (scans,), generator=draw) if sex else None,
        Draws(scan, 2**40 + 77, 12_345),
        counts,
        LatentForm(**settings),
    ).to(torch.float64)


def outputs(block: Callable[..., Any], given: Case) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """What a form of the block gives, and the gradients of a weighted sum of all of it."""
    found = block(
        given.mu, given.log_variance, given.present, given.sex, given.noise, given.counts, given.form
    )
    made = found if isinstance(found, Latent) else Latent(*found)
    named = {"z": made.z, "joined": made.joined, "kl": made.kl, "ratio": made.ratio}
    draw = torch.Generator().manual_seed(5)
    loss = 1.7 * made.kl + 0.3 * made.ratio
    for one in (made.z, made.joined):
        weights = torch.randn(one.shape, generator=draw, dtype=torch.float64).to(one)
        loss = loss + (one * weights).sum(dtype=loss.dtype)
    leaves = [*given.mu, *given.log_variance]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return (
        {name: one.detach() for name, one in named.items()},
        [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves, strict=True)],
    )
