"""The figures of a report on scores, each as an SVG that takes the page's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hpc_brainage.reporting.page import plain
from hpc_brainage.reporting.themed_svg import (
    INK,
    MARKERS,
    MUTED,
    RULE,
    SERIES,
    new_figure,
    page_style,
    themed_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 1500
"""More people than this are counted in squares: a point for each would weigh megabytes."""
_SQUARES = 48
_LONGEST_NAME = 22
_MOST_ROWS = 40
_MOST_FEATURES = 15
_ROW = 0.21


def predicted_against_true(
    age_N: np.ndarray,
    predicted_N: np.ndarray,
    group_N: Sequence[str],
    line: tuple[float, float] | None,
    alt: str,
) -> str:
    """Predicted on true age, years, with the line of identity and the least-squares line.

    Parameters
    ----------
    group_N : of each scan, for the colour; all "" for one colour. Not drawn where there are many people.
    line : intercept and slope, years and years per year.
    """
    with page_style():
        figure = new_figure(4.0)
        axes = figure.subplots()
        low = float(min(age_N.min(), predicted_N.min()))
        high = float(max(age_N.max(), predicted_N.max()))
        room = 0.03 * (high - low) or 1.0
        axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
        axes.set_aspect("equal")
        _people(axes, age_N, predicted_N, group_N)
        axes.axline((low, low), slope=1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="identity")
        if line is not None:
            ends = np.array([age_N.min(), age_N.max()])
            axes.plot(ends, line[0] + line[1] * ends, color=INK, linewidth=1.4, label="least squares")
        axes.set(xlabel="age, years", ylabel="predicted age, years")
        axes.legend(loc="upper left", fontsize=8, handlelength=2.2)
        return themed_svg(figure, "predicted", alt)


def gaps_against_age(
    age_N: np.ndarray, gaps: Mapping[str, np.ndarray], group_N: Sequence[str], alt: str
) -> str:
    """Each kind of gap on age, years, one panel above the other on the same axes, with straight lines."""
    with page_style():
        figure = new_figure(0.5 + 2.35 * len(gaps))
        panels = figure.subplots(len(gaps), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, (title, gap_N) in zip(panels, gaps.items(), strict=True):
            there = np.isfinite(gap_N)
            x, y = age_N[there], gap_N[there]
            axes.set_title(title)
            axes.axhline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            if not len(x):
                continue
            _people(axes, x, y, [g for g, t in zip(group_N, there, strict=True) if t])
            if len(x) > 2 and np.ptp(x) > 0:
                slope, intercept = np.polyfit(x, y, 1)
                ends = np.array([x.min(), x.max()])
                axes.plot(ends, intercept + slope * ends, color=INK, linewidth=1.4)
            axes.set_ylabel("gap, years")
        panels[-1].set_xlabel("age, years")
        if len(set(group_N)) > 1 and len(age_N) <= MOST_POINTS:
            panels[0].legend(loc="upper right", fontsize=8, handlelength=1)
        return themed_svg(figure, "gaps", alt)


def distributions(values: Mapping[str, np.ndarray], axis: str, name: str, alt: str) -> str:
    """Median, middle half and middle 90 % of a number in each group."""
    with page_style():
        figure = new_figure(0.75 + 0.36 * len(values))
        axes = figure.subplots()
        for place, (group, own) in enumerate(values.items()):
            series = sorted(values).index(group)  # the colour and shape that it has in the other figures
            colour = SERIES[series % len(SERIES)]
            low, first, middle, third, high = np.quantile(own, [0.05, 0.25, 0.5, 0.75, 0.95])
            axes.plot([low, high], [place, place], color=colour, linewidth=1.2)
            axes.plot(
                [first, third], [place, place], color=colour, linewidth=7, solid_capstyle="butt", alpha=0.55
            )
            axes.plot(middle, place, MARKERS[series % len(MARKERS)], color=colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        _rows(axes, list(values))
        axes.set_xlabel(axis)
        return themed_svg(figure, name, alt)


def forest(
    names: Sequence[str],
    value_N: np.ndarray,
    low_N: np.ndarray,
    high_N: np.ndarray,
    axis: str,
    name: str,
    alt: str,
) -> str:
    """A number with its interval for each row, around 0; of very many rows the lowest and the highest."""
    with page_style():
        order = np.argsort(value_N, kind="stable")
        if len(order) > _MOST_ROWS:
            order = np.concatenate([order[: _MOST_ROWS // 2], order[-_MOST_ROWS // 2 :]])
        figure = new_figure(0.75 + _ROW * max(len(order), 2))
        axes = figure.subplots()
        for place, row in enumerate(order):
            clear = low_N[row] > 0 or high_N[row] < 0
            colour = SERIES[1] if clear else SERIES[0]
            axes.plot([low_N[row], high_N[row]], [place, place], color=colour, linewidth=1.5)
            axes.plot(value_N[row], place, "D" if clear else "o", color=colour, markersize=4.5)
        axes.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        _rows(axes, [names[row] for row in order])
        axes.set_xlabel(axis)
        return themed_svg(figure, name, alt)


def centiles(table: pd.DataFrame, alt: str) -> str:
    """How many people fall into each tenth of the centiles, and how many would if they were even."""
    with page_style():
        figure = new_figure(2.5)
        axes = figure.subplots()
        middle = (table["from"] + table["to"]) / 2
        axes.bar(middle, table["n"], width=8.6, color=SERIES[0], alpha=0.8, zorder=2)
        expected = float(table["expected"].iloc[0])
        reach = float(table["reach"].iloc[0])
        axes.axhspan(expected - reach, expected + reach, color=MUTED, alpha=0.22, linewidth=0, zorder=1)
        axes.axhline(expected, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=3)
        axes.set(xlabel="centile of the gap among training controls", ylabel="people", xlim=(0, 100))
        return themed_svg(figure, "centiles", alt)


def contributions(table: pd.DataFrame, role: str, alt: str) -> str:
    """The features that move a modality's predictions most, and which way in each group, years.

    Parameters
    ----------
    table : `feature`, `group`, `mean_contribution_years` and `strength` (what the features are sorted by).
    """
    with page_style():
        order = table.groupby("feature", sort=True)["strength"].max().sort_values(kind="stable")
        features = list(order.index[-_MOST_FEATURES:])
        groups = sorted(set(table["group"]))
        figure = new_figure(0.95 + 0.23 * len(features))
        axes = figure.subplots()
        for place, group in enumerate(groups[: len(SERIES)]):
            own = table[table["group"] == group].drop_duplicates("feature").set_index("feature")
            years = own["mean_contribution_years"]
            rows = [row for row, feature in enumerate(features) if feature in years.index]
            axes.plot(
                [years[features[row]] for row in rows], rows, MARKERS[place], color=SERIES[place],
                markersize=5, label=plain(group, _LONGEST_NAME) or "everyone", alpha=0.9,
            )  # fmt: skip
        axes.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        _rows(axes, features, longest=30)
        axes.grid(axis="y", color=RULE, linewidth=0.5)
        axes.set_xlabel("mean contribution to the predicted age, years")
        if len(groups) > 1:
            figure.legend(loc="outside upper center", ncols=3, fontsize=8, handlelength=1)
        return themed_svg(figure, f"contributions-{role}", alt)


def _people(axes: Axes, x_N: np.ndarray, y_N: np.ndarray, group_N: Sequence[str]) -> None:
    """A point for each scan, or, of many, squares that are the darker the more scans they hold."""
    if len(x_N) > MOST_POINTS:
        _squares(axes, x_N, y_N)
        return
    group = np.asarray(group_N, dtype=object)
    names = sorted(set(group_N))
    for place, name in enumerate(names):
        own = group == name
        axes.plot(
            x_N[own].round(3), y_N[own].round(3), MARKERS[place % len(MARKERS)],
            color=SERIES[place % len(SERIES)], markersize=3.2 if len(x_N) > 200 else 4.5,
            markeredgewidth=0, alpha=0.6, zorder=1,
            label=(plain(name, _LONGEST_NAME) or "not known") if len(names) > 1 else None,
        )  # fmt: skip


def _squares(axes: Axes, x_N: np.ndarray, y_N: np.ndarray) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    counts, across, up = np.histogram2d(x_N, y_N, bins=_SQUARES)
    i, j = np.nonzero(counts)
    left, right, bottom, top = across[i], across[i + 1], up[j], up[j + 1]
    corners = np.stack([left, bottom, right, bottom, right, top, left, top], axis=1).reshape(-1, 4, 2)
    strength = 0.12 + 0.88 * np.log1p(counts[i, j]) / np.log1p(counts.max())
    colours = [to_rgba(SERIES[0], round(float(alpha), 2)) for alpha in strength]
    axes.add_collection(PolyCollection(list(corners), facecolors=colours, linewidths=0, zorder=1))
    axes.autoscale_view()


def _rows(axes: Axes, names: Sequence[str], longest: int = _LONGEST_NAME) -> None:
    """Names on the left, the first at the bottom."""
    axes.set_yticks(range(len(names)), [plain(name, longest) or "not known" for name in names], color=INK)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)
