"""ROI time series of many scans, one file each, as functional connectivity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial as bind
from pathlib import Path
from typing import Any, get_args

import numpy as np

from hpc_brainage.cohorts import connectivity
from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.edges import SeriesOfScans, Survey
from hpc_brainage.cohorts.file_identity import refuse_repeated
from hpc_brainage.cohorts.fingerprint import fingerprint_of
from hpc_brainage.cohorts.reading import Connectivity
from hpc_brainage.cohorts.series_file import (
    is_named_as_series,
    looks_like_people,
    read_series,
    series_files,
    series_identities,
)
from hpc_brainage.errors import CohortError, ScanRefused, UsageError, nearest
from hpc_brainage.files import sha256_of, sha256_of_file

_LOOKED_AT = 10
"""Files of a folder that are looked at to tell whether it holds time series."""


def is_timeseries(path: Path) -> bool:
    """Whether a folder, a glob or a file holds ROI time series.

    Named as such (`.1D`, `_timeseries.tsv`), they are believed; a folder of other files is one of time
    series if its first two readable files are matrices of numbers with the same ROIs and enough volumes.
    A folder with a participants table is more than that: there the table is the source, and the series
    in it are added to it.
    """
    files = series_files(path)
    if not files or (path.is_dir() and any(path.glob("participants.*"))):
        return False
    if is_named_as_series(files[0]):
        return True
    if path.is_file() or len(files) < 2:
        return False
    readable = []
    for file in files[:_LOOKED_AT]:  # a damaged file does not make its folder another thing
        try:
            readable.append(read_series(file))
        except ScanRefused:
            continue
        if len(readable) == 2:
            break
    if len(readable) < 2:
        return False
    first, second = readable
    enough = min(len(first.values), len(second.values)) >= connectivity.FEWEST_VOLUMES
    return enough and first.labels == second.labels and not looks_like_people(first.labels)


def read_timeseries(
    path: Path | Sequence[Path],
    role: str = "fmri",
    name: str | None = None,
    kind: Connectivity = "pearson",
    known_ids: Collection[str] | None = None,
) -> Cohort:
    """Read a folder of ROI time series, one file per scan, as one modality of edges.

    All files are looked through once, so that the account is complete; with "pearson" and "partial" a
    scan's edges are computed when it is loaded. Edges are named `{a}--{b}` by the labels of the ROIs in
    the order of the files (see `connectivity.edge_names`), with `partial:` or `tangent-<reference>:`
    before them for the other kinds, so that a model never meets another kind of edge under the same
    name.

    A scan is refused if its file is not usable (`series_file.read_series`), has fewer than
    `connectivity.FEWEST_VOLUMES` volumes, other ROIs than most files have, or fewer than two ROIs with
    a signal. This is enough for all kinds: the covariance behind "partial" and "tangent" is shrunk, so
    it can be inverted with fewer volumes than ROIs.

    Edges of a dead ROI (no signal in this scan) are NaN. "tangent" needs all ROIs in all scans: a ROI
    that is dead in more than a tenth of them is left out for everybody, then scans in which another one
    is dead are refused. Its reference is fitted on all usable files of this source, before any selection
    and across the folds of a later training, so that such a model has seen a little of the scans that
    it is validated on; and its edges only meet models of the same reference. A note warns of both.

    Parameters
    ----------
    path : a folder, a glob, or the files themselves.
    role, name : of the modality, "fmri" and "fc" if not given.
    kind : "pearson" (Fisher z), "partial" (partial correlation) or "tangent".
    known_ids : participants that are expected, to recognise them in file names.

    Raises
    ------
    CohortError : no file, two files of one scan, files that lie on their side, or no usable file.
    """
    if kind not in get_args(Connectivity):
        raise UsageError(
            f"connectivity of kind {kind!r} is not known", hint=nearest(kind, get_args(Connectivity))
        )
    files = series_files(path)
    where = path if isinstance(path, Path) else f"{len(files)} files"
    if not files:
        raise CohortError(
            "there are no ROI time series",
            where=where,
            expected="one .1D, .tsv, .csv, .txt or .npy file per scan (.gz too)",
        )
    source = path.name if isinstance(path, Path) else name or "time series"
    identities = series_identities(files, known_ids)
    refuse_repeated(files, identities, "folder/**/*_atlas-X_timeseries.tsv")
    readers = [bind(read_series, file) for file in files]
    survey = Survey.look_through(readers, keep=kind == "tangent")
    _refuse_transposed(survey.sizes, files)
    loaders = [bind(_load, file, survey.labels) for file in files]
    scans = SeriesOfScans(source, where, identities, survey, loaders)
    loaded = fingerprint_of(files[place] for place in survey.usable)
    return scans.as_edges(role, name or "fc", kind, _recipe(files, kind), fingerprint=loaded)


def _load(path: Path, labels: tuple[str, ...]) -> np.ndarray:
    series = read_series(path)
    if series.labels != labels or len(series.values) < connectivity.FEWEST_VOLUMES:
        raise ScanRefused("the file has changed since it was looked through", where=path)
    return series.values


def _refuse_transposed(sizes: Sequence[tuple[int, int]], files: Sequence[Path]) -> None:
    """All files of one length, and no width that most of them share: rows must be the ROIs."""
    rows, columns = (Counter(size[axis] for size in sizes) for axis in (0, 1))
    if len(rows) == 1 and len(sizes) > 2 and 2 * max(columns.values()) <= len(sizes):
        raise CohortError(
            f"the files have {min(columns)} to {max(columns)} columns but all have {min(rows)} rows",
            where=files[0].parent,
            expected="a row for each volume and a column for each ROI",
            hint="they seem to lie on their side: swap rows and columns",
        )


def _recipe(files: Sequence[Path], kind: str) -> dict[str, Any]:
    contents = [[path.name, sha256_of_file(path)] for path in files]
    return {
        "reader": "timeseries",
        "connectivity": kind,
        "scan_files": len(files),
        "sha256": sha256_of(contents),
    }
