"""Tables as the wild has them: CSV, TSV, TXT and Parquet, gzip too, read without guessing at anyone.

What differs from file to file is found out (separator, encoding, line ends, missing markers); what
would make a row or a column mean something else than it says (a ragged row, two columns of one name,
no header) is an error that names the line.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.text_table import (
    check_rows,
    content_of,
    decimal_comma,
    header_of,
    separator_of,
)
from hpc_brainage.errors import CohortError

MISSING_MARKERS = ("", "n/a", "N/A", "NA", "NaN", "nan", "null", "None", ".", "-9999", "-9999.0")
MISSING_NUMBER = -9999.0
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".csv.gz", ".tsv.gz", ".txt.gz")


def is_table(path: Path) -> bool:
    """Whether the file's name says that it is a table."""
    return path.name.lower().endswith(TABLE_SUFFIXES)


def table_stem(name: str) -> str:
    """A table's file name without the endings that say how it is stored."""
    ending = next((end for end in (*TABLE_SUFFIXES, ".npz") if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def read_table(path: Path, text: Collection[str] = ()) -> pd.DataFrame:
    """Read one table.

    Parameters
    ----------
    path : CSV, TSV, TXT or Parquet, gzip too. The separator (comma, semicolon, tab or blanks), UTF-8
        with or without a byte order mark, UTF-16 and every kind of line end are recognised from the
        content.
    text : columns that hold words even where they look like numbers (identities): they come exactly as
        spelled, so that `0051456` keeps its zeros. Compared without regard to case; names that the
        table does not have are ignored.

    Returns
    -------
    A frame with a RangeIndex. A column is numeric where each of its cells is a number or missing
    (`MISSING_MARKERS`), else text with every cell as spelled. `frame.attrs["notes"]` says what a
    careful person would want to know about the reading.

    Raises
    ------
    CohortError : the file is missing, empty, damaged or binary, has no header, two columns of one name,
        or a row that is longer or shorter than the header.
    """
    if _is_parquet(path):
        return _read_parquet(path, text)
    raw, encoding, notes = content_of(path, whole=True)
    separator = separator_of(raw)
    names = header_of(raw, separator, encoding, path)
    check_rows(raw, separator, encoding, len(names), path)
    decimal = "," if decimal_comma(raw, separator) else "."
    if decimal == ",":
        notes.append(f"{path.name}: numbers are written with a decimal comma")
    as_text = _wanted(names, text)
    try:
        frame = pd.read_csv(
            io.BytesIO(raw),
            sep=separator,
            engine="c",
            encoding=encoding,
            header=0,
            names=list(range(len(names))),
            index_col=False,
            dtype={names.index(name): str for name in as_text},
            na_values=list(MISSING_MARKERS),
            keep_default_na=False,
            skipinitialspace=separator != "\t",
            decimal=decimal,
            low_memory=False,  # a column is judged as a whole: one word keeps every cell as spelled
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as problem:
        raise CohortError(f"not readable as a table ({problem})", where=path) from None
    frame.columns = pd.Index(names)
    return _tidy(frame, notes)


def column_names(path: Path) -> list[str]:
    """The header of a table, without reading the rest of it; the same errors as `read_table`."""
    if _is_parquet(path):
        return [str(name) for name in _parquet_file(path).schema_arrow.names]
    raw, encoding, _ = content_of(path, whole=False)
    return header_of(raw, separator_of(raw), encoding, path)


def _wanted(names: list[str], text: Collection[str]) -> list[str]:
    wanted = {name.casefold() for name in text}
    return [name for name in names if name.casefold() in wanted]


def _tidy(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Truth values become words; an unnamed column without a value (a trailing separator) goes."""
    for name in frame.select_dtypes("bool").columns:
        frame[name] = frame[name].astype(str)
    unnamed = [name for name in frame.columns if name.startswith("Unnamed: ")]
    frame = frame.drop(columns=[name for name in unnamed if frame[name].isna().all()])
    frame.attrs["notes"] = tuple(notes)
    return frame


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _parquet_file(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise CohortError("a table is missing", where=path) from None
    except (pyarrow.ArrowInvalid, OSError) as problem:
        raise CohortError(f"not readable as Parquet ({problem})", where=path) from None


def _read_parquet(path: Path, text: Collection[str]) -> pd.DataFrame:
    """A Parquet table by the rules of the text tables: numbers or words, the same missing markers."""
    import pyarrow

    file = _parquet_file(path)
    repeated = [name for name, times in Counter(file.schema_arrow.names).items() if times > 1]
    if repeated:
        raise CohortError(f"two columns are named {repeated[0]!r}", where=path)
    try:
        frame = file.read().to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowInvalid, OSError) as problem:
        raise CohortError(f"the table cannot be read to its end ({problem})", where=path) from None
    if frame.empty:
        raise CohortError("the table has no rows", where=path, expected="one row per scan")
    frame.columns = pd.Index([str(name) for name in frame.columns])
    as_text = set(_wanted(list(frame.columns), text))
    columns: dict[str, pd.Series] = {}
    for name in frame.columns:
        column = frame[name]
        numeric = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
        if numeric and name not in as_text:
            columns[name] = column.mask(column == MISSING_NUMBER)
        else:
            words = column.map(str, na_action="ignore")
            columns[name] = words.mask(words.isin(MISSING_MARKERS), np.nan)
    result = pd.DataFrame(columns)
    result.attrs["notes"] = ()
    return result
