"""How sure an error is: bootstrap intervals over people and over sites, and a test of two predictors.

The bootstrap draws whole clusters with replacement: people, with all their scans, say how much the error
would vary with other people of the same sites; sites say how much it would vary with other sites. Of a
network that was trained with several seeds, each draw also takes other seeds, for they are drawn from many
as people are. All measures of a draw are sums over its clusters, so the draws are one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.splits import Split
from hpc_brainage.scoring.bias import refuse_age_using

MEASURES = ("mae", "rmse", "r2", "r")
DRAWS = 2000
SIGNIFICANT = 0.05
LEVEL = 1 - SIGNIFICANT
FEWEST_CLUSTERS = 8
"""With fewer people, or sites, a bootstrap says next to nothing, and there is no interval."""
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
        The measure is the mean over the predictors, as if one was picked, and they are drawn, too. No NaN.
    age_N : ages in years. No NaN.
    cluster_N : who is drawn together: the person or the site of each scan.
    draws : bootstrap draws.
    seed : of the draws.

    Returns
    -------
    By measure, the 95 % interval; None with fewer than `FEWEST_CLUSTERS`, and for a measure that is not
    defined in more than a twentieth of the draws.
    """
    refuse_age_using(predicted_SN)
    predicted = np.atleast_2d(np.asarray(predicted_SN, dtype=float))
    age = np.asarray(age_N, dtype=float)
    _check(predicted, age)
    columns = [_columns(own, age) for own in predicted]
    sums = drawn_sums(np.concatenate(columns, axis=1), cluster_N, draws, seed)
    if sums is None:
        return dict.fromkeys(MEASURES)
    found: dict[str, np.ndarray] = {}
    drawn = [_measures(own, float(age.var())) for own in np.split(sums, len(predicted), axis=1)]
    everyone = [_measures(own.sum(axis=0, keepdims=True), float(age.var())) for own in columns]
    for measure in MEASURES:
        over_people = np.mean([one[measure] for one in drawn], axis=0)
        of_seeds = np.concatenate([one[measure] for one in everyone])
        found[measure] = over_people + _other_seeds(of_seeds, draws, seed)
    return {measure: percentiles(values) for measure, values in found.items()}


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

    The same people, or sites, are drawn for both, and the same seeds, of which a predictor that does not
    depend on them has one. Arguments as in `bootstrap_errors`; None with fewer than `FEWEST_CLUSTERS`.
    """
    refuse_age_using(a_SN, b_SN)
    a, b = (np.atleast_2d(np.asarray(p, dtype=float)) for p in (a_SN, b_SN))
    age = np.asarray(age_N, dtype=float)
    _check(a, age)
    _check(b, age)
    difference_SN = np.abs(a - age) - np.abs(b - age)
    values = np.stack([difference_SN.mean(axis=0), np.ones(len(age))], axis=1)
    sums = drawn_sums(values, cluster_N, draws, seed)
    if sums is None:
        return None
    return percentiles(sums[:, 0] / sums[:, 1] + _other_seeds(difference_SN.mean(axis=1), draws, seed))


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


def corrected_test_over_splits(
    difference_N: np.ndarray, compared_N: np.ndarray, splits: Sequence[Split]
) -> CorrectedTest | None:
    """`corrected_t_test` of what two predictors differ by on each scan.

    Parameters
    ----------
    difference_N : absolute error of the one minus that of the other, averaged over seeds, years.
    compared_N : bool, the scans that both predict and that are to be compared; others count nowhere, be it
        as tested or as trained on.
    """
    asked = [split for split in splits if compared_N[split.test].any()]
    means = [difference_N[split.test[compared_N[split.test]]].mean() for split in asked]
    tested = sum(int(compared_N[split.test].sum()) for split in asked)
    trained = sum(int(compared_N[split.train].sum()) for split in asked)
    return corrected_t_test(np.array(means), tested / max(trained, 1))


def _check(predicted_SN: np.ndarray, age_N: np.ndarray) -> None:
    if predicted_SN.shape[1:] != age_N.shape or not np.isfinite(predicted_SN).all():
        raise UsageError(
            "a bootstrap needs one finite prediction for each age",
            where=f"predictions {predicted_SN.shape}, ages {age_N.shape}",
            hint="leave out the people whom the predictor cannot predict, and say how many they are",
        )


def drawn_sums(
    value_NK: np.ndarray, cluster_N: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> np.ndarray | None:
    """Sums of values over the scans of each draw of whole clusters, (draws, K).

    A mean is the ratio of two such sums, of which one is of ones. None with fewer than `FEWEST_CLUSTERS`.
    """
    names, index = np.unique(np.asarray(cluster_N), return_inverse=True)
    clusters = len(names)
    if clusters < FEWEST_CLUSTERS:
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


def _other_seeds(value_S: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """How far the mean over S seeds is from that over other seeds, in each draw (draws,); 0 for one seed.

    One fewer than there are is drawn, with replacement, so that the variance of a mean over few seeds comes
    out as large as it is (Rao and Wu 1988, J. Am. Stat. Assoc. 83:231). What seeds differ by on some people
    only is in this and in the draws of people, so intervals are rather too wide than too narrow.
    """
    seeds = len(value_S)
    if seeds < 2:
        return np.zeros(draws)
    share = np.full(seeds, 1 / seeds)
    counts = np.random.default_rng([seed, seeds]).multinomial(seeds - 1, share, size=draws)
    away: np.ndarray = counts @ (value_S - value_S.mean()) / (seeds - 1)
    return away


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


def percentiles(values: np.ndarray) -> Interval | None:
    """The interval of the middle 95 % of the draws; None if more than a twentieth of them is not finite."""
    known = values[np.isfinite(values)]
    if len(known) < LEVEL * len(values):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
