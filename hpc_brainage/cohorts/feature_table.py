"""Measurements out of a table, and which of their values can be trusted.

A value that cannot be read, or is infinite, costs the scan: it is refused with the column and the
value. A region whose thickness, area or volume is exactly 0 was not measured: the value is missing.
Columns that say nothing (the same for everyone, missing for most) are reported and kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.cohorts.columns import ColumnMap, recognise_columns, unknown_identity
from hpc_brainage.cohorts.feature_choice import choose_features, listed
from hpc_brainage.cohorts.feature_names import brain_columns, unit_of, zero_is_missing
from hpc_brainage.cohorts.people import People, read_people
from hpc_brainage.cohorts.region_names import region_names
from hpc_brainage.errors import CohortError
from hpc_brainage.modality import Modality, Role
from hpc_brainage.scans import IDENTITY

_FEWEST_EDGES = 3  # of a ROI, for all of them to be missing to say something about it


def features_from_table(
    frame: pd.DataFrame,
    columns: ColumnMap,
    *,
    source: str,
    role: Role,
    name: str,
    patterns: str | None = None,
    declared: bool = False,
) -> Cohort:
    """A cohort out of one table with identities and measurements.

    A table without any measurement gives a cohort of people with no modality.

    Parameters
    ----------
    frame : as `read_table` gives it.
    columns : which columns say who, how old and so on.
    source : the table's name, for messages.
    role, name : of the modality that the measurements become.
    patterns, declared : see `choose_features`.

    Raises
    ------
    CohortError : as `read_people`; or no identity column, or the table lies on its side.
    """
    names = [str(column) for column in frame.columns]
    columns = recognise_columns(names, columns, source=source)
    if columns.id is None:
        raise unknown_identity(names, source)
    refuse_transposed(frame[columns.id], source)
    mapped = list(columns.named().values())
    chosen = choose_features(frame, mapped, patterns=patterns, declared=declared, source=source)
    features = set(chosen.features)
    extras = [column for column in names if column not in features and column not in mapped]
    people = read_people(frame, columns, source=source, extras=extras)
    rows = JoinedSource(source, rows=len(frame), matched=len(people.scans))
    account = Account(sources=(rows,), notes=chosen.notes) + people.account
    people = replace(people, account=account)
    if not features:
        return Cohort(source, people.scans, {}, account)
    values, unreadable = _numbers(frame, chosen.features)
    kind = _segmentation_statistic(columns.id)
    cohort = features_from_matrix(
        values,
        chosen.features,
        people,
        source=source,
        role=role,
        name=name,
        statistic=kind,
        unreadable=unreadable,
    )
    return replace(cohort, recipe={"columns_by_pattern": len(features)}) if chosen.by_pattern else cohort


def features_from_matrix(
    values: np.ndarray,
    features: Sequence[str],
    people: People,
    *,
    source: str,
    role: Role,
    name: str,
    statistic: str | None = None,
    unreadable: dict[int, str] | None = None,
    units: Sequence[str] | None = None,
) -> Cohort:
    """A cohort out of a matrix of measurements and the people of its rows.

    Regions get their usual names (see `region_names`), whatever the source calls them.

    Parameters
    ----------
    values : shape (rows, features), float; NaN is missing.
    people : `people.rows` says which row of `values` belongs to which scan.
    statistic : what FreeSurfer's segmentation table holds if not volumes ("mean" intensity): it has no
        unit that is known and is added to the feature names, which else are those of the volumes.
    unreadable : row of `values` -> why it cannot be trusted.
    units : of the features, where the source states them; else their names tell.
    """
    why = dict(unreadable or {})
    names, renamed = region_names(features) if role == "smri" else (tuple(features), ())
    new_name = dict(zip(features, names, strict=True))
    units = tuple(map(unit_of, names)) if units is None else tuple(units)
    never_zero = np.array([zero_is_missing(*pair) for pair in zip(names, units, strict=True)])
    if statistic is not None:
        never_zero[:] = [unit != "mm3" and zero for unit, zero in zip(units, never_zero, strict=True)]
        units = tuple("" if unit == "mm3" else unit for unit in units)
        names = tuple(f"{feature}_{statistic}" for feature in names)
    for row, column in zip(*np.nonzero(np.isinf(values)), strict=True):
        why.setdefault(int(row), f"{names[column]} is infinite")
    who = people.scans[list(IDENTITY)].itertuples(index=False, name=None)
    refusals = tuple(
        Refusal(participant, session, run, source, why[row])
        for (participant, session, run), row in zip(who, people.rows.tolist(), strict=True)
        if row in why
    )
    kept = np.array([row not in why for row in people.rows.tolist()], dtype=bool)
    scans = people.scans[kept].reset_index(drop=True)
    matrix = np.asarray(values, dtype=np.float32)[people.rows[kept]]
    notes = []
    if renamed:
        shown = listed([f"{old} -> {new_name[old]}" for old in renamed], 3)
        notes.append(f"{source}: {len(renamed)} columns renamed: {shown}")
    notes += _zeros_to_missing(matrix, names, never_zero, source)
    notes += _below_zero(matrix, names, units, source)
    notes += _weak_columns(matrix, names, source)
    notes += _dead_rois(matrix, names, source)
    present = np.isfinite(matrix).any(axis=1)
    if absent := int((~present).sum()):
        notes.append(f"{source}: {absent} of {len(matrix)} scans have no value in any feature")
    matrix.flags.writeable = False
    modality = Modality(role, name, "features", (len(names),), names, units)
    measurements = ModalitySource(modality, present, lambda row: matrix[row].copy())
    account = people.account + Account(refusals=refusals, notes=tuple(notes))
    return Cohort(source, scans, {modality.key: measurements}, account)


def _numbers(frame: pd.DataFrame, features: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """Values, shape (rows, features), and the rows in which a cell is not a number."""
    unreadable: dict[int, str] = {}
    values = np.empty((len(frame), len(features)), dtype=np.float32)
    for place, name in enumerate(features):
        column = frame[name]
        if not is_numeric_dtype(column):
            numbers = pd.to_numeric(column, errors="coerce")
            for row in np.flatnonzero(column.notna().to_numpy() & numbers.isna().to_numpy()):
                unreadable.setdefault(int(row), f"{name} is {column.iloc[row]!r}, which is not a number")
            column = numbers
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and its scan is refused
            values[:, place] = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return values, unreadable


def _zeros_to_missing(
    matrix: np.ndarray, names: Sequence[str], never_zero: np.ndarray, source: str
) -> list[str]:
    """Make regions of exactly 0 missing, in place, whoever else is in the table; say how many."""
    zero = (matrix == 0) & never_zero
    if not zero.any():
        return []
    matrix[zero] = np.nan
    counts = zero.sum(axis=0)
    worst = [f"{names[column]} ({counts[column]})" for column in np.argsort(-counts, kind="stable")]
    columns = int((counts > 0).sum())
    empty = (counts > 0) & np.isnan(matrix).all(axis=0)
    nowhere = [name for name, is_empty in zip(names, empty, strict=True) if is_empty]
    notes = [f"{source}: {len(nowhere)} columns are 0 for everyone: {listed(nowhere)}"] if nowhere else []
    return [
        *notes,
        f"{source}: {int(zero.sum())} values of exactly 0 for a region's thickness, area or volume are "
        f"missing in {int(zero.any(axis=1).sum())} scans: {listed(worst[:columns])}",
    ]


def _below_zero(matrix: np.ndarray, names: Sequence[str], units: Sequence[str], source: str) -> list[str]:
    """A word about sizes that no region can have; they are kept: a table of residuals is full of them."""
    sizes = np.array([unit in ("mm", "mm2", "mm3", "cm3") for unit in units], dtype=bool)
    below = (matrix < 0) & sizes
    if not below.any():
        return []
    counts = below.sum(axis=0)
    worst = [names[column] for column in np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]]
    return [
        f"{source}: {int(below.sum())} thicknesses, areas or volumes below 0 in "
        f"{int(below.any(axis=1).sum())} scans are kept (the lowest is {matrix[below].min():g}): codes for "
        f"missing values must be n/a, and residuals are no millimetres: {listed(worst)}"
    ]


def _weak_columns(matrix: np.ndarray, names: Sequence[str], source: str) -> list[str]:
    """What to know about columns that are the same for everyone, or missing for most; they are kept."""
    if len(matrix) < 2:
        return []
    notes = []
    constant = np.fmin.reduce(matrix, axis=0) == np.fmax.reduce(matrix, axis=0)
    if constant.any():
        same = [name for name, is_constant in zip(names, constant, strict=True) if is_constant]
        notes.append(f"{source}: {len(same)} columns are the same for everyone: {listed(same)}")
    mostly = np.isnan(matrix).mean(axis=0) > 0.5
    if mostly.any():
        empty = [name for name, is_missing in zip(names, mostly, strict=True) if is_missing]
        notes.append(f"{source}: {len(empty)} columns are missing in most scans: {listed(empty)}")
    return notes


def _dead_rois(matrix: np.ndarray, names: Sequence[str], source: str) -> list[str]:
    """In how many scans a ROI of a connectome has no edge but 0 or none at all: it has no signal there."""
    edges: dict[str, list[int]] = defaultdict(list)
    for column, name in enumerate(names):
        if len(pair := name.split("--")) == 2:
            for roi in pair:
                edges[roi].append(column)
    rois = [roi for roi, columns in edges.items() if len(columns) >= _FEWEST_EDGES]
    if not rois:
        return []
    measured = np.asarray(np.isfinite(matrix).any(axis=1))
    silent = np.isnan(matrix) | (matrix == 0)
    dead = np.stack([silent[:, edges[roi]].all(axis=1) & measured for roi in rois], axis=1)
    if not dead.any():
        return []
    times = dead.sum(axis=0)
    worst = [f"{rois[roi]} in {times[roi]}" for roi in np.argsort(-times, kind="stable")[:3] if times[roi]]
    return [
        f"{source}: in {int(dead.any(axis=1).sum())} of {int(measured.sum())} scans a ROI has no signal: "
        f"its edges are missing or 0 (ROIs concerned: {int((times > 0).sum())}; most often "
        f"{', '.join(worst)})"
    ]


def _segmentation_statistic(id_column: str) -> str | None:
    """`Measure:mean`, as asegstats2table names the first column: the numbers are no volumes."""
    stated = re.fullmatch(r"Measure:(\w+)", id_column)
    return stated[1] if stated and stated[1] != "volume" else None


def are_regions(identities: pd.Series) -> bool:
    """Whether what should be identities are mostly names of brain regions."""
    words = identities.dropna().astype(str).tolist()
    brain = brain_columns(words)
    return len(words) >= 3 and 2 * sum(word in brain for word in words) > len(words)


def refuse_transposed(identities: pd.Series, source: str) -> None:
    """Raise `CohortError` if what should be identities are mostly names of brain regions."""
    if are_regions(identities):
        shown = listed(identities.dropna().astype(str).tolist(), 3)
        raise CohortError(
            f"the table lies on its side: its rows are regions ({shown})",
            where=f"{source}, column {identities.name}",
            expected="one row per scan and one column per region",
            hint="write it again without --transpose, or swap its rows and columns",
        )
