"""What groups of people differ by, other things equal, with intervals that do not assume equal variances.

The difference between two groups in an outcome such as the brain-age gap is a coefficient of least squares
with age, age squared, sex and site as covariates. Sites are taken out by the mean of each (the "within"
regression, which gives the same coefficients as one indicator for each site: Frisch and Waugh 1933,
Lovell 1963), so that three hundred sites cost as little as three. A covariate or a group that the others
already determine is never dropped in silence: `Contrast.without` and `Contrast.confounded` say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hpc_brainage.errors import UsageError

LEVEL = 0.95
FEWEST_IN_GROUP = 5
"""A group of fewer people is described, and not compared."""
_DETERMINED = 1e-8
"""Share of a column's spread that the columns before it leave; below this, they determine it."""


@dataclass(frozen=True)
class Difference:
    """One group minus the reference, adjusted; in the outcome's unit unless said otherwise.

    Attributes
    ----------
    value, low, high : the difference and its 95 % interval.
    p : two-sided, of no difference.
    g, g_low, g_high : the difference in units of the residual SD, corrected for few people (Hedges 1981).
    """

    value: float
    low: float
    high: float
    p: float
    g: float
    g_low: float
    g_high: float


@dataclass(frozen=True)
class Contrast:
    """Groups against a reference group.

    Attributes
    ----------
    differences : by group; a group in `confounded` has none.
    confounded : groups that the covariates determine, as when all its people are of sites without any
        other.
    covariates : what was adjusted for, in words.
    without : covariates that could not be adjusted for, since they do not vary or others determine them.
    n : scans that the regression is on.
    informative : scans at sites where at least two of the groups are; the others say nothing about groups.
    """

    differences: dict[str, Difference]
    confounded: tuple[str, ...]
    covariates: tuple[str, ...]
    without: tuple[str, ...]
    n: int
    informative: int


def adjusted_differences(
    outcome_N: np.ndarray,
    group_N: np.ndarray,
    reference: str,
    covariates: Mapping[str, np.ndarray],
    *,
    site_N: np.ndarray | None = None,
    person_N: np.ndarray | None = None,
) -> Contrast:
    """Compare every group with the reference by least squares with covariates.

    Errors of the coefficients are robust: HC3 (MacKinnon and White 1985), e_i² / (1 - h_i)², on t with the
    residual degrees of freedom; or, where people have several scans, clustered by person with the usual
    small-sample factor (Liang and Zeger 1986), on t with one fewer than there are people. Hedges' g is the
    adjusted difference over the residual SD, times 1 - 3 / (4 df - 1); its squared error is that of the
    difference over the residual variance, plus g² / (2 df).

    Parameters
    ----------
    outcome_N : finite numbers.
    group_N : text, the group of each scan.
    reference : the group that the others are compared with.
    covariates : by name, finite numbers (N,). One that does not vary, or that those before it and the sites
        determine, is named in `without`.
    site_N : the site of each scan, each with an intercept of its own; None for one intercept.
    person_N : who each scan is of; None if each is of somebody else.

    Raises
    ------
    UsageError : nobody is in the reference group, or a number is not finite.
    """
    outcome = np.asarray(outcome_N, dtype=float)
    names = [name for name in sorted(set(map(str, group_N))) if name != reference]
    member_NG = (
        np.stack([group_N == name for name in names], axis=1) if names else np.empty((len(outcome), 0))
    )
    given = {name: np.asarray(values, dtype=float) for name, values in covariates.items()}
    _check(outcome, group_N, reference, given)
    site, sites = _index(site_N, len(outcome))
    away = _Within(site, sites)

    basis: list[np.ndarray] = []
    columns, used, without = [], [], []
    for name, values in given.items():
        centred = away(values)
        if _adds(centred, basis, float(((values - values.mean()) ** 2).sum())):
            columns.append(centred)
            used.append(name)
        else:
            without.append(name)
    estimable, confounded = [], []
    for name, values in zip(names, member_NG.T.astype(float), strict=True):
        centred = away(values)
        if _adds(centred, basis, float(((values - values.mean()) ** 2).sum())):
            columns.append(centred)
            estimable.append(name)
        else:
            confounded.append(name)
    several = sites > 1
    found: dict[str, Difference] = {}
    if estimable:
        design = np.stack(columns, axis=1)
        found = dict(
            zip(
                estimable, _coefficients(design, away(outcome), away, person_N, len(estimable)), strict=True
            )
        )
    return Contrast(
        found,
        tuple(confounded),
        (*used, *(["site"] if several else [])),
        (*without, *([] if several or site_N is None else ["site"])),
        len(outcome),
        _informative(site, sites, member_NG),
    )


