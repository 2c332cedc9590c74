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
from hpc_brainage.evaluation.checks import CARE, NO, OPEN, YES, Check, as_table
from hpc_brainage.evaluation.intervals import SIGNIFICANT
from hpc_brainage.evaluation.judged import EVERYONE, Judged
from hpc_brainage.evaluation.own_evidence import bias_lines, evidence_of
from hpc_brainage.evaluation.scored_accuracy import (
    advantage,
    age_line,
    clusters,
    gap_against_age,
    straight_line,
)
from hpc_brainage.evaluation.scored_coverage import FEWEST
from hpc_brainage.evaluation.scored_evenness import Ranked, as_read
from hpc_brainage.evaluation.uncertainty_checks import evenly_spread, free_of_age, intervals_hold
from hpc_brainage.model.evidence import Evidence
from hpc_brainage.numerals import interval, many, number, percent, probability
from hpc_brainage.scoring.bias import STILL_A_TREND, WEAK_SLOPE, expected_ages
from hpc_brainage.scoring.flags import FLAGS

SLOPE_OFF = 0.1
MOST_EXPLAINED = 0.05
BENT = 0.01
"""Below this probability age and age² explain what is left, and age² adds to age."""
SHIFT, LARGEST_SHIFT = 0.2, 0.5
"""SDs by which a mean gap is off 0: by as much as groups differ by, if beyond chance; or by more, which no
sample excuses."""
_CENTRED = {
    "bag_corrected": "corrected gap",
    "bag_site_calibrated": "gap calibrated at the site",
    "bag_z": "z",
    "bag_z_site_calibrated": "z calibrated at the site",
}
"""The columns whose means should be 0, and what they are called."""
_OF_Z = ("bag_z", "bag_z_site_calibrated")
NARROW_AGES = 5.0
FORBIDDING = ("model_no_better_than_mean", "model_barely_follows_age", "predictions_nearly_constant")
"""Flags that take the meaning from a whole table; the scoring run raises them."""


def usability(
    table: pd.DataFrame,
    of: Judged,
    about: Mapping[str, Any],
    held: pd.DataFrame,
    calibrated: pd.DataFrame,
    placed: Ranked | None,
) -> pd.DataFrame:
    """Judge the scores of a cohort.

    Parameters
    ----------
    table : the score table.
    of : those of it whose predictions are held against their age.
    about : the sidecar.
    held : how often the 90 % interval holds the true age of these people and of groups of them
        (`scored_coverage.coverage`); empty where there are no intervals.
    calibrated : the same of intervals that were calibrated at their sites
        (`scored_coverage.calibrated_coverage`).
    placed : these people's places among the training controls; None where too few have one.

    Returns
    -------
    `checks.as_table`, in the order in which one would ask.
    """
    scored = table[(table["status"] == "scored").to_numpy()]
    evidence = evidence_of(about)
    checks: list[Check | None] = [scan_checks.everybody_scored(table, scored)]
    if len(scored):
        checks += [_forbidden(scored, evidence), _as_good_as_a_ridge(evidence)]
        checks += [*_of_errors(of, about, held, calibrated, placed), *scan_checks.of_scans(scored, about)]
    return as_table(check for check in checks if check is not None)


def _of_errors(
    of: Judged,
    about: Mapping[str, Any],
    held: pd.DataFrame,
    calibrated: pd.DataFrame,
    placed: Ranked | None,
) -> list[Check | None]:
    people, who, healthy = of.people, of.who, of.healthy
    if len(people) < FEWEST:
        finding = (
            f"{many(len(people), 'scored scan')} of known age ({who}); with fewer than {FEWEST}"
            " nothing can be said about errors"
        )
        return [Check("Do the predictions follow age here?", finding, OPEN)]
    against = {str(row["column"]): row for row in gap_against_age(people).to_dict("records")}
    corrected = against.get("bag_corrected")
    return [
        _healthy_too(who, healthy),
        _follows(people, who),
        better_than_the_mean(people, who),
        _slope(people, who, about),
        None if corrected is None else _trend_is_out(corrected, against["bag"]["r"], who),
        _centred(people, who, healthy),
        intervals_hold(held, calibrated, who),
        None if placed is None else evenly_spread(placed, who, healthy),
        None if placed is None else free_of_age(placed, who),
    ]


