"""What is printed: tables for people, JSON for programs; and how figures are written so that they fit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .plain import plain_json, plain_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

TABLE, JSON = "table", "json"
PIPED_COLUMNS = 10_000
"""Where nobody looks, nothing is cut."""

_consoles: dict[bool, Console] = {}


def console(stderr: bool = False) -> Console:
    """Give the console of an output; rich is imported only where something is drawn."""
    if stderr not in _consoles or _consoles[stderr].file.closed:
        from rich.console import Console
        from rich.text import Text

        class Told(Console):
            """Tells whoever draws that nobody reads any more; by itself it would end the process with 1."""

            def on_broken_pipe(self) -> None:
                raise BrokenPipeError

            def render_str(self, text: str, **how: Any) -> Text:
                """Take a string as what it says: names may hold what looks like markup, or what a terminal obeys."""
                known = {name: how[name] for name in ("style", "justify", "overflow") if how.get(name)}
                return Text(plain_lines(text), **known)

        stream = sys.stderr if stderr else sys.stdout
        wide = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_COLUMNS
        _consoles[stderr] = Told(stderr=stderr, highlight=False, width=wide)
    return _consoles[stderr]


def draw_on(one: Console) -> None:
    """Have everything drawn on this console from now on, as for a picture."""
    _consoles.update({False: one, True: one})


def forget_consoles() -> None:
    """Look again at where the outputs go."""
    _consoles.clear()


class Showing:
    """Prints a command's results in the form that was asked for."""

    def __init__(self, form: str) -> None:
        self.is_json = form == JSON

    def show(self, value: Any, drawn: Callable[[], Sequence[RenderableType] | RenderableType]) -> None:
        """Print a value as one JSON document, or what is drawn of it."""
        if self.is_json:
            write_json(json.dumps(value, indent=2, ensure_ascii=False))
            return
        found = drawn()
        for one in [found] if isinstance(found, str) or not isinstance(found, Sequence) else found:
            if isinstance(one, str):
                console().print(one, markup=False, soft_wrap=True)
            else:
                console().print(one)

    def say(self, text: str) -> None:
        """Tell people something beside the result. Programs are not told."""
        if not self.is_json:
            console(stderr=True).print(text, markup=False, soft_wrap=True)


def write_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def write_json(text: str) -> None:
    """Write JSON so that it is what it was whatever the output can show."""
    if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        text = "".join(letter if letter.isascii() else json.dumps(letter)[1:-1] for letter in text)
    write_line(plain_json(text))


def plain_table(
    *columns: str, right: Sequence[str] = (), shrinks: Sequence[str] = (), folds: Sequence[str] = ()
) -> Table:
    """Give a table without lines, as operators' tools have it: it is copied and searched.

    :param right: the columns of figures.
    :param shrinks: the columns that are cut where the terminal is too narrow.
    :param folds: those that go on in the next line instead, and are not cut.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        # Rich takes room from those first that may be wrapped; a word that does not fit is cut, not wrapped.
        justify: Literal["right", "left"] = "right" if name in right else "left"
        whole = name not in shrinks and name not in folds
        table.add_column(name, justify=justify, no_wrap=whole, overflow="fold" if name in folds else "ellipsis")
    return table


def count(number: float | None) -> str:
    """Write a count in at most five places: 999, 12.3k, 4.5M."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P"))


def size(number: float | None) -> str:
    """Write a number of bytes in at most five places, in powers of 1024: 999, 12.3K, 4.5G."""
    return _scaled(number, 1024, ("", "K", "M", "G", "T", "P"))


def _scaled(number: float | None, step: int, units: Sequence[str]) -> str:
    if number is None:
        return "-"
    for unit in units:
        if abs(number) < step or unit == units[-1]:
            break
        number /= step
    if not unit or number >= 999.5:
        return f"{number:.0f}{unit}"
    return f"{number:.1f}{unit}" if number < 99.95 else f"{number:.0f}{unit}"


def share(part: float | None) -> str:
    return "-" if part is None else f"{part * 100:.1f}%"


def lasted(seconds: float | None) -> str:
    """Write a time in at most six places, by its two largest units: 42s, 3m20s, 5h12m, 3d4h."""
    if seconds is None:
        return "-"
    left = max(0, int(seconds))
    units = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
    for place, (unit, length) in enumerate(units):
        if left >= length or unit == "s":
            whole, rest = divmod(left, length)
            if unit == "s" or whole >= 100:
                return f"{whole}{unit}"
            smaller, length = units[place + 1]
            return f"{whole}{unit}{rest // length}{smaller}" if rest >= length else f"{whole}{unit}"
    raise AssertionError("every time is some number of seconds")


def millis(number: float | None) -> str:
    """Write milliseconds in at most four places."""
    if number is None:
        return "-"
    return f"{number:.1f}" if number < 99.95 else f"{number:.0f}"


def trips(found: dict[str, float] | None) -> str:
    """Write a round trip's median and 99th percentile, in milliseconds."""
    return f"{millis(found['p50'])}/{millis(found['p99'])}" if found else "-"


def address(url: str) -> str:
    """Write a member's URL without what nearly all have in common."""
    return url.removeprefix("http://").rstrip("/")
