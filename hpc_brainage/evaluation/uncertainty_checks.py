"""Whether intervals, z and p mean in a cohort what they meant in the training: three checks."""

from __future__ import annotations

import pandas as pd

from hpc_brainage.evaluation.checks import CARE, OPEN, YES, Check
from hpc_brainage.evaluation.intervals import SIGNIFICANT
from hpc_brainage.evaluation.judged import EVERYONE
from hpc_brainage.evaluation.scored_coverage import NOMINAL, from_even, of_whom, skewness, wilson
from hpc_brainage.evaluation.scored_evenness import EARLY, Ranked, against_age, by_modalities, often_early
from hpc_brainage.numerals import many, number, percent, probability
from hpc_brainage.scoring.bias import STILL_A_TREND

COVERAGE_OFF = 0.05
UNEVEN = 0.01
"""Below this probability z and p are otherwise than by chance."""
LEAST_DISTANCE = 0.05
"""Kolmogorov and Smirnov's, which matters: in a large cohort any distance is beyond chance."""
EARLY_OFF = 0.02
MOST_SKEWED = 1.0
_MOST_NAMED = 3

Finding = tuple[bool, str]
"""Whether it asks for care, and what was found."""


def intervals_hold(held: pd.DataFrame, calibrated: pd.DataFrame, who: str) -> Check | None:
    """Whether nine in ten ages are inside, over all those judged and in the groups that the page shows.

    Parameters
    ----------
    held : `scored_coverage.coverage` of those judged and of groups of them.
    calibrated : the same of those whose intervals were calibrated at their sites, and of the same people
        before; empty where there are none.
    who : what those judged are called.
    """
    if not len(held) or not (held["people"] == who).any():
        return None
    held = held.assign(matters=(held["coverage"] - NOMINAL).abs().round(6) >= COVERAGE_OFF)
    row = held[held["people"] == who].iloc[0]
    groups = held[~held["people"].isin((who, EVERYONE))]
    # Of many groups one is off by chance alone, so each is asked for more (Bonferroni).
    off = groups[groups["matters"] & (groups["p"] < SIGNIFICANT / max(1, len(groups)))]
    rarely, often = off[off["coverage"] < NOMINAL], off[off["coverage"] > NOMINAL]
    finding = f"of {who} the 90 % interval holds the true age in {_share(row)}"
    if len(off):
        finding += f"; farthest off, {_named(off, 1)}"
    if len(calibrated):
        after, before = (_share(row) for _, row in calibrated.iterrows())
        finding += f"; calibrated at their sites, in {after}, and these before that in {before}"
    groups_off = []
    for word, some in (("rarely", rarely), ("often", often)):
        if len(some):
            of_groups = f"{len(some):,} of {many(len(groups), 'group')} shown"
            groups_off.append(f"too {word} in {of_groups}: {_named(some, _MOST_NAMED)}")
    holds = not len(off) and not (row["matters"] and row["p"] < SIGNIFICANT)
    return Check("Do the intervals hold?", finding, YES if holds else CARE, tuple(groups_off))


def _named(groups: pd.DataFrame, most: int) -> str:
    """The groups whose coverage is farthest off."""
    farthest = groups.loc[(groups["coverage"] - NOMINAL).abs().sort_values(ascending=False).index[:most]]
    return "; ".join(f"{row['people']}: {_share(row)}" for _, row in farthest.iterrows())


def _share(row: pd.Series) -> str:
    """How often intervals hold, "81 % (74 % to 86 %) of 165 people"."""
    between = f"{percent(row['low'])} to {percent(row['high'])}"
    return f"{percent(row['coverage'])} ({between}) of {of_whom(row)}"


def evenly_spread(people: Ranked, who: str, healthy: bool) -> Check:
    """Whether z and p mean here what they meant among the training controls."""
    found = [_spread(people, who, healthy), *_spread_of_sets(people), *_normal(people)]
    found.sort(key=lambda one: not one[0])  # what asks for care comes first
    answer, *explanation = (words for _, words in found)
    judgement = CARE if any(off for off, _ in found) else YES
    return Check("Are p and z even among these people?", answer, judgement, tuple(explanation))


def _spread(people: Ranked, who: str, healthy: bool) -> Finding:
    """How often p is small, and how far it is from even."""
    early, p_early = often_early(people)
    share = early / len(people)
    low, high = wilson(share * people.effective, people.effective)
    distance, by_chance = from_even(people.scans["share"].to_numpy(), people.controls)
    words = (
        f"of {_named_people(people, who)} p is below {EARLY:g} for {percent(share)}"
        f" ({percent(low)} to {percent(high)}), where it should be for {percent(EARLY)}; distance from even"
        f" {distance:.2f}, p {probability(by_chance)}"
    )
    uneven = by_chance < UNEVEN and distance >= LEAST_DISTANCE
    uneven |= p_early < UNEVEN and abs(share - EARLY) >= EARLY_OFF
    if uneven:
        words += ": neither p nor z and centile say here how rare a gap is"
        if not healthy:
            words += ", unless a condition of these people moves them, for no controls stand apart"
    return uneven, words


def _spread_of_sets(people: Ranked) -> list[Finding]:
    """The sets of modalities whose people are uneven by themselves, if there are any."""
    sets = by_modalities(people)
    named = " and ".join(
        f"the {count:,} people with {name}{'' if '+' in name else ' only'} (distance {distance:.2f},"
        f" p {probability(p)})"
        for name, count, distance, p in sets
        if p < UNEVEN / len(sets) and distance >= LEAST_DISTANCE
    )
    return [(True, f"uneven among {named}: do not compare their z and p with the others'")] if named else []


def _normal(people: Ranked) -> list[Finding]:
    skewed = skewness(people.scans["z"].to_numpy())
    if skewed is None or abs(skewed) <= MOST_SKEWED:
        return []
    return [(True, f"their z is not normal here (skewness {number(skewed, sign=True)})")]


def free_of_age(people: Ranked, who: str) -> Check:
    """z is of people of the same age, so that it should not go with age."""
    question = "Is age out of z and p?"
    r, p = against_age(people)
    if r != r:
        return Check(question, "their ages, or their z, do not differ", OPEN)
    finding = f"Spearman's r = {number(r)}, p {probability(p)}, of {_named_people(people, who)}"
    if not (p < UNEVEN and abs(r) >= STILL_A_TREND):
        return Check(question, f"between z and age {finding}", YES)
    by_age = people.scans.sort_values("age", kind="stable")
    third = len(by_age) // 3
    ends = [
        f"{number(float(end['z'].mean()), sign=True)}"
        f" at {end['age'].min():.0f} to {end['age'].max():.0f} years"
        for end in (by_age.head(third), by_age.tail(third))
    ]
    explanation = (
        f"mean z {ends[0]}, {ends[1]}",
        "here z, centile and p partly say how old somebody is: they are not how rare a gap is at the"
        " person's age",
        "compare people of the same ages, or groups with age and age² as covariates",
    )
    return Check(question, f"z {'rises' if r > 0 else 'falls'} with age, {finding}", CARE, explanation)


def _named_people(people: Ranked, who: str) -> str:
    """Those judged, and how many of their z and p were calibrated at their sites."""
    if people.calibrated:
        of_them = "all" if people.calibrated == len(people) else f"{people.calibrated:,}"
        who += f"; z and p of {of_them} calibrated at their sites"
    return f"{len(people):,} people ({who})"
