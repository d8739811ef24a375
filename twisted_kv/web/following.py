"""Requests that their clients want to find again: ``X-Request-Id``, ``traceparent``, and ``?explain=1``.

Most have none of these, and pass here with one look at their head.
"""

from __future__ import annotations

from typing import Any, TypeVar

from ..timeline import server_timing
from ..tracing import Followed, Trace, trace_of
from .parameters import flag_of

T = TypeVar("T")

ID_FIELD = b"X-Request-Id"


def trace_in(request: Any) -> Trace | None:
    """Say what a request's client calls it."""
    if not request.traced:
        return None
    headers = request.requestHeaders
    return trace_of(headers.getRawHeaders(b"x-request-id"), headers.getRawHeaders(b"traceparent"))


def followed_of(request: Any) -> Followed | None:
    """Give who is to be told what becomes of a request, if its client wants to know. Errors as in ``flag_of``."""
    if not request.traced and not request.args:
        return None
    explains, trace = b"explain" in request.args and flag_of(request, b"explain"), trace_in(request)
    return Followed(trace, explains) if explains or trace is not None else None


def show_way(result: T, request: Any, followed: Followed) -> T:
    """Put what became of a request into its answer's head, whatever that was."""
    if followed.trace is not None:
        request.setHeader(ID_FIELD, followed.trace.request_id.encode())
    if followed.explains:
        request.setHeader(b"Server-Timing", server_timing(followed.steps))
    return result


def show_id(request: Any, request_id: str) -> None:
    """Say what a request is called in the log."""
    request.setHeader(ID_FIELD, request_id.encode())
