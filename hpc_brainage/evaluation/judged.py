"""Whose predictions are held against their age: people without a diagnosis where they are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpc_brainage.evaluation.scored_coverage import FEWEST
from hpc_brainage.evaluation.scored_groups import MOST_GROUPS, control_group, group_values
from hpc_brainage.scoring.table import COLUMNS

EVERYONE = "everyone"


@dataclass(frozen=True)
class Judged:
    """A scored cohort, and those of it whose predictions are held against their age.

    Attributes
    ----------
    known : scored scans of known age: those that there is a gap of.
    group : the column whose groups are compared, or None; `labels` is the group of each of these scans, ""
        where unknown, empty without a column; `reference` is the group compared with.
    groups : by name, everybody and the people without a diagnosis, if they are known.
    who : what those judged are called: the last of `groups` that has twenty scans.
    healthy : whether they are known to be people without a diagnosis.
    """

    known: pd.DataFrame
    group: str | None
    labels: pd.Series
    reference: str | None
    groups: dict[str, pd.DataFrame]
    who: str
    healthy: bool

    @property
    def people(self) -> pd.DataFrame:
        """The scans of those who are judged."""
        return self.groups[self.who]


def judged(table: pd.DataFrame, group: str | None = None) -> Judged:
    """Choose whose predictions are judged in a score table.

    Who has no diagnosis is said by `diagnosis`; where it has no word for them, by the cohort's own column
    whose groups are compared. Groups of other columns, as sites or sexes, say nothing about it.

    Parameters
    ----------
    group : a column of the table whose groups are compared; by default `diagnosis`, where it says anything.

    Raises
    ------
    UsageError : there is no such column, or it has no groups but numbers or names.
    """
    rows = known_rows(table)
    known = table[rows].reset_index(drop=True)
    column = group or _default_group(table)
    labels = pd.Series(dtype=str)
    if column is not None:
        labels = group_values(table, column)[rows].reset_index(drop=True)
    diagnoses = _diagnoses(known)
    said, control = diagnoses, control_group(list(diagnoses))
    if control is None and column is not None and column not in COLUMNS:
        said, control = labels, control_group(list(labels))
    groups = {EVERYONE: known}
    if control is not None and (said == control).sum() < len(known):
        groups[control] = known[(said == control).to_numpy()]
    who = list(groups)[-1]
    if len(groups[who]) < FEWEST:
        who = EVERYONE
    if who == EVERYONE and diagnoses.nunique() == 1 and diagnoses[0]:
        who = str(diagnoses[0])
        groups = {who: known}
    healthy = who != EVERYONE and control_group([who]) is not None
    return Judged(known, column, labels, _reference(labels), groups, who, healthy)


def known_rows(table: pd.DataFrame) -> np.ndarray:
    """Which rows are scored and have an age: those that there is a gap of, bool (rows,)."""
    there = (table["status"] == "scored") & table["age"].notna() & table["brain_age"].notna()
    return there.to_numpy(dtype=bool)


def _default_group(table: pd.DataFrame) -> str | None:
    said = _diagnoses(table)
    return "diagnosis" if 2 <= said[said != ""].nunique() <= MOST_GROUPS else None


def _diagnoses(table: pd.DataFrame) -> pd.Series:
    """The diagnosis of each scan, "" where it is not known."""
    if "diagnosis" not in table:
        return pd.Series("", index=table.index)
    return table["diagnosis"].fillna("").astype(str).str.strip()


def _reference(labels: pd.Series) -> str | None:
    """Whom the groups are compared with: people without a diagnosis, or else the largest group."""
    sizes = labels[labels != ""].value_counts()
    return (control_group(list(sizes.index)) or str(sizes.index[0])) if len(sizes) else None
