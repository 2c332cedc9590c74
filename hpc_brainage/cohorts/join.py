"""Join what several sources know about the same scans.

Scans meet by participant, and by session and run where both sides have them; a match that is not one to
one is an error, never a guess. Two sources of the same modality (the tables of the left and the right
hemisphere) become one (see `side_by_side`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.side_by_side import side_by_side
from hpc_brainage.errors import CohortError
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS


def join(main: Cohort, side: Cohort) -> Cohort:
    """The scans of `main` with the modalities and further columns of `side` added.

    What `main` says about a person stays; of `side` come the modalities, the further columns that
    `main` does not have, and the account. Scans that only `side` knows are listed there and left out.

    Raises
    ------
    CohortError : nothing matches; several scans on one side could be the one on the other side.
    """
    keys = ["participant_id"] + [
        column
        for column in IDENTITY[1:]
        if (main.scans[column] != "").any() and (side.scans[column] != "").any()
    ]
    ours = pd.MultiIndex.from_frame(main.scans[keys])
    theirs = pd.MultiIndex.from_frame(side.scans[keys])
    _refuse_ambiguous(ours, theirs, side, main)
    row_there = _positions(ours, theirs)
    known = row_there >= 0
    if len(main) and len(side) and not known.any():
        raise CohortError(
            "no scan of this source is in the cohort",
            where=side.name,
            expected=f"identities such as {', '.join(main.scans['participant_id'][:3])}",
            hint=f"its identities are {', '.join(side.scans['participant_id'][:3])}; see --id",
        )
    notes: list[str] = []
    contradicting: dict[int, Refusal] = {}
    scans = _further_columns(main.scans, side, row_there, notes)
    sources = dict(main.sources)
    for key, source in side.sources.items():
        added = _at_rows(source, row_there)
        if key in sources:
            both = side_by_side(sources[key], added, side.name)
            added = both.source
            notes += both.notes
            names = _identities(main.scans)
            for row, reason in both.contradicting.items():
                contradicting.setdefault(row, Refusal(*names[row], side.name, reason))
        sources[key] = added
    strangers = np.flatnonzero(_positions(theirs, ours) < 0)
    joined = JoinedSource(
        side.name,
        rows=sum(source.rows for source in side.account.sources),
        matched=int(known.sum()) - len(contradicting),
        only_here=tuple(_identities(side.scans.iloc[strangers])),
        without=int((~known).sum()),
    )
    account = Account((joined,), *_refused_here(main, side))
    further = Account(refusals=tuple(contradicting.values()), notes=tuple(notes))
    account = main.account + account + further
    recipe = {**main.recipe, "added": [*main.recipe.get("added", []), side.recipe]}
    return Cohort(main.name, scans, sources, account, recipe)


def without_the_unmeasured(cohort: Cohort) -> Cohort:
    """Only the scans that have at least one modality; the others are listed at the first source."""
    present = np.zeros(len(cohort), dtype=bool)
    for source in cohort.sources.values():
        present |= source.present
    if present.all():
        return cohort
    names = tuple(_identities(cohort.scans[~present]))
    note = f"{len(names)} scans have no measurement in any source and are left out"
    first, *others = cohort.account.sources
    first = replace(first, matched=first.matched - len(names), unmeasured=first.unmeasured + names)
    account = replace(cohort.account, sources=(first, *others)) + Account(notes=(note,))
    return replace(cohort.take(np.flatnonzero(present)), account=account)


def _identities(scans: pd.DataFrame) -> list[tuple[str, str, str]]:
    return list(scans[list(IDENTITY)].itertuples(index=False, name=None))


def _positions(of: pd.MultiIndex, within: pd.MultiIndex) -> np.ndarray:
    """For each entry of `of` its (first) row in `within`, -1 where it is not."""
    row_of: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(within.tolist()):
        row_of.setdefault(key, row)
    return np.array([row_of.get(key, -1) for key in of.tolist()], dtype=np.int64)


def _refuse_ambiguous(ours: pd.MultiIndex, theirs: pd.MultiIndex, side: Cohort, main: Cohort) -> None:
    """A key that both have must be one scan on each side."""
    unnamed = [one.name for one in (main, side) if not (one.scans["session_id"] != "").any()]
    lacking = f" (there is none in {' and '.join(unnamed)})" if unnamed else ""
    name_them = f"give both the session column that --session names{lacking}"
    for here, there, name, other in (
        (theirs, ours, side.name, main.name),
        (ours, theirs, main.name, side.name),
    ):
        repeated = here[here.duplicated(keep=False) & here.isin(there)].unique()
        if len(repeated):
            people = listed(["sub-" + "_".join(key) for key in repeated.tolist()], 3)
            raise CohortError(
                f"{people} have several scans here, and {other} does not say which is meant",
                where=name,
                expected="one scan per participant, or session names in both sources",
                hint=f"{name_them}, or keep one scan per participant",
            )


def _refused_here(main: Cohort, side: Cohort) -> tuple[tuple[Refusal, ...], tuple[str, ...]]:
    """Refusals of people whom the cohort knows; of strangers only how many there were."""
    ids = set(main.scans["participant_id"])
    known = tuple(refusal for refusal in side.account.refusals if refusal.participant_id in ids)
    strangers = len(side.account.refusals) - len(known)
    notes = side.account.notes
    if strangers:
        notes += (f"{side.name}: {strangers} rows that cannot be used are not of this cohort",)
    return known, notes


def _further_columns(
    scans: pd.DataFrame, side: Cohort, row_there: np.ndarray, notes: list[str]
) -> pd.DataFrame:
    further = [column for column in side.scans.columns if column not in SCAN_COLUMNS]
    clashing = [column for column in further if column in scans.columns]
    new = [column for column in further if column not in clashing]
    if clashing:
        notes.append(f"{side.name}: the cohort's own columns are kept: {listed(clashing)}")
    if not new:
        return scans
    added = side.scans[new].reindex(row_there).reset_index(drop=True)
    return pd.concat([scans, added], axis=1)


def _at_rows(source: ModalitySource, row_there: np.ndarray) -> ModalitySource:
    """A side's modality in the order of the cohort."""
    known = row_there >= 0
    present = np.zeros(len(row_there), dtype=bool)
    present[known] = source.present[row_there[known]]
    return replace(source, present=present, load=lambda row: source.load(int(row_there[row])))
