"""The parameters and headers that calls share."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import unquote

from ..errors import BadParameter
from ..limits import Limits
from ..preconditions import Precondition, parse_precondition
from ..quorum import Level, parse_level


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


def level_of(request: Any, default: Level) -> Level:
    if not request.args:
        return default
    given = one_of(request, b"consistency")
    return parse_level(given) if given is not None else default


def timeout_of(request: Any, limits: Limits) -> float | None:
    """Give how long the client wants to wait, in seconds, None where it does not say.

    :raises BadParameter: if that is no number, or out of bounds.
    """
    return _seconds(request, b"timeout", limits.operation_timeout_s_max)


def ttl_of(request: Any, limits: Limits) -> float | None:
    """Give how long a value shall live, in seconds, None for ever. Errors as in ``timeout_of``."""
    return _seconds(request, b"ttl", limits.ttl_s_max)


def _seconds(request: Any, name: bytes, most: float) -> float | None:
    given = one_of(request, name)
    return seconds(name.decode(), given, most) if given is not None else None


def seconds(name: str, given: str | float, most: float) -> float:
    """Read a number of seconds.

    :raises BadParameter: if it is none, or not above 0 and at most ``most``.
    """
    try:
        number = float(given)
    except ValueError:
        number = math.nan
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
    given = one_of(request, name) or "0"
    if given not in ("0", "1", "false", "true"):
        raise BadParameter(f"{name.decode()} is {given[:40]!r}", "use 1 or 0")
    return given in ("1", "true")
