"""How a connection becomes a link: what is asked, what is answered, and how either side reads it.

See RFC 9110, section 7.8. What the connection carries from then on is in ``frames``.
"""

from __future__ import annotations

from .frames import PROTOCOL
from .heads import END, Head, entries_of

SWITCHING = b"HTTP/1.1 101"
"""What an answer begins with if it switches, to whatever."""

SWITCHED = SWITCHING + b" Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + PROTOCOL + END
"""A node's whole answer."""


def request_to_switch(path: bytes, host: bytes, token: str | None) -> bytes:
    """Give a proxy's request.

    :param token: the one to show, None for none.
    """
    fields = [b"Host: " + host, b"Connection: Upgrade", b"Upgrade: " + PROTOCOL]
    if token is not None:
        fields.append(b"Authorization: Bearer " + token.encode())
    return b"\r\n".join((b"GET " + path + b" HTTP/1.1", *fields, b"", b""))


def asks_for_link(asked: Head) -> bool:
    """Say whether the fields of a request ask to switch to the link, and to it now.

    Whether its sender may have it is for the door to say.
    """
    if not asked.modern or asked.length or asked.chunked:
        return False  # a body would have to be read first
    fields = asked.fields
    return b"upgrade" in entries_of(fields.get(b"connection", ())) and PROTOCOL in entries_of(
        fields.get(b"upgrade", ())
    )


def is_link(answer: bytes) -> bool:
    """Say whether the node has switched to the link, by the head of its answer, and to nothing beside it.

    A request lists what its sender would take; an answer lists layers, all of which hold from then on.
    """
    fields = (line.partition(b":") for line in answer.split(b"\r\n")[1:])
    return entries_of(value for name, _, value in fields if name.strip(b" \t").lower() == b"upgrade") == [PROTOCOL]
