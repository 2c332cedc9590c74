"""Durable files: what is on disk is whole, or it is not there.

A file is written under a temporary name in its own directory, flushed to the device and renamed.
Killing the process at any moment leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from hpc_brainage.errors import BrainAgeError

_BLOCK = 1 << 20


def write_durably(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` with an open binary file, then make it appear at `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = new_file(path.parent, f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def new_file(folder: Path, prefix: str = "") -> tuple[int, Path]:
    """Open an empty file under a name that nobody has; who may read it is up to the umask, as usual."""
    path = folder / f"{prefix}{secrets.token_hex(4)}.tmp"
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), path


def write_bytes(path: Path, content: bytes) -> None:
    write_durably(path, lambda file: file.write(content))


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON; NaN is refused, since it is no JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, error: type[BrainAgeError] = BrainAgeError) -> Any:
    """Parse a JSON file; `error` is raised, naming the file, if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error("a file is missing", where=path) from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise error(f"not readable as JSON ({problem})", where=path) from None


def sync_directory(path: Path) -> None:
    """Flush a directory entry, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems do not sync directories; the rename still holds
        pass
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(content: Any) -> str:
    """Hash of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def remove_tree(path: Path) -> None:
    """Remove a directory so that a reader never meets half of it: rename first, then delete.

    Nothing is made for that, since a disk that is full has no room for it.
    """
    while path.exists():
        doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
        with suppress(FileNotFoundError):  # somebody else has removed it
            os.replace(path, doomed)
        _remove(doomed)


def _remove(folder: Path) -> None:
    """Remove a folder, also while somebody else does; of a link the link, and not what it points at."""
    while folder.exists():
        with suppress(FileNotFoundError):
            if folder.is_symlink() or not folder.is_dir():
                folder.unlink()
            else:
                shutil.rmtree(folder)


def sweep(path: Path) -> None:
    """Remove what killed writers and removers of `path` left beside it, under names only they make.

    Somebody who is writing `path` meanwhile finds the temporary file gone, and has to write it again.
    """
    left = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.(tmp|old)")
    for found in path.parent.iterdir() if path.parent.is_dir() else ():
        if not (kind := left.fullmatch(found.name)) or found.is_symlink():
            continue
        if kind[1] == "tmp" and found.is_file():
            found.unlink(missing_ok=True)
        elif kind[1] == "old" and found.is_dir():
            _remove(found)
