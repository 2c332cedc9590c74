"""One page of text, figures and tables that needs nothing but itself.

The page has no script and asks the network for nothing (its content policy forbids both), follows the
reader's light or dark theme, and prints. Whatever comes from a cohort is text: the template escapes it, and
`plain` takes out the signs that would hide or turn round what stands beside them.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from hpc_brainage.numerals import UNKNOWN, interval, number, probability
from hpc_brainage.reporting.markdown import markdown_html
from hpc_brainage.scoring.table import spreadsheet_safe

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories of signs that are not seen: controls, directions of writing, halves of characters."""


@dataclass(frozen=True)
class Column:
    """How a column of a table is shown.

    Attributes
    ----------
    name, heading : as in the frame, and as the reader sees it.
    decimals : of a number.
    sign : whether a positive number shows it.
    limits : names of the columns with the ends of its interval, shown in brackets behind it.
    percent : whether a share is shown as such.
    longest : signs of a text that are shown; the download has it whole.
    """

    name: str
    heading: str
    decimals: int = 2
    sign: bool = False
    limits: tuple[str, str] | None = None
    percent: bool = False
    longest: int = 60


@dataclass(frozen=True)
class Paragraph:
    """Text; `style` is "text", "note" (smaller) or "warning"."""

    shape: ClassVar[str] = "paragraph"
    text: str
    style: str = "text"


@dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    shape: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """A figure: SVG that this package made (it stands in the page as it is), and what it says in words."""

    shape: ClassVar[str] = "drawing"
    svg: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """An image as PNG, and what it says in words."""

    shape: ClassVar[str] = "picture"
    png: bytes
    caption: str

    @property
    def href(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Markdown:
    """Text with headings, lists and tables, without images and links."""

    shape: ClassVar[str] = "markdown"
    text: str

    @property
    def html(self) -> str:
        return markdown_html(self.text)


@dataclass(frozen=True)
class DataTable:
    """A table, shown by `columns`, with all of `frame` as its download `file` (CSV).

    Of a long table the first `longest` rows are shown.
    """

    shape: ClassVar[str] = "table"
    caption: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    file: str
    longest: int = 30

    @property
    def headings(self) -> list[tuple[str, bool]]:
        """What stands above each column, and whether it is one of numbers."""
        return [(c.heading, pd.api.types.is_numeric_dtype(self.frame[c.name])) for c in self._there]

    @property
    def rows(self) -> list[list[tuple[str, bool]]]:
        """The texts of the rows that are shown, each with whether it is a number."""
        numeric = [is_number for _, is_number in self.headings]
        return [
            [(_cell(row, column), number) for column, number in zip(self._there, numeric, strict=True)]
            for row in self.frame.head(self.longest).to_dict("records")
        ]

    @property
    def left_out(self) -> int:
        return max(0, len(self.frame) - self.longest)

    @property
    def href(self) -> str:
        """The whole table as a link that holds it; a spreadsheet runs none of its cells."""
        safe = self.frame.copy()
        for name in safe.columns:
            if not pd.api.types.is_numeric_dtype(safe[name]):
                safe[name] = [spreadsheet_safe(value) for value in safe[name]]
        text = "\ufeff" + safe.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        content = text.encode("utf-8", errors="replace")
        return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(content).decode()}"

    @property
    def _there(self) -> list[Column]:
        return [column for column in self.columns if column.name in self.frame]


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading; figures in a row stand side by side where there is room."""

    id: str
    title: str
    blocks: Sequence[Paragraph | Bullets | Drawing | Picture | Markdown | DataTable]


@dataclass(frozen=True)
class Summary:
    """What stands on the first screen.

    Attributes
    ----------
    verdict : "yes", "care", "no" or "open"; `answer` says it in words.
    lines : sentences.
    reasons : why the answer is not a plain yes.
    figures : number, its interval ("" without one), and what it is.
    others : how many reasons there are beside these, and the section that has them; None without.
    """

    verdict: str
    question: str
    answer: str
    lines: tuple[str, ...]
    reasons: tuple[str, ...]
    figures: tuple[tuple[str, str, str], ...]
    others: tuple[str, str] | None = None


def render_page(title: str, summary: Summary, sections: Sequence[Section], footer: Sequence[str]) -> str:
    """The page as HTML; the same content gives the same bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["plain"] = plain
    return environment.get_template("page.html").render(
        title=title,
        style=(here / "page.css").read_text(encoding="utf-8"),
        summary=summary,
        sections=sections,
        footer=footer,
    )


def plain(value: object, longest: int | None = None) -> str:
    """A text without signs that are not seen; of a longer one than `longest`, its beginning and its end."""
    text = "".join("\N{REPLACEMENT CHARACTER}" if _is_hidden(sign) else sign for sign in str(value))
    if longest is None or len(text) <= longest:
        return text
    return f"{text[: longest // 2]}…{text[len(text) - (longest - 1 - longest // 2) :]}"


def _cell(row: dict[Any, Any], column: Column) -> str:
    value = row[column.name]
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return UNKNOWN
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float | np.floating):
        return plain(value, column.longest)
    if column.name == "p" or column.name.startswith("p_accelerated"):
        return probability(float(value))
    shown = number(float(value), column.decimals, sign=column.sign, percent=column.percent)
    if column.limits is None:
        return shown
    low, high = (row[end] for end in column.limits)
    between = interval(low, high, column.decimals, sign=column.sign, percent=column.percent)
    return f"{shown} ({between})" if between else shown


def _is_hidden(sign: str) -> bool:
    return unicodedata.category(sign) in _HIDDEN
