"""Feature matrices in `.npz`: what each array is follows from its shape and kind, or is said.

A file holds a matrix (scans x features), an identity for each row, and names for the columns: words, or
for the edges of a connectome two indices into a list of region labels.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from hpc_brainage.cohorts.columns import ColumnMap, recognise_columns
from hpc_brainage.cohorts.npy import npy_header
from hpc_brainage.errors import CohortError, ScanRefused, nearest

ARRAY_ROLES = ("data", "ids", "names")

_LABELS = re.compile(r"roi|region|label|node|parcel")


@dataclass(frozen=True)
class FeatureMatrix:
    """The content of one file.

    Parameters
    ----------
    values : shape (scans, features), float32.
    names : of the features; an edge between regions a and b is `a--b`.
    rows : one row per scan with every array that has one value per scan: the identity, and whatever
        else the file knows (age, site, ...).
    id_column : the column of `rows` that says who was scanned.
    """

    values: np.ndarray
    names: tuple[str, ...]
    rows: pd.DataFrame
    id_column: str


@dataclass(frozen=True)
class ArrayHeader:
    """What a file says about one of its arrays before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)


def read_npz(path: Path, columns: ColumnMap, arrays: Mapping[str, str] | None = None) -> FeatureMatrix:
    """Read a feature matrix; nothing in the file is unpickled.

    Parameters
    ----------
    columns : names of arrays with one value per scan, where they are named.
    arrays : which array is the "data", the "ids" or the "names", where shape and kind do not tell.

    Raises
    ------
    CohortError : damaged, holds pickled objects, or more than one array fits (they are listed).
    """
    arrays = dict(arrays or {})
    headers = _headers(path)
    for role, name in arrays.items():
        if role not in ARRAY_ROLES:
            raise CohortError(f"an .npz has no {role!r}", where=path, hint=nearest(role, ARRAY_ROLES))
        if name not in headers:
            raise CohortError(f"there is no array {name!r}", where=path, hint=nearest(name, headers))
    matrix = _matrix(headers, arrays.get("data"), path)
    lists = [name for name, header in headers.items() if header.ndim == 1]
    content = _load(path, {matrix, *lists, *arrays.values()})
    values = content.pop(matrix)
    scans, features = values.shape
    names = _feature_names(content, features, scans, arrays, path)
    per_scan = {
        name: array for name, array in content.items() if array.shape == (scans,) and _is_simple(array)
    }
    rows = pd.DataFrame(
        {
            name: _words(array, name, path) if array.dtype.kind in "SU" else array
            for name, array in per_scan.items()
        }
    )
    id_column = _identity(rows, columns, arrays.get("ids"), content, path)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and its scan is refused later
        return FeatureMatrix(values.astype(np.float32), names, rows, id_column)


def _headers(path: Path) -> dict[str, ArrayHeader]:
    """The arrays of a file, whose claims are compared with what the archive holds before any is read."""
    headers: dict[str, ArrayHeader] = {}
    with _damage_named(path):
        with path.open("rb") as file:
            if file.read(2) != b"PK":  # numpy would take anything else for a pickle
                raise CohortError("this is no .npz archive", where=path)
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    shape, dtype, start, _ = npy_header(cast(BinaryIO, file), path)
                if dtype.hasobject:
                    raise CohortError(
                        "the file holds pickled objects, which can run anything when they are opened",
                        where=f"{path}, array {name}",
                        expected="arrays of numbers and of text",
                        hint="save text as np.array(ids, dtype=str) and numbers as numbers",
                    )
                claimed = start + math.prod(shape) * dtype.itemsize
                if member.file_size != claimed:
                    raise CohortError(
                        f"the array {name} has {member.file_size} bytes and should have {claimed}",
                        where=path,
                        hint="write or download this file again",
                    )
                headers[name] = ArrayHeader(shape, dtype)
    return headers


def _load(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    with _damage_named(path), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name in names}


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except CohortError:
        raise
    except FileNotFoundError:
        raise CohortError("a file is missing", where=path) from None
    except ScanRefused as problem:
        raise CohortError(f"an array cannot be read: {problem.what}", where=path) from None
    except MemoryError:
        raise CohortError("an array does not fit into memory", where=path) from None
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise CohortError(f"the .npz is damaged or cut off ({reason})", where=path) from None


