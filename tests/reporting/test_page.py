"""The page: what it shows of numbers and of strangers' texts, and what it holds."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from reporting.html_outline import outline

from hpc_brainage.reporting.markdown import markdown_html
from hpc_brainage.reporting.page import (
    Bullets,
    Column,
    DataTable,
    Drawing,
    Markdown,
    Paragraph,
    Section,
    Summary,
    plain,
    render_page,
)

SUMMARY = Summary(
    "care", "Is it?", "With care", ("One line.",), ("a reason",), (("2.35", "1 to 3", "error"),)
)


def page_of(text: str) -> str:
    """A page with one text in every place where there may be one."""
    frame = pd.DataFrame({"who": [text], "years": [1.5]})
    table = DataTable(text, frame, (Column("who", text), Column("years", "Years")), "file")
    blocks = [Paragraph(text), Bullets((text,)), Drawing("<svg></svg>", text), Markdown(text), table]
    summary = Summary("no", "Is it?", "No", (text,), (text,), (("1", "", text),))
    return render_page(text, summary, [Section("one", "One", blocks)], (text,))


@settings(deadline=None, max_examples=40)
@given(
    st.text(max_size=40)
    | st.sampled_from(["<script>alert(1)</script>", "'\"><img src=x onerror=y>", "{{7*7}}"])
)
def test_a_stranger_s_text_is_text_wherever_it_stands(text: str) -> None:
    empty, found = outline(page_of("")), outline(page_of(text))
    allowed = {"p", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "br"}
    extra = [name for name, _ in found.elements]
    for name, _ in empty.elements:
        extra.remove(name)
    assert set(extra) <= allowed | {"h3", "h4", "h5", "h6"}  # what Markdown may make of it
    assert not any(name.startswith("on") or name == "src" for _, own in found.elements for name in own)


def test_signs_that_hide_or_turn_round_are_shown_as_such() -> None:
    assert plain("a\x00b\u202ec\u200d\ud800") == "a\ufffdb\ufffdc\ufffd\ufffd"
    assert plain("日本語 é") == "日本語 é"
    assert plain("lh_a_very_long_name_volume", 13) == "lh_a_v…volume"


def test_cells_are_shown_by_their_kind() -> None:
    frame = pd.DataFrame({"name": ["a", None], "n": [1200, 2], "ok": [True, False], "p": [0.0001, 0.0456]})
    frame = frame.assign(x=[1.0, np.nan], low=[0.5, np.nan], high=[1.5, np.nan])
    columns = (Column("name", "Name"), Column("n", "N"), Column("ok", "Ok"), Column("p", "p"),
               Column("x", "X", limits=("low", "high")), Column("absent", "Absent"))  # fmt: skip
    table = DataTable("t", frame, columns, "t")
    assert [[cell for cell, _ in row] for row in table.rows] == [
        ["a", "1,200", "yes", "<0.001", "1.00 (0.50 to 1.50)"],
        ["–", "2", "no", "0.046", "–"],
    ]
    assert table.headings[0] == ("Name", False)
    assert table.headings[1] == ("N", True)


def test_a_long_table_says_how_many_rows_are_in_the_download_only() -> None:
    frame = pd.DataFrame({"n": range(100)})
    table = DataTable("t", frame, (Column("n", "N"),), "long", 12)
    page = outline(render_page("t", SUMMARY, [Section("s", "S", [table])], ()))
    assert "88 more rows in the download" in page.text
    assert page.count("tr") == 13
    assert len(pd.read_csv(io.StringIO(page.downloads["long.csv"]))) == 100


def test_a_spreadsheet_runs_no_cell_of_a_download() -> None:
    frame = pd.DataFrame({"site": ["=1+1", "+x", "-x", "@SUM(A1)", 'plain, "quoted"'], "gap": [-1.5] * 5})
    table = DataTable("t", frame, (Column("site", "Site"),), "t")
    page = outline(render_page("t", SUMMARY, [Section("s", "S", [table])], ()))
    back = pd.read_csv(io.StringIO(page.downloads["t.csv"]))
    assert list(back["site"]) == ["'=1+1", "'+x", "'-x", "'@SUM(A1)", 'plain, "quoted"']
    assert list(back["gap"]) == [-1.5] * 5


def test_the_page_forbids_itself_scripts_and_the_network() -> None:
    page = outline(page_of("x"))
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert page.count("script") == page.count("link") == page.count("iframe") == 0


def test_a_card_has_headings_lists_and_tables_and_nothing_that_loads() -> None:
    html = markdown_html(
        "# Card\n\n- one\n\n|a|b|\n|---|---|\n|1|2|\n\n![x](http://e/x.png) [y](javascript:z) <b>b</b>\n\n"
        "<script>alert(1)</script>\n\n[z]: http://e\n\n<http://e>\n\n###### deep"
    )
    found = outline(html)
    assert found.count("h3") == found.count("h6") == found.count("li") == 1
    assert found.count("td") == 2
    assert {"a", "img", "script", "b"} & {name for name, _ in found.elements} == set()
    assert "<script>alert(1)</script>" in found.text
