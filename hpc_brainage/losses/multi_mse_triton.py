"""The one pass over several reconstructions as a Triton kernel, for a GPU.

A program takes a tile: the target's part of it is read once, then each reconstruction's, and each gradient
is written. Sums over tiles go through an array of partial sums that is added up in a fixed order, so the
same bits come out every time. All offsets of rows have 64 bits: 600 scans of 3.7 million features are more
elements than 32 bits can count.

A GPU reads sixteen bytes at a time only from addresses that are multiples of sixteen, and few modalities
have a number of features that leaves each scan's first one there. So where all matrices are dense, tiles
are cut without regard to scans (`_flat`): each begins at such an address, and holds the end of one scan and
the beginning of the next at most. Rows that lie apart are gone through one by one (`_rows`).
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
"""Columns of a tile of one row."""

FLAT = 2048
"""Elements of a tile that is cut without regard to rows: no more than a row has."""

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
    weights = weights.contiguous()
    flat = columns >= FLAT and all(one.is_contiguous() for one in (*recons, target, *(gradients or ())))
    # A row of so many flat tiles may touch one more, and not all of them do: what is not written counts 0.
    tiles = triton.cdiv(columns, FLAT) + 1 if flat else triton.cdiv(columns, COLUMNS)
    made = torch.zeros if flat else torch.empty
    partial = made((len(recons), scans, tiles), dtype=torch.float32, device=target.device)
    for first in range(0, len(recons), AT_ONCE):
        group = slice(first, first + AT_ONCE)
        read = list(recons[group])
        written = list(gradients[group]) if gradients is not None else list(read)
        count = len(read)
        read += [read[0]] * (AT_ONCE - count)
        written += [written[0]] * (AT_ONCE - count)
        form = {"COUNT": count, "SQUARED": squared, "WRITES": gradients is not None, "num_warps": _WARPS}
        matrices, sizes = (*read, *written, target), (scans, columns, tiles)
        with torch.cuda.device_of(target):
            if flat:
                _flat[(triton.cdiv(scans * columns, FLAT),)](
                    *matrices, weights[group], partial[group], *sizes, COLUMNS=FLAT, **form
                )
            else:
                strides = [matrix.stride(0) for matrix in matrices]
                _rows[(scans * tiles,)](
                    *matrices, weights[group], partial[group], *strides, *sizes, COLUMNS=COLUMNS, **form
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
    def _error_and_slope(difference, weight, SQUARED: tl.constexpr):  # type: ignore[no-untyped-def]
        if SQUARED:
            error = difference * difference
            slope = 2.0 * weight * difference
        else:
            error = tl.abs(difference)
            slope = tl.where(difference > 0, weight, tl.where(difference < 0, -weight, 0.0 * difference))
        return error, slope

    @triton.jit
    def _one(  # type: ignore[no-untyped-def]
        recon, gradient, goal, weight, partial, column, inside,
        SQUARED: tl.constexpr, WRITES: tl.constexpr,
    ):  # fmt: skip
        """One reconstruction's tile; where its weight is 0 nothing is read and zeros are written."""
        value = tl.load(recon + column, mask=inside & (weight != 0), other=0.0).to(tl.float32)
        difference = tl.where(weight != 0, value - goal, 0.0)
        difference = tl.where(inside, difference, 0.0)
        error, slope = _error_and_slope(difference, weight, SQUARED)
        tl.store(partial, tl.sum(error, axis=0))
        if WRITES:
            tl.store(gradient + column, slope.to(gradient.dtype.element_ty), mask=inside)

    @triton.jit
    def _rows(  # type: ignore[no-untyped-def]
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
    def _flat_one(  # type: ignore[no-untyped-def]
        recon, gradient, goal, weights, partial, first, row, next_row, slot, tiles, begins_next, inside,
        SQUARED: tl.constexpr, WRITES: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr,
    ):  # fmt: skip
        """One reconstruction's tile, of one row to its end and of the next from its beginning.

        Nothing is read if the weights of both are 0, and nothing is made of a row whose weight is 0.
        """
        element = tl.arange(0, COLUMNS)
        own = tl.load(weights + row)
        other = tl.load(weights + next_row)
        of_next = element >= begins_next
        weight = tl.where(of_next, other, own)
        read = (tl.zeros([COLUMNS], tl.float32) + own != 0) | (tl.zeros([COLUMNS], tl.float32) + other != 0)
        if WHOLE:
            value = tl.load(recon + first + element, mask=read, other=0.0).to(tl.float32)
        else:
            value = tl.load(recon + first + element, mask=read & inside, other=0.0).to(tl.float32)
        difference = tl.where((weight != 0) & inside, value - goal, 0.0)
        error, slope = _error_and_slope(difference, weight, SQUARED)
        tl.store(partial + row * tiles + slot, tl.sum(tl.where(of_next, 0.0, error), axis=0))
        # Whoever begins in this tile has it as the first of its tiles.
        begins = (begins_next < COLUMNS) & (next_row > row)
        tl.store(partial + next_row * tiles, tl.sum(tl.where(of_next, error, 0.0), axis=0), mask=begins)
        if WRITES:
            if WHOLE:
                tl.store(gradient + first + element, slope.to(gradient.dtype.element_ty))
            else:
                tl.store(gradient + first + element, slope.to(gradient.dtype.element_ty), mask=inside)

    @triton.jit
    def _flat_tile(  # type: ignore[no-untyped-def]
        recon0, recon1, recon2, recon3, gradient0, gradient1, gradient2, gradient3, target, weights,
        partial, first, row, next_row, slot, tiles, begins_next, scans, inside,
        COUNT: tl.constexpr, SQUARED: tl.constexpr, WRITES: tl.constexpr, COLUMNS: tl.constexpr,
        WHOLE: tl.constexpr,
    ):  # fmt: skip
        element = tl.arange(0, COLUMNS)
        nought = tl.zeros([COLUMNS], tl.float32)
        needed = nought != 0
        for k in tl.static_range(COUNT):
            needed = needed | (tl.load(weights + k * scans + row) + nought != 0)
            needed = needed | (tl.load(weights + k * scans + next_row) + nought != 0)
        if WHOLE:
            goal = tl.load(target + first + element, mask=needed, other=0.0).to(tl.float32)
        else:
            goal = tl.load(target + first + element, mask=needed & inside, other=0.0).to(tl.float32)
        of_one = (row * 0 + scans) * tiles
        _flat_one(recon0, gradient0, goal, weights, partial, first, row, next_row, slot, tiles,
                  begins_next, inside, SQUARED, WRITES, COLUMNS, WHOLE)  # fmt: skip
        if COUNT > 1:
            _flat_one(recon1, gradient1, goal, weights + scans, partial + of_one, first, row, next_row,
                      slot, tiles, begins_next, inside, SQUARED, WRITES, COLUMNS, WHOLE)  # fmt: skip
        if COUNT > 2:
            _flat_one(recon2, gradient2, goal, weights + 2 * scans, partial + 2 * of_one, first, row,
                      next_row, slot, tiles, begins_next, inside, SQUARED, WRITES, COLUMNS,
                      WHOLE)  # fmt: skip
        if COUNT > 3:
            _flat_one(recon3, gradient3, goal, weights + 3 * scans, partial + 3 * of_one, first, row,
                      next_row, slot, tiles, begins_next, inside, SQUARED, WRITES, COLUMNS,
                      WHOLE)  # fmt: skip

    @triton.jit
    def _flat(  # type: ignore[no-untyped-def]
        recon0, recon1, recon2, recon3, gradient0, gradient1, gradient2, gradient3, target, weights,
        partial, scans, columns, tiles,
        COUNT: tl.constexpr, SQUARED: tl.constexpr, WRITES: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        """Tiles of all scans one after the other; `columns` is no smaller than a tile."""
        first = tl.program_id(0).to(tl.int64) * COLUMNS
        total = (first * 0 + scans) * columns
        row = first // columns
        # The last row has no next; it stands for its own, which begins beyond all elements.
        next_row = tl.minimum(row + 1, (row * 0 + scans) - 1)
        begins_next = (row + 1) * columns - first
        slot = tl.program_id(0) - row * columns // COLUMNS
        inside = first + tl.arange(0, COLUMNS) < total
        if first + COLUMNS <= total:
            _flat_tile(recon0, recon1, recon2, recon3, gradient0, gradient1, gradient2, gradient3, target,
                       weights, partial, first, row, next_row, slot, tiles, begins_next, scans, inside,
                       COUNT, SQUARED, WRITES, COLUMNS, True)  # fmt: skip
        else:
            _flat_tile(recon0, recon1, recon2, recon3, gradient0, gradient1, gradient2, gradient3, target,
                       weights, partial, first, row, next_row, slot, tiles, begins_next, scans, inside,
                       COUNT, SQUARED, WRITES, COLUMNS, False)  # fmt: skip

    @triton.jit
    def _scale(gradient, factor, size, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
        by = tl.load(factor)
        if by != 1.0:
            place = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
            value = tl.load(gradient + place, mask=place < size).to(tl.float32)
            tl.store(gradient + place, (value * by).to(gradient.dtype.element_ty), mask=place < size)
