"""Whether a cohort's scans are ones that the model can speak of: one check after the other.

What is asked here is nothing about errors: how many were scored, and whether ages, sites, people, features
and images are like those of the training. The thresholds are conventions, and the findings say the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from hpc_brainage.evaluation.checks import CARE, NO, OPEN, YES, Check
from hpc_brainage.evaluation.own_evidence import bias_lines
from hpc_brainage.modality import ROLES
from hpc_brainage.numerals import many, percent
from hpc_brainage.scoring.bias import doubtful_lines

MOST_LEFT_OUT = 0.1
MOST_OUTSIDE = 0.05
MOST_STRANGE = 0.1
MOST_IMPUTED = 0.05
FAR_TOO_MANY_IMPUTED = 0.25
STRANGE = frozenset(
    ("codes_far_from_training", "reconstruction_poor_smri", "reconstruction_poor_fmri",
     "features_out_of_range_smri", "features_out_of_range_fmri", "implausible_age")
)  # fmt: skip
"""Flags of scans that are unlike those of the training people."""


def of_scans(scored: pd.DataFrame, about: Mapping[str, Any]) -> list[Check | None]:
    """The checks of the scored rows of a table, in the order in which one would ask; None: nothing to ask.

    Parameters
    ----------
    about : the sidecar.
    """
    return [
        _ages(scored),
        _sites(scored),
        _other_people(scored),
        _features(scored, about),
        _strange(scored),
        _quality(scored),
        _independent_line(scored),
        _line_of_enough(scored, about),
    ]


def everybody_scored(table: pd.DataFrame, scored: pd.DataFrame) -> Check:
    """How many scans of a table have no score."""
    question, left = "Was everybody scored?", len(table) - len(scored)
    if not len(scored):
        return Check(question, "nobody was scored", NO)
    if not left:
        return Check(question, f"all {many(len(table), 'scan')}", YES)
    finding = f"{many(left, 'scan')} of {len(table):,} were not ({percent(left / len(table))})"
    return Check(question, finding, CARE if left / len(table) > MOST_LEFT_OUT else YES)


def _ages(scored: pd.DataFrame) -> Check | None:
    if "age_in_training_range" not in scored:
        return None
    known = scored["age_in_training_range"].dropna().astype(bool)
    question = "Are the ages those of the training?"
    if not len(known):
        return Check(question, "no age is known, so there is no gap", OPEN)
    outside = int((~known).sum())
    share = outside / len(known)
    finding = f"{many(outside, 'scan')} of {len(known):,} outside ({percent(share)})"
    return Check(question, finding, NO if share > 0.5 else CARE if share > MOST_OUTSIDE else YES)


def _sites(scored: pd.DataFrame) -> Check | None:
    if "site_seen" not in scored:
        return None
    site = scored["site"].fillna("").astype(str)
    unseen = ~scored["site_seen"].to_numpy(dtype=bool)
    if "in_training" in scored:  # whose site the training had, though it was not given either
        unseen &= ~(scored["in_training"].to_numpy(dtype=bool) & (site == "").to_numpy())
    question = "Did the training know these sites?"
    if not unseen.any():
        named = site[site != ""].nunique()
        answer = f"all of them ({named:,})" if named else "not given, but people of the training"
        return Check(question, answer, YES)
    not_given = unseen & (site == "").to_numpy()
    if not_given.all():
        return Check(question, "their site is not given, so nobody can tell", CARE)
    findings, other = [], unseen & ~not_given
    if other.any():
        sites = many(site[other].nunique(), "site")
        findings.append(
            f"{int(other.sum()):,} of {many(len(scored), 'scan')} from sites that it did not know ({sites})"
        )
    if not_given.any():
        without, others = int((site == "").sum()), int(not_given.sum())
        findings.append(f"the site of {without:,} of {many(len(scored), 'scan')} is not given")
        if others < without:
            findings[-1] += f", and {others:,} of them are of other people than the training's"
    return Check(question, "; ".join(findings), CARE)


def _other_people(scored: pd.DataFrame) -> Check | None:
    if "in_training" not in scored:
        return None
    question, inside = "Are they other people than the training's?", int(scored["in_training"].sum())
    if not inside:
        return Check(question, "all of them", YES)
    explanation = (
        "members that never saw them scored them, but the bias line was fitted on them: their gaps are"
        " centred and have no trend by construction"
    )
    answer = f"{many(inside, 'scan')} of {len(scored):,} are of people of the training"
    return Check(question, answer, CARE, (explanation,))


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
    question, answer = "Did the store have the model's features?", "; ".join(findings)
    if CARE not in judgements:
        return Check(question, answer, YES)
    explanation = (
        "they took the training median and so look typical: the checks of how unlike the training these"
        " scans are (reconstruction, Mahalanobis, range) come out too well"
    )
    return Check(question, answer, CARE, (explanation,))


def _strange(scored: pd.DataFrame) -> Check | None:
    own = scored["flags"].fillna("").astype(str).str.split(";")
    strange = int(sum(bool(STRANGE & set(flags)) for flags in own))
    if not strange and "mahalanobis" not in scored:
        return None
    share = strange / len(scored)
    finding = f"{many(strange, 'scan')} unlike those of the training people ({percent(share)})"
    judgement = CARE if share > MOST_STRANGE else YES
    return Check("Are the scans like those of the training?", finding, judgement)


def _quality(scored: pd.DataFrame) -> Check | None:
    if "qc_status" not in scored or not scored["qc_status"].isin(["pass", "flag", "fail"]).any():
        return None
    counts = scored["qc_status"].value_counts()
    failed, flagged = int(counts.get("fail", 0)), int(counts.get("flag", 0))
    finding = f"{many(failed, 'scan')} failed and {flagged:,} flagged; none was left out for it"
    return Check("Is the image quality sufficient?", finding, CARE if failed else YES)


def _independent_line(scored: pd.DataFrame) -> Check | None:
    if "bias_fit" not in scored or not scored["bias_fit"].fillna("").str.startswith("in_cohort").any():
        return None
    finding = "it was fitted on the scans that were scored, and took out part of what differs among them"
    return Check("Is the bias line independent of these scans?", finding, CARE)


def _line_of_enough(scored: pd.DataFrame, about: Mapping[str, Any]) -> Check | None:
    lines = bias_lines((about.get("bias") or {}).get("lines"))
    doubtful = doubtful_lines(scored, lines) if lines else ""
    return Check("Does the bias line stand on enough people?", doubtful, CARE) if doubtful else None
