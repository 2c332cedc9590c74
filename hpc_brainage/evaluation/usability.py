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

from hpc_brainage.evaluation.scored_accuracy import (
    advantage,
    age_line,
    clusters,
    gap_against_age,
    straight_line,
)
from hpc_brainage.evaluation.scored_coverage import FEWEST, NOMINAL, from_even, skewness, wilson
from hpc_brainage.evaluation.scored_evenness import (
    EARLY,
    Ranked,
    against_age,
    by_modalities,
    often_early,
    ranked,
)
from hpc_brainage.modality import ROLES
from hpc_brainage.numerals import many, number, percent, probability
from hpc_brainage.scoring.bias import STILL_A_TREND, WEAK_SLOPE
from hpc_brainage.scoring.flags import FLAGS

YES, CARE, NO, OPEN = "yes", "care", "no", "open"
FEWEST_TO_JUDGE = 20
MOST_LEFT_OUT = 0.1
SLOPE_OFF = 0.1
MOST_EXPLAINED = 0.05
LARGEST_SHIFT = 0.5
MOST_OUTSIDE = 0.05
MOST_STRANGE = 0.1
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
MOST_IMPUTED = 0.05
FAR_TOO_MANY_IMPUTED = 0.25
STRANGE = frozenset(
    ("codes_far_from_training", "reconstruction_poor_smri", "reconstruction_poor_fmri",
     "features_out_of_range_smri", "features_out_of_range_fmri", "implausible_age")
)  # fmt: skip
"""Flags of scans that are unlike those of the training people."""
FORBIDDING = ("model_no_better_than_mean", "model_barely_follows_age", "predictions_nearly_constant")
"""Flags that take the meaning from a whole table; the scoring run raises them."""

Check = tuple[str, str, str]
"""Question, finding and judgement."""


def overall(checks: pd.DataFrame) -> str:
    """The judgement that weighs most: "no" before "open" before "care" before "yes"."""
    judged = set(checks["judgement"])
    return next(answer for answer in (NO, OPEN, CARE, YES) if answer in judged)


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
    checks: list[Check | None] = [_everybody_scored(table, scored)]
    if len(scored):
        checks += [_forbidden(scored), *_of_errors(people, who, about, held, healthy)]
        checks += [_ages(scored), _sites(scored), _other_people(scored)]
        checks += [_features(scored, about), _strange(scored)]
        checks += [_quality(scored), _independent_line(scored)]
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
        None if corrected is None else _centred(corrected, who),
        _intervals_hold(held, who),
        None if placed is None else _evenly_spread(placed, who, healthy),
        None if placed is None else _free_of_age(placed, who),
    ]


def _everybody_scored(table: pd.DataFrame, scored: pd.DataFrame) -> Check:
    question, left = "Was everybody scored?", len(table) - len(scored)
    if not len(scored):
        return question, "nobody was scored", NO
    if not left:
        return question, f"all {many(len(table), 'scan')}", YES
    finding = f"{many(left, 'scan')} of {len(table):,} were not ({percent(left / len(table))})"
    return question, finding, CARE if left / len(table) > MOST_LEFT_OUT else YES


def _forbidden(scored: pd.DataFrame) -> Check | None:
    """What the scoring run itself said against all of its predictions."""
    flags = scored["flags"].fillna("").astype(str)
    raised = {flag: int(flags.str.contains(flag, regex=False).sum()) for flag in FORBIDDING}
    findings = [f"{FLAGS[flag]} ({flag}: {many(scans, 'scan')})" for flag, scans in raised.items() if scans]
    if not findings:
        return None
    return "Did scoring let the predictions stand?", "; ".join(findings), NO


def _follows(people: pd.DataFrame, who: str) -> Check:
    """Whether predicted and true age go together, told from chance."""
    age, predicted = (people[name].to_numpy(dtype=float) for name in ("age", "brain_age"))
    r, limits = straight_line(age, predicted, clusters(people)[0])["r"]
    spread = float(age.std(ddof=1))
    finding = f"r = {_defined(r)} between predicted and true age"
    if limits is not None:
        finding += f" ({_defined(limits.low)} to {_defined(limits.high)})"
    finding += f", {who}: {many(len(people), 'scan')}, {age.min():.0f} to {age.max():.0f} years"
    if spread < NARROW_AGES:
        finding += (
            f". Their ages hardly differ (SD {spread:.1f} years), so there is little to follow, and a"
            " gap is mostly error"
        )
    if not np.isfinite(r):
        return "Do the predictions follow age here?", finding, NO if spread > 0 else OPEN
    if limits is None:
        judgement = OPEN
    elif limits.low <= 0:
        judgement = NO
    else:
        judgement = CARE if spread < NARROW_AGES else YES
    return "Do the predictions follow age here?", finding, judgement


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


