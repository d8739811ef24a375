"""The dashboard's files at ``/ui/``: a page and what it is made of, as they lie in ``web/ui``.

They hold no secret and are the same for everybody, so they are given without a token (see ``fasthttp.gate``): the page
asks the person for one. All that it shows comes from the other calls, which ask for it as ever.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from klein import Klein

from ..errors import NoSuchRoute
from .answers import answer
from .calls.dashboard import FRONT, PAGE, TO_PAGES
from .openapi.described import described
from .parameters import refuse_unknown
from .site import UI_PREFIX

FOLDER = Path(__file__).parent / "ui"
INDEX = "index.html"
STYLE = "css/all.css"
"""All style sheets as one: nothing is painted before the last has come, and a request takes longer than its content."""

TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
"""By suffix; what has another one, a licence, is plain text."""

POLICY = b"; ".join(
    (
        b"default-src 'none'",
        b"script-src 'self'",
        b"style-src 'self'",
        b"img-src 'self'",
        b"connect-src 'self'",
        b"base-uri 'none'",
        b"form-action 'none'",
        b"frame-ancestors 'none'",
        b"require-trusted-types-for 'script'",
        b"trusted-types 'none'",
    )
)
"""What the page may do (CSP Level 3): nothing but its own files and this server's calls. Keys and values are anybody's:
what they say never becomes markup or a script, and Trusted Types have the browser refuse it, too."""

HEADS = {
    b"Content-Security-Policy": POLICY,
    b"X-Content-Type-Options": b"nosniff",
    b"Referrer-Policy": b"no-referrer",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
    # Kept, and asked for each time whether it still holds: a proxy of the next version has others.
    b"Cache-Control": b"no-cache",
}


class Page(NamedTuple):
    """One file."""

    body: bytes
    content_type: bytes
    etag: bytes


def read_pages(folder: Path = FOLDER) -> dict[str, Page]:
    """Read all files, by their paths below the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            kind = TYPES.get(path.suffix, b"text/plain; charset=utf-8")
            found[path.relative_to(folder).as_posix()] = page_of(path.read_bytes(), kind)
    sheets = [page.body for name, page in found.items() if re.fullmatch(r"(css|vendor)/.+\.css", name)]
    found[STYLE] = page_of(b"\n".join(sheets), TYPES[".css"])
    return found


def page_of(body: bytes, content_type: bytes) -> Page:
    return Page(body, content_type, b'"%s"' % sha256(body).hexdigest()[:32].encode())


def holds_still(request: Any, etag: bytes) -> bool:
    """Say whether the client has this version (RFC 9110, section 13.1.2, by weak comparison)."""
    lines: list[bytes] = request.requestHeaders.getRawHeaders(b"if-none-match", [])
    told = {tag.strip().removeprefix(b"W/") for line in lines for tag in line.split(b",")}
    return etag in told or b"*" in told


def add_pages(app: Klein) -> None:
    """Give a proxy's door the dashboard."""
    pages = read_pages()

    def lead(request: Any, status: int) -> bytes:
        request.setResponseCode(status)
        request.setHeader(b"Location", UI_PREFIX)
        return answer(request, b"", b"text/plain")

    @app.route("/", methods=["GET"])
    @described(FRONT)
    def front(request: Any) -> bytes:
        # A browser keeps a permanent redirect, and tomorrow something else may listen at this port.
        return lead(request, 307)

    @app.route("/ui", methods=["GET"])
    @described(TO_PAGES)
    def ui(request: Any) -> bytes:
        return lead(request, 308)

    @app.route(UI_PREFIX.decode(), methods=["GET"])
    @described(PAGE)
    def ui_file(request: Any) -> bytes:
        refuse_unknown(request)
        name = request.path[len(UI_PREFIX) :].decode("ascii", "replace") or INDEX
        page = pages.get(name)
        if page is None:
            raise NoSuchRoute(f"the dashboard has no file {name[:100]!r}", "it begins at /ui/")
        for field, value in HEADS.items():
            request.setHeader(field, value)
        request.setHeader(b"ETag", page.etag)
        if holds_still(request, page.etag):
            request.setResponseCode(304)
            return b""
        return answer(request, page.body, page.content_type)
