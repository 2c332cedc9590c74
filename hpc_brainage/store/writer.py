"""One part of one modality: scans are loaded, checked, summed up, and written as whole shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpc_brainage.errors import ScanRefused
from hpc_brainage.modality import Modality
from hpc_brainage.store.manifest import PartOfModality
from hpc_brainage.store.plan import PlannedModality
from hpc_brainage.store.schema import fill_value, shard_key
from hpc_brainage.store.shards import FLOAT, encode_chunk, write_shard
from hpc_brainage.store.statistics import Statistics


def write_modality(
    store: Path,
    planned: PlannedModality,
    rows: range,
    load: Callable[[int], np.ndarray | None],
    loaded: Callable[[], None] = lambda: None,
) -> PartOfModality:
    """Write the shards that hold `rows` of one modality.

    What is in memory at any time is one chunk of values and one shard of compressed bytes.

    Parameters
    ----------
    store : the folder of the store.
    rows : of one part; the first is the first scan of a shard.
    load : row -> the scan's array, or `None` where there is none. May raise `ScanRefused`: then the
        modality is absent for this scan and the reason is kept.
    loaded : called after each scan.
    """
    modality, layout = planned.modality, planned.layout
    assert rows.start % layout.shard_scans == 0, "a part begins with a shard"
    sha256 = [""] * len(rows)
    refused = [""] * len(rows)
    per_value = modality.shape if modality.kind == "features" else ()
    statistics = Statistics.nothing(per_value)
    chunk = np.empty((layout.chunk_scans, *modality.shape), dtype=FLOAT)

    for first in range(rows.start, rows.stop, layout.shard_scans):
        encoded: list[bytes | None] = [None] * layout.chunks_per_shard
        for number in range(layout.chunks_per_shard):
            start = first + number * layout.chunk_scans
            chunk.fill(fill_value(modality))
            present = []
            for row in range(start, min(start + layout.chunk_scans, rows.stop)):
                try:
                    values = load(row)
                    if values is not None:
                        chunk[row - start] = checked(modality, values)
                        sha256[row - rows.start] = checksum(chunk[row - start])
                        present.append(row - start)
                except ScanRefused as refusal:
                    refused[row - rows.start] = in_one_line(refusal)
                loaded()
            if present:
                encoded[number] = encode_chunk(chunk)
                statistics = statistics.merge(statistics_of(modality, chunk, np.array(present)))
        path = store / shard_key(modality, first // layout.shard_scans)
        if any(part is not None for part in encoded):
            write_shard(path, encoded)
        else:  # an earlier attempt may have found a scan here that is refused now
            path.unlink(missing_ok=True)
    return PartOfModality(tuple(sha256), tuple(refused), statistics)


def checked(modality: Modality, values: np.ndarray) -> np.ndarray:
    """`values` as float32 if a store can take them for one scan of `modality`.

    Raises
    ------
    ScanRefused : not numbers, another shape, infinite, without any value, or NaN in an image.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise ScanRefused(f"holds {values.dtype}, not numbers")
    if values.shape != modality.shape:
        raise ScanRefused(f"is of shape {values.shape}", expected=str(modality.shape))
    with np.errstate(over="ignore"):
        values = values.astype(FLOAT, copy=False)
    finite = np.isfinite(values)
    if finite.all():
        return values
    if np.isinf(values).any():
        raise ScanRefused("holds infinite values, or values too large for float32")
    if modality.kind != "features":
        share = 1 - finite.mean()
        raise ScanRefused(f"holds NaN in {share:.1%} of its values")
    if not finite.any():
        raise ScanRefused("holds no value at all")
    return values


def checksum(values: np.ndarray) -> str:
    """sha256 of one scan's little-endian float32 bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype=FLOAT).data).hexdigest()


def statistics_of(modality: Modality, chunk: np.ndarray, present: np.ndarray) -> Statistics:
    """Statistics of the scans `present` (positions in the chunk)."""
    if modality.kind == "features":
        return Statistics.of_features(chunk[present])
    merged = Statistics.nothing()
    for position in present:
        merged = merged.merge(Statistics.of_image(chunk[position]))
    return merged


def in_one_line(refusal: ScanRefused) -> str:
    """What was wrong and what was expected; where is known from the scan, and paths are private."""
    reason = refusal.what if refusal.expected is None else f"{refusal.what}; expected {refusal.expected}"
    return " ".join(reason.split())
