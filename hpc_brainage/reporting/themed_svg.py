"""Figures as SVG that stands in a page and takes the page's colours and letters.

A figure is drawn in colours that nobody would choose, `INK`, `MUTED`, `RULE` and `SERIES`; in the SVG they
become variables of the page's style sheet, so that one figure serves the light theme, the dark one and
paper. Its text stays text, which can be read aloud, searched and copied.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#000001", "#000002", "#000003", "#000004"
SERIES = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016")
"""Colours of groups; six that colour-blind people tell apart (Okabe and Ito 2008)."""
MARKERS = ("o", "^", "s", "D", "v", "P")
"""Shapes of groups, so that nobody depends on the colour."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    colour: f"--series-{place}" for place, colour in enumerate(SERIES, start=1)
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
WIDTH = 4.7
"""Inches; a figure that is drawn this narrow can be read on a phone."""


@contextmanager
def page_style() -> Iterator[None]:
    """While it lasts, figures are made in the style of the page."""
    from matplotlib import rc_context

    with rc_context(_SETTINGS):
        yield


def new_figure(height: float) -> Figure:
    """An empty figure of the page's width; `height` in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def themed_svg(figure: Figure, name: str, alt: str) -> str:
    """A figure as an SVG element, the same bytes whenever it is drawn.

    Parameters
    ----------
    name : of the figure, unlike those of the others of the page; its inner references are made from it.
    alt : what it shows, for those who do not see it.
    """
    from matplotlib import rc_context

    picture = io.StringIO()
    with rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's own fonts have it
        figure.savefig(
            picture,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = picture.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.S)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    opening = f'<svg class="figure" role="img" aria-label={quoteattr(alt)} {box[0]}>'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    return re.sub(r"<[^>]*>", lambda tag: _themed(tag[0]), svg)


def _themed(tag: str) -> str:
    """A tag with the page's letters and colours; texts, which may be a stranger's, are left as they are."""
    tag = tag.replace("xlink:href", "href")
    if tag.startswith("<g "):  # groups are numbered alike in every figure, and nothing refers to them
        tag = re.sub(r' id="[^"]*"', "", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: (?:[a-z]+ )*?([0-9.]+px)[^;\"]*", r"font-size: \1", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(f": {colour}", f": var({variable})")
    return tag
