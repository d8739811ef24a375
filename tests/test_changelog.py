"""A release's changelog is gathered from the fragments, and leaves what was said of others alone."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from twisted_kv import __version__

TREE = Path(__file__).parent.parent
gather: dict[str, Any] = runpy.run_path(str(TREE / "changelog" / "gather.py"))


def tree(folder: Path, version: str, **fragments: str) -> Path:
    (folder / "changelog").mkdir(exist_ok=True)
    (folder / "twisted_kv").mkdir(exist_ok=True)
    (folder / "twisted_kv" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    for old in (folder / "changelog").iterdir():
        old.unlink()
    for name, text in fragments.items():
        (folder / "changelog" / f"{name[1:]}.md").write_text(text)
    return folder


def test_fragments_become_items_in_their_order_under_the_version(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "0.1.0",
        _0002_b="Second,\nof two lines.\n",
        _0001_a="First; see [here](../docs/a.md).\n",
        _README="No.",
    )

    assert gather["main"](tmp_path) is None
    assert (tmp_path / "CHANGELOG.md").read_text() == (
        "# Changes\n\n## 0.1.0\n\n- First; see [here](docs/a.md).\n- Second,\n  of two lines.\n"
    )


def test_the_next_version_stands_above_the_last_and_may_be_gathered_again(tmp_path: Path) -> None:
    gather["main"](tree(tmp_path, "0.1.0", _0001_a="- One.\n- Two.\n"))
    gather["main"](tree(tmp_path, "0.2.0", _0002_b="Three."))
    gather["main"](tree(tmp_path, "0.2.0", _0002_b="Three.", _0003_c="Four."))

    assert (tmp_path / "CHANGELOG.md").read_text() == (
        "# Changes\n\n## 0.2.0\n\n- Three.\n- Four.\n\n## 0.1.0\n\n- One.\n- Two.\n"
    )


def test_without_a_fragment_nothing_is_written(tmp_path: Path) -> None:
    assert "no fragment" in gather["main"](tree(tmp_path, "0.1.0"))
    assert not (tmp_path / "CHANGELOG.md").exists()


def test_both_places_that_say_the_version_say_the_same() -> None:
    assert re.findall(r'version="([^"]+)"', (TREE / "setup.py").read_text()) == [__version__]


@pytest.mark.parametrize("path", sorted((TREE / "changelog").glob("[0-9]*.md")), ids=lambda path: path.name)
def test_a_fragments_links_lead_somewhere(path: Path) -> None:
    assert re.fullmatch(r"\d{4}-[a-z-]+\.md", path.name)
    for link in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link
