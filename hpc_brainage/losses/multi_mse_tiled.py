"""The one pass over several reconstructions in plain torch, tile by tile.

A tile is small enough to stay in a core's cache: it is read from memory once, and its difference, its
errors and its gradient are made there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

TILE = 1 << 17
"""Elements of a tile: half a megabyte, shared by the threads."""

TILE_ON_A_GPU = 1 << 23


def one_pass(
    recons: Sequence[torch.Tensor],
    target: torch.Tensor,
    weights: torch.Tensor,
    squared: bool,
    gradients: Sequence[torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the errors (K, B); gradients are written where there is room for them.

    As `multi_mse_compiled.one_pass`, for any device and floating type. Differences are taken in float32,
    or in float64 if the reconstructions are.
    """
    exact = weights.dtype
    slope = weights * 2 if squared else weights
    absent = (weights == 0).unsqueeze(2)
    somebody_absent = absent.flatten(1).any(dim=1).tolist()
    scans, columns = target.shape
    errors = torch.zeros((len(recons), scans), dtype=torch.float64, device=target.device)
    for rows, part in _tiles(scans, columns, TILE_ON_A_GPU if target.is_cuda else TILE):
        goal = target[rows, part]
        for k, recon in enumerate(recons):
            written = gradients[k][rows, part] if gradients is not None else None
            if written is not None and written.dtype == exact == recon.dtype == goal.dtype:
                difference = torch.sub(recon[rows, part], goal, out=written)
            else:
                difference = recon[rows, part].to(exact).sub(goal)
            if somebody_absent[k]:
                difference.masked_fill_(absent[k, rows], 0)
            if squared:
                errors[k, rows] += torch.linalg.vector_norm(difference, dim=1).double().square()
            else:
                errors[k, rows] += difference.abs().sum(dim=1)
                difference.sign_()
            if written is None:
                continue
            difference.mul_(slope[k, rows, None])
            if difference is not written:
                written.copy_(difference)
    return (weights * errors).sum().to(exact), errors.to(exact)


def _tiles(scans: int, columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each tile: whole rows where several fit, else pieces of one."""
    together = max(1, size // max(columns, 1))
    for first in range(0, scans, together):
        for left in range(0, columns, size):
            yield slice(first, first + together), slice(left, left + size)
