"""The parameters and headers that calls share: what reads each of them, and says in ``/openapi.json`` what it takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ..errors import BadParameter
from ..limits import Limits
from ..preconditions import TAGS, Precondition, parse_precondition
from ..quorum import LEVELS, Level, parse_level
from ..tracing import ID_CHARS_MAX
from .openapi.described import Parameter, Schema

_number = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch


def bytes_of(request: Any, name: bytes) -> bytes | None:
    """Give a parameter that may be given once, as the bytes that it is.

    :raises BadParameter: if it is given more often.
    """
    given: list[bytes] | None = request.args.get(name)
    if given is None:
        return None
    if len(given) > 1:
        raise BadParameter(f"{name.decode()} is given more than once", "give it once")
    return given[0]


def one_of(request: Any, name: bytes) -> str | None:
    """Give a parameter that is text. Errors as in ``bytes_of``."""
    given = bytes_of(request, name)
    return given.decode("utf-8", "replace") if given is not None else None


@dataclass(frozen=True, kw_only=True)
class Text(Parameter):
    """Any text, or what a pattern allows."""

    pattern: str = ""
    chars_min: int = 0

    def schema(self, limits: Limits) -> Schema:
        pattern = {"pattern": self.pattern} if self.pattern else {}
        return {"type": "string"} | pattern | ({"minLength": self.chars_min} if self.chars_min else {})


@dataclass(frozen=True, kw_only=True)
class KeyText(Parameter):
    """A key. Its bytes are counted, which a schema cannot say."""

    chars_min: int = 1

    def schema(self, limits: Limits) -> Schema:
        return {"type": "string", "minLength": self.chars_min, "maxLength": limits.key_bytes_max}


@dataclass(frozen=True, kw_only=True)
class Choice(Parameter):
    """One of some words."""

    words: tuple[str, ...]

    def schema(self, limits: Limits) -> Schema:
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, kw_only=True)
class Seconds(Parameter):
    """More than none, and so many at the most."""

    most: Callable[[Limits], float]

    def schema(self, limits: Limits) -> Schema:
        most = self.most(limits)
        return {"type": "number", "exclusiveMinimum": 0} | ({"maximum": most} if math.isfinite(most) else {})

    def read(self, request: Any, limits: Limits) -> float | None:
        """Give what the client says, None where it does not say.

        :raises BadParameter: if that is no number, or out of bounds.
        """
        given = one_of(request, self.name.encode())
        return seconds(self.name, given, self.most(limits)) if given is not None else None


@dataclass(frozen=True, kw_only=True)
class Whole(Parameter):
    """A whole number from 1 on."""

    most: Callable[[Limits], int]

    def schema(self, limits: Limits) -> Schema:
        return {"type": "integer", "minimum": 1, "maximum": self.most(limits)}


@dataclass(frozen=True, kw_only=True)
class Flag(Parameter):
    """On or off."""

    def schema(self, limits: Limits) -> Schema:
        return {"type": "string", "enum": list(FLAGS)}


FLAGS = {"0": False, "1": True, "false": False, "true": True}

CONSISTENCY = Choice(
    name="consistency",
    about="How many owners must have taken a write, or answered a read: one, a majority (`strong`, also called "
    "`quorum`), or all. What the proxy was configured with where it is not given. Conditional changes always ask "
    "majorities.",
    words=LEVELS,
    example="strong",
)
TIMEOUT = Seconds(
    name="timeout",
    about="How long to wait, in seconds.",
    most=lambda limits: limits.operation_timeout_s_max,
    example=5,
)
TTL = Seconds(
    name="ttl",
    about="How long the value shall live, in seconds; for ever where it is not given.",
    most=lambda limits: limits.ttl_s_max,
    example=3600,
)
EXPLAIN = Flag(
    name="explain", about="`1` puts what became of the request into the answer's `Server-Timing`.", example="1"
)

IF_MATCH = Text(
    name="If-Match",
    about="ETags, one of which the key must hold; `*` for any value at all (RFC 9110, section 13.1.1).",
    place="header",
    pattern=TAGS,
)
IF_NONE_MATCH = Text(
    name="If-None-Match",
    about="ETags, none of which the key may hold; `*` for no value at all (RFC 9110, section 13.1.2).",
    place="header",
    pattern=TAGS,
)
REQUEST_ID = Text(
    name="X-Request-Id",
    about=f"What the client calls the request: up to {ID_CHARS_MAX} visible ASCII characters. It is in the answer, and "
    "in the logs of whoever has something to say about it. What is none is ignored.",
    place="header",
    example="order-4711",
)
TRACEPARENT = Text(
    name="traceparent",
    about="The same from a program that traces (W3C Trace Context). What is none is ignored.",
    place="header",
    example="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)


def level_of(request: Any, default: Level) -> Level:
    if not request.args:
        return default
    given = one_of(request, b"consistency")
    return parse_level(given) if given is not None else default


def timeout_of(request: Any, limits: Limits) -> float | None:
    """Give how long the client wants to wait, in seconds. Errors as in ``Seconds.read``."""
    return TIMEOUT.read(request, limits)


def ttl_of(request: Any, limits: Limits) -> float | None:
    """Give how long a value shall live, in seconds, None for ever. Errors as in ``Seconds.read``."""
    return TTL.read(request, limits)


def seconds(name: str, given: str | float, most: float) -> float:
    """Read a number of seconds.

    :raises BadParameter: if it is none, or not above 0 and at most ``most``.
    """
    # float() alone would take "1_0", and digits of any script.
    number = float(given) if not isinstance(given, str) or _number(given) else math.nan
    if not 0 < number <= most:
        raise BadParameter(f"{name} is {str(given)[:40]!r}", f"give seconds, more than 0 and at most {most:g}")
    return number


def expiry_after(now_ms: int, ttl_s: float | None) -> int:
    """Say when what lives so long from now expires, in milliseconds of wall time; 0 for never."""
    return now_ms + max(1, round(ttl_s * 1000)) if ttl_s is not None else 0


def precondition_of(request: Any) -> Precondition:
    """:raises BadParameter: if a header is no list of ETags."""
    headers = request.requestHeaders
    if not (headers.hasHeader(b"if-match") or headers.hasHeader(b"if-none-match")):
        return NO_PRECONDITION
    return parse_precondition(_joined(request, b"if-match"), _joined(request, b"if-none-match"))


NO_PRECONDITION = Precondition()


def _joined(request: Any, name: bytes) -> str | None:
    lines = request.requestHeaders.getRawHeaders(name)
    return b",".join(lines).decode("latin-1") if lines is not None else None


def refuse_unknown(request: Any, *known: bytes) -> None:
    """Refuse what this version would otherwise silently not do.

    :raises BadParameter: on a parameter that does not exist.
    """
    for name in request.args:
        if name not in known:
            shown = name.decode("ascii", "backslashreplace")[:40]
            names = ", ".join(other.decode() for other in known)
            raise BadParameter(f"there is no parameter {shown!r} here", f"known here: {names}" if names else "")


def name_in(request: Any) -> str:
    """Give the last part of a request's path: the id of a member or of a task."""
    return unquote(request.path.rpartition(b"/")[2].decode("ascii", "backslashreplace"))


def flag_of(request: Any, name: bytes) -> bool:
    """Read a parameter that is on or off.

    :raises BadParameter: if it is neither.
    """
    given = one_of(request, name)
    if given is None:
        return False
    if given not in FLAGS:
        raise BadParameter(f"{name.decode()} is {given[:40]!r}", "use 1 or 0")
    return FLAGS[given]
