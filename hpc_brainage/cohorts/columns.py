"""Which column of a table says who, how old, which sex and where: named by the user, or recognised."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from hpc_brainage.cohorts.tables import table_stem
from hpc_brainage.errors import CohortError, nearest

ROLES_OF_COLUMNS = ("id", "session", "run", "age", "sex", "site", "split", "diagnosis")

# Usual names, most telling first; the names within one group tell equally much.
_USUAL: dict[str, tuple[tuple[str, ...], ...]] = {
    "id": (
        ("participant_id",),
        (
            "subject_id",
            "subjectid",
            "subject",
            "sub_id",
            "sub",
            "subid",
            "file_id",
            "id",
            "ptid",
            "eid",
        ),
    ),
    "session": (("session_id",), ("session", "ses", "ses_id"), ("visit", "visit_id")),
    "run": (("run",), ("run_id",)),
    # not "scan_age": those of newborns (dHCP) are weeks since conception
    "age": (("age",), ("age_at_scan", "age_years", "age_in_years", "age_at_mri")),
    "sex": (("sex",), ("gender",)),
    "site": (("site",), ("site_id",), ("center", "centre")),
    "split": (("split",),),
    "diagnosis": (("diagnosis",), ("dx",), ("dx_group",), ("group",)),
}
_NO_YEARS = re.compile(r"months?|weeks?|days|(?<![a-z])(mos?|wks?)(?![a-z])")
# How FreeSurfer's table writers head the column of the subjects: `lh.aparc.area`, `Measure:volume`.
_FREESURFER_SUBJECTS = re.compile(r"measure:\w+|[lr]h\.(aparc|ba_exvivo|ba)\b.*", re.IGNORECASE)


@dataclass(frozen=True)
class ColumnMap:
    """Which columns of a table hold what; `None` means: recognise it by its usual name.

    Parameters
    ----------
    id, session, run, age, sex, site, split, diagnosis : column names.
    age_unit : what the numbers of the age column are; if it is not said, what the JSON beside the table
        states, else years.
    sex_codes : what the codes of the sex column mean, e.g. {"1": "M", "2": "F"}.
    """

    id: str | None = None
    session: str | None = None
    run: str | None = None
    age: str | None = None
    sex: str | None = None
    site: str | None = None
    split: str | None = None
    diagnosis: str | None = None
    age_unit: Literal["years", "months"] | None = None
    sex_codes: Mapping[str, str] | None = None

    def named(self) -> dict[str, str]:
        """The columns that are known, by what they hold, in a fixed order."""
        pairs = ((role, getattr(self, role)) for role in ROLES_OF_COLUMNS)
        return {role: column for role, column in pairs if column is not None}

    def describe(self) -> dict[str, object]:
        """What was said, as a JSON-able record without the things left unsaid."""
        standing = {item.name: item.default for item in fields(self)}
        said = {name: getattr(self, name) for name in standing if getattr(self, name) != standing[name]}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in said.items()}


def recognise_columns(names: Sequence[str], columns: ColumnMap, *, source: str) -> ColumnMap:
    """The map with every column filled in that the table has.

    A column that is named must exist. Of those not named, the one of the most telling usual name is
    taken, without regard to case; the identity may stay unknown (`None`) for the caller to decide.

    Raises
    ------
    CohortError : a named column does not exist, or two columns fit equally well.
    """
    found: dict[str, Any] = {}
    for role in ROLES_OF_COLUMNS:
        named = getattr(columns, role)
        if named is not None:
            found[role] = _existing(named, names, role, source)
    for role in ROLES_OF_COLUMNS:
        free = [name for name in names if name not in found.values()]
        if role not in found and (usual := _usual(role, free, source)) is not None:
            found[role] = usual
    return replace(columns, **found)


def usual_columns(names: Sequence[str], what: Sequence[str]) -> list[str]:
    """The columns whose names are usual for one of `what` ("id", "age", ...), in the table's order."""
    usual = {name for role in what for group in _USUAL[role] for name in group}
    subjects = _FREESURFER_SUBJECTS if "id" in what else None
    return [
        name for name in names if _plain(name) in usual or (subjects and subjects.fullmatch(name.strip()))
    ]


