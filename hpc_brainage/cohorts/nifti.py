"""One volume of one scan from a NIfTI or MGH file that a stranger may have made, or a download broke.

The header is compared with what the file can hold before anything is allocated. A volume comes out in
RAS order (the first axis runs to the right, the second to the front, the third up) and on the grid that
was asked for: another grid or another place in space is refused.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from hpc_brainage.cohorts.gunzip import gunzip
from hpc_brainage.cohorts.image_check import (
    check_downloaded,
    check_image,
    missing_file,
    plausible_values,
)
from hpc_brainage.cohorts.nifti_header import StoredVolume, VolumeHeader, by, read_header
from hpc_brainage.errors import ScanRefused
from hpc_brainage.modality import ScaledIntegers

Affine = np.ndarray | Sequence[Sequence[float]]

# How far a voxel may lie from where another scan of the same grid has it. Headers round: a rotation
# kept as a quaternion of three float32 moves the corner of a head by up to 0.05 mm.
SAME_PLACE_MM = 0.1

_WIDE = ("int32", "uint32", "int64", "uint64", "float64")  # a float32 does not hold all of them

_MOST_PACKED = 1032  # deflate packs at most so many bytes into one
_BLOCK = 1 << 20
_PIECE = 1 << 17  # values: two pieces stay in the processor's cache


def volume_header(path: Path) -> VolumeHeader:
    """Read what the header of a volume claims, and no voxel.

    Parameters
    ----------
    path : NIfTI-1 or NIfTI-2 in one file, or MGH; packed with gzip or not, whatever its ending says.

    Raises
    ------
    ScanRefused : the file is missing or empty, or as `read_header`.
    """
    with opened(path) as (file, room):
        return read_header(file, room, path)[0]


def load_volume(
    path: Path, shape: tuple[int, ...] | None = None, affine: Affine | None = None
) -> np.ndarray:
    """Read a volume in RAS order.

    Parameters
    ----------
    path : as of `volume_header`.
    shape, affine : of the grid that the volume must lie on, in RAS order; any if not given.

    Returns
    -------
    float32 array (x, y, z); the slope and offset that the file states are applied. Its voxels lie in memory
    as in the file where that is possible: in Fortran order if the file is in RAS order.

    Raises
    ------
    ScanRefused : as `volume_header`; the grid is another one (see `other_grid`); the file is truncated
        or damaged; or the volume holds NaN, inf or values that it cannot have (see `plausible_values`), or
        is the same everywhere.
    """
    stored, numbers = _read(path, shape, affine)
    plausible = plausible_values(path.name)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite: refused
        if numbers.dtype.name in _WIDE and (stored.slope, stored.offset) != (1.0, 0.0):
            numbers = numbers * stored.slope + stored.offset  # large ones may cancel: float64
            stored = replace(stored, slope=1.0, offset=0.0)
        if numbers.dtype.kind in "iu":
            integers = ScaledIntegers(numbers, stored.slope, stored.offset)
            check_image(integers, path, plausible)
            values = integers.values()
        else:
            values = numbers.astype(np.float32, copy=False)
            if (stored.slope, stored.offset) != (1.0, 0.0):
                values *= np.float32(stored.slope)
                values += np.float32(stored.offset)
            check_image(values, path, plausible)
    return _in_ras_order(values, stored)


def load_integers(
    path: Path, shape: tuple[int, ...] | None, affine: Affine | None, numbers: str
) -> ScaledIntegers:
    """Read a volume in RAS order, its integers as they stand in the file.

    Parameters
    ----------
    path, shape, affine : as of `load_volume`, whose values are those of the result.
    numbers : type of the integers, such as "int16".

    Raises
    ------
    ScanRefused : as `load_volume`; or the file holds another type of numbers.
    """
    stored, found = _read(path, shape, affine)
    if found.dtype.name != numbers:
        raise ScanRefused(
            f"its voxels are {found.dtype.name}, not {numbers} as in the other images",
            where=path,
            hint="keep all of them as float32 (--voxels float32)",
        )
    check_image(ScaledIntegers(found, stored.slope, stored.offset), path, plausible_values(path.name))
    return ScaledIntegers(_in_ras_order(found, stored), stored.slope, stored.offset)


def other_grid(header: VolumeHeader, shape: tuple[int, ...] | None, affine: Affine | None) -> str | None:
    """Why a volume does not lie on a grid, or None if it does.

    Two grids are one if their shapes are equal and no corner of the volume lies more than
    `SAME_PLACE_MM` from where the other one has it.
    """
    if shape is not None and header.shape != tuple(shape):
        return f"its grid is {by(header.shape)}, not {by(shape)}"
    if affine is not None:
        apart = _farthest_corner_mm(header.shape, header.affine, np.asarray(affine, dtype=np.float64))
        if not apart <= SAME_PLACE_MM:
            return f"its affine puts voxels up to {apart:.3g} mm from where they should be"
    return None


@contextmanager
def opened(path: Path) -> Iterator[tuple[BufferedIOBase, int]]:
    """The content of a file, unpacked, and how many bytes of it there can be at most."""
    try:
        with path.open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            start = raw.read(64)
            if not size:
                raise ScanRefused("the file is empty", where=path, hint="download this file again")
            check_downloaded(start, path)
            raw.seek(0)
            if start[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                    yield unpacked, size * _MOST_PACKED
            else:
                yield raw, size
    except FileNotFoundError:
        raise missing_file(path) from None
    except MemoryError:
        raise ScanRefused("the image does not fit into memory", where=path) from None
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem  # without the path, which a store keeps
        raise ScanRefused(
            f"the file cannot be read to its end ({reason})", where=path, hint="download this file again"
        ) from None


def _read(
    path: Path, shape: tuple[int, ...] | None, affine: Affine | None
) -> tuple[StoredVolume, np.ndarray]:
    """The numbers one after another as they are stored, in this machine's byte order."""
    with opened(path) as (file, room):
        header, stored = read_header(file, room, path)
        if reason := other_grid(header, shape, affine):
            raise ScanRefused(
                reason,
                where=path,
                hint="bring all images onto one grid first, or let --resample TEMPLATE do it",
            )
        content = gunzip(file.fileno(), stored.end) if isinstance(file, gzip.GzipFile) else None
        if content is None:
            numbers = _streamed(file, stored, path).view(stored.dtype)
        else:
            numbers = np.frombuffer(content, stored.dtype, math.prod(stored.shape), stored.start)
    if not stored.dtype.isnative:
        numbers = numbers.byteswap(inplace=True).view(stored.dtype.newbyteorder("="))
    return stored, numbers


