"""Memory for large gradients on a CPU that is used again step after step.

A fresh allocation of a hundred megabytes is mapped page by page when it is first written, which takes
longer than the gradient itself. Here a piece of memory is lent out as a tensor, and lent out again once no
tensor refers to it any more: the tensor's storage holds a reference to the piece, so the number of
references tells. Gradients of two graphs that live at once, or that somebody keeps, never share memory.
"""

from __future__ import annotations

import mmap
import sys
from threading import Lock

import torch

SMALLEST = 1 << 17
"""Bytes from which on the C library asks the system for fresh memory; smaller pieces it keeps by itself."""

MOST = 2 << 30
"""Bytes that are kept in all; what goes beyond is allocated and freed as usual."""

_HUGE = 1 << 22  # from here on pages of two megabytes are worth asking for

_FORGOTTEN = 1000
"""Large gradients, more than a step has, after which a size that was not asked for may be given up."""


def _references(pieces: list[mmap.mmap]) -> list[int]:
    """How often each piece is referred to, counted as this version of Python counts.

    Whether `piece` itself and the argument count differs between versions; so no number stands here.
    """
    return [sys.getrefcount(piece) for piece in pieces]


_ALONE = _references([mmap.mmap(-1, 1)])[0]
"""References of a piece that is not lent out."""

_kept: dict[int, list[mmap.mmap]] = {}
_asked: dict[int, int] = {}
"""The number of the last call that asked for a size."""
_lock = Lock()


def gradient_like(values: torch.Tensor) -> torch.Tensor:
    """A dense tensor of the shape and type of `values`, its content undefined."""
    size = values.numel() * values.element_size()
    if values.device.type != "cpu" or size < SMALLEST:
        return torch.empty(values.shape, dtype=values.dtype, device=values.device)
    with _lock:
        pieces = _kept.setdefault(size, [])
        _asked[size] = 1 + max(_asked.values(), default=0)
        for place, references in enumerate(_references(pieces)):
            if references == _ALONE:
                return _as_tensor(pieces[place], values)
        if size + kept_bytes() > MOST:
            _give_up_forgotten(_asked[size] - _FORGOTTEN)
        if size + kept_bytes() > MOST:
            return torch.empty(values.shape, dtype=values.dtype)
        pieces.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        if hasattr(mmap, "MADV_HUGEPAGE") and size >= _HUGE:
            pieces[-1].madvise(mmap.MADV_HUGEPAGE)
        return _as_tensor(pieces[-1], values)


def kept_bytes() -> int:
    """Bytes that are kept, lent out or not."""
    return sum(size * len(pieces) for size, pieces in _kept.items())


def free_gradient_memory() -> None:
    """Give back all memory that no tensor uses."""
    with _lock:
        _kept.clear()
        _asked.clear()


def _give_up_forgotten(before: int) -> None:
    """Give back all memory of sizes that were asked for before a call, and not since."""
    for size in [size for size, call in _asked.items() if call < before]:
        _kept.pop(size, None)
        del _asked[size]


def _as_tensor(piece: mmap.mmap, values: torch.Tensor) -> torch.Tensor:
    return torch.frombuffer(piece, dtype=values.dtype).view(values.shape)
