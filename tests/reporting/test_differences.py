"""A figure of differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_brainage.reporting.differences import Line, draw_differences


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_ending_says_the_format(tmp_path: Path, ending: str, begins: bytes) -> None:
    lines = [Line("one", 0.1, 0.0, 0.2, True), Line("other", -0.1, None, None, False)]
    path = draw_differences(tmp_path / f"figure.{ending}", [("a", lines), ("b", lines[:1])], "years")
    assert path.read_bytes().startswith(begins)


def test_every_line_stands_where_its_difference_is(tmp_path: Path) -> None:
    path = draw_differences(tmp_path / "f.svg", [("t", [Line("first row", 0.1, 0.0, 0.2, True)])], "years")
    assert "first row" in path.read_text()
