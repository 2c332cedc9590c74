"""Who the scans of a BIDS tree are of: participants.tsv, and the age at a visit from sessions.tsv."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import Account, JoinedSource, Refusal
from hpc_brainage.cohorts.columns import (
    ColumnMap,
    age_unit_of_sidecar,
    no_age_column,
    recognise_columns,
    refuse_other_unit,
    unknown_identity,
)
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.file_identity import Identity, scans_of
from hpc_brainage.cohorts.people import People, read_people
from hpc_brainage.cohorts.tables import column_names, read_table
from hpc_brainage.errors import CohortError
from hpc_brainage.files import sha256_of, sha256_of_file
from hpc_brainage.provenance import input_file
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS, scan_name

PARTICIPANTS = "participants.tsv"
SESSIONS = "sessions.tsv"


@dataclass(frozen=True)
class TreePeople:
    """The scans of a tree with what is known about the people; refused ones are only in the account."""

    scans: pd.DataFrame
    account: Account = field(default_factory=Account)
    files: tuple[dict[str, Any], ...] = ()


def people_of_tree(folder: Path, found: Sequence[Identity], columns: ColumnMap) -> TreePeople:
    """What the tables of a data set say about the scans that its tree holds, in the order of `found`.

    Tables are looked for in the tree itself and, if it lies in `derivatives/`, in the data set above.
    The age at a visit that a participant's `sub-*_sessions.tsv` states comes before that of
    participants.tsv; of a visit that it leaves out while it states others, the age is unknown. Scans of
    people who are not in participants.tsv stay, with unknown age; those of people whose row cannot be used
    are refused.

    Parameters
    ----------
    found : participant, session and run of each scan.
    columns : of participants.tsv.

    Raises
    ------
    CohortError : as `read_people`; the unit of the ages is not clear (see `age_unit_of_sidecar`); or
        nobody of participants.tsv is in the tree.
    """
    home = folder.resolve().parent
    roots = [folder, *([home.parent] if home.name == "derivatives" else [])]
    ages = _ages_at_visits(roots, sorted({participant for participant, _, _ in found}), columns)
    table = next((root / PARTICIPANTS for root in roots if (root / PARTICIPANTS).is_file()), None)
    if table is None:
        note = f"{folder.name}: there is no {PARTICIPANTS}, so people are not known"
        tree = TreePeople(scans_of(found), Account(notes=(note,)))
    else:
        tree = _match(found, table, columns, bool(ages.years))
    return _with_ages_at_visits(tree, ages)


def _match(found: Sequence[Identity], table: Path, columns: ColumnMap, ages_elsewhere: bool) -> TreePeople:
    """Scans with the rows of participants.tsv that they are of."""
    frame, people = _read_participants(table, columns, ages_elsewhere)
    by_visit = bool((people.scans["session_id"] != "").any()) and any(session for _, session, _ in found)
    row_of: dict[tuple[str, str], int] = {}
    for row, (participant, session) in enumerate(
        people.scans[["participant_id", "session_id"]].itertuples(index=False, name=None)
    ):
        if row_of.setdefault((participant, session if by_visit else ""), row) != row:
            raise CohortError(
                f"sub-{participant} has several sessions here, and the names of the files have none",
                where=table,
                expected="one row per participant, or files named by session",
            )
    refused = {
        (refusal.participant_id, refusal.session_id if by_visit else ""): refusal
        for refusal in people.account.refusals
    }
    visits = [(participant, session if by_visit else "") for participant, session, _ in found]
    rows = np.array([row_of.get(visit, -1) for visit in visits], dtype=np.int64)
    met = {visit for visit in visits if visit in row_of or visit in refused}
    if found and len(frame) and not met:
        raise CohortError(
            f"nobody of {PARTICIPANTS} is in this tree",
            where=table,
            expected=f"participants such as {listed(sorted({who for who, _ in visits}), 3)}",
            hint=f"its participants are {listed(people.scans['participant_id'].tolist(), 3)}; see --id",
        )
    taken = [place for place, visit in enumerate(visits) if visit not in refused]
    scans = people.scans.reindex(rows[taken]).reset_index(drop=True)
    identity = scans_of([found[place] for place in taken])
    scans[list(IDENTITY)] = identity[list(IDENTITY)]
    for column in SCAN_COLUMNS[len(IDENTITY) :]:
        if column != "age":
            scans[column] = scans[column].where(rows[taken] >= 0, identity[column])
    strangers = [scan_name(*found[place]) for place in taken if rows[place] < 0]
    idle = [visit for visit in row_of if visit not in met]
    notes = list(people.account.notes)
    if strangers:
        notes.append(
            f"{len(strangers)} scans are of people who are not in {PARTICIPANTS}; nothing is known about "
            f"them: {listed(strangers)}"
        )
    if unmet := [visit for visit in refused if visit not in met]:
        notes.append(f"{PARTICIPANTS}: {len(unmet)} rows that cannot be used are of people without a scan")
    joined = JoinedSource(
        PARTICIPANTS,
        rows=len(frame),
        matched=len(set(row_of) & met),
        unmeasured=tuple((*visit, "") for visit in idle),
        without=len(strangers),
    )
    refusals = tuple(refusal for visit, refusal in refused.items() if visit in met)
    account = Account((joined,), refusals, tuple(notes))
    return TreePeople(scans, account, (input_file(table),))


def _read_participants(
    table: Path, columns: ColumnMap, ages_elsewhere: bool
) -> tuple[pd.DataFrame, People]:
    header = column_names(table)
    if ages_elsewhere and columns.age not in header:
        columns = replace(columns, age=None)
    columns = recognise_columns(header, columns, source=str(table))
    if columns.id is None:
        raise unknown_identity(header, str(table))
    if columns.age is not None and columns.age_unit is None:
        columns = replace(columns, age_unit=age_unit_of_sidecar(table, columns.age))
    words = [column for what, column in columns.named().items() if what not in ("age", "sex")]
    frame = read_table(table, text=words)
    people = read_people(frame, columns, source=PARTICIPANTS)
    if columns.age is None and not ages_elsewhere:
        notes = (*people.account.notes, no_age_column(header, PARTICIPANTS))
        people = replace(people, account=replace(people.account, notes=notes))
    return frame, people


@dataclass(frozen=True)
class _VisitAges:
    """Ages in years by participant and session, and why some are not to be had."""

    years: dict[tuple[str, str], float]
    refused: dict[tuple[str, str], str]
    months: bool
    files: tuple[dict[str, Any], ...]


def _ages_at_visits(roots: Sequence[Path], participants: Sequence[str], columns: ColumnMap) -> _VisitAges:
    parts: dict[Literal["years", "months"], list[pd.DataFrame]] = defaultdict(list)
    refused: dict[tuple[str, str], str] = {}
    contents = []
    for participant in participants:
        names = [root / f"sub-{participant}" / f"sub-{participant}_{SESSIONS}" for root in roots]
        table = next((path for path in names if path.is_file()), None)
        if table is None:
            continue
        try:
            header = column_names(table)
            named = replace(ColumnMap(), age=columns.age if columns.age in header else None)
            which = recognise_columns(header, named, source=str(table))
            if which.age is None or which.session is None:
                continue
            frame = read_table(table, text=[which.session])
        except CohortError as problem:
            refused[participant, ""] = f"its {SESSIONS} cannot be read: {problem.what}"
            continue
        inherited = table.parent.parent / "sessions.json"
        unit = columns.age_unit or age_unit_of_sidecar(table, which.age, inherited)
        if unit is None:
            refuse_other_unit(which.age, str(table))
            unit = "years"
        rows = {"participant_id": participant, "session_id": frame[which.session], "age": frame[which.age]}
        parts[unit].append(pd.DataFrame(rows))
        contents.append([table.name, sha256_of_file(table)])
    years: dict[tuple[str, str], float] = {}
    for unit, frames in parts.items():
        known = ColumnMap("participant_id", "session_id", age="age", age_unit=unit)
        people = read_people(pd.concat(frames, ignore_index=True), known, source=SESSIONS, extras=())
        said = people.scans[["participant_id", "session_id", "age"]].itertuples(index=False, name=None)
        years |= {(who, session): age for who, session, age in said if np.isfinite(age)}
        refused |= {
            (refusal.participant_id, refusal.session_id): refusal.reason
            for refusal in people.account.refusals
        }
    tables = {"name": f"sub-*_{SESSIONS}", "tables": len(contents), "sha256": sha256_of(contents)}
    return _VisitAges(years, refused, "months" in parts, (tables,) if contents else ())


def _with_ages_at_visits(tree: TreePeople, ages: _VisitAges) -> TreePeople:
    scans = tree.scans.copy()
    visits = list(scans[["participant_id", "session_id"]].itertuples(index=False, name=None))
    told = np.array([visit in ages.years for visit in visits], dtype=bool)
    scans.loc[told, "age"] = [ages.years[visit] for visit in visits if visit in ages.years]
    notes = []
    # whose other visits have ages of their own: of which visit the one in participants.tsv is, nobody says
    followed = {participant for participant, _ in ages.years}
    left_out = ~told & np.array([session != "" and who in followed for who, session in visits], dtype=bool)
    if left_out.any():
        scans.loc[left_out, "age"] = np.nan
        notes.append(
            f"the age of {int(left_out.sum())} scans is unknown: {SESSIONS} states it for other visits of "
            f"these people, and {PARTICIPANTS} does not say for which visit its own is"
        )
    if told.any():
        unit = ", given in months and kept in years" if ages.months else ""
        notes.append(f"the age of {int(told.sum())} scans is that at the visit ({SESSIONS}{unit})")
    refusals = []
    kept = []
    for row, (participant, session) in enumerate(visits):
        reason = ages.refused.get((participant, session), ages.refused.get((participant, "")))
        if reason is None:
            kept.append(row)
        else:
            refusals.append(Refusal(participant, session, scans["run"].iloc[row], SESSIONS, reason))
    untold = scans[~told & scans["age"].notna()]
    if several := int((untold.groupby("participant_id")["session_id"].nunique() > 1).sum()):
        notes.append(f"{several} people have several sessions, for which there is only one age")
    account = tree.account + Account(refusals=tuple(refusals), notes=tuple(notes))
    return TreePeople(scans.iloc[kept].reset_index(drop=True), account, tree.files + ages.files)
