"""Two sources of one modality as one: columns side by side, people of several batches below each other.

A column that both sources have can mean three things, and the people whom both have tell which:

- the tables say the same of them: it is one column (the `eTIV` of both hemispheres' tables);
- the tables are of the same people, and say something else of at least half of them: it is another
  measurement that happens to have the same name, and is kept under the name of its table;
- they say something else of a few people only, or few people are in both (two batches that share
  somebody who was scanned twice): it is one column, and of those people there are two measurements of
  which nobody says which is meant. The first is kept, and the second source is refused for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_brainage.cohorts.cohort import ModalitySource
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.tables import table_stem
from hpc_brainage.errors import CohortError
from hpc_brainage.modality import Modality, modality_name

SAME_VALUE = 1e-6


@dataclass(frozen=True)
class SideBySide:
    """Two sources as one.

    Parameters
    ----------
    source : the modality with the columns of both; a scan that only one has is NaN in the other's.
    contradicting : row of the cohort -> how the second source contradicts the first; it is not used there.
    notes : columns that were renamed.
    """

    source: ModalitySource
    contradicting: dict[int, str]
    notes: tuple[str, ...]


def side_by_side(first: ModalitySource, second: ModalitySource, table: str) -> SideBySide:
    """One modality out of two of the same key, for the same cohort.

    Parameters
    ----------
    table : the name of the second source's table, for messages and for columns that are renamed.

    Raises
    ------
    CohortError : one of them is a volume or a surface.
    """
    ours, theirs = first.modality, second.modality
    if ours.kind != "features" or theirs.kind != "features":
        raise CohortError(
            f"two sources give {ours.key}: {ours.kind} and {theirs.kind} cannot stand side by side",
            where=table,
            hint=f"give one of them another name, as in --add {ours.role}/NAME=PATH",
        )
    place = {name: column for column, name in enumerate(ours.features)}
    shared = [column for column, name in enumerate(theirs.features) if name in place]
    here = np.array([place[theirs.features[column]] for column in shared], dtype=np.int64)
    there = np.array(shared, dtype=np.int64)
    rows, differ, known = _compare(first, second, here, there)
    smaller = min(int(first.present.sum()), int(second.present.sum()))
    same_people = 2 * len(rows) > smaller
    other = same_people & differ.any(axis=0) & (2 * differ.sum(axis=0) >= known.sum(axis=0))

    contradicting = {
        int(rows[at]): _contradiction(first, second, int(rows[at]), here[found], there[found])
        for at in np.flatnonzero(differ[:, ~other].any(axis=1))
        for found in [np.flatnonzero(differ[at] & ~other)]
    }
    ending = modality_name(table_stem(table))
    renamed = {theirs.features[column]: f"{theirs.features[column]}_{ending}" for column in there[other]}
    notes = []
    if renamed:
        shown = listed(list(renamed.values()), 3)
        notes.append(f"{table}: columns that differ from others of the same name are called {shown}")
    to, of = here[~other], there[~other]
    merged = set(of.tolist())
    new = [column for column in range(len(theirs.features)) if column not in merged]
    names = tuple(renamed.get(theirs.features[column], theirs.features[column]) for column in new)
    modality = Modality(
        ours.role,
        ours.name,
        "features",
        (len(ours.features) + len(new),),
        ours.features + names,
        ours.units + tuple(theirs.units[column] for column in new),
    )
    usable = second.present.copy()
    usable[list(contradicting)] = False

    def load(row: int) -> np.ndarray:
        values = np.full(modality.shape, np.nan, dtype=np.float32)
        if first.present[row]:
            values[: len(ours.features)] = first.values(row)
        if usable[row]:
            measured = second.values(row)
            values[len(ours.features) :] = measured[new]
            values[to] = np.where(np.isnan(values[to]), measured[of], values[to])
        return values

    fingerprint = " ".join(filter(None, (first.fingerprint, second.fingerprint)))
    both = ModalitySource(modality, first.present | usable, load, fingerprint)
    return SideBySide(both, contradicting, tuple(notes))


def _compare(
    first: ModalitySource, second: ModalitySource, here: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that both sources have; where their shared columns differ, and where both are known."""
    rows = np.flatnonzero(first.present & second.present) if len(here) else np.empty(0, dtype=np.int64)
    differ = np.zeros((len(rows), len(here)), dtype=bool)
    known = np.zeros_like(differ)
    for at, row in enumerate(rows.tolist()):
        ours, theirs = first.values(row)[here], second.values(row)[there]
        known[at] = ~(np.isnan(ours) | np.isnan(theirs))
        differ[at] = known[at] & ~np.isclose(ours, theirs, rtol=SAME_VALUE, atol=0)
    return rows, differ, known


def _contradiction(
    first: ModalitySource, second: ModalitySource, row: int, here: np.ndarray, there: np.ndarray
) -> str:
    name = first.modality.features[here[0]]
    ours, theirs = first.values(row)[here[0]], second.values(row)[there[0]]
    more = f" and {len(here) - 1} more features" if len(here) > 1 else ""
    return (
        f"an earlier source says something else of this scan ({name} is {ours:g} there and {theirs:g} here"
        f"{more}); the earlier one is kept"
    )
