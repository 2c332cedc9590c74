"""The report as a browser shows it: no errors, figures of some size, both themes, and a phone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reporting.browser import NAMES, Seen, chromium, look
from reporting.reports import hostile_report, whole_report

pytestmark = pytest.mark.skipif(
    chromium() is None, reason=f"no browser to render in: none of {', '.join(NAMES)} is on the PATH"
)


@pytest.fixture(scope="module")
def page() -> str:
    return whole_report()


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def check(seen: Seen) -> None:
    """What holds in every window and theme."""
    assert seen.console == []
    assert seen.measured["loaded"] == 0
    assert seen.measured["content"] <= seen.measured["width"], "the page scrolls sideways"
    assert len(seen.measured["figures"]) >= 5
    assert all(width > 200 and height > 60 for width, height in seen.measured["figures"])
    assert all(marks > 5 for marks in seen.measured["marks"])
    assert contrast(seen.measured["ink"], seen.measured["paper"]) > 12
    assert all(contrast(ink, seen.measured["paper"]) > 4.5 for ink in seen.measured["svgInk"])
    assert seen.measured["ink"] in seen.measured["svgInk"]
    assert all("sans-serif" in letters for letters in seen.measured["svgLetters"])


def test_on_a_desk_in_the_light(page: str, tmp_path: Path) -> None:
    seen = look(page, tmp_path)
    check(seen)
    assert seen.measured["width"] == 1200
    assert luminance(seen.measured["paper"]) > 0.9
    assert seen.measured["answer"] < 900, "the answer is not on the first screen"
    assert seen.measured["bodyLetters"].startswith("Charter")


def test_in_the_dark(page: str, tmp_path: Path) -> None:
    seen = look(page, tmp_path, dark=True)
    check(seen)
    assert luminance(seen.measured["paper"]) < 0.05


def test_on_a_phone(page: str, tmp_path: Path) -> None:
    seen = look(page, tmp_path, width=390, height=844)
    assert seen.measured["width"] == 390
    check(seen)
    assert seen.measured["smallest"] > 7
    assert seen.measured["answer"] < 844


def test_a_hostile_cohort_runs_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    seen = look(hostile_report(), tmp_path, width=390, height=844)
    check(seen)
