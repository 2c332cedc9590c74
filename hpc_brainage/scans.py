"""What a scan is: its identity, what is known about the person, and which scans are meant.

Cohorts, stores and score tables hold the same table of scans, a `pandas.DataFrame` with one row per
scan and the columns of `SCAN_COLUMNS` first, then whatever else the cohort knew:

================  =======  ==========================================================
column            type     meaning
================  =======  ==========================================================
`participant_id`  text     who; always text (OpenBHB's are 12 digits), no `sub-`
`session_id`      text     which visit, no `ses-`; "" where the cohort has only one
`run`             text     which repetition, no `run-`; "" where there is only one
`age`             float64  years at the scan; NaN where unknown
`sex`             text     "F", "M", or "U" where unknown
`site`            text     scanner or centre; "" where unknown
`split`           text     the cohort's own split ("train", "internal_test", ...) or ""
`diagnosis`       text     the cohort's own word for it, or ""
================  =======  ==========================================================
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from hpc_brainage.errors import UsageError, nearest

IDENTITY = ("participant_id", "session_id", "run")
SCAN_COLUMNS = (*IDENTITY, "age", "sex", "site", "split", "diagnosis")
SEXES = ("F", "M", "U")
FIELD_STRENGTH = "magnetic_field_strength"
"""The column in which OpenBHB and others say the scanner's field, tesla."""

# What may follow a dot in a selection. A selection may come with somebody else's recipe, and a column
# also has methods that write files.
QUESTIONS = (
    "str", "contains", "startswith", "endswith", "lower", "upper", "strip", "len",
    "isin", "between", "isna", "isnull", "notna", "notnull", "abs",
)  # fmt: skip
_VALUES_SHOWN = 8
_QUOTED = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`[^`\n]*`""")


def scan_name(participant_id: str, session_id: str = "", run: str = "") -> str:
    """The BIDS spelling of an identity: `sub-01_ses-2_run-1`."""
    name = f"sub-{participant_id}"
    if session_id:
        name += f"_ses-{session_id}"
    if run:
        name += f"_run-{run}"
    return name


def scan_names(scans: pd.DataFrame) -> list[str]:
    """The identities of a scan table in its own order."""
    return [scan_name(*row) for row in scans[list(IDENTITY)].itertuples(index=False, name=None)]


def field_strengths(column: pd.Series) -> pd.Series:
    """Field strengths as text, tesla, so that 3, "3.0" and "3" are the same; "" where unknown."""
    tesla = pd.to_numeric(column, errors="coerce")
    return pd.Series(["" if pd.isna(t) else f"{t:g}" for t in tesla], index=column.index, dtype=object)


def with_plain_cells(scans: pd.DataFrame) -> pd.DataFrame:
    """The table with its further columns as a store keeps them: numbers, or text that is "" if unknown.

    So a selection means the same scans in a cohort as in the store that the cohort becomes.
    """
    plain = scans.copy()
    for name in scans.columns:
        column = scans[name]
        if name in SCAN_COLUMNS or pd.api.types.is_numeric_dtype(column):
            continue
        unknown = column.isna()
        words = ["" if missing else str(cell) for cell, missing in zip(column, unknown, strict=True)]
        plain[name] = pd.Series(words, index=scans.index, dtype=object)
    return plain


def select_scans(scans: pd.DataFrame, where: str | None, said: str = "--where") -> np.ndarray:
    """Rows for which the expression `where` holds, as a boolean array of shape (scans,).

    `where` is written in terms of the columns, as in `"dx == 'TC' and age >= 18"`, with a column whose
    name is not one word in backticks. A row whose value is unknown does not match a comparison, except
    with `!=`. `None` selects every row. `said` names the option or setting in an error.

    Raises
    ------
    UsageError : the expression is not understood, names an unknown column, or selects nothing.
    """
    if where is None:
        return np.ones(len(scans), dtype=bool)
    _refuse_more_than_questions(where, said)
    try:
        chosen = scans.eval(where, engine="python", local_dict={}, global_dict={})
    except Exception as problem:
        unknown = re.search(r"name '(\w+)' is not defined", str(problem))
        hint = (
            nearest(unknown.group(1), scans.columns)
            if unknown
            else f"columns: {', '.join(map(str, scans.columns))}"
        )
        raise UsageError(
            f"the selection is not understood ({problem})",
            where=f"{said} {where!r}",
            expected="a comparison of columns, as in \"diagnosis == 'TC' and age >= 18\"",
            hint=hint,
        ) from None
    chosen = np.asarray(chosen)
    if chosen.shape != (len(scans),) or chosen.dtype != bool:
        raise UsageError(
            "the selection does not say yes or no for each scan",
            where=f"{said} {where!r}",
            expected="a comparison, as in \"site == 'NYU'\"",
        )
    if len(scans) and not chosen.any():
        raise UsageError(
            f"the selection matches none of the {len(scans)} scans",
            where=f"{said} {where!r}",
            hint=_values_asked_about(scans, where),
        )
    return chosen


def _values_asked_about(scans: pd.DataFrame, where: str) -> str:
    """The values of the columns that a selection names, the most frequent first."""
    words = set(re.findall(r"\w+", _QUOTED.sub(" ", where)))
    words |= {quoted[1:-1] for quoted in _QUOTED.findall(where) if quoted.startswith("`")}
    told = []
    for name in [name for name in scans.columns if name in words]:
        column = scans[name]
        if pd.api.types.is_numeric_dtype(column) and column.nunique() > _VALUES_SHOWN:
            told.append(f"{name} is from {column.min():g} to {column.max():g}")
            continue
        values = column.astype(object).where(column.notna(), "").value_counts()
        shown = ", ".join(f"{value!r} ({times})" for value, times in values.head(_VALUES_SHOWN).items())
        more = f", ... {len(values)} in all" if len(values) > _VALUES_SHOWN else ""
        told.append(f"{name} is {shown}{more}")
    return "; ".join(told)


def _refuse_more_than_questions(where: str, said: str) -> None:
    """A selection asks; it does not call, assign or reach beyond the table."""
    code = _QUOTED.sub("''", where)
    if re.search(r"[@#;\n]|__", code):
        raise UsageError("a selection may only name columns and values", where=f"{said} {where!r}")
    for name in re.findall(r"\.\s*([^\W\d]\w*)", code):
        if name not in QUESTIONS:
            raise UsageError(
                f"a selection cannot use .{name}", where=f"{said} {where!r}", hint=nearest(name, QUESTIONS)
            )
