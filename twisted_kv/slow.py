"""The slow-operation log: a line for what took too long or could not be done, with where its time went.

Lines are spared where there are many: what makes one operation slow makes thousands of them slow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .errors import KvError
from .limits import Limits
from .names import Key
from .ring import fnv1a
from .timeline import Step, sentence, told
from .tracing import ID_CHARS_MAX, PARENT_CHARS, Followed, Ids, Trace


class Sparing:
    """Lets so many through in a while, and says with the next one how many it has kept back."""

    __slots__ = ("_clock", "_kept_back", "_left", "_limits", "_since_s")

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._since_s = clock.seconds()
        self._left = limits.slow_lines_max
        self._kept_back = 0

    def admits(self) -> bool:
        now_s = self._clock.seconds()
        if now_s - self._since_s >= self._limits.slow_lines_s:
            self._since_s, self._left = now_s, self._limits.slow_lines_max
        if self._left <= 0:
            self._kept_back += 1
            return False
        self._left -= 1
        return True

    def kept_back(self) -> dict[str, Any]:
        """Say how many were kept back since this was asked last, as a line's fields."""
        count, self._kept_back = self._kept_back, 0
        return {"suppressed": count, "more": f"; {count} such lines before it were left out" if count else ""}


NAMES_MAX = 8
"""Requests that one line of a node names."""


def named(traces: Iterable[Trace]) -> dict[str, Any]:
    """Give the fields of a node's line that name requests: as text, and as they are."""
    some = list(islice(traces, NAMES_MAX))
    ids = [trace.request_id[:ID_CHARS_MAX] for trace in some]
    fields: dict[str, Any] = {"request_ids": ids, "requests": f" (requests {', '.join(ids)})" if ids else ""}
    parents = [trace.traceparent[:PARENT_CHARS] for trace in some if trace.traceparent]
    return {**fields, "traceparents": parents} if parents else fields


class SlowLog:
    """One proxy's. No key stands in it, only its hash, which ``/v1/ring/locate`` shows for a key that is known."""

    log = Logger()

    def __init__(self, clock: IReactorTime, limits: Limits, ids: Ids) -> None:
        self._ids = ids
        self._slow = Sparing(clock, limits)
        self._failed = Sparing(clock, limits)

    def took_long(
        self,
        kind: str,
        level: str,
        keys: Sequence[Key],
        seconds: float,
        since_s: float,
        steps: Sequence[Step],
        followed: Followed | None = None,
    ) -> str:
        """Write a line for an operation, or for several that went together; give the id that it has there."""
        request_id = self._id_of(followed)
        if self._slow.admits():
            self.log.warn(
                "slow: {kind} at level {consistency} of {of} took {seconds} s; {story} (request {request_id}{more})",
                **self._fields(kind, level, keys, seconds, since_s, steps, followed, request_id),
                **self._slow.kept_back(),
            )
        return request_id

    def failed(
        self,
        kind: str,
        level: str,
        key: Key,
        seconds: float,
        since_s: float,
        steps: Sequence[Step],
        error: KvError,
        followed: Followed | None = None,
    ) -> str:
        """Write a line for an operation that could not be done; give the id that it has there."""
        request_id = self._id_of(followed)
        if self._failed.admits():
            self.log.warn(
                "failed: {kind} at level {consistency} of {of} after {seconds} s: {error}, {detail}; {story}"
                " (request {request_id}{more})",
                **self._fields(kind, level, [key], seconds, since_s, steps, followed, request_id),
                error=error.slug,
                detail=error.detail,
                **self._failed.kept_back(),
            )
        return request_id

    def _id_of(self, followed: Followed | None) -> str:
        return followed.trace.request_id if followed is not None and followed.trace is not None else self._ids.draw()

    def _fields(
        self,
        kind: str,
        level: str,
        keys: Sequence[Key],
        seconds: float,
        since_s: float,
        steps: Sequence[Step],
        followed: Followed | None,
        request_id: str,
    ) -> dict[str, Any]:
        steps_told = told(since_s, steps)
        fields = {
            "kind": kind,
            "consistency": level,
            "key_hash": fnv1a(keys[0]),
            "of": f"key {fnv1a(keys[0])}" + (f" and {len(keys) - 1} others" if len(keys) > 1 else ""),
            "operations": len(keys),
            "seconds": round(seconds, 4),
            "steps": steps_told,
            "story": sentence(steps_told),
            "request_id": request_id,
        }
        if followed is not None and followed.trace is not None and followed.trace.traceparent:
            fields["traceparent"] = followed.trace.traceparent
        return fields
