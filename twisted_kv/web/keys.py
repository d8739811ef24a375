"""Listing keys: ``/v1/keys``, a page as JSON, or all of them as a stream of lines."""

from __future__ import annotations

from base64 import b64decode, b64encode, urlsafe_b64encode
from binascii import Error as BinasciiError
from typing import Any

import msgspec
from klein import Klein

from ..errors import BadParameter
from ..limits import Limits
from ..listing import Listing
from ..names import Key
from .answers import answer_json
from .calls.keys import LIST_KEYS, NDJSON_TYPE
from .openapi.described import described
from .outflow import Outflow
from .parameters import bytes_of, one_of, refuse_unknown

NDJSON = NDJSON_TYPE.encode()
PAGE_KEYS = 100


def shown(key: Key) -> str | dict[str, str]:
    """Give a key as JSON has it: a string, or where it is no UTF-8 an object with its base64."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return {"b64": b64encode(key).decode()}


def add_keys(app: Klein, listing: Listing, limits: Limits) -> None:
    """Give a proxy's door the listing."""

    @app.route("/v1/keys", methods=["GET"])
    @described(LIST_KEYS)
    async def keys(request: Any) -> Any:
        refuse_unknown(request, *LIST_KEYS.known)
        prefix = bytes_of(request, b"prefix") or b""
        after = _cursor(one_of(request, b"cursor"))
        if NDJSON in (request.getHeader(b"accept") or b""):
            return await stream(request, prefix, after, _limit(request, 1 << 62, 1 << 62))
        page = await listing.page(prefix, after, _limit(request, PAGE_KEYS, limits.keys_page_max))
        cursor = urlsafe_b64encode(page.after).decode() if page.after is not None else None
        return answer_json(request, {"keys": [shown(key) for key in page.keys], "cursor": cursor})

    async def stream(request: Any, prefix: bytes, after: bytes, left: int) -> Any:
        """Write page after page. The first is fetched before the head leaves, so that its errors have a status."""
        page = await listing.page(prefix, after, min(left, limits.keys_page_max))
        request.setHeader(b"Content-Type", NDJSON)
        async with Outflow(request) as out:
            while True:
                await out.write(b"".join(msgspec.json.encode(shown(key)) + b"\n" for key in page.keys))
                left -= len(page.keys)
                if page.after is None or not left:
                    break
                page = await listing.page(prefix, page.after, min(left, limits.keys_page_max))
        return b""


def _cursor(given: str | None) -> bytes:
    try:
        return b64decode(given, b"-_", validate=True) if given is not None else b""
    except (BinasciiError, ValueError):
        raise BadParameter("the cursor is none that this store gave", "take it from the last page") from None


def _limit(request: Any, default: int, most: int) -> int:
    given = one_of(request, b"limit")
    if given is None:
        return default
    if not given.isdecimal() or len(given) > 20 or not 0 < int(given) <= most:
        raise BadParameter(f"limit is {given[:40]!r}", f"give 1 to {most}")
    return int(given)
