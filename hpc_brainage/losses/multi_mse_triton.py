"""The one pass over several reconstructions as a Triton kernel, for a GPU.

A program takes one scan and one tile of its columns: the target's tile is read once, then each
reconstruction's, and each gradient is written. Sums over tiles go through an array of partial sums that is
added up in a fixed order, so the same bits come out every time. All offsets of rows have 64 bits: 600 scans
of 3.7 million features are more elements than 32 bits can count.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # torch without CUDA comes without it
    triton = None

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter, which takes tensors of a CPU; fixed at the import."""

COLUMNS = 4096
"""Columns of a tile."""

AT_ONCE = 4
"""Reconstructions that a kernel takes; more go through it in groups, each of which reads the target."""

_WARPS = 8


def lacks() -> str:
    """What is missing for this form; "" where nothing is."""
    return "" if triton is not None else "the package triton"


def one_pass(
    recons: Sequence[torch.Tensor],
    target: torch.Tensor,
    weights: torch.Tensor,
    squared: bool,
    gradients: Sequence[torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the errors (K, B); gradients are written where there is room for them.

    As `multi_mse_compiled.one_pass`, for float32, bfloat16 and float16; all arithmetic is float32.
    """
    scans, columns = target.shape
    tiles = triton.cdiv(columns, COLUMNS)
    partial = torch.empty((len(recons), scans, tiles), dtype=torch.float32, device=target.device)
    weights = weights.contiguous()
    for first in range(0, len(recons), AT_ONCE):
        group = slice(first, first + AT_ONCE)
        read = list(recons[group])
        written = list(gradients[group]) if gradients is not None else list(read)
        count = len(read)
        read += [read[0]] * (AT_ONCE - count)
        written += [written[0]] * (AT_ONCE - count)
        with torch.cuda.device_of(target):
            _kernel[(scans * tiles,)](
                *read,
                *written,
                target,
                weights[group],
                partial[group],
                *(matrix.stride(0) for matrix in (*read, *written, target)),
                scans,
                columns,
                tiles,
                COUNT=count,
                SQUARED=squared,
                WRITES=gradients is not None,
                COLUMNS=COLUMNS,
                num_warps=_WARPS,
            )
    errors = partial.sum(dim=2, dtype=torch.float64)
    return (weights * errors).sum().to(weights.dtype), errors.to(weights.dtype)


def scale_unless_one(gradient: torch.Tensor, factor: torch.Tensor) -> None:
    """Multiply a dense gradient, not of float64, by a scalar on the GPU, without asking for its value.

    Where it is 1 nothing is read or written, and the host need not wait to know.
    """
    size = gradient.numel()
    with torch.cuda.device_of(gradient):
        _scale[(triton.cdiv(size, COLUMNS),)](gradient, factor, size, COLUMNS=COLUMNS, num_warps=_WARPS)


if triton is not None:

    @triton.jit
    def _one(  # type: ignore[no-untyped-def]
        recon, gradient, goal, weight, partial, column, inside,
        SQUARED: tl.constexpr, WRITES: tl.constexpr,
    ):  # fmt: skip
        """One reconstruction's tile; where its weight is 0 nothing is read and zeros are written."""
        value = tl.load(recon + column, mask=inside & (weight != 0), other=0.0).to(tl.float32)
        difference = tl.where(weight != 0, value - goal, 0.0)
        difference = tl.where(inside, difference, 0.0)
        if SQUARED:
            tl.store(partial, tl.sum(difference * difference, axis=0))
            slope = 2.0 * weight * difference
        else:
            tl.store(partial, tl.sum(tl.abs(difference), axis=0))
            slope = tl.where(difference > 0, weight, tl.where(difference < 0, -weight, 0.0 * difference))
        if WRITES:
            tl.store(gradient + column, slope.to(gradient.dtype.element_ty), mask=inside)

    @triton.jit
    def _kernel(  # type: ignore[no-untyped-def]
        recon0, recon1, recon2, recon3, gradient0, gradient1, gradient2, gradient3,
        target, weights, partial,
        recon0_row, recon1_row, recon2_row, recon3_row,
        gradient0_row, gradient1_row, gradient2_row, gradient3_row, target_row,
        scans, columns, tiles,
        COUNT: tl.constexpr, SQUARED: tl.constexpr, WRITES: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        task = tl.program_id(0).to(tl.int64)
        scan = task // tiles
        tile = task % tiles
        column = tile * COLUMNS + tl.arange(0, COLUMNS)
        inside = column < columns
        # Of the tile's shape, because Triton's interpreter cannot spread a truth value over a tile.
        nought = tl.zeros([COLUMNS], tl.float32)
        weight0 = tl.load(weights + scan) + nought
        needed = weight0 != 0
        if COUNT > 1:
            weight1 = tl.load(weights + scans + scan) + nought
            needed = needed | (weight1 != 0)
        if COUNT > 2:
            weight2 = tl.load(weights + 2 * scans + scan) + nought
            needed = needed | (weight2 != 0)
        if COUNT > 3:
            weight3 = tl.load(weights + 3 * scans + scan) + nought
            needed = needed | (weight3 != 0)
        goal = tl.load(target + scan * target_row + column, mask=inside & needed, other=0.0).to(tl.float32)
        place = partial + scan * tiles + tile
        of_one = (scan * 0 + scans) * tiles
        _one(recon0 + scan * recon0_row, gradient0 + scan * gradient0_row, goal, weight0,
             place, column, inside, SQUARED, WRITES)  # fmt: skip
        if COUNT > 1:
            _one(recon1 + scan * recon1_row, gradient1 + scan * gradient1_row, goal, weight1,
                 place + of_one, column, inside, SQUARED, WRITES)  # fmt: skip
        if COUNT > 2:
            _one(recon2 + scan * recon2_row, gradient2 + scan * gradient2_row, goal, weight2,
                 place + 2 * of_one, column, inside, SQUARED, WRITES)  # fmt: skip
        if COUNT > 3:
            _one(recon3 + scan * recon3_row, gradient3 + scan * gradient3_row, goal, weight3,
                 place + 3 * of_one, column, inside, SQUARED, WRITES)  # fmt: skip

    @triton.jit
    def _scale(gradient, factor, size, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
        by = tl.load(factor)
        if by != 1.0:
            place = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
            value = tl.load(gradient + place, mask=place < size).to(tl.float32)
            tl.store(gradient + place, (value * by).to(gradient.dtype.element_ty), mask=place < size)
