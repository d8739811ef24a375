"""A request in the lane, for routes that know only ``twisted.web``'s: as much of that one as they touch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import NO_BODY_CODES, RESPONSES, datetimeToString, parse_qs
from twisted.web.http_headers import Headers
from twisted.web.server import version

from .heads import Fields


class Answered(Protocol):
    """Where a request's answer goes, whole."""

    def answered(self, data: bytes) -> None: ...


class Stamp:
    """The fields that each answer begins with, made anew once a second."""

    __slots__ = ("_clock", "_last", "_second", "_text", "_wall")

    def __init__(self, clock: IReactorTime, wall: Callable[[], bytes] = datetimeToString) -> None:
        self._clock = clock
        self._wall = wall
        self._second = -1
        self._text = b""
        self._last = b""

    def text(self) -> bytes:
        second = int(self._clock.seconds())
        if second != self._second:
            self._second = second
            self._text = b"Server: %s\r\nDate: %s\r\n%s" % (version, self._wall(), self._last)
        return self._text

    def part(self) -> None:
        """Say in each answer from now on that it is the last of its connection (RFC 9112, section 9.6)."""
        self._last = b"Connection: close\r\n"
        self._second = -1


@lru_cache(maxsize=256)
def _first_line(code: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (code, RESPONSES.get(code, b"Unknown Status"))


@lru_cache(maxsize=256)
def _canonical(name: bytes) -> bytes:
    """Spell a field's name as ``twisted.web`` does."""
    [(spelt, _)] = Headers({name: [b""]}).getAllRawHeaders()
    return spelt


@lru_cache(maxsize=4096)
def _field(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Give a field's name as it is spelt, and its line. Most answers' fields were in another one just before."""
    if b"\n" in value or b"\r" in value:
        value = b" ".join(value.splitlines())
    spelt = _canonical(name)
    return spelt, b"%b: %b\r\n" % (spelt, value)


class LaneRequest:
    """One request and its answer, which leaves in one piece. See ``twisted.web.iweb.IRequest``.

    ``channel`` is None once the client has gone: then nothing is to be written any more. Its body's length is not among
    ``requestHeaders``.
    """

    __slots__ = (
        "_answer",
        "_body",
        "_stamp",
        "args",
        "channel",
        "code",
        "content",
        "method",
        "path",
        "requestHeaders",
        "traced",
    )

    def __init__(
        self, channel: Answered, stamp: Stamp, method: bytes, path: bytes, query: bytes, fields: Fields, body: bytes
    ) -> None:
        self.channel: Answered | None = channel
        self._stamp = stamp
        self.method = method
        self.path = path
        self.args: dict[bytes, list[bytes]] = parse_qs(query, True) if query else {}
        self.content = BytesIO(body)
        self.requestHeaders = fields
        self.traced = fields.traced
        """Whether its fields may say what it is called."""
        self.code = 200
        self._answer: dict[bytes, bytes] = {}
        self._body = b""

    @property
    def responseHeaders(self) -> LaneRequest:
        return self

    def getHeader(self, name: bytes) -> bytes | None:
        """Give a field's last value; the name in lower case."""
        values = self.requestHeaders.fields.get(name)
        return values[-1] if values is not None else None

    def setResponseCode(self, code: int) -> None:
        self.code = code

    def setHeader(self, name: bytes, value: bytes) -> None:
        self.setRawHeaders(name, (value,))

    def setRawHeaders(self, name: bytes, values: Sequence[bytes]) -> None:
        [value] = values
        spelt, line = _field(name, value)
        self._answer[spelt] = line

    def write(self, data: bytes) -> None:
        self._body += data

    def finish(self) -> None:
        """Send the answer."""
        assert self.channel is not None, "whoever answers looks whether there is anybody"
        code, lines = self.code, self._answer
        bodiless = code in NO_BODY_CODES
        assert bodiless or b"Content-Length" in lines, "an answer without a length could not be told from a cut one"
        body = b"" if bodiless or self.method == b"HEAD" else self._body
        channel, self.channel = self.channel, None
        channel.answered(b"".join((_first_line(code), self._stamp.text(), *lines.values(), b"\r\n", body)))
