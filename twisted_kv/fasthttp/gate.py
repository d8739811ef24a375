"""Who may ask what at a port, by the token of a request: judged by its head, before a byte of its body is taken."""

from __future__ import annotations

import re

from ..errors import TokenMissing, TokenTooWeak
from ..tokens import Access, Keyring, Ticket
from .frames import LINK_PATH
from .heads import Fields

SAFE_METHODS = frozenset((b"GET", b"HEAD", b"QUERY"))
READING_POSTS = frozenset((b"/GET", b"/v1/cluster/plan"))
"""Calls that change nothing, for all that their method says."""

_bearer = re.compile(rb"bearer +([!-~]+)", re.IGNORECASE).fullmatch


def only_reads(method: bytes, path: bytes) -> bool:
    """Say whether a call changes nothing, whatever its body says. A link carries all that there is."""
    if method in SAFE_METHODS:
        return path != LINK_PATH
    return method == b"POST" and path in READING_POSTS


def bearer(fields: Fields) -> bytes | None:
    """Give the token of a request (RFC 6750, section 2.1), None if there is not exactly one."""
    given = fields.getRawHeaders(b"authorization") or ()
    found = _bearer(given[0]) if len(given) == 1 else None
    return found[1] if found is not None else None


class Gate:
    """One port's. Without tokens it stands open."""

    __slots__ = ("_keyring",)

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def judge(self, method: bytes, path: bytes, fields: Fields) -> Ticket | None:
        """Let a request in, and give what its token allows; None where no token is asked for.

        :raises TokenMissing: if it shows none that is known.
        :raises TokenTooWeak: if its token does not allow that.
        """
        if self._keyring.tokens is None:
            return None
        token = bearer(fields)
        ticket = Ticket(self._keyring, token)
        if ticket.access is None:
            raise TokenMissing(
                "the request shows no token" if token is None else "the request's token is not among those that hold",
                "send it as Authorization: Bearer TOKEN; it is in the file that --token-file names",
                shown=token is not None,
            )
        if ticket.access is Access.READ_ONLY and not only_reads(method, path):
            raise TokenTooWeak("the request's token allows to read, and nothing else", "show one that is read-write")
        return ticket
