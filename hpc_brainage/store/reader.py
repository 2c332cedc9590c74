"""Reading a finished store.

Measurements are read chunk by chunk, each chunk once however many of its rows are wanted and in
whatever order: picking random rows through zarr's own indexing takes several times as long.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from hpc_brainage.errors import StoreError, UsageError, nearest
from hpc_brainage.modality import Modality
from hpc_brainage.scans import scan_names
from hpc_brainage.store.marker import damaged_marker, read_marker
from hpc_brainage.store.people import Column, table_of
from hpc_brainage.store.schema import (
    ATTRIBUTE,
    STATISTICS,
    Layout,
    cut,
    fill_value,
    shard_key,
)
from hpc_brainage.store.shards import FLOAT, ShardFile
from hpc_brainage.store.statistics import Statistics


class Store:
    """A finished store, opened for reading with `Store.open`."""

    def __init__(self, path: Path, root: dict[str, Any]) -> None:
        self.path = path
        self.metadata = root
        self._shards: dict[tuple[str, int], ShardFile] = {}
        self._present: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open the store at `path`.

        Raises
        ------
        StoreError : nothing there, not a store, not ours, unfinished, damaged, or of a newer format.
        """
        path = Path(path)
        return cls(path, read_marker(path))

    @property
    def attributes(self) -> dict[str, Any]:
        """What the store says of itself: format, recipe, software, account, hashes."""
        return self.metadata["attributes"][ATTRIBUTE]

    @property
    def name(self) -> str:
        return self.attributes["name"]

    @property
    def n_scans(self) -> int:
        return self.attributes["n_scans"]

    @property
    def part_scans(self) -> int:
        """Scans per part: whole shards of every modality."""
        return self.attributes["part_scans"]

    @property
    def content_sha256(self) -> str:
        """What a model or a score table quotes as the identity of this store's content."""
        return self.attributes["content_sha256"]

    def parts(self) -> list[range]:
        """The rows of each part: the natural unit of work for whoever reads everything."""
        return cut(self.n_scans, self.part_scans)

    @cached_property
    def modalities(self) -> dict[str, Modality]:
        """By key, in the order of the cohort."""
        modalities = {}
        for key, described in self.attributes["modalities"].items():
            record = {"features": [], **described}
            if record["kind"] != "volume":
                axis = f"{described['array']}_{'feature' if record['kind'] == 'features' else 'channel'}"
                record["features"] = self.small_array(axis).tolist()
                record["units"] = self.small_array(f"{described['array']}_unit").tolist()
            try:
                modalities[key] = Modality.from_record(record)
            except (KeyError, TypeError, UsageError) as problem:
                reason = problem.what if isinstance(problem, UsageError) else "an entry is missing"
                raise damaged_marker(self.path, f"{key}: {reason}") from None
        return modalities

    @cached_property
    def columns(self) -> list[Column]:
        """The columns of the table of scans, as the store holds them."""
        return [
            Column(array, name, self.small_array(array))
            for array, name in self.attributes["columns"].items()
        ]

    @cached_property
    def scans(self) -> pd.DataFrame:
        """One row per scan: `SCAN_COLUMNS`, then the cohort's further columns."""
        return table_of(self.columns)

    def present(self, key: str) -> np.ndarray:
        """Which scans have the modality: bool (scans,), not to be written to."""
        if key not in self._present:
            present = self.small_array(f"{self._modality(key).array_name}_present")
            present.flags.writeable = False
            self._present[key] = present
        return self._present[key]

    def sha256(self, key: str) -> np.ndarray:
        """Checksum of each scan's float32 bytes, text (scans,); "" where absent."""
        return self.small_array(f"{self._modality(key).array_name}_sha256")

    def refused(self, key: str) -> np.ndarray:
        """Why the source's data was not taken, text (scans,); "" where it was, or there was none."""
        return self.small_array(f"{self._modality(key).array_name}_refused")

    def statistics(self, key: str) -> Statistics:
        """Over all scans that are present: per feature, or one number over all voxels."""
        name = self._modality(key).array_name
        return Statistics(*(self.small_array(f"{name}_{statistic}") for statistic in STATISTICS))

    def layout(self, key: str) -> Layout:
        self._modality(key)
        described = self.attributes["modalities"][key]
        return Layout(described["chunk_scans"], described["shard_scans"])

    def read(self, key: str, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Measurements of `rows` (all, if not given) in that order, float32 (rows, *shape).

        Rows may repeat. A scan without this modality is NaN throughout if it is a feature table.

        Raises
        ------
        StoreError : there is no such modality; the rows are not numbers of scans; a row has no such
            image (an image has no value that could stand for absent); or what is on disk is damaged.
        """
        modality, length = self._modality(key), self.layout(key).chunk_scans
        wanted = np.arange(self.n_scans) if rows is None else self._row_numbers(rows)
        present = self.present(key)[wanted]
        if modality.kind != "features" and not present.all():
            lacking = self.scans.iloc[wanted[~present]]
            raise StoreError(
                f"{len(lacking)} of {len(wanted)} wanted scans have no {key}",
                where=f"{self.path}: {', '.join(scan_names(lacking.head(5)))}",
                hint="ask for present scans only",
            )
        out = np.empty((len(wanted), *modality.shape), dtype=FLOAT)
        if not present.all():
            out[~present] = fill_value(modality)
        chunks = np.where(present, wanted // length, -1)
        order = np.argsort(chunks, kind="stable")
        bounds = np.flatnonzero(np.diff(chunks[order], prepend=-1, append=-2))
        block = np.empty((length, *modality.shape), dtype=FLOAT)
        for first, last in itertools.pairwise(bounds):
            places = order[first:last]
            chunk = int(chunks[places[0]])
            if length == 1 and len(places) == 1:
                self.read_chunk(key, chunk, out[places[0]][np.newaxis])
                continue
            self.read_chunk(key, chunk, block)
            out[places] = block[wanted[places] - chunk * length]
        return out

    def read_chunk(self, key: str, chunk: int, out: np.ndarray) -> None:
        """Decode chunk number `chunk` of a modality into `out`, float32 (chunk_scans, *shape).

        Raises
        ------
        StoreError : the chunk is missing or damaged.
        """
        per_shard = self.layout(key).chunks_per_shard
        try:
            self._shard(key, chunk // per_shard).read_into(chunk % per_shard, out)
        except StoreError as problem:
            raise StoreError(
                f"{key} is damaged: {problem.what}",
                where=problem.where,
                hint=f"`brainage verify {self.path}` lists every scan that is affected",
            ) from None

    def has_chunk(self, key: str, chunk: int) -> bool:
        """Whether chunk number `chunk` of a modality is on disk; one without any scan should not be.

        Raises
        ------
        StoreError : the shard that would hold it is damaged.
        """
        per_shard = self.layout(key).chunks_per_shard
        if not (self.path / shard_key(self._modality(key), chunk // per_shard)).exists():
            return False
        return self._shard(key, chunk // per_shard).has(chunk % per_shard)

    def small_array(self, name: str) -> np.ndarray:
        """One of the arrays that are not measurements, whole; text is an array of `str` objects.

        Raises
        ------
        StoreError : it is missing or damaged.
        """
        described = self.metadata["consolidated_metadata"]["metadata"].get(name)
        if described is None:
            raise damaged_marker(self.path)
        chunk = self.path / name / ".".join(["c", *("0" for _ in described["shape"])])
        if not chunk.is_file():  # zarr would give the fill value in its stead
            raise StoreError("a file of the store is missing", where=chunk)
        try:
            array = self._group[name]
            assert isinstance(array, zarr.Array)
            values = np.asarray(array[...])
        except Exception as problem:
            raise StoreError(f"a file of the store is damaged ({problem})", where=chunk) from None
        return values if values.dtype.kind in "bif" else values.astype(object)

    def _row_numbers(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
            raise StoreError(
                f"rows of a store are wanted as {numbers.dtype} of shape {numbers.shape}",
                where=self.path,
                expected="a list of whole numbers",
                hint="np.flatnonzero makes row numbers of a mask",
            )
        strange = numbers[(numbers < 0) | (numbers >= self.n_scans)]
        if len(strange):
            raise StoreError(
                f"the store has no row {strange[0]}",
                where=self.path,
                expected=f"rows from 0 to {self.n_scans - 1}",
            )
        return numbers.astype(np.int64)

    def shard_numbers(self, key: str) -> Iterator[int]:
        """Numbers of the shards that hold at least one scan; only these have a file."""
        length = self.layout(key).shard_scans
        for number, rows in enumerate(cut(self.n_scans, length)):
            if self.present(key)[rows.start : rows.stop].any():
                yield number

    @cached_property
    def _group(self) -> zarr.Group:
        try:
            return zarr.open_group(str(self.path), mode="r", zarr_format=3, use_consolidated=True)
        except Exception:  # whatever zarr makes of metadata that is not what was written
            raise damaged_marker(self.path) from None

    def _shard(self, key: str, shard: int) -> ShardFile:
        file = self._shards.get((key, shard))
        if file is None:
            path = self.path / shard_key(self._modality(key), shard)
            file = self._shards[key, shard] = ShardFile(path, self.layout(key).chunks_per_shard)
        return file

    def _modality(self, key: str) -> Modality:
        if key not in self.modalities:
            raise StoreError(f"the store has no {key}", where=self.path, hint=nearest(key, self.modalities))
        return self.modalities[key]
