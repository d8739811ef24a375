"""How log lines look: as text or as JSON, and never with a control byte in them.

What strangers send comes into some lines: a host, a zone, a path. A newline there would be a line that nobody wrote,
and an escape sequence would speak to the terminal of whoever reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import IO, Any, Literal, TypeAlias

from twisted.logger import FileLogObserver, LogEvent, eventAsText

from .terminals import HALVES, OBEYED

Format: TypeAlias = Literal["text", "json"]

FIELD_CHARS_MAX = 4_096
"""Of one text in a line of JSON; what is longer is cut."""
DEPTH_MAX = 6

_OLD = frozenset(("format", "isError", "message", "printed", "system", "time"))
"""Fields that Twisted adds for the logging it had before."""

_unprintable = re.compile(f"[{OBEYED}{HALVES}\ufeff]").sub
"""Controls (C0, DEL, C1), what ends a line for some readers, what turns the direction of text, and halves of pairs."""


def escaped(text: str) -> str:
    """Write what is not to be printed as an escape, as Python spells it."""
    return _unprintable(lambda found: ascii(found[0])[1:-1], text)


def text_line(event: LogEvent) -> str | None:
    """Give an event as ``TIME [ROOM#LEVEL] MESSAGE``; None if it says nothing.

    The lines of a traceback follow, each behind a tab: no line of the log begins so. An event whose field ``lines`` is
    true keeps those of its message, too.
    """
    message = eventAsText(event, includeTraceback=False, includeTimestamp=False, includeSystem=False)
    failure = _traceback(event)
    if not message and not failure:
        return None
    parts = message.split("\n") if event.get("lines") else [message]
    system = event.get("log_system") or f"{event.get('log_namespace', '-')}#{_level(event)}"
    lines = [f"{_time(event, 'seconds')} [{escaped(str(system))}] {escaped(parts[0])}"]
    lines += ["\t" + escaped(line) for line in (*parts[1:], *failure.splitlines())]
    return "\n".join(lines) + "\n"


def json_line(event: LogEvent) -> str | None:
    """Give an event as one JSON object: ``time`` (RFC 3339, with milliseconds), ``level``, ``room``, ``message``,
    ``failure`` where there is one, and whatever the event says besides; None if it says nothing."""
    message = eventAsText(event, includeTraceback=False, includeTimestamp=False, includeSystem=False)
    failure = _traceback(event)
    if not message and not failure:
        return None
    line: dict[str, Any] = {
        "time": _time(event, "milliseconds"),
        "level": _level(event),
        "room": str(event.get("log_namespace", "-")),
        "message": message,
    }
    if failure:
        line["failure"] = failure
    for name, value in event.items():
        if not name.startswith("log_") and name not in _OLD and name != "lines":
            line[f"{name}_" if name in line else name] = _plain(value)
    text = json.dumps(line, ensure_ascii=False, default=str, allow_nan=True)
    # What is left of it after JSON's own escapes.
    return _unprintable(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def observer(stream: IO[Any], format_: Format) -> FileLogObserver:
    """Give what writes events to a stream."""
    lines: Callable[[LogEvent], str | None] = json_line if format_ == "json" else text_line
    return FileLogObserver(stream, lines)


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return str(level.name) if level is not None else "-"


def _time(event: LogEvent, precision: str) -> str:
    """Give when an event was, in UTC; nothing is said of the time zone that the machine is in."""
    at = datetime.fromtimestamp(event.get("log_time") or 0.0, UTC)
    return at.isoformat(timespec=precision).replace("+00:00", "Z")


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    if failure is None:
        return ""
    try:
        return str(failure.getTraceback())
    except Exception as error:
        return f"(the failure cannot be shown: {error})"


def _plain(value: Any, depth: int = 0) -> Any:
    """Give what JSON can say of a field."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping) and depth < DEPTH_MAX:
        return {str(name): _plain(one, depth + 1) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and depth < DEPTH_MAX:
        return [_plain(one, depth + 1) for one in value]
    text = str(value)
    return text if len(text) <= FIELD_CHARS_MAX else f"{text[:FIELD_CHARS_MAX]}..."
