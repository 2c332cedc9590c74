"""How far two models agree on the same scans, and whether one of them errs less.

Lin's concordance (1989, Biometrics 45:255) is the correlation of two measures times how near their line
lies to that of equality:

    CCC = 2 cov(a, b) / (var(a) + var(b) + (mean(a) - mean(b))²)

Errors are compared on the same scans, by the rule of `judgement`: intervals of the paired difference over
people and over sites. They say something of accuracy only where the people are healthy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_brainage.evaluation.intervals import Interval, bootstrap_difference, drawn_sums, percentiles
from hpc_brainage.evaluation.judgement import Estimate
from hpc_brainage.evaluation.metrics import correlation

_NORMAL = 1.96


@dataclass(frozen=True)
class Agreement:
    """What two models say of the same scans, years.

    Attributes
    ----------
    scans : that both speak of.
    mean_absolute_difference : of one model's numbers from the other's.
    mean_difference : first minus second.
    limits : 95 % limits of agreement of one scan's difference; None for fewer than two scans.
    r, ccc : Pearson's and Lin's concordance correlation; None where they are not defined.
    """

    scans: int
    mean_absolute_difference: float
    mean_difference: Estimate
    limits: Interval | None
    r: float | None
    ccc: float | None


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors of two models on the same scans of known age, years.

    Attributes
    ----------
    scans : that both predict and whose age is known.
    first, second : mean absolute errors.
    difference : first minus second, below zero where the first errs less.
    """

    scans: int
    first: float
    second: float
    difference: Estimate


def agreement(
    first_N: np.ndarray, second_N: np.ndarray, people: np.ndarray, sites: np.ndarray
) -> Agreement:
    """Agreement of two finite measures of the same N scans.

    Parameters
    ----------
    first_N, second_N : years, no NaN, at least one.
    people, sites : of each scan, for the intervals.
    """
    a, b = np.asarray(first_N, dtype=float), np.asarray(second_N, dtype=float)
    difference = a - b
    mean = float(difference.mean())
    limits = None
    if len(a) > 1:
        half = _NORMAL * float(difference.std(ddof=1))
        limits = Interval(mean - half, mean + half)
    return Agreement(
        scans=len(a),
        mean_absolute_difference=float(np.abs(difference).mean()),
        mean_difference=Estimate(
            mean, _mean_interval(difference, people), _mean_interval(difference, sites)
        ),
        limits=limits,
        r=correlation(a, b),
        ccc=concordance(a, b),
    )


def compare_errors(
    first_N: np.ndarray, second_N: np.ndarray, age_N: np.ndarray, people: np.ndarray, sites: np.ndarray
) -> Errors:
    """Errors of two models' raw predictions of the same N scans, years; no NaN, at least one.

    Raises
    ------
    ScoringError : the predictions are bias-corrected: those contain the age that they are compared with.
    """
    both = (
        bootstrap_difference(first_N, second_N, age_N, people),
        bootstrap_difference(first_N, second_N, age_N, sites),
    )
    first, second = (float(np.abs(one - age_N).mean()) for one in (first_N, second_N))
    return Errors(len(age_N), first, second, Estimate(first - second, *both))


def concordance(a: np.ndarray, b: np.ndarray) -> float | None:
    """Lin's concordance correlation; None for fewer than three scans, or where nothing varies."""
    if len(a) < 3:
        return None
    below = float(a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    if below == 0:
        return None
    return float(2 * ((a - a.mean()) * (b - b.mean())).mean() / below)


def _mean_interval(difference_N: np.ndarray, clusters: np.ndarray) -> Interval | None:
    sums = drawn_sums(np.stack([difference_N, np.ones(len(difference_N))], axis=1), clusters)
    return None if sums is None else percentiles(sums[:, 0] / sums[:, 1])
