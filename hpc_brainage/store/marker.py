"""The root `zarr.json`: it is written last, and it is what makes a folder a finished store."""

from __future__ import annotations

import json
import re
from enum import Enum
from pathlib import Path
from typing import Any

from hpc_brainage.errors import StoreError
from hpc_brainage.files import sha256_of
from hpc_brainage.store.description import problem_of
from hpc_brainage.store.place import Place
from hpc_brainage.store.schema import ATTRIBUTE, FORMAT, FORMAT_VERSION

BUILD = "_build"
PLAN = "plan.json"
MARKER = "zarr.json"
_OF_MODELS = ("request.json", "model.json")  # what a run's folder and a model's hold
COMPLETE = "complete"
_PLAN_KEY = re.compile(rf"({BUILD}/[0-9a-f]{{16}})/{re.escape(PLAN)}")
_FIRST_MOMENT = re.compile(rf"({BUILD}/[0-9a-f]{{16}})/[^/]*\.tmp")


class FolderState(Enum):
    """What a path is, seen by somebody who wants to put a store there."""

    FREE = "nothing is there, or an empty folder"
    UNFINISHED = "a conversion of ours that has not finished"
    FINISHED = "a store of ours"
    FOREIGN = "something that is not ours"


def folder_state(place: Place) -> FolderState:
    state = _state_at_a_glance(place)
    if state is FolderState.FOREIGN and place.has(MARKER):  # finished by somebody else at that moment
        state = _state_at_a_glance(place)
    return state


def _state_at_a_glance(place: Place) -> FolderState:
    if place.is_free():
        return FolderState.FREE
    if not place.is_folder():
        return FolderState.FOREIGN
    if place.has(MARKER):
        ours = _is_ours(place, MARKER, "attributes", ATTRIBUTE)
        return FolderState.FINISHED if ours else FolderState.FOREIGN
    if begun := plans_begun(place):
        ours = all(_is_ours(place, plan_key(plan)) for plan in begun)
        return FolderState.UNFINISHED if ours else FolderState.FOREIGN
    # A conversion that was killed in its first moment leaves the beginning of its plan.
    holds_more = any(not _FIRST_MOMENT.fullmatch(key) for key in place.files())
    return FolderState.FOREIGN if holds_more else FolderState.FREE


def work_folder(plan_sha256: str) -> str:
    """The folder in a store where the work on one plan is kept, and only that."""
    return f"{BUILD}/{plan_sha256[:16]}"


def plan_key(work: str) -> str:
    return f"{work}/{PLAN}"


def plans_begun(place: Place) -> list[str]:
    """The work folders of the plans that were begun here and have not been tidied away."""
    found = (_PLAN_KEY.fullmatch(key) for key in place.files(f"{BUILD}/"))
    return sorted(match[1] for match in found if match)


def stillborn_plans(place: Place) -> list[str]:
    """The work folders of conversions that were killed before their plan was there."""
    found = (_FIRST_MOMENT.fullmatch(key) for key in place.files(f"{BUILD}/"))
    return sorted({match[1] for match in found if match} - set(plans_begun(place)))


def read_record(place: Place, key: str) -> Any:
    """Parse a JSON file of a store.

    Raises
    ------
    StoreError : it is missing or damaged, or cannot be reached.
    """
    try:
        return json.loads(place.read(key))
    except FileNotFoundError:
        raise StoreError("a file is missing", where=place.file(key)) from None
    except (OSError, ValueError, RecursionError) as problem:
        raise StoreError(f"not readable as JSON ({problem})", where=place.file(key)) from None


def _is_ours(place: Place, key: str, *path: str) -> bool:
    """Whether a JSON file says, under the given path, that it is of our format."""
    try:
        record = read_record(place, key)
        for step in path:
            record = record[step]
        return record["format"] == FORMAT
    except (StoreError, KeyError, TypeError):
        return False


def read_marker(place: Place) -> dict[str, Any]:
    """The root metadata of a finished store.

    Raises
    ------
    StoreError : nothing there, not a store, not ours, unfinished, damaged, or of a newer format.
    """
    try:
        return _read_marker(place)
    except OSError as problem:
        raise StoreError(
            f"the store cannot be reached ({problem.strerror or problem})",
            where=place.label,
            hint=f"look at {place.depends_on}",
        ) from None


def _read_marker(place: Place) -> dict[str, Any]:
    path = place.label
    if not place.has(MARKER):
        raise _no_marker(place)
    root = read_record(place, MARKER)
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


def _no_marker(place: Place) -> StoreError:
    path = place.label
    state = folder_state(place)
    if state is FolderState.FREE:
        return StoreError(
            "there is no store here",
            where=path,
            expected="a folder that `brainage convert` made",
            hint=_stores_beside(path) if isinstance(path, Path) else None,
        )
    if not place.is_folder():
        return StoreError(
            "a store is a folder, this is a file",
            where=path,
            hint="`brainage convert` makes a store from tables and images",
        )
    if state is FolderState.UNFINISHED:
        return unfinished(path)
    if isinstance(path, Path) and any((path / name).is_file() for name in _OF_MODELS):
        return StoreError(
            "this is a run or a model, and not a store",
            where=path,
            expected="a folder that `brainage convert` made",
            hint=f"a model scores a store so: brainage score STORE --model {path}",
        )
    return StoreError("this folder is not a Zarr store", where=path, expected="a zarr.json in it")


def _stores_beside(path: Path) -> str | None:
    beside = sorted(found.name for found in path.parent.glob("*.zarr"))[:10]
    return f"stores in {path.parent}: {', '.join(beside)}" if beside else None


def unfinished(path: Path | str) -> StoreError:
    return StoreError(
        "the conversion of this store has not finished",
        where=path,
        hint="run the same `brainage convert` command again: it goes on where it stopped",
    )


def damaged_marker(path: Path | str, problem: str = "") -> StoreError:
    return StoreError(
        "the description of the store is damaged" + (f": {problem}" if problem else ""),
        where=f"{path}/{MARKER}",
        hint="take the store from a copy, or convert again with --overwrite",
    )
