"""What every image must be before it is taken, whatever format it came in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_brainage.errors import ScanRefused

_LFS_POINTER = b"version https://git-lfs"


def check_image(image: np.ndarray, path: Path) -> None:
    """Raise `ScanRefused` unless every value is a finite number, and not the same everywhere."""
    unusable = int(image.size - np.isfinite(image).sum())
    if unusable:
        raise ScanRefused(
            f"{unusable} of {image.size} values are NaN or infinite",
            where=path,
            expected="a number in every voxel",
            hint="preprocess or download this scan again",
        )
    if image.size and image.min() == image.max():
        raise ScanRefused(
            f"every value is {image.flat[0]:g}: the image is empty",
            where=path,
            hint="preprocess or download this scan again",
        )


def check_downloaded(start: bytes, path: Path) -> None:
    """Raise `ScanRefused` if a file begins as what Git LFS leaves in the place of a large file."""
    if start.startswith(_LFS_POINTER):
        raise ScanRefused(
            "the file is a Git LFS pointer: its content has not been downloaded",
            where=path,
            hint="run `git lfs pull` in the folder of the download",
        )


def missing_file(path: Path) -> ScanRefused:
    """The refusal of a file that is not there, or of a link to content that was never fetched."""
    if path.is_symlink():
        return ScanRefused(
            "the file is a link, and its content has not been downloaded",
            where=path,
            hint="run `datalad get` (or `git annex get`) in the folder of the download",
        )
    return ScanRefused("the file is missing", where=path)
