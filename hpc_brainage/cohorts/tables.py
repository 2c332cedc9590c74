"""Tables as the wild has them: CSV, TSV, TXT and Parquet, gzip too, read without guessing at anyone.

What differs from file to file is found out (separator, encoding, line ends, missing markers); what
would make a row or a column mean something else than it says (a ragged row, two columns of one name,
no header) is an error that names the line.
"""

from __future__ import annotations

import io
import re
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
# Missing where numbers or identities are expected; as a diagnosis it is what a healthy person has.
WORD_FOR_NOTHING = "None"
_DIGITS_OF_A_NUMBER = 15  # a float64 keeps that many
_CODE = re.compile(rf"-?0\d+|-?\d{{{_DIGITS_OF_A_NUMBER + 1},}}(\.0*)?")
_CODE_IN_TABLE = re.compile(rb"""(?:^|[\s,;"'])(?:%s)(?=[\s,;"']|$)""" % _CODE.pattern.encode())
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
        spelled, so that `0051456` keeps its zeros and "None" is a word. Compared without regard to case;
        names that the table does not have are ignored.

    Returns
    -------
    A frame with a RangeIndex. A column is numeric where each of its cells is a number or missing
    (`MISSING_MARKERS`), else text with every cell as spelled. A column with a whole number that begins
    with 0 or has more than 15 digits holds codes, and is text. `frame.attrs["notes"]` says what a careful
    person would want to know about the reading.

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

    places = [str(place) for place in range(len(names))]
    wanted = {places[names.index(name)] for name in _wanted(names, text)}

    def parse(as_text: Collection[str]) -> pd.DataFrame:
        try:
            return pd.read_csv(
                io.BytesIO(raw),
                sep=separator,
                engine="c",
                encoding=encoding,
                header=0,
                names=places,
                index_col=False,
                dtype=dict.fromkeys(as_text, str),
                na_values={place: _missing_markers(place in wanted) for place in places},
                keep_default_na=False,
                skipinitialspace=separator != "\t",
                decimal=decimal,
                low_memory=False,  # a column is judged as a whole: one word keeps every cell as spelled
            )
        except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as problem:
            raise CohortError(f"not readable as a table ({problem})", where=path) from None

    frame = parse(wanted)
    if _CODE_IN_TABLE.search(raw):
        numeric = [str(place) for place in frame.select_dtypes("number").columns]
        words = parse({*wanted, *numeric})
        for place in numeric:
            if holds_codes(words[place]):
                frame[place] = words[place]
    frame.columns = pd.Index(names)
    return _tidy(frame, notes)


def holds_codes(words: pd.Series) -> bool:
    """Whether some cell is no number although it looks like one: 0051456, or 1000000000000000001."""
    return any(_CODE.fullmatch(word.strip()) for word in words.dropna().unique())


def column_names(path: Path) -> list[str]:
    """The header of a table, without reading the rest of it; the same errors as `read_table`."""
    if _is_parquet(path):
        return [str(name) for name in _parquet_file(path).schema_arrow.names]
    raw, encoding, _ = content_of(path, whole=False)
    return header_of(raw, separator_of(raw), encoding, path)


def _missing_markers(is_text: bool) -> list[str]:
    return [marker for marker in MISSING_MARKERS if not (is_text and marker == WORD_FOR_NOTHING)]


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
        table = file.read()
        as_text = set(_wanted([str(name) for name in table.column_names], text))
        frame = _with_exact_codes(table, as_text).to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowInvalid, OSError) as problem:
        raise CohortError(f"the table cannot be read to its end ({problem})", where=path) from None
    if frame.empty:
        raise CohortError("the table has no rows", where=path, expected="one row per scan")
    frame.columns = pd.Index([str(name) for name in frame.columns])
    columns: dict[str, pd.Series] = {}
    for name in frame.columns:
        column = frame[name]
        numeric = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
        if numeric and name not in as_text:
            columns[name] = column.mask(column == MISSING_NUMBER)
        else:
            words = column.map(str, na_action="ignore")
            columns[name] = words.mask(words.isin(_missing_markers(name in as_text)), np.nan)
    result = pd.DataFrame(columns)
    result.attrs["notes"] = ()
    return result


def _with_exact_codes(table: Any, as_text: Collection[str]) -> Any:
    """Whole numbers that are identities, or too long for a float64, as text: pandas has no other way for
    them beside a missing cell."""
    import pyarrow
    import pyarrow.compute

    for place, name in enumerate(table.column_names):
        column = table.column(place)
        if not pyarrow.types.is_integer(column.type):
            continue
        ends = pyarrow.compute.min_max(column).as_py()
        longest = max(abs(end or 0) for end in ends.values())
        if name in as_text or longest >= 10**_DIGITS_OF_A_NUMBER:
            table = table.set_column(place, name, column.cast(pyarrow.string()))
    return table
