"""The contracts between who asks nodes and what carries the questions."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred

from ..names import NodeId
from ..register import Reply


class Answer(NamedTuple):
    """An HTTP answer, read to its end.

    ``resent``: the request hit a connection that the node had closed, and was sent once more on a new one; it may
    have arrived twice.
    """

    code: int
    body: bytes
    resent: bool = False


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


class Asker(Protocol):
    """Who gets the answer to one question: exactly one of these calls, unless the epoch moved before it was sent."""

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None: ...

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None:
        """The node gave no answer; ``arrived`` says whether the question may have had its effect."""

    def outdated(self, node: NodeId, round_: int) -> None:
        """The node refused because this proxy's epoch is not its own; the next view will say how to go on."""
