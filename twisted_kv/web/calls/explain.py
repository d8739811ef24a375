"""All that is known of a key."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from ... import errors
from ..openapi.described import Described
from ..parameters import TIMEOUT
from .cluster import RoundTrip
from .shared import KEYS, json_answer
from .v1 import KEY


class ExplainedOwner(TypedDict):
    """What one owner holds and has promised; without an answer from it there is ``error``."""

    id: str
    url: str
    state: str
    round_trip_ms: RoundTrip | None
    error: NotRequired[str]
    accepted: NotRequired[str | None]
    promised: NotRequired[str | None]
    holds: NotRequired[Literal["nothing", "value", "tombstone"]]
    version: NotRequired[str]
    age_ms: NotRequired[int]
    synced: NotRequired[bool | None]
    bytes: NotRequired[int]
    expires_ms: NotRequired[int | None]
    expired: NotRequired[bool]


ExplainedHint = TypedDict("ExplainedHint", {"for": str, "kept_by": str})
"""A write that waits on one node for another one."""


Outcome = Literal["value", "absent", "deleted", "expired", "unreachable"]


class Missed(TypedDict):
    """What a read answers that asks a majority which has not seen the newest."""

    answer: Outcome
    version: str | None


Verdict = TypedDict(
    "Verdict", {"answer": Outcome, "version": str | None, "or": Missed | None, "winners": list[str], "why": str}
)
"""What a read at ``strong`` would answer now, or otherwise, and why."""


class Purge(TypedDict):
    """What keeps a tombstone from being forgotten."""

    held_by: list[str]
    blocked_by: list[str]


class Explained(TypedDict):
    """A key, its owners, and what they say."""

    key: str
    hash: int
    position: int
    slot: int
    epoch: int
    owners: list[ExplainedOwner]
    hints: list[ExplainedHint]
    verdict: Verdict
    purge: Purge | None


EXPLAIN_KEY = Described(
    group=KEYS,
    name="explainKey",
    title="Explain a key",
    about="Everything that is known about a key on every owner, and what a read would make of it. See docs/kvctl.md.",
    query=(TIMEOUT,),
    tail=KEY,
    answers={200: json_answer(Explained, "What is known.")},
    errors=(
        errors.BadParameter,
        errors.MalformedKey,
        errors.ChangeUnderWay,
        errors.NoNodes,
        errors.WorkerSilent,
    ),
)
