"""Where a gap lies among those of healthy people of the same age and sex.

The raw gap Δ of held-out controls has a mean m and a standard deviation s that depend on age and sex: m for
predictions regress to the mean, s for the brains of older people differ more. Both are natural cubic
splines in age (three or four degrees of freedom) with an offset for sex; s is modelled on the log scale. A
scan's normative z is (Δ - m(age, sex)) / s(age, sex). It says nothing outside the controls' ages.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import kstest, norm, skew

from hpc_brainage.model.calibration import Curve, Norms, Uniformity
from hpc_brainage.scoring.splines import columns, evaluate, least_squares, log_mean, place_knots
from hpc_brainage.scoring.uncertainty import HeldOut, without_own_fold

FEWEST_PEOPLE = 60
_FEWEST_OF_A_SEX = 20
_MEAN_PEOPLE, _SD_PEOPLE = (200, 60), (400, 120)  # for four and for three degrees of freedom
_ROUNDS = 4
_DIGITS = 4


def fit_norms(people: HeldOut) -> Norms | None:
    """Mean, spread and the z of held-out controls; None for fewer than 60.

    The z that are kept are each of curves that were fitted without the person's fold, so that a new
    person's z is compared with z like its own.
    """
    if len(people) < FEWEST_PEOPLE or np.ptp(people.age) == 0:
        return None
    mean, log_sd = _fit(people)
    norms = Norms(
        age_min=float(people.age.min()), age_max=float(people.age.max()), mean=mean, log_sd=log_sd, z=()
    )

    def say(others: HeldOut, own: HeldOut) -> np.ndarray:
        m, s = _fit(others) if len(others) >= FEWEST_PEOPLE // 2 else (mean, log_sd)
        return _standardised(m, s, own.predicted - own.age, own.age, own.sex)

    z = np.sort(without_own_fold(people, say))
    return norms.model_copy(update={"z": tuple(np.round(z, _DIGITS).tolist())})


def normative_z(norms: Norms, gap: np.ndarray, age: np.ndarray, sex: np.ndarray) -> np.ndarray:
    """z of each raw gap, years; NaN where the age is unknown or outside the controls' ages."""
    inside = (age >= norms.age_min) & (age <= norms.age_max)
    z = np.full(len(gap), np.nan)
    z[inside] = _standardised(norms.mean, norms.log_sd, gap[inside], age[inside], sex[inside])
    return z


def centile(z: np.ndarray) -> np.ndarray:
    """Centile of a z, 0 to 100, if z is normal: 100 Φ(z)."""
    return 100.0 * norm.cdf(z)


def p_accelerated(norms: Norms, z: np.ndarray) -> np.ndarray:
    """One-sided conformal p of an older-looking brain: (1 + how many controls have z or more) / (n + 1).

    It takes no distribution for granted, and cannot be smaller than 1 / (n + 1).
    """
    held = np.array(norms.z)
    at_least = len(held) - np.searchsorted(held, np.round(z, _DIGITS), side="left")
    return np.where(np.isfinite(z), (1.0 + at_least) / (len(held) + 1.0), np.nan)


def uniformity(norms: Norms) -> Uniformity:
    """Whether the controls' probabilities Φ(z) are uniform, each by curves it had no part in."""
    z = np.array(norms.z)
    test = kstest(norm.cdf(z), "uniform")
    return Uniformity(n=len(z), ks=float(test.statistic), p=float(test.pvalue), skew=float(skew(z)))


def _fit(people: HeldOut) -> tuple[Curve, Curve]:
    """Mean and log SD of the gap, fitted by turns: each round weights by the spread of the one before."""
    gap, sex = people.predicted - people.age, _sex_column(people.sex)
    if min((people.sex == "F").sum(), (people.sex == "M").sum()) < _FEWEST_OF_A_SEX:
        sex = np.zeros(len(people))
    mean_knots = place_knots(people.age, *_MEAN_PEOPLE)
    sd_knots = place_knots(people.age, *_SD_PEOPLE)
    X, S = columns(people.age, mean_knots, sex), columns(people.age, sd_knots, sex)
    weight = np.ones(len(people))
    for _ in range(_ROUNDS):
        b = least_squares(X, gap, weight)
        residual = gap - X @ b
        g = log_mean(S, np.abs(residual))
        weight = np.exp(-2 * (S @ g))
    # From mean absolute to standard deviation: z of these people has the variance 1.
    g[0] += 0.5 * np.log(np.mean((residual * np.exp(-(S @ g))) ** 2))
    return (
        Curve(knots=mean_knots, weights=tuple(b.tolist())),
        Curve(knots=sd_knots, weights=tuple(g.tolist())),
    )


def _standardised(
    mean: Curve, log_sd: Curve, gap: np.ndarray, age: np.ndarray, sex: np.ndarray
) -> np.ndarray:
    column = _sex_column(sex)
    z: np.ndarray = (gap - evaluate(mean, age, column)) / np.exp(evaluate(log_sd, age, column))
    return z


def _sex_column(sex: np.ndarray) -> np.ndarray:
    return 0.5 * (sex == "F").astype(float) - 0.5 * (sex == "M").astype(float)
