"""How sure an error is: bootstrap intervals over people and over sites, and a test of two predictors.

The bootstrap draws whole clusters with replacement: people, with all their scans, say how much the error
would vary with other people of the same sites; sites say how much it would vary with other sites. All
measures of a draw are sums over its clusters, so the draws are one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_brainage.errors import UsageError

MEASURES = ("mae", "rmse", "r2", "r")
DRAWS = 2000
LEVEL = 0.95
_FEWEST_CLUSTERS = 3
_COUNTS_AT_ONCE = 4_000_000
"""Draws times clusters that are held in memory: some 100 MB, however many people there are."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval of the bootstrap."""

    low: float
    high: float


def bootstrap_errors(
    predicted_SN: np.ndarray, age_N: np.ndarray, cluster_N: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval | None]:
    """Percentile intervals of MAE, RMSE, R² and r, by the cluster bootstrap (Efron and Tibshirani 1993).

    Parameters
    ----------
    predicted_SN : predictions of S predictors of one kind (say, one for each seed), years; or of one, (N,).
        The measure is the mean over the predictors, as if one was picked. No NaN.
    age_N : ages in years. No NaN.
    cluster_N : who is drawn together: the person or the site of each scan.
    draws : bootstrap draws.
    seed : of the draws.

    Returns
    -------
    By measure, the 95 % interval; None with fewer than three clusters, and for a measure that is not
    defined in more than a twentieth of the draws.
    """
    predicted = np.atleast_2d(np.asarray(predicted_SN, dtype=float))
    age = np.asarray(age_N, dtype=float)
    _check(predicted, age)
    columns = [_columns(own, age) for own in predicted]
    sums = _drawn_sums(np.concatenate(columns, axis=1), cluster_N, draws, seed)
    if sums is None:
        return dict.fromkeys(MEASURES)
    found = {measure: np.zeros(draws) for measure in MEASURES}
    for own in np.split(sums, len(predicted), axis=1):
        for measure, values in _measures(own, float(age.var())).items():
            found[measure] += values / len(predicted)
    return {measure: _percentiles(values) for measure, values in found.items()}


