"""What lies in a row of the matrix of OpenBHB's challenge, and how it is brought into its shape.

The blocks of a row, one after the other, each flattened in C order and channel after channel:

====================  =========  ==========================================================
block                 numbers    what it is here
====================  =========  ==========================================================
vbm                     519,945  `smri/cat12vbm`, voxels where the grey-matter map is > 0.05
quasiraw              1,827,095  `smri/quasiraw`, voxels where the template is > 0
xhemi                 1,310,736  `smri/xhemi`, 8 channels of 163,842 vertices
vbm_roi                     284  `smri/vbm_roi`
desikan_roi                 476  `smri/desikan_roi`, 7 channels of 68 regions
destrieux_roi             1,036  `smri/destrieux_roi`, 7 channels of 148 regions
====================  =========  ==========================================================

The two images are put back into their grids with the template images of OpenBHB's `resource/` folder;
without these files they cannot be read. Every other voxel is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from hpc_brainage.cohorts.image_check import INTENSITY, MODULATED, check_image
from hpc_brainage.cohorts.npy import npy_header
from hpc_brainage.cohorts.openbhb_names import ARRAYS, OpenBHBArray
from hpc_brainage.cohorts.openbhb_roi import checked_roi, never_zero
from hpc_brainage.errors import CohortError, ScanRefused
from hpc_brainage.modality import Modality

MASKED = {"cat12vbm": (519_945, 0.05), "quasiraw": (1_827_095, 0.0)}
"""How many voxels of an image are in a row: those where its template is above a value."""

_MASK_FOLDERS = ("resource", "masks", "")


def _size(array: OpenBHBArray) -> int:
    return MASKED[array.name][0] if array.name in MASKED else int(np.prod(array.shape))


_BY_NAME = {array.resource: array for array in ARRAYS}
BLOCKS = tuple(
    _BY_NAME[name] for name in ("vbm", "quasiraw", "xhemi", "vbm_roi", "desikan_roi", "destrieux_roi")
)
"""The arrays of a row, in their order."""

_ENDS = (0, *accumulate(map(_size, BLOCKS)))
PLACES = {array.name: slice(*ends) for array, ends in zip(BLOCKS, pairwise(_ENDS), strict=True)}
"""Where in a row the array of each modality lies."""

WIDTH = _ENDS[-1]
"""Numbers of a row: 3,659,572."""


@dataclass(frozen=True)
class Mask:
    """Which voxels of an image are in the matrix.

    Parameters
    ----------
    path : of the template image that says so.
    voxels : shape (x, y, z), bool.
    affine : of the grid.
    """

    path: Path
    voxels: np.ndarray
    affine: tuple[tuple[float, ...], ...]


def rows_of(matrix: Path) -> int:
    """How many scans a matrix holds, by its header, which is compared with the size of the file.

    Raises
    ------
    CohortError : it cannot be read, is cut off, or no matrix of `WIDTH` numbers in a row.
    """
    try:
        with matrix.open("rb") as file:
            shape, dtype, start, *_ = npy_header(file, matrix)
        size = matrix.stat().st_size
    except OSError as problem:
        raise CohortError(f"the matrix cannot be read ({problem.strerror})", where=matrix) from None
    except ScanRefused as problem:
        raise CohortError(problem.what, where=matrix, hint=problem.hint) from None
    if len(shape) != 2 or shape[1] != WIDTH or dtype.kind != "f":
        blocks = ", ".join(f"{array.resource} {_size(array):,}" for array in BLOCKS)
        raise CohortError(
            f"the matrix has shape {shape} of {dtype}",
            where=matrix,
            expected=f"{WIDTH:,} numbers for each scan: {blocks}",
            hint="only the complete matrix of the challenge is known, with all blocks in this order",
        )
    claimed = start + shape[0] * WIDTH * dtype.itemsize
    if size < claimed:
        raise CohortError(
            f"the matrix is cut off: it has {size} of {claimed} bytes",
            where=matrix,
            hint="download this file again",
        )
    return shape[0]


def find_mask(array: OpenBHBArray, matrix: Path, notes: list[str]) -> Mask | None:
    """Where the voxels of an image lie; None, with a note, if no template image tells.

    The template lies beside the matrix or beside its folder, or there in `resource/` or `masks/`.
    """
    voxels, above = MASKED[array.name]
    key = f"smri/{array.name}"
    places = [
        folder / name / array.template
        for folder in (matrix.parent, matrix.parent.parent)
        for name in _MASK_FOLDERS
    ]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        notes.append(
            f"{key} is left out: {array.template}, in a folder resource/ beside the matrix, would say "
            f"where its {voxels:,} voxels lie"
        )
        return None
    import nibabel

    try:
        template = nibabel.load(path)
        inside = np.asarray(template.dataobj) > above  # type: ignore[attr-defined]
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as problem:
        raise CohortError(f"a template image cannot be read ({problem})", where=path) from None
    if inside.shape != array.shape or int(inside.sum()) != voxels:
        notes.append(
            f"{key} is left out: {path.name} has {int(inside.sum()):,} voxels above {above:g} on a grid "
            f"of {inside.shape}, and the matrix has {voxels:,} on one of {array.shape}"
        )
        return None
    notes.append(f"{key}: voxels outside of {path.name} are not in the matrix and are 0")
    affine: np.ndarray = template.affine  # type: ignore[attr-defined]
    return Mask(path, inside, tuple(tuple(row) for row in affine.astype(float).tolist()))


def block_loader(
    array: OpenBHBArray, modality: Modality, mask: Mask | None, where: Sequence[tuple[Path, int]]
) -> Callable[[int], np.ndarray]:
    """How the block of one scan is loaded, in its shape and checked as OpenBHB's own files are.

    Parameters
    ----------
    modality : what the array is.
    mask : of an image.
    where : the matrix and the row in it of each scan.
    """
    finish: Callable[[np.ndarray, Path], np.ndarray]
    if array.kind == "features":
        finish = partial(_features, never_zero(modality))
    elif mask is not None:
        finish = partial(_volume, mask.voxels, array.name == "cat12vbm")
    else:
        finish = partial(_surface, modality.shape)

    def load(row: int) -> np.ndarray:
        matrix, place = where[row]
        return finish(_read_row(matrix, place, PLACES[array.name]), matrix)

    return load


def _read_row(matrix: Path, row: int, block: slice) -> np.ndarray:
    """One block of one row, float32; the rest of the matrix stays on disk."""
    try:
        rows = np.load(matrix, mmap_mode="r", allow_pickle=False)
        numbers = rows[row, block]
    except (OSError, ValueError, IndexError, EOFError) as problem:
        reason = getattr(problem, "strerror", None) or type(problem).__name__
        raise ScanRefused(
            f"the matrix has changed since it was looked at ({reason})", where=matrix
        ) from None
    with np.errstate(over="ignore"):
        return np.array(numbers, dtype=np.float32)


def _features(zero_is_missing: np.ndarray, numbers: np.ndarray, matrix: Path) -> np.ndarray:
    return checked_roi(numbers, zero_is_missing, matrix)


def _surface(shape: tuple[int, ...], numbers: np.ndarray, matrix: Path) -> np.ndarray:
    check_image(numbers, matrix)
    return numbers.reshape(shape)


def _volume(inside: np.ndarray, modulated: bool, numbers: np.ndarray, matrix: Path) -> np.ndarray:
    check_image(numbers, matrix, MODULATED if modulated else INTENSITY)
    volume = np.zeros(inside.shape, dtype=np.float32)
    volume[inside] = numbers
    return volume
