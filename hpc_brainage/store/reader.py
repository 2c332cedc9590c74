"""Reading a finished store.

Measurements are read chunk by chunk, each chunk once however many of its rows are wanted and in
whatever order: picking random rows through zarr's own indexing takes several times as long.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from hpc_brainage.errors import StoreError, UsageError, nearest
from hpc_brainage.modality import Modality, ScaledIntegers
from hpc_brainage.scans import IDENTITY, scan_names
from hpc_brainage.store.marker import MARKER, damaged_marker, read_marker, read_record
from hpc_brainage.store.packed import unpacks_to_its_size
from hpc_brainage.store.people import Column, table_of
from hpc_brainage.store.place import Place, place_at
from hpc_brainage.store.schema import (
    ATTRIBUTE,
    FASTEST_FIRST,
    STATISTICS,
    Encoding,
    Layout,
    cut,
    shard_key,
    small_array_key,
)
from hpc_brainage.store.shards import FLOAT, ShardFile
from hpc_brainage.store.statistics import Statistics
from hpc_brainage.store.survey import scale_into


class Store:
    """A finished store, opened for reading with `Store.open`."""

    def __init__(self, place: Place, root: dict[str, Any], small_arrays: Place | None = None) -> None:
        """`small_arrays` is where all but the measurements is read, if that is not `place`."""
        self.place = place
        self.metadata = root
        self._small_arrays = small_arrays or place
        self._shards: dict[tuple[str, int], ShardFile] = {}
        self._present: dict[str, np.ndarray] = {}
        self._scales: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, where: Place | Path | str) -> Store:
        """Open the store at a path, or at the URL of an object store (see `place_at`).

        Raises
        ------
        StoreError : nothing there, not a store, not ours, unfinished, damaged, or of a newer format.
        """
        place = place_at(where)
        return cls(place, read_marker(place))

    @property
    def path(self) -> Path | str:
        """Where the store is, as messages call it; `Store.open` takes it."""
        return self.place.label

    @property
    def is_current(self) -> bool:
        """Whether its description is still the one that it was opened with."""
        try:
            return bool(read_record(self._small_arrays, MARKER) == self.metadata)
        except StoreError:
            return False

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

    @cached_property
    def identities(self) -> list[tuple[str, str, str]]:
        """Participant, session and run of each scan."""
        participants, sessions, runs = (self.small_array(name).tolist() for name in IDENTITY)
        return list(zip(participants, sessions, runs, strict=True))

    def present(self, key: str) -> np.ndarray:
        """Which scans have the modality: bool (scans,), not to be written to."""
        if key not in self._present:
            present = self.small_array(f"{self._modality(key).array_name}_present")
            present.flags.writeable = False
            self._present[key] = present
        return self._present[key]

    def checksums(self, key: str) -> np.ndarray:
        """Checksum of each scan's numbers as they are kept, text (scans,); "" where absent."""
        return self.small_array(f"{self._modality(key).array_name}_checksum")

    def scales(self, key: str) -> np.ndarray:
        """Slope and offset of each scan's integers, float64 (scans, 2); 1 and 0 where there are none.

        Raises
        ------
        StoreError : they are missing or damaged, or nothing can be scaled by them.
        """
        if key not in self._scales:
            scales = np.tile([1.0, 0.0], (self.n_scans, 1))
            if self.encoding(key).is_scaled:
                name = self._modality(key).array_name
                scales = np.stack([self.small_array(f"{name}_{of}") for of in ("slope", "offset")], axis=1)
                if not (np.isfinite(scales).all() and scales[:, 0].all()):
                    raise StoreError(f"{key} is damaged: a slope is 0, or no number", where=self.path)
            self._scales[key] = scales
        return self._scales[key]

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

    def encoding(self, key: str) -> Encoding:
        """How the numbers of a modality became bytes."""
        self._modality(key)
        return Encoding.from_record(self.attributes["modalities"][key])

    def read(self, key: str, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Measurements of `rows` (all, if not given) in that order, float32 (rows, *shape).

        Rows may repeat. A scan without this modality is NaN throughout if it is a feature table. Volumes
        that are kept as "zyx" come in that memory order.

        Raises
        ------
        StoreError : there is no such modality; the rows are not numbers of scans; a row has no such
            image (an image has no value that could stand for absent); or what is on disk is damaged.
        """
        wanted = np.arange(self.n_scans) if rows is None else self._row_numbers(rows)
        out = self.empty(key, len(wanted))
        self.read_into(key, wanted, out)
        return out

    def empty(self, key: str, count: int) -> np.ndarray:
        """Room for `count` scans, float32 (count, *shape), in the memory order that is read fastest."""
        shape = self._modality(key).shape
        if self.encoding(key).stored.axes == "zyx":
            return np.empty((count, *shape[::-1]), FLOAT).transpose(FASTEST_FIRST)
        return np.empty((count, *shape), FLOAT)

    def read_into(
        self,
        key: str,
        rows: Sequence[int] | np.ndarray,
        out: np.ndarray,
        *,
        absent: float | None = None,
        threads: int = 1,
    ) -> None:
        """Read `rows` into `out`, float32 (rows, *shape), such as `empty` made; it can be used again.

        Parameters
        ----------
        absent : what stands where a scan has no such image; an error if not given.
        threads : that read images at once.

        Raises
        ------
        StoreError : as `read`; or `out` has another shape or type.
        """
        modality, wanted = self._modality(key), self._row_numbers(rows)
        if out.shape != (len(wanted), *modality.shape) or out.dtype != FLOAT:
            raise StoreError(
                f"{len(wanted)} scans of {key} do not fit into {out.dtype} of shape {out.shape}",
                where=self.path,
                expected=f"float32 of shape {(len(wanted), *modality.shape)}",
            )
        present = self.present(key)[wanted]
        if modality.kind == "features":
            self._read_features(key, wanted, present, out)
            return
        if absent is None and not present.all():
            lacking = self.scans.iloc[wanted[~present]]
            raise StoreError(
                f"{len(lacking)} of {len(wanted)} wanted scans have no {key}",
                where=f"{self.path}: {', '.join(scan_names(lacking.head(5)))}",
                hint="ask for present scans only",
            )
        places = np.flatnonzero(present)
        for place in np.flatnonzero(~present):
            out[place] = absent
        self.scales(key)  # read once, before several threads ask for it
        if threads == 1 or len(places) < 2:
            for place in places:
                self.read_image(key, int(wanted[place]), out[place])
            return
        readers = _readers(threads, os.getpid())
        there = [out[place] for place in places]
        list(readers.map(self.read_image, itertools.repeat(key), wanted[places].tolist(), there))

    def read_image(self, key: str, row: int, out: np.ndarray) -> None:
        """Read one volume or surface into `out`, float32 of its shape, in any memory order.

        Raises
        ------
        StoreError : it is missing or damaged.
        """
        encoding = self.encoding(key)
        as_kept = out.transpose(2, 1, 0) if encoding.stored.axes == "zyx" else out
        if encoding.is_scaled:
            numbers = _scratch_for(as_kept.shape, encoding.stored.dtype)
            self.read_chunk(key, row, numbers)
            slope, offset = self.scales(key)[row]
            scale_into(numbers, slope, offset, as_kept)
        elif as_kept.flags.c_contiguous:
            self.read_chunk(key, row, as_kept)
        else:
            numbers = _scratch_for(as_kept.shape, FLOAT)
            self.read_chunk(key, row, numbers)
            as_kept[...] = numbers

    def as_kept(self, key: str, row: int) -> np.ndarray | ScaledIntegers:
        """One image with the numbers that are kept, in their memory order; its axes are those of its shape.

        Raises
        ------
        StoreError : it is missing or damaged.
        """
        encoding, numbers = self.encoding(key), self.numbers(key, row)
        image = numbers.transpose(2, 1, 0) if encoding.stored.axes == "zyx" else numbers
        if not encoding.is_scaled:
            return image
        slope, offset = self.scales(key)[row].tolist()
        return ScaledIntegers(image, slope, offset)

    def numbers(self, key: str, row: int) -> np.ndarray:
        """The numbers of one image as they lie on the disk, C-contiguous, its axes in that order.

        Raises
        ------
        StoreError : it is missing or damaged.
        """
        encoding, shape = self.encoding(key), self._modality(key).shape
        turned = encoding.stored.axes == "zyx"
        numbers = np.empty(shape[::-1] if turned else shape, encoding.stored.dtype)
        self.read_chunk(key, row, numbers)
        return numbers

    def _read_features(self, key: str, wanted: np.ndarray, present: np.ndarray, out: np.ndarray) -> None:
        length = self.layout(key).chunk_scans
        if not present.all():
            out[~present] = np.nan
        chunks = np.where(present, wanted // length, -1)
        order = np.argsort(chunks, kind="stable")
        bounds = np.flatnonzero(np.diff(chunks[order], prepend=-1, append=-2))
        block = np.empty((length, *out.shape[1:]), dtype=FLOAT)
        for first, last in itertools.pairwise(bounds):
            places = order[first:last]
            chunk = int(chunks[places[0]])
            within = wanted[places] - chunk * length
            neighbours = places[-1] - places[0] + 1 == len(places) == length
            if neighbours and out.flags.c_contiguous and np.array_equal(within, np.arange(length)):
                self.read_chunk(key, chunk, out[places[0] : places[-1] + 1])  # the very chunk, as it is
                continue
            self.read_chunk(key, chunk, block)
            out[places] = block[within]

    def read_chunk(self, key: str, chunk: int, out: np.ndarray) -> None:
        """Decode chunk number `chunk` of a modality into `out`, the numbers as they are kept.

        Parameters
        ----------
        out : C-contiguous, of the type that is kept: (chunk_scans, features), or one image with its axes
            in the order in which they are kept.

        Raises
        ------
        StoreError : the chunk is missing or damaged.
        """
        per_shard = self.layout(key).chunks_per_shard
        try:
            try:
                self._shard(key, chunk // per_shard).read_into(chunk % per_shard, out)
            except StoreError:  # scans may have been added to the shard since its index was read
                self._shards.pop((key, chunk // per_shard), None)
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
        if not self.place.has(shard_key(self._modality(key), chunk // per_shard)):
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
        key = small_array_key(name, described)
        chunk = self._small_arrays.file(key)
        try:
            content = {
                f"{name}/{MARKER}": json.dumps(described).encode(),
                key: self._small_arrays.read(key),
            }
        except FileNotFoundError:  # zarr would give the fill value in its stead
            raise StoreError("a file of the store is missing", where=chunk) from None
        except OSError as problem:
            raise StoreError(
                f"a file of the store cannot be read ({problem.strerror or problem})", where=chunk
            ) from None
        if not unpacks_to_its_size(content[key], described):
            raise StoreError("a file of the store is damaged (it is of another size)", where=chunk)
        try:
            held = MemoryStore({at: cpu.Buffer.from_bytes(of) for at, of in content.items()})
            values = np.asarray(zarr.open_array(held, path=name, mode="r", zarr_format=3)[...])
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

    def files(self) -> set[str]:
        """The keys of all files that belong to the store as it is described."""
        described = self.metadata["consolidated_metadata"]["metadata"]
        data = {modality.array_name: modality for modality in self.modalities.values()}
        files = {MARKER} | {f"{name}/{MARKER}" for name in described}
        for name, metadata in described.items():
            if name in data:
                numbers = self.shard_numbers(data[name].key)
                files |= {shard_key(data[name], number) for number in numbers}
            else:
                files.add(small_array_key(name, metadata))
        return files

    def shard_numbers(self, key: str) -> Iterator[int]:
        """Numbers of the shards that hold at least one scan; only these have a file."""
        length = self.layout(key).shard_scans
        for number, rows in enumerate(cut(self.n_scans, length)):
            if self.present(key)[rows.start : rows.stop].any():
                yield number

    def _shard(self, key: str, shard: int) -> ShardFile:
        file = self._shards.get((key, shard))
        if file is None:
            name = shard_key(self._modality(key), shard)
            layout, encoding = self.layout(key), self.encoding(key)
            file = ShardFile(self.place, name, layout.chunks_per_shard, encoding)
            self._shards[key, shard] = file
        return file

    def _modality(self, key: str) -> Modality:
        if key not in self.modalities:
            raise StoreError(f"the store has no {key}", where=self.path, hint=nearest(key, self.modalities))
        return self.modalities[key]


_scratch = threading.local()


@lru_cache
def _readers(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay: to start them takes as long as to read. A forked process needs its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="images")


def _scratch_for(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Room for one image, each thread's own, made anew only where another shape is wanted."""
    held: np.ndarray | None = getattr(_scratch, "held", None)
    if held is None or held.shape != shape or held.dtype != dtype:
        held = _scratch.held = np.empty(shape, dtype)
    return held
