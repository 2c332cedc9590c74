"""OpenBHB as one matrix: the data of its challenge, a row of 3,659,572 numbers for each scan.

The kit of the challenge "brain age with site removal" (and those who work with its data) keep
`train.npy` and `test.npy`, or `internal_test.npy` and `external_test.npy`, with a table of the same name
beside each: a row for each row of the matrix, with age, site and split. What lies in a row, and how the
images in it are put back into their grids, is in `openbhb_blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource
from hpc_brainage.cohorts.columns import ColumnMap, recognise_columns
from hpc_brainage.cohorts.fingerprint import fingerprint_of
from hpc_brainage.cohorts.npy import npy_header
from hpc_brainage.cohorts.openbhb_blocks import (
    BLOCKS,
    MASKED,
    WIDTH,
    Mask,
    block_loader,
    find_mask,
    rows_of,
)
from hpc_brainage.cohorts.openbhb_layout import find_files
from hpc_brainage.cohorts.openbhb_names import array_modality
from hpc_brainage.cohorts.people import read_people
from hpc_brainage.cohorts.tables import read_table
from hpc_brainage.errors import CohortError, ScanRefused
from hpc_brainage.provenance import input_file

_NAMES = ("train", "test", "internal_test", "external_test")


def is_openbhb_matrix(path: Path) -> bool:
    """Whether a path is a matrix of the challenge with its table beside it, or a folder of such.

    A folder with OpenBHB's files of single scans is not: those say more.
    """
    return bool(_matrices(path))


def read_openbhb_matrix(path: Path, name: str = "openbhb") -> Cohort:
    """Read the matrices of a folder (or of its `data`), or a single one; rows are read as they are needed.

    Scans have the participants of the tables; a table that names none gives them the names of their rows
    (`train-000000`), and a note says so. The split is the table's own, or the name of the file where it
    has none; what the challenge calls "internal_train" is "train", as in the other releases of OpenBHB.

    Raises
    ------
    CohortError : a matrix is not 3,659,572 numbers wide, is no matrix of numbers or is cut off; a table
        has another number of rows; or `test` lies beside the two halves that it is made of.
    """
    matrices = _matrices(path)
    if not matrices:
        raise CohortError(
            "there is no matrix of OpenBHB's challenge", where=path, expected="train.npy and train.tsv"
        )
    stems = {matrix.stem for matrix in matrices}
    if "test" in stems and stems & {"internal_test", "external_test"}:
        raise CohortError(
            "test.npy and its halves internal_test.npy and external_test.npy lie side by side",
            where=matrices[0].parent,
            expected="each scan in one matrix",
            hint="move the one or the others elsewhere",
        )
    notes: list[str] = []
    frames = [_people(matrix, rows_of(matrix), notes) for matrix in matrices]
    rows = [
        (matrix, row) for matrix, frame in zip(matrices, frames, strict=True) for row in range(len(frame))
    ]
    table = pd.concat(frames, ignore_index=True)
    table.attrs = {}
    source = path.name if path.is_file() else " and ".join(matrix.name for matrix in matrices)
    site = "siteXacq" if "siteXacq" in table.columns else None
    people = read_people(table, ColumnMap(id="participant_id", site=site), source=source)
    where = [rows[row] for row in people.rows.tolist()]
    masks = {array.name: find_mask(array, matrices[0], notes) for array in BLOCKS if array.name in MASKED}
    sources = _sources(matrices, masks, where)
    account = Account((JoinedSource(source, rows=len(rows), matched=len(where)),)) + people.account
    tables = [_table_of(matrix) for matrix in matrices]
    recipe = {
        "reader": "openbhb",
        "layout": "matrix",
        "files": [input_file(file) for file in (*tables, *(mask.path for mask in masks.values() if mask))],
        "matrices": {matrix.name: len(frame) for matrix, frame in zip(matrices, frames, strict=True)},
    }
    return Cohort(name, people.scans, sources, account + Account(notes=tuple(notes)), recipe)


def _sources(
    matrices: Sequence[Path], masks: Mapping[str, Mask | None], where: Sequence[tuple[Path, int]]
) -> dict[str, ModalitySource]:
    """Every block that can be brought into its shape; `where` is the matrix and the row of each scan."""
    present = np.ones(len(where), dtype=bool)
    fingerprint = fingerprint_of(matrices)
    sources: dict[str, ModalitySource] = {}
    for array in BLOCKS:
        mask = masks.get(array.name)
        if array.name in masks and mask is None:
            continue
        modality = array_modality(array, mask.affine if mask else None)
        load = block_loader(array, modality, mask, where)
        sources[modality.key] = ModalitySource(modality, present, load, fingerprint)
    return sources


def _matrices(path: Path) -> list[Path]:
    """The matrices that a path means, in the challenge's order; none if it is something else."""
    if path.is_file():
        known = path.suffix == ".npy" and _table_of(path).is_file()
        return [path] if known and (path.stem in _NAMES or _is_wide(path)) else []
    for folder in (path, path / "data"):
        found = [folder / f"{name}.npy" for name in _NAMES]
        found = [matrix for matrix in found if matrix.is_file()]
        if any(_table_of(matrix).is_file() for matrix in found):
            single = find_files(path)
            return [] if single.scans or single.tables else found
    return []


def _table_of(matrix: Path) -> Path:
    return matrix.with_suffix(".tsv")


def _is_wide(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return npy_header(file, path)[0][1:] == (WIDTH,)
    except (OSError, ScanRefused):
        return False


def _people(matrix: Path, rows: int, notes: list[str]) -> pd.DataFrame:
    """The table of a matrix, with a participant and a split in each row."""
    path = _table_of(matrix)
    frame = read_table(path, text=("participant_id", "split", "site", "siteXacq"))
    if len(frame) != rows:
        raise CohortError(
            f"the table has {len(frame)} rows and the matrix has {rows}",
            where=path,
            expected=f"a row for each scan of {matrix.name}, in the same order",
        )
    notes += frame.attrs["notes"]
    identity = recognise_columns([str(name) for name in frame.columns], ColumnMap(), source=path.name).id
    if identity is None:
        frame["participant_id"] = [f"{matrix.stem}-{row:06d}" for row in range(rows)]
        notes.append(
            f"{path.name}: no column says who was scanned: scans are called after their rows, "
            f"{matrix.stem}-000000 and so on"
        )
    elif identity != "participant_id":
        frame = frame.rename(columns={identity: "participant_id"})
    if "split" not in frame.columns:
        frame["split"] = matrix.stem
        notes.append(f"{path.name}: no column holds the split, which is that of the file: {matrix.stem}")
    if renamed := int((frame["split"] == "internal_train").sum()):
        frame["split"] = frame["split"].replace("internal_train", "train")
        notes.append(f"{path.name}: the split of {renamed} scans is internal_train, which is called train")
    return frame