def _centred(corrected: Mapping[Any, Any], who: str) -> Check | None:
    if not corrected["sd"] > 0:
        return None
    shift = abs(corrected["mean"] / corrected["sd"])
    finding = (
        f"mean corrected gap {number(corrected['mean'], sign=True)} years, {shift:.2f} of its SD ({who})"
    )
    if shift < LARGEST_SHIFT:
        return "Are the gaps centred?", finding, YES
    finding += "; the whole cohort is shifted, as by a scanner or other processing: compare within it only"
    return "Are the gaps centred?", finding, CARE


def _intervals_hold(held: pd.DataFrame, who: str) -> Check | None:
    """Whether nine in ten ages are inside, over all those judged and in the groups that the page shows."""
    if not len(held) or not (held["people"] == who).any():
        return None
    row = held[held["people"] == who].iloc[0]
    finding = (
        f"the 90 % interval holds the true age of {percent(row['coverage'])} of the scans"
        f" ({percent(row['low'])} to {percent(row['high'])}; {who})"
    )
    close = row["low"] <= NOMINAL <= row["high"] or abs(row["coverage"] - NOMINAL) < COVERAGE_OFF
    groups = held[~held["people"].isin((who, "everyone"))]
    excluded = (groups["low"] > NOMINAL) | (groups["high"] < NOMINAL)
    off = groups[excluded & ((groups["coverage"] - NOMINAL).abs() >= COVERAGE_OFF)]
    if not len(off):
        return "Do the intervals hold?", finding, YES if close else CARE
    worst = off.loc[(off["coverage"] - NOMINAL).abs().sort_values(ascending=False).index[:3]]
    named = "; ".join(
        f"{one['people']}: {percent(one['coverage'])} ({percent(one['low'])} to {percent(one['high'])})"
        for one in worst.to_dict("records")
    )
    finding += (
        f". The interval excludes 90 % in {len(off):,} of {many(len(groups), 'group')} shown: {named}"
    )
    too_many = len(off) > BY_CHANCE * len(groups)
    return "Do the intervals hold?", finding, CARE if too_many or not close else YES


def _evenly_spread(people: Ranked, who: str, healthy: bool) -> Check:
    """Whether z and p mean here what they meant among the training controls."""
    early, p_early = often_early(people)
    share = early / len(people)
    low, high = wilson(share * people.effective, people.effective)
    distance, by_chance = from_even(people.scans["share"].to_numpy(), people.controls)
    finding = (
        f"{_which_p(people)} is below {EARLY:g} for {percent(share)} of {len(people):,} people"
        f" ({percent(low)} to {percent(high)}; {who}), where it should be for {percent(EARLY)}; distance"
        f" from even {distance:.2f}, p {probability(by_chance)}"
    )
    uneven = by_chance < UNEVEN and distance >= LEAST_DISTANCE
    uneven |= p_early < UNEVEN and abs(share - EARLY) >= EARLY_OFF
    if uneven:
        finding += ": neither p nor z and centile say here how rare a gap is"
        if not healthy:
            finding += ", unless a condition of these people moves them, for no controls stand apart"
    sets = by_modalities(people)
    off = [one for one in sets if one[3] < UNEVEN / len(sets) and one[2] >= LEAST_DISTANCE]
    for name, count, d, p in off:
        only = "" if "+" in name else " only"
        finding += (
            f". Uneven among the {count:,} people with {name}{only} (distance {d:.2f}, p {probability(p)}):"
            " do not compare their z and p with the others'"
        )
    skewed = skewness(people.scans["z"].to_numpy())
    not_normal = skewed is not None and abs(skewed) > MOST_SKEWED
    if skewed is not None and not_normal:
        finding += f". z is not normal here (skewness {number(skewed, sign=True)})"
    return "Are p and z even among these people?", finding, CARE if uneven or off or not_normal else YES


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
        f"; mean z {ends[0]}, {ends[1]}. Here z, centile and p partly say how old somebody is: they are not"
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


def _ages(scored: pd.DataFrame) -> Check | None:
    if "age_in_training_range" not in scored:
        return None
    known = scored["age_in_training_range"].dropna().astype(bool)
    question = "Are the ages those of the training?"
    if not len(known):
        return question, "no age is known, so there is no gap", OPEN
    outside = int((~known).sum())
    share = outside / len(known)
    finding = f"{many(outside, 'scan')} of {len(known):,} outside ({percent(share)})"
    return question, finding, NO if share > 0.5 else CARE if share > MOST_OUTSIDE else YES


