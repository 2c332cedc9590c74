"""One shard of one modality: scans are loaded, checked, summed up and encoded, then written as one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from hpc_brainage.errors import ScanRefused
from hpc_brainage.modality import Modality, ScaledIntegers
from hpc_brainage.store.building import Build
from hpc_brainage.store.manifest import PartOfModality
from hpc_brainage.store.plan import Plan, PlannedModality
from hpc_brainage.store.schema import Encoding, fill_value, shard_key
from hpc_brainage.store.shards import FLOAT, encode_chunk, shard_pieces
from hpc_brainage.store.statistics import Statistics
from hpc_brainage.store.survey import checksum, survey

Loaded = np.ndarray | ScaledIntegers | None
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class EncodedShard:
    """A shard that is ready to be written: the bytes of its file, none if no scan is in it."""

    key: str
    pieces: list[bytes]
    report: PartOfModality


def encode_shard(
    plan: Plan,
    planned: PlannedModality,
    rows: range,
    load: Callable[[int], Loaded],
    loaded: Callable[[], None] = lambda: None,
) -> EncodedShard:
    """Load, check and encode the scans of one shard of one modality.

    What is in memory at any time is one chunk of values and one shard of compressed bytes.

    Parameters
    ----------
    rows : of one shard, or fewer at the end of a store.
    load : row -> the scan's array, or `None` where there is none. May raise `ScanRefused`: then the
        modality is absent for this scan and the reason is kept.
    loaded : called after each scan.
    """
    modality, layout = planned.modality, planned.layout
    assert rows.start % layout.shard_scans == 0
    assert len(rows) <= layout.shard_scans, "a shard begins where the last one ended"
    shard = _Shard(planned, rows, plan.first_new, load, loaded)
    chunks = shard.features() if modality.kind == "features" else shard.images()
    some = any(chunk is not None for chunk in chunks)
    pieces = shard_pieces(chunks, planned.encoding) if some else []
    return EncodedShard(
        shard_key(modality, rows.start // layout.shard_scans),
        pieces,
        PartOfModality(
            tuple(shard.checksums),
            tuple(shard.refused),
            tuple(shard.scales),
            shard.statistics,
            (sum(map(len, pieces)),),
        ),
    )


def write_shard(build: Build, shard: EncodedShard) -> PartOfModality:
    """Put an encoded shard in its place; other shards may be written at the same time."""
    if shard.pieces:
        build.write(shard.key, shard.pieces)
    else:  # an earlier attempt may have found a scan here that is refused now
        build.remove(shard.key)
    return shard.report


class _Shard:
    """The scans of one shard, and what becomes known of them while they are loaded."""

    def __init__(
        self,
        planned: PlannedModality,
        rows: range,
        first_counted: int,
        load: Callable[[int], Loaded],
        loaded: Callable[[], None],
    ) -> None:
        self.planned, self.rows, self.first_counted = planned, rows, first_counted
        self.load, self.loaded = load, loaded
        modality = planned.modality
        self.checksums = [""] * len(rows)
        self.refused = [""] * len(rows)
        self.scales = [(1.0, 0.0)] * len(rows)
        self.statistics = Statistics.nothing(modality.shape if modality.kind == "features" else ())

    def features(self) -> list[bytes | None]:
        """The chunks of a shard of features: many scans in each, None where none of them has any."""
        modality, layout, rows = self.planned.modality, self.planned.layout, self.rows
        encoded: list[bytes | None] = [None] * layout.chunks_per_shard
        chunk = np.empty((layout.chunk_scans, *modality.shape), dtype=FLOAT)
        for number, start in enumerate(range(rows.start, rows.stop, layout.chunk_scans)):
            chunk.fill(fill_value(modality))
            some, counted = False, []
            for row in range(start, min(start + layout.chunk_scans, rows.stop)):
                kept = self._kept(row, partial(features_kept, modality))
                if kept is not None:
                    chunk[row - start], self.checksums[row - rows.start] = kept
                    some = True
                    if row >= self.first_counted:
                        counted.append(row - start)
            if some:
                encoded[number] = encode_chunk(chunk, self.planned.encoding)
                self.statistics = self.statistics.merge(Statistics.of_features(chunk[counted]))
        return encoded

    def images(self) -> list[bytes | None]:
        """The chunks of a shard of images: one for each scan, None where there is none."""
        modality, encoding = self.planned.modality, self.planned.encoding
        encoded: list[bytes | None] = [None] * self.planned.layout.chunks_per_shard
        for place, row in enumerate(self.rows):
            image = self._kept(row, partial(image_kept, modality, encoding))
            if image is not None:
                self.checksums[place], self.scales[place] = image.checksum, image.scale
                encoded[place] = encode_chunk(image.numbers, encoding)
                if row >= self.first_counted:
                    self.statistics = self.statistics.merge(image.statistics)
        return encoded

    def _kept(self, row: int, keep: Callable[[np.ndarray | ScaledIntegers], Kept]) -> Kept | None:
        """What a store keeps of one scan; None if there is nothing, or nothing that a store takes."""
        try:
            values = self.load(row)
            kept = None if values is None else keep(values)
        except ScanRefused as refusal:
            self.refused[row - self.rows.start] = in_one_line(refusal)
            kept = None
        self.loaded()
        return kept


class ImageKept(NamedTuple):
    """One image as a store keeps it: in the order of its file, with the scale of its integers."""

    numbers: np.ndarray
    scale: tuple[float, float]
    checksum: str
    statistics: Statistics


def features_kept(modality: Modality, values: np.ndarray | ScaledIntegers) -> tuple[np.ndarray, str]:
    """The features of one scan as a store keeps them, and their checksum.

    Raises
    ------
    ScanRefused : no store takes them.
    """
    numbers = numbers_of(modality, Encoding(), values)
    check_values(numbers, missing=True)
    return numbers, checksum(numbers)


def image_kept(modality: Modality, encoding: Encoding, values: np.ndarray | ScaledIntegers) -> ImageKept:
    """One volume or surface as a store of this encoding keeps it.

    Raises
    ------
    ScanRefused : no such store takes it.
    """
    scale = (1.0, 0.0)
    if encoding.is_scaled and isinstance(values, ScaledIntegers):
        scale = (values.slope, values.offset)
    numbers = _in_stored_order(numbers_of(modality, encoding, values), encoding)
    found, statistics = survey(numbers, *scale)
    if not (np.isfinite(statistics.min) and np.isfinite(statistics.max)):
        check_values(numbers, missing=False)
        raise ScanRefused(f"its scale, {scale[0]:g} and {scale[1]:g}, makes infinite values")
    return ImageKept(numbers, scale, found, statistics)


def _in_stored_order(numbers: np.ndarray, encoding: Encoding) -> np.ndarray:
    """An image as a C-contiguous array in the order in which its numbers are kept."""
    turned = numbers.transpose(2, 1, 0) if encoding.stored.axes == "zyx" else numbers
    return np.ascontiguousarray(turned)


def numbers_of(modality: Modality, encoding: Encoding, values: np.ndarray | ScaledIntegers) -> np.ndarray:
    """The numbers of one scan as a store keeps them: float32, or the integers that it says.

    Raises
    ------
    ScanRefused : not numbers, other integers than the store keeps, or another shape.
    """
    numbers = values.integers if isinstance(values, ScaledIntegers) else np.asarray(values)
    if numbers.dtype.kind not in "fiub":
        raise ScanRefused(f"holds {numbers.dtype}, not numbers")
    if numbers.shape != modality.shape:
        raise ScanRefused(f"is of shape {numbers.shape}", expected=str(modality.shape))
    if not encoding.is_scaled:
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite: refused
            plain = values.values() if isinstance(values, ScaledIntegers) else numbers
            return plain.astype(FLOAT, copy=False)
    if not isinstance(values, ScaledIntegers) or numbers.dtype != encoding.stored.numbers:
        raise ScanRefused(f"holds {numbers.dtype}", expected=f"{encoding.stored.numbers}, as the others")
    if not (np.isfinite(values.slope) and np.isfinite(values.offset) and values.slope):
        raise ScanRefused(f"is scaled by {values.slope:g} and {values.offset:g}")
    return numbers


def check_values(values: np.ndarray, *, missing: bool) -> None:
    """Refuse values that are infinite, or missing where they must not be.

    Parameters
    ----------
    missing : whether some may be NaN.

    Raises
    ------
    ScanRefused : an infinite value; a NaN; or nothing but NaN, even where some may be.
    """
    finite = np.isfinite(values)
    if finite.all():
        return
    if np.isinf(values).any():
        raise ScanRefused("holds infinite values, or values too large for float32")
    if not missing:
        raise ScanRefused(f"holds NaN in {1 - finite.mean():.1%} of its values")
    if not finite.any():
        raise ScanRefused("holds no value at all")


def in_one_line(refusal: ScanRefused) -> str:
    """What was wrong and what was expected; where is known from the scan, and paths are private."""
    reason = refusal.what if refusal.expected is None else f"{refusal.what}; expected {refusal.expected}"
    return " ".join(reason.split())
