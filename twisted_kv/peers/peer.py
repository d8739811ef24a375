"""The contracts between who asks nodes and what carries the questions."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError

from ..names import NodeId
from ..register import Reply
from ..wire.batches import BundleReply
from ..wire.header import UNDECODED

IMPOSSIBLE = "no owner can hold what the node says that it does"

DETAIL_CHARS_MAX = 1_000
"""What is passed on of a problem that a node tells of."""


class Answer(NamedTuple):
    """An HTTP answer, read to its end.

    ``resent``: the request hit a connection that the node had closed, and was sent once more on a new one; it may
    have arrived twice.
    """

    code: int
    body: bytes
    resent: bool = False


class _Problem(msgspec.Struct):
    detail: str


def denied(answer: Answer) -> str:
    """Say what a daemon told whom it does not let in: with status 401 or 403, by the request's head."""
    try:
        why = msgspec.json.decode(answer.body, type=_Problem).detail[:DETAIL_CHARS_MAX]
    except UNDECODED:
        why = "no word why"
    return f"we are not let in (status {answer.code}): {why}"


def unconnected(error: BaseException) -> str:
    """Say why there is no connection: in the system's words, where Twisted's sentence has them behind its own."""
    told = error.args[0] if isinstance(error, ConnectError) and error.args else None
    return told if isinstance(told, str) and told else str(error)


class Transport(Protocol):
    """Carries one request to a daemon. Fails with nothing but ``PeerUnreachable`` and ``PeerSilent``.

    ``timeout_s`` covers everything from connecting to the last byte of the answer.
    """

    def request(
        self,
        method: str,
        url: str,
        body: bytes,
        *,
        content_type: str,
        timeout_s: float,
    ) -> Deferred[Answer]: ...


class Transit:
    """What those who ask may want to know of the batch whose answer is handed out now: when it left, and came back.

    ``traced`` counts the operations under way whose nodes are to hear what they are called.
    """

    __slots__ = ("back_s", "sent_s", "traced")

    def __init__(self) -> None:
        self.sent_s = self.back_s = 0.0
        self.traced = 0


class Asker(Protocol):
    """Who gets the answer to one question: exactly one of these calls, unless the epoch moved before it was sent."""

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None: ...

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None:
        """The node gave no answer; ``arrived`` says whether the question may have had its effect."""

    def outdated(self, node: NodeId, round_: int) -> None:
        """The node refused because this proxy's epoch is not its own; the next view will say how to go on."""


class Askers(Protocol):
    """Who gets a node's answers to a bundle: one of these calls; or none, where the epoch has moved, and the next view
    says how to go on. It may grow until it is packed for the first of its nodes."""

    size: int
    """Bytes of the records in it."""

    def __len__(self) -> int:
        """Say how many operations are in it."""

    def pack(self, verb: int) -> msgspec.Raw:
        """Give the ``wire.batches.Bundle`` of a verb, as bytes. From now on nothing more is put in."""

    def answered(self, node: NodeId, verb: int, reply: BundleReply, resent: bool) -> None:
        """Take a node's answers, as many as there are operations."""

    def unanswered(self, node: NodeId, error: str, arrived: bool) -> None:
        """The node gave no answer; ``arrived`` says whether the bundle may have had its effect."""
