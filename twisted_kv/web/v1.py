"""The keys: ``/v1/kv/{key}``. Keys and values are raw bytes; the content type is kept."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_to_bytes

from klein import Klein
from twisted.internet.defer import Deferred

from ..coordinator import Coordinator, Done
from ..errors import BadParameter, KeyAbsent, MalformedKey
from ..limits import Limits
from ..names import Key
from ..quorum import Level
from ..versions import Record, decode_record
from ..wire import checked_key, checked_value
from .answers import answer
from .parameters import level_of, refuse_unknown
from .site import KV_PREFIX, KV_ROUTE

OCTETS = b"application/octet-stream"

_broken_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search


def key_of(request: Any, limits: Limits) -> Key:
    """Take the key from the raw request target: percent-decoded once, slashes and dots as they are.

    :raises MalformedKey: if an escape is broken, or the key is empty or too long.
    """
    raw = request.path[len(KV_PREFIX) :]
    if _broken_escape(raw):
        raise MalformedKey("the key holds a % that begins no escape", "write a percent sign as %25")
    return checked_key(unquote_to_bytes(raw), limits)


def content_type_of(request: Any, limits: Limits) -> bytes:
    given: bytes = request.getHeader(b"content-type") or OCTETS
    if len(given) > limits.content_type_bytes_max:
        raise BadParameter(f"the content type has {len(given)} bytes", f"the most is {limits.content_type_bytes_max}")
    return given


def show(request: Any, record: Record, done: Done) -> None:
    request.setHeader(b"ETag", b'"%s"' % record.version.hex().encode())
    request.setHeader(b"KV-Replicas", b"%d/%d" % (done.acks, done.owners))


def add_v1(app: Klein, coordinator: Coordinator, limits: Limits, default: Level) -> None:
    """Give a proxy's door the calls for single keys."""

    @app.route(KV_ROUTE.decode(), methods=["GET", "HEAD"])
    def kv_get(request: Any) -> Deferred[bytes]:
        refuse_unknown(request, b"consistency")
        key = key_of(request, limits)
        return coordinator.get(key, level_of(request, default)).addCallback(found, request, key)

    def found(done: Done, request: Any, key: Key) -> bytes:
        record = decode_record(done.record) if done.record else None
        if record is None or record.value is None:
            raise KeyAbsent(f"there is no key {key.decode('utf-8', 'backslashreplace')[:200]!r}")
        show(request, record, done)
        return answer(request, record.value, record.content_type or OCTETS)

    @app.route(KV_ROUTE.decode(), methods=["PUT"])
    def kv_put(request: Any) -> Deferred[bytes]:
        refuse_unknown(request, b"consistency")
        key = key_of(request, limits)
        value = checked_value(request.content.read(), limits)
        done = coordinator.put(key, value, content_type_of(request, limits), level_of(request, default))
        return done.addCallback(changed, request)

    @app.route(KV_ROUTE.decode(), methods=["DELETE"])
    def kv_delete(request: Any) -> Deferred[bytes]:
        refuse_unknown(request, b"consistency")
        key = key_of(request, limits)
        done = coordinator.put(key, None, b"", level_of(request, default))
        return done.addCallback(changed, request)

    def changed(done: Done, request: Any) -> bytes:
        record = decode_record(done.record)
        if record.value is not None:
            show(request, record, done)
        else:
            request.setHeader(b"KV-Replicas", b"%d/%d" % (done.acks, done.owners))
        request.setResponseCode(204)
        return b""
