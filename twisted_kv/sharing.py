"""Conditional changes that wait in one proxy for one key share a round; so do the reads that come while they wait.

One round at a time for each key: two of one proxy would only refuse each other. What comes while it runs waits for the
next one, which takes all of it together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from .buggify import Buggify
from .conditional import Conditional, Decide
from .errors import DeadlinePassed
from .names import Key
from .operation import Done
from .tracing import Followed
from .versions import Record

GRACE_S = 0.05
"""A client whose round ends at its own deadline hears from the round, which knows more."""


class Changed(NamedTuple):
    """What became of one conditional change: the record that it left, whether that is its own, and who agreed; and the
    record that it had found."""

    record: Record | None
    changed: bool
    acks: int
    owners: int
    found: Record | None = None
    request_id: str = ""
    """See ``Done``."""


class _Client:
    """One client's change, waiting or in a round."""

    __slots__ = ("_timer", "deadline_s", "decide", "done", "followed", "since_s")

    def __init__(
        self,
        clock: IReactorTime,
        decide: Decide,
        timeout_s: float,
        followed: Followed | None,
        passed: Callable[[_Client], None],
    ) -> None:
        self.decide = decide
        self.followed = followed
        self.since_s = clock.seconds()
        self.deadline_s = self.since_s + timeout_s
        self.done: Deferred[Changed] | None = Deferred()
        self._timer: IDelayedCall = clock.callLater(timeout_s + GRACE_S, passed, self)

    def end(self, result: Changed | Failure) -> None:
        done, self.done = self.done, None
        if done is not None:
            if self._timer.active():
                self._timer.cancel()
            done.callback(result)


class Sharing:
    """The conditional changes of one proxy.

    :param start: puts a conversation on its way as an operation, with its patience in seconds, and since when the first
        of its clients has waited.
    :param shared_max: the most changes that share a round.
    """

    def __init__(
        self,
        clock: IReactorTime,
        conversation: Callable[[Key, list[Decide]], Conditional],
        start: Callable[[Conditional, float, Followed | None, float], Deferred[Done]],
        shared_max: int,
        buggify: Buggify,
    ) -> None:
        self._clock = clock
        self._conversation = conversation
        self._start = start
        self._shared_max = shared_max
        self._buggify = buggify
        self._waiting: dict[Key, list[_Client]] = {}
        self.waiting = 0
        """How many clients wait for their round to begin."""
        self._running: dict[Key, tuple[Conditional, list[_Client]]] = {}

    def expects(self, key: Key) -> bool:
        """Whether changes of a key wait, so that a read may as well wait with them."""
        return key in self._waiting

    def change(self, key: Key, decide: Decide, timeout_s: float, followed: Followed | None = None) -> Deferred[Changed]:
        """Let a change take part in the key's next round. Errors as in ``Coordinator.put``."""
        client = _Client(self._clock, decide, timeout_s, followed, lambda client: self._passed(key, client))
        done = client.done
        assert done is not None
        self._waiting.setdefault(key, []).append(client)
        self.waiting += 1
        if key not in self._running:
            self._begin(key)
        return done

    def _begin(self, key: Key) -> None:
        now_s = self._clock.seconds()
        everybody = self._waiting.pop(key, [])
        # Who is out of time by now is told so at the end of his grace; a round can do nothing for him any more.
        waiting = [client for client in everybody if client.deadline_s > now_s]
        shared_max = 1 if self._buggify("sharing: a round of one") else self._shared_max
        clients, later = waiting[:shared_max], waiting[shared_max:]
        self.waiting -= len(everybody) - len(later)
        if later:
            self._waiting[key] = later
        if not clients:
            return
        conversation = self._conversation(key, [client.decide for client in clients])
        self._running[key] = (conversation, clients)
        patience_s = max(client.deadline_s for client in clients) - now_s
        # Of several that are followed the first one stands for all, on the way and in logs.
        followed = next((client.followed for client in clients if client.followed is not None), None)
        running = self._start(conversation, patience_s, followed, min(client.since_s for client in clients))
        running.addBoth(self._ended, key, conversation, clients, followed)

    def _ended(
        self,
        result: Done | Failure,
        key: Key,
        conversation: Conditional,
        clients: list[_Client],
        followed: Followed | None,
    ) -> None:
        del self._running[key]
        # The next round first: those who waited should not wait for what these clients do with their answers.
        self._begin(key)
        for number, client in enumerate(clients):
            if client.followed is not None and followed is not None:
                client.followed.steps = followed.steps
            if isinstance(result, Failure):
                client.end(result)
            else:
                record, changed, found = conversation.decided[number]
                client.end(Changed(record, changed, result.acks, result.owners, found, result.request_id))

    def _passed(self, key: Key, client: _Client) -> None:
        """Tell a client that its time is up, and take its change out of what has not begun."""
        certain = True
        waiting = self._waiting.get(key, [])
        if client in waiting:
            waiting.remove(client)
            self.waiting -= 1
            if not waiting:
                del self._waiting[key]
        elif key in self._running:
            conversation, clients = self._running[key]
            if client in clients:
                certain = conversation.withdraw(clients.index(client))
        client.end(
            Failure(
                DeadlinePassed(
                    "the deadline passed while other changes of the key were under way",
                    "read the key to see which value holds" if not certain else "nothing was changed: try again",
                    maybe_applied=not certain,
                )
            )
        )
