"""Who may ask what at a port, by a request's token and the host that it names: judged by its head, before its body.

Where no token is asked for, whoever can connect may do everything, and so may any page that a browser there shows, if
its own name leads to this port (DNS rebinding). Such a page has to name itself in Host: there only names that cannot
lead astray, and those that were configured, are answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from ..errors import ForeignHost, TokenMissing, TokenTooWeak
from ..tokens import Access, Keyring, Ticket
from .frames import LINK_PATH
from .heads import Fields

SAFE_METHODS = frozenset((b"GET", b"HEAD", b"QUERY"))
READING_POSTS = frozenset((b"/GET", b"/v1/cluster/plan"))
"""Calls that change nothing, for all that their method says."""

NOWHERE = b"\0"
"""No path begins so."""

HOSTS_MET_MAX = 256
"""How many spellings of Host are remembered."""

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


def leads_here(host: str, names: frozenset[str]) -> bool:
    """Say whether a name can be nobody else's: an address, localhost (RFC 6761, section 6.3), or one of some names."""
    if host in names or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def host_of(field: bytes) -> str:
    """Give the host that a Host field names, without its port and in lower case."""
    host, _, port = field.decode("latin-1").lower().rpartition(":")
    if not host or "]" in port:
        host = field.decode("latin-1").lower()
    return host.strip("[]").removesuffix(".")


class Gate:
    """One port's.

    :param names: what else than addresses and localhost a request may name as its host where no token is asked for.
    :param public: the folder, with slashes around it, that may be read without a token: it holds no secret. Nor does
        what leads there: its name without the last slash, and the root.
    """

    __slots__ = ("_keyring", "_met", "_names", "_public", "_ways")

    def __init__(self, keyring: Keyring | None = None, names: Iterable[str] = (), public: bytes = NOWHERE) -> None:
        self._keyring = keyring or Keyring()
        self._public = public
        self._ways = frozenset((b"/", public[:-1])) if public != NOWHERE else frozenset()
        self._names = frozenset(name.lower().removesuffix(".") for name in names)
        self._met: set[bytes] = {b""}

    def judge(self, method: bytes, path: bytes, fields: Fields) -> Ticket | None:
        """Let a request in, and give what its token allows; None where no token is asked for.

        :raises ForeignHost: if none is asked for, and the request names a host that could be somebody else's.
        :raises TokenMissing: if it shows none that is known.
        :raises TokenTooWeak: if its token does not allow that.
        """
        if self._keyring.tokens is None:
            hosts = fields.getRawHeaders(b"host")
            if hosts is not None and hosts[0] not in self._met:
                self._meet(hosts[0])
            return None
        if (path.startswith(self._public) or path in self._ways) and method in SAFE_METHODS:
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

    def _meet(self, field: bytes) -> None:
        host = host_of(field)
        if not leads_here(host, self._names):
            raise ForeignHost(
                f"the request is for {host[:100]!r}, which is not known to be this server",
                "ask localhost or an address, or start the daemon with --hosts NAME",
            )
        if len(self._met) >= HOSTS_MET_MAX:
            self._met = {b""}
        self._met.add(field)
