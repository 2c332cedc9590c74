"""Whether the files of single scans are still those that a conversion was planned with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hpc_brainage.files import sha256_of


def fingerprint_of(files: Iterable[Path]) -> str:
    """A hash of the names and sizes of files, in any order: a truncated one that was mended makes another.

    Not of their times, which every copy changes, nor of their contents, which are hundreds of gigabytes.
    "" of no file at all.
    """
    listing = sorted([path.name, _size(path)] for path in files)
    return sha256_of(listing) if listing else ""


def _size(path: Path) -> int:
    """In bytes; -1 for a file that cannot be asked, such as a link whose content is elsewhere."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
