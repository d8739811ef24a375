"""Draws a history as a time line: what each client did, and which faults were on meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

from .linearizability import Event, Fate, Kind

FILL = {Kind.PUT: "#3b76c4", Kind.DELETE: "#c8503c", Kind.SWAP: "#8a5cb8", Kind.READ: "#3c9a5f"}
BAND_FILL = ("#f2b84b", "#e58fb1", "#8fb8de", "#a9c77a", "#c3a6dd", "#d9a37c")

# All lengths are pixels.
WIDTH_MIN, WIDTH_MAX = 900, 8_000
LABEL_ROOM = 96
"""What a bar and its label take on average, where the width allows."""
CHAR = 6.7
"""The width of a character at the size of the labels. SVG cannot measure text: fonts differ by a tenth or so."""
LANE, ROW_GAP, BAND_LANE, MARGIN = 24, 8, 17, 16
HEAD = """<style>text{font:11px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#24292f}
.in{fill:#fff}.dim{fill:#6e7781}</style>
<defs><pattern id="doubt" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="2.4" height="6" fill="#fff" fill-opacity=".75"/></pattern></defs>
<rect width="100%" height="100%" fill="#fff"/>"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Band:
    """A fault, and while it was on: from ``begin_s`` to ``end_s``, which is infinite for one that never ended."""

    name: str
    begin_s: float
    end_s: float


def timeline(events: Iterable[Event], faults: Sequence[Band] = ()) -> str:
    """Draw the operations of one key as an SVG document: a row per client, faults as bands behind them.

    A client's name ends at its first dot: what follows it names one of its operations.

    The times of the operations give the span of the picture; bands are cut to it. Each bar's ``<title>``, which viewers
    show under the pointer, has the whole text of its event.
    """
    events = sorted(events, key=lambda event: (event.called, event.client))
    rows_of: dict[str, list[Event]] = {}
    for event in events:
        rows_of.setdefault(event.client.partition(".")[0], []).append(event)
    busiest = max(map(len, rows_of.values()), default=0)
    scale = _Scale(events, faults, max(map(_wide, rows_of), default=0), LABEL_ROOM * busiest)
    shown = [band for band in faults if band.begin_s <= scale.end_s and band.end_s >= scale.begin_s]
    band_lanes = _lanes(
        sorted(shown, key=lambda band: band.begin_s),
        lambda band: scale.x(band.begin_s),
        lambda band: max(scale.x(band.end_s), scale.x(band.begin_s) + _wide(band.name) + 8),
    )
    top = MARGIN + 24 + BAND_LANE * len(band_lanes)
    rows: list[str] = []
    y = top + ROW_GAP
    for number, client in enumerate(sorted(rows_of, key=_natural)):
        lanes = _lanes(rows_of[client], lambda event: scale.x(event.called), scale.end_x)
        height = LANE * len(lanes) + ROW_GAP
        if number % 2 == 0:
            rows.append(_rect(0, y - ROW_GAP / 2, scale.width, height, 'fill="#57606a" fill-opacity=".06"'))
        rows.append(_text(MARGIN, y + LANE / 2 + 4, client, 'font-weight="600"'))
        for lane in lanes:
            for event, following in zip(lane, [*lane[1:], None], strict=True):
                room = scale.x(following.called) if following else scale.width - MARGIN
                rows.append(_bar(event, scale.x(event.called), scale.end_x(event), y + 2, room, str(event)))
            y += LANE
        y += ROW_GAP
    bands = [part for i, lane in enumerate(band_lanes) for band in lane for part in _band(band, shown, scale, i, y)]
    height = y + 60
    size = f'width="{scale.width:.0f}" height="{height:.0f}" viewBox="0 0 {scale.width:.0f} {height:.0f}"'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}><title>{len(events)} operations</title>{HEAD}'
    return "\n".join([begin, *_legend(), *bands, *scale.axis(top, y), *rows, "</svg>\n"])


class _Scale:
    """Turns seconds into pixels."""

    def __init__(self, events: Sequence[Event], faults: Sequence[Band], names_wide: float, wanted: float) -> None:
        times = [time for e in events for time in (e.called, e.returned) if time is not None]
        times = times or [time for b in faults for time in (b.begin_s, b.end_s) if math.isfinite(time)] or [0.0]
        self.begin_s, last_s = min(times), max(times)
        # What has no end goes on after the last thing that is known.
        self.end_s = last_s + ((last_s - self.begin_s) * 0.05 or 1.0)
        self.left = MARGIN + names_wide + 16
        self.width = self.left + MARGIN + min(WIDTH_MAX, max(WIDTH_MIN, wanted))

    def x(self, time_s: float) -> float:
        part = (min(max(time_s, self.begin_s), self.end_s) - self.begin_s) / (self.end_s - self.begin_s)
        return self.left + part * (self.width - MARGIN - self.left)

    def end_x(self, event: Event) -> float:
        # An operation that took no time is still to be seen.
        return self.x(self.end_s) if event.returned is None else max(self.x(event.returned), self.x(event.called) + 3)

    def axis(self, top: float, bottom: float) -> Iterable[str]:
        wanted = (self.end_s - self.begin_s) / max(4.0, (self.width - self.left) / 110)
        power = 10.0 ** math.floor(math.log10(wanted))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wanted)
        for number in range(math.ceil(self.begin_s / step), math.floor(self.end_s / step) + 1):
            x = self.x(number * step)
            yield f'<path d="M{x:.1f} {top:.1f}V{bottom + 4:.1f}" stroke="#57606a" stroke-opacity=".25"/>'
            yield _text(x, bottom + 18, f"{number * step:.10g} s", 'text-anchor="middle" class="dim"')


