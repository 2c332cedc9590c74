"""A data frame as a Markdown table."""

from __future__ import annotations

import pandas as pd


def markdown_table(table: pd.DataFrame, decimals: int = 3) -> str:
    """The table with its columns' names on top; numbers to `decimals`, what is not known left empty."""
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    lines += [[_cell(value, decimals) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object, decimals: int) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.{decimals}f}"
    return str(value).replace("|", "\\|")
