"""Errors that only a client meets, and problem documents made into errors again. They are in the tree of ``errors``.

What a change raises says whether it happened: after ``MaybeApplied`` nobody knows, after any other error it has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .. import errors
from ..errors import KvError, PreconditionFailed, Unreached
from ..names import NodeId
from .values import Value


class MaybeApplied(KvError):
    """A change was sent, and whether it happened, or still will, could not be found out.

    :param etags: the versions that it has, if it happened, as far as proxies have told them.
    :param tried: what came of each attempt, a line each.
    :param held: what the key held afterwards, if ``looked``; None for no value.
    """

    slug = "maybe-applied"
    title = "The change may have happened"

    def __init__(
        self,
        detail: str,
        hint: str = "read the key before you write it again",
        *,
        etags: Iterable[str] = (),
        tried: Iterable[str] = (),
        held: Value | None = None,
        looked: bool = False,
    ) -> None:
        super().__init__(detail, hint)
        self.etags = frozenset(etags)
        self.tried = tuple(tried)
        self.held = held
        self.looked = looked


class NobodyAnswers(KvError):
    """No proxy gave an answer in time. A change has not happened: nothing was sent, or each proxy said that it did not.

    :param tried: what came of each attempt, a line each.
    """

    slug = "nobody-answers"
    title = "No proxy answers"

    def __init__(self, detail: str, hint: str = "", *, tried: Iterable[str] = ()) -> None:
        super().__init__(detail, hint)
        self.tried = tuple(tried)


class UnknownProblem(KvError):
    """A proxy says something that this version has no class for, or somebody else answers in its place."""

    slug = "unknown-problem"
    title = "The answer is an unknown problem"

    def __init__(
        self, detail: str, hint: str = "", *, status: int = 0, fields: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail, hint)
        self.status = status
        self.fields = dict(fields or {})


class NotACounter(KvError):
    """The key holds something else than a number of 64 bits in decimal digits, or it would not stay one."""

    slug = "not-a-counter"
    title = "The key holds no counter"


def _leaves(kind: type[KvError]) -> Iterator[type[KvError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _leaves(child)


BY_SLUG = {kind.slug: kind for kind in _leaves(KvError) if kind.slug}
"""The errors that proxies tell."""


def error_of(status: int, problem: Mapping[str, Any]) -> KvError:
    """Make an error of a problem document, or of what came in the place of one. Nothing has to be in it."""
    slug, detail, hint = (str(problem.get(name) or "") for name in ("type", "detail", "hint"))
    kind = BY_SLUG.get(slug)
    error: KvError
    if kind is None:
        told = f"{problem.get('title') or slug}: {detail}" if problem else "there is no problem document"
        who = "" if problem else "look whether a kvproxy answers at this address, and nobody before it"
        return UnknownProblem(f"the answer has status {status}; {told}", hint or who, status=status, fields=problem)
    etag = problem.get("etag")
    etag = etag if isinstance(etag, str) else None
    if issubclass(kind, Unreached):
        maybe = problem.get("maybe_applied")
        error = kind(
            detail,
            hint,
            required=_count(problem.get("required")),
            acks=_count(problem.get("acks")),
            maybe_applied=maybe if isinstance(maybe, bool) else None,
            etag=etag,
            replicas=dict(_replicas(problem.get("replicas"))),
        )
    elif issubclass(kind, PreconditionFailed):
        error = kind(detail, hint, etag=etag)
    else:
        error = kind(detail, hint)
    error.request_id = str(problem.get("request_id") or "")
    return error


def _count(given: object) -> int:
    return given if isinstance(given, int) else 0


def _replicas(given: object) -> Iterator[tuple[NodeId, str]]:
    for one in given if isinstance(given, list) else ():
        if isinstance(one, dict):
            yield NodeId(str(one.get("node"))), str(one.get("error"))
