"""The one rule by which two predictors are told apart, and the words for it.

A difference is *told apart from chance* if each of its bootstrap intervals excludes zero: over people, and
over sites where there are enough of them. Intervals speak of the predictors as they were trained here. How
much another training would change is asked by the corrected test over splits (`intervals`), which of a
handful of splits sees large differences only; so its p stands beside the intervals and decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpc_brainage.evaluation.intervals import SIGNIFICANT, Interval
from hpc_brainage.evaluation.tables import interval_text, probability_text
from hpc_brainage.numerals import number


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap intervals over people and over sites; None where not defined."""

    value: float | None
    people: Interval | None = None
    sites: Interval | None = None

    @property
    def intervals(self) -> dict[str, Interval]:
        """By what is drawn, the intervals that there are."""
        both = {"people": self.people, "sites": self.sites}
        return {what: interval for what, interval in both.items() if interval is not None}

    @property
    def is_told_apart(self) -> bool:
        """Whether there is an interval, and all exclude zero on the same side."""
        found = self.intervals.values()
        return bool(found) and (all(i.low > 0 for i in found) or all(i.high < 0 for i in found))

    @property
    def is_below_zero(self) -> bool:
        return self.is_told_apart and all(i.high < 0 for i in self.intervals.values())

    @property
    def is_above_zero(self) -> bool:
        return self.is_told_apart and not self.is_below_zero


def by_its_intervals(difference: Estimate) -> str:
    """What a difference is told apart by: "by its intervals over people and over sites"."""
    drawn = [f"over {what}" for what in difference.intervals]
    return f"by its interval{'s' if len(drawn) > 1 else ''} {' and '.join(drawn)}"


def difference_said(difference: Estimate, p: float | None, splits: int, corrected: str = "") -> str:
    """A difference in MAE, its intervals, and what the test over splits says, in words.

    Parameters
    ----------
    p : of the corrected test over the splits; None where there is none.
    splits : how many.
    corrected : for what p was corrected, as in "after Holm".
    """
    intervals = [f"{interval_text(i)} over {what}" for what, i in difference.intervals.items()]
    value = math.nan if difference.value is None else difference.value
    said = f"difference {number(value, sign=True)} years"
    said += f", 95 % {', '.join(intervals)}" if intervals else ", too few people for an interval"
    if p is None:
        return said
    agrees = "also tells them apart" if p < SIGNIFICANT else "does not tell them apart"
    if not difference.is_told_apart:
        agrees = "tells them apart" if p < SIGNIFICANT else agrees
    after = f" {corrected}" if corrected else ""
    return f"{said}; the corrected test over {splits} splits {agrees}, p {probability_text(p)}{after}"
