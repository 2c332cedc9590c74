"""The error of linear reconstructions from Gram matrices: its cost does not grow with their number.

With A = WᵀW, C = x W, v = Wᵀb, h̄ = sum_ki w_ki h_ki, H̄_i = sum_k w_ki h_ki and S = sum_ki w_ki h_ki h_kiᵀ,

    e_ki = h_kiᵀ A h_ki + 2 h_ki·(v - C_i) + |b - x_i|²
    dh_ki = 2 w_ki (A h_ki + v - C_i)
    dW = 2 (W S + b h̄ᵀ - xᵀ H̄),    db = 2 (W h̄ + b sum w - xᵀ sum_k w)

and S, h̄ and H̄ do not depend on the features, so that W and x are read once. It is exact, but the better the
fit, the more of e cancels: in float32 the gradient of h is off by 5e-6 at an explained variance of 0.3, by
3e-5 at 0.9 and by 3e-4 at 0.999. Above `BEST_FIT` the caller is told to take another way.

Shapes: K reconstructions, B scans, H hidden units, F features.
"""

from __future__ import annotations

import torch

from hpc_brainage.losses.gradient_memory import gradient_like

BEST_FIT = 0.95
"""Explained share of |b - x|² up to which the form is taken."""

TILE = 4096
"""Features at a time."""


def gram_pass(
    hidden_KBH: torch.Tensor,
    W: torch.Tensor,
    b: torch.Tensor | None,
    target: torch.Tensor,
    weights: torch.Tensor,
    wanted: tuple[bool, bool],
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] | None] | None:
    """Errors (K, B) in float64 and the gradients of `hidden`, W and b; None where the fit is too good.

    Parameters
    ----------
    hidden_KBH : in the type of `weights`; rows whose weight is 0 are 0.
    wanted : whether there are gradients of anything, and whether of W and b.
    """
    (_, B, H), exact = hidden_KBH.shape, weights.dtype
    any_wanted, of_layer = wanted
    counts = weights != 0
    absent_B = ~counts.any(dim=0)
    weighted = weights[..., None] * hidden_KBH
    H_bar = weighted.sum(dim=0)
    h_bar = H_bar.sum(dim=0)
    S = weighted.flatten(0, 1).t() @ hidden_KBH.flatten(0, 1)
    w_bar = weights.sum(dim=0)

    A = torch.zeros((H, H), dtype=exact, device=W.device)
    C = torch.zeros((B, H), dtype=exact, device=W.device)
    v = torch.zeros(H, dtype=exact, device=W.device)
    offset = torch.zeros(B, dtype=torch.float64, device=W.device)
    dW = gradient_like(W) if of_layer else None
    db = torch.empty_like(W[:, 0]) if of_layer and b is not None else None
    for left in range(0, len(W), TILE):
        part = slice(left, left + TILE)
        W_j = W[part].to(exact)
        x_j = target[:, part].to(exact).masked_fill(absent_B[:, None], 0)
        b_j = x_j.new_zeros(len(W_j)) if b is None else b[part].to(exact)
        A.addmm_(W_j.t(), W_j)
        C.addmm_(x_j, W_j)
        v.addmv_(W_j.t(), b_j)
        offset += torch.linalg.vector_norm(b_j - x_j, dim=1).double().square()
        if dW is not None:
            slope = W_j @ S + torch.outer(b_j, h_bar) - x_j.t() @ H_bar
            dW[part] = slope.mul_(2)
        if db is not None:
            db[part] = 2 * (W_j @ h_bar + b_j * w_bar.sum() - x_j.t() @ w_bar)
    pull = hidden_KBH @ A
    lean = v - C
    parts = (hidden_KBH.double() * (pull.double() + 2 * lean.double())).sum(dim=2)
    errors = torch.where(counts, parts + offset, 0.0)
    if _fits_too_well(errors, torch.where(counts, offset, 0.0), weights):
        return None
    if not any_wanted:
        return errors, None
    dh = torch.where(counts[..., None], 2 * weights[..., None] * (pull + lean), 0.0)
    return errors, (dh, dW, db)


def _fits_too_well(errors: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor) -> bool:
    """Whether any of the K reconstructions explains more than may cancel, or is not finite."""
    left_over, before = (weights * errors).sum(dim=1), (weights * offsets).sum(dim=1)
    good_enough = left_over >= (1 - BEST_FIT) * before
    return not bool(good_enough.all())
