"""The parameters that calls share."""

from __future__ import annotations

from typing import Any

from ..errors import BadParameter, NotYetSupported
from ..quorum import Level, parse_level


def level_of(request: Any, default: Level) -> Level:
    given = request.args.get(b"consistency")
    if given is not None and len(given) > 1:
        raise BadParameter("consistency is given more than once", "give it once")
    return parse_level(given[0].decode("utf-8", "replace")) if given else default


def refuse_unknown(request: Any, *known: bytes) -> None:
    """Refuse what this version would otherwise silently not do.

    :raises BadParameter: on a parameter that does not exist.
    :raises NotYetSupported: on one, or a precondition, that a later version will know.
    """
    for name in (b"if-match", b"if-none-match"):
        if request.requestHeaders.hasHeader(name):
            raise NotYetSupported(f"{name.decode()} is not served yet", "leave it out; nothing was changed")
    for name in request.args:
        if name in (b"ttl", b"timeout"):
            raise NotYetSupported(f"?{name.decode()}= is not served yet", "leave it out; nothing was changed")
        if name not in known:
            shown = name.decode("ascii", "backslashreplace")[:40]
            names = ", ".join(other.decode() for other in known)
            raise BadParameter(f"there is no parameter {shown!r} here", f"known here: {names}" if names else "")
