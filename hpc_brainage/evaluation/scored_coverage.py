"""Whether the uncertainty that stands in a score table holds in the cohort that was scored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hpc_brainage.scoring.uncertainty import LEVEL

NOMINAL = LEVEL
"""Share of people whose age `pi90_lo` to `pi90_hi` should hold, if they are like the training people."""
FEWEST = 20
BINS = 10
_WITHIN_95 = 1.959963984540054
"""SDs of a normal distribution around its mean that hold 95 % of it."""
ENDS_FROM = 80
"""Judged scans from which on the twenty youngest and the twenty oldest are looked at by themselves."""


def parts(judged: pd.DataFrame, who: str) -> dict[str, pd.DataFrame]:
    """Those whose predictions are held against their age: all, by sex, third of age, end of age, and site.

    The ends are single, because the training had the fewest people there, and a third hides them.
    """
    own = {who: judged}
    for sex in ("F", "M"):
        own[f"{who}: {sex}"] = judged[judged["sex"] == sex]
    if len(judged) >= 3 * FEWEST:
        low, high = np.quantile(judged["age"], [1 / 3, 2 / 3])
        own[f"{who}: below {low:.0f} years"] = judged[judged["age"] < low]
        own[f"{who}: {low:.0f} to {high:.0f} years"] = judged[judged["age"].between(low, high)]
        own[f"{who}: above {high:.0f} years"] = judged[judged["age"] > high]
    if len(judged) >= ENDS_FROM:
        by_age = judged.sort_values("age", kind="stable")
        for end, scans in (("youngest", by_age.head(FEWEST)), ("oldest", by_age.tail(FEWEST))):
            ages = f"{scans['age'].min():.0f} to {scans['age'].max():.0f} years"
            own[f"{who}: the {FEWEST} {end}, {ages}"] = scans
    sites = sorted(set(judged["site"]))
    for site in sites if len(sites) > 1 else ():
        own[f"site {site or 'not known'}"] = judged[judged["site"] == site]
    return own


def coverage(groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How often the 90 % interval holds the true age, for each group of scans.

    Parameters
    ----------
    groups : by name, scored scans of known age, with `pi90_lo` and `pi90_hi` (years).

    Returns
    -------
    Columns `people`, `n`, `coverage` with `low` and `high` (95 %, Wilson 1927), `median_width` (years).
    Only scans that have an interval count, and groups with fewer than twenty of them are left out.
    """
    rows = []
    for name, scans in groups.items():
        known = scans[["age", "pi90_lo", "pi90_hi"]].dropna()
        if len(known) < FEWEST:
            continue
        held = (known["age"] >= known["pi90_lo"]) & (known["age"] <= known["pi90_hi"])
        low, high = wilson(int(held.sum()), len(known))
        width = float((known["pi90_hi"] - known["pi90_lo"]).median())
        rows.append(
            {"people": name, "n": len(known), "coverage": float(held.mean()), "low": low, "high": high,
             "median_width": width}
        )  # fmt: skip
    return pd.DataFrame(rows)


def calibrated_coverage(judged: pd.DataFrame, who: str) -> pd.DataFrame:
    """How often intervals hold that were calibrated at their sites, and how often those of the same people
    did before: the two rows of `coverage`, or none."""
    ends = {f"{end}_site_calibrated": end for end in ("pi90_lo", "pi90_hi")}
    if not set(ends) <= set(judged):
        return pd.DataFrame()
    own = judged[judged[list(ends)].notna().all(axis=1)]
    after = own.drop(columns=list(ends.values())).rename(columns=ends)
    return coverage({f"{who}, calibrated at their sites": after, "the same people before": own})


def wilson(count: float, of: float) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209)."""
    z2 = _WITHIN_95**2
    share = count / of
    centre = (share + z2 / (2 * of)) / (1 + z2 / of)
    reach = np.sqrt(z2) / (1 + z2 / of) * np.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return float(max(0.0, centre - reach)), float(min(1.0, centre + reach))


def evenness(
    centile: np.ndarray, controls: float | None = None
) -> tuple[pd.DataFrame, float | None, float | None]:
    """How centiles of the gap are spread: evenly, if the people scored are like the training controls.

    Parameters
    ----------
    centile : 0 to 100; NaN is left out.
    controls : how many controls the centiles are of; None where they are not known.

    Returns
    -------
    Columns `from`, `to` (centiles), `n`, `expected`, `reach` (what 95 % of the counts are off it by, the
    controls' own chance included); and the largest distance between the centiles'
    distribution and the even one (Kolmogorov-Smirnov, 0 to 1) with the probability that chance alone makes
    it as large. No rows and None for fewer than twenty.
    """
    known = np.sort(centile[np.isfinite(centile)]) / 100
    if len(known) < FEWEST:
        return pd.DataFrame(), None, None
    counts, edges = np.histogram(known, bins=BINS, range=(0, 1))
    more = 0.0 if controls is None else len(known) / controls
    reach = _WITHIN_95 * np.sqrt(len(known) / BINS * (1 - 1 / BINS) * (1 + more))
    table = pd.DataFrame(
        {"from": 100 * edges[:-1], "to": 100 * edges[1:], "n": counts, "expected": len(known) / BINS,
         "reach": reach}
    )  # fmt: skip
    distance, p = from_even(known, controls)
    return table, distance, p


def from_even(share: np.ndarray, controls: float | None = None) -> tuple[float, float]:
    """The largest distance of values of 0 to 1 from an even spread, and its p (Kolmogorov-Smirnov).

    Places of m values among n `controls` are a comparison of two samples, whose distance is distributed as
    that of m n / (n + m) values from what is known (Smirnov 1948, Ann. Math. Stat. 19:279).
    """
    from scipy.stats import kstwo

    own = np.sort(share)
    step = np.arange(1, len(own) + 1) / len(own)
    distance = max(float((step - own).max()), float((own - step + 1 / len(own)).max()))
    people = len(own) if controls is None else max(1, round(len(own) * controls / (len(own) + controls)))
    return distance, float(kstwo.sf(distance, people))


def skewness(values: np.ndarray) -> float | None:
    """Third moment over the SD cubed, 0 for normal values; None for fewer than twenty, or all the same."""
    known = values[np.isfinite(values)]
    if len(known) < FEWEST or not known.std() > 0:
        return None
    return float((((known - known.mean()) / known.std()) ** 3).mean())
