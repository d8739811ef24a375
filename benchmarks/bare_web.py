"""A bare twisted.web server with the original's two calls, as a ceiling: ``python -m benchmarks.bare_web PORT``."""

from __future__ import annotations

from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Site

from .bare import get, put, serve


class QuietSite(Site):
    """A site without an access log: ours writes none either, and a comparison with one would flatter ours."""

    def log(self, request: Any) -> None:
        pass


class Calls(Resource):
    isLeaf = True

    def render_PUT(self, request: Any) -> bytes:
        put(request.content.read())
        return b""

    def render_GET(self, request: Any) -> bytes:
        body = request.content.read()
        value = get(body) if body else None  # whoever waits for the server asks for nothing
        if value is None:
            request.setResponseCode(404)
            return b""
        request.setHeader(b"content-type", b"application/json")
        return value


if __name__ == "__main__":
    serve(QuietSite(Calls()))
