"""The keys: ``/v1/kv/{key}``. Keys and values are raw bytes; the content type is kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from klein import Klein
from twisted.internet.defer import Deferred

from ..bodies import checked_key, checked_value
from ..conditional import Decide, Draft
from ..coordinator import Coordinator
from ..errors import BadParameter, KeyAbsent, MalformedKey, PreconditionFailed
from ..limits import Limits
from ..names import Key
from ..operation import Done
from ..preconditions import Precondition, Verdict, etag_of
from ..quorum import Level
from ..sharing import Changed
from ..versions import Record, decode_record
from .answers import answer
from .calls.v1 import KV_DELETE, KV_GET, KV_PUT
from .following import followed_of, show_id, show_way
from .openapi.described import described
from .parameters import expiry_after, level_of, precondition_of, refuse_unknown, timeout_of, ttl_of
from .site import KV_PREFIX, KV_ROUTE

OCTETS = b"application/octet-stream"

_broken_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search


def key_of(request: Any, limits: Limits, prefix: bytes = KV_PREFIX) -> Key:
    """Take the key from the raw request target: percent-decoded once, slashes and dots as they are.

    :param prefix: what stands before it.
    :raises MalformedKey: if an escape is broken, or the key is empty or too long.
    """
    raw = request.path[len(prefix) :]
    if _broken_escape(raw):
        raise MalformedKey("the key holds a % that begins no escape", "write a percent sign as %25")
    return checked_key(unquote_to_bytes(raw), limits)


def content_type_of(request: Any, limits: Limits) -> bytes:
    return checked_content_type(request.getHeader(b"content-type") or OCTETS, limits)


def checked_content_type(given: bytes, limits: Limits) -> bytes:
    """:raises BadParameter: if it is too long."""
    if len(given) > limits.content_type_bytes_max:
        raise BadParameter(f"the content type has {len(given)} bytes", f"the most is {limits.content_type_bytes_max}")
    return given


def add_v1(app: Klein, coordinator: Coordinator, now_ms: Callable[[], int], limits: Limits, default: Level) -> None:
    """Give a proxy's door the calls for single keys."""

    route = KV_ROUTE.decode()

    @app.route(route, methods=["GET", "HEAD"])
    @described(KV_GET)
    def kv_get(request: Any) -> Deferred[bytes]:
        refuse_unknown(request, *KV_GET.known)
        key, precondition, followed = key_of(request, limits), precondition_of(request), followed_of(request)
        got = coordinator.get(key, level_of(request, default), timeout_of(request, limits), followed)
        if followed is not None:
            got.addBoth(show_way, request, followed)
        return got.addCallback(found, request, key, precondition)

    def found(done: Done, request: Any, key: Key, precondition: Precondition) -> bytes:
        if done.request_id:
            show_id(request, done.request_id)
        record = decode_record(done.record) if done.record else None
        if record is None or record.value is None:
            refuse_failed(precondition, None)
            raise KeyAbsent(f"there is no key {key.decode('utf-8', 'backslashreplace')[:200]!r}")
        verdict = refuse_failed(precondition, record)
        show(request, record, done.acks, done.owners)
        if verdict is Verdict.UNCHANGED:
            request.setResponseCode(304)
            return b""
        content_type = record.content_type or OCTETS
        confine(request, content_type)
        return answer(request, record.value, content_type)

    @app.route(route, methods=["PUT"])
    @described(KV_PUT)
    def kv_put(request: Any) -> Deferred[bytes]:
        refuse_unknown(request, *KV_PUT.known)
        key, ttl_s = key_of(request, limits), ttl_of(request, limits)
        value = checked_value(request.content.read(), limits)
        return change(request, key, Draft(value, content_type_of(request, limits), expiry_after(now_ms(), ttl_s)))

    @app.route(route, methods=["DELETE"])
    @described(KV_DELETE)
    def kv_delete(request: Any) -> Deferred[bytes]:
        refuse_unknown(request, *KV_DELETE.known)
        return change(request, key_of(request, limits), Draft(None))

    def change(request: Any, key: Key, draft: Draft) -> Deferred[bytes]:
        precondition, timeout_s = precondition_of(request), timeout_of(request, limits)
        level, followed = level_of(request, default), followed_of(request)
        if precondition:
            changed = coordinator.change(key, conditionally(precondition, draft), timeout_s, draft.size, followed)
            if followed is not None:
                changed.addBoth(show_way, request, followed)
            return changed.addCallback(changed_if, request, precondition)
        value, content_type, expires_ms = draft
        done = coordinator.put(key, value, content_type, level, expires_ms, timeout_s, followed)
        if followed is not None:
            done.addBoth(show_way, request, followed)
        return done.addCallback(lambda done: written(request, decode_record(done.record), done))

    def changed_if(found: Changed, request: Any, precondition: Precondition) -> bytes:
        if not found.changed:
            raise precondition_failed(precondition, found.record)
        assert found.record is not None
        return written(request, found.record, found)

    def written(request: Any, record: Record, done: Done | Changed) -> bytes:
        if done.request_id:
            show_id(request, done.request_id)
        show(request, record, done.acks, done.owners)
        request.setResponseCode(204)
        return b""


def conditionally(precondition: Precondition, draft: Draft) -> Decide:
    """Make a change that is done where a precondition holds."""
    return lambda held: draft if precondition.judge(held) is Verdict.MET else None


def refuse_failed(precondition: Precondition, held: Record | None) -> Verdict:
    """:raises PreconditionFailed: unless a read's precondition lets it answer, with the value or with 304."""
    verdict = precondition.judge(held)
    if verdict is Verdict.FAILED:
        raise precondition_failed(precondition, held)
    return verdict


def precondition_failed(precondition: Precondition, held: Record | None) -> PreconditionFailed:
    """Say what the key holds in the place of what was expected."""
    etag = held.version.hex() if held is not None and held.value is not None else None
    now = f"the key holds version {etag}" if etag is not None else "the key holds no value"
    name = "If-Match" if precondition.judge(held) is Verdict.FAILED else "If-None-Match"
    return PreconditionFailed(f"{now}, which {name} excludes", "read the key, and decide anew", etag=etag)


def confine(request: Any, content_type: bytes) -> None:
    """Have a browser take a value for what it is called, and run nothing in it (CSP Level 3, ``sandbox``).

    Anybody may have stored it, and it comes from where the dashboard and the other calls do. Other sites' pages are not
    given it at all, where it could pass for a script (Fetch Standard, section 3.6).
    """
    request.setHeader(b"Cross-Origin-Resource-Policy", b"same-site")
    if content_type != OCTETS:
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        request.setHeader(b"Content-Security-Policy", b"sandbox")


def show(request: Any, record: Record, acks: int, owners: int) -> None:
    if record.value is not None:
        request.setHeader(b"ETag", etag_of(record).encode())
        if record.expires_ms:
            request.setHeader(b"KV-Expires-Ms", b"%d" % record.expires_ms)
    request.setHeader(b"KV-Replicas", b"%d/%d" % (acks, owners))
