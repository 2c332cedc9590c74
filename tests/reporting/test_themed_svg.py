"""Figures that take the page's colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hpc_brainage.reporting.themed_svg import INK, SERIES, new_figure, page_style, themed_svg


def drawn(name: str = "one", label: str = "label", alt: str = "what it shows") -> str:
    with page_style():
        figure = new_figure(2)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], "o", color=SERIES[0], alpha=0.5)
        axes.axhline(0.5, color=INK)
        axes.set_title(label)
        return themed_svg(figure, name, alt)


def test_every_colour_is_one_of_the_page_s() -> None:
    svg = drawn()
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert colours <= {"none", *(f"var(--{name})" for name in ("ink", "muted", "rule", "series-1"))}
    assert {"var(--ink)", "var(--muted)", "var(--series-1)"} <= colours


def test_text_is_text_in_the_page_s_letters() -> None:
    svg = drawn(label="Größe & <b>x</b> $y$")
    root = ElementTree.fromstring(svg)
    assert "Größe & <b>x</b> $y$" in [element.text for element in root.iter() if element.tag == "text"]
    assert "font-family" not in svg
    assert "DejaVu" not in svg


def test_a_text_that_looks_like_a_colour_is_left_as_it_is() -> None:
    assert "fill: #000011 xlink:href" in drawn(label="fill: #000011 xlink:href")


def test_the_same_figure_gives_the_same_bytes_and_no_date() -> None:
    assert drawn() == drawn()
    assert not re.search(r"20\d\d-\d\d", drawn())


def test_figures_of_a_page_do_not_refer_into_one_another() -> None:
    ids = [set(re.findall(r'\bid="(m[0-9a-f]+|p[0-9a-f]+)"', drawn(name))) for name in ("one", "two")]
    assert ids[0]
    assert ids[0] & ids[1] == set()


def test_who_does_not_see_it_is_told() -> None:
    root = ElementTree.fromstring(drawn(alt='r < 0.5 & "more"'))
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'r < 0.5 & "more"'
    assert root.get("width") is None
