"""The shared-distinct distance ratio.

Two modalities of one person should agree in their shared codes and differ in their distinct codes. With
p² = |c_s - c_f|² and q² = |u_s - u_f|², each divided by its code's width where the widths differ, the
term is small when p is small against q. The papers name the idea; the exact form could not be read, so
five are offered (`docs/method.md`).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from hpc_brainage.losses.means import masked_mean

RatioKind = Literal["l2", "sq", "batch_sq", "log", "bounded"]
RATIO_KINDS: tuple[str, ...] = get_args(RatioKind)
EPSILON = 1e-6
"""Added to squares, inside a root: the gradient stays finite where two codes coincide."""


def ratio_loss(
    shared: tuple[torch.Tensor, torch.Tensor],
    distinct: tuple[torch.Tensor, torch.Tensor],
    mask_B: torch.Tensor,
    count: int | torch.Tensor,
    kind: RatioKind = "sq",
) -> torch.Tensor:
    """Mean over the people who have both modalities of

    `l2` √(p²+ε)/√(q²+ε) · `sq` p²/(q²+ε) · `log` ½[log(p²+ε) - log(q²+ε)] ·
    `bounded` p²/(p²+q²+ε) · `batch_sq` Σp²/(Σq²+ε).

    `batch_sq` is a ratio of sums over the batch that is given. A process that has a part of the step knows
    its own sums only, and no count known beforehand makes a ratio of sums out of its parts; so it is a
    form for one process, which the objective sees to.

    Parameters
    ----------
    shared, distinct : the two modalities' codes, each (B, C) and (B, U).
    mask_B : people who have both modalities.
    count : how many such people the step has on all processes together.
    """
    p2 = _squared_distance(*shared, mask_B)
    q2 = _squared_distance(*distinct, mask_B)
    c_width, u_width = shared[0].shape[1], distinct[0].shape[1]
    if c_width != u_width:
        p2, q2 = p2 / c_width, q2 / u_width
    if kind == "batch_sq":
        return p2.sum() / (q2.sum() + EPSILON)
    if kind == "l2":
        value = torch.sqrt(p2 + EPSILON) / torch.sqrt(q2 + EPSILON)
    elif kind == "sq":
        value = p2 / (q2 + EPSILON)
    elif kind == "log":
        value = 0.5 * (torch.log(p2 + EPSILON) - torch.log(q2 + EPSILON))
    else:
        value = p2 / (p2 + q2 + EPSILON)
    return masked_mean(value, mask_B, count)


def _squared_distance(a_BD: torch.Tensor, b_BD: torch.Tensor, mask_B: torch.Tensor) -> torch.Tensor:
    difference = torch.where(mask_B[:, None], a_BD - b_BD, torch.zeros_like(a_BD))
    return difference.square().sum(dim=1)
