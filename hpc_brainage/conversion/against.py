"""A store compared with the files that it was made of: every measurement is loaded from them once more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hpc_brainage.cohorts.cohort import Cohort, ModalitySource
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import AddedSource, open_cohort, people_and_tables
from hpc_brainage.conversion.same_measurement import feature_places
from hpc_brainage.errors import ScanRefused, StoreError, UsageError
from hpc_brainage.modality import ScaledIntegers
from hpc_brainage.scans import scan_names
from hpc_brainage.store.people import columns_of, scan_identities
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import cut
from hpc_brainage.store.verify import Damage, Progress
from hpc_brainage.store.writer import features_kept, image_kept, in_one_line

_MOST_THREADS = 8
_AT_ONCE = 1024  # scans that are handed out to the threads
_NOT_THERE = "in the store, and not in the source"
_NEWER = "in the source, and not in the store"
_OTHER = "the source has other values than the store"
_IF_SOURCE = "if the source is right, convert it again with --overwrite"
_ADD = "`brainage convert --append` adds scans, --overwrite converts everything anew"


def open_again(store: Store, sources: Sequence[Path], add: Sequence[AddedSource] = ()) -> list[Cohort]:
    """The sources of a store, read as they were when it was made: columns, selection and all.

    Parameters
    ----------
    sources : of the store, and of each addition to it in their order. Where their number is another, all
        are read as the first was.
    add : what was joined to them; where it was is not in the store. A folder of people and tables brings
        its tables itself.

    Raises
    ------
    UsageError : the store was made with something that must be named again.
    CohortError : a source cannot be read.
    """
    recipe = store.attributes["recipe"]
    recipes = [recipe, *recipe.get("appended", [])]
    if len(recipes) != len(sources):
        recipes = [recipe] * len(sources)
    for source, one in zip(sources, recipes, strict=True):
        joined = len(one.get("added", []))
        if not add and joined > len(people_and_tables(source.expanduser())[1]):
            raise UsageError(
                f"further sources ({joined}) were joined when this store was made",
                where=f"{store.path}, made of {source.name}",
                expected="the same --add as of `brainage convert`",
            )
    options: list[dict[str, Any]] = [one.get("options", {}) for one in recipes]
    return [
        open_cohort(source, reading=Reading.from_record(said), add=add, where=said.get("where"))
        for source, said in zip(sources, options, strict=True)
    ]


def compare(
    store: Store, sources: Sequence[Cohort], progress: Progress = lambda done, total: None
) -> list[Damage]:
    """Load everything from the sources, and list in what the store differs from them.

    Scans are known by participant, session and run, features by name. A scan that several sources have is
    compared with the first of them. Measurements are compared as the writer would have kept them, so that
    what it refuses is no difference if it was refused then.

    Parameters
    ----------
    progress : called with the measurements (scan x modality) that were compared, and all of them.

    Raises
    ------
    StoreError : the store itself is damaged.
    """
    row_of = {scan: row for row, scan in enumerate(store.identities)}
    unclaimed = dict(row_of)
    pairs = []
    for cohort in sources:
        here = [(unclaimed.pop(scan, None), row) for row, scan in enumerate(scan_identities(cohort.scans))]
        pairs.append(
            _Pairs(store, cohort, np.array([p for p in here if p[0] is not None], int).reshape(-1, 2))
        )
    total, done = sum(len(some.rows) for some in pairs) * len(store.modalities), 0

    def compared(measurements: int) -> None:
        nonlocal done
        done += measurements
        progress(done, total)

    found = []
    for some in pairs:
        found += [*some.people(), *some.measurements(compared)]
        newer = [scan not in row_of for scan in scan_identities(some.cohort.scans)]
        found += _damage("scans", _NEWER, scan_names(some.cohort.scans[newer]), _ADD)
    refused = {
        refusal.identity: f"{_NOT_THERE}: refused now ({refusal.reason})"
        for cohort in sources
        for refusal in cohort.account.refusals
    }
    names = scan_names(store.scans)
    by_reason: dict[str, list[str]] = {}
    for scan, row in unclaimed.items():
        by_reason.setdefault(refused.get(scan, _NOT_THERE), []).append(names[row])
    for reason, scans in by_reason.items():
        found += _damage("scans", reason, scans)
    return found


@dataclass(frozen=True)
class _Pairs:
    """The scans that a store and a source both have: `rows`, shape (scans, 2), of the two."""

    store: Store
    cohort: Cohort
    rows: np.ndarray

    @cached_property
    def names(self) -> list[str]:
        return scan_names(self.store.scans.iloc[self.rows[:, 0]])

    def people(self) -> Iterator[Damage]:
        """Differences of the tables of scans; a column that one of them lacks has no value there."""
        ours = {column.name: column.values[self.rows[:, 0]] for column in self.store.columns}
        theirs = {column.name: column.values[self.rows[:, 1]] for column in columns_of(self.cohort.scans)}
        for name in dict.fromkeys([*ours, *theirs]):
            here, there = ours.get(name), theirs.get(name)
            known = here if here is not None else there
            assert known is not None
            unknown: Any = "" if known.dtype == object else np.nan
            here = np.full(len(self.rows), unknown, known.dtype) if here is None else here
            there = np.full(len(self.rows), unknown, known.dtype) if there is None else there
            if here.dtype != there.dtype:
                differ = np.ones(len(self.rows), bool)
            elif here.dtype == object:
                differ = here != there
            else:
                differ = ~((here == there) | (np.isnan(here) & np.isnan(there)))
            yield from _damage(name, "the source says something else", self._named(np.flatnonzero(differ)))

    def measurements(self, compared: Callable[[int], None]) -> Iterator[Damage]:
        for key in self.cohort.sources:
            if key not in self.store.modalities:
                yield Damage(key, _NEWER, to_do=_IF_SOURCE)
        for key, modality in self.store.modalities.items():
            source = self.cohort.sources.get(key)
            if source is None:
                has = self.store.present(key)[self.rows[:, 0]]
                yield from _damage(key, _NOT_THERE, self._named(np.flatnonzero(has)))
                compared(len(self.rows))
                continue
            try:
                places = feature_places(modality, source.modality, of="the source", where=self.store.path)
            except StoreError as problem:
                what = problem.what.removeprefix(f"{key} ")
                yield Damage(key, f"{what}; no values were compared", to_do=_IF_SOURCE)
                compared(len(self.rows))
                continue
            yield from self._values(_Measurement(self.store, key, source, places), compared)

    def _values(self, measurement: _Measurement, compared: Callable[[int], None]) -> Iterator[Damage]:
        """Differences of one modality, those of a kind together."""
        refused = {refusal.identity: refusal.reason for refusal in self.cohort.account.refusals}
        by_problem: dict[str, list[int]] = {}
        images = measurement.source.modality.kind != "features"
        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS) if images else 1
        with ThreadPoolExecutor(threads, thread_name_prefix="compare") as pool:
            for some in cut(len(self.rows), _AT_ONCE):
                pairs = self.rows[some.start : some.stop].tolist()
                for place, problem in zip(some, pool.map(measurement.difference, pairs), strict=True):
                    scan = self.store.identities[self.rows[place, 0]]
                    if problem == _NOT_THERE and scan in refused:
                        problem = f"{_NOT_THERE}: refused now ({refused[scan]})"
                    if problem is not None:
                        by_problem.setdefault(problem, []).append(place)
                    compared(1)
        for problem, places in by_problem.items():
            yield from _damage(measurement.key, problem, self._named(places))

    def _named(self, places: Sequence[int] | np.ndarray) -> list[str]:
        return [self.names[place] for place in places]


@dataclass(frozen=True)
class _Measurement:
    """One modality of a store and of a source; `places` is where its features are in the source."""

    store: Store
    key: str
    source: ModalitySource
    places: np.ndarray | None

    def difference(self, rows: Sequence[int]) -> str | None:
        """What is different in a row of the store and one of the source, in words; None if nothing is."""
        ours, theirs = rows
        has, refused = self.store.present(self.key)[ours], self._refused[ours]
        if not self.source.present[theirs]:
            return _NOT_THERE if has else None
        if not has and not refused:
            return _NEWER
        try:
            same = self._same(ours, self.source.load(theirs))
        except ScanRefused as refusal:
            return f"refused now: {in_one_line(refusal)}" if has else None
        except OSError as problem:
            return f"cannot be read now ({problem.strerror or type(problem).__name__})" if has else None
        if not has:
            return f"taken now, and refused when it was converted: {refused}"
        return None if same else _OTHER

    def _same(self, row: int, loaded: np.ndarray | ScaledIntegers) -> bool:
        modality, encoding = self.store.modalities[self.key], self.store.encoding(self.key)
        if self.places is not None:
            assert isinstance(loaded, np.ndarray), "features are never integers"
            _, found = features_kept(modality, loaded[self.places])
        elif encoding.is_scaled and self.source.stored.numbers != encoding.stored.numbers:
            values = loaded.values() if isinstance(loaded, ScaledIntegers) else loaded
            if not self.store.present(self.key)[row]:
                return False
            return np.array_equal(self.store.read(self.key, [row])[0], values)
        else:
            found = image_kept(modality, encoding, loaded).checksum
        return bool(found == self._checksums[row])

    @cached_property
    def _refused(self) -> np.ndarray:
        return self.store.refused(self.key)

    @cached_property
    def _checksums(self) -> np.ndarray:
        return self.store.checksums(self.key)


def _damage(key: str, problem: str, scans: Sequence[str], to_do: str = _IF_SOURCE) -> Iterator[Damage]:
    if len(scans):
        yield Damage(key, problem, tuple(scans), to_do)
