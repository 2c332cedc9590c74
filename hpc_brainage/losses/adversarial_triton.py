"""The discriminator's terms on a GPU: values and gradient in one kernel.

One program goes over all scans: there are a few hundred, so the launch is what costs. Sums are taken in a
fixed order, and in double precision.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

BLOCK = 1024
"""Scans of a modality that the program takes at a time, at most."""


@triton.jit
def _softplus(x):
    """log(1 + exp x); the correction keeps all digits where exp(-|x|) is small against 1."""
    small = tl.exp(-tl.abs(x))
    above = 1.0 + small
    lost = tl.where(above == 1.0, 1.0, small / tl.where(above == 1.0, 1.0, above - 1.0))
    logarithm = tl.where(above == 1.0, small, tl.log(above) * lost)
    return tl.where(x > 0, x, 0.0) + logarithm


@triton.jit
def _logistic(x):
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit(do_not_specialize=["n0", "n1"])
def _terms(
    fakes, reals, here0, here1, terms, gradients, fake_stride, real_stride, B, n0, n1,
    M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    loss = tl.zeros((BLOCK,), tl.float64)
    encoder = tl.zeros((BLOCK,), tl.float64)
    right = tl.zeros((BLOCK,), tl.float64)
    kind = gradients.dtype.element_ty
    for m in tl.static_range(M):
        presence = here1 if m else here0
        share = 1.0 / (M * tl.maximum(n1 if m else n0, 1)).to(tl.float64)
        for first in range(0, B, BLOCK):
            scan = first + tl.arange(0, BLOCK)
            inside = scan < B
            here = tl.load(presence + scan, mask=inside, other=0) != 0
            fake = tl.load(fakes + m * fake_stride + scan, mask=here, other=0.0).to(tl.float64)
            real = tl.load(reals + m * real_stride + scan, mask=here, other=0.0).to(tl.float64)
            loss += tl.where(here, share * (_softplus(fake) + _softplus(-real)), 0.0)
            encoder += tl.where(here, share * _softplus(-fake), 0.0)
            both = (real > 0).to(tl.float64) + (fake <= 0).to(tl.float64)
            right += tl.where(here, 0.5 * share * both, 0.0)
            fake_down = tl.where(here, share * _logistic(fake), 0.0)
            real_down = tl.where(here, -share * _logistic(-real), 0.0)
            if kind != tl.float64:
                fake_down, real_down = fake_down.to(tl.float32), real_down.to(tl.float32)
            tl.store(gradients + m * B + scan, fake_down.to(kind), mask=inside)
            tl.store(gradients + (M + m) * B + scan, real_down.to(kind), mask=inside)
    tl.store(terms, tl.sum(loss, axis=0).to(terms.dtype.element_ty))
    tl.store(terms + 1, tl.sum(encoder, axis=0).to(terms.dtype.element_ty))
    tl.store(terms + 2, tl.sum(right, axis=0).to(terms.dtype.element_ty))


def one_pass(
    fake_MB: torch.Tensor,
    real_MB: torch.Tensor,
    present: Sequence[torch.Tensor],
    counts: Sequence[int | torch.Tensor],
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """As `adversarial_logits.closed`; counts are numbers of the host, tensors are waited for."""
    modalities, scans = fake_MB.shape
    fake, real = (
        logits if logits.stride(1) == 1 else logits.contiguous()
        for logits in (fake_MB.resolve_neg(), real_MB.resolve_neg())
    )
    here = [mask.contiguous().view(torch.uint8) for mask in present]
    terms = fake.new_empty(3, dtype=torch.promote_types(fake.dtype, torch.float32))
    gradients = fake.new_empty((2, modalities, scans))
    whole = [int(count) for count in counts]
    block = min(BLOCK, triton.next_power_of_2(max(scans, 1)))
    with torch.cuda.device_of(fake):
        _terms[(1,)](
            fake, real, here[0], here[-1], terms, gradients, fake.stride(0), real.stride(0), scans,
            whole[0], whole[-1], M=modalities, BLOCK=block,
        )  # fmt: skip
    return (terms[0], terms[1], terms[2]), gradients
