"""What a page of HTML holds, for tests: its elements, texts, links and tables."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset(("meta", "br", "hr", "img", "link", "input"))


@dataclass
class Outline(HTMLParser):
    """The elements of a page with their attributes, in order, and its text."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def downloads(self) -> dict[str, str]:
        """The tables that the page holds, by their file's name."""
        start = "data:text/csv;charset=utf-8;base64,"
        return {
            str(link["download"]): base64.b64decode(str(link["href"]).removeprefix(start)).decode(
                "utf-8-sig"
            )
            for link in self.all("a")
            if "download" in link
        }


def outline(page: str) -> Outline:
    """Parse a page; fails if its elements are not well nested."""
    found = Outline()
    found.feed(page)
    found.close()
    assert found.open == []
    return found
