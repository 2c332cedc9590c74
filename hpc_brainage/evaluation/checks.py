"""What a check of scores is: a question, what was found, and a judgement; and what several come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

YES, CARE, NO, OPEN = "yes", "care", "no", "open"
"""Usable; usable with care; not usable; this table cannot tell."""


class Check(NamedTuple):
    """A question that was asked of scores, and its answer.

    Attributes
    ----------
    answer : what was found, which a summary says; it follows the question and begins small.
    judgement : "yes", "care", "no" or "open".
    explanation : sentences on what the answer comes of and what it means, without full stops.
    """

    question: str
    answer: str
    judgement: str
    explanation: tuple[str, ...] = ()

    @property
    def finding(self) -> str:
        """The answer and its explanation."""
        return ". ".join([self.answer, *map(_large, self.explanation)])


def as_table(checks: Iterable[Check]) -> pd.DataFrame:
    """Columns `check` (the question), `answer`, `finding` (the answer and its explanation), `judgement`."""
    rows = [(check.question, check.answer, check.finding, check.judgement) for check in checks]
    return pd.DataFrame(rows, columns=["check", "answer", "finding", "judgement"])


_HEAVIEST_FIRST = (NO, OPEN, CARE, YES)


def against(checks: pd.DataFrame) -> pd.DataFrame:
    """The checks that are no plain yes, the heaviest first: `check`, `judgement`, `brief` (the answer)."""
    order = checks["judgement"].map(_HEAVIEST_FIRST.index).sort_values(kind="stable")
    rows = checks.loc[order.index[order < _HEAVIEST_FIRST.index(YES)]]
    brief = rows["answer"].map(_large)
    return rows[["check", "judgement"]].assign(brief=brief).reset_index(drop=True)


def overall(checks: pd.DataFrame) -> str:
    """The judgement that weighs most: "no" before "open" before "care" before "yes"."""
    judged = set(checks["judgement"])
    return next(answer for answer in _HEAVIEST_FIRST if answer in judged)


def _large(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
