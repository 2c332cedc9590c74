"""Random numbers that depend on who and when, not on where in a batch.

The noise of a scan in a step is a function of (seed, scan, step, stream): the same numbers come out in any
batch order, on any number of processes, after any resume, and for a member that is trained alone or beside
others. The generator is Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"), written in integer tensor operations so that a device and a host give the same bits. The seed may be a
tensor, so that many members, each with its own, can be trained in one pass (`torch.func.vmap`).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import torch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Stream(IntEnum):
    """What numbers are for: each purpose has a stream of its own, so that no two share a number.

    Those of a role have one number for each role, in the order of `ROLES`. Streams below `ENCODER` are
    Philox's; those from there on are streams of dropout, and a network's layers count up from its first.
    """

    CODE = 0
    PRIOR_SHARED = 2
    SEX = 4
    MODALITY = 5
    PRIOR_DISTINCT = 6
    JOINT = 8
    DROPOUT = 9
    MIXING = 10
    ENCODER = 1 << 8
    REGRESSOR = 3 << 8
    """One for each subset of the modalities that the age is learned from."""


LAYERS = 1 << 8
"""Dropout streams of one network in one of its uses: the first of the next stands so far away."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of some scans in one step.

    Parameters
    ----------
    scan : (B,) int64, the scans' numbers in the run.
    seed : the member's, up to 64 bits; an int, or an int64 tensor without dimensions.
    step : number of the step.
    """

    scan: torch.Tensor
    seed: int | torch.Tensor
    step: int

    def uniform(self, width: int, stream: int) -> torch.Tensor:
        """Uniform numbers in (0, 1), float64 (B, width)."""
        return uniform(self.scan, width, seed=self.seed, step=self.step, stream=stream)

    def normal(self, width: int, stream: int) -> torch.Tensor:
        """Standard normal numbers, float64 (B, width)."""
        return self.normals(width, (stream,))[0]

    def normals(self, width: int, streams: Sequence[int]) -> torch.Tensor:
        """`normal` for several streams at once, float64 (streams, B, width): the same numbers, in one call
        of the generator, whose cost for a batch is that of its many small operations."""
        return _normals(self.scan, width, self.seed, self.step, streams)

    def dropout(self, h_BW: torch.Tensor, probability: float, stream: int) -> torch.Tensor:
        """`h` with units set to 0 by chance, and the others divided by the chance to be kept.

        Which units of a scan are dropped is a function of (seed, scan, step, stream, unit). One Philox
        word of 64 bits for each scan and step is mixed with the stream and the number of each group of
        four units by the output function of splitmix64 (Steele, Lea and Flood 2014), and each unit takes
        16 of the 64 bits. The chance is therefore `probability` rounded to a multiple of 1/65536, and
        the factor is exact for the chance as rounded. Streams may be as large as 2**40.
        """
        scans, width = h_BW.shape
        threshold = min(round(probability * 65536), 65535)
        if threshold == 0:
            return h_BW
        group = torch.arange(-(-width // 4), device=h_BW.device, dtype=torch.int64) + (stream << 20)
        mixed = _mix(self._word[:, None] + (group + 1) * _signed(0x9E3779B97F4A7C15))
        quarter = torch.tensor([0, 16, 32, 48], device=h_BW.device)
        bits = ((mixed[:, :, None] >> quarter) & 0xFFFF).reshape(scans, -1)[:, :width]
        kept = h_BW * (65536 / (65536 - threshold))
        return torch.where(bits >= threshold, kept, torch.zeros_like(kept))

    @cached_property
    def _word(self) -> torch.Tensor:
        """64 random bits for each scan, int64 (B,)."""
        block = torch.full_like(self.scan, Stream.DROPOUT << 24)
        first, second, _, _ = philox(_counter(self.scan, self.step, block), self.seed)
        return (first << 32) | second


def philox(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], seed: int | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four 32-bit words for each counter.

    Parameters
    ----------
    counter : four int64 tensors of one shape, each holding a 32-bit word.
    seed : 64-bit key; an int, or an int64 tensor without dimensions.

    Returns
    -------
    Four int64 tensors of the same shape, each in [0, 2**32).
    """
    if isinstance(seed, int) and _in_one_kernel(counter[0]):
        from hpc_brainage.model.philox_triton import philox_words

        return philox_words(counter, seed)
    c0, c1, c2, c3 = counter
    # The two halves of a round are alike, so each operation does both.
    even, odd = torch.stack([c0, c2]), torch.stack([c1, c3])
    both = (2, *(1 for _ in c0.shape))
    multipliers = torch.tensor(_MULTIPLIERS, device=c0.device).view(both)
    for key in _keys(seed, c0.device).unbind():
        # The low 32 bits of a product are the next odd word and the high ones go into the next even one,
        # each in the other half. What else an int64 holds is cut off before it would be multiplied.
        product = (even * multipliers).flip(0)
        even, odd = ((product >> 32) ^ odd ^ key.view(both)) & _MASK, product
    odd = odd & _MASK
    return even[0], odd[0], even[1], odd[1]


