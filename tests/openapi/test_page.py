"""The page that shows the document: its own files alone, nothing inline, and what is shown is text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from twisted_kv.web.pages import FOLDER

OWN = "/openapi.json", "api.css", "api.js", "icon.svg"


class Page(HTMLParser):
    """Collects what a page refers to, and what of it is inline."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.inline: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.places += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" else []
        self._script = tag == "script"

    def handle_data(self, data: str) -> None:
        self.inline += [data] if self._script and data.strip() else []


def test_the_page_refers_to_its_own_files_and_has_nothing_inline() -> None:
    page = Page()
    page.feed((FOLDER / "api.html").read_text(encoding="utf-8"))

    assert sorted(page.places) == sorted(OWN)
    assert page.inline == []


@pytest.mark.parametrize(
    "word",
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", ".style", "http://"],
)
def test_what_is_shown_is_text_and_comes_from_here(word: str) -> None:
    assert word not in (FOLDER / "api.js").read_text(encoding="utf-8")


def test_the_style_loads_nothing_and_knows_light_and_dark() -> None:
    style = (FOLDER / "api.css").read_text(encoding="utf-8")

    assert not re.search(r"url\(|@import", style)
    assert "color-scheme: light dark" in style
