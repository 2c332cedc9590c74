"""Ridge regression and a support vector machine that choose their own settings by inner validation.

Both take a matrix of standardised features and give, beside the fitted function, a prediction of each
training person that was made without them: what a fusion of several predictors must be fitted on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

_PENALTIES = np.logspace(-1, 7, 33)
_INNER_FOLDS = 5
_CHOOSE_ON = 1500
"""Scans on which an SVR's settings are chosen, at most: the time grows faster than their square."""


@dataclass(frozen=True)
class Learned:
    """A fitted function, and what inner validation said of the training scans.

    Attributes
    ----------
    predict : from features (scans, columns) to the target (scans,).
    inner : (training scans,), each predicted without the person; NaN where that was not computed.
    settings : what was chosen.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    inner: np.ndarray
    settings: dict[str, float]


class Learner(Protocol):
    """Fits a function of features."""

    @property
    def name(self) -> str: ...

    @property
    def covariate_scale(self) -> float:
        """How large a 0/1 covariate should be beside features of unit variance."""

    def fit(self, x_NF: np.ndarray, t_N: np.ndarray, person_N: np.ndarray) -> Learned: ...


@dataclass(frozen=True)
class Ridge:
    """Least squares with a penalty that is chosen by leaving one person out, in closed form.

    With H the hat matrix of the centred features plus 1/n for the intercept, the residuals of the scans G
    of a person that was left out are (I - H_GG)⁻¹ (t - t̂)_G: for a single scan the known (t - t̂) / (1 - h)
    (Allen 1974; Golub, Heath and Wahba 1979). The penalty with the smallest mean square of these wins.
    """

    name: str = "ridge"
    covariate_scale: float = 10.0  # so large that the penalty hardly shrinks a covariate

    def fit(self, x_NF: np.ndarray, t_N: np.ndarray, person_N: np.ndarray) -> Learned:
        """Fit to the target `t_N`; `person_N` says whose scan it is. Time is n F min(n, F)."""
        mean, level = x_NF.mean(axis=0), float(t_N.mean())
        centred, target = x_NF - mean, t_N - level
        basis_NK, variance_K = _left_singular(centred)
        along = basis_NK.T @ target
        several = _scans_of_repeated(person_N)
        best: tuple[float, float, np.ndarray] | None = None
        for penalty in _PENALTIES:
            shrink = variance_K / (variance_K + penalty)
            residual = target - basis_NK @ (shrink * along)
            leverage = (basis_NK**2) @ shrink + 1 / len(t_N)
            left_out = residual / (1 - leverage)
            for rows in several:
                hat = (basis_NK[rows] * shrink) @ basis_NK[rows].T + 1 / len(t_N)
                left_out[rows] = np.linalg.solve(np.eye(len(rows)) - hat, residual[rows])
            error = float((left_out**2).mean())
            if best is None or error < best[0]:
                best = error, float(penalty), t_N - left_out
        assert best is not None
        _, penalty, inner = best
        weights = centred.T @ (basis_NK @ (along / (variance_K + penalty)))
        return Learned(lambda x: (x - mean) @ weights + level, inner, {"penalty": penalty})


def _left_singular(centred_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors (n, k) and squared singular values (k,), by way of the smaller Gram matrix."""
    n, width = centred_NF.shape
    gram = centred_NF.T @ centred_NF if width < n else centred_NF @ centred_NF.T
    variance, vectors = np.linalg.eigh(gram)
    real = variance > np.finfo(float).eps * max(n, width) * max(variance[-1], 0)
    variance, vectors = variance[real], vectors[:, real]
    basis = centred_NF @ vectors / np.sqrt(variance) if width < n else vectors
    return basis, variance


def _scans_of_repeated(person_N: np.ndarray) -> list[np.ndarray]:
    """Row numbers of each person who has more than one scan."""
    _, index, count = np.unique(person_N, return_inverse=True, return_counts=True)
    return [np.flatnonzero(index == number) for number in np.flatnonzero(count > 1)]


@dataclass(frozen=True)
class SupportVectors:
    """Support vector regression with a Gaussian kernel (scikit-learn's SVR).

    C, the width of the tube and the width of the kernel, exp(-g d² / median d²), are chosen by the mean
    absolute error of inner folds over people. Fits take n² numbers of memory.
    """

    name: str = "SVR"
    covariate_scale: float = 1.0
    kernel_widths: tuple[float, ...] = (0.3, 1.0)
    costs: tuple[float, ...] = (1.0, 3.0, 10.0)
    tubes: tuple[float, ...] = (0.05, 0.15)

    def fit(self, x_NF: np.ndarray, t_N: np.ndarray, person_N: np.ndarray) -> Learned:
        """Fit to the target `t_N`, which is standardised inside; `person_N` says whose scan it is."""
        level, spread = float(t_N.mean()), max(float(t_N.std()), 1e-12)
        target = (t_N - level) / spread
        square_N = np.einsum("nf,nf->n", x_NF, x_NF)
        distance = _squared_distances(x_NF, square_N, x_NF, square_N)
        unit = max(float(np.median(distance)), 1e-12)
        chosen = np.unique(np.linspace(0, len(t_N) - 1, min(len(t_N), _CHOOSE_ON)).round().astype(int))
        inner_fold = _inner_folds(person_N[chosen])
        best: tuple[float, np.ndarray, float, float, float] | None = None
        for width in self.kernel_widths:
            kernel = np.exp(-width / unit * distance[np.ix_(chosen, chosen)])
            for cost, tube in product(self.costs, self.tubes):
                guess = np.empty(len(chosen))
                for index in np.unique(inner_fold):
                    train, test = np.flatnonzero(inner_fold != index), np.flatnonzero(inner_fold == index)
                    machine = _machine(cost, tube)
                    machine.fit(kernel[np.ix_(train, train)], target[chosen[train]])
                    guess[test] = machine.predict(kernel[np.ix_(test, train)])
                error = float(np.abs(guess - target[chosen]).mean())
                if best is None or error < best[0]:
                    best = error, guess, width, cost, tube
        assert best is not None
        _, guess, width, cost, tube = best
        final = _machine(cost, tube).fit(np.exp(-width / unit * distance), target)
        inner = np.full(len(t_N), np.nan)
        inner[chosen] = guess * spread + level

        def predict(x: np.ndarray) -> np.ndarray:
            to_training = _squared_distances(x, np.einsum("nf,nf->n", x, x), x_NF, square_N)
            found: np.ndarray = final.predict(np.exp(-width / unit * to_training)) * spread + level
            return found

        return Learned(predict, inner, {"C": cost, "epsilon": tube, "width": width})


def _machine(cost: float, tube: float) -> Any:
    from sklearn.svm import SVR

    return SVR(kernel="precomputed", C=cost, epsilon=tube)


def _squared_distances(
    a: np.ndarray, a_square: np.ndarray, b: np.ndarray, b_square: np.ndarray
) -> np.ndarray:
    return np.clip(a_square[:, None] + b_square[None, :] - 2 * (a @ b.T), 0, None)


def _inner_folds(person_N: np.ndarray) -> np.ndarray:
    """Inner fold of each scan; a person's scans are together, and the order of the scans is no matter."""
    people, index = np.unique(person_N, return_inverse=True)
    dealt = np.random.default_rng(0).permutation(len(people)) % min(_INNER_FOLDS, len(people))
    fold: np.ndarray = dealt[index]
    return fold