def uniform(
    scan: torch.Tensor, width: int, *, seed: int | torch.Tensor, step: int, stream: int
) -> torch.Tensor:
    """Uniform numbers in (0, 1), float64, of shape (scans, width); `scan` is an int64 vector of ids."""
    return _uniforms(scan, width, seed, step, (stream,))[0]


def normal(
    scan: torch.Tensor, width: int, *, seed: int | torch.Tensor, step: int, stream: int
) -> torch.Tensor:
    """Standard normal numbers, float64, of shape (scans, width), by Box and Muller's transform."""
    return _normals(scan, width, seed, step, (stream,))[0]


def _uniforms(
    scan: torch.Tensor, width: int, seed: int | torch.Tensor, step: int, streams: Sequence[int]
) -> torch.Tensor:
    """Of each stream, (streams, scans, width)."""
    blocks = -(-width // 4)
    first = torch.tensor([stream << 24 for stream in streams], device=scan.device)
    block = first[:, None, None] + torch.arange(blocks, device=scan.device)
    identity = scan[None, :, None].expand(len(streams), -1, blocks)
    words = philox(_counter(identity, step, block), seed)
    numbers = torch.stack(words, dim=-1).flatten(2)[:, :, :width]
    return (numbers.double() + 0.5) / 2.0**32


def _normals(
    scan: torch.Tensor, width: int, seed: int | torch.Tensor, step: int, streams: Sequence[int]
) -> torch.Tensor:
    """Of each stream, (streams, scans, width)."""
    pairs = -(-width // 2)
    u = _uniforms(scan, 2 * pairs, seed, step, streams)
    radius = torch.sqrt(-2.0 * torch.log(u[:, :, :pairs]))
    angle = 2.0 * math.pi * u[:, :, pairs:]
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=2)[:, :, :width]


def _counter(
    scan: torch.Tensor, step: int, block: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Philox's counter: 64 bits of scan, 32 of step, 8 of stream and 24 of block (both in `block`)."""
    return (
        scan & _MASK,
        (scan >> 32) & _MASK,
        torch.full_like(scan, step & _MASK),
        block.expand_as(scan),
    )


def _keys(seed: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """The two key words of each round, int64 (rounds, 2)."""
    low, high = seed & _MASK, (seed >> 32) & _MASK
    if isinstance(low, torch.Tensor) and isinstance(high, torch.Tensor):
        first = torch.stack([low, high])
    else:
        first = torch.tensor([low, high], device=device)
    rounds = torch.arange(_ROUNDS, device=device)
    return (first + rounds[:, None] * torch.tensor(_WEYL, device=device)) & _MASK


def _in_one_kernel(word: torch.Tensor) -> bool:
    """Whether Triton can draw for these scans: they are on a GPU, and nothing traces or vectorises."""
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(word)
    return word.is_cuda and not wrapped and importlib.util.find_spec("triton") is not None


def _mix(word: torch.Tensor) -> torch.Tensor:
    """Splitmix64's output function: every input bit changes every output bit with chance one half."""
    word = (word ^ _shifted(word, 30)) * _signed(0xBF58476D1CE4E5B9)
    word = (word ^ _shifted(word, 27)) * _signed(0x94D049BB133111EB)
    return word ^ _shifted(word, 31)


def _shifted(word: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift to the right: int64 shifts copies of the sign bit in, which are masked away."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    """The int64 with the bits of a 64-bit constant."""
    return constant - (1 << 64) if constant >> 63 else constant
