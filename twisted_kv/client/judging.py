"""What one attempt comes to, as a value: done, refused, to be tried again, or unknown.

Only what a proxy says itself is evidence. A connection that broke after a request began to leave says nothing; neither
does a status from whoever stands between, nor an answer that cannot be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from ..errors import ChangeUnderWay, KvError, NoNodes, Overloaded, Stopping
from .trouble import error_of

NOT_BEGUN = {kind.slug for kind in (Overloaded, NoNodes, ChangeUnderWay, Stopping)}
"""Problems that a proxy tells before it asks any owner."""
RETRY_AFTER_S_MAX = 60.0


class Answer(NamedTuple):
    """A whole answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unsent(NamedTuple):
    """There was no connection: nothing of the request has left.

    :param hopeless: whether it will be so in the next moment, too.
    """

    why: str
    hopeless: bool = False


class Lost(NamedTuple):
    """The request, or a part of it, has left, and no whole answer came. ``body`` is what did come of one."""

    why: str
    body: bytes = b""


Told: TypeAlias = Answer | Unsent | Lost


class Garbled(Exception):
    """An answer is none that a proxy gives."""


class Fate(Enum):
    DONE = "done"
    REFUSED = "refused"
    """Nothing was done, and nothing else will come of asking again."""
    AGAIN = "again"
    """Nothing was done, and it may be asked again."""
    UNKNOWN = "unknown"
    """It may have been done, or still be. What reads alone may be asked again all the same."""


class Verdict(NamedTuple):
    """:param wait_s: how long the proxy wants to be left alone.
    :param hopeless: whether it will be so in the next moment, too.
    """

    fate: Fate
    error: KvError | None = None
    why: str = ""
    wait_s: float = 0.0
    hopeless: bool = False

    @property
    def etag(self) -> str | None:
        """The version that the attempt has, if it happened."""
        return getattr(self.error, "etag", None) if self.fate is Fate.UNKNOWN else None


DONE = Verdict(Fate.DONE)


def judge(told: Told, expected: frozenset[int]) -> Verdict:
    """Judge an attempt by what came back.

    :param expected: statuses of success.
    """
    if isinstance(told, Unsent):
        return Verdict(Fate.AGAIN, None, told.why, hopeless=told.hopeless)
    if isinstance(told, Lost):
        return Verdict(Fate.UNKNOWN, None, told.why)
    if told.status in expected:
        return DONE
    return judge_problem(told.status, problem_in(told.body), retry_after_s(told.headers))


def judge_problem(status: int, problem: Mapping[str, Any], wait_s: float = 0.0) -> Verdict:
    """Judge an answer that is no success, or one line of such."""
    error = error_of(status, problem)
    why = f"{status} {error.title.lower()}: {error.detail}" if problem else error.detail
    if status < 400:
        return Verdict(Fate.UNKNOWN, error, why)
    if status == 429 or (problem and status == 408):
        return Verdict(Fate.AGAIN, error, why, wait_s)
    if status < 500 and status not in (408, 499):
        return Verdict(Fate.REFUSED, error, why)
    if problem.get("maybe_applied") is False or problem.get("type") in NOT_BEGUN:
        return Verdict(Fate.AGAIN, error, why, wait_s)
    return Verdict(Fate.UNKNOWN, error, why, wait_s)


def problem_in(body: bytes) -> dict[str, Any]:
    """Read a problem document; empty where there is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("type"), str) else {}


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Read ``Retry-After`` where it is in seconds, as proxies give it (RFC 9110, section 10.2.3)."""
    given = headers.get("retry-after", "").strip()
    return min(float(given), RETRY_AFTER_S_MAX) if given.isdecimal() and len(given) < 10 else 0.0
