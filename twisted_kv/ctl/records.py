"""Records as lines: ``{"key": ..., "value": ...}``, with ``_b64`` where bytes are no UTF-8; and as bulk operations.

``expires_ms`` is wall time in milliseconds, and ``content_type`` is there where it is not the usual one. So a line says
all that a key holds, but for its version.
"""

from __future__ import annotations

import base64
from binascii import Error as BinasciiError
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from .client import MSGPACK, Client
from .data import key_path, text_or_b64
from .trouble import Exit, Trouble, of_problem

WHOLE = (429, 503, 504, 507)
"""Statuses after which the same operation may be tried again."""
TTL_S_MAX = 100 * 365 * 86_400.0
EXPIRES_MS_MAX = (1 << 63) - 1
"""What proxies take at the most."""
TOO_LARGE = 413
BULK_BYTES_MAX = 2 << 30
"""The largest answer: the first page of an export, should all its values be as large as they can be."""
TRIES = 6
FIRST_PAUSE_S = 0.2

decode_packed = msgspec.msgpack.Decoder(list[dict[str, Any]]).decode
encode_packed = msgspec.msgpack.Encoder().encode
encode_json = msgspec.json.Encoder().encode


class Record(msgspec.Struct, omit_defaults=True):
    """One line."""

    key: str | None = None
    key_b64: str | None = None
    value: str | None = None
    value_b64: str | None = None
    expires_ms: int | None = None
    ttl: float | None = None
    """Refused. Were it passed over like other names, what was to expire would stay for ever."""
    content_type: str | None = None


decode_line = msgspec.json.Decoder(Record).decode


def line_of(answer: dict[str, Any]) -> bytes:
    """Write what bulk answers to a get as a line."""
    line: dict[str, Any] = text_or_b64("key", answer["key"]) | text_or_b64("value", answer["value"])
    for name in ("expires_ms", "content_type"):
        if name in answer:
            line[name] = answer[name]
    return encode_json(line) + b"\n"


def put_of(line: bytes, now_ms: int) -> dict[str, Any] | None:
    """Read a line as a put; None of what has expired meanwhile.

    :raises ValueError: saying what is wrong with it.
    """
    try:
        record = decode_line(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    put: dict[str, Any] = {"op": "put", "key": _bytes("key", record.key, record.key_b64)}
    put["value"] = _bytes("value", record.value, record.value_b64)
    if record.ttl is not None:
        raise ValueError("ttl means nothing in a file: say with expires_ms when it expires")
    if record.expires_ms is not None:
        if not 0 < record.expires_ms <= EXPIRES_MS_MAX:
            raise ValueError(f"expires_ms is {record.expires_ms}: give milliseconds since 1970, up to {EXPIRES_MS_MAX}")
        if record.expires_ms <= now_ms:
            return None
        put |= until(record.expires_ms, now_ms)
    if record.content_type:
        put["content_type"] = record.content_type
    return put


def until(expires_ms: int, now_ms: int) -> dict[str, Any]:
    """Say when a put's value expires, for all proxies: the older ones know nothing but a time to live."""
    return {"expires_ms": expires_ms, "ttl": min((expires_ms - now_ms) / 1000, TTL_S_MAX)}


def _bytes(name: str, text: str | None, b64: str | None) -> bytes:
    if (text is None) == (b64 is None):
        raise ValueError(f"{name} is missing, or given twice")
    if text is not None:
        return text.encode()
    try:
        return base64.b64decode(b64 or "", validate=True)
    except BinasciiError:
        raise ValueError(f"{name}_b64 is no base64") from None


def bulk(client: Client, operations: Sequence[dict[str, Any]], query: str = "") -> list[dict[str, Any]]:
    """Have operations done, and give their answers in the same order; those that may be tried again are, for a while.

    All of them may be done twice: puts without a condition, and gets. With one that is tried again those on its key
    that came after it are, or the last of them would not win.

    :raises Trouble: if some could not be done in time, or the proxy is gone.
    """
    import time

    answers: list[dict[str, Any]] = [{}] * len(operations)
    left = list(range(len(operations)))
    pause_s = FIRST_PAUSE_S
    for _ in range(TRIES):
        found = _once(client, [operations[place] for place in left], query)
        for place, answer in zip(left, found, strict=True):
            answers[place] = answer
        failed: set[bytes] = set()
        tried, left = left, []
        for place in tried:
            if answers[place]["status"] in WHOLE:
                failed.add(operations[place]["key"])
            if operations[place]["key"] in failed:
                left.append(place)
        if not left:
            return answers
        time.sleep(pause_s)
        pause_s *= 2
    first = answers[left[0]]
    raise of_problem(first["status"], first.get("problem", {}))


def _once(client: Client, operations: Sequence[dict[str, Any]], query: str) -> list[dict[str, Any]]:
    body = encode_packed(list(operations))
    headers = {"Content-Type": MSGPACK}
    answer = client.request("POST", f"/v1/bulk{query}", body, headers=headers, again=True, most=BULK_BYTES_MAX)
    if answer.status == TOO_LARGE and len(operations) > 1:
        # How much a proxy takes at once may be configured, and is not told.
        half = len(operations) // 2
        return _once(client, operations[:half], query) + _once(client, operations[half:], query)
    if answer.status == TOO_LARGE and operations[0]["op"] == "put":
        return [_alone(client, operations[0], query)]
    if answer.status in WHOLE:
        return [{"status": answer.status, "problem": answer.problem()}] * len(operations)
    if answer.status >= 400:
        raise of_problem(answer.status, answer.problem())
    try:
        found = decode_packed(answer.body)
    except (msgspec.DecodeError, ValueError):
        found = []
    if len(found) != len(operations):
        raise Trouble(
            "the proxy's answer is not whole",
            f"{len(found)} answers to {len(operations)} operations",
            "the same command goes on where it was",
            Exit.QUORUM,
        )
    return found


def _alone(client: Client, put: dict[str, Any], query: str) -> dict[str, Any]:
    """Have a value put that fits into a request, but not together with what bulk says about it."""
    living = f"{'&' if query else '?'}ttl={put['ttl']!r}" if "ttl" in put else ""
    path = f"/v1/kv/{key_path(put['key'])}{query}{living}"
    headers = {"Content-Type": put.get("content_type", "application/octet-stream")}
    answer = client.request("PUT", path, put["value"], headers=headers, again=True)
    return {"status": answer.status, "problem": answer.problem()}


def cut(operations: Iterable[Any], sizes: Iterable[int], most: int, bytes_most: int) -> Iterable[list[Any]]:
    """Cut operations into parts of so many, and so many bytes, at the most; a larger one is a part of its own."""
    part: list[Any] = []
    taken = 0
    for one, size in zip(operations, sizes, strict=True):
        if part and (len(part) >= most or taken + size > bytes_most):
            yield part
            part, taken = [], 0
        part.append(one)
        taken += size
    if part:
        yield part
