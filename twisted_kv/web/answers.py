"""Errors and values to HTTP, in one place. Every error is a problem document (RFC 9457)."""

from __future__ import annotations

from typing import NamedTuple, NotRequired, TypedDict

import msgspec
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from .. import errors
from ..errors import BadInput, KvError, PreconditionFailed, Unreached

JSON = b"application/json"
MSGPACK = b"application/msgpack"
PROBLEM = b"application/problem+json"

STATUS: dict[type[KvError], int] = {
    errors.MalformedBody: 400,
    errors.MalformedKey: 400,
    errors.MalformedRequest: 400,
    errors.HeadTooLarge: 431,
    errors.RequestTooSlow: 408,
    errors.BadParameter: 400,
    errors.BadConfig: 400,
    errors.ValueTooLarge: 413,
    errors.BodyTooLarge: 413,
    errors.NoSuchRoute: 404,
    errors.WrongMethod: 405,
    errors.NotText: 406,
    errors.KeyAbsent: 404,
    errors.PreconditionFailed: 412,
    errors.Unreached: 503,
    errors.NoRoom: 507,
    errors.DeadlinePassed: 504,
    errors.Overloaded: 429,
    errors.NoNodes: 503,
    errors.ChangeUnderWay: 503,
    errors.NotAMember: 503,
    errors.SlotsLost: 503,
    errors.Damaged: 500,
    errors.DiskBusy: 503,
    errors.DiskFull: 507,
    errors.DiskFailed: 500,
    errors.Stopping: 503,
    errors.WorkerSilent: 503,
    errors.NotANode: 422,
    errors.ForeignNode: 409,
    errors.NodeHasData: 409,
    errors.ChangeFailed: 503,
    errors.ChangeWaits: 503,
    errors.StateBehind: 503,
    errors.StateUnusable: 503,
    errors.NothingLost: 409,
    errors.MayRemember: 409,
    errors.NoSuchMember: 404,
    errors.NoSuchTask: 404,
    errors.TaskStays: 409,
    errors.NoSuchBackup: 404,
    errors.BackupExists: 409,
    errors.BackupFailed: 503,
    errors.ForeignOrigin: 403,
    errors.ForeignHost: 421,
    errors.TokenMissing: 401,
    errors.TokenTooWeak: 403,
    errors.PeerRefused: 409,
    errors.OtherEpoch: 409,
    errors.PeerUnreachable: 502,
    errors.PeerSilent: 504,
}
"""Every leaf of the tree; a test demands it."""


class Internal(NamedTuple):
    """What is said of a bug, which is no leaf of the tree."""

    slug: str
    title: str


INTERNAL = Internal("internal-error", "This is a bug")


class Silent(TypedDict):
    node: str
    error: str


"""A replica that did not do its part, and why."""


class Problem(TypedDict):
    """What went wrong, why, and what to do about it (RFC 9457). Programs tell problems apart by ``type``."""

    type: str
    title: str
    status: int
    detail: str
    hint: NotRequired[str]
    etag: NotRequired[str]
    required: NotRequired[int]
    acks: NotRequired[int]
    maybe_applied: NotRequired[bool]
    replicas: NotRequired[list[Silent]]
    request_id: NotRequired[str]


RETRY_AFTER_S = {429: b"1", 503: b"1", 504: b"1", 507: b"5"}

log = Logger()


def status_of(error: KvError, original: bool = False) -> int:
    """Give an error's status. The original program's calls know fewer: what is wrong with a request is 400 there."""
    return status_of_kind(type(error), original)


def status_of_kind(kind: type[KvError], original: bool = False) -> int:
    """Say the same of any error of a kind."""
    status = STATUS[kind]
    if original and issubclass(kind, BadInput) and status not in (401, 403, 404, 405, 421):
        return 400
    return 503 if original and status == 504 else status


def problem_fields(error: KvError, status: int, request_id: str = "") -> dict[str, object]:
    """Give the members of an error's problem document. Those that do not apply are left out."""
    fields: dict[str, object] = {
        "type": error.slug,
        "title": error.title,
        "status": status,
        "detail": error.detail,
    }
    if error.hint:
        fields["hint"] = error.hint
    if isinstance(error, PreconditionFailed) and error.etag is not None:
        fields["etag"] = error.etag
    if isinstance(error, Unreached):
        fields["required"] = error.required
        fields["acks"] = error.acks
        if error.maybe_applied is not None:
            fields["maybe_applied"] = error.maybe_applied
        if error.etag is not None:
            fields["etag"] = error.etag
        fields["replicas"] = [{"node": node, "error": text} for node, text in error.replicas.items()]
    if request_id or error.request_id:
        fields["request_id"] = request_id or error.request_id
    return fields


def problem_body(error: KvError, status: int, request_id: str = "") -> bytes:
    """Give an error's problem document."""
    return msgspec.json.encode(problem_fields(error, status, request_id)) + b"\n"


def log_bug(failure: Failure, what: str, request_id: str = "") -> None:
    """Log what is no expected trouble."""
    log.failure("{what} failed (request {request_id})", failure, what=what, request_id=request_id)


def answer_problem(request: IRequest, error: KvError, original: bool = False, request_id: str = "") -> bytes:
    """Answer a request with an error: sets status and heads, gives the body.

    :param request_id: what the request is called, if it is called anything.
    """
    if request_id:
        request.setHeader(b"X-Request-Id", request_id.encode())
    status = status_of(error, original)
    request.setResponseCode(status)
    if status in RETRY_AFTER_S:
        request.setHeader(b"Retry-After", RETRY_AFTER_S[status])
    return answer(request, problem_body(error, status, request_id), PROBLEM)


def answer_bug(request: IRequest, request_id: str) -> bytes:
    """Answer with a plain 500. The failure is in the log, and none of it in the answer."""
    request.setResponseCode(500)
    body = {
        "type": INTERNAL.slug,
        "title": INTERNAL.title,
        "status": 500,
        "detail": "the request ran into a fault of the program",
        "hint": "the daemon's log holds the details; please report them",
        "request_id": request_id,
    }
    request.setHeader(b"X-Request-Id", request_id.encode())
    return answer(request, msgspec.json.encode(body) + b"\n", PROBLEM)


def answer(request: IRequest, body: bytes, content_type: bytes) -> bytes:
    """Set the heads of an answer whose length is known, and give its body."""
    headers = request.responseHeaders
    headers.setRawHeaders(b"Content-Type", [content_type])
    headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    return body


def answer_json(request: IRequest, value: object) -> bytes:
    return answer(request, msgspec.json.encode(value) + b"\n", JSON)


def answer_empty(request: IRequest) -> bytes:
    """An empty body with the status as it stands, 200 unless it was set."""
    request.responseHeaders.setRawHeaders(b"Content-Length", [b"0"])
    return b""
