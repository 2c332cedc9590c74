"""What every image must be before it is taken, whatever format it came in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_brainage.errors import ScanRefused
from hpc_brainage.modality import ScaledIntegers

_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Plausible:
    """Between which values every voxel of a kind of image lies, with room for interpolation.

    Parameters
    ----------
    what : such images, for messages.
    lowest, highest : what is beyond them is refused.
    hint : what is wrong most probably, if a value is beyond them.
    """

    what: str
    lowest: float
    highest: float
    hint: str


_SCALE = "compare this image with the others: its scale or its kind is another one"
INTENSITY = Plausible("intensities", -1e7, 1e7, "the byte order or the scale in the file's header is wrong")
PROBABILITY = Plausible("tissue probabilities", -0.01, 1.01, _SCALE)
# Modulation multiplies a probability by how much a place was compressed to fit the template.
MODULATED = Plausible("modulated tissue maps", -0.01, 20.0, _SCALE)

# SPM and CAT12 write what they did before the name: smoothed, modulated, warped, then the tissue.
_MODULATED = re.compile(r"(s\d*)?m0?w[pc][1-3]")
_WARPED = re.compile(r"(s\d*)?w[pc][1-3](?!\d)")
_NATIVE = re.compile(r"r?[pc][1-3]sub-")


def plausible_values(name: str) -> Plausible:
    """What the voxels of an image may be, as far as its file's name says it without a doubt.

    BIDS names tissue probability maps `*_probseg` (`desc-modulated` if they are modulated); SPM and CAT12
    write `p1` (or `c1`) to `p3` before the name, `wp1` and `mwp1` for warped and modulated ones.
    """
    stem = name.partition(".")[0]
    if stem.endswith("_probseg"):
        return MODULATED if "_desc-mod" in stem.lower() else PROBABILITY
    if _MODULATED.match(stem):
        return MODULATED
    return PROBABILITY if _WARPED.match(stem) or _NATIVE.match(stem) else INTENSITY


def check_image(image: np.ndarray | ScaledIntegers, path: Path, plausible: Plausible | None = None) -> None:
    """Raise `ScanRefused` unless every value is finite and plausible, and not the same everywhere.

    The lowest and the highest value tell all of it: NaN is the lowest of whatever has a NaN.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        lowest, highest = _ends(image)
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise _not_finite(image, path)
    if lowest == highest:
        raise ScanRefused(
            f"every value is {lowest:g}: the image is empty",
            where=path,
            hint="preprocess or download this scan again",
        )
    if plausible and not plausible.lowest <= lowest <= highest <= plausible.highest:
        raise ScanRefused(
            f"its values run from {lowest:g} to {highest:g}, {plausible.what} from "
            f"{plausible.lowest:g} to {plausible.highest:g}",
            where=path,
            hint=plausible.hint,
        )


def _ends(image: np.ndarray | ScaledIntegers) -> tuple[float, float]:
    """The lowest and the highest value; NaN if there is one."""
    if isinstance(image, ScaledIntegers):
        # Scaling keeps or turns the order, also after rounding: the ends stay the ends.
        ends = np.array([image.integers.min(), image.integers.max()])
        ends = ScaledIntegers(ends, image.slope, image.offset).values()
        return float(ends.min()), float(ends.max())
    return float(image.min()), float(image.max())


def _not_finite(image: np.ndarray | ScaledIntegers, path: Path) -> ScanRefused:
    with np.errstate(invalid="ignore", over="ignore"):
        values = image.values() if isinstance(image, ScaledIntegers) else image
    unusable = int(values.size - np.isfinite(values).sum())
    return ScanRefused(
        f"{unusable} of {values.size} values are NaN or infinite",
        where=path,
        expected="a number in every voxel",
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
