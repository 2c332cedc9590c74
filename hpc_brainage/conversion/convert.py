"""A cohort becomes a store, in three steps: `init`, one `write_part` per part, `finalise`.

The parts are independent of one another and may be done in any order, by any number of processes, and
again after a kill; the finished store has the same bytes. `convert` does all three in this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_brainage.cohorts.cohort import Account, Cohort, ModalitySource, Refusal
from hpc_brainage.conversion.account import account_of, account_path, summary, write_account
from hpc_brainage.errors import CohortError, ScanRefused, StoreError
from hpc_brainage.store.building import Build, begin
from hpc_brainage.store.finish import finish_store
from hpc_brainage.store.manifest import PartManifest
from hpc_brainage.store.people import scan_identities
from hpc_brainage.store.plan import Plan
from hpc_brainage.store.reader import Store
from hpc_brainage.store.writer import write_modality

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Parameters
    ----------
    store_path : where the store is.
    account_path : where the account of every scan is.
    converted : scans of the store with at least one modality.
    missing : scans of the store with none.
    account : of the sources, and of the scans that were refused while they were loaded.
    parts, skipped_parts : of the plan, and how many of them had been done by an earlier run.
    refused_on_loading : measurements (scan x modality) that the store lacks because what was on disk
        was refused when it was loaded; part of `account`. Where nothing was left to do, that was in an
        earlier run, and the files may have been mended since.
    seconds : of this run.
    """

    store_path: Path
    account_path: Path
    converted: int
    missing: int
    account: Account
    parts: int
    skipped_parts: int
    refused_on_loading: int
    seconds: float

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Every refusal, those of the readers first; a command that had any does not exit with 0."""
        return self.account.refusals

    @property
    def nothing_to_do(self) -> bool:
        """Whether an earlier run had done everything."""
        return self.skipped_parts == self.parts


def convert(
    cohort: Cohort, destination: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> ConversionReport:
    """Convert a whole cohort, going on where an earlier run of the same conversion stopped.

    Parts in which an unfinished run refused a scan are converted again, since the file may have been
    mended. A finished store is left as it is: `overwrite` converts its refused scans anew.

    Parameters
    ----------
    destination : the store's folder, by custom `NAME.zarr`.
    overwrite : replace a finished store, or the unfinished store of another conversion.
    progress : called with the measurements (scan x modality) that are done, and all of them.

    Raises
    ------
    CohortError : the cohort has no scans, or no modality.
    StoreError : the destination is not ours, or holds other content and `overwrite` was not given, or
        another conversion is writing it.
    """
    started = time.monotonic()
    build = init(cohort, destination, overwrite=overwrite)
    skipped = _write_missing_parts(cohort, build, progress or (lambda done, total: None))
    store = finalise(cohort, build)
    some = np.logical_or.reduce([store.present(key) for key in store.modalities])
    return ConversionReport(
        store_path=store.path,
        account_path=account_path(store.path),
        converted=int(some.sum()),
        missing=int((~some).sum()),
        account=account_of(cohort, store),
        parts=len(build.plan.parts),
        skipped_parts=skipped,
        refused_on_loading=sum(int((store.refused(key) != "").sum()) for key in store.modalities),
        seconds=time.monotonic() - started,
    )


def init(cohort: Cohort, destination: Path, *, overwrite: bool = False) -> Build:
    """Plan the conversion and take the destination for it; safe to call again, by any process."""
    with _writing_to(Path(destination)):
        return begin(Path(destination), plan_for(cohort), overwrite=overwrite)


def write_part(
    cohort: Cohort, build: Build, index: int, loaded: Callable[[], None] = lambda: None
) -> PartManifest:
    """Convert part number `index` of the plan, unless that has been done; whole shards only.

    A scan that its source refuses is left absent in that modality, with the reason in the manifest, and
    such a part is converted again when it is asked for again. `loaded` is called after each measurement.

    Raises
    ------
    StoreError : the store has been finished already, or the folder has been taken by another conversion.
    """
    rows = build.plan.parts[index]
    with _writing_to(build.path), build.at_work() as unfinished:
        if not unfinished:
            raise StoreError("the store is finished: no part of it is converted again", where=build.path)
        return _write_part(cohort, build, index, rows, loaded)


def _write_part(
    cohort: Cohort, build: Build, index: int, rows: range, loaded: Callable[[], None]
) -> PartManifest:
    with build.writing_part(index):
        if settled := build.settled_part(index):  # perhaps by somebody else, while we waited
            return settled
        build.withdraw_part(index)
        modalities = {
            planned.modality.key: write_modality(
                build.path, planned, rows, _loader(cohort.sources[planned.modality.key]), loaded
            )
            for planned in build.plan.modalities
        }
        manifest = PartManifest(index, build.plan.sha256, modalities)
        build.save_part(manifest)
    return manifest


def finalise(cohort: Cohort, build: Build) -> Store:
    """Finish a store whose parts are all done, write its account, and tidy up.

    Raises
    ------
    StoreError : a part has not been converted yet, or the folder has been taken by another conversion.
    """
    with _writing_to(build.path), build.alone():
        if not build.finished:
            manifests = [build.read_part(index) for index in range(len(build.plan.parts))]
            finish_store(build.path, build.plan, cohort.scans, manifests)
        build.tidy()
        store = Store.open(build.path)
        write_account(account_path(build.path), account_of(cohort, store), _what_each_scan_has(store))
    return store


def plan_for(cohort: Cohort) -> Plan:
    """The plan of a cohort's conversion.

    Raises
    ------
    CohortError : there is nothing to convert.
    """
    if len(cohort) == 0 or not cohort.sources:
        raise CohortError(
            "there is nothing to convert: the cohort has no "
            + ("scans" if len(cohort) == 0 else "measurements"),
            where=cohort.name,
            hint="look at what was refused or left out, and at --where",
        )
    return Plan.make(
        cohort.name,
        cohort.scans,
        [(source.modality, source.present, source.fingerprint) for source in cohort.sources.values()],
        recipe=cohort.recipe,
        account=summary(cohort.account),
    )


def _write_missing_parts(cohort: Cohort, build: Build, progress: Progress) -> int:
    """Convert what is not done yet; returns how many parts were done already."""
    parts, modalities = build.plan.parts, len(build.plan.modalities)
    total = build.plan.n_scans * modalities
    done = skipped = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    with _writing_to(build.path), build.at_work() as unfinished:
        if not unfinished:
            return len(parts)
        for index, rows in enumerate(parts):
            if build.settled_part(index):
                skipped += 1
                done += len(rows) * modalities
                progress(done, total)
            else:
                _write_part(cohort, build, index, rows, one_more)
    return skipped


@contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    """Say in our words when the disk does not take what is written."""
    try:
        yield
    except OSError as problem:
        raise StoreError(
            f"the store cannot be written ({problem.strerror or problem})",
            where=path,
            hint="look at the free space and the permissions, then run the same command again: "
            "it goes on where it stopped",
        ) from problem


def _loader(source: ModalitySource) -> Callable[[int], np.ndarray | None]:
    def load(row: int) -> np.ndarray | None:
        if not source.present[row]:
            return None
        try:
            return source.values(row)
        except OSError as problem:  # one unreadable file must not stop the others
            raise ScanRefused(f"cannot be read ({problem.strerror or type(problem).__name__})") from None

    return load


def _what_each_scan_has(store: Store) -> list[tuple[tuple[str, str, str], str]]:
    present = np.stack([store.present(key) for key in store.modalities], axis=1)
    keys = np.array(list(store.modalities), dtype=object)
    return [
        (identity, ", ".join(keys[has]))
        for identity, has in zip(scan_identities(store.scans), present, strict=True)
    ]
