"""One shard file: compressed chunks one after the other, then an index that says where each lies.

The bytes are those of Zarr's `sharding_indexed` codec (Zarr v3 specification, sharding codec 1.0),
so any Zarr library reads them. They are written here, not through zarr-python, because a shard must
appear whole or not at all, be flushed to the device, and be the same bytes whenever it is made.

A chunk is little-endian float32 in C order, put through Blosc (byte shuffle, then Zstandard level 1 in
blocks of 1 MiB) and followed by its CRC32C. The shuffle puts the exponents of neighbouring values side
by side: real feature tables shrink to two thirds of what plain Zstandard makes of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numcodecs import Blosc, blosc

from hpc_brainage.errors import StoreError
from hpc_brainage.files import write_durably

LEVEL = 1
BLOCK_BYTES = 1 << 20
FLOAT = np.dtype("<f4")
_CHECKSUM_BYTES = 4
_INTACT = google_crc32c.value(google_crc32c.value(b"").to_bytes(_CHECKSUM_BYTES, "little"))
_ABSENT = np.uint64(2**64 - 1)

# Blosc's own threads put blocks down in the order in which they finish: other bytes at every run.
blosc.use_threads = False
_CODEC = Blosc(cname="zstd", clevel=LEVEL, shuffle=Blosc.SHUFFLE, blocksize=BLOCK_BYTES)


def encode_chunk(chunk: np.ndarray) -> bytes:
    """The bytes of one chunk of float32 values, with their checksum."""
    return _with_checksum(_CODEC.encode(np.ascontiguousarray(chunk, dtype=FLOAT)))


def write_shard(path: Path, chunks: Sequence[bytes | None]) -> None:
    """Write encoded chunks as one file, in one step; `None` is a chunk without any scan in it."""

    def write(file: BinaryIO) -> None:
        index = np.full((len(chunks), 2), _ABSENT, dtype="<u8")
        offset = 0
        for number, chunk in enumerate(chunks):
            if chunk is not None:
                file.write(chunk)
                index[number] = offset, len(chunk)
                offset += len(chunk)
        file.write(_with_checksum(index.tobytes()))

    write_durably(path, write)


class ShardFile:
    """A shard that is read.

    Parameters
    ----------
    path : of the file.
    chunks : how many chunks the shard has room for.

    Raises
    ------
    StoreError : the file is missing, too short, or its index is damaged.
    """

    def __init__(self, path: Path, chunks: int) -> None:
        self.path = path
        length = chunks * 16 + _CHECKSUM_BYTES
        try:
            size = path.stat().st_size
            index = self._read(size - length, length) if size >= length else b""
        except OSError as problem:
            raise StoreError(f"a shard cannot be read ({problem.strerror})", where=path) from None
        if not _checksum_holds(index):
            raise StoreError("the index of a shard is damaged", where=path)
        self._index = np.frombuffer(index[:-_CHECKSUM_BYTES], "<u8").reshape(chunks, 2)

    def has(self, chunk: int) -> bool:
        return bool(self._index[chunk, 0] != _ABSENT)

    def read_into(self, chunk: int, out: np.ndarray) -> None:
        """Decode a chunk into `out`, a contiguous float32 array of the chunk's shape.

        Raises
        ------
        StoreError : the chunk is not in the shard, or its bytes are not what was written.
        """
        if not self.has(chunk):
            raise StoreError(f"chunk {chunk} is missing from a shard", where=self.path)
        offset, length = (int(number) for number in self._index[chunk])
        try:
            stored = self._read(offset, length)
        except (OSError, OverflowError):
            stored = b""
        if len(stored) != length or not _checksum_holds(stored):
            raise StoreError(f"chunk {chunk} of a shard is damaged", where=self.path)
        try:
            _CODEC.decode(memoryview(stored)[:-_CHECKSUM_BYTES], out.reshape(-1).view(np.uint8))
        except (RuntimeError, ValueError) as problem:
            raise StoreError(
                f"chunk {chunk} of a shard does not decode ({problem})", where=self.path
            ) from None

    def _read(self, offset: int, length: int) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)


def _with_checksum(content: bytes) -> bytes:
    return content + google_crc32c.value(content).to_bytes(_CHECKSUM_BYTES, "little")


def _checksum_holds(stored: bytes) -> bool:
    """A CRC taken over content and checksum together is the same number for all content."""
    return len(stored) >= _CHECKSUM_BYTES and google_crc32c.value(stored) == _INTACT
