"""Tables and numbers as text."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from hpc_brainage.evaluation.intervals import Interval
from hpc_brainage.numerals import interval, probability


@dataclass(frozen=True)
class Table:
    """A table of texts with its title."""

    title: str
    content: pd.DataFrame


def markdown_table(table: pd.DataFrame, decimals: int = 3) -> str:
    """The table with its columns' names on top; numbers to `decimals`, what is not known left empty."""
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    lines += [[_cell(value, decimals) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval_text(one: Interval | None) -> str:
    """An interval of a difference, "+0.04 to +0.26"; nothing where there is none."""
    return "" if one is None else interval(one.low, one.high, sign=True)


def probability_text(p: float | None) -> str:
    """A p value to three decimals; nothing where there is none."""
    return "" if p is None else probability(p)


def _cell(value: object, decimals: int) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.{decimals}f}"
    return str(value).replace("|", "\\|")
