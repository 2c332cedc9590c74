"""Tables as the wild has them: CSV, TSV, TXT and Parquet, gzip too, read without guessing at anyone.

What differs from file to file is found out (separator, encoding, line ends, missing markers); what
would make a row or a column mean something else than it says (a ragged row, two columns of one name,
no header) is an error that names the line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.errors import CohortError

MISSING_MARKERS = ("", "n/a", "N/A", "NA", "NaN", "nan", "null", "None", ".", "-9999", "-9999.0")
MISSING_NUMBER = -9999.0
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".csv.gz", ".tsv.gz", ".txt.gz")

_WHITESPACE = r"\s+"
_HEAD_BYTES = 1 << 22
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_DECIMAL_COMMA = re.compile(rb"(?:^|;)\s*-?\d+,\d+\s*(?:;|$)", re.MULTILINE)
_DECIMAL_POINT = re.compile(rb"(?:^|;)\s*-?\d+\.\d+\s*(?:;|$)", re.MULTILINE)


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
    raw, encoding, notes = _content(path, whole=True)
    separator = _separator(raw, path)
    names = _header(raw, separator, encoding, path)
    _check_rows(raw, separator, encoding, len(names), path)
    decimal = "."
    head = raw[:_HEAD_BYTES]
    if separator == ";" and _DECIMAL_COMMA.search(head) and not _DECIMAL_POINT.search(head):
        decimal = ","
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
    raw, encoding, _ = _content(path, whole=False)
    return _header(raw, _separator(raw, path), encoding, path)


def _content(path: Path, whole: bool) -> tuple[bytes, str, list[str]]:
    """Bytes of a text table with plain line ends, and their encoding."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            raw = stream.read() if whole else stream.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise CohortError("a table is missing", where=path) from None
    except (OSError, EOFError, zlib.error) as problem:
        raise CohortError(f"the table cannot be read to its end ({problem})", where=path) from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raw = raw[: len(raw) // 2 * 2].decode("utf-16", errors="replace").encode()
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if b"\0" in raw:
        raise CohortError(
            "this is not a table of text", where=path, expected="CSV, TSV, TXT or Parquet"
        )
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not raw.strip():
        raise CohortError("the table is empty", where=path, expected="a header and one row per scan")
    if not whole and b"\n" in raw:
        raw = raw[: raw.rindex(b"\n")]
    notes: list[str] = []
    encoding = "utf-8"
    if not _is_utf8(raw):
        encoding = "latin-1"
        notes.append(f"{path.name} is not UTF-8: read as Latin-1, so look at letters with accents")
    return raw, encoding, notes


def _is_utf8(raw: bytes) -> bool:
    if raw.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(raw), _HEAD_BYTES):
            decoder.decode(raw[start : start + _HEAD_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _lines(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not blank; a quoted line break does not end a line."""
    number, pending, started = 0, b"", 0
    for piece in io.BytesIO(raw):
        number += 1
        started = number if not pending else started
        line = pending + piece
        if line.count(b'"') % 2:
            pending = line
            continue
        pending = b""
        if line.strip():
            yield started, line.rstrip(b"\n")
    if pending.strip():
        yield started, pending.rstrip(b"\n")


def _fields(line: bytes, separator: str, encoding: str) -> list[str]:
    text = line.decode(encoding, errors="replace")
    if separator == _WHITESPACE:
        return text.split()
    return next(csv.reader([text], delimiter=separator, skipinitialspace=separator != "\t"))


def _separator(raw: bytes, path: Path) -> str:
    """The separator on which the first lines agree; blanks where there is none of the usual ones."""
    head: list[bytes] = []
    for number, line in _lines(raw):
        head.append(re.sub(rb'"[^"]*"', b"", line))
        if number >= 20 or len(head) >= 5:
            break
    counts = {mark: [line.count(mark.encode()) for line in head] for mark in ("\t", ";", ",")}
    found = {mark: n[0] for mark, n in counts.items() if n[0]}
    agreeing = [mark for mark in found if len(set(counts[mark])) == 1]
    if agreeing:
        return max(agreeing, key=lambda mark: found[mark])
    if found:
        return max(found, key=lambda mark: found[mark])
    return _WHITESPACE if len(head[0].split()) > 1 else ","


def _header(raw: bytes, separator: str, encoding: str, path: Path) -> list[str]:
    _, line = next(_lines(raw))
    names = [name.strip() for name in _fields(line, separator, encoding)]
    if _looks_like_data(names):
        raise CohortError(
            f"the table seems to have no header: its first line is {', '.join(names[:4])}, ...",
            where=f"{path}, line 1",
            expected="a first line with the names of the columns",
        )
    repeated = [name for name, times in Counter(names).items() if times > 1 and name]
    if repeated:
        raise CohortError(
            f"{len(repeated)} column names stand there more than once: {', '.join(repeated[:5])}",
            where=f"{path}, line 1",
            expected="each column name once",
            hint="rename or remove the repeated columns",
        )
    return [name or f"Unnamed: {position}" for position, name in enumerate(names)]


def _looks_like_data(names: list[str]) -> bool:
    """Whether most of the names are numbers; 0, 1, 2, ... are names that pandas gives to edges."""
    numbers = [name for name in names if _NUMBER.fullmatch(name)]
    if len(numbers) * 2 < len(names) or not numbers:
        return False
    if all(name.isdecimal() for name in numbers):
        positions = [int(name) for name in numbers]
        counted = len(numbers) > 1 and positions == list(
            range(positions[0], positions[0] + len(positions))
        )
        if counted and positions[0] in (0, 1):
            return False
    return True


def _check_rows(raw: bytes, separator: str, encoding: str, width: int, path: Path) -> None:
    """Every row has as many fields as the header; parsers fill or cut such rows in silence."""
    mark = separator.encode()
    rows = -1
    for number, line in _lines(raw):
        rows += 1
        if separator == _WHITESPACE or b'"' in line:
            fields = len(_fields(line, separator, encoding))
        else:
            fields = line.count(mark) + 1
        if fields != width:
            hint = "look at this line: a quote, a separator or the end of the file may be missing"
            if fields == width + 1 and rows == 1:
                hint = "if R wrote this table, its row names have no column name: use row.names = FALSE"
            raise CohortError(
                f"a row has {fields} fields and the header has {width}",
                where=f"{path}, line {number}",
                expected=f"{width} fields in every row",
                hint=hint,
            )
    if rows == 0:
        raise CohortError("the table has a header and no rows", where=path, expected="one row per scan")


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
