"""The whole of a gzip file at once, through libdeflate: faster than as a stream (tools/bench_steps.py).

libdeflate must be told beforehand how long the result is. The trailer of a gzip file says so, but of its
last member only, modulo 4 GiB, and in a damaged file it says anything: so it is believed only if it fits
what the header of the image needs. Whatever does not fit is left to a stream, which is slower and can say
what is wrong.
"""

from __future__ import annotations

import os

import deflate

# What may follow the voxels: the scan parameters of an MGH file, padding.
_MOST_BEHIND = 1 << 20
_TRAILER = 8  # CRC-32 and length of the unpacked content, little-endian (RFC 1952)


def gunzip(descriptor: int, needed: int) -> bytearray | None:
    """Unpack a gzip file of one member in one step; other threads go on meanwhile.

    Parameters
    ----------
    descriptor : of the open file; its position stays where it is.
    needed : how many bytes the caller expects in it, checked against what the file could hold. No more
        memory is asked for than this and a MiB, twice: packed and unpacked.

    Returns
    -------
    The unpacked content, at least `needed` bytes long and with the right checksum. None if the file is not
    one whole member of about that length: it is to be read as a stream then.
    """
    size = os.fstat(descriptor).st_size
    trailer = os.pread(descriptor, _TRAILER, max(size - _TRAILER, 0))
    length = int.from_bytes(trailer[4:], "little")
    # what cannot be packed grows a little: five bytes for each block of 64 KiB
    if not needed <= length <= needed + _MOST_BEHIND or size > length + length // 1024 + _MOST_BEHIND:
        return None
    packed = os.pread(descriptor, size, 0)
    if len(packed) != size:
        return None
    try:
        content = deflate.gzip_decompress(packed, length)
    except deflate.DeflateError:
        return None
    # That is the first member, whose checksum has been compared. What others of the same length may follow
    # is behind the voxels, which are all in it.
    return content if len(content) == length else None
