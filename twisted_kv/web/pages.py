"""The pages for people at ``/ui/``, as they lie in ``web/ui``. They hold no secret, and are given without a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from klein import Klein

from ..errors import NoSuchRoute
from .answers import answer
from .calls.description import PAGE
from .openapi.described import described
from .parameters import refuse_unknown

UI_PREFIX = b"/ui/"
FOLDER = Path(__file__).parent / "ui"

TYPES = {".html": b"text/html; charset=utf-8", ".js": b"text/javascript; charset=utf-8", ".css": b"text/css"}

HEADS = {
    b"Content-Security-Policy": b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"X-Content-Type-Options": b"nosniff",
    b"Referrer-Policy": b"no-referrer",
    b"Cache-Control": b"no-cache",
}


def add_pages(app: Klein) -> None:
    """Give a proxy's door the pages."""
    pages = {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in FOLDER.iterdir() if path.suffix in TYPES}

    @app.route(UI_PREFIX.decode(), methods=["GET"])
    @described(PAGE)
    def ui_file(request: Any) -> bytes:
        refuse_unknown(request)
        name = request.path[len(UI_PREFIX) :].decode("ascii", "replace")
        if name not in pages:
            raise NoSuchRoute(f"there is no page {name[:100]!r}", "the calls are described at /ui/api.html")
        for field, value in HEADS.items():
            request.setHeader(field, value)
        return answer(request, *pages[name])
