"""One linear layer's reconstructions and their gradients, tile of features by tile of features.

K·B rows of a tile are rebuilt, turned into their own gradient g in place (`multi_mse`), and used at once,

    dW_j = g_jᵀ h,    db_j = sum g_j,    dh += g_j W_j,

so that instead of several matrices of K·B·F numbers there is one of K·B times a tile's width.

Shapes: K reconstructions, B scans, H hidden units, F features.
"""

from __future__ import annotations

import torch

from hpc_brainage.losses import multi_mse_compiled
from hpc_brainage.losses.gradient_memory import gradient_like
from hpc_brainage.losses.linear_mse_gram import gram_pass
from hpc_brainage.losses.multi_mse import PASSES, Error

TILE = 1 << 19
"""Numbers of a rebuilt tile on a CPU: two megabytes."""

TILE_ON_A_GPU = 1 << 23
"""34 megabytes: large enough for full speed, and well below a tenth of what the eager form takes."""

NARROWEST = 256
"""Features of a tile at least; below this the matrix products become slow."""

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def layer_pass(
    form: str,
    error: Error,
    gram: bool,
    hidden_KBH: torch.Tensor,
    W: torch.Tensor,
    b: torch.Tensor | None,
    target: torch.Tensor,
    weights: torch.Tensor,
    wanted: tuple[bool, bool, bool],
    dW: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, Gradients | None]:
    """The loss, the errors (K, B) without weights, and the gradients of `hidden`, W and b.

    Parameters
    ----------
    form : a fused form of `backends`.
    gram : whether Gram matrices may be taken; tiles are, where they would not do.
    weights : in the type in which sums are taken, which loss and errors have too.
    wanted : whether there are gradients of `hidden`, of W and of b.
    dW : room for the gradient of W, if there is one.
    """
    # A row that counts for nothing is zero, so that no product carries what stands in it.
    clean = torch.where((weights != 0)[..., None], hidden_KBH.to(weights.dtype), 0.0)
    some = (any(wanted), wanted[1] or wanted[2])
    if some[1] and dW is None:
        dW = gradient_like(W)
    target, weights = target.resolve_neg(), weights.resolve_neg()
    found = gram_pass(clean, W, b, target, weights, some, dW) if gram else None
    if found is None:
        found = _tile_pass(form, error, clean, W, b, target, weights, some, dW)
    errors, made = found
    gradients: Gradients | None = None
    if made is not None:
        dh, dW, db = made
        of_hidden, of_W, of_b = wanted
        gradients = (
            dh.to(hidden_KBH.dtype) if of_hidden else None,
            dW if of_W else None,
            db if of_b else None,
        )
    return (weights * errors).sum().to(weights.dtype), errors.to(weights.dtype), gradients


def _tile_pass(
    form: str,
    error: Error,
    hidden_KBH: torch.Tensor,
    W: torch.Tensor,
    b: torch.Tensor | None,
    target: torch.Tensor,
    weights: torch.Tensor,
    wanted: tuple[bool, bool],
    dW: torch.Tensor | None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] | None]:
    """Errors (K, B) in float64, and the gradients; `wanted` as of `gram_pass`."""
    (K, B, H), exact = hidden_KBH.shape, weights.dtype
    any_wanted, of_layer = wanted
    hidden_NH = hidden_KBH.reshape(K * B, H)
    features = len(W)
    dh = torch.zeros_like(hidden_NH)
    db = torch.empty_like(W[:, 0]) if of_layer and b is not None else None
    errors = torch.zeros((K, B), dtype=torch.float64, device=W.device)
    width = max(NARROWEST, (TILE_ON_A_GPU if W.is_cuda else TILE) // max(K * B, 1))
    no_bias = torch.zeros(min(width, features), dtype=exact, device=W.device)
    room = torch.empty(K * B * min(width, features), dtype=exact, device=W.device)
    for left in range(0, features, width):
        part = slice(left, min(left + width, features))
        W_j = W[part].to(exact)
        rebuilt = room[: K * B * len(W_j)].view(K * B, len(W_j))
        b_j = no_bias[: len(W_j)] if b is None else b[part].to(exact).resolve_neg()
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
