"""Relational matrices of many scans (`*_relmat.tsv`), one file each, as edges between ROIs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial as bind
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.cohorts.connectivity import LARGEST_CORRELATION, edge_names
from hpc_brainage.cohorts.file_identity import (
    bids_entities,
    identities_of_names,
    refuse_repeated,
    scans_of,
)
from hpc_brainage.cohorts.fingerprint import fingerprint_of
from hpc_brainage.cohorts.image_check import missing_file
from hpc_brainage.cohorts.series_file import stem
from hpc_brainage.errors import CohortError, ScanRefused
from hpc_brainage.files import sha256_of, sha256_of_file
from hpc_brainage.modality import Modality, Role, modality_name

PEARSON = "pearsoncorrelation"
SYMMETRIC = 1e-5


def read_relmats(files: Sequence[Path], role: str = "fmri", name: str = "fc") -> Cohort:
    """Read matrices as one modality of edges.

    Pearson correlations (`stat-pearsoncorrelation` in the name) become Fisher z and have the names that
    edges of time series have, since they are the same quantity. Other numbers are kept as they are, and
    their edges begin with the `stat` of the file names, so that no model takes one for the other.
    Edges of a ROI that the scan does not cover are NaN.

    Raises
    ------
    CohortError : two files of one scan, matrices of several kinds, or no usable file. What is wrong
        with one file only is in the account.
    """
    identities = identities_of_names([stem(path) for path in files])
    kinds = sorted({bids_entities(stem(path)).get("stat", "") for path in files})
    if len(kinds) > 1:
        raise CohortError(
            f"the matrices hold different things: {', '.join(kind or '(not said)' for kind in kinds)}",
            where=files[0].parent,
            hint=f"choose one, as in --entities stat={kinds[-1]}",
        )
    refuse_repeated(files, identities, "folder/**/*_atlas-X_*relmat.tsv")
    pearson = kinds == [PEARSON]
    refused: dict[int, str] = {}
    found: dict[int, tuple[str, ...]] = {}
    for place, path in enumerate(files):
        try:
            found[place] = _read(path, pearson)[0]
        except ScanRefused as problem:
            refused[place] = problem.what
    if not found:
        raise CohortError(
            f"none of the {len(files)} matrices can be used",
            where=files[0].parent if files else None,
            hint=f"the first was refused because: {refused[0]}" if refused else None,
        )
    labels = Counter(found.values()).most_common(1)[0][0]
    for place, others in found.items():
        if others != labels:
            refused[place] = f"its {len(others)} ROIs are others than the {len(labels)} of most files"
    usable = [place for place in found if place not in refused]
    prefix = "" if pearson else f"{modality_name(kinds[0] or 'relmat')}:"
    names = edge_names(labels, prefix)
    modality = Modality(cast(Role, role), name, "features", (len(names),), names, ("",) * len(names))
    loaders = [bind(_load, files[place], labels, pearson) for place in usable]
    present = np.ones(len(usable), dtype=bool)
    fingerprint = fingerprint_of(files[place] for place in usable)
    account = Account(
        (JoinedSource(name, rows=len(files), matched=len(usable)),),
        tuple(Refusal(*identities[place], name, refused[place]) for place in sorted(refused)),
    )
    contents = [[path.name, sha256_of_file(path) if path.exists() else None] for path in files]
    return Cohort(
        name,
        scans_of([identities[place] for place in usable]),
        {modality.key: ModalitySource(modality, present, lambda row: loaders[row](), fingerprint)},
        account,
        {"reader": "relmat", "scan_files": len(files), "sha256": sha256_of(contents)},
    )


def _load(path: Path, labels: tuple[str, ...], pearson: bool) -> np.ndarray:
    found, edges = _read(path, pearson)
    if found != labels:
        raise ScanRefused("the file has changed since it was looked through", where=path)
    return edges


def _read(path: Path, pearson: bool) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the ROIs, and the edges above the diagonal, shape (edges,), float32."""
    frame = _table(path)
    labels = tuple(str(name).strip() for name in frame.columns)
    rows = tuple(str(name).strip() for name in frame.index)
    try:
        matrix = frame.to_numpy(dtype=np.float64)
    except (ValueError, TypeError):
        raise ScanRefused("the matrix holds text", where=path, expected="numbers and n/a") from None
    if len(labels) < 2 or matrix.shape != (len(labels),) * 2 or rows != labels:
        raise ScanRefused(
            f"no matrix with the same ROIs in rows and columns: {len(rows)} by {len(labels)}",
            where=path,
            expected="a column of names, then one column per ROI in the same order, each named once",
        )
    if not np.allclose(matrix, matrix.T, rtol=SYMMETRIC, atol=SYMMETRIC, equal_nan=True):
        raise ScanRefused("the matrix is not symmetric", where=path)
    edges = matrix[np.triu_indices(len(labels), k=1)]
    if np.isinf(edges).any():
        raise ScanRefused("the matrix holds infinite values", where=path)
    if np.isnan(edges).all():
        raise ScanRefused("no pair of ROIs has a value", where=path)
    if pearson:
        if np.nanmax(np.abs(edges)) > 1 + SYMMETRIC:
            raise ScanRefused("values beyond 1 are no correlations", where=path)
        edges = np.arctanh(np.clip(edges, -LARGEST_CORRELATION, LARGEST_CORRELATION))
    return labels, edges.astype(np.float32)


def _table(path: Path) -> pd.DataFrame:
    """The matrix with the names of its ROIs as columns and index; the first column names the rows."""
    try:
        frame = pd.read_csv(path, sep="\t", encoding="utf-8-sig", engine="c", converters={0: str})
        return frame.set_index(frame.columns[0])
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, EOFError, ValueError) as problem:  # pandas' own errors are ValueErrors
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise ScanRefused(f"not readable as a matrix ({reason})", where=path) from None
