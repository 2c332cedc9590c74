from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from conversion.synthetic import (
    cohort_of,
    features,
    measurements,
    mixed_cohort,
    people,
    scaled_integers,
    small_shards,
    volume,
)

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.conversion.convert import convert, init
from hpc_brainage.errors import StoreError
from hpc_brainage.modality import ScaledIntegers, Stored
from hpc_brainage.store.marker import record_hash
from hpc_brainage.store.reader import Store
from hpc_brainage.store.statistics import Statistics


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Cohort, dict[str, np.ndarray]]:
    cohort, values = mixed_cohort()
    with small_shards():
        report = convert(cohort, tmp_path_factory.mktemp("store") / "mixed.zarr")
    return Store.open(report.store_path), cohort, values


@pytest.fixture
def copy(made: tuple[Store, Cohort, dict[str, np.ndarray]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0].path, tmp_path / "mixed.zarr"))


def rewrite_root(path: Path, **ours: object) -> None:
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["hpc_brainage"].update(ours)
    (path / "zarr.json").write_text(json.dumps(root))


def test_a_store_says_what_it_holds(made: tuple[Store, Cohort, dict[str, np.ndarray]]) -> None:
    store, cohort, _ = made
    assert store.name == "synthetic"
    assert store.n_scans == len(cohort) == 21
    assert [len(rows) for rows in store.parts()] == [4, 4, 4, 4, 4, 1]
    assert list(store.modalities) == list(cohort.sources)
    for key, source in cohort.sources.items():
        assert store.modalities[key] == source.modality
        np.testing.assert_array_equal(store.present(key), source.present)
        np.testing.assert_array_equal(store.checksums(key) != "", source.present)
    assert store.scans["participant_id"].tolist() == cohort.scans["participant_id"].tolist()
    np.testing.assert_array_equal(store.scans["age"], cohort.scans["age"])
    assert store.scans["fiq"].tolist() == cohort.scans["fiq"].tolist()


def test_rows_come_in_the_order_in_which_they_are_asked_for(
    made: tuple[Store, Cohort, dict[str, np.ndarray]],
) -> None:
    store, cohort, values = made
    for key in store.modalities:
        present = np.flatnonzero(cohort.sources[key].present)
        rng = np.random.default_rng(0)
        for rows in (
            present,
            present[::-1],
            rng.permutation(present),
            rng.choice(present, 50),
            present[:0],
        ):
            read = store.read(key, rows)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, values[key][rows])


@pytest.mark.parametrize(
    "rows",
    [range(24), range(8, 16), range(4, 21), [*range(8), 3, 0], [1, 0, *range(2, 8)], [*range(8)] * 2],
)
def test_a_whole_chunk_is_read_like_any_other_rows(tmp_path: Path, rows: Sequence[int]) -> None:
    table = features(7)
    values, present = measurements(table, 24), np.arange(24) != 13
    cohort = cohort_of(people(24), {table: values}, {table.key: present})
    with small_shards(longest=16, chunk_bytes=8 * 7 * 4):
        store = Store.open(convert(cohort, tmp_path / "chunks.zarr").store_path)
    assert store.layout(table.key).chunk_scans == 8
    expected = np.where(present[:, None], values, np.nan)[list(rows)]
    np.testing.assert_array_equal(store.read(table.key, rows), expected)


def test_an_absent_feature_table_reads_as_missing(
    made: tuple[Store, Cohort, dict[str, np.ndarray]],
) -> None:
    store, cohort, values = made
    present = cohort.sources["smri/table"].present
    expected = np.where(present[:, None], values["smri/table"], np.nan)
    np.testing.assert_array_equal(store.read("smri/table"), expected)


@pytest.mark.parametrize("key", ["smri/vbm", "smri/xhemi"])
def test_an_absent_image_is_refused_by_name(
    made: tuple[Store, Cohort, dict[str, np.ndarray]], key: str
) -> None:
    with pytest.raises(
        StoreError, match=rf"1 of 2 wanted scans have no {key}[\s\S]*sub-100000000002_ses-2"
    ):
        made[0].read(key, [0, 5])


