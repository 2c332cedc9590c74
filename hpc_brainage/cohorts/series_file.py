"""One file of ROI time series: where such files lie, what is in one, and whose it is."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.file_identity import Identity, identities_of_files
from hpc_brainage.cohorts.files_meant import files_meant
from hpc_brainage.cohorts.image_check import missing_file
from hpc_brainage.cohorts.npy import read_npy
from hpc_brainage.errors import ScanRefused

_SUFFIX = re.compile(r"\.(1D|tsv|csv|txt|npy)(\.gz)?$", re.IGNORECASE)
_TELLING = re.compile(r"(\.1D|_timeseries\.(tsv|csv|txt|npy))(\.gz)?$", re.IGNORECASE)
# Files of a BIDS tree that look like series by their ending only.
_OTHER = re.compile(
    r"desc-confounds|^(participants|README|CHANGES|LICENSE|phenotype|dataset_description)"
    r"|_(events|physio|stim|scans|sessions|channels|electrodes|motion|outliers|relmat|coverage)\.",
    re.IGNORECASE,
)
_MISSING = {"", "n/a", "na", "nan", "null", "none"}
_INTEGER = re.compile(r"\d+")


@dataclass(frozen=True)
class Series:
    """ROI time series of one scan.

    Parameters
    ----------
    labels : of the ROIs; `roi001`, `roi002`, ... where the file does not say.
    values : shape (volumes, ROIs), float64, all finite.
    """

    labels: tuple[str, ...]
    values: np.ndarray


def series_files(where: Path | Sequence[Path]) -> list[Path]:
    """Files that may hold ROI time series, sorted: of a folder and those below it, a glob or a list.

    If some are named as time series (`.1D`, `_timeseries.tsv`), only these count. fMRIPrep's confounds
    and the tables that a BIDS tree has besides are left aside.
    """
    files = [
        path for path in files_meant(where) if _SUFFIX.search(path.name) and not path.name.startswith(".")
    ]
    files = sorted(path for path in files if path.is_file() and not _OTHER.search(path.name))
    return [path for path in files if is_named_as_series(path)] or files


def is_named_as_series(path: Path) -> bool:
    """Whether the file's name alone says that it holds ROI time series."""
    return bool(_TELLING.search(path.name)) and not _OTHER.search(path.name)


def read_series(path: Path) -> Series:
    """Read a file of ROI time series: a row for each volume, a column for each ROI.

    `.npy`, or text separated by tabs, commas, semicolons or blanks; gzip too. Labels stand in a first
    row that is not data or, as AFNI writes them, in a comment (`#2001` is 2001). A ROI that is missing in
    every volume has no signal: it is 0 throughout.

    Raises
    ------
    ScanRefused : the file cannot be read, or holds text, NaN or infinite values, ragged rows, two ROIs
        of one name, or a column that only counts the volumes.
    """
    if re.search(r"\.npy(\.gz)?$", path.name):
        values, labels = read_npy(path, dtype=np.float64), None
        if values.ndim != 2:
            raise ScanRefused(f"the array has shape {values.shape}", where=path, expected="(volumes, ROIs)")
    else:
        values, labels = _read_text(path)
    if values.size == 0:
        raise ScanRefused("the file has no volumes", where=path)
    if labels is None:
        width = max(3, len(str(values.shape[1])))
        labels = tuple(f"roi{number + 1:0{width}d}" for number in range(values.shape[1]))
    repeated = sorted(label for label, times in Counter(labels).items() if times > 1)
    if repeated:
        raise ScanRefused(f"two ROIs are named {repeated[0]!r}", where=path, expected="one column each")
    if "" in labels:
        raise ScanRefused(
            f"column {labels.index('') + 1} has no name",
            where=path,
            expected="a name for each ROI, or no names at all",
            hint="if it counts the volumes, write the table without it (pandas: index=False)",
        )
    if counting := [label for label, column in zip(labels, values.T, strict=True) if _counts(column)]:
        raise ScanRefused(
            f"column {counting[0]} counts the volumes and is no ROI",
            where=path,
            expected="one column for each ROI",
            hint="write the table without it (pandas: index=False)",
        )
    # XCP-D writes n/a throughout for a ROI outside the field of view, other pipelines write zeros
    values = np.where(np.isnan(values).all(axis=0), 0.0, values)
    unusable = ~np.isfinite(values)
    if unusable.any():
        volume, roi = np.argwhere(unusable)[0]
        raise ScanRefused(
            f"{int(unusable.sum())} values are NaN, infinite or missing "
            f"(the first in volume {volume + 1}, ROI {labels[roi]})",
            where=path,
            expected="a number for each volume and ROI",
        )
    return Series(labels, values)


