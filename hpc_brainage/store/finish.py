"""The last step of a conversion: everything in a store except the shards, and then the marker.

The small arrays and all metadata are made by zarr-python in memory and put on disk file by file, the
root `zarr.json` last. A kill in between leaves an unfinished store whose parts are all done.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.core.chunk_key_encodings import ChunkKeyEncodingParams
from zarr.storage import MemoryStore

from hpc_brainage.files import sha256_of, sync_directory, write_bytes
from hpc_brainage.modality import Modality
from hpc_brainage.store.manifest import PartManifest, PartOfModality
from hpc_brainage.store.marker import COMPLETE, MARKER, record_hash
from hpc_brainage.store.people import Column, columns_of, json_cells
from hpc_brainage.store.plan import Plan, PlannedModality
from hpc_brainage.store.schema import (
    ATTRIBUTE,
    FORMAT,
    FORMAT_VERSION,
    SCAN_DIMENSION,
    STATISTICS,
    dimensions,
    fill_value,
)
from hpc_brainage.store.shards import BLOCK_BYTES, LEVEL
from hpc_brainage.store.statistics import Statistics

# One folder per array, not one per shard and axis: clusters count files and folders.
_SEPARATOR: ChunkKeyEncodingParams = {"name": "default", "separator": "."}


def finish_store(path: Path, plan: Plan, scans: pd.DataFrame, manifests: Sequence[PartManifest]) -> None:
    """Write the small arrays, the metadata and the marker of a store whose parts are all done."""
    columns = columns_of(scans)
    in_memory: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(in_memory), zarr_format=3)
    for column in columns:
        attributes = {} if column.name == column.array else {"column": column.name}
        _small_array(group, column.array, column.values, (SCAN_DIMENSION,), attributes)
    checksums, refused, described = {}, {}, {}
    for planned in plan.modalities:
        key = planned.modality.key
        parts = [manifest.modalities[key] for manifest in manifests]
        checksums[key] = [sha256 for part in parts for sha256 in part.sha256]
        refused[key] = [reason for part in parts for reason in part.refused]
        _modality_arrays(group, plan.n_scans, planned, parts)
        described[key] = _description(planned, checksums[key])
    refused_on_loading = sum(reason != "" for reasons in refused.values() for reason in reasons)
    ours: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "state": COMPLETE,
        "name": plan.name,
        "n_scans": plan.n_scans,
        "part_scans": plan.part_scans,
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
    _put_on_disk(path, {key: content.to_bytes() for key, content in in_memory.items()})


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
        "array": modality.array_name,
        "chunk_scans": layout.chunk_scans,
        "shard_scans": layout.shard_scans,
        "present": sum(sha256 != "" for sha256 in checksums),
    }


def _modality_arrays(
    group: zarr.Group, n_scans: int, planned: PlannedModality, parts: Sequence[PartOfModality]
) -> None:
    modality, layout = planned.modality, planned.layout
    name, axes = modality.array_name, dimensions(modality)
    attributes: dict[str, Any] = {"role": modality.role, "kind": modality.kind}
    if modality.kind == "volume":
        attributes["units"] = modality.units[0]
        attributes["affine"] = modality.describe()["affine"]
    group.create_array(
        name,
        shape=(n_scans, *modality.shape),
        dtype="float32",
        chunks=(layout.chunk_scans, *modality.shape),
        shards=(layout.shard_scans, *modality.shape),
        compressors=[
            BloscCodec(typesize=4, cname="zstd", clevel=LEVEL, shuffle="shuffle", blocksize=BLOCK_BYTES),
            Crc32cCodec(),
        ],
        fill_value=fill_value(modality),
        dimension_names=axes,
        attributes=attributes,
        chunk_key_encoding=_SEPARATOR,
    )
    sha256 = np.array([value for part in parts for value in part.sha256], dtype=object)
    refused = np.array([value for part in parts for value in part.refused], dtype=object)
    _small_array(group, f"{name}_present", sha256 != "", axes[:1])
    _small_array(group, f"{name}_sha256", sha256, axes[:1])
    _small_array(group, f"{name}_refused", refused, axes[:1])
    if modality.kind != "volume":
        _small_array(group, axes[1], np.array(modality.features, dtype=object), axes[1:2])
        _small_array(group, f"{name}_unit", np.array(modality.units, dtype=object), axes[1:2])
    merged = reduce(Statistics.merge, (part.statistics for part in parts))
    along = axes[1:2] if modality.kind == "features" else ()
    for statistic in STATISTICS:
        _small_array(group, f"{name}_{statistic}", getattr(merged, statistic), along)


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
        compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()],
        fill_value="" if text else np.zeros((), values.dtype).item(),
        dimension_names=dimension_names,
        attributes=attributes or {},
        chunk_key_encoding=_SEPARATOR,
        config={"write_empty_chunks": True},
    )
    array[...] = values


def _put_on_disk(path: Path, files: dict[str, bytes]) -> None:
    root = json.loads(files.pop(MARKER))
    consolidated = root["consolidated_metadata"]
    consolidated["metadata"] = dict(sorted(consolidated["metadata"].items()))
    root["attributes"][ATTRIBUTE]["record_sha256"] = record_hash(root)
    for key, content in sorted(files.items()):
        write_bytes(path / key, content)
    sync_directory(path)
    write_bytes(path / MARKER, (json.dumps(root, indent=2) + "\n").encode())
