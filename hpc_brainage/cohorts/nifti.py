"""One volume of one scan from a NIfTI or MGH file that a stranger may have made, or a download broke.

The header is compared with what the file can hold before anything is allocated. A volume comes out in
RAS order (the first axis runs to the right, the second to the front, the third up) and on the grid that
was asked for: another grid or another place in space is refused, never resampled.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from hpc_brainage.cohorts.image_check import check_downloaded, check_image, missing_file
from hpc_brainage.cohorts.nifti_header import StoredVolume, VolumeHeader, by, read_header
from hpc_brainage.errors import ScanRefused

Affine = np.ndarray | Sequence[Sequence[float]]

# How far a voxel may lie from where another scan of the same grid has it. Headers round: a rotation
# kept as a quaternion of three float32 moves the corner of a head by up to 0.05 mm.
SAME_PLACE_MM = 0.1

_MOST_PACKED = 1032  # deflate packs at most so many bytes into one
_BLOCK = 1 << 20


def volume_header(path: Path) -> VolumeHeader:
    """Read what the header of a volume claims, and no voxel.

    Parameters
    ----------
    path : NIfTI-1 or NIfTI-2 in one file, or MGH; packed with gzip or not, whatever its ending says.

    Raises
    ------
    ScanRefused : the file is missing or empty, or as `read_header`.
    """
    with _opened(path) as (file, room):
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
    float32 array (x, y, z), C order; the slope and offset that the file states are applied.

    Raises
    ------
    ScanRefused : as `volume_header`; the grid is another one (see `other_grid`); the file is truncated
        or damaged; or the volume holds NaN or inf, or is the same everywhere.
    """
    with _opened(path) as (file, room):
        header, stored = read_header(file, room, path)
        if reason := other_grid(header, shape, affine):
            raise ScanRefused(reason, where=path, hint="bring all images onto one grid first")
        values = _read_values(file, stored, path)
    import nibabel

    turned = nibabel.orientations.apply_orientation(values, stored.turns)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite: refused
        volume: np.ndarray = np.array(turned, dtype=np.float32, order="C")
        if (stored.slope, stored.offset) != (1.0, 0.0):
            volume *= np.float32(stored.slope)
            volume += np.float32(stored.offset)
    check_image(volume, path)
    return volume


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
def _opened(path: Path) -> Iterator[tuple[BufferedIOBase, int]]:
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
    except (OSError, EOFError, zlib.error) as problem:
        raise ScanRefused(
            f"the file cannot be read to its end ({problem})", where=path, hint="download this file again"
        ) from None


def _read_values(file: BufferedIOBase, stored: StoredVolume, path: Path) -> np.ndarray:
    """The numbers as they are stored, in the file's own axes."""
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
    return content.view(stored.dtype).reshape(stored.shape, order="F")


def _farthest_corner_mm(shape: tuple[int, ...], one: np.ndarray, other: np.ndarray) -> float:
    ends = np.stack(np.meshgrid(*[(0, length - 1) for length in shape]), axis=-1).reshape(-1, 3)
    corners = np.column_stack([ends, np.ones(len(ends))])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())
