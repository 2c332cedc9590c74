"""Several reconstructions of one target: one loss, and all gradients in the same pass.

A modality is rebuilt from its own codes, from the other modality's shared code, and perhaps from that
alone. Each of these K reconstructions is compared with the same target,

    loss = sum_k sum_i w_ki e_ki,    e_ki = sum_f (r_kif - x_if)²    or    sum_f |r_kif - x_if|,

where w_ki = λ_k a_ik / (n_k F) carries the term's weight, whether the scan counts, and all denominators.
The gradient 2 w_ki (r_kif - x_if) is known as soon as the difference is, so it is made in the forward pass:
eager torch walks 64 bytes of memory for each element of each of two reconstructions, this walks 10.

Weights select. Where w_ki = 0 nothing of that reconstruction's row is looked at: NaN there changes no bit,
and its gradient is exactly 0.

Shapes: K reconstructions, B scans, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from hpc_brainage.losses import backends, multi_mse_compiled, multi_mse_tiled, multi_mse_triton
from hpc_brainage.losses.gradient_memory import gradient_like

Error = Literal["squared", "absolute"]

_ERRORS = frozenset(get_args(Error))

PASSES = {
    "tiled": multi_mse_tiled.one_pass,
    "compiled": multi_mse_compiled.one_pass,
    "triton": multi_mse_triton.one_pass,
}
"""The fused forms of `backends`."""


def masked_multi_mse(
    recons: torch.Tensor | Sequence[torch.Tensor],
    target: torch.Tensor,
    weights: torch.Tensor,
    error: Error = "squared",
    overwrite: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted errors of K reconstructions against one target.

    Parameters
    ----------
    recons : (K, B, F), or K of (B, F), all of one floating type.
    target : (B, F); has no gradient.
    weights : (K, B), not negative; has no gradient.
    error : squared or absolute.
    overwrite : whether the gradients may be written over the reconstructions. It saves the memory of the
        gradients. The reconstructions must have been computed, not be somebody's parameters, inputs or
        constants or views of them, and hold no reconstructions any more afterwards; an operation whose
        gradient needs them finds out and refuses.

    Returns
    -------
    The loss, and the errors e_ki (K, B) without weights, 0 where the weight is 0 and without gradient. In
    float32, or float64 if the reconstructions are.

    Raises
    ------
    ValueError : shapes, types or devices do not fit, a gradient is asked for that there is none of, a fused
        form on a CPU finds a negative weight, or what shall be overwritten is somebody else's.
    RuntimeError : in a second derivative.
    """
    slabs = (recons,) if isinstance(recons, torch.Tensor) else tuple(recons)
    views = _matrices(slabs)
    check(views, target, weights, error)
    wanted = torch.is_grad_enabled() and any(slab.requires_grad for slab in slabs)
    if overwrite and wanted and not backends.untouchable(views[0]):
        _refuse_to_overwrite(slabs, target)
    weights = weights.to(exact_type(views[0]))
    form = backends.choose(views[0], len(views) * target.numel())
    if form == "reference":
        whole = recons if isinstance(recons, torch.Tensor) else torch.stack(views)
        return reference(whole, target, weights, error)
    refuse_negative(weights)
    found: tuple[torch.Tensor, torch.Tensor] = _OnePass.apply(
        form, error, wanted, overwrite, target, weights, *slabs
    )
    return found


