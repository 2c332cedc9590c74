"""One array of one scan from a `.npy` file that a stranger may have made, or a broken download left.

Nothing is unpickled, and nothing is allocated before the header has been compared with the size of
the file.
"""

from __future__ import annotations

import gzip
import math
import os
import sys
import tokenize
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from numpy.typing import DTypeLike

from hpc_brainage.cohorts.image_check import Plausible, check_downloaded, check_image, missing_file
from hpc_brainage.errors import ScanRefused

_NUMERIC = "fiu"


def load_npy(path: Path, shape: tuple[int, ...], plausible: Plausible | None = None) -> np.ndarray:
    """Read an image: every value a finite number, and not the same everywhere.

    Parameters
    ----------
    path : `.npy` file; `.npy.gz` too.
    shape : expected of one scan; leading axes of length 1 in the file are dropped.
    plausible : between what its values must lie; anywhere if not given.

    Returns
    -------
    float32 array of `shape`, C order.

    Raises
    ------
    ScanRefused : see `read_npy`; or the image holds NaN, inf or implausible values, or is constant (an
        empty image).
    """
    image = read_npy(path, shape)
    check_image(image, path, plausible)
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
                claim = _claim(cast(BinaryIO, packed), path, shape)
                content = packed.read(min(claim.size + 1, sys.maxsize))  # whatever else it would unpack to
            _refuse_truncated(len(content), claim, path)
            numbers = np.frombuffer(content, claim.dtype, math.prod(claim.shape))
        else:
            with path.open("rb") as file:
                claim = _claim(file, path, shape)
                _refuse_truncated(os.fstat(file.fileno()).st_size - claim.start, claim, path)
                numbers = np.fromfile(file, claim.dtype, math.prod(claim.shape))
            _refuse_truncated(numbers.nbytes, claim, path)  # it may have been cut just now
        rank = len(claim.shape) if shape is None else len(shape)
        array = numbers.reshape(claim.shape, order=claim.order)
        array = array.reshape(_without_leading_ones(claim.shape, rank))
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem  # without the path, which a store keeps
        raise ScanRefused(f"the file cannot be read ({reason})", where=path) from None
    except MemoryError:
        raise ScanRefused("the array does not fit into memory", where=path) from None
    with np.errstate(over="ignore"):
        return np.require(array, dtype, ["C", "W"])


@dataclass(frozen=True)
class _Claim:
    """What a file says that it holds: numbers in C or Fortran order, from byte `start` on."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]
    start: int

    @property
    def size(self) -> int:
        """Of the numbers, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def _refuse_truncated(size: int, claim: _Claim, path: Path) -> None:
    if size < claim.size:
        raise ScanRefused(
            f"the file is truncated: it has {claim.start + size} of {claim.start + claim.size} bytes",
            where=path,
            hint="download this file again",
        )


def _claim(file: BinaryIO, path: Path, shape: tuple[int, ...] | None) -> _Claim:
    """What a file claims to hold; refused unless it is numbers of this shape."""
    found, dtype, start, order = npy_header(file, path)
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
    return _Claim(found, dtype, order, start)


def npy_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], np.dtype, int, Literal["C", "F"]]:
    """Shape, type, start and order of the data, as the file claims them; `ScanRefused` if it does not."""
    check_downloaded(file.read(64), path)
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"format version {version}")
        if any(length < 0 for length in shape):
            raise ValueError(f"shape {shape}")
    except (ValueError, SyntaxError, TypeError, EOFError, RecursionError, tokenize.TokenError) as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise ScanRefused(
            f"the file is not a readable .npy file ({reason})",
            where=path,
            expected="an array that numpy.save wrote",
            hint="download or write this file again",
        ) from None
    return shape, dtype, file.tell(), "F" if fortran else "C"


def _without_leading_ones(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    while len(shape) > rank and shape[0] == 1:
        shape = shape[1:]
    return shape
