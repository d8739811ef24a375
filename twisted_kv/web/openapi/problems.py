"""What may go wrong with a call: the errors of its own, and those that any request may meet at the door."""

from __future__ import annotations

from collections import defaultdict

from ...errors import (
    BodyTooLarge,
    ForeignHost,
    ForeignOrigin,
    HeadTooLarge,
    KvError,
    MalformedRequest,
    Overloaded,
    RequestTooSlow,
    TokenMissing,
    TokenTooWeak,
)
from ...fasthttp.gate import SAFE_METHODS, only_reads
from ..answers import INTERNAL, PROBLEM, RETRY_AFTER_S, Problem, status_of_kind
from .described import Described, Schema

ANY_REQUEST = (MalformedRequest, HeadTooLarge, RequestTooSlow)
WITH_BODY = (BodyTooLarge, Overloaded)

HEADS: dict[str, Schema] = {
    "RetryAfter": {
        "description": "Seconds after which to ask again.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "Challenge": {
        "description": "Which token is asked for (RFC 6750, section 3).",
        "required": True,
        "schema": {"type": "string", "pattern": "^Bearer "},
    },
    "RequestId": {
        "description": "What the request is called in the logs: always where the client has named it, or the answer "
        "is 500 or above.",
        "schema": {"type": "string"},
    },
}


def met_at_the_door(said: Described, method: bytes, path: bytes, tokens: bool) -> tuple[type[KvError], ...]:
    """Name the errors that a call may meet before anybody looks at what it asks for."""
    found: list[type[KvError]] = [*ANY_REQUEST, *WITH_BODY]
    if not tokens:
        found.append(ForeignHost)
    elif said.public:
        pass
    elif only_reads(method, path):
        found.append(TokenMissing)
    else:
        found += (TokenMissing, TokenTooWeak)
    if method not in SAFE_METHODS:
        found.append(ForeignOrigin)
    return tuple(found)


def problem_answers(errors: tuple[type[KvError], ...], original: bool) -> dict[str, Schema]:
    """Give the answers for errors, by status; those that share one are told apart by their type."""
    kinds: dict[int, dict[str, str]] = defaultdict(dict)
    for kind in errors:
        kinds[status_of_kind(kind, original)][kind.slug] = kind.title
    kinds[500][INTERNAL.slug] = INTERNAL.title
    return {str(status): _answer(status, kinds[status]) for status in sorted(kinds)}


def _answer(status: int, titles: dict[str, str]) -> Schema:
    heads = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    if status in RETRY_AFTER_S:
        heads["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    if TokenMissing.slug in titles:
        heads["WWW-Authenticate"] = {"$ref": "#/components/headers/Challenge"}
    narrowed = {"properties": {"type": {"enum": list(titles)}, "status": {"const": status}}}
    schema = {"allOf": [{"$ref": f"#/components/schemas/{Problem.__name__}"}, narrowed]}
    lines = "; ".join(f"{title} (`{slug}`)" for slug, title in titles.items())
    return {"description": f"{lines}.", "headers": heads, "content": {PROBLEM.decode(): {"schema": schema}}}
