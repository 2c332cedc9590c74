"""A store in the making: the frozen plan, and which parts are done.

While a store is built, its folder has `_build/HASH/plan.json`, one `_build/HASH/part-00000.json` for each
part that is done, and no `zarr.json`, so that nobody reads it by mistake. HASH is the plan's.

Several processes may build one store, on one machine or many, and none waits for another: a part that two
of them convert is the same bytes twice. Whoever starts another plan in the same folder takes it away from
those who are at work there: their next write finds its work folder gone (see `place`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hpc_brainage.errors import StoreError
from hpc_brainage.store.manifest import PartManifest
from hpc_brainage.store.marker import (
    FolderState,
    folder_state,
    plan_key,
    plans_begun,
    read_marker,
    read_record,
    stillborn_plans,
    work_folder,
)
from hpc_brainage.store.place import Place
from hpc_brainage.store.plan import Plan
from hpc_brainage.store.schema import ATTRIBUTE, shard_key


class DoneByAnother(Exception):  # noqa: N818 - no error: the work is there, and somebody else did it
    """Another process has finished the store of this plan meanwhile."""


@dataclass(frozen=True)
class Build:
    """A place that holds, or will hold, the store of a plan."""

    place: Place
    plan: Plan

    @cached_property
    def work(self) -> str:
        """The folder of this plan's work."""
        return work_folder(self.plan.sha256)

    @property
    def finished(self) -> bool:
        """Whether the store of this plan is there, and whole."""
        return folder_state(self.place) is FolderState.FINISHED and _plan_of(self.place) == self.plan.sha256

    def require(self) -> None:
        """Make sure that the place is still that of this plan.

        Raises
        ------
        DoneByAnother : the store is finished.
        StoreError : the folder has been taken by another conversion, or removed.
        """
        begun = plans_begun(self.place)  # before the marker: who finishes writes that, and then tidies up
        if self.finished:
            raise DoneByAnother
        if begun != [self.work]:
            raise self._taken()

    def write(self, key: str, pieces: list[bytes]) -> None:
        """Put a file of the store in its place.

        Raises
        ------
        DoneByAnother, StoreError : as `require`.
        OSError : the disk does not take it.
        """
        try:
            self.place.write(key, pieces, through=self.work)
        except FileNotFoundError:
            self.require()
            raise self._taken() from None

    def remove(self, key: str) -> None:
        """Remove a file of the store, if it is there.

        Raises
        ------
        DoneByAnother, StoreError : as `require`.
        """
        if self.place.has(key):
            try:
                self.place.withdraw(key, through=self.work)
            except FileNotFoundError:  # the work folder is gone, or somebody else has removed the file
                self.require()

    def has_part(self, index: int) -> bool:
        """Whether a part is done."""
        return self.place.has(self._part_key(index))

    def settled_part(self, index: int) -> PartManifest | None:
        """The manifest of a part that is done for good: no scan of it was refused.

        A part with refusals is worth another attempt: the file may have been mended, or be back.
        """
        try:
            manifest = self.read_part(index)
        except StoreError:
            if self.has_part(index):
                raise
            return None  # or not any more: another process does it again
        refused = any(any(part.refused) for part in manifest.modalities.values())
        return None if refused else manifest

    def read_part(self, index: int) -> PartManifest:
        """The manifest of a part that is done.

        Raises
        ------
        StoreError : the part is not done, its manifest is damaged, or belongs to another plan.
        """
        key = self._part_key(index)
        if not self.place.has(key):
            raise StoreError(
                f"part {index + 1} of {len(self.plan.parts)} has not been converted",
                where=self.place.label,
                hint="run the same `brainage convert` command again",
            )
        try:
            manifest = PartManifest.from_record(read_record(self.place, key))
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            if isinstance(problem, StoreError):
                raise
            raise StoreError("the manifest of a part is damaged", where=self.place.file(key)) from None
        if (manifest.index, manifest.plan_sha256) != (index, self.plan.sha256):
            raise StoreError("the manifest of a part belongs to another plan", where=self.place.file(key))
        return manifest

    def save_part(self, manifest: PartManifest) -> None:
        """Declare a part done; its shards must be on the device already."""
        self.place.settle()
        record = json.dumps(manifest.to_record(), allow_nan=False)
        self.write(self._part_key(manifest.index), [record.encode()])

    def withdraw_part(self, index: int) -> None:
        """Declare a part not done, before its shards change."""
        self.place.remove(self._part_key(index))

    def parts_whose_shards_differ(self, written: Sequence[Mapping[str, tuple[int, ...]]]) -> list[int]:
        """Parts of which a shard is not there, or not as long as it was written.

        That is what is left where two conversions were begun in one place at the same moment.

        Parameters
        ----------
        written : of each part, by modality key, the `shard_bytes` of its manifest.
        """
        sizes = dict(self.place.sizes())
        wrong = set()
        for index, of_part in enumerate(written):
            for planned in self.plan.modalities:
                shards = self.plan.shards(index, planned)
                for rows, size in zip(shards, of_part[planned.modality.key], strict=True):
                    key = shard_key(planned.modality, rows.start // planned.layout.shard_scans)
                    if sizes.get(key, 0) != size:
                        wrong.add(index)
        return sorted(wrong)

    def tidy(self) -> None:
        """Remove the work folder; what is still written through it fails, and finds the store done."""
        self.place.clear(f"{self.work}/", last=plan_key(self.work))
        for work in stillborn_plans(self.place):
            self.place.clear(f"{work}/")

    def _taken(self) -> StoreError:
        return StoreError(
            "another conversion has taken this place, or the store was removed",
            where=self.place.label,
            hint="one of the two needs another destination; --overwrite starts this one again",
        )

    def _part_key(self, index: int) -> str:
        return f"{self.work}/part-{index:05d}.json"


def begin(place: Place, plan: Plan, *, overwrite: bool) -> Build:
    """Take the place for this plan: make it, go on with it, or find it finished.

    A finished store of the same plan is left alone unless `overwrite` is given; an unfinished one of
    the same plan is gone on with. A folder that is not ours is never touched.

    Raises
    ------
    StoreError : the folder is not ours, or holds the store or the beginning of another plan and
        `overwrite` was not given.
    """
    build = Build(place, plan)
    state = folder_state(place)
    if state is FolderState.FOREIGN:
        raise StoreError(
            "the destination exists and is not a store of ours; it is left as it is",
            where=place.label,
            expected="a path where nothing is yet",
            hint="choose another destination, or move it away yourself",
        )
    if state is FolderState.UNFINISHED:
        problem = why_not_ours(build)
        if problem is None:
            return build
        if not overwrite:
            raise problem
    if state is FolderState.FINISHED and not overwrite:
        if _plan_of(place) != plan.sha256:
            raise StoreError(
                "a finished store with other content is already there",
                where=place.label,
                hint="--overwrite replaces it, --append adds scans to it; or choose another destination",
            )
        return build
    if state is not FolderState.FREE:
        place.clear()
    freeze(build)
    if problem := why_not_ours(build):  # begun by somebody else at the same moment, who may be at work
        place.remove(plan_key(build.work))
        build.tidy()
        raise problem
    return build


def freeze(build: Build) -> None:
    """Write the plan down, and make its work folder with it."""
    record = json.dumps(build.plan.to_record(), indent=2, allow_nan=False) + "\n"
    build.place.write(plan_key(build.work), [record.encode()], through=build.work, begin=True)
    build.place.settle()


def _plan_of(place: Place) -> str:
    plan: str = read_marker(place)["attributes"][ATTRIBUTE]["plan_sha256"]
    return plan


def why_not_ours(build: Build) -> StoreError | None:
    """Why the conversion that was begun here is not the one of this plan; None if it is."""
    begun = plans_begun(build.place)
    others = [work for work in begun if work != build.work]
    if not others:
        return None
    try:
        theirs = Plan.from_record(read_record(build.place, plan_key(others[0])))
    except StoreError as problem:
        given_up = not build.place.has(plan_key(others[0]))  # by somebody who began at the same moment
        return why_not_ours(build) if given_up else problem
    different = [word.removeprefix("the ") for word in theirs.differences(build.plan)]
    if theirs.extends is not None:
        same = None if build.plan.extends is None else f"the same {', '.join(different)}"
        return StoreError(
            "scans are being added to this store, or that was interrupted",
            where=build.place.label,
            expected=same,
            hint="run the same `brainage convert --append` command again: it goes on where it stopped; or "
            "give it up with --append --overwrite: the scans of before stay, and these are added",
        )
    return StoreError(
        "another conversion was begun here and has not finished",
        where=build.place.label,
        expected=f"the same {', '.join(different) or 'plan'}",
        hint="--overwrite starts again with this input; or choose another destination",
    )
