"""Philox-4x32-10 on a GPU: all rounds in one kernel, where tensor operations take a hundred launches."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 256


@triton.jit(do_not_specialize=["seed"])
def _words(c0, c1, c2, c3, words, seed, number, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < number
    first = tl.load(c0 + place, mask=inside, other=0).to(tl.uint32)
    second = tl.load(c1 + place, mask=inside, other=0).to(tl.uint32)
    third = tl.load(c2 + place, mask=inside, other=0).to(tl.uint32)
    fourth = tl.load(c3 + place, mask=inside, other=0).to(tl.uint32)
    first, second, third, fourth = tl.philox(seed, first, second, third, fourth)
    tl.store(words + place, first.to(tl.int64), mask=inside)
    tl.store(words + number + place, second.to(tl.int64), mask=inside)
    # Address by address: three times `number` may be more than its 32 bits hold.
    tl.store(words + number + number + place, third.to(tl.int64), mask=inside)
    tl.store(words + number + number + number + place, fourth.to(tl.int64), mask=inside)


def philox_words(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `noise.philox`, for an int as seed."""
    words = [word.contiguous() for word in torch.broadcast_tensors(*counter)]
    out = torch.empty((4, *words[0].shape), dtype=torch.int64, device=words[0].device)
    number = words[0].numel()
    with torch.cuda.device_of(out):
        _words[(triton.cdiv(number, BLOCK),)](*words, out, seed, number, BLOCK=BLOCK)
    a, b, c, d = out.unbind()
    return a, b, c, d
