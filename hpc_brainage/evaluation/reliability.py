"""How well a measure repeats: intraclass correlations, error of measurement, limits of agreement.

x_ij is the measure of person i at occasion j, of n people and k occasions. A two-way analysis of variance
gives mean squares between people (BMS), between occasions (JMS) and of the rest (EMS). Shrout and Fleiss
(1979, Psychol. Bull. 86:420):

    ICC(2,1) = (BMS - EMS) / (BMS + (k - 1) EMS + k (JMS - EMS) / n)     absolute agreement
    ICC(3,1) = (BMS - EMS) / (BMS + (k - 1) EMS)                         consistency

An intraclass correlation says how well a measure tells *these* people apart: of predicted ages it is high
wherever ages vary. The standard error of measurement is in years and does not depend on who was measured:

    SEM = sqrt(EMS),   which for two occasions is SD(x_i1 - x_i2) / sqrt(2)
    smallest detectable change = 1.96 sqrt(2) SEM

A change of one person that is smaller than the latter is what measuring again gives (Weir 2005, J. Strength
Cond. Res. 19:231).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.intervals import LEVEL, SIGNIFICANT, Interval

_NORMAL = 1.96


@dataclass(frozen=True)
class Correlation:
    """An intraclass correlation with its 95 % interval; None where it is not defined."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Reliability:
    """Two measurements of the same people, in the unit of the measure.

    Attributes
    ----------
    people : how many were measured twice.
    icc_agreement, icc_consistency : ICC(2,1) and ICC(3,1).
    sem, smallest_detectable_change : see above.
    mean_difference : second minus first, with its 95 % interval (Student's t).
    limits : 95 % limits of agreement of one difference (Bland and Altman 1986, Lancet 327:307).
    """

    people: int
    icc_agreement: Correlation
    icc_consistency: Correlation
    sem: float
    smallest_detectable_change: float
    mean_difference: float
    mean_difference_interval: Interval
    limits: Interval


def test_retest(first_N: np.ndarray, second_N: np.ndarray) -> Reliability:
    """Reliability of a measure that was taken twice of each of N people.

    Raises
    ------
    UsageError : fewer than two people, or a number is missing.
    """
    from scipy.stats import t as student

    x = np.stack([np.asarray(first_N, dtype=float), np.asarray(second_N, dtype=float)], axis=1)
    agreement, consistency = intraclass_correlations(x)
    difference = x[:, 1] - x[:, 0]
    n, mean, sd = len(x), float(difference.mean()), float(difference.std(ddof=1))
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * sd / np.sqrt(n)
    sem = sd / np.sqrt(2)
    return Reliability(
        people=n,
        icc_agreement=agreement,
        icc_consistency=consistency,
        sem=float(sem),
        smallest_detectable_change=float(_NORMAL * np.sqrt(2) * sem),
        mean_difference=mean,
        mean_difference_interval=Interval(mean - half, mean + half),
        limits=Interval(mean - _NORMAL * sd, mean + _NORMAL * sd),
    )


test_retest.__test__ = False  # type: ignore[attr-defined]  # no test, whatever pytest makes of the name


def intraclass_correlations(x_NK: np.ndarray) -> tuple[Correlation, Correlation]:
    """ICC(2,1) and ICC(3,1) of N people at K occasions, with the intervals of Shrout and Fleiss (1979).

    Where nobody differs from anybody they are None. There is no interval where the occasions differ by a
    constant at most, nor of a handful of people who do not agree at all.

    Raises
    ------
    UsageError : fewer than two people or occasions, or a number is missing.
    """
    x = np.asarray(x_NK, dtype=float)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise UsageError(
            "how well a measure repeats cannot be told from these numbers",
            where=f"{x.shape[0]} people" if x.ndim == 2 else f"an array of shape {x.shape}",
            expected="at least two people, each measured at every occasion",
        )
    n, k = x.shape
    people, occasions, grand = x.mean(axis=1), x.mean(axis=0), x.mean()
    tiny = 1e-24 * max(1.0, float(np.square(x).max()))
    bms = k * float(np.square(people - grand).sum()) / (n - 1)
    jms = n * float(np.square(occasions - grand).sum()) / (k - 1)
    rest = x - people[:, None] - occasions + grand
    ems = float(np.square(rest).sum()) / ((n - 1) * (k - 1))
    if bms <= tiny:
        return Correlation(None, None), Correlation(None, None)
    agreement = (bms - ems) / (bms + (k - 1) * ems + k * (jms - ems) / n)
    consistency = (bms - ems) / (bms + (k - 1) * ems)
    if ems <= tiny:
        return Correlation(agreement, None), Correlation(consistency, None)
    return (
        Correlation(agreement, _agreement_interval(agreement, bms, jms, ems, n, k)),
        Correlation(consistency, _consistency_interval(bms, ems, n, k)),
    )


def _agreement_interval(rho: float, bms: float, jms: float, ems: float, n: int, k: int) -> Interval | None:
    """Of ICC(2,1), by Satterthwaite's degrees of freedom v (Shrout and Fleiss 1979, p. 424).

    None where v is too small for an F distribution, as of a handful of people who do not agree at all.
    """
    from scipy.stats import f

    ratio, people = jms / ems, n * (1 + (k - 1) * rho) - k * rho
    v = (k - 1) * (n - 1) * (k * rho * ratio + people) ** 2 / ((n - 1) * (k * rho * ratio) ** 2 + people**2)
    upper, lower = (float(f.ppf(1 - SIGNIFICANT / 2, *df)) for df in ((n - 1, v), (v, n - 1)))
    within = k * jms + (k * n - k - n) * ems
    low = n * (bms - upper * ems) / (upper * within + n * bms)
    high = n * (lower * bms - ems) / (within + n * lower * bms)
    return Interval(low, high) if np.isfinite([low, high]).all() else None


def _consistency_interval(bms: float, ems: float, n: int, k: int) -> Interval:
    """Of ICC(3,1), from the F distribution of BMS / EMS."""
    from scipy.stats import f

    within = (n - 1) * (k - 1)
    low = bms / ems / float(f.ppf(1 - SIGNIFICANT / 2, n - 1, within))
    high = bms / ems * float(f.ppf(1 - SIGNIFICANT / 2, within, n - 1))
    return Interval((low - 1) / (low + k - 1), (high - 1) / (high + k - 1))
