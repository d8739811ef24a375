"""One operation on its way: it puts a conversation's questions into the nodes' queues, under a deadline and an epoch.

The conversations decide; this only carries. An operation is a small object that answers are delivered to, because there
are thousands of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from .buggify import Buggify
from .conversation import Conversation, Send
from .deadlines import Deadlines
from .errors import ChangeUnderWay, KvError
from .limits import Limits
from .names import Key, NodeId
from .peers.queue import Queues
from .quorum import Electorate, Voters
from .register import ACCEPT, Reply
from .timeline import NEVER, WORDS, Step
from .tracing import Followed
from .versions import Ballot


class Done(msgspec.Struct, frozen=True, gc=False):
    """A finished operation: the record that holds (empty if the key was never written), and who agreed of how many."""

    record: bytes
    acks: int
    owners: int
    request_id: str = ""
    """What it is called in the log, where it took too long."""


Told: TypeAlias = Callable[[Done | Failure], None]
"""Told what became of an operation. It should not raise: there is nobody who could hear of that."""


class Home(Protocol):
    """What an operation needs of the coordinator."""

    clock: IReactorTime
    limits: Limits
    queues: Queues
    buggify: Buggify
    deadlines: Deadlines

    def order(self, key: Key, kind: str) -> Electorate: ...
    def pause(self, operation: Operation) -> None: ...
    def missed_by(self, key: Key, ballot: Ballot, electorate: Electorate, confirmed: Voters, node: NodeId) -> None: ...
    def finished(self, operation: Operation, error: KvError | None) -> str:
        """Take note of an end, and give what the operation is called in the log, if there is a line about it."""


class Operation:
    """A client's read or write, or a round that several clients' changes share. It is its own Asker."""

    __slots__ = (
        "_bucket",
        "_deadline",
        "_home",
        "_patience_s",
        "asked_s",
        "conversation",
        "done",
        "followed",
        "kind",
        "since_s",
        "size",
        "steps",
        "trace",
    )

    def __init__(
        self,
        home: Home,
        kind: str,
        conversation: Conversation,
        size: int,
        timeout_s: float,
        patience_s: float | None = None,
        followed: Followed | None = None,
        since_s: float | None = None,
    ) -> None:
        self._home = home
        self.followed = followed
        self.trace = followed.trace if followed is not None else None
        """What its nodes are to call it (``peers.lane.traces_of``)."""
        self.steps: list[Step] = []
        self.kind = kind
        self.conversation = conversation
        self.size = size
        if home.buggify("operation: a deadline of 1 ms"):
            timeout_s = 0.001
        # A client that hangs up cancels this Deferred and nothing else: its write must not stop half-way.
        self.done: Deferred[Done] = Deferred()
        now_s = home.clock.seconds()
        self.since_s = now_s if since_s is None else since_s
        self.asked_s = now_s
        """When it put its last questions."""
        self._deadline = now_s + timeout_s
        self._patience_s = timeout_s
        """How long it waits for answers before it asks other owners besides."""
        if kind == "read":
            if patience_s is None:
                patience_s = home.queues.hedge_s(conversation.electorate.fewest)
            self._patience_s = min(timeout_s, patience_s)
        self._bucket = home.deadlines.wait(self, now_s + self._patience_s)

    def begin(self) -> None:
        self._go(self.conversation.begin())

    def restart(self) -> None:
        """Begin in another epoch; what was asked in the one before may have had its effect."""
        self._note("begins again: the cluster has changed")
        conversation, home = self.conversation, self._home
        owners = home.order(conversation.key, self.kind)
        if self.kind == "read":
            self._patience_s = home.queues.hedge_s(owners.fewest)
            home.deadlines.take_back(self, self._bucket)
            self._tell_in(self._patience_s)
        self._go(conversation.restart(owners))

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None:
        if self.done is not None:  # otherwise it is the last owner's answer to what a majority has done
            transit = self._home.queues.transit
            what = "agreed" if reply.taken else "refused"
            self.steps.append((transit.back_s, what, node, round_, transit.sent_s))
            self._go(self.conversation.deliver(node, round_, reply, resent))

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None:
        conversation = self.conversation
        if self.done is None and round_ == conversation.round and self._was_taken:
            # It was acknowledged before this owner's silence was noticed.
            self._missed(node)
            return
        self._note(f"gave no answer: {error}", node, round_)
        self._go(conversation.fail(node, round_, error, arrived))

    def _note(self, what: str, node: str = "", round_: int = 0) -> None:
        self.steps.append((self._home.clock.seconds(), what, node, round_, NEVER))

    def _missed(self, node: NodeId) -> None:
        conversation = self.conversation
        electorate, confirmed = conversation.electorate, conversation.confirmed
        self._home.missed_by(conversation.key, conversation.ballot, electorate, confirmed, node)

    @property
    def _was_taken(self) -> bool:
        """Whether it has ended with a record that owners took, not only showed."""
        conversation = self.conversation
        outcome = conversation.outcome
        return conversation.phase == ACCEPT and outcome is not None and outcome.error is None

    def outdated(self, node: NodeId, round_: int) -> None:
        """Wait: the view of the node's epoch is on its way, and begins every unfinished operation again."""

    def _go(self, sends: Sequence[Send]) -> None:
        conversation = self.conversation
        if sends:
            verb = sends[0][1].verb
            self.asked_s = self._home.clock.seconds()
            self.steps.append((self.asked_s, ASKS[verb], "", conversation.round, NEVER))
            queues = self._home.queues.by_node
            round_ = conversation.round
            if self._home.buggify("operation: a bare majority is asked"):
                for node, _ in sends:
                    if node not in conversation.electorate.fewest:
                        self._home.clock.callLater(0, self.unanswered, node, round_, "left out", False)
                sends = [(node, op) for node, op in sends if node in conversation.electorate.fewest]
            for node, op in sends:
                queues[node].ask(self, round_, op)
        elif conversation.outcome is not None:
            self._finish()
        elif conversation.paused:
            self._note("pauses: others write the key")
            self._home.pause(self)

    def resume(self, round_: int) -> None:
        conversation = self.conversation
        if conversation.paused and conversation.round == round_ and conversation.outcome is None:
            self._go(conversation.resume())

    def _tell_in(self, pause_s: float) -> None:
        """Be told after that time, or when the deadline has passed."""
        home = self._home
        now_s = home.clock.seconds()
        self._bucket = home.deadlines.wait(self, max(now_s, min(self._deadline, now_s + pause_s)))

    def hedge(self) -> None:
        """Ask the owners that were spared, and be told at the deadline alone."""
        if self.done is not None:
            self._home.deadlines.take_back(self, self._bucket)
            self._tell_in(self._deadline - self._home.clock.seconds())
            self._note(HEDGES)
            self._go(self.conversation.nudge())

    def tell_early(self) -> None:
        """Be told now, and not when it was said."""
        if self.done is not None:
            self._home.deadlines.take_back(self, self._bucket)
            self.tell()

    def tell(self) -> None:
        """See ``deadlines.Waiter``."""
        home, conversation = self._home, self.conversation
        left = self._deadline - home.clock.seconds()
        if left > 0:
            spared = conversation.spared if conversation.round else ()
            hedges = home.queues.may_hedge(conversation.electorate.members(conversation.waiting), spared)
            self._tell_in(self._longer_s() if spared and not hedges else left)
            if hedges:
                self._note(HEDGES)
                self._go(conversation.nudge())
            return
        if conversation.round:
            self.conversation.expire()
        self._finish()

    def _longer_s(self) -> float:
        """Say when to ask again whether others may be asked: there was no hedge left, or nobody better."""
        self._patience_s = max(2 * self._patience_s, self._home.limits.slow_read_s)
        return self._patience_s

    def _finish(self) -> None:
        done, self.done = self.done, None  # type: ignore[assignment]
        if done is None:
            return
        self._home.deadlines.take_back(self, self._bucket)
        conversation = self.conversation
        outcome = conversation.outcome
        error = outcome.error if outcome is not None else changing()
        request_id = self._home.finished(self, error)
        if self._was_taken:
            electorate = conversation.electorate
            heard = conversation.confirmed | conversation.refused | conversation.waiting
            if heard != electorate.everybody:
                for node in electorate.members(electorate.everybody & ~heard):
                    self._missed(node)
        if error is None:
            assert outcome is not None
            done.callback(Done(outcome.record, outcome.acks, len(conversation.owners), request_id))
        else:
            error.request_id = request_id
            done.errback(Failure(error))


ASKS = {verb: f"asks to {word}" for verb, word in WORDS.items()}
HEDGES = "asks others, too: it takes too long"


def changing() -> ChangeUnderWay:
    return ChangeUnderWay("the cluster is moving data, and clients wait until it has moved", "try again in a moment")