def _words(array: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Text; bytes are UTF-8, numbers are spelled."""
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
    except UnicodeDecodeError:
        raise CohortError(
            f"the text in {name} is not UTF-8",
            where=path,
            hint="save it as np.array(words, dtype=str)",
        ) from None


def _matrix(content: Mapping[str, ArrayHeader], named: str | None, path: Path) -> str:
    fitting = [name for name, array in content.items() if array.ndim == 2 and array.dtype.kind == "f"]
    if named is not None:
        array = content[named]
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise CohortError(
                f"{named} cannot be the data",
                where=path,
                expected="a matrix of numbers (scans x features)",
            )
        return named
    if len(fitting) != 1:
        raise _unclear("the data (scans x features)", "data", fitting or list(content), content, path)
    return fitting[0]


def _feature_names(
    content: dict[str, np.ndarray], features: int, scans: int, arrays: Mapping[str, str], path: Path
) -> tuple[str, ...]:
    """Names of the columns; the arrays that they were made of are taken out of `content`."""
    named = arrays.get("names")
    taken = {arrays[role] for role in arrays if role != "names"}
    free = {name: array for name, array in content.items() if name not in taken and array.ndim == 1}
    fitting = [name for name, array in free.items() if len(array) == features and array.dtype.kind in "SU"]
    if named is not None:
        fitting = [named]
        if content[named].shape != (features,):
            raise CohortError(
                f"{named} has shape {content[named].shape} for {features} features", where=path
            )
    indices = [name for name, array in free.items() if len(array) == features and array.dtype.kind in "iu"]
    if len(fitting) == 1 and (named is not None or features != scans):
        names = tuple(_words(content.pop(fitting[0]), fitting[0], path).tolist())
    elif not fitting and len(indices) == 2 and features != scans:
        names = _edge_names(content, indices, features, scans, path)
    else:
        what = f"the names of the {features} features"
        raise _unclear(what, "names", fitting or indices or list(free), content, path)
    if len(set(names)) != len(names):
        raise CohortError("two features have the same name", where=path)
    return names


def _edge_names(
    content: dict[str, np.ndarray], indices: list[str], features: int, scans: int, path: Path
) -> tuple[str, ...]:
    """`a--b` for each edge, out of two index arrays and the list of region labels.

    The indices count into the labels from 0; where they do not fit as positions, they must be labels.
    """
    first, second = (content[name].astype(int) for name in indices)
    reached = np.union1d(first, second)
    flat = [name for name, array in content.items() if array.ndim == 1 and array.dtype.kind in "SUiu"]
    lists = [name for name in flat if len(content[name]) not in (features, scans)]
    # As many regions as scans: then only the name of a list can tell labels from identities.
    lists = lists or [
        name for name in flat if len(content[name]) == scans and _LABELS.search(name.casefold())
    ]
    if len(lists) > 1:
        raise _unclear("the labels of the regions", "names", lists, content, path)
    if not lists:
        labels = {int(index): str(index) for index in reached}
    else:
        words = content[lists[0]]
        if reached.min() >= 0 and reached.max() < len(words):
            labels = dict(enumerate(_words(words, lists[0], path).tolist()))
        elif words.dtype.kind in "iu" and np.isin(reached, words).all():
            labels = {int(word): str(word) for word in words}
        else:
            raise CohortError(
                f"{indices[0]} and {indices[1]} reach beyond the {len(words)} labels of {lists[0]}",
                where=path,
                expected="positions that count from 0, or the labels themselves",
            )
        content.pop(lists[0])
    for name in indices:
        content.pop(name)
    return tuple(f"{labels[a]}--{labels[b]}" for a, b in zip(first.tolist(), second.tolist(), strict=True))


def _identity(
    rows: pd.DataFrame,
    columns: ColumnMap,
    named: str | None,
    content: Mapping[str, np.ndarray],
    path: Path,
) -> str:
    """The array that says who was scanned: named, usually named, or the only one of unique words."""
    if named is not None or columns.id in rows.columns:
        named = named or columns.id
        if named not in rows.columns:
            raise CohortError(
                f"{named} has no value for each scan", where=path, expected=f"{len(rows)} identities"
            )
        return str(named)
    names = [str(name) for name in rows.columns]
    recognised = recognise_columns(names, ColumnMap(), source=str(path)).id
    if recognised is not None:
        return recognised
    words = [name for name in names if not is_numeric_dtype(rows[name]) and rows[name].is_unique]
    if len(words) == 1:
        return words[0]
    raise _unclear("the identities of the scans", "ids", words or names, content, path)


def _is_simple(array: np.ndarray) -> bool:
    return array.dtype.kind in "SUiufb"


def _unclear(
    what: str,
    role: str,
    fitting: list[str],
    content: Mapping[str, np.ndarray] | Mapping[str, ArrayHeader],
    path: Path,
) -> CohortError:
    shown = ", ".join(f"{name} {content[name].shape} {content[name].dtype}" for name in fitting)
    return CohortError(
        f"which array holds {what} is not clear: {shown or 'the file is empty'}",
        where=path,
        expected="a matrix (scans x features), one identity per scan, one name per feature",
        hint=f"name the array: {path.name}::{role}=NAME",
    )
