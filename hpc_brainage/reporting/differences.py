"""A figure of differences: a line for each variant, with its interval, around that of no difference."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_brainage.files import write_bytes

_DPI = 150
_SURE, _UNSURE = "#b2182b", "#4d4d4d"


@dataclass(frozen=True)
class Line:
    """One variant.

    Attributes
    ----------
    name : as it stands on the left.
    difference : from the reference, years.
    low, high : its interval; None where there is none.
    sure : whether the difference is told from chance; drawn in another colour.
    """

    name: str
    difference: float
    low: float | None
    high: float | None
    sure: bool


def draw_differences(path: Path, panels: Sequence[tuple[str, Sequence[Line]]], axis: str) -> Path:
    """Write a figure with a panel for each (title, lines), all with the same horizontal axis.

    Parameters
    ----------
    path : of the figure; its ending says the format (.png, .svg, .pdf).
    panels : title and lines, top to bottom.
    axis : what the horizontal axis says.
    """
    from matplotlib.figure import Figure

    longest = max(len(lines) for _, lines in panels)
    figure = Figure(figsize=(4.2 * len(panels) + 2, 0.28 * longest + 1.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for (title, lines), one in zip(panels, axes, strict=True):
        for place, line in enumerate(lines):
            colour = _SURE if line.sure else _UNSURE
            if line.low is not None and line.high is not None:
                one.plot([line.low, line.high], [place, place], color=colour, linewidth=1.5)
            one.plot(line.difference, place, "o", color=colour, markersize=4)
        one.axvline(0, color="black", linewidth=0.8)
        one.set_yticks(range(len(lines)), [line.name for line in lines], fontsize=8)
        one.invert_yaxis()
        one.set_title(title, fontsize=9)
        one.set_xlabel(axis, fontsize=8)
        one.tick_params(axis="x", labelsize=8)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), dpi=_DPI)
    write_bytes(path, content.getvalue())
    return path
