"""What the verbs show: one console, progress bars, and small tables."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_PAGE_WIDTH = 120
"""Columns where the output is a file or a pipe and no terminal says how wide it is."""

_LOG_SECONDS = 30.0
_OF_COLUMNS = re.compile(r"(?P<source>[^:]+): (?P<count>\d+) (?P<what>columns [^:]+): (?P<some>.+)")

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PAGE_WIDTH)


class Show(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def per_second(rate: float) -> str:
    """A rate as one reads it: "0.35", "8.7", "1,570"."""
    return f"{rate:,.{2 if rate < 1 else 1 if rate < 100 else 0}f}"


class _Rate(ProgressColumn):
    """How many are done in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{per_second(speed)}/s")


@contextmanager
def progress(what: str) -> Iterator[Show]:
    """Progress, rate and time left; call what it yields with (done, total) and, if there is one, a remark.

    A terminal shows a bar; a job's log, or whatever else the output goes to, a line now and then.
    """
    if not console.is_terminal:
        yield _Log(what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(escape(what), total=None, note="")

        def show(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=escape(note))

        yield show


class _Log:
    """Progress in a log: a line each half minute, so that short work says nothing."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._told = time.monotonic()
        self._before: int | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if self._before is None:  # what an earlier run had done says nothing about the speed of this one
            self._before, self._began = done, now
        if now - self._told < _LOG_SECONDS or done >= total:
            return
        self._told = now
        rate = (done - self._before) / max(now - self._began, 1e-9)
        left = f", {_clock((total - done) / rate)} left" if rate else ""
        say(f"{self._what}: {done} of {total}, {per_second(rate)}/s{left}{f', {note}' if note else ''}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


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


def account_notes(lines: Iterable[str]) -> None:
    """Notes of a conversion, those that say the same of the columns of several sources in one line."""
    told: dict[str, list[re.Match[str]]] = {}
    for line in lines:
        if alike := _OF_COLUMNS.fullmatch(line):
            told.setdefault(alike["what"], []).append(alike)
        else:
            told.setdefault(line, [])
    for what, alike_ones in told.items():
        if len(alike_ones) < 2:
            notes([alike_ones[0][0] if alike_ones else what])
            continue
        first, count = alike_ones[0], sum(int(one["count"]) for one in alike_ones)
        sources = f"{len(alike_ones)} sources ({first['source']}, ...)"
        notes([f"{sources}: {count} {what}: {first['some'].removesuffix(', ...')}, ..."])


def years(value: float | None, *, sign: bool = False) -> str:
    """A number of years, or another with two decimals; a hyphen where there is none."""
    from hpc_brainage.numerals import number

    return "-" if value is None else number(value, sign=sign)