class _Within:
    """Takes the mean of each site out of a column."""

    def __init__(self, site: np.ndarray, sites: int) -> None:
        self.site, self.sites = site, sites
        self.people = np.bincount(site, minlength=sites).astype(float)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        means = np.bincount(self.site, weights=values, minlength=self.sites) / self.people
        return values - means[self.site]


def _adds(column: np.ndarray, basis: list[np.ndarray], spread: float) -> bool:
    """Whether a column is more than a combination of those before it; if so it joins the basis."""
    left = column
    for _ in range(2):  # twice, so that nothing of the basis is left by rounding
        for direction in basis:
            left = left - direction * float(direction @ left)
    length = float(np.sqrt(left @ left))
    if spread == 0 or length**2 <= _DETERMINED * spread:
        return False
    basis.append(left / length)
    return True


def _coefficients(
    design_NK: np.ndarray, outcome_N: np.ndarray, away: _Within, person_N: np.ndarray | None, last: int
) -> list[Difference]:
    """The last coefficients of the within regression, with their robust errors."""
    from scipy.stats import t as student

    rows, width = design_NK.shape
    q, r = np.linalg.qr(design_NK)
    inverse = np.linalg.inv(r)
    beta = inverse @ (q.T @ outcome_N)
    residual = outcome_N - design_NK @ beta
    degrees = rows - away.sites - width
    if degrees < 1:
        nothing = Difference(*[float("nan")] * 7)
        return [nothing] * last
    people, who = (rows, None) if person_N is None else _index_of(person_N)
    if who is None or people == rows:
        leverage = (q**2).sum(axis=1) + 1 / away.people[away.site]
        # Whoever is alone at a site is fitted exactly: no residual, and no part in any coefficient.
        free = 1 - leverage > 1e-10
        scaled = np.divide(residual, 1 - leverage, out=np.zeros(rows), where=free)
        score, freedom, factor = q * scaled[:, None], degrees, 1.0
    else:
        score = np.stack(
            [np.bincount(who, weights=c, minlength=people) for c in (q * residual[:, None]).T], 1
        )
        freedom = people - 1
        factor = people / (people - 1) * (rows - 1) / degrees
    covariance = factor * inverse @ (score.T @ score) @ inverse.T
    spread = float(np.sqrt(residual @ residual / degrees))
    small = 1 - 3 / (4 * degrees - 1)
    reach, wide = student.ppf((1 + LEVEL) / 2, freedom), student.ppf((1 + LEVEL) / 2, degrees)
    found = []
    for value, error in list(zip(beta, np.sqrt(np.diag(covariance)), strict=True))[-last:]:
        p = float(2 * student.sf(abs(value) / error, freedom)) if error > 0 else float("nan")
        if spread > 0:
            g = small * value / spread
            g_reach = wide * float(np.sqrt((small * error / spread) ** 2 + g**2 / (2 * degrees)))
        else:
            g = g_reach = float("nan")
        limits = (value - reach * error, value + reach * error)
        numbers = (value, *limits, p, g, g - g_reach, g + g_reach)
        found.append(Difference(*map(float, numbers)))
    return found


def _informative(site: np.ndarray, sites: int, member_NG: np.ndarray) -> int:
    """Scans at sites where at least two groups are, the reference being one of them or not."""
    code = np.where(member_NG.any(axis=1), member_NG.argmax(axis=1) + 1, 0) if member_NG.size else site * 0
    pairs = np.unique(np.stack([site, code]), axis=1)
    mixed = np.bincount(pairs[0], minlength=sites) > 1
    return int(mixed[site].sum())


def _index(names_N: np.ndarray | None, rows: int) -> tuple[np.ndarray, int]:
    if names_N is None:
        return np.zeros(rows, dtype=np.int64), 1
    count, index = _index_of(names_N)
    return index, count


def _index_of(names_N: np.ndarray) -> tuple[int, np.ndarray]:
    names, index = np.unique(np.asarray(names_N).astype(str), return_inverse=True)
    return len(names), index


def _check(
    outcome: np.ndarray, group_N: np.ndarray, reference: str, given: Mapping[str, np.ndarray]
) -> None:
    if not (group_N == reference).any():
        raise UsageError("nobody is in the reference group", where=reference)
    for name, values in {"outcome": outcome, **given}.items():
        if values.shape != outcome.shape or not np.isfinite(values).all():
            raise UsageError(
                "a comparison of groups needs a finite number for each scan",
                where=name,
                hint="leave out the scans without one, and say how many they are",
            )
