"""Where a gap lies among those of healthy people of the same age and sex.

The raw gap Δ of held-out controls has a mean m and a standard deviation s that depend on age and sex: m for
predictions regress to the mean, s for the brains of older people differ more. Both are natural cubic
splines in age (three or four degrees of freedom) with an offset for sex; s is modelled on the log scale.

Healthy people's gaps are skewed: more people look much older than much younger. So the standardised gap
u = (Δ - m(age, sex)) / s(age, sex) is not the z yet. It is made normal by the controls' own skewness and
tails (`sinh_arcsinh`), so that a z of 2 is as rare as it should be, on either side: of 685
held-out people of ABIDE I with both modalities, u was above 1.96 for 4.4 % and below -1.96 for 1.3 %, and
z, of a shape from the other folds, for 2.5 % and 2.3 %.

Few people are near the ends of the ages, and a line that runs on there makes s too small or too large:
beyond the outer knots s stays what it is at the knot. They are the 5th and 95th percentile of the controls'
ages; with fewer than 400 controls the 10th and 90th, with a line for log s between them. m runs on as a
line, as regression to the mean does. Both are robust (Huber 1964): a gap counts as if it were at most 3 s
off, so that a few controls with an absurd gap do not widen everybody's norms. How normal z came out, the
model card and `uniformity` tell. Where fewer than 20 controls are near an age (`age_support`), nothing is
said.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2, kstest, norm, skew

from hpc_brainage.model.calibration import Curve, Norms, Shape, Uniformity
from hpc_brainage.scoring.age_support import are_few, count_ages
from hpc_brainage.scoring.sinh_arcsinh import fit_shape, reshaped
from hpc_brainage.scoring.splines import columns, evaluate, least_squares, log_mean, place_knots
from hpc_brainage.scoring.uncertainty import Predicted, without_own_fold

FEWEST_PEOPLE = 60
_FEWEST_OF_A_SEX = 20
_MEAN_PEOPLE = (200, 60)  # for four and for three degrees of freedom
_SD_PEOPLE, _SD_LINE_PEOPLE = 400, 120  # for four, and for a line
_SD_LINE_SHARES = (0.1, 0.9)
_ROUNDS = 12
MOST_SDS = 3.0  # a gap counts as if it were no further off than this
_VARIANCE_LEFT = chi2.cdf(MOST_SDS**2, 3) + MOST_SDS**2 * chi2.sf(MOST_SDS**2, 1)
"""Variance of a standard normal number that is cut off there: E min(z², c²)."""
_DIGITS = 4
_NORMAL_MAD = 1.4826  # SD of normal numbers, in their median absolute deviations
_LEAST_SD = 1e-3  # years, to begin with: predictions may be exact


def fit_norms(people: Predicted) -> Norms | None:
    """Mean, spread, shape and the z of held-out controls; None for fewer than 60, or too few near any age.

    The z that are kept are of controls of ages of which something is said, each of curves and a shape that
    were fitted without the person's fold, so that a new person's z is compared with z like its own. Where
    there is no shape, as of 40 controls or fewer, u counts as z, and the model card says so.
    """
    if len(people) < FEWEST_PEOPLE or np.ptp(people.age) == 0:
        return None
    ages = count_ages(people.age)
    known = ~are_few(ages, people.age)
    if not known.any():
        return None
    mean, log_sd = _fit(people)

    def say(others: Predicted, own: Predicted) -> np.ndarray:
        m, s = _fit(others) if len(others) >= FEWEST_PEOPLE // 2 else (mean, log_sd)
        excess, spread = _excess_and_spread(m, s, own.predicted - own.age, own.age, own.sex)
        return excess / spread

    u, fold = without_own_fold(people, say)[known], people.fold[known]
    shape = fit_shape(u)
    z = np.sort(u if shape is None else _reshaped_without_own_fold(u, fold, shape))
    return Norms(
        age_min=float(people.age.min()), age_max=float(people.age.max()), ages=ages, mean=mean,
        log_sd=log_sd, shape=shape, z=tuple(np.round(z, _DIGITS).tolist()),
    )  # fmt: skip


def normative_z(norms: Norms, gap: np.ndarray, age: np.ndarray, sex: np.ndarray) -> np.ndarray:
    """z of each raw gap, years; NaN where the age is unknown or `outside` the norms."""
    excess, spread = against_norms(norms, gap, age, sex)
    return z_of(norms, excess / spread)


def against_norms(
    norms: Norms, gap: np.ndarray, age: np.ndarray, sex: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What each raw gap exceeds the controls' mean by, and their standard deviation there, years.

    NaN where the age is unknown or `outside` the norms.
    """
    known = np.isfinite(age) & ~outside(norms, age)
    excess, spread = _excess_and_spread(
        norms.mean, norms.log_sd, gap, np.where(known, age, norms.age_min), sex
    )
    return np.where(known, excess, np.nan), np.where(known, spread, np.nan)