def heads_freesurfer_table(name: str) -> bool:
    """Whether a column is headed as FreeSurfer's table writers head that of the subjects."""
    return _FREESURFER_SUBJECTS.fullmatch(name.strip()) is not None


def no_age_column(names: Sequence[str], source: str) -> str:
    """What to tell about a table in which no column is recognised as the age."""
    similar = [name for name in names if re.match(r"[Aa]ge(?![a-z])", name)]
    shown = ", ".join(similar[:4]) + (", ..." if len(similar) > 4 else "")
    what = f"which column holds the age is not clear ({shown})" if similar else "no column holds ages"
    return f"{source}: {what}: name it with --age; without ages scans can be scored, not trained on"


def unknown_identity(names: Sequence[str], source: str) -> CohortError:
    """The error of a table in which nothing says who was scanned."""
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} columns)" if len(names) > 12 else "")
    return CohortError(
        "no column says who was scanned",
        where=source,
        expected=f"a column such as {', '.join(_USUAL['id'][0] + _USUAL['id'][1][:3])}",
        hint=f"name it with --id; the columns are {shown}",
    )


def age_unit_of_sidecar(
    table: Path, age_column: str, inherited: Path | None = None
) -> Literal["years", "months"] | None:
    """The unit of the age column as the JSON beside a BIDS table states it; None if it does not.

    Parameters
    ----------
    inherited : a JSON further up that holds where the table has none of its own.

    Raises
    ------
    CohortError : it states another unit, or speaks of months, weeks or days without stating one.
    """
    beside = table.with_name(f"{table_stem(table.name)}.json")
    sidecar = inherited if inherited is not None and not beside.is_file() else beside
    try:
        columns = json.loads(sidecar.read_text(encoding="utf-8-sig"))
        by_name = {str(name).casefold(): said for name, said in columns.items()}
        described = columns.get(age_column, by_name.get(age_column.casefold(), {}))
        unit = str(described.get("Units") or "").strip()
        words = " ".join(str(described.get(key) or "") for key in ("LongName", "Description"))
    except (OSError, ValueError, AttributeError):  # a courtesy: absent or odd, it says nothing
        return None
    if re.match(r"(months?|mo)\b", unit, re.IGNORECASE):
        return "months"
    if re.match(r"(years?|yrs?|y)\b", unit, re.IGNORECASE):
        return "years"
    in_words = re.search(r"\bin (months|weeks|days)\b|\b(months|weeks|days) old\b", words, re.IGNORECASE)
    if unit.casefold() not in ("", "n/a") or in_words:
        raise CohortError(
            f"the unit of the ages is not clear: {sidecar.name} says {unit or words!r}",
            where=f"{table}, column {age_column}",
            expected="Units of years or months",
            hint="say what they are with --age-unit years or --age-unit months, which comes before that "
            "file; ages in weeks or days must be divided first",
        )
    return None


def refuse_other_unit(age_column: str, source: str) -> None:
    """Raise `CohortError` if a column of ages, of which nobody said the unit, is named after another one.

    Months of small children are no years that anybody would wonder at.
    """
    if found := _NO_YEARS.search(age_column.casefold()):
        raise CohortError(
            f"the unit of the ages is not clear: the column is called {age_column}",
            where=source,
            expected=f"a word on whether these are {found[0]}",
            hint="say so with --age-unit months or --age-unit years; ages in weeks or days must be divided "
            "first",
        )


def _existing(named: str, names: Sequence[str], role: str, source: str) -> str:
    if named in names:
        return named
    same = [name for name in names if name.casefold() == named.casefold()]
    if len(same) == 1:
        return same[0]
    raise CohortError(f"there is no column {named!r} (--{role})", where=source, hint=nearest(named, names))


def _usual(role: str, names: Sequence[str], source: str) -> str | None:
    for equals in _USUAL[role]:
        fitting = [name for name in names if _plain(name) in equals]
        if len(fitting) > 1:
            raise CohortError(
                f"{len(fitting)} columns could hold the {role}: {', '.join(fitting)}",
                where=source,
                expected="one, or a word which one is meant",
                hint=f"name it, as in --{role} {fitting[0]}",
            )
        if fitting:
            return fitting[0]
    if role == "id" and names and _FREESURFER_SUBJECTS.fullmatch(names[0].strip()):
        return names[0]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s.\-]+", "_", name.strip().casefold())
