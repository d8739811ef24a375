"""How ``make docs`` makes a site of the pages in this folder.

The pages are Markdown that reads well without the site: what only the site needs is done here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import twisted_kv  # noqa: E402

project = "twisted_kv"
author = "the authors of twisted_kv"
version = release = twisted_kv.__version__
copyright = "2026, the twisted_kv authors; MIT licence"  # noqa: A001 (the name is Sphinx's)

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
highlight_language = "none"  # what names no language is text

html_theme = "furo"
html_title = "twisted_kv"
html_static_path = ["static"]
html_css_files = ["house.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

OUTSIDE = re.compile(r"\]\((\.\./[^)#]*)(#[^)]*)?\)")
"""A link to what lies beside this folder, and not in it."""
PAGES = {"README.md": "index.md", "changelog": "changelog.md", "etc": "configuration.md"}
"""The page that says the same on the site, by where the link leads."""


def keep_on_the_site(app: Any, page: str, text: list[str]) -> None:
    """Have links to folders of the project lead to the page about them. (Links to files give the file.)"""

    def nearest(found: re.Match[str]) -> str:
        place = (HERE / found[1]).resolve()
        if place.is_file() and place.suffix != ".md":
            return found[0]
        first = place.relative_to(HERE.parent).parts[0]
        return f"]({PAGES[first]})"

    text[0] = OUTSIDE.sub(nearest, text[0])


def gather_changes(app: Any, page: str, text: list[str]) -> None:
    """Put the fragments of the changelog, the newest first, on the page that tells of them."""
    if page != "changelog":
        return
    for fragment in sorted((HERE.parent / "changelog").glob("[0-9]*.md"), reverse=True):
        number, _, name = fragment.stem.partition("-")
        story = fragment.read_text(encoding="utf-8").replace("](../docs/", "](").strip()
        text[0] += f"\n## {int(number)}: {name.replace('-', ' ')}\n\n{story}\n"


def name_the_rest(app: Any, page: str, text: list[str]) -> None:
    """Let no page be lost: those that the contents do not name come last in them."""
    if page != app.config.root_doc:
        return
    named = set(re.findall(r"^(?:[^|\n]* <)?([\w-]+)>?$", text[0], re.MULTILINE))
    rest = sorted(path.stem for path in HERE.glob("*.md") if path.stem not in {*named, page})
    if rest:
        text[0] += "\n```{toctree}\n:hidden:\n:caption: More\n\n" + "\n".join(rest) + "\n```\n"


def setup(app: Any) -> None:
    for change in (keep_on_the_site, gather_changes, name_the_rest):
        app.connect("source-read", change)
