"""Scans that stand in two score tables of one model, recognised by what the model says of them.

Identifiers, sites and dates of birth are given anew when a cohort is handed on; the scan's numbers are not.
A model gives the same scan the same numbers but for the order of sums in single precision, and two scans
different ones: the ages from each modality alone, how far the code is from those of the training, how well
each modality is rebuilt from it. (`brain_age` of both modalities together is left out, for it follows from
much the same codes.)

How many pairs agree by chance is counted, too. Two people of one table agree in a number with the chance
p; over all numbers that a pair agrees in, the chances are multiplied. Others that are compared might have
agreed instead, so the chances of all sets of them that are no likelier are added up; times the pairs that
there are, this is how many such pairs are to be expected. Ages may be shifted and sexes coded the other way
round, so all pairs count at first; where that leaves a doubt, those of one sex and about the same age,
which are fewer. One number that agrees while another differs is never enough.

On ABIDE I and AOMIC PIOP2 p is 2 to 5 in 100,000 of an age, 4 to 9 in 100,000 of a reconstruction and 5 to
8 in 10,000 of `mahalanobis`, and one pair in seven to one in three is of about the same age. So of 50,000
scans and 1,000 controls 0.00002 to 0.0002 pairs agree by chance in all three numbers of a scan with one
modality; and of those of about the same age 0.007 to 0.07 in an age and a reconstruction alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from hpc_brainage.scoring.interpretation import available
from hpc_brainage.scoring.table import numbers

_AGES = ("brain_age_smri_only", "brain_age_fmri_only", "brain_age")
_OF_ALL = "mahalanobis"
_NUMBERS = (*_AGES[:2], "recon_z_smri", "recon_z_fmri", _OF_ALL)
SAME = 1e-4
"""Years, or the number's own unit: rounding in single precision, and of the six digits in a TSV."""
WITHIN_YEARS = 1.0
"""Ages that are rounded, or from other dates, are off by no more."""
SURE = 0.01
"""Pairs that are expected by chance; with fewer, what agrees is the same scan."""
_TELLS = 0.01  # a number that more pairs of people share tells nobody apart
_SEXES = ("F", "M")


@dataclass(frozen=True)
class Pairs:
    """Scans of one table that may be scans of another; arrays (P,).

    Attributes
    ----------
    first, second : their rows in the two tables.
    near : whether they are of one sex and at most a year apart in age, or it is not known.
    by_chance : how many pairs that agree in as much, and are as near, are to be expected by chance, in all
        of the two tables.
    agreeing : in how many numbers they agree.
    contradicted : whether another number differs that should agree, too.
    told_by : the numbers that were looked at; none where people share each of them, as of rounded ones.
    """

    first: np.ndarray
    second: np.ndarray
    near: np.ndarray
    by_chance: np.ndarray
    agreeing: np.ndarray
    contradicted: np.ndarray
    told_by: tuple[str, ...]

    @property
    def sure(self) -> np.ndarray:
        """Which are the same scan: more agrees than by chance, and two numbers or more if others differ."""
        return (self.by_chance < SURE) & (~self.contradicted | (self.agreeing > 1))

    def take(self, chosen: np.ndarray) -> Pairs:
        return Pairs(
            self.first[chosen],
            self.second[chosen],
            self.near[chosen],
            self.by_chance[chosen],
            self.agreeing[chosen],
            self.contradicted[chosen],
            self.told_by,
        )


