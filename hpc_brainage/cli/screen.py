"""What the verbs show: one console, progress bars, and small tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

_PAGE_WIDTH = 120
"""Columns where the output is a file or a pipe and no terminal says how wide it is."""

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PAGE_WIDTH)


class Show(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def progress(what: str) -> Iterator[Show]:
    """A progress bar; call what it yields with (done, total) and, if there is one, a remark."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(escape(what), total=None, note="")

        def show(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=escape(note))

        yield show


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a small table; columns that start with `>` are aligned to the right."""
    shown = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE_HEAD)
    for name in columns:
        side: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        shown.add_column(escape(name.removeprefix(">")), justify=side, overflow="fold")
    for row in rows:
        shown.add_row(*(escape(str(cell)) for cell in row))
    console.print(shown)


def say(text: str) -> None:
    """Print a line; whatever comes from a cohort is text, never markup."""
    console.print(escape(text))


def notes(lines: Iterable[str]) -> None:
    for line in lines:
        console.print(f"  · {escape(line)}")


def years(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
