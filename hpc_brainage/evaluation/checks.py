"""What a check of scores is: a question, what was found, and a judgement; and what several come to.

The first sentence of a finding is its answer, which a summary says; what follows explains it.
"""

from __future__ import annotations

import pandas as pd

YES, CARE, NO, OPEN = "yes", "care", "no", "open"
"""Usable; usable with care; not usable; this table cannot tell."""

Check = tuple[str, str, str]
"""Question, finding and judgement."""


def sentences(findings: list[str]) -> str:
    """Several findings as one: the first follows a question and begins small, the others begin large."""
    first, *others = findings
    return ". ".join([first, *(one[:1].upper() + one[1:] for one in others)])


_HEAVIEST_FIRST = (NO, OPEN, CARE, YES)


def against(checks: pd.DataFrame) -> pd.DataFrame:
    """The checks that are no plain yes, the heaviest first: `check`, `judgement`, `brief` (the answer)."""
    order = checks["judgement"].map(_HEAVIEST_FIRST.index).sort_values(kind="stable")
    rows = checks.loc[order.index[order < _HEAVIEST_FIRST.index(YES)]]
    answers = [finding.partition(". ")[0] for finding in rows["finding"]]
    brief = [one[:1].upper() + one[1:] for one in answers]
    return rows[["check", "judgement"]].assign(brief=brief).reset_index(drop=True)


def overall(checks: pd.DataFrame) -> str:
    """The judgement that weighs most: "no" before "open" before "care" before "yes"."""
    judged = set(checks["judgement"])
    return next(answer for answer in _HEAVIEST_FIRST if answer in judged)
