"""What the root of a store says of sizes and names, checked before anything is believed.

A store may come from anywhere. Its hash over the root proves that nothing was lost on the way, not that
whoever wrote it meant well: a size that is no size would end in a traceback, or in all of the memory.
"""

from __future__ import annotations

import math
from typing import Any

from hpc_brainage.modality import AXES, KINDS, NUMBERS, ROLES
from hpc_brainage.scans import SCAN_COLUMNS
from hpc_brainage.store.packed import codec_names
from hpc_brainage.store.schema import (
    ATTRIBUTE,
    CHECKSUM,
    COMPRESSIONS,
    FEATURE_CHUNK_BYTES,
    LARGEST_CHUNK_BYTES,
    LONGEST_SHARD,
    MOST_SCANS,
    STATISTICS,
)

_MOST_NAMES = LARGEST_CHUNK_BYTES // 4  # of the widest table of features
_RANK = {"features": 1, "volume": 3, "surface": 2}
_TEXTS = ("name", "content_sha256", "plan_sha256")
_ENTRIES = (
    "role", "name", "kind", "shape", "array", "chunk_scans", "shard_scans", "present",
    "numbers", "axes", "compression",
)  # fmt: skip
_TABLES = ("columns", "modalities", "recipe", "software", "account")


def problem_of(root: dict[str, Any]) -> str | None:
    """What cannot be right in a root `zarr.json` of ours, in words; None if all of it can be."""
    ours = root["attributes"][ATTRIBUTE]
    for name in _TEXTS:
        if not isinstance(ours.get(name), str):
            return f"{name} is no text"
    for name in _TABLES:
        if not isinstance(ours.get(name), dict):
            return f"{name} is no table"
    n_scans: Any = ours.get("n_scans")
    part_scans: Any = ours.get("part_scans")
    if not (_is_count(n_scans) and n_scans <= MOST_SCANS):
        return f"n_scans is {n_scans!r}"
    if not (_is_power_of_two(part_scans) and part_scans <= LONGEST_SHARD):
        return f"part_scans is {part_scans!r}"
    if ours.get("checksum") != CHECKSUM:
        return f"checksum is {ours.get('checksum')!r}"
    consolidated = root.get("consolidated_metadata")
    arrays = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(arrays, dict):
        return "there is no consolidated metadata"
    for name, array in arrays.items():
        if not _is_file_name(name) or not isinstance(array, dict) or not _is_shape(array.get("shape")):
            return f"the array {name!r} has no shape"
        if codec_names(array) != ["sharding_indexed"] and not _is_small(array):
            return f"the array {name!r} is neither measurements nor small"
    if not ours["modalities"]:
        return "there is no modality"
    if list(ours["columns"].values())[: len(SCAN_COLUMNS)] != list(SCAN_COLUMNS):
        return "the columns are not those of a table of scans"
    for array, column in ours["columns"].items():
        if not isinstance(column, str) or arrays.get(array, {}).get("shape") != [n_scans]:
            return f"the column {array!r} has not one value for each scan"
    for key, modality in ours["modalities"].items():
        if problem := _problem_of_modality(key, modality, n_scans, part_scans, arrays):
            return f"{key}: {problem}"
    return None


def _problem_of_modality(
    key: str, described: Any, n_scans: int, part_scans: int, arrays: dict[str, Any]
) -> str | None:
    if not isinstance(described, dict):
        return "it is not described"
    said: dict[str, Any] = dict.fromkeys(_ENTRIES) | described
    role, name, kind = said["role"], said["name"], said["kind"]
    if role not in ROLES or kind not in KINDS or key != f"{role}/{name}":
        return f"it is called {role!r}, {name!r}, of kind {kind!r}"
    shape, chunk, shard = said["shape"], said["chunk_scans"], said["shard_scans"]
    if not (_is_shape(shape) and len(shape) == _RANK[kind] and all(shape)):
        return f"its shape is {shape!r}"
    if not (_is_power_of_two(chunk) and _is_power_of_two(shard) and chunk <= shard <= part_scans):
        return f"its chunk_scans and shard_scans are {chunk!r} and {shard!r}"
    size = 4 * math.prod(shape)
    if size > LARGEST_CHUNK_BYTES or (chunk > 1 and chunk * size > FEATURE_CHUNK_BYTES):
        return f"{chunk} scans of shape {shape} are too large for a chunk"
    if said["numbers"] not in (NUMBERS if kind == "volume" else ("float32",)):
        return f"its numbers are {said['numbers']!r}"
    if said["axes"] not in (AXES if kind == "volume" else ("xyz",)):
        return f"its axes are {said['axes']!r}"
    if said["compression"] not in COMPRESSIONS:
        return f"its compression is {said['compression']!r}"
    if not _is_count(said["present"]):
        return f"present is {said['present']!r}"
    if said["array"] != f"{role}_{name}":
        return f"its array is called {said['array']!r}"
    if codec_names(arrays.get(said["array"], {})) != ["sharding_indexed"]:
        return "its array has no shards"
    expected = {said["array"]: [n_scans, *shape]}
    expected |= {f"{said['array']}_{of}": [n_scans] for of in ("present", "checksum", "refused")}
    if said["numbers"] != "float32":
        expected |= {f"{said['array']}_{of}": [n_scans] for of in ("slope", "offset")}
    if kind != "volume":
        names = "feature" if kind == "features" else "channel"
        expected |= {f"{said['array']}_{of}": shape[:1] for of in (names, "unit")}
    along = shape if kind == "features" else []
    expected |= {f"{said['array']}_{statistic}": along for statistic in STATISTICS}
    for array, its_shape in expected.items():
        if arrays.get(array, {}).get("shape") != its_shape:
            return f"the array {array!r} is missing or has another shape"
    return None


def _is_small(array: dict[str, Any]) -> bool:
    """Whether an array is one chunk, packed as this program does it, and of a size that memory takes."""
    grid = array.get("chunk_grid")
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    chunk = configuration.get("chunk_shape") if isinstance(configuration, dict) else None
    shape = array["shape"]
    return (
        chunk == shape
        and len(shape) < 2
        and math.prod(shape) <= _MOST_NAMES
        and codec_names(array) in (["bytes", "zstd", "crc32c"], ["vlen-utf8", "zstd", "crc32c"])
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_power_of_two(value: Any) -> bool:
    return _is_count(value) and value > 0 and value & (value - 1) == 0


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(_is_count(length) for length in value)


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name
