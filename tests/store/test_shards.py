from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from hpc_brainage.errors import StoreError
from hpc_brainage.store.shards import BLOCK_BYTES, ShardFile, encode_chunk, write_shard

CHUNK = (3, 50)


def chunk(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=CHUNK).astype(np.float32)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard"
    write_shard(path, [encode_chunk(chunk(0)), None, encode_chunk(chunk(2)), None])
    return path


def test_what_is_written_is_read(shard: Path) -> None:
    file, out = ShardFile(shard, 4), np.empty(CHUNK, np.float32)
    assert [file.has(number) for number in range(4)] == [True, False, True, False]
    for number in (2, 0):
        file.read_into(number, out)
        np.testing.assert_array_equal(out, chunk(number))
    with pytest.raises(StoreError, match="chunk 1 is missing"):
        file.read_into(1, out)


@pytest.mark.parametrize("shape", [(1, 9, 8, 7), (1, 90, 80, 70), (256, 2000)])
def test_the_same_values_give_the_same_bytes(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert len({encode_chunk(values) for _ in range(5)}) == 1


def test_any_flipped_byte_is_noticed(shard: Path) -> None:
    whole = shard.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        shard.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged"):
            _read_all(shard)


@pytest.mark.parametrize("kept", [0, 3, 60, 200, -1])
def test_a_truncated_shard_is_noticed(shard: Path, kept: int) -> None:
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(StoreError, match="damaged"):
        _read_all(shard)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / "gone"))):
        ShardFile(tmp_path / "gone", 4)


def test_zarr_reads_a_shard_of_ours_and_we_read_one_of_zarr(tmp_path: Path) -> None:
    values = np.concatenate([chunk(0), chunk(1), chunk(2), chunk(3)])
    array = zarr.create_array(
        str(tmp_path / "array"),
        shape=values.shape,
        dtype="float32",
        chunks=CHUNK,
        shards=values.shape,
        compressors=[
            BloscCodec(typesize=4, cname="zstd", clevel=1, shuffle="shuffle", blocksize=BLOCK_BYTES),
            Crc32cCodec(),
        ],
    )
    path = tmp_path / "array" / "c" / "0" / "0"
    write_shard(path, [encode_chunk(chunk(number)) for number in range(4)])
    np.testing.assert_array_equal(array[...], values)

    array[...] = values[::-1]
    file, out = ShardFile(path, 4), np.empty(CHUNK, np.float32)
    file.read_into(1, out)
    np.testing.assert_array_equal(out, values[::-1][3:6])


def _read_all(path: Path) -> None:
    file, out = ShardFile(path, 4), np.empty(CHUNK, np.float32)
    for number in (0, 2):
        file.read_into(number, out)
