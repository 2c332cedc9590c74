"""Whether a model's brain ages can be used in a cohort that it scored: one question after the other.

Each check asks one thing of the scores, says what was found, and judges it: "yes", "care" (usable with
care), "no", or "open" (this table cannot tell). The thresholds are conventions, and the findings say the
numbers, so that a reader who holds another one can apply it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.evaluation import scan_checks
from hpc_brainage.evaluation.checks import CARE, NO, OPEN, YES, Check, sentences
from hpc_brainage.evaluation.own_evidence import evidence_of
from hpc_brainage.evaluation.scored_accuracy import (
    advantage,
    age_line,
    clusters,
    gap_against_age,
    straight_line,
)
from hpc_brainage.evaluation.scored_coverage import CALIBRATED, FEWEST, NOMINAL, from_even, skewness, wilson
from hpc_brainage.evaluation.scored_evenness import (
    EARLY,
    Ranked,
    against_age,
    by_modalities,
    often_early,
    ranked,
)
from hpc_brainage.model.evidence import Evidence
from hpc_brainage.numerals import interval, many, number, percent, probability
from hpc_brainage.scoring.bias import STILL_A_TREND, WEAK_SLOPE
from hpc_brainage.scoring.flags import FLAGS

FEWEST_TO_JUDGE = 20
SLOPE_OFF = 0.1
MOST_EXPLAINED = 0.05
SHIFT, LARGEST_SHIFT = 0.2, 0.5
"""SDs by which a mean gap is off 0: by as much as groups differ by, and beyond chance; or by more, which no
sample excuses."""
NARROW_AGES = 5.0
BY_CHANCE = 0.05
"""Share of groups whose 95 % interval excludes the truth by chance."""
EVERYONE = "everyone"
UNEVEN = 0.01
"""Below this probability z and p are otherwise than by chance."""
LEAST_DISTANCE = 0.05
"""Kolmogorov and Smirnov's, which matters: in a large cohort any distance is beyond chance."""
EARLY_OFF = 0.02
COVERAGE_OFF = 0.05
MOST_SKEWED = 1.0
FORBIDDING = ("model_no_better_than_mean", "model_barely_follows_age", "predictions_nearly_constant")
"""Flags that take the meaning from a whole table; the scoring run raises them."""


def usability(
    table: pd.DataFrame,
    people: pd.DataFrame,
    who: str,
    about: Mapping[str, Any],
    held: pd.DataFrame,
    healthy: bool,
) -> pd.DataFrame:
    """Judge the scores of a cohort.

    Parameters
    ----------
    table : the score table.
    people : those of its scored scans of known age whose predictions are held against their age: people
        without a diagnosis where they are known, everybody elsewhere.
    who : what these people are called.
    about : the sidecar.
    held : how often the 90 % interval holds the true age of these people and of groups of them
        (`scored_coverage.coverage`); empty where there are no intervals.
    healthy : whether they are known to be people without a diagnosis.

    Returns
    -------
    Columns `check`, `finding`, `judgement`, in the order in which one would ask.
    """
    scored = table[(table["status"] == "scored").to_numpy()]
    evidence = evidence_of(about)
    checks: list[Check | None] = [scan_checks.everybody_scored(table, scored)]
    if len(scored):
        checks += [_forbidden(scored, evidence), _as_good_as_a_ridge(evidence)]
        checks += [*_of_errors(people, who, about, held, healthy), *scan_checks.of_scans(scored, about)]
    rows = [check for check in checks if check is not None]
    return pd.DataFrame(rows, columns=["check", "finding", "judgement"])