def stem(path: Path) -> str:
    """The file's name without the endings of its format."""
    return _SUFFIX.sub("", path.name)


def series_identities(files: Sequence[Path], known_ids: Collection[str] | None = None) -> list[Identity]:
    """Participant, session and run of each file (see `file_identity.identities_of_files`)."""
    return identities_of_files(files, [stem(path) for path in files], known_ids)


def _read_text(path: Path) -> tuple[np.ndarray, tuple[str, ...] | None]:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem  # without the path, which a store keeps
        raise ScanRefused(f"the file cannot be read to its end ({reason})", where=path) from None
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    comments: list[str] = []
    head: list[str] = []
    skipped = 0
    for line in io.BytesIO(raw):
        text = line.decode("latin-1").strip("\r\n")
        if text.lstrip().startswith("#") and not head:
            comments.append(text)
            skipped += 1
        elif text.strip():
            head.append(text)
        elif not head:
            skipped += 1
        if len(head) == 3:
            break
    if not head:
        raise ScanRefused("the file has no volumes", where=path)
    separator = next((mark for mark in "\t;," if mark in head[0].strip(" ")), r"\s+")
    rows = [_cells(line, separator) for line in head]
    labels: tuple[str, ...] | None = None
    if _is_header(rows):
        labels, skipped = tuple(rows[0]), skipped + 1
    elif comments:
        said = tuple(cell.lstrip("#").strip() for cell in _cells(comments[-1].lstrip("# "), separator))
        labels = said if len(said) == len(rows[0]) else None
    if labels is not None and len(head) == 1 and skipped > len(comments):
        raise ScanRefused("the file has labels and no volumes", where=path)
    values = _parse(raw, separator, skipped, path)
    if labels is not None and values.shape[1] != len(labels):
        raise ScanRefused(
            f"{len(labels)} labels for {values.shape[1]} columns", where=path, expected="one for each"
        )
    return values, labels


def _parse(raw: bytes, separator: str, skipped: int, path: Path) -> np.ndarray:
    def parse(dtype: type) -> pd.DataFrame:
        return pd.read_csv(
            io.BytesIO(raw), sep=separator, header=None, skiprows=skipped, engine="c", dtype=dtype
        )

    try:
        try:
            return parse(np.float64).to_numpy()
        except pd.errors.ParserError:
            raise
        except ValueError:
            words = parse(str)
            numbers = words.apply(pd.to_numeric, errors="coerce")
            row, column = np.argwhere((numbers.isna() & words.notna()).to_numpy())[0]
            raise ScanRefused(
                f"volume {row + 1}, column {column + 1} is {words.iat[row, column]!r}, not a number",
                where=path,
                expected="a number for each volume and ROI",
            ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, IndexError, UnicodeDecodeError) as problem:
        reason = str(problem).splitlines()[0]
        raise ScanRefused(f"not readable as ROI time series ({reason})", where=path) from None


def _cells(line: str, separator: str) -> list[str]:
    cells = line.split() if separator == r"\s+" else line.split(separator)
    return [cell.strip().strip("\"'") for cell in cells]


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the ROIs: words, or counted numbers above rows of decimals."""
    first = rows[0][1:] if rows[0][0] == "" else rows[0]  # pandas leaves its row numbers unnamed
    if any(not _is_number(cell) and cell.lower() not in _MISSING for cell in first):
        return True
    counted = all(_INTEGER.fullmatch(cell) for cell in first) and len(first) > 1
    rising = counted and all(int(a) < int(b) for a, b in pairwise(first))
    return rising and any(not _INTEGER.fullmatch(cell) for row in rows[1:] for cell in row)


def _counts(column: np.ndarray) -> bool:
    """Whether values go up by 1 from volume to volume, from 0 or 1 on, as no signal does."""
    return len(column) > 2 and column[0] in (0.0, 1.0) and bool((np.diff(column) == 1.0).all())


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def looks_like_people(labels: Iterable[str]) -> bool:
    """Whether columns of this name belong to a table of people rather than to a time series."""
    people = r"participant_?id|sub(ject)?(_?id)?|id|age.*|sex|gender|site.*|dx.*|diagnosis|session.*"
    return any(re.fullmatch(people, label.strip(), re.IGNORECASE) for label in labels)
