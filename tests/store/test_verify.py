from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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

from hpc_brainage.conversion.append import append
from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import StoreError
from hpc_brainage.modality import Stored
from hpc_brainage.scans import scan_names
from hpc_brainage.store.inspect import describe
from hpc_brainage.store.marker import record_hash
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import Encoding, cut, fill_value, shard_key
from hpc_brainage.store.shards import encode_chunk, shard_pieces
from hpc_brainage.store.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with small_shards():
        return convert(mixed_cohort()[0], tmp_path_factory.mktemp("verify") / "mixed.zarr").store_path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "mixed.zarr"))


def put_shard(path: Path, chunks: list[np.ndarray | None], encoding: Encoding) -> None:
    """Replace a shard by one of other chunks that is as whole as any."""
    encoded = [None if chunk is None else encode_chunk(chunk, encoding) for chunk in chunks]
    path.write_bytes(b"".join(shard_pieces(encoded, encoding)))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x04
    path.write_bytes(content)


def test_a_whole_store_is_proven_with_progress(store: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(store, lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (63, 63)
    assert seen == sorted(seen)


def test_a_flipped_byte_in_a_volume_names_that_scan_and_modality(store: Path) -> None:
    row = int(np.flatnonzero(Store.open(store).present("smri/vbm"))[-1])
    name = scan_names(Store.open(store).scans)[row]
    flip(store / "smri_vbm" / f"c.{row // 4}.0.0.0", -200)
    damage = verify(store)
    assert [(found.key, found.scans) for found in damage] == [("smri/vbm", (name,))]


def test_a_flipped_byte_in_features_names_every_scan_of_the_chunk(store: Path) -> None:
    opened = Store.open(store)
    first = [row for row in range(2) if opened.present("smri/table")[row]]
    flip(store / "smri_table" / "c.0.0", 30)
    (damage,) = verify(store)
    names = scan_names(opened.scans)
    assert opened.layout("smri/table").chunk_scans == 2
    assert damage.key == "smri/table"
    assert damage.scans == tuple(names[row] for row in first)


def test_values_that_were_replaced_with_valid_ones_are_noticed(store: Path) -> None:
    opened = Store.open(store)
    ones = np.ones((1, 3, 4, 5), np.float32)
    put_shard(store / "smri_vbm" / "c.0.0.0.0", [ones] * 4, opened.encoding("smri/vbm"))
    damage = verify(store)
    present = [
        n for n, has in zip(scan_names(opened.scans)[:4], opened.present("smri/vbm"), strict=False) if has
    ]
    assert [found.scans for found in damage if "checksum" in found.problem] == [(n,) for n in present]
    assert any("mean is not that of the data" in found.problem for found in damage)


def test_a_flipped_byte_in_any_file_is_found(tmp_path: Path) -> None:
    cohort = cohort_of(people(5), {features(3): measurements(features(3), 5)})
    with small_shards():
        made = convert(cohort, tmp_path / "made.zarr").store_path
    store = Path(shutil.copytree(made, tmp_path / "damaged.zarr"))
    rng = np.random.default_rng(0)
    for file in sorted(path for path in made.rglob("*") if path.is_file()):
        copy = store / file.relative_to(made)
        position = int(rng.integers(file.stat().st_size))
        flip(copy, position)
        try:
            found = bool(verify(store))
        except StoreError:
            found = True
        if file.name == "zarr.json":  # a changed blank changes nothing
            try:
                found |= json.loads(copy.read_text()) == json.loads(file.read_text())
            except ValueError:
                found |= False
        assert found, (file, position)
        shutil.copyfile(file, copy)
    assert verify(store) == []


@pytest.mark.parametrize(
    ("stored", "compression"),
    [(Stored("float32", "zyx"), "lz4"), (Stored("int16", "zyx"), "zstd"), (Stored("uint8"), "none")],
)
def test_a_flipped_byte_of_an_image_or_its_scale_is_found_however_it_is_kept(
    tmp_path: Path, stored: Stored, compression: str
) -> None:
    floats = stored.numbers == "float32"
    images = measurements(volume(), 5) if floats else scaled_integers(volume(), 5, stored.numbers)
    cohort = cohort_of(people(5), {volume(): images}, stored={"smri/vbm": stored})
    with small_shards():
        store = convert(cohort, tmp_path / "made.zarr", compression=compression).store_path
    rng = np.random.default_rng(0)
    files = [
        *store.glob("smri_vbm/c.*"),
        *store.glob("smri_vbm_slope/c.*"),
        *store.glob("smri_vbm_offset/c.*"),
    ]
    assert len(files) == (2 if floats else 4)
    for file in files:
        whole = file.read_bytes()
        for position in rng.integers(len(whole), size=6).tolist():
            flip(file, position)
            assert verify(store), (file, position)
            file.write_bytes(whole)
    assert verify(store) == []


def test_a_missing_shard_is_found(store: Path) -> None:
    (store / "smri_table" / "c.1.0").unlink()
    damage = verify(store)
    assert ("smri_table/c.1.0", "the file is missing") in [(found.key, found.problem) for found in damage]
    assert any(found.key == "smri/table" and found.scans for found in damage)


@pytest.mark.parametrize("name", ["smri_table/c.77.0", "notes.txt", "extra/zarr.json"])
def test_a_file_that_does_not_belong_is_found(store: Path, name: str) -> None:
    (store / name).parent.mkdir(exist_ok=True)
    (store / name).write_text("{}")
    assert [found.key for found in verify(store)] == [name]


@pytest.mark.parametrize("name", ["age", "participant_id", "smri_table_present", "smri_xhemi_channel"])
def test_a_missing_small_array_is_found(store: Path, name: str) -> None:
    (store / name / "c.0").unlink()
    assert any(name in (found.key, found.key.split("/")[0]) for found in verify(store))


@contextmanager
def rewritten(store: Path) -> Iterator[dict[str, Any]]:
    """The root, rewritten by someone who knows how: with its hash, and in every array's own file."""
    root = json.loads((store / "zarr.json").read_text())
    yield root
    root["attributes"]["hpc_brainage"]["record_sha256"] = record_hash(root)
    (store / "zarr.json").write_text(json.dumps(root))
    for name, metadata in root["consolidated_metadata"]["metadata"].items():
        (store / name / "zarr.json").write_text(json.dumps(metadata))


def test_a_description_that_was_rewritten_with_its_hash_still_meets_the_content(store: Path) -> None:
    with rewritten(store) as root:
        ours = root["attributes"]["hpc_brainage"]
        ours["modalities"]["smri/vbm"]["affine"][0][0] = -2.0
    assert [found.key for found in verify(store)] == ["smri_vbm", "content"]


@pytest.mark.parametrize(
    ("array", "field", "value"),
    [
        ("age", "dimension_names", ["participant"]),
        ("smri_table", "dimension_names", ["scan", "smri_table_region"]),
        ("smri_table_mean", "dimension_names", None),
        ("smri_vbm", "attributes", {"role": "fmri", "kind": "volume"}),
        ("extra_fiq", "attributes", {}),
        ("smri_vbm", "fill_value", 1.0),
        ("smri_xhemi_present", "fill_value", True),
    ],
)
def test_metadata_that_differs_from_the_schema_is_found(
    store: Path, array: str, field: str, value: object
) -> None:
    with rewritten(store) as root:
        root["consolidated_metadata"]["metadata"][array][field] = value
    (damage,) = verify(store)
    assert damage.key == array
    assert damage.problem.startswith(f"its {field} is")


def test_shards_of_another_size_than_the_description_says_are_found(store: Path) -> None:
    with rewritten(store) as root:
        metadata = root["consolidated_metadata"]["metadata"]["smri_vbm"]
        metadata["chunk_grid"]["configuration"]["chunk_shape"][0] = 8
        metadata["codecs"][0]["configuration"]["chunk_shape"][0] = 2
    assert [found.problem for found in verify(store)] == [
        "its shards is [8, 3, 4, 5], and should be [4, 3, 4, 5]",
        "its chunks is [2, 3, 4, 5], and should be [1, 3, 4, 5]",
    ]


def test_another_reason_of_a_refusal_is_found(tmp_path: Path) -> None:
    cohort = cohort_of(people(5), {features(3): measurements(features(3), 5)}, refuse={"smri/table": [2]})
    store = convert(cohort, tmp_path / "refused.zarr").store_path
    assert verify(store) == []
    reasons = zarr.open_array(str(store / "smri_table_refused"), mode="r+")
    reasons[2] = "was never there"
    assert [found.key for found in verify(store)] == ["content"]


@pytest.mark.parametrize(("key", "folder"), [("smri/vbm", "smri_vbm"), ("smri/table", "smri_table")])
def test_values_of_a_scan_that_is_marked_absent_are_found(store: Path, key: str, folder: str) -> None:
    opened = Store.open(store)
    present, layout = opened.present(key), opened.layout(key)
    halves = [
        rows
        for rows in cut(opened.n_scans, layout.shard_scans)
        if present[rows.start : rows.stop].any() and not present[rows.start : rows.stop].all()
    ]
    rows = halves[0]
    absent = rows.start + int(np.flatnonzero(~present[rows.start : rows.stop])[0])
    block = np.full((layout.shard_scans, *opened.modalities[key].shape), fill_value(opened.modalities[key]))
    has = np.flatnonzero(present[rows.start : rows.stop])
    block[has] = opened.read(key, rows.start + has)
    block[absent - rows.start] = 7.0
    touched = np.isin(np.arange(len(block)), [*has, absent - rows.start])
    chunks = [
        chunk if some.any() else None
        for chunk, some in zip(
            np.split(block, layout.chunks_per_shard),
            np.split(touched, layout.chunks_per_shard),
            strict=True,
        )
    ]
    path = store / shard_key(opened.modalities[key], rows.start // layout.shard_scans)
    put_shard(path, chunks, opened.encoding(key))
    (damage,) = verify(store)
    assert damage.key == key
    assert scan_names(opened.scans)[absent] in damage.scans
    assert "marked absent" in damage.problem


def test_a_wrong_number_of_present_scans_is_found(store: Path) -> None:
    with rewritten(store) as root:
        root["attributes"]["hpc_brainage"]["modalities"]["smri/vbm"]["present"] += 1
    (damage,) = verify(store)
    assert damage.key == "smri/vbm"
    assert "13 scans are present" in damage.problem


def test_the_summary_counts_what_is_there(made: Path) -> None:
    cohort, values = mixed_cohort()
    summary = describe(Store.open(made))
    people = summary.people
    assert (people.scans, people.participants, people.age_known) == (21, 11, 18)
    assert people.age_mean == pytest.approx(cohort.scans["age"].mean())
    assert people.sexes == {"F": 7, "M": 7, "U": 7}
    assert people.sites["São 0"] == 6
    assert people.without_data >= 1
    assert people.further_columns == ("FIQ", "fiq", "scanner")
    table, vbm, _ = summary.modalities
    present = cohort.sources["smri/table"].present
    assert table.present == present.sum()
    assert table.missing_share == pytest.approx(np.isnan(values["smri/table"][present]).mean())
    assert table.constant_features == ("region 0",)
    assert table.empty_features == ()
    assert vbm.bytes_raw == vbm.present * 3 * 4 * 5 * 4
    assert 0 < vbm.bytes_stored == sum(file.stat().st_size for file in (made / "smri_vbm").glob("c.*"))
    assert summary.parts == 6


def test_a_store_that_is_changed_while_it_is_verified_is_not_called_damaged(tmp_path: Path) -> None:
    cohort, path = mixed_cohort()[0], tmp_path / "store.zarr"
    with small_shards():
        convert(cohort.take(np.arange(9)), path)

        def add_scans(done: int, total: int) -> None:
            if done == total:
                append(cohort, path)

        with pytest.raises(StoreError, match="changed while it was verified"):
            verify(path, add_scans)
    assert verify(path) == []
