"""The head of a request: read by llhttp, and refused where two programs could read it differently.

What a proxy in front of this one takes for one request and we for two, or the other way round, lets a stranger put
words into somebody else's mouth (request smuggling; RFC 9112, section 11.2). So there is one judge of heads for both
servers on a port, the lane and twisted.web, and it forgives nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import httptools

from ..errors import HeadTooLarge, MalformedRequest

END = b"\r\n\r\n"
NEWLINE = END[-1]

REMEMBERED_MAX = 1024
REMEMBERED_BYTES_MAX = 1024
"""Together a few megabytes for each port."""

_method = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_host = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*)(?::[0-9]{0,5})?").fullmatch
_KNOWN = (b"GET", b"PUT", b"POST", b"DELETE", b"HEAD")
_KEPT = [b"keep-alive"]
_MORE = (b"expect", b"upgrade", b"transfer-encoding", b"content-length")
_length = re.compile(rb"[Cc]ontent-[Ll]ength: ?([0-9]{1,15})\r\n").match
_spells = {b"HTTP/1.1": True, b"HTTP/1.0": False}


class Fields:
    """One request's fields, as they were sent; their names in lower case.

    ``length`` is what Content-Length says, 0 where it is not there; ``chunked`` says that the body's length is not
    known beforehand; ``plain`` that nothing is among them about the body or the connection but that this may be kept;
    ``traced`` that they may say what the request is called (``tracing``).
    """

    __slots__ = ("chunked", "fields", "length", "plain", "traced")

    def __init__(self) -> None:
        self.fields: dict[bytes, list[bytes]] = {}
        self.length = 0
        self.chunked = False
        self.plain = False
        self.traced = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp has found a field."""
        name = name.lower()
        if name in self.fields:
            self.fields[name].append(value.strip(b" \t"))
        else:
            self.fields[name] = [value.strip(b" \t")]

    # How routes ask for fields: as they do twisted.web's, with names in lower case.

    def hasHeader(self, name: bytes) -> bool:
        return name in self.fields

    def getRawHeaders(self, name: bytes) -> list[bytes] | None:
        return self.fields.get(name)


class Head(Fields):
    """A request's first line, and its fields. ``modern`` says that it is HTTP/1.1."""

    __slots__ = ("method", "modern", "target")


def read_head(data: bytes, fields_max: int) -> Head:
    """Read a head that is there whole, up to and with the empty line.

    :raises MalformedRequest: if it is none, or not beyond doubt.
    :raises HeadTooLarge: if it has more fields than that.
    """
    first, _, rest = data.partition(b"\r\n")
    parts = first.split(b" ")
    modern = _spells.get(parts[2]) if len(parts) == 3 else None
    if modern is None or not _method(parts[0]):
        raise _malformed("its first line is not METHOD TARGET HTTP/1.1")
    head = Head()
    head.method, head.target, head.modern = parts[0], parts[1], modern
    if parts[0] not in _KNOWN:
        # llhttp knows a list of methods, and has its own mind about some; which are allowed where, the routes say.
        data = b"GET %s %s\r\n%s" % (parts[1], parts[2], rest)
    try:
        httptools.HttpRequestParser(head).feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # whether to follow is not for the parser to say
    except httptools.HttpParserError as error:
        raise _malformed(str(error)) from None
    _judge(head, fields_max)
    return head


def judge_trailers(lines: Iterable[bytes], fields_max: int) -> None:
    """Judge the lines between the last chunk of a body and its end (RFC 9112, section 7.1.2), as those of a head are.

    Nobody reads them; but where one holds half of a line's end, others may see the end of the body in it. Errors as in
    ``read_head``.
    """
    lines = list(lines)
    if not lines:
        return
    fields = read_head(b"\r\n".join((b"GET / HTTP/1.1", b"Host: a", *lines, b"\r\n")), fields_max)
    if fields.chunked or b"content-length" in fields.fields:
        raise _malformed("what follows its body speaks of the body's length")


def _judge(head: Head, fields_max: int) -> None:
    """Refuse what llhttp lets pass. It has seen to lengths: one at most, of digits, and never beside an encoding."""
    fields = head.fields
    hosts = fields.get(b"host")
    if hosts is None:
        if head.modern:
            raise _malformed("it has no Host, which HTTP/1.1 demands")
    elif len(hosts) > 1 or not _host(hosts[0]):
        raise _malformed("its Host is not one host and port")
    encodings = fields.get(b"transfer-encoding")
    if encodings is not None:
        if len(encodings) > 1 or encodings[0].lower() != b"chunked" or not head.modern:
            raise _malformed("its Transfer-Encoding is not chunked, and that alone")
        head.chunked = True
    lengths = fields.get(b"content-length")
    if lengths is not None:
        head.length = int(lengths[0])
    connection = fields.get(b"connection", _KEPT)
    head.plain = [value.lower() for value in connection] == _KEPT and not any(name in fields for name in _MORE)
    head.traced = b"x-request-id" in fields or b"traceparent" in fields
    if sum(map(len, fields.values())) > fields_max:
        raise HeadTooLarge(f"the request has more than {fields_max} fields", "send fewer")


def _malformed(why: str) -> MalformedRequest:
    return MalformedRequest(f"this is no HTTP request that can be read in one way only: {why}", "see RFC 9112")


class Remembered:
    """Fields that were read before: a client sends the same with one request after the other, but for a body's length.

    What is remembered is bounded, in number and in size: when there is no more room all of it is forgotten, and those
    who are here are soon remembered again.
    """

    __slots__ = ("_fields_max", "_known")

    def __init__(self, fields_max: int) -> None:
        self._fields_max = fields_max - 1  # one is the length; who has no length and one too few is for others to judge
        self._known: dict[bytes, Fields] = {}

    def read(self, block: bytes) -> tuple[Fields, int] | None:
        """Read what follows the first line of an HTTP/1.1 request, up to and with the empty line.

        Gives the fields, which nobody may change, and the body's length; None if they are not plain. Errors as in
        ``read_head``.
        """
        length = 0
        at = block.find(b"ontent-Length:") - 1
        if at < 0:
            at = block.find(b"ontent-length:") - 1
        if at == 0 or (at > 0 and block[at - 1] == NEWLINE):
            said = _length(block, at)
            if said is not None:
                length = int(said[1])
                block = block[:at] + block[said.end() :]
        fields = self._known.get(block)
        if fields is None:
            fields = read_head(b"GET / HTTP/1.1\r\n" + block, self._fields_max)
            if len(block) <= REMEMBERED_BYTES_MAX:
                if len(self._known) >= REMEMBERED_MAX:
                    self._known.clear()
                self._known[block] = fields
        # A length that is among them still is another one, or the same one again, or oddly said: not plain.
        return (fields, length) if fields.plain else None


def entries_of(values: Iterable[bytes]) -> list[bytes]:
    """Give a field's entries, where it may be a list (RFC 9110, section 5.6.1), of all its lines; in lower case."""
    return [entry.strip(b" \t").lower() for value in values for entry in value.split(b",")]
