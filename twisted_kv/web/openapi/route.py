"""``GET /openapi.json``."""

from __future__ import annotations

from typing import Any

import msgspec

from ...limits import Limits
from ...tokens import Keyring
from ..answers import JSON, answer
from ..calls.description import DOCUMENT
from ..calls.shared import GROUPS
from ..parameters import refuse_unknown
from ..site import App
from .described import described
from .document import document, routes_of

PATH = "/openapi.json"


def written_of(app: App, limits: Limits, tokens: bool) -> bytes:
    """Give a door's document as JSON."""
    routes = routes_of(app.url_map.iter_rules(), app.views.__getitem__)
    return msgspec.json.encode(document(routes, GROUPS, limits, tokens)) + b"\n"


def add_openapi(app: App, limits: Limits, keyring: Keyring) -> None:
    """Give a door the document about all of its routes, those included that are added later.

    It is made when it is first asked for, and anew when tokens come to be asked for.
    """
    made: dict[bool, bytes] = {}

    @app.route(PATH, methods=["GET"])
    @described(DOCUMENT)
    def openapi(request: Any) -> bytes:
        refuse_unknown(request)
        tokens = keyring.tokens is not None
        if tokens not in made:
            made[tokens] = written_of(app, limits, tokens)
        return answer(request, made[tokens], JSON)
