"""A decoder's last layer and the error of what it rebuilds, in one: the reconstruction is never formed.

A wide modality is rebuilt by r_k = h_k Wᵀ + b with many more features than hidden units. Here the features
are gone through in tiles: K·B rows of a tile are rebuilt, turned into their own gradient g in place
(`multi_mse`), and used up at once,

    dW_j = g_jᵀ h,    db_j = sum g_j,    dh += g_j W_j,

so that instead of several matrices of K·B·F numbers there is one of K·B times a tile's width.

Shapes: K reconstructions, B scans, H hidden units, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from hpc_brainage.losses import backends, multi_mse_compiled
from hpc_brainage.losses.gradient_memory import gradient_like
from hpc_brainage.losses.linear_mse_gram import gram_pass
from hpc_brainage.losses.multi_mse import (
    PASSES,
    Error,
    check,
    exact_type,
    hand_over,
    reference,
    refuse_negative,
)

TILE = 1 << 19
"""Numbers of a rebuilt tile on a CPU: two megabytes."""

TILE_ON_A_GPU = 1 << 24

NARROWEST = 256
"""Features of a tile at least; below this the matrix products become slow."""

Gradients = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]


def linear_multi_mse(
    hidden: torch.Tensor | Sequence[torch.Tensor],
    W: torch.Tensor,
    b: torch.Tensor | None,
    target: torch.Tensor,
    weights: torch.Tensor,
    error: Error = "squared",
    gram: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted errors of K linear reconstructions against one target, as `masked_multi_mse` has them.

    Parameters
    ----------
    hidden : (K, B, H), or K of (B, H): what the last layer takes.
    W : (F, H) weight of the last layer, all of it.
    b : (F,) its bias, if it has one.
    target : (B, F); has no gradient.
    weights : (K, B), not negative; has no gradient. Where 0, neither hidden units nor target are looked at.
    error : squared or absolute.
    gram : whether squared errors may be taken from the products of W with itself and the target. Its cost
        does not grow with K, but good fits cancel (`linear_mse_gram`); where the fit turns out too good for
        that, tiles are taken after all.

    Returns
    -------
    The loss, and the errors (K, B) without weights, without gradient.

    Raises
    ------
    ValueError : shapes or types do not fit, or a gradient is asked for that there is none of.
    RuntimeError : in a second derivative.
    """
    hidden_KBH = hidden if isinstance(hidden, torch.Tensor) else torch.stack(tuple(hidden))
    _check(hidden_KBH, W, b, target, weights, error)
    if gram and error != "squared":
        raise ValueError("the Gram form is one of squared errors")
    weights = weights.to(exact_type(hidden_KBH))
    form = backends.choose(hidden_KBH, len(hidden_KBH) * target.numel())
    if form == "reference":
        clean = torch.where((weights != 0)[..., None], hidden_KBH, torch.zeros_like(hidden_KBH))
        return reference(F.linear(clean, W, b), target, weights, error)
    refuse_negative(weights)
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden_KBH, W, b)]
    found: tuple[torch.Tensor, torch.Tensor] = _LinearMSE.apply(
        form, error, wanted, gram, hidden_KBH, W, b, target, weights
    )
    return found


def _check(
    hidden_KBH: torch.Tensor,
    W: torch.Tensor,
    b: torch.Tensor | None,
    target: torch.Tensor,
    weights: torch.Tensor,
    error: str,
) -> None:
    if hidden_KBH.dim() != 3 or W.dim() != 2 or hidden_KBH.shape[2] != W.shape[1]:
        raise ValueError(
            f"hidden units {tuple(hidden_KBH.shape)} and weight {tuple(W.shape)} do not fit: "
            "(K, B, H) and (F, H) are expected"
        )
    if b is not None and b.shape != W.shape[:1]:
        raise ValueError(f"bias {tuple(b.shape)} and weight {tuple(W.shape)} do not fit")
    rebuilt = hidden_KBH[:, :, :1].detach().expand(-1, -1, len(W))  # of its shape, without its memory
    check(rebuilt.unbind(0), target, weights, error)


