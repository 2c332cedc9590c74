"""Scans are added to a finished store.

The scans that the store has stay as they are: their shards are not touched, but for the last one of each
modality, which is written anew with the added scans behind them. Until the very end the store can be read
as it was. At that end its description is replaced: then, for a moment, it is unfinished, and another run of
the same command finishes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import Account, Cohort, ModalitySource
from hpc_brainage.conversion.account import account_of, lines_to_carry, summary, write_account
from hpc_brainage.conversion.convert import (
    ConversionReport,
    finalise,
    report_of,
    write_all_parts,
)
from hpc_brainage.conversion.parts import Progress
from hpc_brainage.conversion.same_measurement import feature_places
from hpc_brainage.errors import StoreError
from hpc_brainage.modality import ScaledIntegers
from hpc_brainage.scans import SCAN_COLUMNS, with_plain_cells
from hpc_brainage.store.addition import (
    ChangedMeanwhile,
    before_of,
    begin_addition,
    finished_before,
    forget_description,
    give_up_addition,
    reading,
)
from hpc_brainage.store.people import columns_of, scan_identities
from hpc_brainage.store.place import Place, place_at, writing_to
from hpc_brainage.store.plan import Plan, PlannedSource
from hpc_brainage.store.reader import Store

_ATTEMPTS = 5


def append(
    cohort: Cohort,
    destination: Place | Path | str,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
) -> ConversionReport:
    """Add the scans of a cohort that a finished store does not have yet, going on after a kill.

    Scans are known by participant, session and run; those that the store has are skipped, whatever the
    cohort says of them now; what it has measured of them beyond the store is noted. Features are matched
    by name. What the store knows and the cohort does not, a modality or a further column, is missing for
    the added scans, and the account says so.

    Parameters
    ----------
    destination : of the store.
    overwrite : give up the addition of other scans that was begun and has not finished.
    workers, progress : as of `convert`.

    Raises
    ------
    StoreError : there is no finished store; another cohort is being added to it; or the cohort has
        something that the store has no room for: another modality, other features, another grid, other
        integers, or a column of another type.
    """
    started = time.monotonic()
    place = place_at(destination)
    for _ in range(_ATTEMPTS):
        with writing_to(place):
            base = finished_before(place)
            if overwrite:
                give_up_addition(place)
                base = finished_before(place)
        with suppress(ChangedMeanwhile):
            report = _append(cohort, base, workers, progress)
            return replace(report, seconds=time.monotonic() - started)
    raise StoreError(
        "others keep adding scans to this store",
        where=place.label,
        hint="run the same command again when they are done",
    )


def _append(cohort: Cohort, base: Store, workers: int | None, progress: Progress) -> ConversionReport:
    """Add scans to the store as it was opened.

    Raises
    ------
    ChangedMeanwhile : somebody else has added some; nothing has been done then.
    """
    place = base.place
    with writing_to(place), reading(base):
        _refuse_what_has_no_room(base, cohort)
        row_of = {scan: row for row, scan in enumerate(base.identities)}
        there = np.array([row_of.get(scan, -1) for scan in scan_identities(cohort.scans)], int)
        added = np.flatnonzero(there < 0)
        skipped = len(cohort) - len(added)
        cohort = replace(cohort, account=cohort.account + Account(notes=_not_taken(base, cohort, there)))
        if not len(added):  # a run that was killed at its very end may not have got to the account
            write_account(base, account_of(cohort, base), lines_to_carry(base))
            return replace(report_of(cohort, base, seconds=0.0), skipped=skipped, parts=0)
        addition = _Addition(base, cohort.take(added), skipped)
        carried, before = lines_to_carry(base), before_of(base)
        build = begin_addition(place, addition.plan, base)
    write_all_parts(addition.cohort, build, workers=workers, progress=progress)
    with writing_to(place):
        forget_description(build)
    store = finalise(addition.cohort, build, before=before, carried=carried)
    report = report_of(addition.cohort, store, seconds=0.0)
    return replace(report, skipped=skipped, parts=len(build.plan.parts))


@dataclass(frozen=True)
class _Addition:
    """The scans of a store and those that are added to it, as one cohort."""

    base: Store
    new: Cohort
    skipped: int

    @cached_property
    def cohort(self) -> Cohort:
        scans, notes = _scans_together(self.base, self.new)
        sources = {}
        for key in self.base.modalities:
            if key not in self.new.sources:
                notes.append(f"none of the added scans has {key}")
            sources[key] = _source_together(self.base, key, self.new.sources.get(key), len(self.new))
        told = f"{len(self.new)} scans were added to the {self.base.n_scans} of the store"
        if self.skipped:
            told += f"; {self.skipped} scans were there already and stay as they are"
        account = self.new.account + Account(notes=(told, *notes))
        return Cohort(self.base.name, scans, sources, account, self._recipe())

    @cached_property
    def plan(self) -> Plan:
        earlier, ours = self.base.attributes["account"], summary(self.cohort.account)
        account = {
            "sources": [*earlier["sources"], *ours["sources"]],
            "refused": earlier["refused"] + ours["refused"],
            "notes": [*earlier["notes"], *ours["notes"]],
        }
        plan = Plan.make(
            self.base.name,
            self.cohort.scans,
            [
                PlannedSource(source.modality, source.present, self.base.encoding(key), source.fingerprint)
                for key, source in self.cohort.sources.items()
            ],
            recipe=self.cohort.recipe,
            account=account,
            extends={
                "n_scans": self.base.n_scans,
                "plan_sha256": self.base.attributes["plan_sha256"],
                "content_sha256": self.base.content_sha256,
            },
        )
        laid_out = {planned.modality.key: planned.layout for planned in plan.modalities}
        assert plan.part_scans == self.base.part_scans
        assert laid_out == {key: self.base.layout(key) for key in laid_out}, "layouts do not grow"
        return plan

    def _recipe(self) -> dict[str, object]:
        earlier = self.base.attributes["recipe"]
        return {**earlier, "appended": [*earlier.get("appended", []), self.new.recipe]}


def _refuse_what_has_no_room(base: Store, cohort: Cohort) -> None:
    """What a cohort has must be what the store has, also where all of its scans are there already."""
    foreign = [key for key in cohort.sources if key not in base.modalities]
    if foreign:
        raise StoreError(
            f"the store has no {', '.join(foreign)}, which the added scans have",
            where=base.path,
            expected=f"{', '.join(base.modalities)}",
            hint="convert both cohorts together, or leave these measurements out",
        )
    for key, source in cohort.sources.items():
        _places(base, key, source)
    is_text = {column.name: column.is_text for column in columns_of(with_plain_cells(cohort.scans))}
    for column in base.columns:
        if is_text.get(column.name, column.is_text) != column.is_text:
            kinds = ("text", "numbers") if column.is_text else ("numbers", "text")
            raise StoreError(
                f"the column {column.name!r} is {kinds[0]} in the store, and {kinds[1]} in the added scans",
                where=base.path,
                hint="give it one type in the added table, or another name",
            )


def _not_taken(base: Store, cohort: Cohort, there: np.ndarray) -> tuple[str, ...]:
    """What the cohort knows of scans of the store and the store does not.

    Parameters
    ----------
    there : shape (scans of the cohort,), the row of each in the store, -1 where it is new.
    """
    known = there >= 0
    notes = []
    for key, source in cohort.sources.items():
        lacks = ~base.present(key) & (base.refused(key) == "")
        if count := int((source.present[known] & lacks[there[known]]).sum()):
            notes.append(f"{count} scans of the store have {key} here and not there: they stay as they are")
    ours = {column.name for column in base.columns}
    if known.all() and (new := [c.name for c in columns_of(cohort.scans) if c.name not in ours]):
        notes.append(f"the store has no column {', '.join(map(repr, new))}: its scans stay as they are")
    return tuple(notes)


def _scans_together(base: Store, new: Cohort) -> tuple[pd.DataFrame, list[str]]:
    """Both tables of scans, one below the other, and which further columns only one of them has."""
    theirs = with_plain_cells(new.scans)
    is_text = {column.name: column.is_text for column in columns_of(theirs)}
    notes = []
    for column in base.columns:
        if column.name not in is_text:
            notes.append(f"the added scans have no column {column.name!r}")
            theirs[column.name] = "" if column.is_text else np.nan
    ours = base.scans
    for name, text in is_text.items():
        if name not in ours.columns:
            notes.append(f"the scans of the store have no column {name!r}")
            ours = ours.assign(**{name: "" if text else np.nan})
    further = [name for name in ours.columns if name not in SCAN_COLUMNS]
    columns = [*SCAN_COLUMNS, *further]
    return pd.concat([ours[columns], theirs[columns]], ignore_index=True), notes


def _source_together(base: Store, key: str, new: ModalitySource | None, added: int) -> ModalitySource:
    """Both sources of one modality, the store's scans first."""
    modality, encoding = base.modalities[key], base.encoding(key)
    old = _old_loader(base, key)
    present = base.present(key)
    if new is None:
        return ModalitySource(modality, np.append(present, np.zeros(added, bool)), old, "", encoding.stored)
    places = _places(base, key, new)

    def load(row: int) -> np.ndarray | ScaledIntegers:
        if row < base.n_scans:
            return old(row)
        loaded = new.load(row - base.n_scans)
        return loaded[places] if isinstance(loaded, np.ndarray) and places is not None else loaded

    both = np.append(present, new.present)
    return ModalitySource(modality, both, load, new.fingerprint, encoding.stored)


def _places(base: Store, key: str, source: ModalitySource) -> np.ndarray | None:
    """Where the store's features are in the added source (see `feature_places`)."""
    places = feature_places(base.modalities[key], source.modality, of="the added scans", where=base.path)
    encoding = base.encoding(key)
    if encoding.is_scaled and source.stored.numbers != encoding.stored.numbers:
        raise StoreError(
            f"the store keeps {key} as {encoding.stored.numbers}, the added images hold "
            f"{source.stored.numbers}",
            where=base.path,
            hint="convert all of them together, or the store anew with --voxels float32",
        )
    return places


def _old_loader(base: Store, key: str) -> Callable[[int], np.ndarray | ScaledIntegers]:
    """Scans of the store itself: those that share a shard with the first added one."""
    modality = base.modalities[key]
    if modality.kind != "features":
        return lambda row: base.as_kept(key, row)
    first = base.n_scans - base.n_scans % base.layout(key).shard_scans
    shard = base.read(key, np.arange(first, base.n_scans))
    return lambda row: shard[row - first]