@pytest.fixture(scope="module", params=["float32", "int16"])
def turned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, np.ndarray]:
    """A store of volumes that lie as "zyx", and their values (5, 3, 4, 5)."""
    kept = scaled_integers(volume(), 5) if request.param == "int16" else list(measurements(volume(), 5))
    cohort = cohort_of(people(5), {volume(): kept}, stored={"smri/vbm": Stored(request.param, "zyx")})
    store = Store.open(convert(cohort, tmp_path_factory.mktemp("turned") / "t.zarr").store_path)
    return store, np.stack([cohort.sources["smri/vbm"].values(row) for row in range(5)])


def test_a_volume_is_read_in_the_memory_order_in_which_it_lies(
    made: tuple[Store, Cohort, dict[str, np.ndarray]], turned: tuple[Store, np.ndarray]
) -> None:
    for store, turn in ((made[0], (0, 1, 2, 3)), (turned[0], (0, 3, 2, 1))):
        two = np.flatnonzero(store.present("smri/vbm"))[:2]
        for read in (store.read("smri/vbm", two), store.empty("smri/vbm", 2)):
            assert read.shape == (2, 3, 4, 5)
            assert read.transpose(turn).flags.c_contiguous
    np.testing.assert_array_equal(turned[0].read("smri/vbm"), turned[1])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("order", ["C", "F", "as kept", "strided"])
def test_one_buffer_takes_one_batch_after_the_other_in_whatever_memory_order(
    turned: tuple[Store, np.ndarray], order: str, threads: int
) -> None:
    store, values = turned
    room = {
        "C": np.empty((3, 3, 4, 5), np.float32),
        "F": np.empty((3, 3, 4, 5), np.float32, order="F"),
        "as kept": store.empty("smri/vbm", 3),
        "strided": np.empty((6, 3, 4, 10), np.float32)[::2, :, :, ::2],
    }[order]
    for rows in ([4, 0, 2], [1, 1, 3], [0, 1, 2]):
        room[...] = np.nan
        store.read_into("smri/vbm", rows, room, threads=threads)
        np.testing.assert_array_equal(room, values[rows])


def test_features_are_read_into_one_buffer_too(made: tuple[Store, Cohort, dict[str, np.ndarray]]) -> None:
    store, cohort, values = made
    present, room = cohort.sources["smri/table"].present, store.empty("smri/table", 4)
    for rows in ([3, 9, 20, 5], [5, 0, 1, 5]):
        store.read_into("smri/table", rows, room)
        expected = np.where(present[rows, None], values["smri/table"][rows], np.nan)
        np.testing.assert_array_equal(room, expected)


@pytest.mark.parametrize(
    "room", [np.empty((2, 3, 4, 5), np.float32), np.empty((3, 5, 4, 3), np.float32), np.empty((3, 3, 4, 5))]
)
def test_a_buffer_that_does_not_fit_is_refused(turned: tuple[Store, np.ndarray], room: np.ndarray) -> None:
    with pytest.raises(StoreError, match=r"do not fit[\s\S]*float32 of shape \(3, 3, 4, 5\)"):
        turned[0].read_into("smri/vbm", [0, 1, 2], room)


def test_a_scan_that_is_damaged_fails_a_batch_that_threads_read(
    turned: tuple[Store, np.ndarray], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(turned[0].path, tmp_path / "damaged.zarr"))
    shard = path / "smri_vbm" / "c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    content[30] ^= 1
    shard.write_bytes(content)
    store = Store.open(path)
    with pytest.raises(StoreError, match="smri/vbm is damaged"):
        store.read_into("smri/vbm", [3, 0, 2], store.empty("smri/vbm", 3), threads=2)
    np.testing.assert_array_equal(store.read("smri/vbm", [3, 2]), turned[1][[3, 2]])


