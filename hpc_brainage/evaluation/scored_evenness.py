"""Whether z and p of a cohort are spread as those of the training controls that they were made from.

A p is a rank among n controls, so m people like them are not spread evenly but as a second sample is: the
controls' own chance is in it, too. Every test here counts with m n / (n + m) people instead of m.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.evaluation.scored_coverage import from_even
from hpc_brainage.scoring.interpretation import available

EARLY = 0.05
"""Share of people like the training controls whose p is below this very number."""
FEWEST_OF_A_SET = 10
_READ = {"z": "bag_z", "p": "p_accelerated"}


@dataclass(frozen=True)
class Ranked:
    """People with a place among the training controls, one scan each: scans of one person go together.

    Attributes
    ----------
    scans : columns `age` (years), `z`, `p`, `calibrated` (at their sites, whether z and p are), `share` (0
        to 1: training controls below; the middle of the person's own rank) and `has` ("smri+fmri"), one row
        a person.
    norms : training controls that the ranks are among, by `has`; empty where the sidecar does not say.
    """

    scans: pd.DataFrame
    norms: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.scans)

    @property
    def calibrated(self) -> int:
        """Of how many people z and p were calibrated at their sites."""
        return int(self.scans["calibrated"].sum())

    @property
    def controls(self) -> float | None:
        """How many controls make as much chance as the sets of them do together; None if not known.

        The sets are of the same people, so their errors add up as if they were one: a mean of 1 / sqrt(n).
        """
        own = self.scans["has"].map(dict(self.norms))
        if not len(own) or own.isna().any():
            return None
        return float(np.mean(own.to_numpy(dtype=float) ** -0.5) ** -2)

    @property
    def effective(self) -> float:
        """How many people with known norms would be as uncertain: m n / (n + m)."""
        n = self.controls
        return float(len(self)) if n is None else len(self) * n / (len(self) + n)

    def of(self, rows: pd.Series) -> Ranked:
        """Some of these people, by a mask."""
        return Ranked(self.scans[rows.to_numpy()], self.norms)


def as_read(scans: pd.DataFrame) -> pd.DataFrame:
    """z and p of each scan as a reader takes them: calibrated at its site where they are, else plain.

    Returns
    -------
    Columns `z`, `p` (NaN where there are none) and `calibrated`, on the rows of `scans`.
    """
    nobody = pd.Series(np.nan, index=scans.index)
    plain, calibrated = (
        pd.DataFrame({word: scans.get(name + ending, nobody) for word, name in _READ.items()}, dtype=float)
        for ending in ("", "_site_calibrated")
    )
    whole = calibrated.notna().all(axis=1)
    return plain.mask(whole, calibrated).assign(calibrated=whole)


def ranked(people: pd.DataFrame, about: Mapping[str, Any], fewest: int) -> Ranked | None:
    """Those of the scans that have a z and a p, as `as_read` takes them.

    Parameters
    ----------
    people : scored scans of known age.
    about : the sidecar, which says how many controls the norms have.
    fewest : people from which on there is something to say; None with fewer.
    """
    calibration = (about.get("model") or {}).get("calibration") or {}
    norms = {name: int(one["n"]) for name, one in (calibration.get("uniformity") or {}).items()}
    read = as_read(people)
    own = people[read[["z", "p"]].notna().all(axis=1)].drop_duplicates("participant_id")
    if len(own) < fewest:
        return None
    scans = read.loc[own.index].assign(age=own["age"].astype(float), has=available(own))
    width = 1 / (scans["has"].map(norms).astype(float) + 1)  # of a rank
    scans["share"] = (1 - scans["p"] + width.fillna(0) / 2).clip(0, 1)
    return Ranked(scans.reset_index(drop=True), norms)


def often_early(people: Ranked) -> tuple[int, float]:
    """How many have a p below 0.05, and the probability that chance makes it so many or so few.

    The share of new people above the j-th largest of n controls is distributed as Beta(j, n + 1 - j), and
    their count is beta-binomial; binomial where n is not known.
    """
    from scipy.stats import betabinom, binom

    count, n = int((people.scans["p"] < EARLY).sum()), people.controls
    if n is None:
        chance = binom(len(people), EARLY)
    else:
        of = round(n)
        j = max(1, int((np.arange(1, of + 1) / (of + 1) < EARLY).sum()))
        chance = betabinom(len(people), j, of + 1 - j)
    return count, float(min(1.0, 2 * min(chance.cdf(count), chance.sf(count - 1))))


def against_age(people: Ranked) -> tuple[float, float]:
    """Spearman's correlation of z and age with its p (t distribution, `effective` people); NaN without ages
    that differ."""
    from scipy.stats import rankdata
    from scipy.stats import t as students

    age, z = (rankdata(people.scans[name].to_numpy()) for name in ("age", "z"))
    if not (age.std() > 0 and z.std() > 0):
        return float("nan"), float("nan")
    r = float(np.clip(np.corrcoef(age, z)[0, 1], -1, 1))
    df = people.effective - 2
    t = abs(r) * np.sqrt(df / max(1 - r**2, 1e-12))
    return r, float(2 * students.sf(t, df))


def by_modalities(people: Ranked) -> list[tuple[str, int, float, float]]:
    """Name, people, distance from even and its p of each set of modalities that at least ten people have;
    none where all have the same."""
    names = sorted(set(people.scans["has"]))
    sets = {name: people.of(people.scans["has"] == name) for name in names if len(names) > 1}
    return [
        (name, len(own), *from_even(own.scans["share"].to_numpy(), own.controls))
        for name, own in sets.items()
        if len(own) >= FEWEST_OF_A_SET
    ]
