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
from hpc_brainage.cohorts.columns import (
    ColumnMap,
    recognise_columns,
    refuse_other_unit,
    unknown_identity,
)
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.tables import MISSING_MARKERS, WORD_FOR_NOTHING
from hpc_brainage.errors import CohortError, UsageError
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS, scan_name

__all__ = ["ColumnMap", "People", "read_people"]

SAME_AGE_YEARS = 1e-6
MOST_SLIPS = 0.01
OLDEST_USUAL_MEDIAN = 100.0
_CODES_SHOWN = 8
_CODES_OF_MISSING = {777.0, 888.0, 999.0, 7777.0, 8888.0, 9999.0}

_WHOLE = re.compile(r"^(-?\d+)\.0$")
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
    CohortError : no identity column, a named column that does not exist, ages that cannot be years or
        whose column is named after another unit, sex codes that are not explained.
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
    scans["diagnosis"] = _diagnoses(frame, columns.diagnosis)
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
    refusals = _refusals(scans, source, why)
    result = kept.iloc[taken].reset_index(drop=True)
    result.attrs = {}
    if columns.age is not None and (unknown := int(result["age"].isna().sum())):
        scan = "scan has" if unknown == 1 else "scans have"
        notes.append(f"{source}: {unknown} {scan} no age (can be scored, not trained on)")
    notes += _two_sexes(result, source)
    return People(result, taken, Account(refusals=refusals, notes=tuple(notes)))


def as_text(values: pd.Series, missing: Collection[str] = MISSING_MARKERS) -> pd.Series:
    """Words without surrounding blanks, "" where missing; 51456.0 in a column of numbers is "51456"."""
    if pd.api.types.is_float_dtype(values):
        whole = values.map(lambda value: "" if pd.isna(value) else _plain_number(float(value)))
        return whole.astype(object)
    words = values.map(lambda value: "" if pd.isna(value) else str(value).strip()).astype(object)
    return words.mask(words.isin(list(missing)), "")


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


def _diagnoses(frame: pd.DataFrame, column: str | None) -> pd.Series:
    """The cohort's own words; "None" is one of them, for people who have no diagnosis."""
    if column is None:
        return _names(frame, None)
    return as_text(frame[column], [marker for marker in MISSING_MARKERS if marker != WORD_FOR_NOTHING])


def _ages(
    frame: pd.DataFrame, columns: ColumnMap, source: str, notes: list[str], why: dict[int, str]
) -> np.ndarray:
    """Ages in years, shape (rows,); rows whose age is impossible are written into `why`."""
    if columns.age is None:
        return np.full(len(frame), np.nan)
    where = f"{source}, column {columns.age}"
    if columns.age_unit is None:
        refuse_other_unit(columns.age, source)
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
    _refuse_what_is_not_years(ages[np.isfinite(ages)], columns.age_unit, where)
    for row in np.flatnonzero(no_number):
        why[int(row)] = f"its age is {words[row]!r}, which is not a number"
        ages[row] = np.nan
    for row in np.flatnonzero((ages < 0) | (ages > OLDEST_PLAUSIBLE_YEARS)):
        why[int(row)] = f"its age of {ages[row]:g} years is impossible"
        ages[row] = np.nan
    return ages


def _refuse_what_is_not_years(ages: np.ndarray, unit: str | None, where: str) -> None:
    """Stop the reading where the known ages as a whole cannot be years.

    One slip of the pen in a large table costs one scan. Where more than `MOST_SLIPS` of the ages are
    beyond a human life, or the median person is older than `OLDEST_USUAL_MEDIAN` and nobody said that
    these are years, the others are in the same wrong unit, only less visibly so.
    """
    beyond = ages[ages > OLDEST_PLAUSIBLE_YEARS]
    many = len(beyond) > MOST_SLIPS * len(ages) and (len(beyond) > 1 or len(ages) < 20)
    old = len(ages) > 0 and bool(np.median(ages) > OLDEST_USUAL_MEDIAN) and unit is None
    if not many and not old:
        return
    typical = float(np.median(beyond if len(beyond) else ages))
    looks_like, hint = "days", "name a column of ages with --age, or write them in years"
    if len(beyond) and set(beyond.tolist()) <= _CODES_OF_MISSING:
        looks_like, hint = "codes for a missing age", "write n/a or nothing where the age is not known"
    elif 1850 < typical < 2100:
        looks_like, hint = "years of birth", "name a column of ages with --age"
    elif typical <= 12 * OLDEST_PLAUSIBLE_YEARS and unit != "months":
        looks_like, hint = "months", "say so with --age-unit months"
    raise CohortError(
        f"the values cannot be years: they look like {looks_like} ({len(beyond)} of {len(ages)} are above "
        f"{OLDEST_PLAUSIBLE_YEARS}; their median is {np.median(ages):g})",
        where=where,
        expected=f"ages between 0 and {OLDEST_PLAUSIBLE_YEARS} years",
        hint=hint,
    )


