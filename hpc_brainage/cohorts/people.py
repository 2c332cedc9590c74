"""Who was scanned: identities, ages in years, sexes and sites out of a table, row by row.

A row that cannot be trusted (an age that is no number, two ages for one person) is refused with its
reason; a column that cannot be trusted (ages in months, sexes in unknown codes) stops the reading,
since guessing there would make every age or sex wrong at once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import OLDEST_PLAUSIBLE_YEARS, Account, Refusal
from hpc_brainage.cohorts.columns import ColumnMap, recognise_columns, unknown_identity
from hpc_brainage.cohorts.tables import MISSING_MARKERS
from hpc_brainage.errors import CohortError, UsageError
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS, scan_name

__all__ = ["ColumnMap", "People", "read_people"]

SAME_AGE_YEARS = 1e-6

_PREFIXES = {"participant_id": "sub-", "session_id": "ses-", "run": "run-"}
_SEX_WORDS = {
    **dict.fromkeys(("m", "male", "man", "boy"), "M"),
    **dict.fromkeys(("f", "female", "woman", "girl"), "F"),
    **dict.fromkeys(("u", "o", "x", "other", "unknown"), "U"),
}


@dataclass(frozen=True)
class People:
    """The scans of a table.

    Parameters
    ----------
    scans : `SCAN_COLUMNS`, then the further columns of the table, with a RangeIndex.
    rows : shape (scans,), the row of the table that each scan came from.
    account : refusals and notes.
    """

    scans: pd.DataFrame
    rows: np.ndarray
    account: Account


def read_people(
    frame: pd.DataFrame, columns: ColumnMap, *, source: str, extras: Collection[str] | None = None
) -> People:
    """Read identities, ages, sexes and sites; keep the order of the table.

    Parameters
    ----------
    frame : one row per scan, as `read_table` gives it.
    columns : which column holds what; those not named are recognised by their usual names.
    source : the table's name, for messages.
    extras : further columns to carry along; all of them if not given. A mapped column whose own name
        is not the standard one (`dx` as diagnosis) is carried along too, so that a selection may name
        it; a further column whose name is taken by a standard one becomes `original_<name>`.

    Raises
    ------
    CohortError : no identity column, a named column that does not exist, ages that cannot be years,
        sex codes that are not explained.
    """
    columns = recognise_columns([str(name) for name in frame.columns], columns, source=source)
    if columns.id is None:
        raise unknown_identity([str(name) for name in frame.columns], source)
    notes = [*frame.attrs.get("notes", ())]
    scans = pd.DataFrame(index=frame.index)
    scans["participant_id"] = _names(frame, columns.id, _PREFIXES["participant_id"])
    scans["session_id"] = _names(frame, columns.session, _PREFIXES["session_id"])
    scans["run"] = _names(frame, columns.run, _PREFIXES["run"])
    why: dict[int, str] = {}
    scans["age"] = _ages(frame, columns, source, notes, why)
    scans["sex"] = _sexes(frame, columns, source, notes)
    scans["site"] = _names(frame, columns.site)
    scans["split"] = _names(frame, columns.split)
    scans["diagnosis"] = _names(frame, columns.diagnosis)
    scans = scans.reset_index(drop=True)
    for row in np.flatnonzero(scans["participant_id"] == ""):
        why[int(row)] = "the row has no participant id"
    dropped = _repeated(frame, scans, columns, source, notes, why)

    taken = np.array([row for row in range(len(scans)) if row not in why and row not in dropped], int)
    further = _further(frame, columns, extras)
    kept = pd.concat(
        [scans, *(frame[old].reset_index(drop=True).rename(new) for old, new in further.items())],
        axis=1,
    )
    refusals = tuple(_refusal(scans, row, source, why[row]) for row in sorted(why))
    result = kept.iloc[taken].reset_index(drop=True)
    result.attrs = {}
    if columns.age is not None and (unknown := int(result["age"].isna().sum())):
        scan = "scan has" if unknown == 1 else "scans have"
        notes.append(f"{source}: {unknown} {scan} no age (can be scored, not trained on)")
    return People(result, taken, Account(refusals=refusals, notes=tuple(notes)))


def as_text(values: pd.Series) -> pd.Series:
    """Words without surrounding blanks, "" where missing; 51456.0 in a column of numbers is "51456"."""
    if pd.api.types.is_float_dtype(values):
        whole = values.map(lambda value: "" if pd.isna(value) else _plain_number(float(value)))
        return whole.astype(object)
    words = values.map(lambda value: "" if pd.isna(value) else str(value).strip()).astype(object)
    return words.mask(words.isin(MISSING_MARKERS), "")


def identities(values: pd.Series, prefix: str = "sub-") -> pd.Series:
    """Identities as text, without blanks and without the BIDS prefix."""
    words = as_text(values).map(lambda word: re.sub(r"^(\d+)\.0$", r"\1", word))
    return words.map(lambda word: word.removeprefix(prefix))


def _plain_number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _names(frame: pd.DataFrame, column: str | None, prefix: str | None = None) -> pd.Series:
    if column is None:
        return pd.Series("", index=frame.index, dtype=object)
    return as_text(frame[column]) if prefix is None else identities(frame[column], prefix)


def _ages(
    frame: pd.DataFrame, columns: ColumnMap, source: str, notes: list[str], why: dict[int, str]
) -> np.ndarray:
    """Ages in years, shape (rows,); rows whose age is impossible are written into `why`."""
    if columns.age is None:
        return np.full(len(frame), np.nan)
    where = f"{source}, column {columns.age}"
    given = frame[columns.age].reset_index(drop=True)
    words = as_text(given)
    ages = pd.to_numeric(words.mask(words == "", np.nan), errors="coerce").to_numpy(float, copy=True)
    no_number = (words != "").to_numpy() & ~np.isfinite(ages)
    if no_number.any() and not np.isfinite(ages).any():
        raise CohortError(
            f"no age is a number: {', '.join(repr(word) for word in words[no_number].unique()[:4])}",
            where=where,
            expected="ages in years, such as 23.4",
            hint="name another column with --age, or write the ages as numbers",
        )
    if columns.age_unit == "months":
        ages /= 12.0
        notes.append(f"{source}: ages were given in months and are kept in years")
    known = ages[np.isfinite(ages)]
    if len(known) and np.mean(known > OLDEST_PLAUSIBLE_YEARS) > 0.5:
        raise _not_years(float(np.median(known)), columns.age_unit, where)
    for row in np.flatnonzero(no_number):
        why[int(row)] = f"its age is {words[row]!r}, which is not a number"
        ages[row] = np.nan
    for row in np.flatnonzero((ages < 0) | (ages > OLDEST_PLAUSIBLE_YEARS)):
        why[int(row)] = f"its age of {ages[row]:g} years is impossible"
        ages[row] = np.nan
    return ages


def _not_years(median: float, unit: str, where: str) -> CohortError:
    looks_like = "days"
    if median <= 12 * OLDEST_PLAUSIBLE_YEARS and unit == "years":
        looks_like = "months"
    elif 1850 < median < 2100:
        looks_like = "years of birth"
    return CohortError(
        f"the values cannot be years: they look like {looks_like} (median {median:g})",
        where=where,
        expected=f"ages between 0 and {OLDEST_PLAUSIBLE_YEARS} years",
        hint="say so with --age-unit months"
        if looks_like == "months"
        else "name a column of ages with --age",
    )


def _sexes(frame: pd.DataFrame, columns: ColumnMap, source: str, notes: list[str]) -> np.ndarray:
    """ "F", "M" or "U" for each row."""
    if columns.sex is None:
        return np.full(len(frame), "U", dtype=object)
    where = f"{source}, column {columns.sex}"
    meanings = {**_SEX_WORDS, "": "U", **_codes(columns.sex_codes or {})}
    words = as_text(frame[columns.sex]).str.casefold()
    strange = words[~words.isin(list(meanings))]
    if len(strange):
        counts = ", ".join(f"{word!r} ({times})" for word, times in strange.value_counts().items())
        raise CohortError(
            f"sex is coded in a way that is not explained: {counts}",
            where=where,
            expected="M or F (or words such as male, female, unknown)",
            hint="say what the codes mean, as in --sex-codes 1=M,2=F",
        )
    sexes = words.map(meanings).to_numpy(object)
    if unknown := int((sexes == "U").sum()):
        notes.append(f"{source}: sex is unknown for {unknown} of {len(sexes)} rows")
    return sexes


def _codes(sex_codes: Mapping[str, str]) -> dict[str, str]:
    codes: dict[str, str] = {}
    for code, meaning in sex_codes.items():
        word = _SEX_WORDS.get(str(meaning).strip().casefold())
        if word is None:
            raise UsageError(
                f"the sex code {code!r} means {meaning!r}, which is no sex",
                where="--sex-codes",
                expected="M, F or U, as in --sex-codes 1=M,2=F",
            )
        codes[re.sub(r"^(-?\d+)\.0$", r"\1", str(code).strip().casefold())] = word
    return codes


def _repeated(
    frame: pd.DataFrame,
    scans: pd.DataFrame,
    columns: ColumnMap,
    source: str,
    notes: list[str],
    why: dict[int, str],
) -> set[int]:
    """Rows that say again what an earlier row says; rows that contradict each other go into `why`."""
    named = scans["participant_id"] != ""
    repeats = scans[named & scans.duplicated(list(IDENTITY), keep=False)]
    dropped: set[int] = set()
    twice = 0
    for _, rows in repeats.groupby(list(IDENTITY), sort=False):
        scan = scan_name(*rows.iloc[0][list(IDENTITY)])
        places = [int(row) for row in rows.index]
        if reason := _contradiction(frame.iloc[places], rows, columns):
            why.update(dict.fromkeys(places, f"{scan} {reason}"))
        elif not any(place in why for place in places):
            dropped.update(places[1:])
            twice += 1
    if twice:
        people = "scan is" if twice == 1 else "scans are"
        notes.append(f"{source}: {twice} {people} listed more than once with the same values: kept once")
    return dropped


def _contradiction(table_rows: pd.DataFrame, rows: pd.DataFrame, columns: ColumnMap) -> str | None:
    """How the rows of one identity contradict each other, or None if they say the same."""
    ages = rows["age"].to_numpy(float)
    known = ages[np.isfinite(ages)]
    if len(known) and (known.max() - known.min() > SAME_AGE_YEARS or len(known) < len(ages)):
        return "has two ages: " + " and ".join(
            "none" if np.isnan(age) else f"{age:g}" for age in dict.fromkeys(ages.tolist())
        )
    if rows["sex"].nunique() > 1:
        return "has two sexes: " + " and ".join(rows["sex"].unique())
    others = table_rows.drop(columns=[name for name in (columns.age, columns.id) if name is not None])
    differing = [str(name) for name in others if others[name].nunique(dropna=False) > 1]
    if differing:
        more = f" and {len(differing) - 1} more columns" if len(differing) > 1 else ""
        return (
            f"has {len(rows)} different rows (they differ in {differing[0]}{more}); "
            "name a session or run column if these are several scans"
        )
    return None


def _further(frame: pd.DataFrame, columns: ColumnMap, extras: Collection[str] | None) -> dict[str, str]:
    """Further columns to carry along, and under which name."""
    mapped = columns.named()
    carried: dict[str, str] = {}
    for name in [str(name) for name in frame.columns]:
        if name == columns.id:
            continue
        if name in mapped.values():
            if name not in SCAN_COLUMNS:
                carried[name] = name
        elif extras is None or name in extras:
            carried[name] = f"original_{name}" if name in SCAN_COLUMNS else name
    return carried


def _refusal(scans: pd.DataFrame, row: int, source: str, reason: str) -> Refusal:
    participant, session, run = (str(scans[column].iloc[row]) for column in IDENTITY)
    return Refusal(participant or f"(row {row + 1})", session, run, source, reason)
