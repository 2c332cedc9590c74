"""Random numbers that depend on who and when, not on where in a batch.

The noise of a scan in a step is a function of (run seed, scan, step, stream): the same numbers come out
in any batch order, on any number of processes and after any resume. The generator is Philox-4x32-10
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), written in integer tensor operations
so that a device and a host give the same bits.
"""

from __future__ import annotations

import math

import torch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four 32-bit words for each counter.

    Parameters
    ----------
    counter : four int64 tensors of one shape, each holding a 32-bit word.
    seed : 64-bit key.

    Returns
    -------
    Four int64 tensors of the same shape, each in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform(scan: torch.Tensor, width: int, *, seed: int, step: int, stream: int) -> torch.Tensor:
    """Uniform numbers in (0, 1), float64, of shape (scans, width); `scan` is an int64 vector of ids."""
    blocks = -(-width // 4)
    block = torch.arange(blocks, device=scan.device, dtype=torch.int64)
    identity = scan[:, None].expand(-1, blocks)
    words = philox(
        (
            identity & _MASK,
            (identity >> 32) & _MASK,
            torch.full_like(identity, step & _MASK),
            (block + (stream << 24))[None, :].expand_as(identity) & _MASK,
        ),
        seed,
    )
    numbers = torch.stack(words, dim=-1).reshape(len(scan), blocks * 4)[:, :width]
    return (numbers.double() + 0.5) / 2.0**32


def normal(scan: torch.Tensor, width: int, *, seed: int, step: int, stream: int) -> torch.Tensor:
    """Standard normal numbers, float64, of shape (scans, width), by Box and Muller's transform."""
    pairs = -(-width // 2)
    u = uniform(scan, 2 * pairs, seed=seed, step=step, stream=stream)
    radius = torch.sqrt(-2.0 * torch.log(u[:, :pairs]))
    angle = 2.0 * math.pi * u[:, pairs:]
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :width]


def _multiply(word: torch.Tensor, constant: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of a 32 x 32 bit product held in int64 (whose sign bit is masked away)."""
    low_half = (word & 0xFFFF) * constant
    high_half = (word >> 16) * constant
    middle = high_half + (low_half >> 16)
    return (middle >> 16) & _MASK, ((middle & 0xFFFF) << 16 | (low_half & 0xFFFF)) & _MASK