def reference(
    recons_KBF: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, error: Error = "squared"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, in plain torch; see `masked_multi_mse`."""
    difference = recons_KBF.to(weights.dtype) - target.to(weights.dtype)
    difference = torch.where((weights != 0)[..., None], difference, torch.zeros_like(difference))
    errors_KB = (difference.square() if error == "squared" else difference.abs()).sum(dim=2)
    return (weights * errors_KB).sum(), errors_KB.detach()


def check(recons: Sequence[torch.Tensor], target: torch.Tensor, weights: torch.Tensor, error: str) -> None:
    """Raise ValueError unless the shapes, types, gradients and devices fit.

    `recons` are K of (B, F), or whatever has as many rows and columns.
    """
    if error not in _ERRORS:
        raise ValueError(f"error {error!r} is neither squared nor absolute")
    if not recons:
        raise ValueError("there is no reconstruction")
    for recon in recons:
        if recon.shape != target.shape or target.dim() != 2:
            raise ValueError(
                f"rebuilt {tuple(recon.shape)} and target {tuple(target.shape)} differ in shape, "
                "or are no matrices of scans by features"
            )
        if recon.dtype != recons[0].dtype or not recon.is_floating_point():
            raise ValueError("the reconstructions are not all of one floating type")
    if weights.shape != (len(recons), len(target)):
        raise ValueError(
            f"weights {tuple(weights.shape)} are not those of {len(recons)} reconstructions "
            f"of {len(target)} scans"
        )
    if target.requires_grad or weights.requires_grad:
        raise ValueError("neither the target nor the weights have a gradient here: detach them")
    if any(one.device != target.device for one in (*recons, weights)):
        raise ValueError("reconstructions, target and weights are not all on one device")


def refuse_negative(weights: torch.Tensor) -> None:
    """Raise ValueError where a weight is negative; on a GPU that would have to be waited for."""
    if weights.device.type == "cpu" and bool((weights < 0).any()):
        raise ValueError("a weight is negative")


def exact_type(values: torch.Tensor) -> torch.dtype:
    """In which differences and sums are taken."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def hand_over(gradients: list[torch.Tensor | None], upstream: torch.Tensor) -> list[torch.Tensor | None]:
    """Gradients times the upstream gradient; in place, unless the graph is used again.

    `upstream` is a scalar, or one number for each slice of the gradients. `gradients` is emptied
    if they are handed over, so that whoever gets one is its only owner.

    Raises
    ------
    RuntimeError : a graph of the gradients is asked for: they would count as constants in it; or they were
        handed over before.
    """
    backends.refuse_second_derivative()
    if not gradients:
        raise RuntimeError(
            "this graph's gradients were used before: call backward(retain_graph=True) first"
        )
    if _graph_is_kept():
        return [None if one is None else one * _beside(upstream, one).to(one.dtype) for one in gradients]
    given = list(gradients)
    gradients.clear()
    for one in given:
        if one is None:
            continue
        if one.is_cuda and one.dtype != torch.float64 and not multi_mse_triton.lacks():
            multi_mse_triton.scale_unless_one(one, upstream)
        elif one.is_cuda or not bool((upstream == 1.0).all()):
            one.mul_(_beside(upstream, one))
    return given


def _beside(upstream: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A scalar, or one number for each slice of a gradient, so that they can be multiplied."""
    return upstream.view(-1, *[1] * (gradient.dim() - 1)) if upstream.dim() else upstream


def _graph_is_kept() -> bool:
    """Whether backward was called with retain_graph; torch says so to its own compiled functions."""
    told = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if told is None else bool(told())


def _matrices(slabs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each reconstruction (B, F)."""
    views: list[torch.Tensor] = []
    for slab in slabs:
        views += slab.unbind(0) if slab.dim() == 3 else [slab]
    return views


def _refuse_to_overwrite(slabs: Sequence[torch.Tensor], target: torch.Tensor) -> None:
    """Raise ValueError where somebody else would find a gradient instead of the numbers they had."""
    bases = [slab if slab._base is None else slab._base for slab in slabs]
    if any(slab.is_leaf for slab in (*slabs, *bases)):
        raise ValueError(
            "a leaf (a parameter, an input, a constant), or a view of one, cannot be overwritten"
        )
    if _share_memory([*slabs, target]):
        raise ValueError("reconstructions or target lie in the same memory, and cannot be overwritten")


def _share_memory(matrices: Sequence[torch.Tensor]) -> bool:
    """Whether a dense one lies where another one does; only dense ones are overwritten."""
    filled = [one for one in matrices if one.numel()]
    spans = []
    for one in filled:
        last = sum((size - 1) * stride for size, stride in zip(one.shape, one.stride(), strict=True))
        spans.append((one.data_ptr(), one.data_ptr() + (last + 1) * one.element_size()))
    dense = [one.is_contiguous() for one in filled]
    return any(
        (dense[i] or dense[j]) and spans[i][0] < spans[j][1] and spans[j][0] < spans[i][1]
        for i in range(len(filled))
        for j in range(i)
    )


def _dense_columns(matrix: torch.Tensor) -> torch.Tensor:
    """Of (B, F), as it lies in memory: its rows dense, and its signs where the numbers are."""
    matrix = matrix.resolve_neg()
    return matrix if matrix.stride(1) == 1 or matrix.shape[1] <= 1 else matrix.contiguous()


def _is_plain(slab: torch.Tensor) -> bool:
    return slab.is_contiguous() and not slab.is_neg()


class _OnePass(torch.autograd.Function):
    """A fused form: the gradients are there after the forward pass, backward hands them over."""

    @staticmethod
    def forward(
        ctx: Any,
        form: str,
        error: Error,
        wanted: bool,
        overwrite: bool,
        target: torch.Tensor,
        weights: torch.Tensor,
        *slabs: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        written: list[torch.Tensor] | None = None
        if wanted:
            written = [
                slab.detach() if overwrite and _is_plain(slab) else gradient_like(slab) for slab in slabs
            ]
        loss, errors_KB = PASSES[form](
            [_dense_columns(recon) for recon in _matrices(slabs)],
            _dense_columns(target),
            weights.resolve_neg(),
            error == "squared",
            None if written is None else _matrices(written),
        )
        for slab, own in zip(slabs, written or (), strict=False):
            if own.data_ptr() == slab.data_ptr():
                # Kernels write unseen by torch; an operation that needs the old values must be told.
                torch.autograd.graph.increment_version(own)
        ctx.gradients = written
        ctx.mark_non_differentiable(errors_KB)
        return loss, errors_KB

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None,) * 6 + tuple(hand_over(ctx.gradients, upstream))
