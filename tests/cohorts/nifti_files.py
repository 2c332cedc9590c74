"""Small images for tests: written with nibabel, or header by header where nibabel would not."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

SHAPE = (5, 6, 7)
AFFINE = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


def voxels(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1000, size=shape).astype(np.int16)


def write_image(
    path: Path, array: np.ndarray | None = None, affine: np.ndarray = AFFINE, orientation: str = "RAS"
) -> Path:
    """A NIfTI or MGH image that is `array` in RAS order, stored in the order of `orientation`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = voxels() if array is None else array
    kind = nibabel.MGHImage if path.suffix in (".mgz", ".mgh") else nibabel.Nifti1Image
    image = kind(array, affine)
    codes = nibabel.orientations.axcodes2ornt(tuple(orientation))
    image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), codes)
    ).to_filename(path)
    return path