def test_an_image_comes_as_it_is_kept_with_its_scale(turned: tuple[Store, np.ndarray]) -> None:
    store, values = turned
    for row in range(5):
        kept = store.as_kept("smri/vbm", row)
        if store.encoding("smri/vbm").is_scaled:
            assert isinstance(kept, ScaledIntegers)
            assert kept.integers.dtype == np.int16
            assert [kept.slope, kept.offset] == store.scales("smri/vbm")[row].tolist()
            kept = kept.values()
        np.testing.assert_array_equal(kept, values[row])


def test_an_image_of_zeros_is_present(made: tuple[Store, Cohort, dict[str, np.ndarray]]) -> None:
    store, _, _ = made
    assert store.present("smri/vbm")[0]
    assert not store.read("smri/vbm", [0]).any()


def test_statistics_are_those_of_the_present_scans(
    made: tuple[Store, Cohort, dict[str, np.ndarray]],
) -> None:
    store, cohort, values = made
    found = store.statistics("smri/table")
    expected = Statistics.of_features(values["smri/table"][cohort.sources["smri/table"].present])
    np.testing.assert_array_equal(found.count, expected.count)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-10)
    voxels = values["smri/vbm"][cohort.sources["smri/vbm"].present].astype(np.float64)
    assert store.statistics("smri/vbm").count == voxels.size
    np.testing.assert_allclose(store.statistics("smri/vbm").mean, voxels.mean(), rtol=1e-12)


def test_an_unknown_modality_is_answered_with_the_nearest(
    made: tuple[Store, Cohort, dict[str, np.ndarray]],
) -> None:
    with pytest.raises(StoreError, match="did you mean 'smri/table'"):
        made[0].read("smri/tabel")


def test_xarray_opens_it_and_reads_the_same_values(
    made: tuple[Store, Cohort, dict[str, np.ndarray]],
) -> None:
    store, cohort, values = made
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xarray.open_zarr(store.path, chunks=None)
    assert dict(data.sizes)["scan"] == 21
    assert data["smri_vbm"].dims == ("scan", "smri_vbm_x", "smri_vbm_y", "smri_vbm_z")
    assert data["smri_table"].dims == ("scan", "smri_table_feature")
    assert data["smri_xhemi"].dims == ("scan", "smri_xhemi_channel", "smri_xhemi_vertex")
    assert data["smri_vbm"].attrs["affine"][0] == [2.0, 0.0, 0.0, -90.0]
    for key, source in cohort.sources.items():
        rows = source.present
        np.testing.assert_array_equal(data[source.modality.array_name].values[rows], values[key][rows])
    one = data.isel(scan=data["smri_table_present"].values).sel(smri_table_feature="region 3")
    np.testing.assert_array_equal(
        one["smri_table"].values, values["smri/table"][cohort.sources["smri/table"].present, 3]
    )
    assert data["participant_id"].values.tolist() == cohort.scans["participant_id"].tolist()


def test_nothing_of_this_machine_is_in_the_metadata(
    made: tuple[Store, Cohort, dict[str, np.ndarray]],
) -> None:
    import socket

    text = (made[0].path / "zarr.json").read_text()
    for private in (str(made[0].path.parent), str(Path.home()), socket.gethostname(), "/private"):
        assert len(private) < 4 or private not in text