def _of_errors(
    people: pd.DataFrame, who: str, about: Mapping[str, Any], held: pd.DataFrame, healthy: bool
) -> list[Check | None]:
    if len(people) < FEWEST_TO_JUDGE:
        finding = (
            f"{many(len(people), 'scored scan')} of known age ({who}); with fewer than {FEWEST_TO_JUDGE}"
            " nothing can be said about errors"
        )
        return [("Do the predictions follow age here?", finding, OPEN)]
    against = {str(row["column"]): row for row in gap_against_age(people).to_dict("records")}
    corrected = against.get("bag_corrected")
    placed = ranked(people, about, FEWEST)
    return [
        _healthy_too(who, healthy),
        _follows(people, who),
        _better_than_the_mean(people),
        _slope(people, about),
        None if corrected is None else _trend_is_out(corrected, against["bag"]["r"]),
        None if corrected is None else _centred(corrected, who, healthy),
        _intervals_hold(held, who),
        None if placed is None else _evenly_spread(placed, who, healthy),
        None if placed is None else _free_of_age(placed, who),
    ]


def _forbidden(scored: pd.DataFrame, evidence: Evidence | None) -> Check | None:
    """What the scoring run itself said against all of its predictions."""
    flags = scored["flags"].fillna("").astype(str)
    raised = {flag: int(flags.str.contains(flag, regex=False).sum()) for flag in FORBIDDING}
    meaning = dict(FLAGS)
    if evidence is not None and evidence.doubt is not None:
        meaning["model_no_better_than_mean"] = f"on held-out people of its training {evidence.doubt}"
    findings = [
        f"{meaning[flag]}: {flag}, {many(scans, 'scan')}" for flag, scans in raised.items() if scans
    ]
    if not findings:
        return None
    return "Did scoring let the predictions stand?", "; ".join(findings), NO


def _as_good_as_a_ridge(evidence: Evidence | None) -> Check | None:
    """Whether a far simpler predictor did better in the training."""
    if evidence is None or evidence.beside_ridge is None:
        return None
    finding = f"on held-out people of its training {evidence.beside_ridge}"
    question = "Does the model do as well as a ridge regression?"
    return question, finding, CARE if evidence.is_behind_ridge else YES


def _follows(people: pd.DataFrame, who: str) -> Check:
    """Whether predicted and true age go together, told from chance."""
    age, predicted = (people[name].to_numpy(dtype=float) for name in ("age", "brain_age"))
    r, limits = straight_line(age, predicted, clusters(people)[0])["r"]
    spread = float(age.std(ddof=1))
    finding = f"between predicted and true age r = {_defined(r)}"
    if limits is not None:
        finding += f" ({_defined(limits.low)} to {_defined(limits.high)})"
    findings = [f"{finding}, {who}: {many(len(people), 'scan')}, {age.min():.0f} to {age.max():.0f} years"]
    if spread < NARROW_AGES:
        findings.append(
            f"their ages hardly differ (SD {spread:.1f} years), so there is little to follow, and a gap is"
            " mostly error"
        )
    if not np.isfinite(r):
        judgement = NO if spread > 0 else OPEN
    elif limits is None:
        judgement = OPEN
    elif limits.low <= 0:
        judgement = NO
    elif spread < NARROW_AGES:
        findings.reverse()
        judgement = CARE
    else:
        judgement = YES
    return "Do the predictions follow age here?", sentences(findings), judgement


def _better_than_the_mean(people: pd.DataFrame) -> Check:
    age = people["age"]
    model = float((people["brain_age"] - age).abs().mean())
    mean = float((age - age.mean()).abs().mean())
    better = advantage(people)
    finding = f"mean absolute error {model:.2f} years; saying the mean age of these people, {mean:.2f}"
    if better is None:
        judgement = OPEN
    else:
        finding += f" (difference {number(better.low, sign=True)} to {number(better.high, sign=True)})"
        judgement = YES if better.high < 0 else NO if better.low > 0 else CARE
    return "Are they better than saying the mean age?", finding, judgement


