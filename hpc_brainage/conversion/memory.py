"""The allocator of a process that does nothing but convert.

Memory that is freed is kept for the next scan instead of being given back to the system. Every image needs
the same tens of megabytes again. By default glibc maps such blocks anew each time, and the system clears
them page by page.
"""

from __future__ import annotations

import ctypes
import sys

# Of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Set the allocator of this whole process, so only a program of its own should call it.

    Up to a GiB that was in use at once stays with the process until it ends. Nothing is done where the C
    library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return
    for parameter, value in (
        (_MMAP_MAX, 0),  # no mapping of its own for a large block
        (_ARENA_MAX, 1),  # the arenas of other threads give back every large block at once
        (_TRIM_THRESHOLD, _KEPT_BYTES),
        (_TOP_PAD, 1 << 26),
    ):
        mallopt(parameter, value)
