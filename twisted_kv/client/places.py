"""Where a proxy is, and how to speak to it. ``kvctl`` uses it, too: only the standard library is loaded here."""

from __future__ import annotations

from functools import lru_cache
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ..errors import BadConfig

if TYPE_CHECKING:
    import ssl

USUAL_PORT = 8080
"""A proxy's, where neither a port nor a scheme is typed."""


class Place(NamedTuple):
    """Where a proxy is, and what is shown to it.

    :param authority: a PEM file of who signed its certificate; None for whom the system trusts.
    :param identity: a PEM file with a certificate and its key, for a proxy that asks for one.
    """

    scheme: str
    host: str
    port: int
    url: str
    token: str | None = None
    authority: str | None = None
    identity: str | None = None

    def __repr__(self) -> str:
        """Name it without its token: what is shown of values in a traceback gets into logs."""
        return f"<Place {self.url}>"


def place_of(server: str) -> Place:
    """Read a server as it is typed: a URL, or host and port.

    :raises BadConfig: if it is none.
    """
    typed = server if "://" in server else f"http://{server}"
    shown = server.rpartition("@")[2]  # before that there may be a password
    wrong = BadConfig(f"{shown!r} is no server", "name a URL like http://127.0.0.1:8080, or a host and a port")
    try:
        found = urlsplit(typed)
        port, name = found.port, found.hostname or ""
        if ":" not in name:
            name.encode("idna")
    except ValueError:
        raise wrong from None
    if port is None:
        port = 443 if found.scheme == "https" else 80 if typed == server else USUAL_PORT
    more = found.path.strip("/") or found.query or found.fragment or found.username is not None
    if found.scheme not in ("http", "https") or not name or not port or more or " " in name or not name.isprintable():
        raise wrong
    return Place(found.scheme, name, port, f"{found.scheme}://{f'[{name}]' if ':' in name else name}:{port}")


def connection_to(place: Place) -> HTTPConnection:
    """Give a connection that is not open yet.

    :raises BadConfig: if its certificates cannot be used.
    """
    if place.scheme == "http":
        return HTTPConnection(place.host, place.port)
    try:
        context = _context(place.authority, place.identity)
    except OSError as error:  # all of TLS's own errors are among these
        raise BadConfig(f"{place.identity or place.authority}: {error}", "give PEM files") from None
    return HTTPSConnection(place.host, place.port, context=context)


@lru_cache(maxsize=8)
def _context(authority: str | None, identity: str | None) -> ssl.SSLContext:
    import ssl  # takes a tenth of a second, which plain HTTP need not wait for

    context = ssl.create_default_context(cafile=authority)
    if identity is not None:
        context.load_cert_chain(identity)
    return context
