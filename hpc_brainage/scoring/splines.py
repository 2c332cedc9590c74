"""Natural cubic splines as plain columns, and curves whose weights stand in a bundle."""

from __future__ import annotations

import numpy as np

from hpc_brainage.model.calibration import Curve

_KNOT_SHARES = {2: (0.05, 0.95), 4: (0.05, 0.35, 0.65, 0.95), 5: (0.05, 0.275, 0.5, 0.725, 0.95)}
_RIDGE = 1e-6


def place_knots(x: np.ndarray, fine: int, coarse: int) -> tuple[float, ...]:
    """Knots at quantiles of x (Harrell 2015, table 2.3), by how many numbers there are.

    Five (4 degrees of freedom) for at least `fine` numbers, four for `coarse`, none for fewer: a constant.
    """
    count = 5 if len(x) >= fine else 4 if len(x) >= coarse else 0
    if not count:
        return ()
    knots = np.quantile(x, _KNOT_SHARES[count])
    if (np.diff(knots) <= 1e-9 * max(1.0, float(np.abs(knots).max()))).any():
        knots = np.unique(np.quantile(x, _KNOT_SHARES[2]))
    return tuple(float(knot) for knot in knots) if len(knots) > 1 else ()


def basis(x: np.ndarray, knots: tuple[float, ...]) -> np.ndarray:
    """Columns of a natural cubic spline (n, number of knots): 1, x and the curved ones.

    x is first moved and scaled so that the outer knots lie at 0 and 1. With t the scaled x and κ the scaled
    knots, the curved columns are d_k(t) - d_{K-1}(t), d_k = ((t - κ_k)³₊ - (t - κ_K)³₊) / (κ_K - κ_k)
    (Hastie, Tibshirani and Friedman 2009, eq. 5.4 and 5.5). Beyond the outer knots the curve is a line.
    """
    if len(knots) < 2:
        return np.ones((len(x), 1))
    first, last = knots[0], knots[-1]
    t = (np.asarray(x, dtype=float) - first) / (last - first)
    at = (np.array(knots) - first) / (last - first)
    cubes = np.maximum(t[:, None] - at, 0) ** 3
    d = (cubes[:, :-1] - cubes[:, -1:]) / (1.0 - at[:-1])
    return np.column_stack([np.ones_like(t), t, d[:, :-1] - d[:, -1:]])


def columns(x: np.ndarray, knots: tuple[float, ...], *others: np.ndarray) -> np.ndarray:
    """The spline's columns with what else a curve takes beside them."""
    return np.column_stack([basis(x, knots), *others])


def evaluate(curve: Curve, x: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """The curve's values (n,)."""
    values: np.ndarray = columns(x, curve.knots, *others) @ np.array(curve.weights)
    return values


def least_squares(X: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Weights of the columns of X by weighted least squares, held by a touch of ridge."""
    w = np.ones(len(y)) if weight is None else weight / weight.mean()
    gram = X.T @ (w[:, None] * X) / len(y)
    solved: np.ndarray = np.linalg.solve(gram + _RIDGE * np.eye(X.shape[1]), X.T @ (w * y) / len(y))
    return solved


def log_mean(X: np.ndarray, y: np.ndarray, rounds: int = 30) -> np.ndarray:
    """Weights b so that exp(X b) follows the mean of y > 0, whose SD is proportional to its mean.

    The quasi-likelihood of a gamma distribution with a log link, by iteratively reweighted least squares
    (McCullagh and Nelder 1989, chapter 8): the weights are constant, the working response is
    X b + (y - exp(X b)) / exp(X b). No step changes a mean by more than an e-fold.
    """
    y = np.maximum(y, 1e-6 * max(float(y.mean()), 1e-12))
    b = least_squares(X, np.log(y))
    for _ in range(rounds):
        eta = X @ b
        step = least_squares(X, eta + y / np.exp(eta) - 1.0) - b
        b = b + step / max(1.0, float(np.abs(X @ step).max()))
        if float(np.abs(step).max()) < 1e-8:
            break
    return b
