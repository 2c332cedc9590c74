"""The latent block on a GPU: one kernel forward, one backward.

A program has a few scans, and of each the whole code in registers. Forward it draws the noise, writes the
draw and what the age is regressed from, and leaves each scan's share of the terms, which one sum over scans
puts together in a fixed order. Backward it draws the same noise again: neither noise nor spread is kept.
The noise is that of `model.noise`, integer for integer (Triton's own Philox takes the same counters), and
its normal numbers are computed in double precision, of which a code needs few.

All else is computed in single precision, for double inputs in double precision. Rows of absent scans are
not read.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from hpc_brainage.losses.backends import refuse_second_derivative

if TYPE_CHECKING:
    from hpc_brainage.losses.latent_block import LatentForm, Noise

TILE = 128
"""Numbers in a program's tile of a code; it takes so many scans that there are about as many."""


@triton.jit
def _uniform(scan, step, seed, stream, column):
    """Uniform numbers in (0, 1), float64, of scans (R, 1) and columns (1, W) of a stream."""
    none = (scan & 0).to(tl.uint32) + (column & 0).to(tl.uint32)
    low = (scan & 0xFFFFFFFF).to(tl.uint32) + none
    high = ((scan >> 32) & 0xFFFFFFFF).to(tl.uint32) + none
    when = (step.to(tl.int64) & 0xFFFFFFFF).to(tl.uint32) + none
    block = (stream * 16777216 + column // 4).to(tl.uint32) + none
    a, b, c, d = tl.philox(seed, low, high, when, block)
    quarter = column % 4
    word = tl.where(quarter == 0, a, tl.where(quarter == 1, b, tl.where(quarter == 2, c, d)))
    return (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10  # 2 to the power of -32


@triton.jit
def _normal(scan, step, seed, stream, column, WIDTH: tl.constexpr):
    """Standard normal numbers, float64, by Box and Muller's transform, of a stream that is WIDTH wide."""
    PAIRS: tl.constexpr = (WIDTH + 1) // 2
    first = tl.where(column < PAIRS, column, column - PAIRS)
    radius = tl.sqrt(-2.0 * tl.log(_uniform(scan, step, seed, stream, first)))
    angle = 6.283185307179586 * _uniform(scan, step, seed, stream, first + PAIRS)
    return radius * tl.where(column < PAIRS, tl.cos(angle), tl.sin(angle))


@triton.jit
def _presence(here, row, B):
    return tl.load(here + row, mask=row < B, other=0) != 0


@triton.jit
def _code(
    mu, log_variance, mu_stride, log_variance_stride, here, scan, step, seed, stream, row, column,
    C: tl.constexpr, D: tl.constexpr, DRAW_C: tl.constexpr, DRAW_U: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Mean, log-variance and spread times noise of a tile; zeros where the scan is absent."""
    there = here & (column < D)
    mean = tl.load(mu + row * mu_stride + column, mask=there, other=0.0).to(REAL)
    place = log_variance + row * log_variance_stride + column
    logs = tl.load(place, mask=there, other=0.0).to(REAL)
    spread = tl.zeros_like(mean)
    if DRAW_C or DRAW_U:
        drawn = there
        if not DRAW_C:
            drawn = drawn & (column >= C)
        if not DRAW_U:
            drawn = drawn & (column < C)
        noise = _normal(scan, step, seed, stream, column, D).to(REAL)
        spread = tl.where(drawn, tl.exp(0.5 * logs) * noise, 0.0)
    return mean, logs, spread


@triton.jit
def _divergence(mean, logs):
    return 0.5 * (mean * mean + tl.exp(logs) - 1.0 - logs)


@triton.jit
def _kl_columns(here, column, C: tl.constexpr, D: tl.constexpr, KL_C: tl.constexpr, KL_U: tl.constexpr):
    first: tl.constexpr = 0 if KL_C else C
    last: tl.constexpr = D if KL_U else C
    return here & (column >= first) & (column < last)


@triton.jit
def _kl_of_rows(
    mean, logs, here, column, n,
    C: tl.constexpr, D: tl.constexpr, KL_C: tl.constexpr, KL_U: tl.constexpr, FREE: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """Each scan's share of a modality's KL."""
    divergence = _divergence(mean, logs)
    if FREE > 0:
        divergence = tl.where(divergence < FREE, tl.zeros_like(divergence) + FREE, divergence)
    counted = _kl_columns(here, column, C, D, KL_C, KL_U)
    return tl.sum(tl.where(counted, divergence, 0.0), axis=1) / tl.maximum(n, 1).to(REAL)


@triton.jit
def _kl_gradients(
    mean, logs, here, column, upstream,
    C: tl.constexpr, D: tl.constexpr, KL_C: tl.constexpr, KL_U: tl.constexpr, FREE: tl.constexpr,
):  # fmt: skip
    """Of the mean and of the log-variance; none where a dimension has its free bits."""
    counted = _kl_columns(here, column, C, D, KL_C, KL_U)
    if FREE > 0:
        counted = counted & (_divergence(mean, logs) >= FREE)
    return (
        tl.where(counted, upstream * mean, 0.0),
        tl.where(counted, upstream * 0.5 * (tl.exp(logs) - 1.0), 0.0),
    )


@triton.jit
def _squared_distances(apart, column, C: tl.constexpr, D: tl.constexpr):
    """Of the shared and of the distinct codes, for each scan (R, 1); per dimension if widths differ."""
    squares = apart * apart
    p = tl.sum(tl.where(column < C, squares, 0.0), axis=1)
    q = tl.sum(tl.where(column < C, 0.0, squares), axis=1)
    if D - C != C:
        p = p / C
        q = q / (D - C)
    return p[:, None], q[:, None]


@triton.jit
def _product(z, z_other, logs, logs_other, p, p_other, joint, shared):
    """The product of experts, this modality's precision in it, and the sum of all precisions."""
    own = tl.where(p & shared, tl.exp(-logs), 0.0)
    other = tl.where(p_other & shared, tl.exp(-logs_other), 0.0)
    precision = 1.0 + own + other
    return (joint + own * z + other * z_other) / precision, own, other, precision


@triton.jit(do_not_specialize=["step", "seed", "n0", "n1", "n_pair"])
def _forward(
    mu0, mu1, log_variance0, log_variance1, here0_of, here1_of, scans, sexes, z, joined, shares,
    mu0_stride, mu1_stride, log_variance0_stride, log_variance1_stride,
    B, step, seed, n0, n1, n_pair,
    C: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, TWO: tl.constexpr,
    STREAM0: tl.constexpr, STREAM1: tl.constexpr, JOINT: tl.constexpr,
    DRAW_C: tl.constexpr, DRAW_U: tl.constexpr, KL_C: tl.constexpr, KL_U: tl.constexpr,
    FREE: tl.constexpr, RATIO: tl.constexpr, RATIO_ON_Z: tl.constexpr, POE: tl.constexpr,
    SUBSETS: tl.constexpr, MEMBERS: tl.constexpr, SEX: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row, column = rows[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (row < B) & (column < D)
    shared = column < C
    scan = tl.load(scans + row, mask=row < B, other=0)
    here0, here1 = _presence(here0_of, row, B), _presence(here1_of, row, B)
    mean0, logs0, spread0 = _code(
        mu0, log_variance0, mu0_stride, log_variance0_stride, here0, scan, step, seed, STREAM0, row, column,
        C, D, DRAW_C, DRAW_U, REAL,
    )  # fmt: skip
    z0 = mean0 + spread0
    tl.store(z + row * D + column, z0.to(z.dtype.element_ty), mask=inside)
    mean1, logs1, z1 = mean0, logs0, z0
    if TWO:
        mean1, logs1, spread1 = _code(
            mu1, log_variance1, mu1_stride, log_variance1_stride, here1, scan, step, seed, STREAM1, row,
            column, C, D, DRAW_C, DRAW_U, REAL,
        )  # fmt: skip
        z1 = mean1 + spread1
        tl.store(z + (B + row) * D + column, z1.to(z.dtype.element_ty), mask=inside)

    kl = tl.zeros((ROWS,), REAL)
    if KL_C or KL_U:
        kl += _kl_of_rows(mean0, logs0, here0, column, n0, C, D, KL_C, KL_U, FREE, REAL)
        if TWO:
            kl += _kl_of_rows(mean1, logs1, here1, column, n1, C, D, KL_C, KL_U, FREE, REAL)
    tl.store(shares + rows, kl, mask=rows < B)
    ratio, below = tl.zeros((ROWS, 1), REAL), tl.zeros((ROWS, 1), REAL)
    if RATIO != "none":
        apart = z0 - z1 if RATIO_ON_Z else mean0 - mean1
        pair = here0 & here1
        p, q = _squared_distances(tl.where(pair, apart, 0.0), column, C, D)
        if RATIO == "batch_sq":
            ratio, below = p, q
        else:
            if RATIO == "l2":
                ratio = tl.sqrt(p + 1e-6) / tl.sqrt(q + 1e-6)
            elif RATIO == "sq":
                ratio = p / (q + 1e-6)
            elif RATIO == "log":
                ratio = 0.5 * (tl.log(p + 1e-6) - tl.log(q + 1e-6))
            else:
                ratio = p / (p + q + 1e-6)
            ratio = tl.where(pair, ratio, 0.0) / tl.maximum(n_pair, 1).to(REAL)
    tl.store(shares + B + row, ratio, mask=row < B)
    tl.store(shares + 2 * B + row, below, mask=row < B)

    M: tl.constexpr = 2 if TWO else 1
    WIDTH: tl.constexpr = M * D + (2 if SEX else 0) + M
    kind = joined.dtype.element_ty
    joint = tl.zeros((ROWS, BLOCK), REAL)
    if POE and DRAW_C:
        joint = tl.where(shared, _normal(scan, step, seed, JOINT, column, C).to(REAL), 0.0)
    for s in tl.static_range(SUBSETS):
        p0 = here0 & (((MEMBERS >> (2 * s)) & 1) == 1)
        p1 = here1 & (((MEMBERS >> (2 * s + 1)) & 1) == 1)
        c0, c1 = tl.where(p0, z0, 0.0), tl.where(p1, z1, 0.0)
        if POE:
            c0, _own0, _own1, _all = _product(z0, z1, logs0, logs1, p0, p1, joint, shared)
            c1 = c0
        elif TWO:
            c0, c1 = tl.where(p0, z0, c1), tl.where(p1, z1, c0)
        start = joined + (s * B + row).to(tl.int64) * WIDTH
        own = tl.where(shared, c0, tl.where(p0, z0, 0.0))
        tl.store(start + column, own.to(kind), mask=inside)
        tl.store(start + WIDTH - M, p0.to(REAL).to(kind), mask=row < B)
        if TWO:
            own = tl.where(shared, c1, tl.where(p1, z1, 0.0))
            tl.store(start + D + column, own.to(kind), mask=inside)
            tl.store(start + WIDTH - 1, p1.to(REAL).to(kind), mask=row < B)
        if SEX:
            sex = tl.load(sexes + row, mask=row < B, other=-1)
            tl.store(start + M * D, (sex == 0).to(REAL).to(kind), mask=row < B)
            tl.store(start + M * D + 1, (sex == 1).to(REAL).to(kind), mask=row < B)


@triton.jit(do_not_specialize=["step", "seed", "n0", "n1", "n_pair"])
def _backward(
    mu0, mu1, log_variance0, log_variance1, here0_of, here1_of, scans, terms, z_up, joined_up, kl_up,
    ratio_up, mu0_down, mu1_down, log_variance0_down, log_variance1_down,
    mu0_stride, mu1_stride, log_variance0_stride, log_variance1_stride,
    B, step, seed, n0, n1, n_pair,
    C: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, TWO: tl.constexpr,
    STREAM0: tl.constexpr, STREAM1: tl.constexpr, JOINT: tl.constexpr,
    DRAW_C: tl.constexpr, DRAW_U: tl.constexpr, KL_C: tl.constexpr, KL_U: tl.constexpr,
    FREE: tl.constexpr, RATIO: tl.constexpr, RATIO_ON_Z: tl.constexpr, POE: tl.constexpr,
    SUBSETS: tl.constexpr, MEMBERS: tl.constexpr, SEX: tl.constexpr, REAL: tl.constexpr,
    Z_UP: tl.constexpr, JOINED_UP: tl.constexpr, KL_UP: tl.constexpr, RATIO_UP: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row, column = rows[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (row < B) & (column < D)
    shared = column < C
    scan = tl.load(scans + row, mask=row < B, other=0)
    here0, here1 = _presence(here0_of, row, B), _presence(here1_of, row, B)
    mean0, logs0, spread0 = _code(
        mu0, log_variance0, mu0_stride, log_variance0_stride, here0, scan, step, seed, STREAM0, row, column,
        C, D, DRAW_C, DRAW_U, REAL,
    )  # fmt: skip
    z0 = mean0 + spread0
    mean1, logs1, spread1, z1 = mean0, logs0, spread0, z0
    if TWO:
        mean1, logs1, spread1 = _code(
            mu1, log_variance1, mu1_stride, log_variance1_stride, here1, scan, step, seed, STREAM1, row,
            column, C, D, DRAW_C, DRAW_U, REAL,
        )  # fmt: skip
        z1 = mean1 + spread1

    # What arrives at the draws, and what goes past them to the means and log-variances.
    z0_down, z1_down = tl.zeros((ROWS, BLOCK), REAL), tl.zeros((ROWS, BLOCK), REAL)
    mean0_down, mean1_down = tl.zeros((ROWS, BLOCK), REAL), tl.zeros((ROWS, BLOCK), REAL)
    logs0_down, logs1_down = tl.zeros((ROWS, BLOCK), REAL), tl.zeros((ROWS, BLOCK), REAL)
    if Z_UP:
        z0_down += tl.load(z_up + row * D + column, mask=inside & here0, other=0.0).to(REAL)
        if TWO:
            z1_down += tl.load(z_up + (B + row) * D + column, mask=inside & here1, other=0.0).to(REAL)
    if JOINED_UP:
        M: tl.constexpr = 2 if TWO else 1
        WIDTH: tl.constexpr = M * D + (2 if SEX else 0) + M
        joint = tl.zeros((ROWS, BLOCK), REAL)
        if POE and DRAW_C:
            joint = tl.where(shared, _normal(scan, step, seed, JOINT, column, C).to(REAL), 0.0)
        for s in tl.static_range(SUBSETS):
            p0 = here0 & (((MEMBERS >> (2 * s)) & 1) == 1)
            p1 = here1 & (((MEMBERS >> (2 * s + 1)) & 1) == 1)
            start = joined_up + (s * B + row).to(tl.int64) * WIDTH
            up0 = tl.load(start + column, mask=inside, other=0.0).to(REAL)
            up1 = tl.zeros((ROWS, BLOCK), REAL)
            if TWO:
                up1 = tl.load(start + D + column, mask=inside, other=0.0).to(REAL)
            if POE:
                y, own0, own1, precision = _product(z0, z1, logs0, logs1, p0, p1, joint, shared)
                both = tl.where(shared, up0 + up1, 0.0) / precision
                z0_down += tl.where(p0, tl.where(shared, both * own0, up0), 0.0)
                logs0_down += tl.where(p0, both * own0 * (y - z0), 0.0)
                z1_down += tl.where(p1, tl.where(shared, both * own1, up1), 0.0)
                logs1_down += tl.where(p1, both * own1 * (y - z1), 0.0)
            else:
                z0_down += tl.where(p0, up0, 0.0)
                if TWO:
                    z1_down += tl.where(p1, up1, 0.0)
                    # A shared code stands in the other's place too where that modality is absent.
                    z0_down += tl.where(shared & p0 & (p1 == 0), up1, 0.0)
                    z1_down += tl.where(shared & p1 & (p0 == 0), up0, 0.0)
    if KL_UP and (KL_C or KL_U):
        upstream = tl.load(kl_up).to(REAL)
        of_mean, of_logs = _kl_gradients(
            mean0, logs0, here0, column, upstream / tl.maximum(n0, 1).to(REAL), C, D, KL_C, KL_U, FREE
        )
        mean0_down += of_mean
        logs0_down += of_logs
        if TWO:
            of_mean, of_logs = _kl_gradients(
                mean1, logs1, here1, column, upstream / tl.maximum(n1, 1).to(REAL), C, D, KL_C, KL_U, FREE
            )
            mean1_down += of_mean
            logs1_down += of_logs
    if RATIO_UP and RATIO != "none":
        pair = here0 & here1
        apart = tl.where(pair, z0 - z1 if RATIO_ON_Z else mean0 - mean1, 0.0)
        p, q = _squared_distances(apart, column, C, D)
        upstream = tl.load(ratio_up).to(REAL)
        if RATIO == "batch_sq":
            p = tl.load(terms + 1) + tl.zeros_like(p)
            q = tl.load(terms + 2) + tl.zeros_like(q)
        else:
            upstream = upstream / tl.maximum(n_pair, 1).to(REAL)
        of_p, of_q = tl.zeros_like(p), tl.zeros_like(q)
        if RATIO == "l2":
            above, below = tl.sqrt(p + 1e-6), tl.sqrt(q + 1e-6)
            of_p, of_q = 0.5 / (above * below), -0.5 * above / (below * (q + 1e-6))
        elif RATIO == "log":
            of_p, of_q = 0.5 / (p + 1e-6), -0.5 / (q + 1e-6)
        elif RATIO == "bounded":
            total = p + q + 1e-6
            of_p, of_q = (q + 1e-6) / (total * total), -p / (total * total)
        else:
            of_p, of_q = 1.0 / (q + 1e-6), -p / ((q + 1e-6) * (q + 1e-6))
        if D - C != C:
            of_p, of_q = of_p / C, of_q / (D - C)
        down = tl.where(pair, 2.0 * upstream * tl.where(shared, of_p, of_q) * apart, 0.0)
        if RATIO_ON_Z:
            z0_down += down
            z1_down -= down
        else:
            mean0_down += down
            mean1_down -= down

    kind = mu0_down.dtype.element_ty
    tl.store(mu0_down + row * D + column, (z0_down + mean0_down).to(kind), mask=inside)
    logs0_down += 0.5 * spread0 * z0_down
    tl.store(log_variance0_down + row * D + column, logs0_down.to(kind), mask=inside)
    if TWO:
        tl.store(mu1_down + row * D + column, (z1_down + mean1_down).to(kind), mask=inside)
        logs1_down += 0.5 * spread1 * z1_down
        tl.store(log_variance1_down + row * D + column, logs1_down.to(kind), mask=inside)


def latent_fused(
    mu: Sequence[torch.Tensor],
    log_variance: Sequence[torch.Tensor],
    present: Sequence[torch.Tensor],
    sex: torch.Tensor | None,
    noise: Noise,
    counts: Sequence[int | torch.Tensor],
    form: LatentForm,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(z, joined, kl, ratio) as `losses.latent_block` gives them; the terms in single precision at least.

    Seed and counts are numbers of the host: tensors are waited for.
    """
    key, whole = (int(noise.seed), noise.step), [int(count) for count in counts]
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] = _LatentBlock.apply(
        present, sex, noise.scan, key, whole, form, *mu, *log_variance
    )
    return found


class _LatentBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        present: Sequence[torch.Tensor],
        sex: torch.Tensor | None,
        scan: torch.Tensor,
        key: tuple[int, int],
        counts: Sequence[int],
        form: LatentForm,
        *gaussians: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        modalities = len(present)
        plain = [one.resolve_neg() for one in gaussians]
        gaussians = tuple(one if one.stride(1) == 1 else one.contiguous() for one in plain)
        means, logs = gaussians[:modalities], gaussians[modalities:]
        here = [mask.contiguous().view(torch.uint8) for mask in present]
        scans, width = means[0].shape
        real = torch.float64 if means[0].dtype == torch.float64 else torch.float32
        z = means[0].new_empty((modalities, scans, width))
        columns = modalities * (width + 1) + (0 if sex is None else 2)
        joined = means[0].new_empty((len(form.subsets), scans, columns))
        shares = means[0].new_empty((3, scans), dtype=real)
        call = _Call(form, modalities, width, sex is not None, real)
        inputs = [means[0], means[-1], logs[0], logs[-1], here[0], here[-1], scan.contiguous()]
        sexes = scan if sex is None else sex.contiguous()
        strides = [tensor.stride(0) for tensor in inputs[:4]]
        numbers = [scans, key[1], key[0], counts[0], counts[modalities - 1], counts[-1]]
        grid = (triton.cdiv(scans, call.settings["ROWS"]),)
        with torch.cuda.device_of(z):
            _forward[grid](*inputs, sexes, z, joined, shares, *strides, *numbers, **call.settings)
        terms = shares.sum(dim=1)
        ratio = terms[1] / (terms[2] + 1e-6) if form.ratio == "batch_sq" else terms[1]
        ctx.save_for_backward(*inputs, terms)
        ctx.call, ctx.rest, ctx.grid = call, (strides, numbers), grid
        ctx.set_materialize_grads(False)
        return z, joined, terms[0], ratio

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        refuse_second_derivative()
        *inputs, terms = ctx.saved_tensors
        call, (strides, numbers) = ctx.call, ctx.rest
        modalities = 2 if call.settings["TWO"] else 1
        like = inputs[0]
        down = like.new_empty((2 * modalities, like.shape[0], like.shape[1]))
        means, logs = down[:modalities], down[modalities:]
        arrived = [terms if up is None else up.resolve_neg().contiguous() for up in upstream]
        names = ("Z_UP", "JOINED_UP", "KL_UP", "RATIO_UP")
        given = {name: up is not None for name, up in zip(names, upstream, strict=True)}
        with torch.cuda.device_of(down):
            _backward[ctx.grid](
                *inputs, terms, *arrived, means[0], means[-1], logs[0], logs[-1], *strides, *numbers,
                **call.settings, **given,
            )  # fmt: skip
        return (None, None, None, None, None, None, *down.unbind())


class _Call:
    """What of a call is compiled into the kernels."""

    def __init__(self, form: LatentForm, modalities: int, width: int, sex: bool, real: torch.dtype) -> None:
        block = triton.next_power_of_2(width)
        members = sum(
            int(has) << (2 * number + place)
            for number, subset in enumerate(form.subsets)
            for place, has in enumerate(subset)
        )
        self.settings: dict[str, Any] = {
            "C": form.shared,
            "D": width,
            "ROWS": max(1, TILE // block),
            "BLOCK": block,
            "TWO": modalities == 2,
            "STREAM0": form.streams[0],
            "STREAM1": form.streams[-1],
            "JOINT": form.joint_stream,
            "DRAW_C": form.draw_shared,
            "DRAW_U": form.draw_distinct,
            "KL_C": form.kl_shared,
            "KL_U": form.kl_distinct,
            "FREE": float(form.free_bits),
            "RATIO": form.ratio if form.ratio and modalities == 2 else "none",
            "RATIO_ON_Z": form.ratio_on == "z",
            "POE": form.missing == "poe",
            "SUBSETS": len(form.subsets),
            "MEMBERS": members,
            "SEX": sex,
            "REAL": tl.float64 if real == torch.float64 else tl.float32,
        }
