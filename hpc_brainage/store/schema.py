"""What a store of format version 1 holds: its names, its dimensions and how scans are laid on disk.

Pure functions only; `docs/store-format.md` is the same in prose. Three sizes matter, all counted in
scans and all powers of two, so that each is a multiple of the one before it:

- a **chunk** is what is compressed, and read, at once: one volume, or a block of feature vectors;
- a **shard** is one file: several chunks and an index;
- a **part** is what one worker converts: whole shards of every modality, so that no two workers can
  ever write to the same file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hpc_brainage.errors import StoreError
from hpc_brainage.modality import Modality, Stored

FORMAT = "hpc_brainage.store"
FORMAT_VERSION = 1
ATTRIBUTE = "hpc_brainage"
SCAN_DIMENSION = "scan"
EXTRA_PREFIX = "extra_"
CHECKSUM = "xxh3_128"
FASTEST_FIRST = (0, 3, 2, 1)  # Zarr's transpose codec for volumes that are kept as "zyx"
STATISTICS = ("count", "mean", "m2", "min", "max")

_MIB = 1 << 20
FEATURE_CHUNK_BYTES = 2 * _MIB
FEATURE_SHARD_BYTES = 16 * _MIB
IMAGE_SHARD_BYTES = 128 * _MIB
PART_BYTES = 4096 * _MIB
LONGEST_SHARD = 4096
LARGEST_CHUNK_BYTES = 2**31 - 1 - 16  # Blosc compresses no more at once
MOST_SCANS = 1 << 24


@dataclass(frozen=True)
class Layout:
    """How many scans one chunk and one shard of a modality hold."""

    chunk_scans: int
    shard_scans: int

    @property
    def chunks_per_shard(self) -> int:
        return self.shard_scans // self.chunk_scans


Compression = Literal["lz4", "zstd", "none"]
COMPRESSIONS: tuple[str, ...] = get_args(Compression)


@dataclass(frozen=True)
class Encoding:
    """How the numbers of a modality become bytes.

    Parameters
    ----------
    stored : which numbers, and in which order those of a volume follow one another.
    compression : "zstd" packs smallest, "lz4" is read and written about twice as fast and takes a tenth to
        a third more room on images; "none" is for disks that are faster than any unpacking.
    """

    stored: Stored = Stored()  # noqa: RUF009 - it is frozen
    compression: Compression = "zstd"

    @property
    def is_scaled(self) -> bool:
        """Whether integers are kept, and a slope and an offset for each scan."""
        return self.stored.numbers != "float32"

    def describe(self) -> dict[str, Any]:
        """JSON-able; `from_record` reads it back."""
        return {
            "numbers": self.stored.numbers,
            "axes": self.stored.axes,
            "compression": self.compression,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Encoding:
        return cls(Stored(record["numbers"], record["axes"]), record["compression"])


def encoding_of(modality: Modality, stored: Stored, images: Compression = "lz4") -> Encoding:
    """Tables of features are small and are packed well; images are as `images` says."""
    return Encoding(stored, "zstd" if modality.kind == "features" else images)


def lay_out(modalities: Sequence[Modality]) -> tuple[int, dict[str, Layout]]:
    """Scans per part, and the layout of each modality by key.

    Features are cut into chunks of 1 to 2 MiB and shards of up to 16 MiB; an image is a chunk of its
    own, and as many as make 64 to 128 MiB are a shard. A part is as long as the longest shard, unless
    it would then hold more than 4 GiB of images: then it is made shorter, and so are the shards of
    features. What a worker holds in memory is one shard, compressed, never a whole part.
    """
    wanted = {modality.key: _wanted_layout(modality) for modality in modalities}
    part = max(layout.shard_scans for layout in wanted.values())
    shortest = max(
        (wanted[modality.key].shard_scans for modality in modalities if modality.kind != "features"),
        default=1,
    )
    scan_bytes = sum(bytes_per_scan(modality) for modality in modalities)
    while part > shortest and part * scan_bytes > PART_BYTES:
        part //= 2
    layouts = {}
    for key, layout in wanted.items():
        shard = min(layout.shard_scans, part)
        layouts[key] = Layout(min(layout.chunk_scans, shard), shard)
    return part, layouts


def bytes_per_scan(modality: Modality) -> int:
    """Bytes of one scan as float32, uncompressed; layouts are made by it, however a store keeps numbers."""
    return 4 * math.prod(modality.shape)


def _wanted_layout(modality: Modality) -> Layout:
    size = bytes_per_scan(modality)
    if size == 0:
        raise StoreError(f"an empty modality of shape {modality.shape}", where=modality.key)
    if size > LARGEST_CHUNK_BYTES:
        raise StoreError(f"a scan of shape {modality.shape} is larger than 2 GiB", where=modality.key)
    if modality.kind == "features":
        chunk = _power_of_two(FEATURE_CHUNK_BYTES // size)
        return Layout(chunk, max(chunk, _power_of_two(FEATURE_SHARD_BYTES // size)))
    return Layout(1, _power_of_two(IMAGE_SHARD_BYTES // size))


def _power_of_two(count: int) -> int:
    """The largest power of two that is not above `count`, within 1 and the longest shard."""
    return min(LONGEST_SHARD, 1 << (max(count, 1).bit_length() - 1))


def cut(n_scans: int, length: int) -> list[range]:
    """Rows 0 to n_scans - 1 in consecutive blocks of `length`; the last may be shorter."""
    return [range(start, min(start + length, n_scans)) for start in range(0, n_scans, length)]


def fill_value(modality: Modality) -> float:
    """What stands where a scan has no such data: NaN among features, 0 in an image."""
    return float(np.nan) if modality.kind == "features" else 0.0


def dimensions(modality: Modality) -> tuple[str, ...]:
    """Dimension names of the data array, as xarray shows them."""
    axes = {"features": ("feature",), "volume": ("x", "y", "z"), "surface": ("channel", "vertex")}
    return (SCAN_DIMENSION, *(f"{modality.array_name}_{axis}" for axis in axes[modality.kind]))


def arrays_of(modality: Modality, encoding: Encoding) -> list[str]:
    """The names of all arrays that a modality takes in a store, the data array first."""
    name = modality.array_name
    names = [name, f"{name}_present", f"{name}_checksum", f"{name}_refused"]
    if modality.kind != "volume":
        names += [dimensions(modality)[1], f"{name}_unit"]
    if encoding.is_scaled:
        names += [f"{name}_slope", f"{name}_offset"]
    return names + [f"{name}_{statistic}" for statistic in STATISTICS]


def shard_key(modality: Modality, shard: int) -> str:
    """Path inside the store of the file that holds shard number `shard` of a modality."""
    return f"{modality.array_name}/c.{shard}" + ".0" * len(modality.shape)


def small_array_key(name: str, metadata: Mapping[str, Any]) -> str:
    """Path inside the store of the one chunk of an array that holds no measurements."""
    return "/".join([name, ".".join(["c", *("0" for _ in metadata["shape"])])])


def check_names(modalities: Sequence[tuple[Modality, Encoding]]) -> None:
    """Refuse modalities whose arrays would overwrite one another.

    Raises
    ------
    StoreError : there is no modality, or two of them (say "fc" and "fc_present") need the same name.
    """
    if not modalities:
        raise StoreError("there is nothing to store", expected="at least one modality")
    owner: dict[str, str] = {}
    for modality, encoding in modalities:
        for name in arrays_of(modality, encoding):
            if name in owner:
                raise StoreError(
                    f"two modalities need the array name {name!r}",
                    where=f"{owner[name]} and {modality.key}",
                    hint="give one of them another name, as in --add fmri/rest=...",
                )
            owner[name] = modality.key
