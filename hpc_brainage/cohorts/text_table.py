"""The text of a table: its bytes, encoding, separator, header, and whether every row is whole.

A parser fills a short row and cuts a long one in silence, so rows are counted here before one is asked.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hpc_brainage.errors import CohortError

WHITESPACE = r"\s+"
HEAD_BYTES = 1 << 22

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_DECIMAL_COMMA = re.compile(rb"(?:^|;)\s*-?\d+,\d+\s*(?:;|$)", re.MULTILINE)
_DECIMAL_POINT = re.compile(rb"(?:^|;)\s*-?\d+\.\d+\s*(?:;|$)", re.MULTILINE)


def content_of(path: Path, whole: bool) -> tuple[bytes, str, list[str]]:
    """Bytes of a text table with plain line ends, and their encoding."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            raw = stream.read() if whole else stream.read(HEAD_BYTES)
    except FileNotFoundError:
        raise CohortError("a table is missing", where=path) from None
    except (OSError, EOFError, zlib.error) as problem:
        raise CohortError(f"the table cannot be read to its end ({problem})", where=path) from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raw = raw[: len(raw) // 2 * 2].decode("utf-16", errors="replace").encode()
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if b"\0" in raw:
        raise CohortError("this is not a table of text", where=path, expected="CSV, TSV, TXT or Parquet")
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
        for start in range(0, len(raw), HEAD_BYTES):
            decoder.decode(raw[start : start + HEAD_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _lines(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not blank; a quoted line break does not end a line."""
    pieces: list[bytes] = []
    started, quoted = 0, False
    for number, piece in enumerate(io.BytesIO(raw), start=1):
        started = started if pieces else number
        pieces.append(piece)
        quoted ^= bool(piece.count(b'"') % 2)
        if quoted:
            continue
        if (line := b"".join(pieces)).strip():
            yield started, line.rstrip(b"\n")
        pieces = []
    if (line := b"".join(pieces)).strip():
        yield started, line.rstrip(b"\n")


def _fields(line: bytes, separator: str, encoding: str, where: str) -> list[str]:
    text = line.decode(encoding, errors="replace")
    if separator == WHITESPACE:
        return text.split()
    try:
        return next(csv.reader([text], delimiter=separator, skipinitialspace=separator != "\t"))
    except csv.Error as problem:  # such as a cell of more than 131,072 characters
        raise CohortError(
            f"the cells of a line cannot be told apart ({problem})",
            where=where,
            expected="a quote at both ends of a quoted cell",
            hint="a quote that is opened here and never closed makes one cell of all that follows",
        ) from None


def separator_of(raw: bytes) -> str:
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
    return WHITESPACE if len(head[0].split()) > 1 else ","


def decimal_comma(raw: bytes, separator: str) -> bool:
    """Whether the numbers of a table separated by semicolons are written as `23,5`."""
    head = raw[:HEAD_BYTES]
    return separator == ";" and bool(_DECIMAL_COMMA.search(head)) and not _DECIMAL_POINT.search(head)


def header_of(raw: bytes, separator: str, encoding: str, path: Path) -> list[str]:
    """The column names; raises `CohortError` if there seem to be none, or one stands there twice."""
    number, line = next(_lines(raw))
    names = [name.strip() for name in _fields(line, separator, encoding, f"{path}, line {number}")]
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
        counted = len(numbers) > 1 and positions == list(range(positions[0], positions[0] + len(positions)))
        if counted and positions[0] in (0, 1):
            return False
    return True


def check_rows(raw: bytes, separator: str, encoding: str, width: int, path: Path) -> None:
    """Every row has as many fields as the header; parsers fill or cut such rows in silence."""
    mark = separator.encode()
    rows = -1
    for number, line in _lines(raw):
        rows += 1
        if separator == WHITESPACE or b'"' in line:
            fields = len(_fields(line, separator, encoding, f"{path}, line {number}"))
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
