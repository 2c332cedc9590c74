"""Mixup (Zhang et al. 2018): in every step each scan takes a share of another one, and of its age.

Few people leave much room between them. A network that has to be right on the lines between people, too,
bends less there. Only people of the same sex who have the same modalities are mixed, so that no code of the
sex and no presence has to stand for half a person.

Who is mixed with whom follows from the scans of the step and their draws. Their order in the batch and the
number of processes that share the step change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hpc_brainage.model.noise import Draws, Stream


def mixing(
    present: Mapping[str, torch.Tensor], sex_B: torch.Tensor, draws: Draws, largest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Who each scan of a whole step is mixed with, and how much it takes of that one.

    Scans that are alike stand in a row, in an order drawn for the step, and each takes from the next. The
    last of a row takes nothing.

    Parameters
    ----------
    present : by role, bool (B,).
    sex_B : 0 for F, 1 for M, -1 for unknown.
    draws : of these scans in this step.
    largest : the largest share, up to 0.5; shares are uniform between 0 and this.

    Returns
    -------
    Places in the step, int64 (B,), and shares, float32 (B,).
    """
    u = draws.uniform(2, Stream.MIXING)
    kind_B = sex_B.to(torch.int64) + 1
    for number, here in enumerate(present.values()):
        kind_B = kind_B + 3 * (here.to(torch.int64) << number)
    order_B = torch.argsort(kind_B + u[:, 0])
    ordered_B = kind_B[order_B]
    alike = torch.cat([ordered_B[1:] == ordered_B[:-1], torch.zeros_like(ordered_B[:1], dtype=torch.bool)])
    next_B = torch.where(alike, torch.roll(order_B, -1), order_B)
    partner_B = torch.empty_like(order_B).scatter(0, order_B, next_B)
    return partner_B, (largest * u[:, 1]).float()


def mixed(own: torch.Tensor, partners: torch.Tensor, share_B: torch.Tensor) -> torch.Tensor:
    """Scans or ages (B, ...) with a share of their partners', given in the same order."""
    share = share_B.view(-1, *([1] * (own.dim() - 1))).to(own.dtype)
    return own + share * (partners - own)