def test_a_path_without_anything_is_answered_with_the_stores_beside_it(copy: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store here[\s\S]*mixed\.zarr"):
        Store.open(copy.with_name("mixd.zarr"))


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n")
    with pytest.raises(StoreError, match="a store is a folder"):
        Store.open(tmp_path / "table.csv")


def test_a_folder_of_something_else_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(StoreError, match="not a Zarr store"):
        Store.open(tmp_path)


def test_a_zarr_store_of_somebody_else_is_not_ours(tmp_path: Path) -> None:
    zarr.create_group(str(tmp_path / "theirs.zarr"), attributes={"title": "weather"})
    with pytest.raises(StoreError, match="not one of scans"):
        Store.open(tmp_path / "theirs.zarr")


def test_a_newer_format_version_is_named(copy: Path) -> None:
    rewrite_root(copy, format_version=2)
    with pytest.raises(StoreError, match=r"format version 2[\s\S]*version 1 or older"):
        Store.open(copy)


def test_an_unfinished_store_says_how_to_go_on(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    build = init(cohort, tmp_path / "begun.zarr")
    with pytest.raises(StoreError, match=r"has not finished[\s\S]*same `brainage convert` command again"):
        Store.open(build.place)


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"attributes": 3}', "\x00"])
def test_a_root_that_is_not_ours_any_more_is_an_error_and_no_traceback(copy: Path, content: str) -> None:
    (copy / "zarr.json").write_text(content)
    with pytest.raises(StoreError):
        Store.open(copy)


def test_a_changed_root_is_damaged(copy: Path) -> None:
    rewrite_root(copy, n_scans=20)
    with pytest.raises(StoreError, match="description of the store is damaged"):
        Store.open(copy)


def changed(root: dict[str, Any], *keys: str | int, value: object) -> None:
    for key in keys[:-1]:
        root = root[key]
    root[keys[-1]] = value


OURS = ("attributes", "hpc_brainage")
TABLE = (*OURS, "modalities", "smri/table")
VBM = (*OURS, "modalities", "smri/vbm")
ARRAYS = ("consolidated_metadata", "metadata")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ((*OURS, "n_scans"), -1),
        ((*OURS, "n_scans"), "21"),
        ((*OURS, "n_scans"), True),
        ((*OURS, "n_scans"), 20),
        ((*OURS, "n_scans"), 10**18),
        ((*OURS, "part_scans"), 0),
        ((*OURS, "part_scans"), 3),
        ((*OURS, "part_scans"), None),
        ((*OURS, "part_scans"), 2),
        ((*OURS, "part_scans"), 1 << 40),
        ((*OURS, "format_version"), True),
        ((*OURS, "format_version"), 0),
        ((*OURS, "name"), 3),
        ((*OURS, "content_sha256"), None),
        ((*OURS, "columns"), ["participant_id"]),
        ((*OURS, "columns"), {}),
        ((*OURS, "columns", "extra_fiq"), 5),
        ((*OURS, "columns", "../../elsewhere"), "x"),
        ((*OURS, "modalities"), {}),
        ((*OURS, "modalities"), []),
        ((*OURS, "account"), None),
        (TABLE, None),
        ((*TABLE, "chunk_scans"), 0),
        ((*TABLE, "chunk_scans"), 8),
        ((*TABLE, "chunk_scans"), 2.0),
        ((*TABLE, "shard_scans"), 0),
        ((*TABLE, "shard_scans"), "4"),
        ((*TABLE, "shape"), [0]),
        ((*TABLE, "shape"), [7, 1]),
        ((*TABLE, "shape"), 7),
        ((*TABLE, "shape"), [8]),
        ((*TABLE, "kind"), "volume"),
        ((*TABLE, "kind"), ["features"]),
        ((*TABLE, "role"), "pet"),
        ((*TABLE, "name"), "../x"),
        ((*TABLE, "array"), "age"),
        ((*TABLE, "present"), "all"),
        ((*TABLE, "numbers"), "int16"),
        ((*TABLE, "axes"), "zyx"),
        ((*TABLE, "compression"), "gzip"),
        ((*VBM, "numbers"), "object"),
        ((*VBM, "axes"), "yxz"),
        ((*VBM, "compression"), None),
        ((*OURS, "checksum"), "md5"),
        ((*VBM, "shape"), [3, 4, -5]),
        ((*VBM, "shape"), [10**5, 10**5, 10**5]),
        ((*ARRAYS,), []),
        ((*ARRAYS, "smri_vbm", "shape"), [10**9, 3, 4, 5]),
        ((*ARRAYS, "age"), None),
        ((*ARRAYS, "age", "shape"), [-1]),
    ],
)
def test_a_description_that_cannot_be_right_is_an_error_of_ours(
    copy: Path, keys: tuple[str, ...], value: object
) -> None:
    root = json.loads((copy / "zarr.json").read_text())
    changed(root, *keys, value=value)
    root["attributes"]["hpc_brainage"]["record_sha256"] = record_hash(root)
    (copy / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="description of the store is damaged"):
        Store.open(copy)


