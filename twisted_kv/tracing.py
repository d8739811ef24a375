"""What a request is called: by its client, by the program behind that one, or by us where nobody has said.

A client may send ``X-Request-Id``, or ``traceparent`` (https://www.w3.org/TR/trace-context/), and finds it in logs, the
nodes' too. Most send neither, and cost nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

ID_CHARS_MAX = 128
"""A request id is a name, and stands in log lines."""

PARENT_CHARS = 55
"""A ``traceparent`` of version 00."""

_id = re.compile(rb"[!-~]{1,128}").fullmatch
_parent = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?").fullmatch


class Trace(msgspec.Struct, array_like=True, frozen=True):
    """What an operation is called where it goes. ``traceparent`` is empty where the client sent none."""

    request_id: str
    traceparent: str = ""


def trace_of(request_ids: Sequence[bytes] | None, parents: Sequence[bytes] | None) -> Trace | None:
    """Read the two headers, each as the lines that came; None if neither can be used.

    What is too long, sent twice, or holds anything but visible ASCII is left out, as Trace Context demands of its own.
    Where there is only a ``traceparent``, its trace is the request's id.
    """
    request_id = request_ids[0].decode("ascii") if request_ids and len(request_ids) == 1 and _id(request_ids[0]) else ""
    parent, trace = _read_parent(parents[0]) if parents and len(parents) == 1 else ("", "")
    if not request_id and not parent:
        return None
    return Trace(request_id or trace, parent)


def _read_parent(header: bytes) -> tuple[str, str]:
    """Give a ``traceparent`` of version 00, and the trace in it; empty where there is none.

    A later version begins with the same fields, and is passed on as far as this one knows it (section 4.3 there).
    """
    found = _parent(header[:256])
    if found is None:
        return "", ""
    version, trace, parent, flags, more = found.groups()
    if version == b"ff" or not trace.strip(b"0") or not parent.strip(b"0") or (version == b"00" and more is not None):
        return "", ""
    sampled = int(flags, 16) & 1
    return f"00-{trace.decode()}-{parent.decode()}-{sampled:02x}", trace.decode()


class Followed:
    """One request whose client wants to find it again, or to see where its time went.

    :param explains: whether the client wants to see that.
    """

    __slots__ = ("explains", "steps", "trace")

    def __init__(self, trace: Trace | None, explains: bool = False) -> None:
        self.trace = trace
        self.explains = explains
        self.steps: list[dict[str, object]] = []
        """What became of it, when it has ended (``timeline.told``)."""


class Ids:
    """Draws ids for requests that have none. Two processes never draw the same one.

    :param writer: 64 random bits of this process.
    """

    __slots__ = ("_drawn", "_writer")

    def __init__(self, writer: int) -> None:
        self._writer = writer
        self._drawn = 0

    def draw(self) -> str:
        self._drawn += 1
        return f"{self._writer:016x}-{self._drawn}"