def _forbidden(scored: pd.DataFrame, evidence: Evidence | None) -> Check | None:
    """What the scoring run itself said against all of its predictions."""
    flags = scored["flags"].fillna("").astype(str)
    raised = {flag: int(flags.str.contains(flag, regex=False).sum()) for flag in FORBIDDING}
    meaning = dict(FLAGS)
    if evidence is not None and evidence.doubt is not None:
        meaning["model_no_better_than_mean"] = f"on held-out people of its training {evidence.doubt}"
    findings = [f"{meaning[flag]}: {many(scans, 'scan')}" for flag, scans in raised.items() if scans]
    if not findings:
        return None
    return Check("Did scoring let the predictions stand?", "; ".join(findings), NO)


def _as_good_as_a_ridge(evidence: Evidence | None) -> Check | None:
    """Whether a far simpler predictor did better in the training."""
    if evidence is None or evidence.beside_ridge is None:
        return None
    finding = f"on held-out people of its training {evidence.beside_ridge}"
    question = "Does the model do as well as a ridge regression?"
    return Check(question, finding, CARE if evidence.is_behind_ridge else YES)


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
    return Check("Do the predictions follow age here?", findings[0], judgement, tuple(findings[1:]))


def better_than_the_mean(people: pd.DataFrame, who: str) -> Check:
    """Whether the model errs less than saying the mean age of the people that it is judged on.

    A tie is no plain no where the model errs less, or where it is kept from being better by a mean gap: a
    shift of all of them leaves comparisons within the cohort.

    Parameters
    ----------
    people : those judged, scored scans of known age; `who` is what they are called.
    """
    age, gap = people["age"], people["brain_age"] - people["age"]
    model, mean = float(gap.abs().mean()), float((age - age.mean()).abs().mean())
    question = "Are they better than saying the mean age?"
    finding = (
        f"mean absolute error {model:.2f} years ({who}, {many(len(people), 'scan')}); saying their mean"
        f" age, {mean:.2f}"
    )
    apart = advantage(people)
    if apart is None:
        return Check(question, finding, OPEN)
    finding += f" (difference {interval(apart.low, apart.high, sign=True)})"
    if apart.high < 0:
        return Check(question, finding, YES)
    tie = apart.low <= 0
    finding += ": a tie" if tie else ": worse"
    shift = _but_for_a_shift(people)
    return Check(question, finding, CARE if tie and (shift or model <= mean) else NO, shift)


def _but_for_a_shift(people: pd.DataFrame) -> tuple[str, ...]:
    """Says by how much all of them are shifted, if that is beyond chance and without it the model is better
    than the mean beyond chance; else nothing."""
    line = age_line({"": people}).iloc[0]
    moved = people.assign(brain_age=people["brain_age"] - line["mean_gap"])
    apart = advantage(moved)
    if apart is None or line["mean_gap_low"] <= 0 <= line["mean_gap_high"]:
        return ()
    if round(apart.high, 2) >= 0:  # a constant would be better by 1e-15
        return ()
    error = float((moved["brain_age"] - moved["age"]).abs().mean())
    return (
        f"all of them are shifted, by {number(line['mean_gap'], sign=True)} years on average, and without"
        f" that the model errs by {error:.2f} (difference {interval(apart.low, apart.high, sign=True)})",
    )


def _slope(people: pd.DataFrame, who: str, about: Mapping[str, Any]) -> Check:
    """Whether predictions spread over age as those of training people with the same modalities."""
    question = "Do they spread over age as in the training?"
    line = age_line({"": people}).iloc[0]
    slope, low, high = (float(line[name]) for name in ("slope", "slope_low", "slope_high"))
    expected = None
    if lines := bias_lines((about.get("model") or {}).get("bias")):
        training = people.assign(brain_age=expected_ages(people, lines))
        expected = float(age_line({"": training}).iloc[0]["slope"])
    finding = f"slope of predicted on true age {_defined(slope)}"
    if between := interval(low, high):
        finding += f" ({between})"
    finding += f", {who}"
    if expected is not None:
        finding += f"; {_defined(expected)} among held-out training people with the same modalities"
    if not np.isfinite(slope):
        return Check(question, finding, OPEN)
    if slope < WEAK_SLOPE:
        return Check(question, f"{finding}; below {WEAK_SLOPE} the predictions barely follow age", NO)
    if expected is None or abs(slope - expected) <= SLOPE_OFF:
        return Check(question, finding, YES)
    if not np.isfinite(low) or low <= expected <= high:
        finding += "; the difference may be chance"
    return Check(question, finding, CARE)


