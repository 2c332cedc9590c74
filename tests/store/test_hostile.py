"""A store from a stranger who lies in it: refused in our words, without hanging or taking much memory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from conversion.synthetic import cohort_of, features, measurements, people, scaled_integers, volume
from numcodecs import Blosc, Zstd

from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import StoreError
from hpc_brainage.modality import Stored
from hpc_brainage.store import packed
from hpc_brainage.store.inspect import describe
from hpc_brainage.store.marker import record_hash
from hpc_brainage.store.packed import unpacks_to_its_size
from hpc_brainage.store.reader import Store
from hpc_brainage.store.shards import encode_chunk, shard_pieces
from hpc_brainage.store.verify import verify

SCANS = 6


@pytest.fixture
def store(tmp_path: Path) -> Path:
    values = {
        features(7): measurements(features(7), SCANS),
        volume(): scaled_integers(volume(), SCANS),
    }
    cohort = cohort_of(people(SCANS), values, stored={"smri/vbm": Stored("int16", "zyx")})
    return Path(convert(cohort, tmp_path / "store.zarr").store_path)


@contextmanager
def rewritten(store: Path) -> Iterator[dict[str, Any]]:
    """The metadata of all arrays, rewritten by somebody who knows how to hash the root."""
    root = json.loads((store / "zarr.json").read_text())
    arrays = root["consolidated_metadata"]["metadata"]
    yield arrays
    root["attributes"]["hpc_brainage"]["record_sha256"] = record_hash(root)
    (store / "zarr.json").write_text(json.dumps(root))
    for name, metadata in arrays.items():
        (store / name).mkdir(exist_ok=True)
        (store / name / "zarr.json").write_text(json.dumps(metadata))


def with_crc(content: bytes) -> bytes:
    return content + google_crc32c.value(content).to_bytes(4, "little")


def another_codec(array: dict[str, Any]) -> None:
    array["codecs"] = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]


def no_sharding(array: dict[str, Any]) -> None:
    array["codecs"] = [{"name": "bytes"}]


def huge(array: dict[str, Any]) -> None:
    array["shape"] = [10**9]


def huge_in_one_chunk(array: dict[str, Any]) -> None:
    array["shape"] = array["chunk_grid"]["configuration"]["chunk_shape"] = [10**9]


def one_too_few(array: dict[str, Any]) -> None:
    array["shape"] = array["chunk_grid"]["configuration"]["chunk_shape"] = [SCANS - 1]


@pytest.mark.parametrize(
    ("array", "lie"),
    [
        ("smri_table_mean", huge),
        ("smri_table_mean", huge_in_one_chunk),
        ("smri_table_mean", another_codec),
        ("smri_table_feature", one_too_few),
        ("smri_vbm_checksum", one_too_few),
        ("smri_vbm_slope", one_too_few),
        ("smri_vbm_mean", one_too_few),
        ("age", another_codec),
        ("smri_vbm", no_sharding),
        ("smri_table", huge_in_one_chunk),
    ],
)
def test_an_array_that_lies_of_its_size_or_its_packing_is_refused_before_it_is_read(
    store: Path, array: str, lie: Callable[[dict[str, Any]], None]
) -> None:
    with rewritten(store) as arrays:
        lie(arrays[array])
    with pytest.raises(StoreError, match="the description of the store is damaged"):
        Store.open(store)


@pytest.mark.parametrize("name", ["notes", "../outside"])
def test_a_further_array_is_found_and_cannot_be_huge_or_lie_outside(store: Path, name: str) -> None:
    with rewritten(store) as arrays:
        arrays[name] = json.loads(json.dumps(arrays["age"]))
        huge(arrays[name])
    with pytest.raises(StoreError, match="the description of the store is damaged"):
        Store.open(store)


@pytest.mark.parametrize("array", ["smri_table_mean", "smri_table_feature"])
def test_a_small_file_that_unpacks_to_a_great_deal_is_refused(
    store: Path, array: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_LONGEST_TEXT", 1 << 20)
    (store / array / "c.0").write_bytes(with_crc(Zstd(1).encode(bytes(1 << 22))))
    with pytest.raises(StoreError, match="of another size"):
        describe(Store.open(store))
    assert any("another size" in damage.problem for damage in verify(store))


@pytest.mark.parametrize("size", [0, 1, 40, 255, 256, 257, 65_791, 65_792, 1 << 20])
def test_the_size_that_a_chunk_says_is_read_as_zstandard_writes_it(size: int) -> None:
    array = {"shape": [size], "data_type": "bool", "codecs": [{"name": "bytes"}]}
    chunk = Zstd(1).encode(bytes(size)) if size else b""
    assert unpacks_to_its_size(chunk, array) == (size > 0)
    assert not unpacks_to_its_size(chunk, array | {"shape": [size + 1]})
    assert not unpacks_to_its_size(chunk[:5], array)


def test_what_is_no_file_is_not_waited_for(store: Path) -> None:
    for name, make in (("age", os.mkfifo), ("sex", lambda path: path.symlink_to("/dev/zero"))):
        path = store / name / "c.0"
        path.unlink()
        make(path)
    problems: list[str] = []
    reading = threading.Thread(
        target=lambda: problems.extend(damage.problem for damage in verify(store)), daemon=True
    )
    reading.start()
    reading.join(20)
    assert not reading.is_alive()
    assert sum("Not a file" in problem for problem in problems) >= 2


@pytest.mark.parametrize("slope", [np.nan, np.inf, 0.0])
def test_a_slope_that_is_none_is_refused(store: Path, slope: float) -> None:
    zarr.open_array(str(store / "smri_vbm_slope"), mode="r+")[2] = slope
    with pytest.raises(StoreError, match="a slope is 0, or no number"):
        Store.open(store).read("smri/vbm", [0])
    assert any("slope" in damage.problem for damage in verify(store))


@pytest.mark.parametrize("lie", ["smaller", "longer than it is"])
def test_a_chunk_whose_own_header_lies_is_refused_and_not_unpacked(store: Path, lie: str) -> None:
    opened = Store.open(store)
    encoding, layout = opened.encoding("smri/vbm"), opened.layout("smri/vbm")
    if lie == "smaller":
        chunk = Blosc("lz4", 1).encode(np.zeros(4, np.int16))
    else:
        whole = bytearray(encode_chunk(np.zeros((5, 4, 3), np.int16), encoding))
        whole[12:16] = (1 << 20).to_bytes(4, "little")
        chunk = bytes(whole)
    pieces = shard_pieces([chunk] * layout.chunks_per_shard, encoding)
    (store / "smri_vbm" / "c.0.0.0.0").write_bytes(b"".join(pieces))
    with pytest.raises(StoreError, match="chunk 0 of a shard is damaged"):
        opened.read("smri/vbm", [0])