def same_scans(one: pd.DataFrame, other: pd.DataFrame) -> Pairs:
    """Pairs of rows that agree in numbers: in so many that they are the same scan whatever age and sex are
    said to be, or in at least one, being of one sex and at most a year apart in age.

    A sex or an age that is unknown agrees with any; an unknown number agrees with none.

    Parameters
    ----------
    one, other : rows of score tables by the same model, all of them scored.
    """
    names = [name for name in _NUMBERS if name in one and name in other]
    if not set(_AGES) & set(names):
        names.insert(0, "brain_age")
    chance = {name: _chance(numbers(one, name), numbers(other, name)) for name in names}
    chance = {name: p for name, p in chance.items() if p <= _TELLS}
    keys = [np.zeros(0, dtype=np.int64)]
    for name in chance:
        first, second = _agreeing(numbers(one, name), numbers(other, name))
        keys.append(first * len(other) + second)
    first, second = np.divmod(np.unique(np.concatenate(keys)), max(len(other), 1))

    apart = np.abs(numbers(one, "age")[first] - numbers(other, "age")[second])
    sex, sex_too = one["sex"].to_numpy(dtype=object)[first], other["sex"].to_numpy(dtype=object)[second]
    known = np.isin(sex, _SEXES) & np.isin(sex_too, _SEXES)
    near = ~(apart > WITHIN_YEARS) & ((sex == sex_too) | ~known)
    same_modalities = available(one)[first] == available(other)[second]

    off_by = {n: np.abs(numbers(one, n)[first] - numbers(other, n)[second]) for n in chance}
    contradicted = np.zeros(len(first), dtype=bool)
    for name, off in off_by.items():
        # An age is by the sex, too, and the distance is over the modalities that there are.
        should = same_modalities if name == _OF_ALL else (sex == sex_too) | (name not in _AGES)
        contradicted |= should & (off > SAME)
    off_NP = np.array([*off_by.values()]).reshape(len(chance), len(first))
    of_a_pair = _no_likelier(np.array([*chance.values()]), off_NP <= SAME, np.isfinite(off_NP))
    among_all = of_a_pair * len(one) * len(other)
    by_chance = np.where(near, of_a_pair * _pairs_near(one, other), among_all)
    agreeing = (off_NP <= SAME).sum(axis=0)
    found = Pairs(first, second, near, by_chance, agreeing, contradicted, tuple(chance))
    return found.take(near | (among_all < SURE))


def _agreeing(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in a and in b of all pairs that are the same number; NaN are in none."""
    order = np.argsort(b)[: np.isfinite(b).sum()]
    low, high = _ends(a, b[order], SAME)
    count = high - low
    before = np.cumsum(count) - count
    second = np.arange(count.sum()) - np.repeat(before - low, count)
    return np.repeat(np.arange(len(a)), count), order[second]


def _ends(a: np.ndarray, sorted_b: np.ndarray, within: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the numbers that are at most so far from each of a begin and end in the sorted ones."""
    low = np.searchsorted(sorted_b, a - within, side="left")
    high = np.searchsorted(sorted_b, a + within, side="right")
    return low, np.where(np.isfinite(a), high, low)


def _chance(a: np.ndarray, b: np.ndarray) -> float:
    """The share of pairs within either table that agree, one more counted: there, people are others."""
    agree, pairs = 1, 0
    for own in (np.sort(each[np.isfinite(each)]) for each in (a, b)):
        low, high = _ends(own, own, SAME)
        agree += int((high - low - 1).sum()) // 2
        pairs += len(own) * (len(own) - 1) // 2
    return agree / max(pairs, 1)


def _no_likelier(chance_N: np.ndarray, agree_NP: np.ndarray, compared_NP: np.ndarray) -> np.ndarray:
    """The chance that two people agree in the numbers that a pair agrees in, or in others of those compared
    that are no likelier to; (P,)."""
    own = np.where(agree_NP.T, chance_N, 1.0).prod(axis=1) * (1 + 1e-9)
    total = np.zeros(len(own))
    for size in range(1, len(chance_N) + 1):
        for chosen in map(list, combinations(range(len(chance_N)), size)):
            p = chance_N[chosen].prod()
            total += np.where((p <= own) & compared_NP[chosen].all(axis=0), p, 0.0)
    return total


def _pairs_near(one: pd.DataFrame, other: pd.DataFrame) -> int:
    a, b = numbers(one, "age"), numbers(other, "age")
    low, high = _ends(a, np.sort(b[np.isfinite(b)]), WITHIN_YEARS)
    unknown = len(a) * len(b) - int(np.isfinite(a).sum()) * int(np.isfinite(b).sum())
    return int((high - low).sum()) + unknown