def _sexes(frame: pd.DataFrame, columns: ColumnMap, source: str, notes: list[str]) -> np.ndarray:
    """ "F", "M" or "U" for each row."""
    if columns.sex is None:
        return np.full(len(frame), "U", dtype=object)
    where = f"{source}, column {columns.sex}"
    meanings = {**_SEX_WORDS, "": "U", **_codes(columns.sex_codes or {})}
    words = as_text(frame[columns.sex]).str.casefold().str.replace(_WHOLE, r"\1", regex=True)
    strange = words[~words.isin(list(meanings))]
    if len(strange):
        seen = strange.value_counts()
        counts = listed([f"{word!r} ({times})" for word, times in seen.items()], _CODES_SHOWN)
        open_codes = dict.fromkeys(sorted(map(str, seen.index[:_CODES_SHOWN])), "?")
        codes = ",".join(f"{c}={sex}" for c, sex in {**(columns.sex_codes or {}), **open_codes}.items())
        raise CohortError(
            f"sex is coded in a way that is not explained: {counts}",
            where=where,
            expected="M or F (or words such as male, female, unknown)",
            hint=f"say what the codes mean: --sex-codes {codes} with F, M or U (unknown) for each ?",
        )
    sexes = words.map(meanings).to_numpy(object)
    if unknown := int((sexes == "U").sum()):
        notes.append(f"{source}: sex is unknown for {unknown} of {len(sexes)} rows")
    return sexes


def _two_sexes(scans: pd.DataFrame, source: str) -> list[str]:
    """A word about people who are F in one of their scans and M in another; their scans stay."""
    told = scans[scans["sex"] != "U"].drop_duplicates(["participant_id", "sex"])
    both = told["participant_id"][told["participant_id"].duplicated()].tolist()
    if not both:
        return []
    return [f"{source}: {len(both)} people are F in one scan and M in another: {listed(both)}"]


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
        codes[_WHOLE.sub(r"\1", str(code).strip().casefold())] = word
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
    others = frame.drop(columns=[name for name in (columns.age, columns.id) if name is not None])
    differing = _differing(others.iloc[repeats.index], repeats)
    dropped: set[int] = set()
    twice = 0
    for _, rows in repeats.groupby(list(IDENTITY), sort=False):
        scan = scan_name(*rows.iloc[0][list(IDENTITY)])
        places = [int(row) for row in rows.index]
        if reason := _contradiction(rows, differing.get(places[0], [])):
            why.update(dict.fromkeys(places, f"{scan} {reason}"))
        elif not any(place in why for place in places):
            dropped.update(places[1:])
            twice += 1
    if twice:
        people = "scan is" if twice == 1 else "scans are"
        notes.append(f"{source}: {twice} {people} listed more than once with the same values: kept once")
    return dropped


def _differing(cells: pd.DataFrame, repeats: pd.DataFrame) -> dict[int, list[str]]:
    """First row of an identity -> the columns of `cells` in which its rows differ."""
    group = repeats.groupby(list(IDENTITY), sort=False).ngroup().to_numpy()
    first = np.unique(group, return_index=True)[1]
    found: dict[int, list[str]] = {}
    for name in cells.columns:
        codes = pd.factorize(cells[name], use_na_sentinel=False)[0]
        for one in np.unique(group[codes != codes[first[group]]]):
            found.setdefault(int(repeats.index[first[one]]), []).append(str(name))
    return found


def _contradiction(rows: pd.DataFrame, differing: list[str]) -> str | None:
    """How the rows of one identity contradict each other, or None if they say the same."""
    ages = rows["age"].to_numpy(float)
    known = ages[np.isfinite(ages)]
    if len(known) and (known.max() - known.min() > SAME_AGE_YEARS or len(known) < len(ages)):
        return "has two ages: " + " and ".join(
            "none" if np.isnan(age) else f"{age:g}" for age in dict.fromkeys(ages.tolist())
        )
    if rows["sex"].nunique() > 1:
        return "has two sexes: " + " and ".join(rows["sex"].unique())
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
            carried[name] = name
    for name in [name for name in carried if name in SCAN_COLUMNS]:
        carried[name] = free_name(f"original_{name}", carried.values())
    return carried


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, numbered if there is a column of that name already."""
    count, free = 1, name
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free


def _refusals(scans: pd.DataFrame, source: str, why: Mapping[int, str]) -> tuple[Refusal, ...]:
    """One for each scan that is refused, with every reason that its rows give."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in sorted(why):
        participant, session, run = (str(scans[column].iloc[row]) for column in IDENTITY)
        reasons.setdefault((participant or f"(row {row + 1})", session, run), []).append(why[row])
    return tuple(Refusal(*scan, source, "; ".join(dict.fromkeys(said))) for scan, said in reasons.items())
