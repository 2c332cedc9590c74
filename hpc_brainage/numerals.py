"""Numbers as a reader sees them, in tables and in sentences."""

from __future__ import annotations

import numpy as np

UNKNOWN = "–"


def number(value: float, decimals: int = 2, *, sign: bool = False, percent: bool = False) -> str:
    """A number with a true minus, "1,234.50", "+0.30" or "12 %"; a dash where it is not known.

    Parameters
    ----------
    decimals : digits after the point; what they round to 0 has no sign.
    sign : whether a positive number shows it.
    percent : whether the number is a share that is shown in per cent.
    """
    if not np.isfinite(value):
        return UNKNOWN
    if percent:
        return f"{100 * value:.{decimals}f} %"
    text = f"{value:+,.{decimals}f}" if sign else f"{value:,.{decimals}f}"
    if not float(text.replace(",", "")):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def interval(
    low: float, high: float, decimals: int = 2, *, sign: bool = False, percent: bool = False
) -> str:
    """The ends of an interval, "0.59 to 0.77"; nothing where there is none."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    ends = (number(end, decimals, sign=sign, percent=percent) for end in (low, high))
    return " to ".join(end.removesuffix(" %") for end in ends)


def percent(share: float) -> str:
    """A share in per cent, with a decimal below one: "12 %", "0.4 %"."""
    return number(share, 1 if 0 < share < 0.01 else 0, percent=True)


def probability(p: float) -> str:
    """A p value to three decimals, "<0.001" below."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def many(count: int, one: str, more: str | None = None) -> str:
    """A count with its noun: "1 scan", "1,200 scans"; `more` is its plural where an s does not make it."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"