def _trend_is_out(corrected: Mapping[Any, Any], r_before: float, who: str) -> Check:
    question, r, explained = "Is age out of the corrected gap?", corrected["r"], corrected["explained"]
    p, p_bend = corrected["p"], corrected["p_bend"]
    finding = f"between corrected gap and age ({who}) r = {_defined(r)}, {_defined(r_before)} before"
    if not np.isfinite(r):
        return Check(question, finding, OPEN)
    by_chance = p >= SIGNIFICANT or corrected["r_low"] <= 0 <= corrected["r_high"]
    if abs(r) >= STILL_A_TREND and not by_chance:
        return Check(question, f"{finding}; the model's line does not fit this cohort's trend", CARE)
    if explained > MOST_EXPLAINED and max(p, p_bend) < BENT:
        finding += (
            f"; but age and age² together explain {percent(explained)} of it (p {probability(p)}): the"
            " trend is bent, and a line leaves the bend"
        )
        return Check(question, finding, CARE)
    return Check(question, finding, YES)


def _centred(people: pd.DataFrame, who: str, healthy: bool) -> Check | None:
    """Whether the mean of the gap, and of z, is 0: not beyond what chance and a small effect allow.

    Gaps around the norms and around the bias line do not compare, nor do z that were calibrated at their
    sites and others: each kind is judged by itself, if twenty scans have it.
    """
    question, read = "Are the gaps centred?", as_read(people)
    found = gap_against_age(people.assign(bag_z=read["z"].mask(read["calibrated"])))
    words = _CENTRED | ({"bag_z": "z of those not calibrated"} if read["calibrated"].any() else {})
    judged = found[found["column"].isin(words) & (found["n"] >= FEWEST) & (found["sd"] > 0)]
    if not len(judged):
        return None
    around = ("around the " + judged["around"]).where(judged["around"] != "", "")
    judged = judged.assign(gap=(judged["column"].map(words) + " " + around).str.strip())
    judged["shift"] = judged["mean"] / judged["sd"]
    # Of several means one is off by chance alone, so each is asked for more (Bonferroni).
    surely = (judged["shift"].abs() >= SHIFT) & (judged["p_mean"] < SIGNIFICANT / len(judged))
    is_off = surely | (judged["shift"].abs() >= LARGEST_SHIFT)
    if not is_off.any():
        return Check(question, f"of {who}, {_means(judged)}", YES)
    others = () if is_off.all() else (f"the others: {_means(judged[~is_off])}",)
    explanation = (*_why_off(judged, healthy), *others)
    return Check(question, f"of {who}, {_means(judged[is_off])}", CARE, explanation)


def _why_off(judged: pd.DataFrame, healthy: bool) -> tuple[str, ...]:
    """What means that are off come of, by the sides to which all are off, and what to compare then."""
    of_z = judged["column"].isin(_OF_Z)
    sides = np.sign(judged["shift"]).where(judged["shift"].abs() >= SHIFT, 0)
    condition = "" if healthy else ", or by a condition of theirs, for no controls stand apart"
    within = f"{condition}: compare within the cohort only"
    misfit = "the bias line does not fit these people, as by a trend with age or another mix of modalities"
    if not of_z.all() and not sides[~of_z].any():
        return (
            "their z are off on average, though the gap is not, as by a trend with age or another mix of"
            f" modalities{within}",
        )
    if of_z.any() and not sides[of_z].any():
        return f"the gap is off on average, though z is not: {misfit}", "compare z rather than the gap"
    if sides.min() < 0 < sides.max():
        compare = "compare only people who were calibrated alike"
        return f"their means are off to different sides: {misfit}", compare
    whom = "all" if sides.all() else "some"
    return (f"{whom} of them are shifted, as by a scanner or other processing{within}",)


def _means(judged: pd.DataFrame) -> str:
    return "; ".join(_mean(row) for _, row in judged.iterrows())


def _mean(row: pd.Series) -> str:
    limits = interval(row["mean_low"], row["mean_high"], sign=True)
    between = f" ({limits})" if limits else ""
    shift = f"{abs(row['shift']):.2f} of its SD, {many(int(row['n']), 'scan')}"
    unit = "" if row["column"] in _OF_Z else " years"
    return f"mean {row['gap']} {number(row['mean'], sign=True)}{unit}{between}, {shift}"


def _healthy_too(who: str, healthy: bool) -> Check | None:
    """A table of one diagnosis says nothing of healthy people."""
    if healthy or who == EVERYONE:
        return None
    explanation = (
        "what is said here of errors, intervals, z and p is of these people: no accuracy, and no coverage,"
        " of healthy people",
        "score controls of the same sites for that",
    )
    answer = f"all of them are of the group {who}"
    return Check("Are there people without a diagnosis?", answer, CARE, explanation)


def _defined(value: float) -> str:
    return number(value) if np.isfinite(value) else "not defined"
