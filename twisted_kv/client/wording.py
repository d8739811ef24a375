"""Lines of ``/v1/bulk`` and pages of ``/v1/keys``: written, and read with nothing in them trusted."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .judging import DONE, Answer, Garbled, Verdict, judge_problem
from .trip import Request
from .values import OCTETS, Delete, Get, Line, Put, Text, Value, Written, bytes_of, tag_of, type_of

NDJSON = "application/x-ndjson"


class Reply(NamedTuple):
    """What a proxy says of one line."""

    verdict: Verdict
    value: Value | Written | None = None


class Page(NamedTuple):
    """Some keys, and where to go on; None at the end."""

    keys: list[bytes]
    cursor: str | None


def line_of(line: Line) -> bytes:
    """Write a line, with its end.

    :raises ValueError: if it has a content type or a version that is none.
    :raises TypeError: if it is no line, or has a key or a value that is neither bytes nor a string.
    """
    if not isinstance(line, Get | Put | Delete):
        raise TypeError(f"a line of bulk is Get, Put or Delete, and not {type(line).__name__}")
    fields: dict[str, Any] = {"op": type(line).__name__.lower(), **_shown("key", line.key)}
    if isinstance(line, Put):
        fields |= _shown("value", line.value)
        fields |= {name: given for name in ("ttl", "expires_ms") if (given := getattr(line, name)) is not None}
        if (content_type := type_of(line.value, line.content_type)) != OCTETS:
            fields["content_type"] = content_type
        if line.if_absent:
            fields["if_none_match"] = "*"
    if not isinstance(line, Get) and line.if_match is not None:
        fields["if_match"] = tag_of(line.if_match)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def bulk_request(lines: Sequence[bytes], consistency: str | None) -> Request:
    parameters = {"consistency": consistency} if consistency is not None else {}
    return Request("POST", "/v1/bulk", parameters, {"Content-Type": NDJSON}, b"".join(lines))


def read_replies(body: bytes, count: int) -> list[Reply]:
    """Read an answer as far as it goes: what follows the last line end was cut, and is left out.

    :raises Garbled: if it cannot be read, or has more lines than were asked for.
    """
    lines = body.split(b"\n")[:-1]
    if len(lines) > count:
        raise Garbled(f"it has {len(lines)} lines for {count}")
    return [_reply(line) for line in lines]


def read_reply(answer: Answer) -> Reply:
    """Read the answer to a single line. Errors as in ``read_replies``."""
    found = read_replies(answer.body, 1)
    if not found:
        raise Garbled("it was cut")
    return found[0]


def keys_request(prefix: bytes, limit: int, cursor: str | None) -> Request:
    parameters: dict[str, str | bytes] = {"prefix": prefix, "limit": str(limit)}
    if cursor is not None:
        parameters["cursor"] = cursor
    return Request("GET", "/v1/keys", parameters, timed=False)


def read_page(answer: Answer) -> Page:
    """:raises Garbled: if it is no page."""
    found = _object(answer.body)
    keys, cursor = found.get("keys"), found.get("cursor")
    if not isinstance(keys, list) or not (cursor is None or isinstance(cursor, str)):
        raise Garbled("it is no page of keys")
    return Page([_key(key) for key in keys], cursor)


def _key(shown: object) -> bytes:
    if isinstance(shown, str):
        return shown.encode()
    if isinstance(shown, dict) and isinstance(shown.get("b64"), str):
        return _from_b64(shown["b64"])
    raise Garbled("it has a key that is none")


def _shown(name: str, given: Text) -> dict[str, str]:
    """Give bytes as text where they are UTF-8, and do not grow by being escaped; else as base64."""
    data = bytes_of(given)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and (text or not data):
        return {name: text}
    return {f"{name}_b64": b64encode(data).decode()}


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Garbled("it is no JSON") from None
    if not isinstance(found, dict):
        raise Garbled("it is no JSON object")
    return found


def _from_b64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise Garbled("it has base64 that is none") from None


def _reply(line: bytes) -> Reply:
    found = _object(line)
    status, etag, problem = found.get("status"), found.get("etag"), found.get("problem", {})
    if not isinstance(status, int) or not isinstance(problem, dict) or not (etag is None or isinstance(etag, str)):
        raise Garbled("it has a line without a status")
    if status == 204:
        return Reply(DONE, Written(etag))
    if status == 200:
        if etag is None:
            raise Garbled("it has a value without a version")
        return Reply(DONE, _value(found, etag))
    return Reply(judge_problem(status, problem))


def _value(found: Mapping[str, Any], etag: str) -> Value:
    text, coded = found.get("value"), found.get("value_b64")
    content_type, expires_ms = found.get("content_type", OCTETS), found.get("expires_ms", 0)
    if not isinstance(content_type, str) or not isinstance(expires_ms, int):
        raise Garbled("it has a value whose type or expiry is none")
    if isinstance(text, str):
        return Value(text.encode(), etag, content_type, expires_ms)
    if isinstance(coded, str):
        return Value(_from_b64(coded), etag, content_type, expires_ms)
    raise Garbled("it has a line without a value")
