"""The last step of a conversion: everything in a store except the shards, and then the marker.

The small arrays and all metadata are made by zarr-python in memory and put in place file by file, the
root `zarr.json` last. A kill in between leaves an unfinished store whose parts are all done.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.core.chunk_key_encodings import ChunkKeyEncodingParams
from zarr.storage import MemoryStore

from hpc_brainage.files import sha256_of
from hpc_brainage.modality import Modality
from hpc_brainage.store.building import Build
from hpc_brainage.store.manifest import PartOfModality
from hpc_brainage.store.marker import COMPLETE, MARKER, record_hash
from hpc_brainage.store.people import Column, columns_of, json_cells
from hpc_brainage.store.plan import PlannedModality
from hpc_brainage.store.schema import (
    ATTRIBUTE,
    CHECKSUM,
    FASTEST_FIRST,
    FORMAT,
    FORMAT_VERSION,
    SCAN_DIMENSION,
    STATISTICS,
    dimensions,
    fill_value,
)
from hpc_brainage.store.shards import BLOCK_BYTES, LEVELS, SHUFFLED

# One folder per array, not one per shard and axis: clusters count files and folders.
_SMALL_LEVEL = 1
_WRITERS = 8
_SEPARATOR: ChunkKeyEncodingParams = {"name": "default", "separator": "."}


def finish_store(
    build: Build,
    scans: pd.DataFrame,
    converted: Mapping[str, PartOfModality],
    before: Mapping[str, PartOfModality] | None = None,
) -> None:
    """Write the small arrays, the metadata and the marker of a store whose parts are all done.

    Parameters
    ----------
    converted : by modality key, what all parts report together.
    before : by modality key, what the store that is extended knows of its own scans. The first part may
        begin with some of those again; they are not counted twice.
    """
    plan = build.plan
    columns = columns_of(scans)
    in_memory: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(in_memory), zarr_format=3)
    for column in columns:
        attributes = {} if column.name == column.array else {"column": column.name}
        _small_array(group, column.array, column.values, (SCAN_DIMENSION,), attributes)
    checksums, refused, described = {}, {}, {}
    for planned in plan.modalities:
        key = planned.modality.key
        everyone = converted[key]
        if before is not None:
            seen_again = len(everyone.checksums) - (plan.n_scans - plan.first_new)
            everyone = PartOfModality.joined([before[key], everyone.without_first(seen_again)])
        checksums[key], refused[key] = list(everyone.checksums), list(everyone.refused)
        _modality_arrays(group, plan.n_scans, planned, everyone)
        described[key] = _description(planned, checksums[key])
    refused_on_loading = sum(reason != "" for reasons in refused.values() for reason in reasons)
    ours: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "state": COMPLETE,
        "name": plan.name,
        "n_scans": plan.n_scans,
        "part_scans": plan.part_scans,
        "checksum": CHECKSUM,
        "columns": {column.array: column.name for column in columns},
        "modalities": described,
        "content_sha256": content_hash(
            columns, [planned.modality for planned in plan.modalities], checksums, refused
        ),
        "plan_sha256": plan.sha256,
        "recipe": plan.recipe,
        "software": plan.software,
        "account": {**plan.account, "refused_on_loading": refused_on_loading},
    }
    group.attrs[ATTRIBUTE] = ours
    with warnings.catch_warnings():  # consolidated metadata is what lets xarray open it in one read
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(group.store)
    _put_in_place(build, {key: content.to_bytes() for key, content in in_memory.items()})


def content_hash(
    columns: Sequence[Column],
    modalities: Sequence[Modality],
    checksums: dict[str, list[str]],
    refused: dict[str, list[str]],
) -> str:
    """The hash that stands for what a store holds, whatever the order of its scans.

    Over the column names, what the modalities are, and the sorted records of all scans: their cells
    and, of each of their measurements, the checksum and why it was refused.
    """
    keys = sorted(modality.key for modality in modalities)
    cells = zip(*(json_cells(column.values) for column in columns), strict=True)
    measured = zip(*(zip(checksums[key], refused[key], strict=True) for key in keys), strict=True)
    records = sorted(json.dumps(record) for record in zip(cells, measured, strict=True))
    return sha256_of(
        {
            "columns": [column.name for column in columns],
            "modalities": {modality.key: modality.describe() for modality in modalities},
            "scans": records,
        }
    )


def _description(planned: PlannedModality, checksums: list[str]) -> dict[str, Any]:
    """A modality in the root attributes; its names and units are arrays."""
    modality, layout = planned.modality, planned.layout
    described = modality.describe()
    del described["features"]
    if modality.kind != "volume":
        del described["units"]
    return {
        **described,
        **planned.encoding.describe(),
        "array": modality.array_name,
        "chunk_scans": layout.chunk_scans,
        "shard_scans": layout.shard_scans,
        "present": sum(sha256 != "" for sha256 in checksums),
    }


def _modality_arrays(
    group: zarr.Group, n_scans: int, planned: PlannedModality, everyone: PartOfModality
) -> None:
    modality, layout, encoding = planned.modality, planned.layout, planned.encoding
    name, axes = modality.array_name, dimensions(modality)
    attributes: dict[str, Any] = {"role": modality.role, "kind": modality.kind}
    if modality.kind == "volume":
        attributes["units"] = modality.units[0]
        attributes["affine"] = modality.describe()["affine"]
    packed = [
        BloscCodec(
            typesize=encoding.stored.dtype.itemsize,
            cname=encoding.compression,
            clevel=LEVELS[encoding.compression],
            shuffle="shuffle" if SHUFFLED[encoding.compression] else "noshuffle",
            blocksize=BLOCK_BYTES[encoding.compression],
        ),
        Crc32cCodec(),
    ] if encoding.compression != "none" else None  # fmt: skip
    group.create_array(
        name,
        shape=(n_scans, *modality.shape),
        dtype=encoding.stored.numbers,
        chunks=(layout.chunk_scans, *modality.shape),
        shards=(layout.shard_scans, *modality.shape),
        filters=[TransposeCodec(order=FASTEST_FIRST)] if encoding.stored.axes == "zyx" else None,
        compressors=packed,
        fill_value=0 if encoding.is_scaled else fill_value(modality),
        dimension_names=axes,
        attributes=attributes,
        chunk_key_encoding=_SEPARATOR,
    )
    checksums = np.array(everyone.checksums, dtype=object)
    _small_array(group, f"{name}_present", checksums != "", axes[:1])
    _small_array(group, f"{name}_checksum", checksums, axes[:1])
    _small_array(group, f"{name}_refused", np.array(everyone.refused, dtype=object), axes[:1])
    if encoding.is_scaled:
        scales = np.array(everyone.scales, dtype=np.float64)
        _small_array(group, f"{name}_slope", scales[:, 0], axes[:1])
        _small_array(group, f"{name}_offset", scales[:, 1], axes[:1])
    if modality.kind != "volume":
        _small_array(group, axes[1], np.array(modality.features, dtype=object), axes[1:2])
        _small_array(group, f"{name}_unit", np.array(modality.units, dtype=object), axes[1:2])
    along = axes[1:2] if modality.kind == "features" else ()
    for statistic in STATISTICS:
        _small_array(group, f"{name}_{statistic}", getattr(everyone.statistics, statistic), along)


def _small_array(
    group: zarr.Group,
    name: str,
    values: np.ndarray,
    dimension_names: tuple[str, ...],
    attributes: dict[str, Any] | None = None,
) -> None:
    """An array in one chunk; the chunk is written even if it only holds the fill value."""
    text = values.dtype == object
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=str if text else values.dtype,
        chunks=values.shape,
        compressors=[ZstdCodec(level=_SMALL_LEVEL), Crc32cCodec()],
        fill_value="" if text else np.zeros((), values.dtype).item(),
        dimension_names=dimension_names,
        attributes=attributes or {},
        chunk_key_encoding=_SEPARATOR,
        config={"write_empty_chunks": True},
    )
    array[...] = values


def _put_in_place(build: Build, files: dict[str, bytes]) -> None:
    root = json.loads(files.pop(MARKER))
    consolidated = root["consolidated_metadata"]
    consolidated["metadata"] = dict(sorted(consolidated["metadata"].items()))
    root["attributes"][ATTRIBUTE]["record_sha256"] = record_hash(root)
    # Most of the time of small files is waiting for the disk.
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="finish") as writers:
        list(writers.map(lambda item: build.write(item[0], [item[1]]), sorted(files.items())))
    build.place.settle()
    build.write(MARKER, [(json.dumps(root, indent=2) + "\n").encode()])
    build.place.settle()
