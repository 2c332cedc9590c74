"""Tables and .npz files as cohorts: the one that says who was scanned, and those joined to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pandas as pd

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource
from hpc_brainage.cohorts.columns import (
    ColumnMap,
    age_unit_of_sidecar,
    heads_freesurfer_table,
    no_age_column,
    recognise_columns,
    unknown_identity,
    usual_columns,
)
from hpc_brainage.cohorts.feature_names import (
    edge_columns,
    is_brain_name,
    is_not_brain_name,
    may_name_people,
)
from hpc_brainage.cohorts.feature_table import (
    features_from_matrix,
    features_from_table,
    refuse_transposed,
)
from hpc_brainage.cohorts.freesurfer_tables import freesurfer_table
from hpc_brainage.cohorts.npz import FeatureMatrix, read_npz
from hpc_brainage.cohorts.people import identities, read_people
from hpc_brainage.cohorts.tables import column_names, holds_codes, read_table
from hpc_brainage.errors import CohortError
from hpc_brainage.modality import ROLES, Role
from hpc_brainage.provenance import input_file

_ABOUT_PEOPLE = ("age", "sex", "site", "split", "diagnosis")


def main_table(path: Path, columns: ColumnMap, role: str | None, name: str, features: str | None) -> Cohort:
    """The table that says who was scanned, with its measurements if it has any.

    Without a `role`, measurements are "fmri" where the file is named so or most are edges of a
    connectome, else "smri".
    """
    header = column_names(path)
    columns = recognise_columns(header, columns, source=str(path))
    if columns.id is None:
        raise unknown_identity(header, str(path))
    if columns.age is not None and columns.age_unit is None:
        columns = replace(columns, age_unit=age_unit_of_sidecar(path, columns.age))
    frame = freesurfer_table(read_table(path, text=_words(columns)), path.name)
    cohort = features_from_table(
        frame,
        columns,
        source=path.name,
        role=_role(role, path, [str(column) for column in frame.columns]),
        name=name,
        patterns=features,
        declared=role is not None,
    )
    notes = () if columns.age is not None else (no_age_column(header, path.name),)
    return _with_recipe(cohort, path, notes)


def added_table(
    path: Path,
    columns: ColumnMap,
    role: str,
    name: str,
    features: str | None,
    known_ids: Collection[str],
    by_atlas: bool = False,
) -> Cohort:
    """A table of measurements; of what it says about people only the identities are used.

    Its identity is the column that is named, else the usually named one (FreeSurfer calls it
    `lh.aparc.area` or `Measure:volume`), else the first one if it meets `known_ids` and could be one: no
    row numbers, no measurement, nothing about the person. Which one it was is noted, but for FreeSurfer's.

    Parameters
    ----------
    by_atlas : see `freesurfer_table`; the others as of `features_from_table`.

    Raises
    ------
    CohortError : as `features_from_table`; or nothing in it says who was scanned, or is a measurement.
    """
    header = column_names(path)
    columns = _only_identity(columns, header)
    candidates = [columns.id] if columns.id else usual_columns(header, ("id",)) or header[:1]
    about_people = [
        column for column in usual_columns(header, _ABOUT_PEOPLE) if column not in _words(columns)
    ]
    usual_visits = usual_columns(header, ("session", "run"))
    frame = read_table(path, text=[*candidates, *_words(columns), *usual_visits])
    frame = freesurfer_table(frame, path.name, known_ids, by_atlas)
    identity = columns.id or _meeting(frame, candidates, known_ids, path)
    frame = frame.drop(columns=about_people)
    for column in candidates:
        if column != identity:
            frame[column] = _numbers_again(frame[column])
    cohort = features_from_table(
        frame,
        replace(columns, id=identity),
        source=path.name,
        role=cast(Role, role),
        name=name,
        patterns=features,
        declared=True,
    )
    if not cohort.sources:
        raise CohortError(
            "no column of this table is a measurement",
            where=path,
            expected=f"columns of numbers that are {role} measurements",
            hint="say which they are, as in --features 'roi_*'",
        )
    notes = _unused(path, about_people)
    if columns.id is None and not heads_freesurfer_table(identity):
        notes = (f"{path.name}: {identity!r} says who was scanned (--id chooses otherwise)", *notes)
    return _with_recipe(cohort, path, notes)


def main_npz(path: Path, columns: ColumnMap, role: str | None, name: str) -> Cohort:
    """A feature matrix as a cohort of its own; ages and sexes may be further arrays of the file."""
    matrix = read_npz(path, columns)
    columns = replace(columns, id=matrix.id_column)
    cohort = _matrix_cohort(matrix, columns, path, _role(role, path, matrix.names), name)
    header = [str(column) for column in matrix.rows.columns]
    found = recognise_columns(header, columns, source=str(path))
    return _with_recipe(cohort, path, () if found.age is not None else (no_age_column(header, path.name),))


def added_npz(path: Path, columns: ColumnMap, role: str, name: str, arrays: Mapping[str, str]) -> Cohort:
    """A feature matrix; of what it says about people only the identities are used."""
    matrix = read_npz(path, columns, arrays)
    header = [str(column) for column in matrix.rows.columns]
    about_people = [column for column in usual_columns(header, _ABOUT_PEOPLE) if column != matrix.id_column]
    matrix = replace(matrix, rows=matrix.rows.drop(columns=about_people))
    columns = replace(_only_identity(columns, header), id=matrix.id_column)
    cohort = _matrix_cohort(matrix, columns, path, cast(Role, role), name)
    return _with_recipe(cohort, path, _unused(path, about_people))


def _matrix_cohort(matrix: FeatureMatrix, columns: ColumnMap, path: Path, role: Role, name: str) -> Cohort:
    people = read_people(matrix.rows, columns, source=path.name)
    rows = JoinedSource(path.name, rows=len(matrix.rows), matched=len(people.scans))
    people = replace(people, account=Account(sources=(rows,)) + people.account)
    return features_from_matrix(matrix.values, matrix.names, people, source=path.name, role=role, name=name)


def _words(columns: ColumnMap) -> list[str]:
    """The columns that hold words, whatever they look like; ages are numbers."""
    return [column for what, column in columns.named().items() if what not in ("age", "sex")]


def _only_identity(columns: ColumnMap, header: Collection[str]) -> ColumnMap:
    """What was said about identities, as far as this source has such columns."""
    named = {what: getattr(columns, what) for what in ("id", "session", "run")}
    return ColumnMap(**{what: column for what, column in named.items() if column in header})


def _meeting(frame: pd.DataFrame, candidates: list[str], known_ids: Collection[str], path: Path) -> str:
    """The usually named column, of several the one with most identities that the cohort knows.

    A column that only counts the rows is an identity only where no other could be: the ids of a cohort
    that are numbers would be met by chance.
    """
    known = set(known_ids)
    met = {column: len(set(identities(frame[column])) & known) for column in candidates}
    usual = usual_columns(candidates, ("id",))
    telling = [column for column in usual if not _counts_rows(frame[column])] or usual
    if telling:  # where none is met, the join says that nothing matches, with examples of both sides
        best = max(telling, key=lambda column: met[column])
        if not met[best]:
            refuse_transposed(frame[best], path.name)
        return best
    first = candidates[0]
    refuse_transposed(frame[first], path.name)
    if met[first] and not (_is_no_identity(first) or _counts_rows(frame[first])):
        return first
    raise unknown_identity([str(name) for name in frame.columns], str(path))


def _counts_rows(column: pd.Series) -> bool:
    """Whether the values are 0, 1, 2, ... or 1, 2, 3, ... from top to bottom."""
    words = identities(column).tolist()
    return any(words == [str(start + row) for row in range(len(words))] for start in (0, 1))


def _is_no_identity(name: str) -> bool:
    """Whether a column's name says that it is an index, a measurement or something about the person."""
    about = usual_columns([name], (*_ABOUT_PEOPLE, "session", "run"))
    return bool(about) or is_brain_name(name) or (is_not_brain_name(name) and not may_name_people(name))


def _numbers_again(column: pd.Series) -> pd.Series:
    """A column that was read as words because it could have been the identity, as numbers if it is."""
    numbers = pd.to_numeric(column, errors="coerce")
    all_numbers = bool((numbers.notna() == column.notna()).all()) and column.notna().any()
    return numbers if all_numbers and not holds_codes(column) else column


def _role(role: str | None, path: Path, names: Collection[str]) -> Role:
    if role is None:
        role = next((known for known in ROLES if path.name.lower().startswith(f"{known}_")), None)
    if role is None:
        role = "fmri" if 2 * len(edge_columns(names)) > len(names) else "smri"
    return cast(Role, role)


def _unused(path: Path, columns: list[str]) -> tuple[str, ...]:
    if not columns:
        return ()
    return (f"{path.name}: {', '.join(columns)} are not used: what the cohort says about people stays",)


def _with_recipe(cohort: Cohort, path: Path, notes: tuple[str, ...]) -> Cohort:
    reader = "npz" if path.suffix.lower() == ".npz" else "table"
    return replace(
        cohort,
        account=cohort.account + Account(notes=notes),
        recipe={"reader": reader, "files": [input_file(path)], **cohort.recipe},
    )
