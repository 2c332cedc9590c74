"""How large the one chunk of a small array will be, known before it is unpacked.

A few kilobytes of Zstandard can hold terabytes of nothing. A store may come from anywhere, so what a chunk
says of its size is compared with what its array needs before any memory is given to it.
"""

from __future__ import annotations

import math
from typing import Any

_MAGIC = b"\x28\xb5\x2f\xfd"
_ITEM_BYTES = {"bool": 1, "int64": 8, "float64": 8}
_LONGEST_TEXT = 1 << 30  # bytes of all cells of a column of text together


def unpacks_to_its_size(chunk: bytes, array: dict[str, Any]) -> bool:
    """Whether the Zstandard chunk of a small array holds as many bytes as it needs, or text of a sane size.

    Parameters
    ----------
    chunk : as it is on the disk.
    array : Zarr metadata, with a shape that has been checked.
    """
    said = _content_bytes(chunk)
    if said is None:
        return False
    if codec_names(array)[:1] == ["vlen-utf8"]:
        return said <= _LONGEST_TEXT
    kind = array.get("data_type")
    return isinstance(kind, str) and said == math.prod(array["shape"]) * _ITEM_BYTES.get(kind, 0)


def codec_names(array: dict[str, Any]) -> list[Any]:
    """The names of an array's codecs, in the order in which they are applied; None for what is none."""
    codecs = array.get("codecs")
    if not isinstance(codecs, list):
        return []
    return [codec.get("name") if isinstance(codec, dict) else None for codec in codecs]


def _content_bytes(chunk: bytes) -> int | None:
    """The content size in the header of a Zstandard frame (RFC 8878, 3.1.1.1); None if it says none."""
    if len(chunk) < 5 or not chunk.startswith(_MAGIC):
        return None
    descriptor = chunk[4]
    single_segment = descriptor >> 5 & 1
    length = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if length == 0 or len(chunk) < start + length:
        return None
    return int.from_bytes(chunk[start : start + length], "little") + (256 if length == 2 else 0)