def _tile_pass(
    form: str,
    error: Error,
    hidden_KBH: torch.Tensor,
    W: torch.Tensor,
    b: torch.Tensor | None,
    target: torch.Tensor,
    weights: torch.Tensor,
    wanted: tuple[bool, bool],
) -> tuple[torch.Tensor, Gradients | None]:
    """Errors (K, B) in float64, and the gradients of `hidden`, W and b.

    `wanted` are whether there are gradients of anything, and whether of W and b.
    """
    (K, B, H), exact = hidden_KBH.shape, weights.dtype
    any_wanted, of_layer = wanted
    hidden_NH = hidden_KBH.reshape(K * B, H)
    features = len(W)
    dh = torch.zeros_like(hidden_NH)
    dW = gradient_like(W) if of_layer else None
    db = torch.empty_like(W[:, 0]) if of_layer and b is not None else None
    errors = torch.zeros((K, B), dtype=torch.float64, device=W.device)
    width = max(NARROWEST, (TILE_ON_A_GPU if W.is_cuda else TILE) // max(K * B, 1))
    no_bias = torch.zeros(min(width, features), dtype=exact, device=W.device)
    room = torch.empty(K * B * min(width, features), dtype=exact, device=W.device)
    for left in range(0, features, width):
        part = slice(left, min(left + width, features))
        W_j = W[part].to(exact)
        rebuilt = room[: K * B * len(W_j)].view(K * B, len(W_j))
        b_j = no_bias[: len(W_j)] if b is None else b[part].to(exact)
        goal = target[:, part]
        goal = goal if target.stride(1) == 1 else goal.contiguous()
        if form == "compiled":
            torch.mm(hidden_NH, W_j.t(), out=rebuilt)
            sums = multi_mse_compiled.layer_pass(rebuilt, b_j, goal, weights, error == "squared", errors)
        else:
            torch.addmm(b_j, hidden_NH, W_j.t(), out=rebuilt)
            views = rebuilt.view(K, B, len(W_j)).unbind(0)
            written = views if any_wanted else None
            errors += PASSES[form](views, goal, weights, error == "squared", written)[1]
            sums = None
        if not any_wanted:
            continue
        gradient = rebuilt
        dh.addmm_(gradient, W_j)
        if dW is not None:
            if dW.dtype == exact:
                torch.mm(gradient.t(), hidden_NH, out=dW[part])
            else:
                dW[part] = gradient.t() @ hidden_NH
        if db is not None:
            db[part] = gradient.sum(dim=0) if sums is None else sums
    return errors, (dh.view(K, B, H), dW, db) if any_wanted else None


class _LinearMSE(torch.autograd.Function):
    """The fused layer: the gradients are there after the forward pass, backward hands them over."""

    @staticmethod
    def forward(
        ctx: Any,
        form: str,
        error: Error,
        wanted: Sequence[bool],
        gram: bool,
        hidden_KBH: torch.Tensor,
        W: torch.Tensor,
        b: torch.Tensor | None,
        target: torch.Tensor,
        weights: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of_hidden, of_W, of_b = wanted
        # A row that counts for nothing is zero, so that no product carries what stands in it.
        clean = torch.where((weights != 0)[..., None], hidden_KBH.to(weights.dtype), 0.0)
        some = (any(wanted), of_W or of_b)
        found = gram_pass(clean, W, b, target, weights, some) if gram else None
        if found is None:
            found = _tile_pass(form, error, clean, W, b, target, weights, some)
        errors, gradients = found
        ctx.gradients = None
        if gradients is not None:
            dh, dW, db = gradients
            dh = dh.to(hidden_KBH.dtype)
            ctx.gradients = [dh if of_hidden else None, dW if of_W else None, db if of_b else None]
        errors_KB = errors.to(weights.dtype)
        ctx.mark_non_differentiable(errors_KB)
        return (weights * errors).sum().to(weights.dtype), errors_KB

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, None, None, None, *hand_over(ctx.gradients, upstream), None, None)
