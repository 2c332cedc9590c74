"""Which columns of a table are measurements of a brain.

A column is one because its name says so, because it was asked for, or because the whole table was given
as measurements of one role; numbers about the person or the image quality never become brain features
in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pandas as pd
from pandas.api.types import is_numeric_dtype

from hpc_brainage.cohorts.feature_names import brain_columns, is_not_brain_name
from hpc_brainage.cohorts.freesurfer_names import newest_spelling, older_spelling
from hpc_brainage.cohorts.region_names import region_name


@dataclass(frozen=True)
class ChosenColumns:
    """Which columns of a table are measurements, and what was decided about the others.

    Parameters
    ----------
    by_pattern : they were chosen by their spelling, and by nothing else.
    """

    features: tuple[str, ...]
    notes: tuple[str, ...] = ()
    by_pattern: bool = False


def choose_features(
    frame: pd.DataFrame,
    mapped: Sequence[str],
    *,
    patterns: str | None = None,
    declared: bool = False,
    source: str,
) -> ChosenColumns:
    """Choose the columns that are measurements; every other number column is named in a note.

    Parameters
    ----------
    mapped : columns that say who, how old and so on.
    patterns : "lh_*,rh_*": exactly the columns that match one of these are measurements; a table in
        which none does is judged as if there were no patterns.
    declared : the table was given as measurements. Where fewer than half of its number columns have
        names of brain measurements, all of them count that are not known to be about the person, the
        visit or the image quality. In a table that was not declared, only the names count.
    """
    free = [str(name) for name in frame.columns if name not in mapped]
    notes: list[str] = []
    matching = matching_columns(free, patterns)
    chosen = matching or _by_name(frame, free, declared)
    features = []
    for name in chosen:
        if is_numeric_dtype(frame[name]) or _mostly_numbers(frame[name]):
            features.append(name)
        else:
            notes.append(f"{source}: {name} holds mostly text and is no measurement")
    taken = set(features)
    others = [name for name in free if name not in taken and is_numeric_dtype(frame[name])]
    if others and features:
        notes.append(
            f"{source}: {len(features)} columns are measurements; other numbers are carried along: "
            f"{listed(others, 40)} (--features chooses otherwise)"
        )
    return ChosenColumns(tuple(features), tuple(notes), by_pattern=bool(matching))


def matching_columns(names: Sequence[str], patterns: str | None) -> list[str]:
    """The names that match one of the comma-separated glob patterns; none without patterns.

    A region is matched by the name that it has in the table, and by those of FreeSurfer.
    """
    wanted = [pattern.strip() for pattern in (patterns or "").split(",") if pattern.strip()]
    return [
        name
        for name in names
        if any(
            fnmatchcase(spelling, pattern)
            for spelling in {name, region_name(name), newest_spelling(name), older_spelling(name)}
            for pattern in wanted
        )
    ]


def listed(names: Sequence[str], shown: int = 6) -> str:
    """The first few names, and how many there are if there are more."""
    return ", ".join(names[:shown]) + (f", ... ({len(names)})" if len(names) > shown else "")


def _by_name(frame: pd.DataFrame, free: Sequence[str], declared: bool) -> list[str]:
    brain = brain_columns(free)
    numbers = [name for name in free if is_numeric_dtype(frame[name]) or _mostly_numbers(frame[name])]
    named = [name for name in numbers if name in brain]
    if not declared or 2 * len(named) >= len(numbers):
        return [name for name in free if name in brain]
    return [name for name in numbers if not is_not_brain_name(name)]


def _mostly_numbers(column: pd.Series) -> bool:
    """Whether more than half of a text column's known cells are numbers."""
    known = column.dropna()
    return bool(len(known)) and bool(pd.to_numeric(known, errors="coerce").notna().mean() > 0.5)