def _slope(people: pd.DataFrame, about: Mapping[str, Any]) -> Check:
    """Whether predictions spread over age as they did for the training people."""
    question = "Do they spread over age as in the training?"
    line = age_line({"": people}).iloc[0]
    slope, low, high = (float(line[name]) for name in ("slope", "slope_low", "slope_high"))
    bias = (about.get("model") or {}).get("bias") or {}
    expected = (bias.get("everyone") or {}).get("slope")
    finding = f"slope of predicted on true age {_defined(slope)}"
    if np.isfinite(low):
        finding += f" ({_defined(low)} to {_defined(high)})"
    if expected is not None:
        finding += f"; {_defined(expected)} among the training people, held out"
    if not np.isfinite(slope):
        return question, finding, OPEN
    if slope < WEAK_SLOPE:
        return question, f"{finding}; below {WEAK_SLOPE} the predictions barely follow age", NO
    if expected is None or abs(slope - expected) <= SLOPE_OFF:
        return question, finding, YES
    if not np.isfinite(low) or low <= expected <= high:
        finding += "; far off, and too few people to tell it from chance"
    return question, finding, CARE


def _trend_is_out(corrected: Mapping[Any, Any], r_before: float) -> Check:
    question, r, explained = "Is age out of the corrected gap?", corrected["r"], corrected["explained"]
    finding = f"r = {_defined(r)} between corrected gap and age, {_defined(r_before)} before"
    if not np.isfinite(r):
        return question, finding, OPEN
    by_chance = np.isfinite(corrected["r_low"]) and corrected["r_low"] <= 0 <= corrected["r_high"]
    if abs(r) >= STILL_A_TREND and not by_chance:
        return question, f"{finding}; the model's line does not fit this cohort's trend", CARE
    if np.isfinite(explained) and explained > MOST_EXPLAINED:
        finding += (
            f"; but age and age² together explain {percent(explained)} of it: the trend is bent, and"
            " a line leaves the bend"
        )
        return question, finding, CARE
    return question, finding, YES


def _centred(corrected: Mapping[Any, Any], who: str, healthy: bool) -> Check | None:
    """Whether the mean gap is 0: not beyond what chance and a small effect allow."""
    question, mean, sd = "Are the gaps centred?", corrected["mean"], corrected["sd"]
    if not sd > 0:
        return None
    shift, limits = abs(mean / sd), interval(corrected["mean_low"], corrected["mean_high"], sign=True)
    between = f" ({limits})" if limits else ""
    finding = (
        f"mean corrected gap of {who} {number(mean, sign=True)} years{between}, {shift:.2f} of its SD,"
        f" {many(int(corrected['n']), 'scan')}"
    )
    by_chance = not limits or corrected["mean_low"] <= 0 <= corrected["mean_high"]
    if shift < SHIFT or (by_chance and shift < LARGEST_SHIFT):
        return question, finding, YES
    finding += ". All of them are shifted, as by a scanner or other processing"
    if not healthy:
        finding += ", or by a condition of theirs, for no controls stand apart"
    return question, f"{finding}: compare within the cohort only", CARE


def _intervals_hold(held: pd.DataFrame, who: str) -> Check | None:
    """Whether nine in ten ages are inside, over all those judged and in the groups that the page shows."""
    if not len(held) or not (held["people"] == who).any():
        return None
    row = held[held["people"] == who].iloc[0]
    finding = f"of {who} the 90 % interval holds the true age in {_share(row)} of the scans"
    calibrated = held["people"].str.endswith(CALIBRATED)
    for _, one in held[calibrated].iterrows():
        finding += f"; calibrated at their sites, in {_share(one)}"
    findings = [finding]
    close = row["low"] <= NOMINAL <= row["high"] or abs(row["coverage"] - NOMINAL) < COVERAGE_OFF
    groups = held[~calibrated & ~held["people"].isin((who, EVERYONE))]
    excluded = (groups["low"] > NOMINAL) | (groups["high"] < NOMINAL)
    off = groups[excluded & ((groups["coverage"] - NOMINAL).abs() >= COVERAGE_OFF)]
    too_many = len(off) > BY_CHANCE * len(groups)
    if len(off):
        worst = off.loc[(off["coverage"] - NOMINAL).abs().sort_values(ascending=False).index[:3]]
        named = "; ".join(f"{one['people']}: {_share(one)}" for _, one in worst.iterrows())
        findings.append(
            f"the 90 % interval holds too rarely, or too often, in {len(off):,} of"
            f" {many(len(groups), 'group')} shown: {named}"
        )
    if close and too_many:  # what asks for care comes first
        findings.reverse()
    return "Do the intervals hold?", sentences(findings), CARE if too_many or not close else YES


