"""A cohort becomes a store, in three steps: `init`, the parts in any shares and order, `finalise`.

The parts are independent of one another and may be done in any order, by any number of processes on any
number of machines, and again after a kill; the finished store has the same bytes. `convert` does all three
in this process, and what others have left undone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpc_brainage.cohorts.cohort import Account, Cohort, Refusal
from hpc_brainage.conversion.account import account_name, account_of, summary, write_account
from hpc_brainage.conversion.parts import Progress, write_parts
from hpc_brainage.errors import CohortError, StoreError
from hpc_brainage.store.building import Build, DoneByAnother, begin
from hpc_brainage.store.finish import finish_store
from hpc_brainage.store.manifest import Joining, PartOfModality
from hpc_brainage.store.place import Place, place_at, writing_to
from hpc_brainage.store.plan import Plan, PlannedSource
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import Compression, encoding_of


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Parameters
    ----------
    store_path, modalities : where the store is, and what it has, by key.
    account_path : where the account of every scan is.
    converted : scans of the store with at least one modality.
    missing : scans of the store with none.
    account : of the sources, and of the scans that were refused while they were loaded.
    parts, skipped_parts : of the plan, and how many of them had been done by an earlier run.
    skipped : scans in those parts, or in the store that was added to.
    refused_on_loading : measurements (scan x modality) that the store lacks because what was on disk
        was refused when it was loaded; part of `account`. Where nothing was left to do, that was in an
        earlier run, and the files may have been mended since.
    seconds : of this run.
    """

    store_path: Path | str
    modalities: tuple[str, ...]
    account_path: Path | str
    converted: int
    missing: int
    account: Account
    parts: int
    skipped_parts: int
    skipped: int
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
    cohort: Cohort,
    destination: Place | Path | str,
    *,
    overwrite: bool = False,
    compression: Compression = "lz4",
    workers: int | None = None,
    only_finish: bool = False,
    progress: Progress = lambda done, total: None,
) -> ConversionReport:
    """Convert a whole cohort, going on where an earlier run of the same conversion stopped.

    Parts in which an unfinished run refused a scan are converted again, since the file may have been
    mended. A finished store is left as it is: `overwrite` converts its refused scans anew.

    Parameters
    ----------
    destination : the store's folder, by custom `NAME.zarr`, or the URL of an object store.
    overwrite : replace a finished store, or the unfinished store of another conversion.
    compression : of images: "lz4", "zstd" or "none" (see `Encoding`).
    workers : threads; by default one for each core where there are images, else one.
    only_finish : convert nothing; that something is missing is an error.
    progress : called with the measurements (scan x modality) that are done, and all of them.

    Raises
    ------
    CohortError : the cohort has no scans, or no modality.
    StoreError : the destination is not ours, holds other content and `overwrite` was not given, or has
        been taken by another conversion meanwhile.
    EnvironmentLacks : the disk is full, or must not be written.
    """
    started = time.monotonic()
    build = init(cohort, destination, overwrite=overwrite, compression=compression)
    skipped = 0
    if not only_finish:
        skipped = write_all_parts(cohort, build, workers=workers, progress=progress)
    store = finalise(cohort, build)
    report = report_of(cohort, store, seconds=time.monotonic() - started)
    done = store.n_scans if skipped == len(build.plan.parts) else skipped * build.plan.part_scans
    return replace(report, skipped_parts=skipped, skipped=min(done, store.n_scans))


def init(
    cohort: Cohort,
    destination: Place | Path | str,
    *,
    overwrite: bool = False,
    compression: Compression = "lz4",
) -> Build:
    """Plan the conversion and take the destination for it; safe to call again, by any process."""
    place = place_at(destination)
    with writing_to(place):
        return begin(place, plan_for(cohort, compression), overwrite=overwrite)


def write_all_parts(cohort: Cohort, build: Build, *, workers: int | None, progress: Progress) -> int:
    """Convert what is missing until nothing is, and return how many parts were done before.

    A part that was done can be missing again: another process is trying its refused scans once more, or has
    begun it before it was done here.
    """
    done_before = write_parts(cohort, build, workers=workers, progress=progress)
    while withdrawn := _withdrawn_parts(build):
        write_parts(cohort, build, withdrawn, workers=workers)
    return done_before


def finalise(
    cohort: Cohort,
    build: Build,
    *,
    before: Mapping[str, PartOfModality] | None = None,
    carried: Sequence[str] = (),
) -> Store:
    """Finish a store whose parts are all done, write its account, and tidy up.

    Parameters
    ----------
    before, carried : what is known of the scans that a store had before, and lines of its account.

    Raises
    ------
    StoreError : a part has not been converted yet, or the place has been taken by another conversion.
    """
    with writing_to(build.place):
        with suppress(DoneByAnother):
            if not build.finished:
                finish_store(build, cohort.scans, _converted(build), before)
        build.tidy()
        store = Store.open(build.place)
        write_account(store, account_of(cohort, store), carried)
    return store


def plan_for(cohort: Cohort, compression: Compression = "lz4") -> Plan:
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
        [
            PlannedSource(
                source.modality,
                source.present,
                encoding_of(source.modality, source.stored, compression),
                source.fingerprint,
            )
            for source in cohort.sources.values()
        ],
        recipe=cohort.recipe,
        account=summary(cohort.account),
    )


def report_of(cohort: Cohort, store: Store, *, seconds: float) -> ConversionReport:
    """What the account of a finished store says; which parts had been done before is not known here."""
    some = np.logical_or.reduce([store.present(key) for key in store.modalities])
    return ConversionReport(
        store_path=store.path,
        modalities=tuple(store.modalities),
        account_path=store.place.beside(account_name(store.place.name)),
        converted=int(some.sum()),
        missing=int((~some).sum()),
        account=account_of(cohort, store),
        parts=len(store.parts()),
        skipped_parts=0,
        skipped=0,
        refused_on_loading=sum(int((store.refused(key) != "").sum()) for key in store.modalities),
        seconds=seconds,
    )


def _withdrawn_parts(build: Build) -> list[int]:
    """Parts that were done and are not any more."""
    missing = [index for index in range(len(build.plan.parts)) if not build.has_part(index)]
    return [] if not missing or build.finished else missing


def _converted(build: Build) -> dict[str, PartOfModality]:
    """What all parts report together, by modality key, if every shard is as long as its part says."""
    everyone = {planned.modality.key: Joining() for planned in build.plan.modalities}
    written = []
    try:
        for index in range(len(build.plan.parts)):
            reported = build.read_part(index).modalities
            written.append({key: part.shard_bytes for key, part in reported.items()})
            for key, joining in everyone.items():
                joining.add(reported[key])
    except StoreError:
        if build.finished:  # by somebody else, who has tidied up as well
            raise DoneByAnother from None
        raise
    if wrong := build.parts_whose_shards_differ(written):
        for index in wrong:
            build.withdraw_part(index)
        raise StoreError(
            f"the shards of {len(wrong)} of {len(written)} parts are not those that were written",
            where=build.place.label,
            hint="two conversions were begun here at once; run the one that is meant again: those parts "
            "are converted anew",
        )
    return {key: joining.whole() for key, joining in everyone.items()}
