"""The table of scans as arrays of a store, and back.

The columns of `SCAN_COLUMNS` keep their names. Any further column of a cohort becomes an array named
`extra_` and a plain spelling of it, and its own name is kept in the array's attributes: no column can
ever meet the name of a modality or of another column. Numbers are float64 (true and false are 1 and
0), everything else is text; a missing number is NaN, a missing text is "".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.files import sha256_of
from hpc_brainage.modality import modality_name
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS
from hpc_brainage.store.schema import EXTRA_PREFIX

_LARGEST_EXACT = 2**53
_LONGEST_NAME = 200  # of an array's folder; file systems take 255 bytes


@dataclass(frozen=True)
class Column:
    """One column of the table of scans: its array's name, its own name, and its values."""

    array: str
    name: str
    values: np.ndarray

    @property
    def is_text(self) -> bool:
        return self.values.dtype == object


def columns_of(scans: pd.DataFrame) -> list[Column]:
    """The columns of a table of scans in the order in which a store holds them."""
    taken = set(SCAN_COLUMNS)
    columns: list[Column] = []
    for name, series in scans.items():
        name = str(name)
        array = name
        if name not in SCAN_COLUMNS:
            array = base = _array_name(name)
            count = 1
            while array in taken:
                count += 1
                array = f"{base}_{count}"
            taken.add(array)
        columns.append(Column(array, name, _values(series)))
    return columns


def table_of(columns: Iterable[Column]) -> pd.DataFrame:
    """The table of scans that `columns_of` was given; its index counts from 0."""
    return pd.DataFrame({column.name: _series(column) for column in columns})


def hash_of_table(columns: Iterable[Column]) -> str:
    """A hash over every cell, in order."""
    return sha256_of([[column.name, column.is_text, json_cells(column.values)] for column in columns])


def scan_identities(scans: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Participant, session and run of each scan, in the order of the table."""
    return list(scans[list(IDENTITY)].itertuples(index=False, name=None))


def json_cells(values: np.ndarray) -> list[Any]:
    """The values of a column as JSON has them; NaN becomes null."""
    return [None if isinstance(cell, float) and math.isnan(cell) else cell for cell in values.tolist()]


def _array_name(column: str) -> str:
    """A plain spelling of a further column; one that is too long for a folder ends in its hash."""
    name = EXTRA_PREFIX + modality_name(column)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 13]}_{sha256_of(column)[:12]}"


def _series(column: Column) -> pd.Series:
    return pd.Series(column.values, dtype="str" if column.is_text else np.float64)


def _values(series: pd.Series) -> np.ndarray:
    if series.name == "age" or (
        series.name not in SCAN_COLUMNS
        and (pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series))
        and not _loses_digits(series)
    ):
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    text = ["" if missing else str(cell) for cell, missing in zip(series, series.isna(), strict=True)]
    return np.array(text, dtype=object)


def _loses_digits(series: pd.Series) -> bool:
    """Whether whole numbers are too long for a float64, as the ids of some cohorts are."""
    if not pd.api.types.is_integer_dtype(series):
        return False
    return bool(((series < -_LARGEST_EXACT) | (series > _LARGEST_EXACT)).any())