def _streamed(file: BufferedIOBase, stored: StoredVolume, path: Path) -> np.ndarray:
    """The bytes of the numbers, read piece by piece."""
    size = stored.end - stored.start
    content = np.empty(size, dtype=np.uint8)  # takes memory only as far as bytes really come
    into = content.data
    file.seek(stored.start)
    filled = 0
    while filled < size:
        got = file.readinto(into[filled : filled + _BLOCK])
        if not got:
            raise ScanRefused(
                f"the file is truncated: it holds {filled:,} of the {size:,} bytes of the volume",
                where=path,
                hint="download this file again",
            )
        filled += got
    while isinstance(file, gzip.GzipFile) and file.read(_BLOCK):
        pass  # its checksum stands at the end
    return content


def _in_ras_order(numbers: np.ndarray, stored: StoredVolume) -> np.ndarray:
    """The volume in RAS order that the numbers are: a view of their memory, which may be turned round.

    Walking backwards along the axis on which neighbours lie side by side is slow: turning the whole
    memory round once, and with it all three axes, is several times faster.
    """
    import nibabel

    turns = stored.turns.copy()
    if turns[0, 1] < 0:
        turns[:, 1] *= -1
        _turn_round(numbers)
    volume = numbers.reshape(stored.shape, order="F")
    turned: np.ndarray = nibabel.orientations.apply_orientation(volume, turns)
    return turned


def _turn_round(values: np.ndarray) -> None:
    """Reverse the order of values in place: a second volume in memory would cost more than the work."""
    half = len(values) // 2
    for start in range(0, half, _PIECE):
        stop = min(start + _PIECE, half)
        front, back = values[start:stop], values[len(values) - stop : len(values) - start]
        kept = front.copy()
        front[:] = back[::-1]
        back[:] = kept[::-1]


def _farthest_corner_mm(shape: tuple[int, ...], one: np.ndarray, other: np.ndarray) -> float:
    if np.array_equal(one, other):
        return 0.0
    ends = np.stack(np.meshgrid(*[(0, length - 1) for length in shape]), axis=-1).reshape(-1, 3)
    corners = np.column_stack([ends, np.ones(len(ends))])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())
