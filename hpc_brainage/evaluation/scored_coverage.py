"""Whether the uncertainty that stands in a score table holds in the cohort that was scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.numerals import many
from hpc_brainage.scoring.uncertainty import LEVEL

NOMINAL = LEVEL
"""Share of people whose age `pi90_lo` to `pi90_hi` should hold, if they are like the training people."""
FEWEST = 20
BINS = 10
_WITHIN_95 = 1.959963984540054
"""SDs of a normal distribution around its mean that hold 95 % of it."""
ENDS_FROM = 80
"""Judged people from which on the twenty youngest and the twenty oldest are looked at by themselves."""


def parts(judged: pd.DataFrame, who: str) -> dict[str, pd.DataFrame]:
    """Those whose predictions are held against their age: all, by sex, third of age, end of age, and site.

    The ends are single, because the training had the fewest people there, and a third hides them; one scan
    of each person makes them.
    """
    people = judged["participant_id"].nunique()
    own = {who: judged}
    for sex in ("F", "M"):
        own[f"{who}: {sex}"] = judged[judged["sex"] == sex]
    if people >= 3 * FEWEST:
        low, high = np.quantile(judged["age"], [1 / 3, 2 / 3])
        own[f"{who}: below {low:.0f} years"] = judged[judged["age"] < low]
        own[f"{who}: {low:.0f} to {high:.0f} years"] = judged[judged["age"].between(low, high)]
        own[f"{who}: above {high:.0f} years"] = judged[judged["age"] > high]
    if people >= ENDS_FROM:
        by_age = judged.sort_values("age", kind="stable")
        first, last = (by_age.drop_duplicates("participant_id", keep=end) for end in ("first", "last"))
        for end, scans in (("youngest", first.head(FEWEST)), ("oldest", last.tail(FEWEST))):
            ages = f"{scans['age'].min():.0f} to {scans['age'].max():.0f} years"
            own[f"{who}: the {FEWEST} {end}, {ages}"] = scans
    sites = sorted(set(judged["site"]))
    for site in sites if len(sites) > 1 else ():
        own[f"site {site or 'not known'}"] = judged[judged["site"] == site]
    return own


def coverage(groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How often the 90 % interval holds the true age, for each group of scans.

    A person counts once, with the share of their scans whose interval holds: further scans of somebody say
    little more of how often intervals hold.

    Parameters
    ----------
    groups : by name, scored scans of known age, with `pi90_lo` and `pi90_hi` (years).

    Returns
    -------
    Columns `people` (the group's name), `n` (its people) and `scans`, `coverage` with `low` and `high`
    (95 %, Wilson 1927), `p` (`off_by_chance`), `median_width` (years). Only scans that have an interval
    count, and groups with fewer than twenty people who have one are left out.
    """
    rows = []
    for name, scans in groups.items():
        known = scans[["participant_id", "age", "pi90_lo", "pi90_hi"]].dropna()
        held = (known["age"] >= known["pi90_lo"]) & (known["age"] <= known["pi90_hi"])
        of_person = held.groupby(known["participant_id"]).mean()
        if len(of_person) < FEWEST:
            continue
        low, high = wilson(of_person.sum(), len(of_person))
        width = float((known["pi90_hi"] - known["pi90_lo"]).median())
        rows.append(
            {"people": name, "n": len(of_person), "scans": len(known), "coverage": of_person.mean(),
             "low": low, "high": high, "p": off_by_chance(of_person.sum(), len(of_person)),
             "median_width": width}
        )  # fmt: skip
    return pd.DataFrame(rows)


def of_whom(row: Mapping[Any, Any] | pd.Series) -> str:
    """The people of a row of `coverage`, "165 people", or "30 people (60 scans)"."""
    people = many(int(row["n"]), "person", "people")
    return people + (f" ({many(int(row['scans']), 'scan')})" if row["scans"] != row["n"] else "")


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


def off_by_chance(count: float, of: int) -> float:
    """The probability that chance alone takes a count as far off `NOMINAL`: twice the binomial tail, by the
    incomplete beta function, so that counts need not be whole."""
    from scipy.special import betainc

    fewer = betainc(of - count, count + 1, 1 - NOMINAL) if count < of else 1.0
    more = betainc(count, of - count + 1, NOMINAL) if count > 0 else 1.0
    return float(min(1.0, 2 * min(fewer, more)))


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
