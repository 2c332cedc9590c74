"""What the metadata of every array must say, derived from what the store says of itself as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpc_brainage.modality import Modality
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import FASTEST_FIRST, SCAN_DIMENSION, STATISTICS, dimensions

Fields = dict[str, Any]


def expected_metadata(store: Store) -> dict[str, Fields]:
    """By array name, the fields that `fields_of` takes out of an array's Zarr metadata.

    Raises
    ------
    StoreError : names of features or columns, which it needs, are missing or damaged.
    """
    expected: dict[str, Fields] = {}
    for column in store.columns:
        attributes = {} if column.name == column.array else {"column": column.name}
        kind = "string" if column.is_text else "float64"
        expected[column.array] = _small((store.n_scans,), kind, (SCAN_DIMENSION,), attributes)
    for modality in store.modalities.values():
        expected.update(_of_modality(store, modality))
    return expected


def fields_of(metadata: Fields) -> Fields:
    """Shape, type, fill value, dimension names, attributes, shards and chunks of a Zarr v3 array.

    Fields that are not there, or not where the specification puts them, are None.
    """
    grid = _under(metadata, "chunk_grid", "configuration", "chunk_shape")
    codecs = metadata.get("codecs")
    first = codecs[0] if isinstance(codecs, list) and codecs else {}
    inner, packing = None, None
    if _under(first, "name") == "sharding_indexed":
        inner = _under(first, "configuration", "chunk_shape")
        within = _under(first, "configuration", "codecs")
        packing = [_packing(codec) for codec in within] if isinstance(within, list) else None
    return {
        "shape": metadata.get("shape"),
        "data_type": metadata.get("data_type"),
        "fill_value": metadata.get("fill_value"),
        "dimension_names": metadata.get("dimension_names") or [],
        "attributes": metadata.get("attributes"),
        "shards": grid if inner is not None else None,
        "chunks": grid if inner is None else inner,
        "packing": packing,
    }


def _packing(codec: Any) -> str:
    """A codec in a word, with what decides how its bytes are read."""
    settings = (_under(codec, "configuration", key) for key in ("order", "cname", "typesize"))
    return " ".join(str(word) for word in (_under(codec, "name"), *settings) if word is not None)


def _of_modality(store: Store, modality: Modality) -> Iterator[tuple[str, Fields]]:
    name, axes, layout = modality.array_name, dimensions(modality), store.layout(modality.key)
    encoding = store.encoding(modality.key)
    turned = [f"transpose {list(FASTEST_FIRST)}"] if encoding.stored.axes == "zyx" else []
    packed = [f"blosc {encoding.compression} {encoding.stored.dtype.itemsize}", "crc32c"]
    packed = [] if encoding.compression == "none" else packed
    attributes: dict[str, Any] = {"role": modality.role, "kind": modality.kind}
    if modality.kind == "volume":
        attributes |= {"units": modality.units[0], "affine": modality.describe()["affine"]}
    yield (
        name,
        {
            "shape": [store.n_scans, *modality.shape],
            "data_type": encoding.stored.numbers,
            "fill_value": "NaN" if modality.kind == "features" else 0,
            "dimension_names": list(axes),
            "attributes": attributes,
            "shards": [layout.shard_scans, *modality.shape],
            "chunks": [layout.chunk_scans, *modality.shape],
            "packing": [*turned, "bytes", *packed],
        },
    )
    for what, data_type in (("present", "bool"), ("checksum", "string"), ("refused", "string")):
        yield f"{name}_{what}", _small((store.n_scans,), data_type, axes[:1])
    if encoding.is_scaled:
        for what in ("slope", "offset"):
            yield f"{name}_{what}", _small((store.n_scans,), "float64", axes[:1])
    if modality.kind != "volume":
        for array in (axes[1], f"{name}_unit"):
            yield array, _small(modality.shape[:1], "string", axes[1:2])
    along = modality.kind == "features"
    for statistic in STATISTICS:
        data_type = "int64" if statistic == "count" else "float64"
        yield (
            f"{name}_{statistic}",
            _small(modality.shape if along else (), data_type, axes[1:2] if along else ()),
        )


def _small(
    shape: tuple[int, ...], data_type: str, axes: tuple[str, ...], attributes: Fields | None = None
) -> Fields:
    fill: Any = {"string": "", "bool": False, "int64": 0, "float64": 0.0}[data_type]
    return {
        "shape": list(shape),
        "data_type": data_type,
        "fill_value": fill,
        "dimension_names": list(axes),
        "attributes": attributes or {},
        "shards": None,
        "chunks": list(shape),
        "packing": None,
    }


def _under(record: Any, *keys: str) -> Any:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record
