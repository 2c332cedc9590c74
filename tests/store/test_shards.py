from __future__ import annotations

import re
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from hpc_brainage.errors import StoreError
from hpc_brainage.modality import NUMBERS, Stored
from hpc_brainage.store.place import LocalPlace
from hpc_brainage.store.schema import COMPRESSIONS, Encoding
from hpc_brainage.store.shards import BLOCK_BYTES, LEVELS, ShardFile, encode_chunk, shard_pieces

CHUNK = (3, 50)
PLAIN = Encoding()


def chunk(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=CHUNK).astype(np.float32)


def put(path: Path, chunks: list[bytes | None], encoding: Encoding) -> Path:
    path.write_bytes(b"".join(shard_pieces(chunks, encoding)))
    return path


def opened(path: Path, encoding: Encoding = PLAIN) -> ShardFile:
    return ShardFile(LocalPlace(path.parent), path.name, 4, encoding)


@pytest.fixture(params=LEVELS)
def encoding(request: pytest.FixtureRequest) -> Encoding:
    return Encoding(compression=request.param)


@pytest.fixture
def shard(tmp_path: Path, encoding: Encoding) -> Path:
    chunks = [encode_chunk(chunk(0), encoding), None, encode_chunk(chunk(2), encoding), None]
    return put(tmp_path / "shard", chunks, encoding)


@pytest.mark.parametrize("encoding", [Encoding(compression=name) for name in COMPRESSIONS])
def test_what_is_written_is_read(shard: Path, encoding: Encoding) -> None:
    file, out = opened(shard, encoding), np.empty(CHUNK, np.float32)
    assert [file.has(number) for number in range(4)] == [True, False, True, False]
    for number in (2, 0):
        file.read_into(number, out)
        np.testing.assert_array_equal(out, chunk(number))
    with pytest.raises(StoreError, match="chunk 1 is missing"):
        file.read_into(1, out)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("shape", [(1, 9, 8, 7), (1, 90, 80, 70), (256, 2000)])
def test_the_same_values_give_the_same_bytes(
    shape: tuple[int, ...], compression: str, numbers: str
) -> None:
    encoding = Encoding(Stored(numbers), compression)
    values = np.random.default_rng(0).normal(50, 10, size=shape).astype(numbers)
    found = {encode_chunk(values, encoding) for _ in range(3)}
    found.add(encode_chunk(values.astype(values.dtype.newbyteorder(">")), encoding))
    assert len(found) == 1


def test_any_flipped_byte_is_noticed(shard: Path, encoding: Encoding) -> None:
    whole = shard.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        shard.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged"):
            read_all(shard, encoding)


@pytest.mark.parametrize("kept", [0, 3, 60, 200, -1])
@pytest.mark.parametrize("encoding", [Encoding(compression=name) for name in COMPRESSIONS])
def test_a_truncated_shard_is_noticed(shard: Path, kept: int, encoding: Encoding) -> None:
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(StoreError, match="damaged"):
        read_all(shard, encoding)


def test_an_uncompressed_chunk_of_another_length_is_noticed(tmp_path: Path) -> None:
    raw = Encoding(compression="none")
    whole = encode_chunk(chunk(0), raw)
    for wrong in (whole[:-4], whole + bytes(4)):
        path = put(tmp_path / "shard", [wrong, None, wrong, None], raw)
        with pytest.raises(StoreError, match="chunk 0 of a shard is damaged"):
            read_all(path, raw)


@pytest.mark.parametrize("where", [(2**63, 604), (0, 2**63), (0, 2**40), (10**6, 604)])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_an_index_that_points_beyond_the_file_is_an_error_of_ours(
    tmp_path: Path, where: tuple[int, int], compression: str
) -> None:
    encoding = Encoding(compression=compression)
    path = put(tmp_path / "shard", [encode_chunk(chunk(0), encoding), None, None, None], encoding)
    index = np.full((4, 2), 2**64 - 1, "<u8")
    index[0] = where
    index_and_checksum = index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    path.write_bytes(path.read_bytes()[: -len(index_and_checksum)] + index_and_checksum)
    with pytest.raises(StoreError, match="chunk 0 of a shard is damaged"):
        opened(path, encoding).read_into(0, np.empty(CHUNK, np.float32))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / "gone"))):
        opened(tmp_path / "gone")


def test_zarr_reads_a_shard_of_ours_and_we_read_one_of_zarr(tmp_path: Path, encoding: Encoding) -> None:
    values = np.concatenate([chunk(0), chunk(1), chunk(2), chunk(3)])
    array = zarr.create_array(
        str(tmp_path / "array"),
        shape=values.shape,
        dtype="float32",
        chunks=CHUNK,
        shards=values.shape,
        compressors=[
            BloscCodec(
                typesize=4,
                cname=encoding.compression,
                clevel=LEVELS[encoding.compression],
                shuffle="shuffle" if encoding.compression == "zstd" else "noshuffle",
                blocksize=BLOCK_BYTES[encoding.compression],
            ),
            Crc32cCodec(),
        ],
    )
    path = tmp_path / "array" / "c" / "0" / "0"
    path.parent.mkdir(parents=True)
    put(path, [encode_chunk(chunk(number), encoding) for number in range(4)], encoding)
    np.testing.assert_array_equal(array[...], values)

    array[...] = values[::-1]
    file, out = opened(path, encoding), np.empty(CHUNK, np.float32)
    file.read_into(1, out)
    np.testing.assert_array_equal(out, values[::-1][3:6])


def read_all(path: Path, encoding: Encoding) -> None:
    file, out = opened(path, encoding), np.empty(CHUNK, np.float32)
    for number in (0, 2):
        file.read_into(number, out)
