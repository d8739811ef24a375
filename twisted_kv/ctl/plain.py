"""Text that comes from elsewhere, so that it is shown and nothing more: a terminal obeys what stands in it."""

from __future__ import annotations

import re

from twisted_kv.terminals import HALVES, OBEYED

_obeyed = re.compile(f"[{OBEYED}{HALVES}]")
_obeyed_but_lines = re.compile(f"(?![\n\t])[{OBEYED}{HALVES}]")
_in_json = re.compile(f"(?![\n\t ])[{OBEYED}{HALVES}]")


def is_plain(text: str) -> bool:
    """Whether a terminal shows this as it is, on one line."""
    return _obeyed.search(text) is None


def plain(text: str) -> str:
    """Write out whatever a terminal would obey, line ends too, as a string in a program would have it."""
    return _obeyed.sub(_written, text)


def plain_lines(text: str) -> str:
    """The same of a text of several lines."""
    return _obeyed_but_lines.sub(_written, text)


def plain_json(text: str) -> str:
    """Write the same JSON so that a terminal shows it as it is."""
    return _in_json.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _written(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]
