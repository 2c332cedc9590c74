"""What the header of a NIfTI or MGH file claims, and whether the file can hold it.

Nothing is allocated here for the volume itself. nibabel says what the fields of a header mean; its own
errors on a damaged one, of every kind, become a refusal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np

from hpc_brainage.errors import ScanRefused

# A whole head at 0.2 mm. Whoever claims more is not believed.
MOST_VOXELS = 2**30

_MGH_DATA_START = 284
_NIFTI_1_BYTES = 348
_NIFTI_2_BYTES = 540
_NUMERIC = "fiu"
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}

# nibabel tells on standard error what it mends in a header; what is mended here does no harm.
_SILENT = logging.getLogger(__name__)
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """A volume as its header describes it.

    Parameters
    ----------
    shape : (x, y, z) in RAS order.
    affine : voxel to millimetre in RAS order, shape (4, 4).
    orientation : of the axes as they are stored, such as "LAS".
    numbers : type of the numbers as they are stored, such as "int16".
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    orientation: str
    numbers: str


@dataclass(frozen=True, eq=False)
class StoredVolume:
    """Where and how the numbers lie in the unpacked file.

    Parameters
    ----------
    shape, dtype : of the numbers as stored, in the file's own axes and Fortran order.
    start : byte at which they begin.
    slope, offset : a value is slope times the stored number, plus offset.
    turns : what nibabel's `apply_orientation` needs to bring the axes into RAS order.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    start: int
    slope: float
    offset: float
    turns: np.ndarray

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def read_header(file: BufferedIOBase, room: int, path: Path) -> tuple[VolumeHeader, StoredVolume]:
    """Read a header from an open file that can hold at most `room` bytes; `path` is for messages.

    Raises
    ------
    ScanRefused : no NIfTI-1, NIfTI-2 or MGH header, or one that makes no sense; no volume of three axes
        (trailing ones of length 1 are dropped) and of real numbers; a claim of more than `room` bytes
        or `MOST_VOXELS`; or nothing that says how the volume lies in space.
    """
    raw = file.read(_NIFTI_2_BYTES)
    try:
        header, stored = _understood(raw)
    except ScanRefused as refusal:
        raise ScanRefused(refusal.what, where=path, expected=refusal.expected, hint=refusal.hint) from None
    if stored.end > room:
        raise ScanRefused(
            f"the file is truncated: its header claims {stored.end:,} bytes, it holds at most {room:,}",
            where=path,
            hint="download this file again",
        )
    return header, stored


@lru_cache(maxsize=4096)
def _understood(raw: bytes) -> tuple[VolumeHeader, StoredVolume]:
    """What the bytes of a header say; those of a cohort are read twice, and are often all the same."""
    import nibabel

    parsed, says_where = _parsed(raw)
    try:
        with np.errstate(all="ignore"):
            found = tuple(int(length) for length in parsed.get_data_shape())
            dtype = np.dtype(parsed.get_data_dtype())
            affine = np.array(parsed.get_best_affine(), dtype=np.float64)
            start, slope, offset, millimetres = _placing(parsed)
    except Exception as problem:
        raise _senseless(problem) from None
    shape = _three_axes(found)
    if dtype.kind not in _NUMERIC or dtype.itemsize > 8:
        raise ScanRefused(f"the image holds {dtype}, not real numbers")
    if math.prod(shape) > MOST_VOXELS:
        raise ScanRefused(
            f"the header claims {by(shape)} voxels, which no scan has",
            expected=f"at most {MOST_VOXELS:,} voxels",
        )
    if not says_where:
        raise ScanRefused(
            "the header does not say how the image lies in space, so left and right are unknown",
            expected="a qform or sform with a code above 0 (NIfTI), or the good-RAS flag (MGH)",
        )
    affine[:3] *= millimetres
    # an axis that the affine leaves without a direction of its own comes out as NaN
    finite = bool(np.isfinite(affine).all())
    turns = nibabel.orientations.io_orientation(affine) if finite else np.full((3, 2), np.nan)
    if np.isnan(turns).any():
        raise ScanRefused("the affine in the header is no map from voxels to space")
    stored = StoredVolume(shape, dtype, start, slope, offset, turns)
    lengths = tuple(shape[stored_axis] for stored_axis in np.argsort(turns[:, 0]).tolist())
    turned = affine @ nibabel.orientations.inv_ornt_aff(turns, shape)
    orientation = "".join(nibabel.orientations.ornt2axcodes(turns))
    for shared in (turns, turned):  # by all scans with this header
        shared.flags.writeable = False
    header = VolumeHeader(cast(tuple[int, int, int], lengths), turned, orientation, dtype.name)
    return header, stored


def by(shape: Sequence[int]) -> str:
    """`121 x 145 x 121`"""
    return " x ".join(str(length) for length in shape)


def _parsed(raw: bytes) -> tuple[Any, bool]:
    """nibabel's header of whatever format this is, and whether it says how the image lies in space."""
    from nibabel.freesurfer.mghformat import MGHHeader
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    header: Any
    try:
        if raw[:4] == b"\0\0\0\1" and len(raw) >= _MGH_DATA_START:
            header = MGHHeader(raw[:_MGH_DATA_START], check=False)
            header.check_fix(logger=_SILENT)
            return header, raw[28:30] != b"\0\0"  # nibabel itself would then suppose a usual position
        if raw[344:348] == b"n+1\0":
            header = Nifti1Header(raw[:_NIFTI_1_BYTES], check=False)
        elif raw[4:8] == b"n+2\0" and len(raw) >= _NIFTI_2_BYTES:
            header = Nifti2Header(raw[:_NIFTI_2_BYTES], check=False)
        else:
            raise ScanRefused(
                "the file is no image of a format that is read here",
                expected="NIfTI in one file (.nii, .nii.gz) or MGH (.mgh, .mgz)",
            )
        header.check_fix(logger=_SILENT)
        return header, int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
    except ScanRefused:
        raise
    except Exception as problem:
        raise _senseless(problem) from None


def _placing(header: Any) -> tuple[int, float, float, float]:
    """Where the numbers begin, their slope and offset, and the millimetres of the affine's unit."""
    if not hasattr(header, "get_xyzt_units"):  # MGH has neither units nor scaling
        return _MGH_DATA_START, 1.0, 0.0, 1.0
    slope, offset = header.get_slope_inter()
    scaling = (1.0, 0.0) if slope is None else (float(slope), float(offset))
    return int(header.get_data_offset()), *scaling, _MILLIMETRES[header.get_xyzt_units()[0]]


def _three_axes(found: tuple[int, ...]) -> tuple[int, int, int]:
    shape = found
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise ScanRefused(
            f"the image has {len(shape)} axes ({by(found)}): it is a series of volumes",
            expected="one volume",
        )
    if len(shape) < 3 or min(shape) < 2:
        raise ScanRefused(f"the image is no volume: its shape is {by(found)}")
    return cast(tuple[int, int, int], shape)


def _senseless(problem: Exception) -> ScanRefused:
    reason = (str(problem) or type(problem).__name__).splitlines()[0]
    return ScanRefused(f"the header of the image makes no sense ({reason})")
