"""The error of linear reconstructions from Gram matrices: its cost does not grow with their number.

With A = WᵀW, d_i = b - x_i, D = d W, H̄_i = sum_k w_ki h_ki and S = sum_ki w_ki h_ki h_kiᵀ,

    e_ki = h_kiᵀ A h_ki + 2 h_ki·D_i + |d_i|²
    dh_ki = 2 w_ki (A h_ki + D_i)
    dW = 2 (W S + dᵀ H̄),    db = 2 (W sum_i H̄_i + sum_ki w_ki d_i)

and S and H̄ do not depend on the features, so that W and x are read once. It is exact, but what cancels in
e is lost of its digits: a good fit is the small rest of large terms, and so is a scan whose hidden units
nearly cancel each other. Two guards see to it that errors and gradients stay within a thousandth; where one
does not hold, the caller is told to take another way.

Shapes: K reconstructions, B scans, H hidden units, F features.
"""

from __future__ import annotations

import torch

BEST_FIT = 0.95
"""Explained share of |d|² up to which the form is taken; in float32 the gradient of h is then off by
3e-5."""

LEAST_LEFT = 2e-3
"""A scan's error at least, as a share of |h|ᵀ|A||h| + 2 |h|·|D| + |d|², the terms without their signs: it
leaves sixteen roundings of float32 to all sums together before a thousandth of the error is lost."""

TILE = 4096
"""Features at a time."""


def gram_pass(
    hidden_KBH: torch.Tensor,
    W: torch.Tensor,
    b: torch.Tensor | None,
    target: torch.Tensor,
    weights: torch.Tensor,
    wanted: tuple[bool, bool],
    dW: torch.Tensor | None = None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] | None] | None:
    """Errors (K, B) in float64 and the gradients of `hidden`, W and b; None where too much cancels.

    Parameters
    ----------
    hidden_KBH : in the type of `weights`; rows whose weight is 0 are 0.
    wanted : whether there are gradients of anything, and whether of W and b.
    dW : room for the gradient of W, if it is wanted.
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
    D = torch.zeros((B, H), dtype=exact, device=W.device)
    offset = torch.zeros(B, dtype=torch.float64, device=W.device)
    db = torch.empty_like(W[:, 0]) if of_layer and b is not None else None
    for left in range(0, len(W), TILE):
        part = slice(left, left + TILE)
        W_j = W[part].to(exact)
        d_j = target[:, part].to(exact).neg()
        if b is not None:
            d_j = d_j + b[part].to(exact)
        d_j = d_j.masked_fill(absent_B[:, None], 0)
        A.addmm_(W_j.t(), W_j)
        D.addmm_(d_j, W_j)
        offset += torch.linalg.vector_norm(d_j, dim=1).double().square()
        if dW is not None:
            dW[part] = torch.addmm(d_j.t() @ H_bar, W_j, S).mul_(2)
        if db is not None:
            db[part] = 2 * (W_j @ h_bar + d_j.t() @ w_bar)
    pull = hidden_KBH @ A
    parts = (hidden_KBH.double() * (pull.double() + 2 * D.double())).sum(dim=2)
    errors = torch.where(counts, parts + offset, 0.0)
    sizes = hidden_KBH.abs()
    unsigned = (sizes * (sizes @ A.abs() + 2 * D.abs())).sum(dim=2, dtype=torch.float64) + offset
    explained = torch.where(counts, offset, 0.0)
    if _fits_too_well(errors, explained, weights) or _cancels(errors, torch.where(counts, unsigned, 0.0)):
        return None
    if not any_wanted:
        return errors, None
    dh = torch.where(counts[..., None], 2 * weights[..., None] * (pull + D), 0.0)
    return errors, (dh, dW, db)


def _fits_too_well(errors: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor) -> bool:
    """Whether any of the K reconstructions explains more than may cancel, or is not finite."""
    left_over, before = (weights * errors).sum(dim=1), (weights * offsets).sum(dim=1)
    good_enough = left_over >= (1 - BEST_FIT) * before
    return not bool(good_enough.all())


def _cancels(errors: torch.Tensor, unsigned: torch.Tensor) -> bool:
    """Whether of any scan too little is left of the terms that make its error, or it is not finite."""
    return not bool((errors >= LEAST_LEFT * unsigned).all())
