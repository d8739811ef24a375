"""Gathers this folder's fragments into CHANGELOG.md, under the version that the package has now: make changelog

What CHANGELOG.md says of other versions stays as it is. Whoever releases removes the fragments afterwards.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEAD = "# Changes\n"


def main(tree: Path = HERE.parent) -> str | None:
    """Write the file. Gives a sentence if there is nothing to write."""
    fragments = sorted((tree / "changelog").glob("[0-9]*.md"))
    if not fragments:
        return "there is no fragment in changelog/: nothing has changed since the last release"
    version = re.search(r'__version__ = "([^"]+)"', (tree / "twisted_kv" / "__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    told = "\n".join(item(path.read_text(encoding="utf-8")) for path in fragments)
    file = tree / "CHANGELOG.md"
    before = file.read_text(encoding="utf-8") if file.exists() else HEAD
    file.write_text(with_release(before, version[1], told), encoding="utf-8")
    return None


def item(fragment: str) -> str:
    """Give a fragment as items of a list, with links that hold one folder further up."""
    text = fragment.strip().replace("](../", "](")
    if text.startswith("- "):
        return text
    return "- " + "\n".join(f"  {line}" if line else "" for line in text.splitlines()).lstrip()


def with_release(before: str, version: str, told: str) -> str:
    """Put a version above the others, or in the place of what was said of it."""
    head, *parts = re.split(r"^(?=## )", before, flags=re.MULTILINE)
    others = [part.rstrip() for part in parts if part.split("\n")[0] != f"## {version}"]
    return "\n\n".join([head.rstrip(), f"## {version}\n\n{told}", *others]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