def z_of(norms: Norms, standardised: np.ndarray) -> np.ndarray:
    """z of gaps less the mean, over the standard deviation."""
    return standardised if norms.shape is None else reshaped(norms.shape, standardised)


def standardised_controls(norms: Norms) -> np.ndarray:
    """The controls' own gaps less the mean, over the spread, ascending: `z_of` turned round, on their z.

    Approximate, for each control's z is by the shape of the other folds' controls. Their SD is more than 1
    where tails are long, for the spread is that of gaps cut off at 3 of it.
    """
    z, shape = np.array(norms.z), norms.shape
    if shape is None:
        return z
    u: np.ndarray = shape.location + shape.scale * np.sinh((np.arcsinh(z) + shape.skew) / shape.tail)
    return u


def outside(norms: Norms, age: np.ndarray) -> np.ndarray:
    """Which ages are beyond all controls', or have fewer than 20 controls near; false where unknown."""
    beyond: np.ndarray = (age < norms.age_min) | (age > norms.age_max)
    return beyond if norms.ages is None else beyond | are_few(norms.ages, age)


def centile(z: np.ndarray) -> np.ndarray:
    """Centile of a z, 0 to 100: 100 Φ(z), as z is made to be normal."""
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


def _fit(people: Predicted) -> tuple[Curve, Curve]:
    """Mean and log SD of the gap, fitted by turns: each round weights, and cuts off, by the spread of the
    one before."""
    gap, sex = people.predicted - people.age, _sex_column(people.sex)
    if min((people.sex == "F").sum(), (people.sex == "M").sum()) < _FEWEST_OF_A_SEX:
        sex = np.zeros(len(people))
    mean_knots = place_knots(people.age, *_MEAN_PEOPLE)
    sd_knots = _knots_of_sd(people.age)
    X, S = columns(people.age, mean_knots, sex), columns(_between(people.age, sd_knots), sd_knots, sex)
    b = least_squares(X, gap)
    sd = np.full(len(people), max(_NORMAL_MAD * float(np.median(np.abs(gap - X @ b))), _LEAST_SD))
    for _ in range(_ROUNDS):
        near = X @ b + np.clip(gap - X @ b, -MOST_SDS * sd, MOST_SDS * sd)
        b = least_squares(X, near, sd**-2)
        residual = np.clip(gap - X @ b, -MOST_SDS * sd, MOST_SDS * sd)
        g = log_mean(S, np.abs(residual))
        # From mean absolute to standard deviation: normal gaps have z of variance 1, cut off or not.
        g[0] += 0.5 * np.log(np.mean((residual * np.exp(-(S @ g))) ** 2) / _VARIANCE_LEFT)
        sd = np.exp(S @ g)
    return (
        Curve(knots=mean_knots, weights=tuple(b.tolist())),
        Curve(knots=sd_knots, weights=tuple(g.tolist())),
    )


def _excess_and_spread(
    mean: Curve, log_sd: Curve, gap: np.ndarray, age: np.ndarray, sex: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    column = _sex_column(sex)
    spread = np.exp(evaluate(log_sd, _between(age, log_sd.knots), column))
    return gap - evaluate(mean, age, column), spread


def _reshaped_without_own_fold(u: np.ndarray, fold: np.ndarray, shape: Shape) -> np.ndarray:
    """z of each control by the shape of the other folds' controls; by everybody's where these are few, or
    have none."""
    z = np.empty(len(u))
    for one in sorted(set(fold.tolist())):
        own = fold == one
        z[own] = reshaped(fit_shape(u[~own]) or shape, u[own])
    return z


def _knots_of_sd(age: np.ndarray) -> tuple[float, ...]:
    if not _SD_LINE_PEOPLE <= len(age) < _SD_PEOPLE:
        return place_knots(age, _SD_PEOPLE, _SD_PEOPLE)
    low, high = np.quantile(age, _SD_LINE_SHARES)
    return (float(low), float(high)) if high > low else ()


def _between(age: np.ndarray, knots: tuple[float, ...]) -> np.ndarray:
    """Ages beyond the outer knots moved to them."""
    return np.clip(age, knots[0], knots[-1]) if knots else age


def _sex_column(sex: np.ndarray) -> np.ndarray:
    return 0.5 * (sex == "F").astype(float) - 0.5 * (sex == "M").astype(float)
