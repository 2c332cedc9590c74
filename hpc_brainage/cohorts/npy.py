"""One array of one scan from a `.npy` file that a stranger may have made, or a broken download left.

Nothing is unpickled, and nothing is allocated before the header has been compared with the size of
the file.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import sys
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import DTypeLike

from hpc_brainage.cohorts.image_check import check_downloaded, check_image, missing_file
from hpc_brainage.errors import ScanRefused

_NUMERIC = "fiu"


def load_npy(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an image: every value a finite number, and not the same everywhere.

    Parameters
    ----------
    path : `.npy` file; `.npy.gz` too.
    shape : expected of one scan; leading axes of length 1 in the file are dropped.

    Returns
    -------
    float32 array of `shape`, C order.

    Raises
    ------
    ScanRefused : see `read_npy`; or the image holds NaN or inf, or is constant (an empty image).
    """
    image = read_npy(path, shape)
    check_image(image, path)
    return image


def read_npy(path: Path, shape: tuple[int, ...] | None = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Read numbers from a `.npy` file, whatever the numbers are.

    Parameters
    ----------
    shape : expected of one scan; leading axes of length 1 in the file are dropped. Any if not given.
    dtype : float32 or float64, of the result.

    Returns
    -------
    array of `shape` and `dtype`, C order. Numbers beyond the range of `dtype` become infinite.

    Raises
    ------
    ScanRefused : the file is missing, empty, truncated, no `.npy`, holds Python objects or something
        that is not a real number, or has another shape.
    """
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path) as packed:
                claimed = _claimed_bytes(cast(BinaryIO, packed), path, shape)
                packed.seek(0)
                content = packed.read(min(claimed + 1, sys.maxsize))  # whatever else it would unpack to
            array = _read(io.BytesIO(content), len(content), path, shape)
        else:
            with path.open("rb") as file:
                array = _read(file, os.fstat(file.fileno()).st_size, path, shape)
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem  # without the path, which a store keeps
        raise ScanRefused(f"the file cannot be read ({reason})", where=path) from None
    except MemoryError:
        raise ScanRefused("the array does not fit into memory", where=path) from None
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=dtype)


def _read(file: BinaryIO, size: int, path: Path, shape: tuple[int, ...] | None) -> np.ndarray:
    claimed = _claimed_bytes(file, path, shape)
    if size < claimed:
        raise ScanRefused(
            f"the file is truncated: it has {size} of {claimed} bytes",
            where=path,
            hint="download this file again",
        )
    file.seek(0)
    array: np.ndarray = np.load(file, allow_pickle=False)
    return array.reshape(_without_leading_ones(array.shape, array.ndim if shape is None else len(shape)))


def _claimed_bytes(file: BinaryIO, path: Path, shape: tuple[int, ...] | None) -> int:
    """How long the file says that it is; refused unless it holds numbers of this shape."""
    found, dtype, start = npy_header(file, path)
    if dtype.hasobject:
        raise ScanRefused(
            "the array holds pickled Python objects, which could run any program when read",
            where=path,
            expected="an array of numbers",
            hint="save it again as numbers: np.save(path, np.asarray(array, dtype='float32'))",
        )
    if dtype.kind not in _NUMERIC:
        raise ScanRefused(f"the array holds {dtype}, not numbers", where=path, expected="real numbers")
    wanted = _without_leading_ones(found, len(found) if shape is None else len(shape))
    if shape is not None and wanted != shape:
        raise ScanRefused(
            f"the array has shape {found}", where=path, expected=f"{shape}, after any leading 1"
        )
    return start + math.prod(found) * dtype.itemsize


def npy_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and start of the data, as the file claims them; `ScanRefused` if it does not."""
    check_downloaded(file.read(64), path)
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"format version {version}")
        if any(length < 0 for length in shape):
            raise ValueError(f"shape {shape}")
    except (ValueError, SyntaxError, TypeError, EOFError, RecursionError) as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise ScanRefused(
            f"the file is not a readable .npy file ({reason})",
            where=path,
            expected="an array that numpy.save wrote",
            hint="download or write this file again",
        ) from None
    return shape, dtype, file.tell()


def _without_leading_ones(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    while len(shape) > rank and shape[0] == 1:
        shape = shape[1:]
    return shape
