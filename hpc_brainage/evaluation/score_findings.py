"""Everything that a report says about a scored cohort, as tables and sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.evaluation.checks import against, overall
from hpc_brainage.evaluation.judged import EVERYONE, judged
from hpc_brainage.evaluation.own_evidence import evidence_of, own_coverage, own_errors, own_uniformity
from hpc_brainage.evaluation.scored_accuracy import accuracy, age_line, beside, clusters, gap_against_age
from hpc_brainage.evaluation.scored_coverage import (
    FEWEST,
    calibrated_coverage,
    coverage,
    evenness,
    parts,
    skewness,
)
from hpc_brainage.evaluation.scored_evenness import as_read, ranked
from hpc_brainage.evaluation.scored_groups import by_site, compared, described
from hpc_brainage.evaluation.uncertainty_checks import MOST_SKEWED
from hpc_brainage.evaluation.usability import usability
from hpc_brainage.numerals import number
from hpc_brainage.scans import scan_names
from hpc_brainage.scoring.flags import FLAGS

STRANGENESS = {
    "recon_z_smri": "error in rebuilding the structural features, z",
    "recon_z_fmri": "error in rebuilding the functional features, z",
    "mahalanobis": "Mahalanobis distance of the codes",
    "out_of_range_smri": "structural features beyond what training people showed",
    "out_of_range_fmri": "functional features beyond what training people showed",
}
"""What a measure of being unlike the training people's scans is called, by its column."""

_EXAMPLE_COLUMNS = (
    "age", "sex", "site", "diagnosis", "brain_age", "pi90_lo", "pi90_hi", "bag", "bag_corrected", "bag_z",
    "p_accelerated", "bag_z_site_calibrated", "p_accelerated_site_calibrated", "flags",
)  # fmt: skip
_MEASURED_VALUE = r" -?[0-9][0-9.e+-]*(?: mm| %)? (above|below) "


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes
    ----------
    verdict : whether the model's ages can be used in this cohort: "yes", "care", "no" or "open" (it cannot
        be told).
    known : the scans that there is a gap of.
    group : the column whose groups are compared, or None; `reference` is the group compared with.
    labels : the group of each scan that there is a gap of, "" where unknown; none without `group`.
    judged : whose predictions are held against their age, in words.
    drawn : what the bootstrap drew: "sites", "people", or "" where there was nothing to draw.
    tables : by name, `flow`, `reasons`, `checks`, `against`, `cohort`, `accuracy`, `evidence`, `age_line`,
        `beside`, `gap_age`, `strangeness`, `sex`, `sex_differences`, `site`, `group`, `group_differences`,
        `coverage`, `calibrated_coverage`, `centiles`, `own_coverage`, `own_uniformity`, `flags`, `quality`,
        `examples`; one that there is nothing to say in is empty.
    notes : by the name of a table, what has to be said beside it.
    numbers : `site_share` of the gap's variance; `centile_distance` with `centile_p` (Kolmogorov-Smirnov)
        of those judged, and `placed_people`, whose z and p these are, with `calibrated_people`, of how many
        of them they were calibrated at their sites; None if unknown.
    """

    verdict: str
    known: pd.DataFrame
    group: str | None
    reference: str | None
    labels: tuple[str, ...]
    judged: str
    drawn: str
    tables: dict[str, pd.DataFrame]
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: dict[str, float | None] = field(default_factory=dict)


def score_findings(table: pd.DataFrame, about: dict[str, Any], group: str | None = None) -> Findings:
    """Look at the scores of a cohort.

    Parameters
    ----------
    table, about : the score table and its sidecar.
    group : a column of the table whose groups are compared; by default `diagnosis`, where it says anything.

    Raises
    ------
    UsageError : there is no such column, or it has no groups but numbers or names.
    """
    scored = table[table["status"] == "scored"]
    of = judged(table, group)
    known, own, people, who = of.known, of.labels, of.people, of.who
    placed = ranked(people, about, FEWEST)
    held, calibrated = pd.DataFrame(), pd.DataFrame()
    if "pi90_lo" in known:
        held = coverage(of.groups | parts(people, who))
        calibrated = calibrated_coverage(people, who)
    checks = usability(table, of, about, held, calibrated, placed)

    training = about.get("model", {}).get("training") or {}
    tables = {
        "flow": _flow(table, scored, known),
        "reasons": _counts(table.loc[table["reason"].fillna("") != "", "reason"], "reason"),
        "checks": checks,
        "against": against(checks),
        "cohort": described(known, pd.Series(EVERYONE, index=known.index))
        if len(known)
        else pd.DataFrame(),
        "accuracy": accuracy(of.groups, training.get("age_mean")) if len(known) else pd.DataFrame(),
        "evidence": own_errors(evidence_of(about)),
        "age_line": age_line(of.groups) if len(known) else pd.DataFrame(),
        "beside": beside(people),
        "gap_age": gap_against_age(people),
        "strangeness": _strangeness(scored),
        "coverage": held,
        "calibrated_coverage": calibrated,
        "own_coverage": own_coverage(about),
        "own_uniformity": own_uniformity(about),
        "flags": _flags(scored),
        "quality": _quality(scored),
        "examples": _examples(table),
    }
    notes: dict[str, tuple[str, ...]] = {}
    numbers: dict[str, float | None] = dict.fromkeys(
        ("site_share", "centile_distance", "centile_p", "placed_people", "calibrated_people")
    )
    if len(known):
        tables["sex"] = described(known, known["sex"])
        tables["sex_differences"], notes["sex_differences"] = compared(
            known, known["sex"].where(known["sex"] != "U", ""), "F"
        )
        tables["site"], numbers["site_share"] = by_site(known)
    if of.reference is not None:
        tables["group"] = described(known, own)
        tables["group_differences"], notes["group_differences"] = compared(known, own, of.reference)
    if placed is not None:
        # The people and the statistic of the check, so that the page does not contradict itself.
        tables["centiles"], numbers["centile_distance"], numbers["centile_p"] = evenness(
            100 * placed.scans["share"].to_numpy(), placed.controls
        )
        numbers["placed_people"] = float(len(placed))
        numbers["calibrated_people"] = float(placed.calibrated)
        skewed = skewness(placed.scans["z"].to_numpy())
        if skewed is not None and abs(skewed) > MOST_SKEWED:
            notes["centiles"] = (
                f"z is not normal here (skewness {number(skewed, 1, sign=True)}, {who}): a z of 2 is not a"
                " gap that one person in forty exceeds. Read the centile or p beside it.",
            )
    drawn = clusters(people)[1] if len(people) >= FEWEST else ""
    return Findings(
        overall(checks), known, of.group, of.reference, tuple(own), who, drawn, tables, notes, numbers
    )


def _flow(table: pd.DataFrame, scored: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    steps = [("in the table", table)]
    steps += [
        (f"not scored: {status}", table[table["status"] == status])
        for status in sorted(set(table["status"]) - {"scored"})
    ]
    steps.append(("scored", scored))
    without = scored[scored["age"].isna()]
    if len(without):
        steps.append(("scored, of unknown age: no gap", without))
    steps.append(("with a gap", known))
    if "age_in_training_range" in known:
        outside = known[(known["age_in_training_range"] == False).fillna(False).to_numpy(dtype=bool)]  # noqa: E712
        steps.append(("with a gap, outside the training ages: kept, and flagged", outside))
    return pd.DataFrame(
        [
            {"step": step, "scans": len(own), "people": own["participant_id"].nunique()}
            for step, own in steps
        ]
    )


def _counts(values: pd.Series, name: str) -> pd.DataFrame:
    counted = values.astype(str).value_counts()
    return pd.DataFrame({name: list(counted.index), "scans": counted.to_numpy()})


def _flags(scored: pd.DataFrame) -> pd.DataFrame:
    said = scored["flags"].fillna("").astype(str).str.split(";").explode()
    counted = said[said != ""].value_counts().sort_index()
    return pd.DataFrame(
        [
            {
                "flag": flag,
                "scans": int(n),
                "share": n / max(len(scored), 1),
                "meaning": FLAGS.get(str(flag), "see docs/score-table.md"),
            }
            for flag, n in counted.items()
        ]
    )


def _strangeness(scored: pd.DataFrame) -> pd.DataFrame:
    """How unlike the training people's the scans are, by each measure of it that the table has."""
    rows = []
    for column, word in STRANGENESS.items():
        if column in scored and len(known := scored[column].dropna().to_numpy(dtype=float)):
            middle, high = np.quantile(known, [0.5, 0.95])
            rows.append(
                {"measure": word, "n": len(known), "median": middle, "q95": high, "largest": known.max()}
            )
    return pd.DataFrame(rows)


