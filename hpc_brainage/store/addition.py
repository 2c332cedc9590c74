"""Adding scans to a finished store, seen from the disk.

The work folder of an addition holds, beside its plan, a copy of the store's description and small arrays as
they were `before`. From there the addition can be finished even if it is killed while they are replaced.

Others may add the same scans at the same time. What is read of the store before anything is written must
all be from before, or all from after they are done: see `reading`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hpc_brainage.errors import StoreError
from hpc_brainage.store.building import Build, DoneByAnother, freeze, why_not_ours
from hpc_brainage.store.manifest import PartOfModality
from hpc_brainage.store.marker import (
    MARKER,
    plan_key,
    plans_begun,
    read_marker,
    read_record,
    work_folder,
)
from hpc_brainage.store.place import Place
from hpc_brainage.store.plan import Plan
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import ATTRIBUTE, EXTRA_PREFIX, small_array_key

_BEFORE = "before"


class ChangedMeanwhile(Exception):  # noqa: N818 - no error: whoever meets it reads the store again
    """The description of the store was replaced while it was read."""


def finished_before(place: Place) -> Store:
    """The store as it was before an addition, also where one was killed while it replaced the description.

    Raises
    ------
    StoreError : there is no finished store.
    """
    _tidy_what_is_done(place)
    if not place.has(MARKER):
        for work in plans_begun(place):
            before = place.below(f"{work}/{_BEFORE}")
            if before.has(MARKER):
                return Store(place, read_marker(before), small_arrays=before)
    return Store.open(place)


def _tidy_what_is_done(place: Place) -> None:
    """An addition that was killed after its very last step has left its work folder."""
    begun = plans_begun(place)
    if begun and place.has(MARKER):
        done = work_folder(read_marker(place)["attributes"][ATTRIBUTE]["plan_sha256"])
        if done in begun:
            place.clear(f"{done}/", last=plan_key(done))


@contextmanager
def reading(base: Store) -> Iterator[None]:
    """What goes wrong inside is nobody's fault if somebody else replaces the description at that moment.

    Raises
    ------
    ChangedMeanwhile : that is so.
    """
    try:
        yield
    except (StoreError, DoneByAnother, FileNotFoundError):
        if base.is_current:
            raise
        raise ChangedMeanwhile from None
    if not base.is_current:
        raise ChangedMeanwhile


def begin_addition(place: Place, plan: Plan, base: Store) -> Build:
    """Begin, or go on with, a plan that adds scans to a finished store.

    Raises
    ------
    StoreError : the addition of other scans was begun here and has not finished.
    ChangedMeanwhile : the store is not, or not any more, the one that was opened.
    """
    build = Build(place, plan)
    if problem := why_not_ours(build):
        raise problem
    if build.work not in plans_begun(place):
        freeze(build)
        if problem := why_not_ours(build):  # begun by somebody else at the same moment
            build.tidy()
            raise problem
    copy = f"{build.work}/{_BEFORE}"
    if not place.has(f"{copy}/{MARKER}"):
        try:
            with reading(base):
                files = {key: place.read(key) for key in (*_small_files(base), MARKER)}
        except ChangedMeanwhile:
            if not place.has(f"{copy}/{MARKER}"):  # else somebody needs it to finish the same addition
                build.tidy()
            raise
        for key, content in files.items():
            build.write(f"{copy}/{key}", [content])
        place.settle()
    return build


def give_up_addition(place: Place) -> None:
    """Put a store back to what it was before an addition that has not finished; nothing if there is none.

    Raises
    ------
    StoreError : what was begun here is no addition.
    """
    for work in plans_begun(place):
        before = f"{work}/{_BEFORE}"
        if not place.has(MARKER):
            if not place.has(f"{before}/{MARKER}"):
                raise StoreError("no scans are being added here, a store is being made", where=place.label)
            _put_back(place, work, before)
        store = Store.open(place)
        belongs, arrays = store.files(), {modality.array_name for modality in store.modalities.values()}
        for key in set(place.files()) - belongs:
            if key.partition("/")[0] in arrays or key.startswith(EXTRA_PREFIX):
                place.remove(key)
        place.clear(f"{work}/", last=plan_key(work))


def _put_back(place: Place, work: str, before: str) -> None:
    """The description and the small arrays as they were, the marker last."""
    root = read_record(place, f"{before}/{MARKER}")
    for name, metadata in root["consolidated_metadata"]["metadata"].items():
        content = json.dumps(metadata, indent=2).encode()
        place.write(f"{name}/{MARKER}", [content], through=work)
    for key in list(place.files(f"{before}/")):
        if key != f"{before}/{MARKER}":
            place.write(key.removeprefix(f"{before}/"), [place.read(key)], through=work)
    place.settle()
    place.write(MARKER, [place.read(f"{before}/{MARKER}")], through=work)
    place.settle()


def forget_description(build: Build) -> None:
    """Make the store unfinished, so that nobody reads it while its description is replaced."""
    try:
        before = build.place.read(f"{build.work}/{_BEFORE}/{MARKER}")
        build.place.withdraw(MARKER, through=build.work, content=before)
    except FileNotFoundError:  # done by somebody else, or the store is finished, or the place taken
        with suppress(DoneByAnother):
            build.require()


def before_of(base: Store) -> dict[str, PartOfModality]:
    """What a store knows of its own scans, by modality key."""
    return {
        key: PartOfModality(
            tuple(base.checksums(key).tolist()),
            tuple(base.refused(key).tolist()),
            tuple((slope, offset) for slope, offset in base.scales(key).tolist()),
            base.statistics(key),
            (),
        )
        for key in base.modalities
    }


def _small_files(base: Store) -> list[str]:
    data = {modality.array_name for modality in base.modalities.values()}
    described = base.metadata["consolidated_metadata"]["metadata"]
    if missing := data - set(described):
        raise StoreError("the description of the store lacks arrays", where=", ".join(missing))
    return [small_array_key(name, metadata) for name, metadata in described.items() if name not in data]
