"""A decoder's last layer and the error of what it rebuilds, in one: the reconstruction is never formed.

A wide modality is rebuilt by r_k = h_k Wᵀ + b with many more features than hidden units. Here the features
are gone through in tiles, and all gradients are made in the same pass (`linear_mse_tiles`).

Shapes: K reconstructions, B scans, H hidden units, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from hpc_brainage.losses import backends
from hpc_brainage.losses.linear_mse_members import OfMembers
from hpc_brainage.losses.linear_mse_tiles import layer_pass
from hpc_brainage.losses.multi_mse import (
    Error,
    check,
    exact_type,
    hand_over,
    reference,
    refuse_negative,
)


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
    ValueError : shapes, types or devices do not fit, or a gradient is asked for that there is none of.
    RuntimeError : in a second derivative.
    """
    hidden_KBH = hidden if isinstance(hidden, torch.Tensor) else torch.stack(tuple(hidden))
    _check(hidden_KBH, W, b, target, weights, error)
    if gram and error != "squared":
        raise ValueError("the Gram form is one of squared errors")
    exact = exact_type(hidden_KBH)
    weights = weights.to(exact)
    elements = len(hidden_KBH) * target.numel()
    form, members = backends.choose_of_members(hidden_KBH, elements)
    # An autocast would take the layer's products, too, down to its precision.
    with torch.autocast(hidden_KBH.device.type, enabled=False):
        if form == "reference":
            clean = torch.where((weights != 0)[..., None], hidden_KBH, torch.zeros_like(hidden_KBH))
            rebuilt = F.linear(clean.to(exact), W.to(exact), None if b is None else b.to(exact))
            return reference(rebuilt, target, weights, error)
        found: tuple[torch.Tensor, torch.Tensor]
        if members:
            found = OfMembers.apply(form, error, gram, hidden_KBH, W, b, target, weights)
            return found
        refuse_negative(weights)
        wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden_KBH, W, b)]
        found = _LinearMSE.apply(form, error, gram, wanted, hidden_KBH, W, b, target, weights)
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
    if any(one is not None and one.device != hidden_KBH.device for one in (W, b)):
        raise ValueError("hidden units, weight and bias are not all on one device")
    rebuilt = hidden_KBH[:, :, :1].detach().expand(-1, -1, len(W))  # of its shape, without its memory
    check(rebuilt.unbind(0), target, weights, error)


class _LinearMSE(torch.autograd.Function):
    """The fused layer: the gradients are there after the forward pass, backward hands them over."""

    @staticmethod
    def forward(
        ctx: Any,
        form: str,
        error: Error,
        gram: bool,
        wanted: Sequence[bool],
        hidden_KBH: torch.Tensor,
        W: torch.Tensor,
        b: torch.Tensor | None,
        target: torch.Tensor,
        weights: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of_hidden, of_W, of_b = wanted
        loss, errors_KB, gradients = layer_pass(
            form, error, gram, hidden_KBH, W, b, target, weights, (of_hidden, of_W, of_b)
        )
        ctx.gradients = None if gradients is None else list(gradients)
        ctx.mark_non_differentiable(errors_KB)
        return loss, errors_KB

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, None, None, None, *hand_over(ctx.gradients, upstream), None, None)
