"""A cohort: who was scanned, what is known about them, and how to load each measurement.

Every reader returns a `Cohort`. Nothing is read from images until a scan is loaded, so a cohort of
50,000 scans is only a table; what cannot be used is listed in the `Account`, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.errors import CohortError
from hpc_brainage.modality import Modality, ScaledIntegers, Stored
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS, SEXES, scan_name, select_scans

OLDEST_PLAUSIBLE_YEARS = 122.5


@dataclass(frozen=True)
class Refusal:
    """A scan that a source had and that was not taken, and why."""

    participant_id: str
    session_id: str
    run: str
    source: str
    reason: str

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.participant_id, self.session_id, self.run

    @property
    def scan(self) -> str:
        return scan_name(*self.identity)


@dataclass(frozen=True)
class JoinedSource:
    """How one source met the cohort.

    Parameters
    ----------
    rows, matched : what the source has, and how much of it is in the cohort.
    only_here : participant, session and run of scans that the source has and the cohort does not know.
    without : how many scans of the cohort the source lacks.
    unmeasured : identities that the source, a table of people, names and of which nobody has a
        measurement.
    """

    source: str
    rows: int
    matched: int
    only_here: tuple[tuple[str, str, str], ...] = ()
    without: int = 0
    unmeasured: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Account:
    """Where every row of every source went."""

    sources: tuple[JoinedSource, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: Account) -> Account:
        return Account(
            self.sources + other.sources,
            self.refusals + other.refusals,
            tuple(dict.fromkeys(self.notes + other.notes)),
        )


@dataclass(frozen=True)
class ModalitySource:
    """How to load one modality, scan by scan.

    Parameters
    ----------
    modality : what the loaded arrays are.
    present : shape (scans,), whether the source has this modality for each scan of the cohort.
    load : row of the cohort -> array of `modality.shape`, float32, in any memory order. A missing feature
        is NaN; a volume has none. Where `stored` says integers: `ScaledIntegers` of that type. Raises
        `ScanRefused` when what is on disk cannot be trusted. May be called from several threads at once.
    fingerprint : changes when a file of single scans is replaced by another; "" where the recipe of the
        cohort already tells.
    stored : how a store shall keep the numbers, so that no voxel has to be moved or widened.
    """

    modality: Modality
    present: np.ndarray
    load: Callable[[int], np.ndarray | ScaledIntegers]
    fingerprint: str = ""
    stored: Stored = field(default_factory=Stored)

    def values(self, row: int) -> np.ndarray:
        """What `load` gives, as float32 of `modality.shape` whatever a store keeps of it."""
        loaded = self.load(row)
        return loaded.values() if isinstance(loaded, ScaledIntegers) else loaded

    def take(self, rows: np.ndarray) -> ModalitySource:
        """The same source for a choice (and order) of the cohort's rows."""
        rows = np.asarray(rows)
        load = self.load
        return replace(self, present=self.present[rows], load=lambda row: load(int(rows[row])))


@dataclass(frozen=True)
class Cohort:
    """Scans, what is known about them, and how to load them.

    Parameters
    ----------
    name : of the cohort, for messages and the default store name.
    scans : one row per scan, `SCAN_COLUMNS` first, then any further columns of the cohort.
    sources : by modality key ("smri/desikan"), in a stable order.
    account : where every row of every source went.
    recipe : how the cohort was read: reader, files by name and hash, options. JSON-able, without paths.
    """

    name: str
    scans: pd.DataFrame
    sources: dict[str, ModalitySource]
    account: Account = field(default_factory=Account)
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = tuple(self.scans.columns[: len(SCAN_COLUMNS)])
        assert columns == SCAN_COLUMNS, f"a reader must give {SCAN_COLUMNS}, got {columns}"
        assert isinstance(self.scans.index, pd.RangeIndex), "a reader must number its scans from 0"
        assert self.scans["sex"].isin(SEXES).all(), "a reader must give sex as F, M or U"
        assert self.scans.columns.is_unique, "a reader must name each column once"
        _check_spelling(self.scans)
        known = self.scans["age"].dropna()
        assert known.between(0, OLDEST_PLAUSIBLE_YEARS).all(), "a reader must refuse impossible ages"
        if self.scans.duplicated(list(IDENTITY)).any():
            first = self.scans[self.scans.duplicated(list(IDENTITY))].iloc[0]
            raise CohortError(
                "two scans have the same identity",
                where=scan_name(*first[list(IDENTITY)]),
                expected="one row per participant, session and run",
                hint="name a session or run column, or remove one of the rows",
            )
        for key, source in self.sources.items():
            assert key == source.modality.key
            assert source.present.shape == (len(self.scans),)

    def __len__(self) -> int:
        return len(self.scans)

    def take(self, rows: np.ndarray) -> Cohort:
        """The cohort of the given rows, in the given order."""
        rows = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            scans=self.scans.iloc[rows].reset_index(drop=True),
            sources={key: source.take(rows) for key, source in self.sources.items()},
        )

    def where(self, expression: str | None) -> Cohort:
        """Only the scans for which `expression` holds (see `select_scans`); the rest is noted.

        A refusal of something about a scan that is left out is no loss of this selection: it is counted
        and not listed. Of whom the cohort has no row, nobody can say whether the selection means them.
        """
        if expression is None:
            return self
        chosen = select_scans(self.scans, expression)
        kept = tuple(self.account.refusals[place] for place in self._refusals_within(chosen))
        return self.only(chosen, kept, f"--where {expression!r}")

    def only(self, chosen: np.ndarray, kept: tuple[Refusal, ...], said: str) -> Cohort:
        """The chosen scans, and those refusals that concern them; what is left out is noted.

        Parameters
        ----------
        chosen : shape (scans,), bool.
        kept : the refusals that stay listed.
        said : what chose, for the note.
        """
        note = f"{int((~chosen).sum())} of {len(self)} scans left out by {said}"
        if idle := len(self.account.refusals) - len(kept):
            note += f"; {idle} refusals are of those and are not listed"
        account = replace(self.account, refusals=kept) + Account(notes=(note,))
        return replace(self.take(np.flatnonzero(chosen)), account=account)

    def _refusals_within(self, chosen: np.ndarray) -> list[int]:
        """Places of the refusals that are not of scans outside a selection."""
        names = list(self.scans[list(IDENTITY)].itertuples(index=False, name=None))
        scan_is_chosen = dict(zip(names, chosen.tolist(), strict=True))
        someone = {participant: False for participant, _, _ in names}
        for (participant, _, _), is_chosen in scan_is_chosen.items():
            someone[participant] |= is_chosen
        return [
            place
            for place, refusal in enumerate(self.account.refusals)
            for scan in [refusal.identity]
            if scan_is_chosen.get(scan, someone.get(refusal.participant_id, True))
        ]


def _check_spelling(scans: pd.DataFrame) -> None:
    """A file name that is no UTF-8 reaches us with halves of characters, which no file can hold."""
    for row, scan in enumerate(scans[list(IDENTITY)].itertuples(index=False, name=None)):
        try:
            "".join(scan).encode()
        except UnicodeEncodeError:
            raise CohortError(
                "an identity holds characters that are no text",
                where=f"scan {row + 1}: {scan_name(*scan)!a}",
                expected="names in UTF-8",
                hint="rename this person's files (convmv changes the encoding of file names)",
            ) from None
