"""Replies to bytes: RESP2, and where RESP3 has a type of its own that (redis.io, "Redis serialization protocol")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OK = b"+OK\r\n"
PONG = b"+PONG\r\n"
ZERO, ONE = b":0\r\n", b":1\r\n"
NO_BULK = b"$-1\r\n"
NULL = b"_\r\n"
EMPTY = b"*0\r\n"

_SMALL = [b":%d\r\n" % number for number in range(256)]


def integer(number: int) -> bytes:
    return _SMALL[number] if 0 <= number < 256 else b":%d\r\n" % number


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def simple(text: str) -> bytes:
    return b"+%b\r\n" % text.encode()


def error(text: str | bytes) -> bytes:
    """Give an error. Its text begins with a code in capitals; an end of line in it becomes spaces, as in Redis."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return b"-%b\r\n" % data.translate(_ONE_LINE)


_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


def array(items: Sequence[bytes]) -> bytes:
    """Give an array of replies."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def bulks(items: Iterable[bytes]) -> bytes:
    return array([bulk(item) for item in items])


def mapping(protocol: int, pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Give a map of replies to replies; in RESP2 it is an array, twice as long."""
    kind, count = (b"%", len(pairs)) if protocol == 3 else (b"*", 2 * len(pairs))
    return b"%b%d\r\n%b" % (kind, count, b"".join([part for pair in pairs for part in pair]))


def group(protocol: int, items: Sequence[bytes]) -> bytes:
    """Give a set; in RESP2 it is an array."""
    return b"%b%d\r\n%b" % (b"~" if protocol == 3 else b"*", len(items), b"".join(items))


def verbatim(protocol: int, text: bytes) -> bytes:
    """Give text for people to read; in RESP2 it is a bulk string."""
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if protocol == 3 else bulk(text)


def null(protocol: int) -> bytes:
    return NULL if protocol == 3 else NO_BULK


def value(protocol: int, held: bytes | None) -> bytes:
    """Give a value, or null."""
    return null(protocol) if held is None else bulk(held)
