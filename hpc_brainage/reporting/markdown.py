"""Markdown as HTML: what a model's card is written in."""

from __future__ import annotations

_DEEPEST = 6


def markdown_html(text: str, below: int = 2) -> str:
    """HTML of a text in Markdown (CommonMark, with tables).

    A card may be a stranger's. Markup in it is shown as text; links and images stay text as well, so that
    the page asks nobody for anything.

    Parameters
    ----------
    below : the level of heading that the text stands under; its own headings begin one below.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["image", "link", "autolink", "reference", "html_block", "html_inline"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(_DEEPEST, int(token.tag[1:]) + below)}"
    return str(parser.renderer.render(tokens, parser.options, {}))