def _sites(scored: pd.DataFrame) -> Check | None:
    if "site_seen" not in scored:
        return None
    unseen = ~scored["site_seen"].to_numpy(dtype=bool)
    question = "Did the training know these sites?"
    if not unseen.any():
        return question, f"all of them ({scored['site'].nunique():,})", YES
    site = scored["site"].fillna("").astype(str)
    not_given = unseen & (site == "").to_numpy()
    if not_given.all():
        return question, "their site is not given, so nobody can tell", CARE
    findings, other = [], unseen & ~not_given
    if other.any():
        sites = many(site[other].nunique(), "site")
        findings.append(
            f"{int(other.sum()):,} of {many(len(scored), 'scan')} from sites that it did not know ({sites})"
        )
    if not_given.any():
        findings.append(f"the site of {int(not_given.sum()):,} of {many(len(scored), 'scan')} is not given")
    return question, "; ".join(findings), CARE


def _other_people(scored: pd.DataFrame) -> Check | None:
    if "in_training" not in scored:
        return None
    question, inside = "Are they other people than the training's?", int(scored["in_training"].sum())
    if not inside:
        return question, "all of them", YES
    finding = (
        f"{many(inside, 'scan')} of {len(scored):,} are of people of the training: scored by members that"
        " never saw them, but the bias line was fitted on them, so that their gaps are centred and without"
        " trend by construction"
    )
    return question, finding, CARE


def _features(scored: pd.DataFrame, about: Mapping[str, Any]) -> Check | None:
    """How many of the model's features took the training median, which looks typical whatever the scan."""
    of_model = (about.get("model") or {}).get("features") or {}
    findings, judgements = [], set()
    for role in ROLES:
        count, there = of_model.get(role), scored.get(f"has_{role}")
        if not count or there is None or not there.any() or f"imputed_{role}" not in scored:
            continue
        share = scored.loc[there.to_numpy(dtype=bool), f"imputed_{role}"].to_numpy(dtype=float) / count
        often = float((share > MOST_IMPUTED).mean())
        finding = f"{role}: {percent(float(share.mean()))} of {count:,} features missing on average"
        if often:
            lacking = many(int((share > MOST_IMPUTED).sum()), "scan")
            finding += f", more than {percent(MOST_IMPUTED)} in {lacking}"
        findings.append(finding)
        judgements.add(CARE if share.mean() > MOST_IMPUTED or often > MOST_STRANGE else YES)
        if share.mean() > FAR_TOO_MANY_IMPUTED:
            findings[-1] += (
                ", so many that this is hardly the model that was tested: its errors, intervals, z and p"
                " are those of scans with all features"
            )
    if not findings:
        return None
    finding = "; ".join(findings)
    if CARE in judgements:
        finding += (
            ". They took the training median and so look typical: the checks of how unlike the training"
            " these scans are (reconstruction, Mahalanobis, range) come out too well"
        )
    return "Did the store have the model's features?", finding, CARE if CARE in judgements else YES


def _strange(scored: pd.DataFrame) -> Check | None:
    own = scored["flags"].fillna("").astype(str).str.split(";")
    strange = int(sum(bool(STRANGE & set(flags)) for flags in own))
    if not strange and "mahalanobis" not in scored:
        return None
    share = strange / len(scored)
    finding = f"{many(strange, 'scan')} unlike those of the training people ({percent(share)})"
    return "Are the scans like those of the training?", finding, CARE if share > MOST_STRANGE else YES


def _quality(scored: pd.DataFrame) -> Check | None:
    if "qc_status" not in scored or not scored["qc_status"].isin(["pass", "flag", "fail"]).any():
        return None
    counts = scored["qc_status"].value_counts()
    failed, flagged = int(counts.get("fail", 0)), int(counts.get("flag", 0))
    finding = f"{many(failed, 'scan')} failed and {flagged:,} flagged; none was left out for it"
    return "Is the image quality sufficient?", finding, CARE if failed else YES


def _independent_line(scored: pd.DataFrame) -> Check | None:
    if "bias_fit" not in scored or not scored["bias_fit"].fillna("").str.startswith("in_cohort").any():
        return None
    finding = "it was fitted on the scans that were scored, and took out part of what differs among them"
    return "Is the bias line independent of these scans?", finding, CARE


def _defined(value: float) -> str:
    return number(value) if np.isfinite(value) else "not defined"