def test_a_volume_too_large_for_any_chunk_is_refused_though_everything_agrees(copy: Path) -> None:
    root = json.loads((copy / "zarr.json").read_text())
    changed(root, *VBM, "shape", value=[2048, 2048, 2048])
    changed(root, *ARRAYS, "smri_vbm", "shape", value=[21, 2048, 2048, 2048])
    root["attributes"]["hpc_brainage"]["record_sha256"] = record_hash(root)
    (copy / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match=r"smri/vbm: 1 scans of shape .* too large for a chunk"):
        Store.open(copy)


@pytest.mark.parametrize("entry", ["affine", "units"])
def test_a_modality_that_is_half_described_is_an_error_of_ours(copy: Path, entry: str) -> None:
    root = json.loads((copy / "zarr.json").read_text())
    del root["attributes"]["hpc_brainage"]["modalities"]["smri/vbm"][entry]
    root["attributes"]["hpc_brainage"]["record_sha256"] = record_hash(root)
    (copy / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="smri/vbm: an entry is missing"):
        _ = Store.open(copy).modalities


@pytest.mark.parametrize("rows", [[21], [-1], [0.5], [True, False], [[0, 1]], ["0"], 3])
def test_rows_that_a_store_does_not_have_are_an_error_of_ours(
    made: tuple[Store, Cohort, dict[str, np.ndarray]], rows: Any
) -> None:
    with pytest.raises(StoreError, match=r"rows? "):
        made[0].read("smri/table", rows)


def test_a_missing_small_array_is_an_error_and_not_the_fill_value(copy: Path) -> None:
    (copy / "age" / "c.0").unlink()
    with pytest.raises(StoreError, match=re.escape(str(Path("age") / "c.0"))):
        _ = Store.open(copy).scans


def test_a_damaged_chunk_names_the_modality_and_what_to_do(copy: Path) -> None:
    shard = next((copy / "smri_table").glob("c.*"))
    content = bytearray(shard.read_bytes())
    content[20] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=r"smri/table is damaged[\s\S]*brainage verify"):
        Store.open(copy).read("smri/table")


def test_an_image_that_a_scan_lacks_may_be_read_as_a_value(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort(seed=0)
    store = Store.open(convert(cohort, tmp_path / "mixed.zarr").store_path)
    key, rows = "smri/vbm", np.arange(store.n_scans)[::-1]
    present = store.present(key)[rows]
    assert not present.all()
    with pytest.raises(StoreError, match="have no smri/vbm"):
        store.read_into(key, rows, store.empty(key, len(rows)))
    out = store.empty(key, len(rows))
    store.read_into(key, rows, out, absent=-1.0, threads=2)
    assert (out[~present] == -1).all()
    np.testing.assert_array_equal(out[present], store.read(key, rows[present]))


@pytest.mark.timeout(60)
def test_a_forked_process_reads_with_threads_of_its_own(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort(seed=0)
    store = Store.open(convert(cohort, tmp_path / "mixed.zarr").store_path)
    key, rows = "smri/vbm", np.flatnonzero(store.present("smri/vbm"))
    store.read_into(key, rows, store.empty(key, len(rows)), threads=2)
    child = os.fork()
    if not child:
        done = 1
        try:
            store.read_into(key, rows, store.empty(key, len(rows)), threads=2)
            done = 0
        finally:
            os._exit(done)
    assert os.waitpid(child, 0)[1] == 0
    pickle.loads(pickle.dumps(store))
