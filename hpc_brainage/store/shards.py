"""One shard file: compressed chunks one after the other, then an index that says where each lies.

The bytes are those of Zarr's `sharding_indexed` codec (Zarr v3 specification, sharding codec 1.0),
so any Zarr library reads them. They are written here, not through zarr-python, because a shard must
appear whole or not at all, be flushed to the device, and be the same bytes whenever it is made.

A chunk is little-endian numbers put through Blosc at level 1 and followed by its CRC32C, or those numbers
as they are. Zstandard (blocks of 1 MiB) comes after a byte shuffle, which puts the exponents of
neighbouring values side by side and makes feature tables smaller. LZ4 (blocks of 64 KiB) does without: real
images become no smaller by a shuffle, and take longer (`tools/bench_steps.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np
from numcodecs import Blosc, blosc

from hpc_brainage.errors import StoreError
from hpc_brainage.store.place import Place
from hpc_brainage.store.schema import Encoding

LEVELS = {"zstd": 1, "lz4": 1}
BLOCK_BYTES = {"zstd": 1 << 20, "lz4": 1 << 16}
SHUFFLED = {"zstd": True, "lz4": False}
FLOAT = np.dtype("<f4")
_CHECKSUM_BYTES = 4
_INTACT = google_crc32c.value(google_crc32c.value(b"").to_bytes(_CHECKSUM_BYTES, "little"))
_ABSENT = np.uint64(2**64 - 1)

# Blosc's own threads put blocks down in the order in which they finish: other bytes at every run.
blosc.use_threads = False
_CODECS = {
    name: Blosc(
        cname=name,
        clevel=level,
        shuffle=Blosc.SHUFFLE if SHUFFLED[name] else Blosc.NOSHUFFLE,
        blocksize=BLOCK_BYTES[name],
    )
    for name, level in LEVELS.items()
}


def encode_chunk(chunk: np.ndarray, encoding: Encoding) -> bytes:
    """The bytes of one chunk, a C-contiguous array of the numbers that `encoding` says; no checksum yet."""
    chunk = np.ascontiguousarray(chunk, dtype=encoding.stored.dtype)
    if encoding.compression == "none":
        return chunk.tobytes()
    packed: bytes = _CODECS[encoding.compression].encode(chunk)
    return packed


def shard_pieces(chunks: Sequence[bytes | None], encoding: Encoding) -> list[bytes]:
    """What a shard file is made of, in order; `None` is a chunk without any scan in it.

    A checksum is a piece of its own: to append it to its chunk would copy all of that once more.
    """
    pieces: list[bytes] = []
    index = np.full((len(chunks), 2), _ABSENT, dtype="<u8")
    offset = 0
    for number, chunk in enumerate(chunks):
        if chunk is not None:
            content = [chunk] if encoding.compression == "none" else [chunk, _checksum(chunk)]
            pieces += content
            index[number] = offset, sum(map(len, content))
            offset += int(index[number, 1])
    return [*pieces, index.tobytes(), _checksum(index.tobytes())]


class ShardFile:
    """A shard that is read.

    Parameters
    ----------
    place, key : of the file.
    chunks : how many chunks the shard has room for.
    encoding : of its chunks.

    Raises
    ------
    StoreError : the file is missing, too short, or its index is damaged.
    """

    def __init__(self, place: Place, key: str, chunks: int, encoding: Encoding) -> None:
        self.file = place.file(key)
        self._place, self._key, self._encoding = place, key, encoding
        length = chunks * 16 + _CHECKSUM_BYTES
        try:
            size = place.size(key)
            index = place.read(key, size - length, length) if size >= length else b""
        except OSError as problem:
            reason = problem.strerror or problem
            raise StoreError(f"a shard cannot be read ({reason})", where=self.file) from None
        if not _checksum_holds(index):
            raise StoreError("the index of a shard is damaged", where=self.file)
        self._index = np.frombuffer(index[:-_CHECKSUM_BYTES], "<u8").reshape(chunks, 2)

    def has(self, chunk: int) -> bool:
        return bool(self._index[chunk, 0] != _ABSENT)

    def read_into(self, chunk: int, out: np.ndarray) -> None:
        """Decode a chunk into `out`, a C-contiguous array of the numbers that are kept.

        Raises
        ------
        StoreError : the chunk is not in the shard, or its bytes are not what was written.
        """
        if not self.has(chunk):
            raise StoreError(f"chunk {chunk} is missing from a shard", where=self.file)
        offset, length = (int(number) for number in self._index[chunk])
        room = out.reshape(-1).view(np.uint8)
        if self._encoding.compression == "none":
            if length != room.size or self._fill(offset, room.data) != length:
                raise StoreError(f"chunk {chunk} of a shard is damaged", where=self.file)
            return
        try:
            stored = self._place.read(self._key, offset, length)
        except (OSError, OverflowError, MemoryError):
            stored = b""
        if len(stored) != length or not _checksum_holds(stored) or not _unpacks_to(room.size, stored):
            raise StoreError(f"chunk {chunk} of a shard is damaged", where=self.file)
        try:
            _CODECS[self._encoding.compression].decode(memoryview(stored)[:-_CHECKSUM_BYTES], room)
        except (RuntimeError, ValueError) as problem:
            raise StoreError(
                f"chunk {chunk} of a shard does not decode ({problem})", where=self.file
            ) from None

    def _fill(self, offset: int, room: memoryview) -> int:
        try:
            return self._place.read_into(self._key, offset, room)
        except (OSError, OverflowError):
            return 0


def _checksum(content: bytes) -> bytes:
    crc: int = google_crc32c.value(content)
    return crc.to_bytes(_CHECKSUM_BYTES, "little")


def _unpacks_to(size: int, stored: bytes) -> bool:
    """Whether a Blosc chunk says that it holds `size` bytes, and is as long as it says.

    Blosc leaves part of the room as it is for a smaller one, and reads beyond the end of a shorter one.
    """
    unpacked, packed = (int.from_bytes(stored[at : at + 4], "little") for at in (4, 12))
    return (unpacked, packed) == (size, len(stored) - _CHECKSUM_BYTES)


def _checksum_holds(stored: bytes) -> bool:
    """A CRC taken over content and checksum together is the same number for all content."""
    return len(stored) >= _CHECKSUM_BYTES and google_crc32c.value(stored) == _INTACT
