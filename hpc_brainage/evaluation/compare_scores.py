"""Two score tables against each other: how well a model repeats, or how far two models agree.

Which of the two is asked is told from the tables (`score_pairs`). Of each measure, only pairs are looked at
in which both scans have it, and there is always a count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.agreement import Errors, agreement, compare_errors
from hpc_brainage.evaluation.intervals import Interval
from hpc_brainage.evaluation.judgement import Estimate, difference_said
from hpc_brainage.evaluation.reliability import Correlation, test_retest
from hpc_brainage.evaluation.score_pairs import Pairs, pair_tables, pair_visits
from hpc_brainage.files import write_json, write_text
from hpc_brainage.provenance import software
from hpc_brainage.scans import scan_names
from hpc_brainage.scoring.saved import SavedScores
from hpc_brainage.scoring.table import numbers

PREDICTIONS = ("brain_age", "brain_age_smri_only", "brain_age_fmri_only")
_GAPS = ("bag", "bag_corrected", "bag_site_calibrated", "bag_z", "bag_z_site_calibrated")
FEWEST_PAIRS = 2
_LONG_YEARS = 0.5
"""Scans further apart than this on average: people have aged meanwhile."""


@dataclass(frozen=True)
class Compared:
    """What came out.

    Attributes
    ----------
    kind : "same scans" or "repeated scans".
    why : how that was told.
    sources : name, model and store of the first and the second table.
    pairs : how many pairs there are.
    measures : one row per measure, all in years but `bag_z`, and but for correlations.
    errors : of raw predictions, by measure; of the same scans only.
    left_out : by reason, the scans in no pair.
    notes : what to mind.
    """

    kind: str
    why: str
    sources: tuple[dict[str, str], dict[str, str]]
    pairs: int
    measures: pd.DataFrame
    errors: dict[str, Errors]
    left_out: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def compare_scores(a: SavedScores, b: SavedScores | None = None) -> Compared:
    """Compare two score tables; or, of one table, the first two scans of each person.

    Raises
    ------
    UsageError : the tables cannot be paired (see `score_pairs`), or there is only one pair.
    ScoringError : a table holds the scans of several models or stores.
    """
    pairs = pair_visits(a) if b is None else pair_tables(a, b)
    tables = (a, a if b is None else b)
    if len(pairs.first) < FEWEST_PAIRS:
        raise UsageError(
            "there is only one pair of scans",
            where=" and ".join(dict.fromkeys(one.name for one in tables)),
            expected=f"at least {FEWEST_PAIRS}; {scan_names(pairs.first)[0]} by itself says nothing",
            hint="; ".join(f"{reason}: {len(names)}" for reason, names in pairs.left_out.items()) or None,
        )
    repeated = pairs.kind == "repeated scans"
    measures = (*PREDICTIONS, *_GAPS) if repeated else (*PREDICTIONS, "bag_corrected")
    return Compared(
        pairs.kind,
        pairs.why,
        (_source(tables[0]), _source(tables[1])),
        len(pairs.first),
        _table(pairs, measures, _repeats if repeated else _agrees),
        {} if repeated else _errors(pairs),
        pairs.left_out,
        tuple(_notes(pairs)),
    )


def write_comparison(compared: Compared, out: Path) -> dict[str, Path]:
    """Write `OUT.tsv`, a row for each measure, and `OUT.json`, everything; returns their paths."""
    paths = {kind: out.with_name(f"{out.name}.{kind}") for kind in ("tsv", "json")}
    write_text(paths["tsv"], compared.measures.to_csv(sep="\t", index=False, float_format="%.6g"))
    record = asdict(replace(compared, measures=pd.DataFrame()))
    record |= {
        "measures": [
            {name: None if pd.isna(value) else value for name, value in row.items()}
            for row in compared.measures.to_dict("records")
        ],
        "software": software("numpy", "scipy"),
    }
    write_json(paths["json"], {"schema_version": 1, **record})
    return paths


def _table(
    pairs: Pairs, measures: tuple[str, ...], of: Callable[..., dict[str, Any] | None]
) -> pd.DataFrame:
    rows = []
    for measure in measures:
        both = _both(pairs, measure)
        if both is not None and (row := of(pairs, measure, both)) is not None:
            rows.append({"measure": measure, **row})
    return pd.DataFrame(rows)


def _both(pairs: Pairs, measure: str) -> np.ndarray | None:
    """Pairs in which both scans have the measure, bool; None where a table does not know it."""
    if measure not in pairs.first or measure not in pairs.second:
        return None
    a, b = (numbers(table, measure) for table in (pairs.first, pairs.second))
    return np.isfinite(a) & np.isfinite(b)


def _repeats(pairs: Pairs, measure: str, both: np.ndarray) -> dict[str, Any] | None:
    if both.sum() < FEWEST_PAIRS:
        return None
    found = test_retest(numbers(pairs.first, measure)[both], numbers(pairs.second, measure)[both])
    return {
        "people": found.people,
        **_correlation("icc_agreement", found.icc_agreement),
        **_correlation("icc_consistency", found.icc_consistency),
        "sem": found.sem,
        "smallest_detectable_change": found.smallest_detectable_change,
        "mean_difference": found.mean_difference,
        **_ends("mean_difference", found.mean_difference_interval),
        "limits_low": found.limits.low,
        "limits_high": found.limits.high,
    }


def _agrees(pairs: Pairs, measure: str, both: np.ndarray) -> dict[str, Any] | None:
    if both.sum() < FEWEST_PAIRS:
        return None
    a, b = (numbers(table, measure)[both] for table in (pairs.first, pairs.second))
    people, sites = _clusters(pairs, both)
    found = agreement(a, b, people, sites)
    return {
        "scans": found.scans,
        "mean_absolute_difference": found.mean_absolute_difference,
        **_estimate("mean_difference", found.mean_difference),
        "limits_low": np.nan if found.limits is None else found.limits.low,
        "limits_high": np.nan if found.limits is None else found.limits.high,
        "r": np.nan if found.r is None else found.r,
        "ccc": np.nan if found.ccc is None else found.ccc,
        **_error_columns(_errors_of(pairs, measure, both)),
    }


def _errors(pairs: Pairs) -> dict[str, Errors]:
    found = {}
    for measure in PREDICTIONS:
        both = _both(pairs, measure)
        if both is not None and (errors := _errors_of(pairs, measure, both)) is not None:
            found[measure] = errors
    return found


def _errors_of(pairs: Pairs, measure: str, both: np.ndarray) -> Errors | None:
    """Errors of a raw prediction; None for a gap, or where no age is known."""
    age = numbers(pairs.first, "age")
    known = both & np.isfinite(age)
    if measure not in PREDICTIONS or not known.any():
        return None
    a, b = (numbers(table, measure)[known] for table in (pairs.first, pairs.second))
    return compare_errors(a, b, age[known], *_clusters(pairs, known))


def _error_columns(errors: Errors | None) -> dict[str, float]:
    if errors is None:
        return dict.fromkeys(
            ("mae_first", "mae_second", *_estimate("mae_difference", Estimate(None))), np.nan
        )
    return {
        "mae_first": errors.first,
        "mae_second": errors.second,
        **_estimate("mae_difference", errors.difference),
    }


def _clusters(pairs: Pairs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    table = pairs.first[rows]
    return table["participant_id"].to_numpy(dtype=str), table["site"].to_numpy(dtype=str)


def _notes(pairs: Pairs) -> list[str]:
    said = []
    first, second = pairs.first, pairs.second
    for word, table in (("first", first), ("second", second)):
        trained_on = int(table["in_training"].sum()) if "in_training" in table else 0
        if trained_on:
            said.append(
                f"{trained_on} of {len(table)} scans of the {word} table are of people in the model's"
                " training, each by members that never saw them"
            )
    if pairs.kind == "same scans":
        errors = _errors(pairs).get("brain_age")
        if errors is not None:
            told = "told from chance" if errors.difference.is_told_apart else "not told from chance"
            said.append(
                f"absolute errors, first minus second: {difference_said(errors.difference, None, 0)};"
                f" {told}. Errors are an accuracy only where people are healthy"
            )
        return said
    apart = np.abs(numbers(second, "age") - numbers(first, "age"))
    known = apart[np.isfinite(apart)]
    if len(known) and known.mean() > _LONG_YEARS:
        said.append(
            f"the scans are {known.mean():.1f} years apart on average ({known.max():.1f} at most):"
            " brain_age moves with the people's age meanwhile, so look at bag"
        )
    differ = int((numbers(first, "members_used") != numbers(second, "members_used")).sum()) if (
        "members_used" in first and "members_used" in second
    ) else 0  # fmt: skip
    if differ:
        said.append(f"of {differ} people the two scans were scored by different members of the model")
    has = [f"has_{role}" for role in ("smri", "fmri") if f"has_{role}" in first and f"has_{role}" in second]
    unlike = int(np.any([first[name].to_numpy() != second[name].to_numpy() for name in has], axis=0).sum())
    if has and unlike:
        said.append(f"of {unlike} people the two scans have different modalities")
    return said


def _source(scores: SavedScores) -> dict[str, str]:
    return {
        "name": scores.name,
        **{name: scores.one(name) for name in ("model", "model_sha256", "store_sha256")},
    }


def _correlation(name: str, one: Correlation) -> dict[str, float]:
    return {name: np.nan if one.value is None else one.value, **_ends(name, one.interval)}


def _estimate(name: str, one: Estimate) -> dict[str, float]:
    return {
        name: np.nan if one.value is None else one.value,
        **_ends(f"{name}_people", one.people),
        **_ends(f"{name}_sites", one.sites),
    }


def _ends(name: str, interval: Interval | None) -> dict[str, float]:
    low, high = (np.nan, np.nan) if interval is None else (interval.low, interval.high)
    return {f"{name}_low": low, f"{name}_high": high}
