"""A series of volumes (BOLD) in one NIfTI file, read volume by volume.

A run is hundreds of volumes and gigabytes once unpacked, of which only the means over some regions are
wanted. So one volume is in memory at a time, whatever the header claims.
"""

from __future__ import annotations

import gzip
import io
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np

from hpc_brainage.cohorts.nifti import opened
from hpc_brainage.cohorts.nifti_header import StoredVolume, by, read_header
from hpc_brainage.errors import ScanRefused

# Longest runs have some ten thousand volumes, finest whole-brain ones at 7 T some ten million voxels.
MOST_VOLUMES = 2**15
MOST_VOXELS = 2**25

_HEADER_BYTES = 540
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_PLAUSIBLE_SECONDS = (0.05, 30.0)
_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class SeriesHeader:
    """What the header of a series claims.

    Parameters
    ----------
    shape : (x, y, z) in the file's own axes.
    affine : voxel to millimetre of these axes, shape (4, 4).
    volumes : how many there are.
    seconds : between two volumes; None where the header has no plausible number.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    volumes: int
    seconds: float | None


def series_header(path: Path) -> SeriesHeader:
    """Read what the header of a series claims, and no voxel.

    Raises
    ------
    ScanRefused : as `nifti_header.read_header` for the first of its volumes; there is only one volume;
        or more is claimed than the file can hold, or than any run has.
    """
    with opened(path) as (file, room):
        return _header(file, room, path)[0]


def region_means(path: Path, regions: np.ndarray) -> np.ndarray:
    """Mean over the voxels of each region in each volume; the slope and offset of the file are applied.

    Parameters
    ----------
    regions : shape of the volumes as `series_header` has it; 0 outside, region i (from 0) is i + 1.

    Returns
    -------
    float64, shape (volumes, regions.max()). A region that has no voxel is 0 throughout.

    Raises
    ------
    ScanRefused : as `series_header`; the file is truncated or damaged; or a voxel within a region is NaN
        or infinite.
    """
    with opened(path) as (file, room):
        header, stored = _header(file, room, path)
        if regions.shape != header.shape:
            raise ScanRefused(f"its grid is {by(header.shape)}, not {by(regions.shape)}", where=path)
        flat = regions.ravel(order="F")
        voxels = np.flatnonzero(flat)
        region_of = flat[voxels] - 1
        sizes = np.bincount(region_of, minlength=int(regions.max()))
        means = []
        for volume in _volumes(file, header, stored, path):
            with np.errstate(invalid="ignore"):
                sums = np.bincount(region_of, weights=volume[voxels], minlength=len(sizes))
            means.append(sums / np.maximum(sizes, 1))
    values = np.array(means) * stored.slope + stored.offset
    values[:, sizes == 0] = 0.0
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ScanRefused(
            f"voxels of the brain are NaN or infinite, first in volume {place + 1}",
            where=path,
            expected="a number in every voxel",
        )
    return values


def _header(file: BufferedIOBase, room: int, path: Path) -> tuple[SeriesHeader, StoredVolume]:
    import nibabel
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    raw = file.read(_HEADER_BYTES)
    parsed: Any = None
    try:
        if raw[344:348] == b"n+1\0":
            parsed = Nifti1Header(raw[:348], check=False)
        elif raw[4:8] == b"n+2\0":
            parsed = Nifti2Header(raw, check=False)
        found = tuple(int(length) for length in parsed.get_data_shape()) if parsed is not None else ()
    except Exception:
        parsed = None  # what is wrong is said below
    if parsed is None:
        read_header(cast(BufferedIOBase, io.BytesIO(raw)), room, path)
        raise ScanRefused("the file is one volume", where=path, expected="a series of volumes in NIfTI")
    while len(found) > 4 and found[-1] == 1:
        found = found[:-1]
    if len(found) < 4 or found[3] < 2:
        raise ScanRefused(
            f"the image is one volume ({by(found)})",
            where=path,
            expected="a series of volumes, with time as the fourth axis",
        )
    if len(found) > 4 or found[3] > MOST_VOLUMES or math.prod(found[:3]) > MOST_VOXELS:
        raise ScanRefused(
            f"the header claims {by(found)} voxels, which no run has",
            where=path,
            expected=f"at most {MOST_VOLUMES:,} volumes of {MOST_VOXELS:,} voxels",
        )
    first = parsed.copy()
    first.set_data_shape(found[:3])
    header, stored = read_header(cast(BufferedIOBase, io.BytesIO(first.binaryblock)), sys.maxsize, path)
    end = stored.start + found[3] * (stored.end - stored.start)
    if end > room:
        raise ScanRefused(
            f"the file is truncated: its header claims {end:,} bytes, it holds at most {room:,}",
            where=path,
            hint="download this file again",
        )
    affine = header.affine @ np.linalg.inv(nibabel.orientations.inv_ornt_aff(stored.turns, stored.shape))
    return SeriesHeader(stored.shape, affine, found[3], _seconds(parsed)), stored


def _seconds(parsed: Any) -> float | None:
    """The time between volumes; a unit that is not said, or not of time, is no time."""
    try:
        seconds = float(parsed["pixdim"][4]) * _SECONDS[parsed.get_xyzt_units()[1]]
    except (KeyError, ValueError):
        return None
    shortest, longest = _PLAUSIBLE_SECONDS
    return seconds if shortest <= seconds <= longest else None


def _volumes(
    file: BufferedIOBase, header: SeriesHeader, stored: StoredVolume, path: Path
) -> Iterator[np.ndarray]:
    """Each volume as its file holds it: numbers in Fortran order; the same memory is filled anew."""
    content = np.empty(stored.end - stored.start, dtype=np.uint8)
    file.seek(stored.start)
    for volume in range(header.volumes):
        filled = 0
        while filled < len(content):
            got = file.readinto(content.data[filled : filled + _BLOCK])
            if not got:
                raise ScanRefused(
                    f"the file is truncated: it ends in volume {volume + 1} of {header.volumes}",
                    where=path,
                    hint="download this file again",
                )
            filled += got
        yield content.view(stored.dtype)
    while isinstance(file, gzip.GzipFile) and file.read(_BLOCK):
        pass  # its checksum stands at the end
