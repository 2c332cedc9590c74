"""An atlas: an image of labels that says which voxel belongs to which region, and the regions' names."""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.nifti import load_volume, volume_header
from hpc_brainage.cohorts.volumes import volume_stem
from hpc_brainage.errors import CohortError, ScanRefused, UsageError
from hpc_brainage.files import sha256_of_file
from hpc_brainage.modality import modality_name

MOST_REGIONS = 5000  # 12 million edges

_GRIDS_HELD = 4  # scans in a standard space share one

_TABLES = (".tsv", ".csv", ".txt")
_INDEX = ("index", "id", "value", "label_id", "roi_id")
_NAME = ("name", "label", "region", "roi_name", "structure")


class Atlas:
    """Regions in a standard space, brought onto the grids of scans as they are asked for.

    Their names come from a table beside the image, of the same name but for its ending: columns `index`
    and `name` (`.tsv`, `.csv`), or rows that begin with the label and the name (`.txt`, colour tables of
    FSL and FreeSurfer). A region without a name is `roi_<label>`.

    Parameters
    ----------
    path : an image (x, y, z) of integers, 0 outside the regions.

    Raises
    ------
    UsageError : it is missing, no image of labels, or two regions have the same name.
    CohortError : the table beside it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            header = volume_header(path)
            image = load_volume(path)
        except ScanRefused as problem:
            raise UsageError(
                f"the atlas cannot be used: {problem.what}",
                where=f"--atlas {path}",
                expected="one volume of labels (.nii.gz), 0 outside the regions",
            ) from None
        found = np.unique(image)
        found = found[found != 0]
        whole = (found == np.round(found)) & (found > 0) & (found < 2**24)
        if not whole.all() or not 2 <= len(found) <= MOST_REGIONS:
            raise UsageError(
                f"the atlas is no image of labels: it holds {len(found)} values"
                + ("" if whole.all() else f", such as {found[~whole][0]:g}"),
                where=f"--atlas {path}",
                expected=f"2 to {MOST_REGIONS} regions, each with a positive integer",
            )
        self.name = modality_name(volume_stem(path.name))
        self.sha256 = sha256_of_file(path)
        self.labels = tuple(int(label) for label in found)
        named = _names_beside(path)
        self.unnamed = tuple(label for label in self.labels if label not in named)
        self.regions = tuple(named.get(label, f"roi_{label}") for label in self.labels)
        if twice := sorted({name for name in self.regions if self.regions.count(name) > 1}):
            raise UsageError(
                f"two regions of the atlas have the same name: {listed(twice, 3)}",
                where=f"--atlas {path}",
                hint="tell them apart in the table beside it, as in Amygdala_L and Amygdala_R",
            )
        self._affine = header.affine
        self._numbered = np.where(image == 0, 0, np.searchsorted(found, image) + 1).astype(np.int32)
        self._held = lru_cache(_GRIDS_HELD)(self._resampled)

    def on_grid(self, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
        """The regions on the grid of a scan: of each voxel there, what the atlas has nearest to it.

        Parameters
        ----------
        affine : voxel to millimetre, shape (4, 4).

        Returns
        -------
        int32 of `shape`: 0 outside, the place of the region in `regions` plus one inside. A small region
        may be left without a voxel.
        """
        return self._held(tuple(shape), np.asarray(affine, dtype=np.float64).tobytes())

    def _resampled(self, shape: tuple[int, int, int], affine: bytes) -> np.ndarray:
        target = np.frombuffer(affine).reshape(4, 4)
        regions = _nearest(self._numbered, self._affine, shape, target)
        regions.flags.writeable = False  # all scans on this grid are given the same array
        return regions


def _nearest(
    labels: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int], target: np.ndarray
) -> np.ndarray:
    """Labels on another grid, each voxel that of its nearest neighbour; 0 outside, int32."""
    from nibabel.nifti1 import Nifti1Image
    from nilearn.image import resample_img

    image = Nifti1Image(labels, affine)
    there = resample_img(image, target_affine=target, target_shape=shape, interpolation="nearest")
    found: np.ndarray = np.asarray(there.dataobj).astype(np.int32)
    return found


def _names_beside(path: Path) -> dict[int, str]:
    """Name of each label from the table beside an image; empty if there is none."""
    stem = volume_stem(path.name)
    tables = [path.with_name(stem + end) for end in _TABLES]
    table = next((table for table in tables if table.is_file()), None)
    if table is None:
        return {}
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise CohortError(f"the names of the regions cannot be read ({problem})", where=table) from None
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    mark = next((mark for mark in "\t,;" if lines and mark in lines[0]), None)
    rows = list(csv.reader(lines, delimiter=mark)) if mark else [line.split() for line in lines]
    index, name = 0, 1
    if rows and not re.fullmatch(r"\s*\d+\s*", rows[0][0]):
        header = [cell.strip().casefold() for cell in rows.pop(0)]
        index, name = _column(header, _INDEX, table), _column(header, _NAME, table)
    names: dict[int, str] = {}
    for row in rows:
        if len(row) <= max(index, name) or not re.fullmatch(r"\s*\d+\s*", row[index]):
            raise CohortError(
                f"a row of the names of the regions is not understood: {' '.join(row)[:80]!r}",
                where=table,
                expected="the label and the name of a region",
            )
        if names.setdefault(int(row[index]), row[name].strip()) != row[name].strip():
            raise CohortError(f"label {int(row[index])} has two names", where=table)
    return {label: text for label, text in names.items() if text}


def _column(header: list[str], usual: tuple[str, ...], table: Path) -> int:
    place = next((header.index(name) for name in usual if name in header), None)
    if place is None:
        raise CohortError(
            f"the table of the regions has no column {usual[0]!r}",
            where=table,
            expected="columns index and name",
            hint=f"its columns are {listed(header)}",
        )
    return place
