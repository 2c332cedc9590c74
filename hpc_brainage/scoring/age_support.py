"""Of which ages there are people enough to say something.

People are near an age if they are at most `within` years younger or older: three years, or half the
standard deviation of the people's ages where that is more, as in a sample of the whole life span. Fewer
than 20 near an age are few: neither a spread of the gap nor what the model makes of such an age is known
from them.
"""

from __future__ import annotations

import numpy as np

from hpc_brainage.model.calibration import AgeCounts

FEWEST_NEAR = 20
_WITHIN_YEARS = 3.0
_WITHIN_SDS = 0.5


def count_ages(age: np.ndarray) -> AgeCounts:
    """How many of these ages, years (n,), n > 0, lie in each whole year of life."""
    first = int(np.floor(age.min()))
    counts = np.bincount(np.floor(age).astype(np.int64) - first)
    within = max(_WITHIN_YEARS, _WITHIN_SDS * float(age.std()))
    return AgeCounts(first=first, counts=tuple(counts.tolist()), within=within)


def people_near(ages: AgeCounts, age: np.ndarray) -> np.ndarray:
    """How many people are near each age (n,); NaN where the age is NaN.

    A year that lies only partly within reach counts with that part.
    """
    years = ages.first + np.arange(len(ages.counts) + 1)
    younger = np.concatenate([[0], np.cumsum(ages.counts)])
    near: np.ndarray = np.interp(age + ages.within, years, younger) - np.interp(
        age - ages.within, years, younger
    )
    return near


def are_few(ages: AgeCounts, age: np.ndarray) -> np.ndarray:
    """Of which ages there are fewer than 20 people near; false where the age is NaN."""
    few: np.ndarray = people_near(ages, age) < FEWEST_NEAR
    return few