def bootstrap_difference(
    a_SN: np.ndarray,
    b_SN: np.ndarray,
    age_N: np.ndarray,
    cluster_N: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval | None:
    """Percentile interval of MAE(a) - MAE(b) on the same people, years; below zero where a is better.

    The same people, or sites, are drawn for both. Arguments as in `bootstrap_errors`; None with fewer than
    three clusters.
    """
    a, b = (np.atleast_2d(np.asarray(p, dtype=float)) for p in (a_SN, b_SN))
    age = np.asarray(age_N, dtype=float)
    _check(a, age)
    _check(b, age)
    difference = np.abs(a - age).mean(axis=0) - np.abs(b - age).mean(axis=0)
    sums = _drawn_sums(np.stack([difference, np.ones(len(age))], axis=1), cluster_N, draws, seed)
    return None if sums is None else _percentiles(sums[:, 0] / sums[:, 1])


@dataclass(frozen=True)
class CorrectedTest:
    """The corrected resampled t test of a mean difference between two predictors over splits.

    Attributes
    ----------
    difference : mean over the splits, years.
    t, degrees, p : statistic, degrees of freedom, and two-sided p.
    """

    difference: float
    t: float
    degrees: int
    p: float


def corrected_t_test(difference_J: np.ndarray, test_to_train: float) -> CorrectedTest | None:
    """Test whether two predictors differ, given their difference in error on each of J splits.

    Training sets of different splits overlap, so the differences are not independent, and their variance
    over J is too small. Nadeau and Bengio (2003, Machine Learning 52:239) add n_test / n_train:

        t = mean(d) / sqrt((1 / J + n_test / n_train) var(d)),   J - 1 degrees of freedom

    Several seeds of a network on the same split are no further splits: average over them first.

    Parameters
    ----------
    difference_J : one number for each *different* split.
    test_to_train : tested scans per training scan.

    Returns
    -------
    The test; None with fewer than two splits. Where all differences are the same, t is infinite, or 0.
    """
    difference = np.asarray(difference_J, dtype=float)
    if len(difference) < 2:
        return None
    from scipy.stats import t as student

    mean, variance = float(difference.mean()), float(difference.var(ddof=1))
    error = float(np.sqrt((1 / len(difference) + test_to_train) * variance))
    without_spread = 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
    statistic = mean / error if error else without_spread
    degrees = len(difference) - 1
    return CorrectedTest(mean, statistic, degrees, float(2 * student.sf(abs(statistic), degrees)))


def _check(predicted_SN: np.ndarray, age_N: np.ndarray) -> None:
    if predicted_SN.shape[1:] != age_N.shape or not np.isfinite(predicted_SN).all():
        raise UsageError(
            "a bootstrap needs one finite prediction for each age",
            where=f"predictions {predicted_SN.shape}, ages {age_N.shape}",
            hint="leave out the people whom the predictor cannot predict, and say how many they are",
        )


def _drawn_sums(value_NK: np.ndarray, cluster_N: np.ndarray, draws: int, seed: int) -> np.ndarray | None:
    """Sums of values over the scans of each draw of clusters, (draws, K); None with too few clusters."""
    names, index = np.unique(np.asarray(cluster_N), return_inverse=True)
    clusters = len(names)
    if clusters < _FEWEST_CLUSTERS:
        return None
    columns = [np.bincount(index, weights=column, minlength=clusters) for column in value_NK.T]
    by_cluster = np.stack(columns, axis=1)
    random = np.random.default_rng(seed)
    sums = np.empty((draws, value_NK.shape[1]))
    at_once = max(1, _COUNTS_AT_ONCE // clusters)
    for first in range(0, draws, at_once):
        part = min(at_once, draws - first)
        drawn = random.integers(clusters, size=(part, clusters)) + clusters * np.arange(part)[:, None]
        times = np.bincount(drawn.ravel(), minlength=part * clusters).reshape(part, clusters)
        sums[first : first + part] = times.astype(float) @ by_cluster
    return sums


def _columns(predicted: np.ndarray, age: np.ndarray) -> np.ndarray:
    """Of each scan, what `_measures` needs the sums of, (scans, 8)."""
    # Centred, so that the differences of large sums lose no digits.
    y, p = age - age.mean(), predicted - predicted.mean()
    error = predicted - age
    return np.stack([np.ones_like(y), np.abs(error), error**2, y, y**2, p, p**2, p * y], axis=1)


def _measures(sums_D8: np.ndarray, age_variance: float) -> dict[str, np.ndarray]:
    """Every measure in every draw from the sums of `_columns`, NaN where it is not defined there."""
    n, absolute, squared, sum_y, sum_yy, sum_p, sum_pp, sum_py = sums_D8.T
    tiny = 1e-12 * max(age_variance, 1e-300)
    spread_y = np.clip(sum_yy / n - (sum_y / n) ** 2, 0, None)
    spread_p = np.clip(sum_pp / n - (sum_p / n) ** 2, 0, None)
    together = sum_py / n - sum_y * sum_p / n**2
    varies, both_vary = spread_y > tiny, (spread_y > tiny) & (spread_p > tiny)
    r2, r = np.full(len(n), np.nan), np.full(len(n), np.nan)
    r2[varies] = 1 - (squared / n)[varies] / spread_y[varies]
    r[both_vary] = together[both_vary] / np.sqrt(spread_y * spread_p)[both_vary]
    return {"mae": absolute / n, "rmse": np.sqrt(squared / n), "r2": r2, "r": r}


def _percentiles(values: np.ndarray) -> Interval | None:
    known = values[np.isfinite(values)]
    if len(known) < LEVEL * len(values):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
