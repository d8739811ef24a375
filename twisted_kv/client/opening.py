"""What clients are made of: servers as they are typed, and the token that is shown to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from ..errors import BadConfig
from .places import place_of
from .trip import Bounds, Home, Route


def home_of(
    servers: str | Sequence[str],
    token: str | None,
    token_file: str | Path | None,
    authority: str | Path | None,
    identity: str | Path | None,
    bounds: Bounds,
    now_s: Callable[[], float],
    random: Random | None,
) -> Home:
    """Read what a client was given.

    :param servers: proxies of one cluster: several, or one, or several with commas between.
    :param random: draws the pauses, and who is asked first. A program of its own draws as it likes.
    :raises BadConfig: if a server is none, there is none, or a file cannot be used.
    """
    names = servers.split(",") if isinstance(servers, str) else servers
    shown = _token(token, token_file)
    places = [
        place_of(name.strip())._replace(
            token=shown,
            authority=str(authority) if authority is not None else None,
            identity=str(identity) if identity is not None else None,
        )
        for name in names
    ]
    if not places:
        raise BadConfig("there is no server", "name one proxy at least, such as http://127.0.0.1:8080")
    random = random or Random()
    return Home(Route(list(dict.fromkeys(places)), random), now_s, random, bounds)


def _token(token: str | None, token_file: str | Path | None) -> str | None:
    if token is not None and token_file is not None:
        raise BadConfig("a token and a token file are given", "give one of them")
    if token is not None:
        if not token.isascii() or not token.isprintable() or " " in token or not token:
            raise BadConfig("the token holds what no token may", "see docs/security.md")
        return token
    if token_file is None:
        return None
    from ..token_files import read_tokens  # brings Twisted's logger, for which scripts without a token need not wait

    return read_tokens(Path(token_file)).shown
