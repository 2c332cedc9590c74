"""OpenBHB's ROI tables: one row per scan, the features known by their position only."""

from __future__ import annotations

import csv
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.feature_names import zero_is_missing
from hpc_brainage.cohorts.people import identities
from hpc_brainage.cohorts.tables import MISSING_MARKERS
from hpc_brainage.errors import CohortError, ScanRefused
from hpc_brainage.modality import Modality


@dataclass(frozen=True)
class RoiTable:
    """The rows of one ROI table.

    Parameters
    ----------
    participants, sessions : of each row, as text; "" where the table has no session.
    values : shape (rows, features), float32; NaN where missing.
    refused : row -> why it cannot be used.
    """

    participants: list[str]
    sessions: list[str]
    values: np.ndarray
    refused: dict[int, str]


def read_roi_table(path: Path, features: tuple[str, ...]) -> RoiTable:
    """Read an ROI table: `participant_id`, `session`, then the features in their official order.

    How the release spells the feature columns does not matter, they may even repeat each other; their
    number must be right.

    Raises
    ------
    CohortError : no such columns, another number of features, or a ragged row.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next(csv.reader(file), [])
    spelled = [name.strip().casefold() for name in header]
    if "participant_id" not in spelled:
        raise CohortError(
            "an ROI table has no column participant_id",
            where=path,
            expected=f"participant_id, session, then {len(features)} features, separated by commas",
        )
    keys = {"participant_id", "session"} & set(spelled)
    if len(spelled) - len(keys) != len(features):
        raise CohortError(
            f"an ROI table has {len(spelled) - len(keys)} feature columns",
            where=path,
            expected=f"{len(features)}, besides participant_id and session",
            hint="the columns are known by their position, so none may be missing or added",
        )
    # Position is what counts: the columns get their official names whatever the header says.
    official = iter(features)
    names = [name if name in keys else next(official) for name in spelled]
    columns = _parse(path, names, keys)
    people = identities(pd.Series(columns["participant_id"], dtype=object)).tolist()
    sessions = [""] * len(people)
    if "session" in keys:
        sessions = identities(pd.Series(columns["session"], dtype=object), "ses-").tolist()
    refused: dict[int, str] = {}
    values = np.empty((len(people), len(features)), dtype=np.float32)
    for position, name in enumerate(features):
        numbers = columns.pop(name)
        if numbers.dtype == object:
            values[:, position] = _numbers(numbers, name, refused)
        else:
            values[:, position] = numbers
    for row in np.flatnonzero(np.isinf(values).any(axis=1)):
        refused.setdefault(int(row), f"{features[int(np.isinf(values[row]).argmax())]} is infinite")
    for row in np.flatnonzero(np.isnan(values).all(axis=1)):
        refused.setdefault(int(row), "the row has no values")
    return RoiTable(people, sessions, values, refused)


def never_zero(modality: Modality) -> np.ndarray:
    """Which features are areas, volumes or thicknesses of a cortical region: shape (features,).

    There a 0 says that the region was not found; in CAT12's volumes and in curvatures it is a value.
    """
    pairs = zip(modality.features, modality.units, strict=True)
    return np.array([zero_is_missing(name, unit) for name, unit in pairs], dtype=bool)


def checked_roi(values: np.ndarray, zero_is_missing: np.ndarray, path: Path) -> np.ndarray:
    """The features of one person, shape (features,), by the rules of the tables; changed in place.

    Raises
    ------
    ScanRefused : a feature is infinite, or none has a value.
    """
    values[(values == 0) & zero_is_missing] = np.nan
    if np.isinf(values).any():
        raise ScanRefused("a feature is infinite", where=path)
    if np.isnan(values).all():
        raise ScanRefused("no feature has a value", where=path)
    return values


def _parse(path: Path, names: list[str], keys: Set[str]) -> dict[str, np.ndarray]:
    """Columns by name, the features as float32; all as text if one of their cells is no number."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    def parse(number: pa.DataType) -> pa.Table:
        return arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(skip_rows=1, column_names=names),
            convert_options=arrow_csv.ConvertOptions(
                column_types={name: pa.string() if name in keys else number for name in names},
                null_values=list(MISSING_MARKERS),
                strings_can_be_null=True,
            ),
        )

    try:
        try:
            table = parse(pa.float32())
        except pa.ArrowInvalid as problem:
            if "conversion error" not in str(problem):
                raise
            table = parse(pa.string())
    except pa.ArrowInvalid as problem:
        if "Empty CSV" in str(problem):
            return {name: np.empty(0, dtype=object) for name in names}
        reason = str(problem).splitlines()[0][:200]
        raise CohortError(f"not readable as an ROI table ({reason})", where=path) from None
    return {name: table[name].to_pandas().to_numpy() for name in names}


def _numbers(cells: np.ndarray, name: str, refused: dict[int, str]) -> np.ndarray:
    """Numbers of a column of text; a cell that is none puts its row into `refused`."""
    given = pd.Series(cells, dtype=object)
    numbers = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float32)
    for row in np.flatnonzero(np.isnan(numbers) & given.notna().to_numpy()):
        refused.setdefault(int(row), f"{name} is {given[row]!r}, which is not a number")
    return numbers
