"""Which files a folder, a glob or a list means."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path


def files_meant(where: Path | Sequence[Path]) -> list[Path]:
    """The files of a list, of a folder and those below it, or of a glob, in no particular order."""
    if not isinstance(where, Path):
        return list(where)
    if where.is_dir():
        return [Path(parent, name) for parent, _, names in os.walk(where) for name in names]
    if where.is_file():
        return [where]
    # the pattern may begin at the root or with "..", which Path.glob does not take
    return [Path(match) for match in glob.glob(str(where), recursive=True)]  # noqa: PTH207
