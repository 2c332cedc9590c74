"""A store in the making: the frozen plan, and which parts are done.

While a store is built, its folder has `_build/plan.json`, one `_build/part-00000.json` for each part
that is done, and no `zarr.json`, so that nobody reads it by mistake.

Several processes may build one store. Whoever begins, finishes or replaces it is alone (the lock
`.NAME.lock` beside it); whoever writes parts holds `_build/lock` together with others, so that nobody
finishes or replaces the store under them, and the lock of the part that it writes alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hpc_brainage.errors import StoreError
from hpc_brainage.files import read_json, remove_tree, sweep, sync_directory, write_json, write_text
from hpc_brainage.store.lock import locked
from hpc_brainage.store.manifest import PartManifest
from hpc_brainage.store.marker import BUILD, PLAN, FolderState, folder_state, read_marker
from hpc_brainage.store.plan import Plan
from hpc_brainage.store.schema import ATTRIBUTE

LOCK = "lock"


@dataclass(frozen=True)
class Build:
    """A folder that holds, or will hold, the store of a plan."""

    path: Path
    plan: Plan

    @property
    def finished(self) -> bool:
        return folder_state(self.path) is FolderState.FINISHED

    @contextmanager
    def at_work(self) -> Iterator[bool]:
        """Keep everybody from finishing or replacing this build; several may be at work at once.

        Gives whether there is anything to write: false once the store is finished.

        Raises
        ------
        StoreError : the folder has been taken by another conversion, or removed.
        """
        with ExitStack() as held:
            with suppress(FileNotFoundError):  # the work folder is gone: finished, or taken
                held.enter_context(locked(self.path / BUILD / LOCK, shared=True))
            self._require_ours()
            yield not self.finished

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is at work on this store, and keep everybody from it.

        Raises
        ------
        StoreError : the folder has been taken by another conversion, or removed.
        """
        with _alone_at(self.path):
            self._require_ours()
            if not (self.path / BUILD).is_dir():
                yield
                return
            with locked(self.path / BUILD / LOCK):
                yield

    @contextmanager
    def writing_part(self, index: int) -> Iterator[None]:
        """Keep others who are at work from this part."""
        with locked(self._part_path(index).with_suffix(".lock")):
            yield

    def has_part(self, index: int) -> bool:
        """Whether a part is done."""
        return self._part_path(index).exists()

    def settled_part(self, index: int) -> PartManifest | None:
        """The manifest of a part that is done for good: no scan of it was refused.

        A part with refusals is worth another attempt: the file may have been mended, or be back.
        """
        if not self.has_part(index):
            return None
        manifest = self.read_part(index)
        refused = any(any(part.refused) for part in manifest.modalities.values())
        return None if refused else manifest

    def read_part(self, index: int) -> PartManifest:
        """The manifest of a part that is done.

        Raises
        ------
        StoreError : the part is not done, its manifest is damaged, or belongs to another plan.
        """
        path = self._part_path(index)
        if not path.exists():
            raise StoreError(
                f"part {index + 1} of {len(self.plan.parts)} has not been converted",
                where=self.path,
                hint="run the same `brainage convert` command again",
            )
        try:
            manifest = PartManifest.from_record(read_json(path, StoreError))
        except (KeyError, TypeError, AttributeError):
            raise StoreError("the manifest of a part is damaged", where=path) from None
        if (manifest.index, manifest.plan_sha256) != (index, self.plan.sha256):
            raise StoreError("the manifest of a part belongs to another plan", where=path)
        return manifest

    def save_part(self, manifest: PartManifest) -> None:
        """Declare a part done; its shards must be on the device already."""
        sync_directory(self.path)
        write_text(self._part_path(manifest.index), json.dumps(manifest.to_record(), allow_nan=False))

    def withdraw_part(self, index: int) -> None:
        """Declare a part not done, before its shards change."""
        if self.has_part(index):
            self._part_path(index).unlink()
            sync_directory(self.path / BUILD)

    def tidy(self) -> None:
        """Remove the work folder, and temporary files that killed writers left behind.

        Only for who is `alone`: a file that somebody is writing has such a name, too.
        """
        for left in self.path.rglob(".*.tmp"):
            left.unlink(missing_ok=True)
        if (self.path / BUILD).is_dir():
            shutil.rmtree(self.path / BUILD)
            sync_directory(self.path)

    def _require_ours(self) -> None:
        if self.finished:
            _require_same_store(self.path, self.plan)
        elif problem := _unlike_unfinished(self.path, self.plan):
            raise problem

    def _part_path(self, index: int) -> Path:
        return self.path / BUILD / f"part-{index:05d}.json"


def begin(path: Path, plan: Plan, *, overwrite: bool) -> Build:
    """Take the folder for this plan: make it, go on with it, or find it finished.

    A finished store of the same plan is left alone unless `overwrite` is given; an unfinished one of
    the same plan is gone on with. A folder that is not ours is never touched. Where `path` is a link to
    a folder, that folder is taken and the link stays.

    Raises
    ------
    StoreError : the folder is not ours, or holds the store or the beginning of another plan and
        `overwrite` was not given; or somebody is at work on that other plan.
    """
    if path.is_symlink() and path.is_dir():
        path = path.resolve()
    with _alone_at(path):
        sweep(path)
        return _begin(path, plan, overwrite=overwrite)


def _begin(path: Path, plan: Plan, *, overwrite: bool) -> Build:
    state = folder_state(path)
    if state is FolderState.FOREIGN:
        raise StoreError(
            "the destination exists and is not a store of ours; it is left as it is",
            where=path,
            expected="a path where nothing is yet",
            hint="choose another destination, or move it away yourself",
        )
    if state is FolderState.UNFINISHED:
        problem = _unlike_unfinished(path, plan)
        if problem is None:
            return Build(path, plan)
        if not overwrite:
            raise problem
        with _nobody_at_work(path):
            remove_tree(path)
        state = FolderState.FREE
    if state is FolderState.FINISHED and not overwrite:
        _require_same_store(path, plan)
        return Build(path, plan)
    if state is not FolderState.FREE:
        remove_tree(path)
    write_json(path / BUILD / PLAN, plan.to_record())
    sync_directory(path)
    return Build(path, plan)


@contextmanager
def _alone_at(path: Path) -> Iterator[None]:
    """Be the only one to begin, finish or replace the store at `path`; waits for who is at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.parent / f".{path.name}.lock"
    with locked(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _nobody_at_work(path: Path) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(locked(path / BUILD / LOCK, wait=False))
        except BlockingIOError:
            raise StoreError(
                "another conversion is writing this store right now",
                where=path,
                hint="wait until it has ended, or choose another destination",
            ) from None
        yield


def _unlike_unfinished(path: Path, plan: Plan) -> StoreError | None:
    """Why the conversion that was begun here is not the one of this plan; None if it is."""
    try:
        begun = Plan.from_record(read_json(path / BUILD / PLAN, StoreError))
    except StoreError as problem:
        return problem
    different = begun.differences(plan)
    if not different:
        return None
    return StoreError(
        "another conversion was begun here and has not finished",
        where=path,
        expected=f"the same {', '.join(word.removeprefix('the ') for word in different)}",
        hint="--overwrite starts again with this input; or choose another destination",
    )


def _require_same_store(path: Path, plan: Plan) -> None:
    if read_marker(path)["attributes"][ATTRIBUTE]["plan_sha256"] != plan.sha256:
        raise StoreError(
            "a finished store with other content is already there",
            where=path,
            hint="--overwrite replaces it; or choose another destination",
        )
