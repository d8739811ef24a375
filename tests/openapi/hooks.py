"""What schemathesis has to be told about this store (``SCHEMATHESIS_HOOKS``): its media types, and what is nobody's
fault."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import schemathesis

NODE = os.environ.get("KV_OPENAPI_NODE", "127.0.0.1:1")
"""Who is asked in the place of any other node."""

NDJSON, MSGPACK = "application/x-ndjson", "application/msgpack"


@schemathesis.serializer(NDJSON)
def to_lines(_: Any, value: Any) -> bytes:
    rows = value if isinstance(value, list) else [value]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@schemathesis.serializer(MSGPACK)
def to_msgpack(_: Any, value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, msgspec.MsgspecError):
        return b"\xc1"  # an integer that msgpack cannot write: the one byte that begins nothing will do


@schemathesis.deserializer(NDJSON)
def of_lines(_: Any, response: Any) -> Any:
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.deserializer(MSGPACK)
def of_msgpack(_: Any, response: Any) -> Any:
    return _plain(msgspec.msgpack.decode(response.content))


def _plain(value: Any) -> Any:
    """Give a value as JSON could have it: schemas know no bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, dict) else value


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Drop a GET that names no key at all: that one of two is needed cannot be said in a document."""
    if case.operation.path != "/GET" or case.meta is None or not case.meta.generation.mode.is_positive:
        return True
    return isinstance(case.body, dict) or "Key" in (case.query or {})


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Lead to one port of this machine whoever is asked to be added: no test asks strangers, nor a name server."""
    body = _whole(case.body)
    if repr(body) != repr(case.body):  # what is given to a case counts as another one, even if it is the same
        case.body = body
    if isinstance(body, dict) and isinstance(body.get("url"), str):
        case.body = {**body, "url": _at_home(body["url"])}


def _whole(value: Any) -> Any:
    """Write whole numbers as such: to a schema 64.0 is an integer, to us it is none."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return {name: _whole(one) for name, one in value.items()} if isinstance(value, dict) else value


def _at_home(url: str) -> str:
    """Give an URL's host and port another place, and leave one that is none as it is."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            return url
    except ValueError:
        return url
    return urlunsplit(parts._replace(netloc=NODE))


@schemathesis.check
def an_answer_for_each_line(context: Any, response: Any, case: Any) -> None:
    """Bulk answers 200 whatever the lines say; so it has to say something about each of them."""
    if case.operation.path != "/v1/bulk" or response.status_code != 200:
        return
    asked = response.request.body or b""
    packed = response.headers["content-type"][0].startswith(MSGPACK)
    lines = msgspec.msgpack.decode(asked) if packed else [line for line in asked.split(b"\n") if line.strip()]
    answers = (of_msgpack if packed else of_lines)(None, response)
    assert len(answers) == len(lines), f"{len(lines)} lines, {len(answers)} answers"
    assert all(answer["status"] != 500 for answer in answers), answers