def _share(row: pd.Series) -> str:
    """How often intervals hold, "81 % (74 % to 86 %)"."""
    return f"{percent(row['coverage'])} ({percent(row['low'])} to {percent(row['high'])})"


def _evenly_spread(people: Ranked, who: str, healthy: bool) -> Check:
    """Whether z and p mean here what they meant among the training controls."""
    early, p_early = often_early(people)
    share = early / len(people)
    low, high = wilson(share * people.effective, people.effective)
    distance, by_chance = from_even(people.scans["share"].to_numpy(), people.controls)
    overall = (
        f"of {len(people):,} people ({who}) {_which_p(people)} is below {EARLY:g} for {percent(share)}"
        f" ({percent(low)} to {percent(high)}), where it should be for {percent(EARLY)}; distance from even"
        f" {distance:.2f}, p {probability(by_chance)}"
    )
    uneven = by_chance < UNEVEN and distance >= LEAST_DISTANCE
    uneven |= p_early < UNEVEN and abs(share - EARLY) >= EARLY_OFF
    if uneven:
        overall += ": neither p nor z and centile say here how rare a gap is"
        if not healthy:
            overall += ", unless a condition of these people moves them, for no controls stand apart"
    findings = []
    sets = by_modalities(people)
    off = [one for one in sets if one[3] < UNEVEN / len(sets) and one[2] >= LEAST_DISTANCE]
    if off:
        named = " and ".join(
            f"the {count:,} people with {name}{'' if '+' in name else ' only'} (distance {d:.2f},"
            f" p {probability(p)})"
            for name, count, d, p in off
        )
        findings.append(f"uneven among {named}: do not compare their z and p with the others'")
    skewed = skewness(people.scans["z"].to_numpy())
    if skewed is not None and abs(skewed) > MOST_SKEWED:
        findings.append(f"their z is not normal here (skewness {number(skewed, sign=True)})")
    judgement = CARE if uneven or findings else YES
    findings.insert(0 if uneven else len(findings), overall)  # what asks for care comes first
    return "Are p and z even among these people?", sentences(findings), judgement


def _free_of_age(people: Ranked, who: str) -> Check:
    """z is of people of the same age, so that it should not go with age."""
    question = "Is age out of z and p?"
    r, p = against_age(people)
    name = "the site-calibrated z" if people.calibrated else "z"
    if not np.isfinite(r):
        return question, "their ages, or their z, do not differ", OPEN
    finding = f"Spearman's r = {number(r)} between {name} and age, p {probability(p)} ({who})"
    if not (p < UNEVEN and abs(r) >= STILL_A_TREND):
        return question, finding, YES
    by_age = people.scans.sort_values("age", kind="stable")
    third = len(by_age) // 3
    ends = [
        f"{number(float(end['z'].mean()), sign=True)}"
        f" at {end['age'].min():.0f} to {end['age'].max():.0f} years"
        for end in (by_age.head(third), by_age.tail(third))
    ]
    finding += (
        f". Mean z {ends[0]}, {ends[1]}. Here z, centile and p partly say how old somebody is: they are not"
        " how rare a gap is at the person's age. Compare people of the same ages, or groups with age and"
        " age² as covariates"
    )
    return question, finding, CARE


def _which_p(people: Ranked) -> str:
    return "p_accelerated_site_calibrated" if people.calibrated else "p_accelerated"


def _healthy_too(who: str, healthy: bool) -> Check | None:
    """A table of one diagnosis says nothing of healthy people."""
    if healthy or who == EVERYONE:
        return None
    finding = (
        f"all of them are of the group {who}. What is said here of errors, intervals, z and p is of"
        " these people: no accuracy, and no coverage, of healthy people. Score controls of the same sites"
        " for that"
    )
    return "Are there people without a diagnosis?", finding, CARE


def _defined(value: float) -> str:
    return number(value) if np.isfinite(value) else "not defined"
