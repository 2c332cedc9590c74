"""The root `zarr.json`: it is written last, and it is what makes a folder a finished store."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from hpc_brainage.errors import StoreError
from hpc_brainage.files import read_json, sha256_of
from hpc_brainage.store.description import problem_of
from hpc_brainage.store.schema import ATTRIBUTE, FORMAT, FORMAT_VERSION

BUILD = "_build"
PLAN = "plan.json"
MARKER = "zarr.json"
COMPLETE = "complete"


class FolderState(Enum):
    """What a path is, seen by somebody who wants to put a store there."""

    FREE = "nothing is there, or an empty folder"
    UNFINISHED = "a conversion of ours that has not finished"
    FINISHED = "a store of ours"
    FOREIGN = "something that is not ours"


def folder_state(path: Path) -> FolderState:
    if not path.exists() and not path.is_symlink():
        return FolderState.FREE
    if not path.is_dir():
        return FolderState.FOREIGN
    if (path / MARKER).exists():
        ours = _is_ours(path / MARKER, "attributes", ATTRIBUTE)
        return FolderState.FINISHED if ours else FolderState.FOREIGN
    if (path / BUILD / PLAN).is_file():
        return FolderState.UNFINISHED if _is_ours(path / BUILD / PLAN) else FolderState.FOREIGN
    # A conversion that was killed in its first moment leaves its empty work folder.
    begun = [path / BUILD, *(path / BUILD).glob(f".{PLAN}.*.tmp")]
    holds_more = any(found not in begun for found in path.rglob("*"))
    return FolderState.FOREIGN if holds_more else FolderState.FREE


def _is_ours(file: Path, *keys: str) -> bool:
    """Whether a JSON file says, under the given keys, that it is of our format."""
    try:
        record = read_json(file, StoreError)
        for key in keys:
            record = record[key]
        return record["format"] == FORMAT
    except (StoreError, KeyError, TypeError):
        return False


def read_marker(path: Path) -> dict[str, Any]:
    """The root metadata of a finished store.

    Raises
    ------
    StoreError : nothing there, not a store, not ours, unfinished, damaged, or of a newer format.
    """
    if not path.exists():
        beside = sorted(found.name for found in path.parent.glob("*.zarr"))[:10]
        raise StoreError(
            "there is no store here",
            where=path,
            expected="a folder that `brainage convert` made",
            hint=f"stores in {path.parent}: {', '.join(beside)}" if beside else None,
        )
    if not path.is_dir():
        raise StoreError(
            "a store is a folder, this is a file",
            where=path,
            hint="`brainage convert` makes a store from tables and images",
        )
    if not (path / MARKER).exists():
        if folder_state(path) is FolderState.UNFINISHED:
            raise unfinished(path)
        raise StoreError("this folder is not a Zarr store", where=path, expected="a zarr.json in it")
    root = read_json(path / MARKER, StoreError)
    attributes = root.get("attributes") if isinstance(root, dict) else None
    ours = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
    if not isinstance(ours, dict) or ours.get("format") != FORMAT:
        raise StoreError(
            "a Zarr store, but not one of scans",
            where=path,
            expected=f"the attribute {ATTRIBUTE!r} with format {FORMAT!r}",
            hint="`brainage convert` makes one from the data it was made of",
        )
    version = ours.get("format_version")
    if type(version) is not int or version < 1:
        raise damaged_marker(path)
    if version > FORMAT_VERSION:
        raise StoreError(
            f"the store has format version {version}",
            where=path,
            expected=f"version {FORMAT_VERSION} or older",
            hint="a newer hpc_brainage reads it",
        )
    if ours.get("state") != COMPLETE:
        raise unfinished(path)
    if ours.get("record_sha256") != record_hash(root):
        raise damaged_marker(path)
    if problem := problem_of(root):
        raise damaged_marker(path, problem)
    return root


def record_hash(root: dict[str, Any]) -> str:
    """Hash over the root metadata without the hash itself, so that a changed digit is noticed."""
    attributes = root["attributes"]
    ours = {key: value for key, value in attributes[ATTRIBUTE].items() if key != "record_sha256"}
    return sha256_of({**root, "attributes": {**attributes, ATTRIBUTE: ours}})


def unfinished(path: Path) -> StoreError:
    return StoreError(
        "the conversion of this store has not finished",
        where=path,
        hint="run the same `brainage convert` command again: it goes on where it stopped",
    )


def damaged_marker(path: Path, problem: str = "") -> StoreError:
    return StoreError(
        "the description of the store is damaged" + (f": {problem}" if problem else ""),
        where=path / MARKER,
        hint="take the store from a copy, or convert again with --overwrite",
    )