def _quality(scored: pd.DataFrame) -> pd.DataFrame:
    """How many scans of each verdict, and of each reason; empty where the cohort brings no figures.

    A scan with two reasons counts for each of them. What was measured is cut out of a reason ("mean FD 0.31
    mm above 0.25" becomes "mean FD above 0.25"), so that reasons can be counted.
    """
    if "qc_status" not in scored or not scored["qc_status"].isin(["pass", "flag", "fail"]).any():
        return pd.DataFrame()
    status = scored["qc_status"].fillna("").replace("", "no figures")
    rows = [
        {"quality": verdict, "reason": "", "scans": int((status == verdict).sum())}
        for verdict in ("fail", "flag", "pass", "no figures")
    ]
    if "qc_reasons" in scored:
        said = scored["qc_reasons"].fillna("").astype(str).str.replace(_MEASURED_VALUE, r" \1 ", regex=True)
        reasons = pd.DataFrame({"quality": status, "reason": said.str.split(r";\s*", regex=True)})
        each = reasons.explode("reason")
        counted = (
            each[each["reason"].fillna("") != ""].value_counts().sort_index().reset_index(name="scans")
        )
        rows += [{str(name): value for name, value in row.items()} for row in counted.to_dict("records")]
    return pd.DataFrame([row for row in rows if row["scans"]])


def _examples(table: pd.DataFrame) -> pd.DataFrame:
    """The lowest, the middle and the highest gaps, and scans that were not scored: at most eleven rows."""
    gaps = (as_read(table)["z"], *(table[name] for name in ("bag_corrected", "bag") if name in table))
    by = next((gap for gap in gaps if gap.notna().any()), None)
    chosen: dict[int, str] = {}
    if by is not None:
        order = by.dropna().sort_values(kind="stable").index
        middle = len(order) // 2
        for rows, word in (
            (order[:3], "lowest gap"),
            (order[max(0, middle - 1) : middle + 2], "middle"),
            (order[-3:], "highest gap"),
        ):
            for row in rows:
                chosen.setdefault(row, word)
    for row in table.index[(table["status"] != "scored").to_numpy()][:2]:
        chosen[row] = "not scored"
    if not chosen:
        chosen = dict.fromkeys(table.index[:3], "scored")
    own = table.loc[list(chosen)]
    shown = pd.DataFrame({"why shown": list(chosen.values()), "scan": scan_names(own)})
    for column in _EXAMPLE_COLUMNS:
        if column in own and not own[column].isna().all() and not (own[column].astype(str) == "").all():
            shown[column] = own[column].to_numpy()
    reason = own["reason"].fillna("").to_numpy()
    return shown.assign(reason=reason) if (reason != "").any() else shown