def _band(band: Band, all_bands: Sequence[Band], scale: _Scale, lane: int, bottom: float) -> Iterable[str]:
    names = sorted({other.name for other in all_bands})
    fill = f'fill="{BAND_FILL[names.index(band.name) % len(BAND_FILL)]}"'
    x, y = scale.x(band.begin_s), MARGIN + 20 + BAND_LANE * lane
    width = max(scale.x(band.end_s) - x, 2)
    yield _rect(x, y, width, bottom - y, f'{fill} fill-opacity=".22"')
    yield _rect(x, y, width, 3, fill)
    yield _text(min(x + 2, scale.width - MARGIN - _wide(band.name)), y + 14, band.name)


def _bar(event: Event, x: float, end: float, y: float, room: float, title: str) -> str:
    colour, width, height = FILL[event.kind], end - x, LANE - 4
    dash = ' stroke-dasharray="5 3"' if event.returned is None else ""
    solid = {Fate.DONE: 1.0, Fate.UNKNOWN: 0.45, Fate.DROPPED: 0.0}[event.fate]
    parts = [_rect(x, y, width, height, f'rx="3" fill="{colour}" fill-opacity="{solid}" stroke="{colour}"{dash}')]
    if event.fate is Fate.UNKNOWN:
        parts.append(_rect(x, y, width, height, 'rx="3" fill="url(#doubt)"'))
    labels = _labels(event)
    if _wide(labels[0]) + 8 <= width or width > room - end:
        at, space, style = x + 4, width - 8, 'class="in"' if event.fate is Fate.DONE else ""
    else:
        at, space, style = end + 3, room - end - 6, ""
    fitting = int(space / CHAR)
    cut = labels[-1][: fitting - 1] + "…" if fitting >= 2 else ""
    label = next((label for label in labels if len(label) <= fitting), cut)
    if label:
        parts.append(_text(at, y + height / 2 + 4, label, style))
    return f"<g><title>{_clean(title)}</title>{''.join(parts)}</g>"


def _labels(event: Event) -> tuple[str, ...]:
    """Give what to write on an operation's bar, and what to write if that is too long: its colour tells its kind."""
    value, base = ("∅" if value is None else repr(value)[2:-1] for value in (event.value, event.base))
    if event.kind is Kind.READ and event.fate is not Fate.DONE:
        value = "?"
    elif event.kind is Kind.SWAP:
        value = f"{base}→{value}"
    elif event.kind is Kind.DELETE and event.value is None:
        return ("delete", value)
    return (f"{event.kind.value} {value}", value)


def _legend() -> Iterable[str]:
    x = float(MARGIN)
    likes = [(kind.value, Event("", kind, b"", b"", 0, 0)) for kind in Kind]
    likes += [(fate.value, Event("", Kind.PUT, b"", b"", 0, 0, fate)) for fate in (Fate.UNKNOWN, Fate.DROPPED)]
    likes += [("no end", Event("", Kind.PUT, b"", b"", 0, None, Fate.UNKNOWN))]
    for name, like in likes:
        yield _bar(like, x, x + 18, 6, x + 18, name)
        yield _text(x + 23, 20, name, 'class="dim"')
        x += 23 + _wide(name) + 14


def _lanes(things: Sequence[T], begin: Callable[[T], float], end: Callable[[T], float]) -> list[list[T]]:
    """Put what overlaps into different lanes, each thing into the first that is free when it begins."""
    lanes: list[list[T]] = []
    for thing in things:
        free = next((lane for lane in lanes if end(lane[-1]) <= begin(thing)), None)
        if free is None:
            lanes.append([thing])
        else:
            free.append(thing)
    return lanes


def _natural(name: str) -> tuple[str, int, str]:
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0), name


def _wide(text: str) -> float:
    return CHAR * len(text)


def _clean(text: str) -> str:
    # XML knows no way to write most control characters.
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{_clean(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {style}/>'
