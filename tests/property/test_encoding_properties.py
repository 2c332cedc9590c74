"""What is written comes back, however its numbers are kept: by our reader, by zarr-python and by xarray."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from conversion.synthetic import cohort_of, people, small_shards, volume, without_flushing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.conversion.convert import convert
from hpc_brainage.modality import AXES, NUMBERS, Modality, ScaledIntegers, Stored
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import COMPRESSIONS
from hpc_brainage.store.verify import verify

sizes = st.integers(1, 5)
numbers_kept = st.sampled_from(NUMBERS)
in_float32 = st.floats(-(2.0**60), 2.0**60, width=32)
slopes = st.one_of(st.just(1.0), st.floats(-1e6, 1e6).filter(lambda slope: abs(slope) > 1e-30))
offsets = st.one_of(st.just(0.0), st.floats(-1e6, 1e6))


@dataclass(frozen=True)
class Images:
    """A modality, how it is kept, and what a reader gives for each of its scans."""

    modality: Modality
    stored: Stored
    loaded: list[np.ndarray | ScaledIntegers]
    present: np.ndarray

    @property
    def cohort(self) -> Cohort:
        key = self.modality.key
        return cohort_of(
            people(len(self.loaded)),
            {self.modality: self.loaded},
            {key: self.present},
            stored={key: self.stored},
        )

    def values(self, row: int) -> np.ndarray:
        loaded = self.loaded[row]
        return loaded.values() if isinstance(loaded, ScaledIntegers) else loaded


@st.composite
def images(draw: st.DrawFn) -> Images:
    shape = draw(st.tuples(sizes, sizes, sizes))
    stored = Stored(draw(numbers_kept), draw(st.sampled_from(AXES)))
    n = draw(st.integers(1, 8))
    elements = in_float32 if stored.numbers == "float32" else None
    kept = draw(hnp.arrays(stored.numbers, (n, *shape), elements=elements))
    order = draw(st.sampled_from("CF"))  # the memory order in which a reader happens to have an image
    loaded: list[np.ndarray | ScaledIntegers] = []
    for image in kept:
        lies = np.asarray(image, order=order)
        is_float = stored.numbers == "float32"
        loaded.append(lies if is_float else ScaledIntegers(lies, draw(slopes), draw(offsets)))
    return Images(volume(shape), stored, loaded, draw(hnp.arrays(bool, n)))


@settings(deadline=None, max_examples=40)
@given(
    images=images(),
    compression=st.sampled_from(COMPRESSIONS),
    longest=st.sampled_from([1, 2, 4]),
    data=st.data(),
)
def test_images_come_back_as_they_were_however_they_are_kept(
    images: Images, compression: str, longest: int, data: st.DataObject
) -> None:
    key, has = images.modality.key, np.flatnonzero(images.present)
    with tempfile.TemporaryDirectory() as folder, small_shards(longest), without_flushing():
        path = convert(images.cohort, Path(folder) / "any.zarr", compression=compression).store_path
        assert verify(path) == []
        store = Store.open(path)
        assert store.encoding(key).stored == images.stored
        assert store.encoding(key).compression == compression
        np.testing.assert_array_equal(store.present(key), images.present)

        rows = np.array(
            data.draw(st.lists(st.sampled_from(has), max_size=9)) if len(has) else [], dtype=int
        )
        expected = np.array([images.values(row) for row in rows], np.float32)
        expected = expected.reshape(len(rows), *images.modality.shape)
        read = store.read(key, rows)
        same_to_the_last_bit(read, expected)
        kept_order = (0, 3, 2, 1) if images.stored.axes == "zyx" else (0, 1, 2, 3)
        assert read.transpose(kept_order).flags.c_contiguous

        room = np.full(read.shape, np.nan, np.float32, order=data.draw(st.sampled_from("CF")))
        for wanted in (rows, rows[::-1]):
            store.read_into(key, wanted, room, threads=data.draw(st.sampled_from([1, 2])))
            same_to_the_last_bit(room, expected if wanted is rows else expected[::-1])

        as_zarr_reads_it(path, images, has)
        as_xarray_reads_it(path, images, has)
        statistics_are_those_of_one_pass(store, images, has)


def same_to_the_last_bit(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal, and a zero has the sign that it had."""
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(
        np.ascontiguousarray(found).view(np.int32), np.ascontiguousarray(expected).view(np.int32)
    )


def as_zarr_reads_it(path: Path, images: Images, has: np.ndarray) -> None:
    group = zarr.open_group(str(path), mode="r")
    raw = group["smri_vbm"]
    assert isinstance(raw, zarr.Array)
    assert raw.dtype == images.stored.numbers
    numbers = np.asarray(raw[...])
    for row in has:
        loaded = images.loaded[row]
        kept = loaded.integers if isinstance(loaded, ScaledIntegers) else loaded
        np.testing.assert_array_equal(numbers[row], kept)
    if images.stored.numbers != "float32":
        scales = np.stack([np.asarray(group[f"smri_vbm_{of}"][...]) for of in ("slope", "offset")])
        for row in has:
            same_to_the_last_bit(
                ScaledIntegers(numbers[row], *scales[:, row].tolist()).values(), images.values(row)
            )


def as_xarray_reads_it(path: Path, images: Images, has: np.ndarray) -> None:
    """As the documentation says that anybody may scale integers."""
    with xarray.open_zarr(path, chunks=None) as data:
        for row in has:
            one = data.isel(scan=row)
            values = one["smri_vbm"].values.astype("float32")
            if images.stored.numbers != "float32":
                slope, offset = np.float32(one["smri_vbm_slope"]), np.float32(one["smri_vbm_offset"])
                values = values * slope + offset
            np.testing.assert_array_equal(values, images.values(row))


def statistics_are_those_of_one_pass(store: Store, images: Images, has: np.ndarray) -> None:
    """Merged over all images; values of integers before their rounding to float32."""
    found = store.statistics(images.modality.key)
    assert found.count == len(has) * np.prod(images.modality.shape)
    if not len(has):
        assert np.isnan([found.mean, found.min, found.max]).all()
        return
    exact = np.stack([in_float64(images.loaded[row]) for row in has])
    values = np.stack([images.values(row) for row in has])
    assert (found.min, found.max) == (values.min(), values.max())
    largest = np.abs(exact).max()
    assert found.mean == pytest.approx(exact.mean(), rel=1e-12, abs=1e-13 * largest)
    m2 = ((exact - exact.mean()) ** 2).sum()
    assert found.m2 == pytest.approx(m2, rel=1e-11, abs=1e-22 * exact.size * largest**2)


def in_float64(loaded: np.ndarray | ScaledIntegers) -> np.ndarray:
    if not isinstance(loaded, ScaledIntegers):
        return loaded.astype(np.float64)
    slope, offset = float(np.float32(loaded.slope)), float(np.float32(loaded.offset))
    return slope * loaded.integers.astype(np.float64) + offset


@settings(deadline=None, max_examples=20)
@given(images=images())
def test_integers_are_widened_where_a_store_keeps_float32(images: Images) -> None:
    key, has = images.modality.key, np.flatnonzero(images.present)
    widened = Images(images.modality, Stored("float32", images.stored.axes), images.loaded, images.present)
    with tempfile.TemporaryDirectory() as folder, small_shards(), without_flushing():
        store = Store.open(convert(widened.cohort, Path(folder) / "any.zarr").store_path)
        assert not store.encoding(key).is_scaled
        for row in has:
            same_to_the_last_bit(store.read(key, [row])[0], images.values(row))
