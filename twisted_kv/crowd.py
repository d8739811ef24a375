"""Operations that are asked and answered as one: who is in there, what was heard, and who leaves.

Nearly every operation goes the same way: it is asked, and a majority agrees. Of those the answers are counted all
together, which costs a fifth of what as many operations do. Whatever goes another way (it is refused, or late, owners
differ, somebody is silent without whom it cannot end, the epoch moves) leaves the crowd and goes on alone, as an
``Operation`` that has heard what the crowd has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from twisted.logger import Logger

from .conversation import Conversation
from .names import Key, NodeId
from .operation import Done, Operation, Told
from .operation import Home as OperationHome
from .quorum import Electorate, Voters
from .register import ACCEPT, AGAIN, READ, Op, Reply
from .timeline import NEVER, Step
from .versions import Ballot, HybridClock
from .wire.batches import BundleReply

T = TypeVar("T")


class Home(OperationHome, Protocol):
    """What crowds need of the coordinator."""

    hybrid: HybridClock

    def go_alone(
        self,
        kind: str,
        conversation: Conversation,
        size: int,
        since_s: float,
        until_s: float,
        patience_s: float,
        told: Told,
    ) -> Operation:
        """Make an operation of one that was in a crowd. It asks nobody before it is told of an answer."""

    def ended(self, kind: str, keys: Sequence[Key], since_s: float, steps: Iterable[Step]) -> str:
        """Hear of operations that have ended well, and that took no longer than since then; give what they are called
        in the log, where there is a line about them."""

    def missed_by(self, key: Key, ballot: Ballot, electorate: Electorate, confirmed: Voters, node: NodeId) -> None:
        """Leave a hint for an owner that did not take what others took."""

    def expires(self, key: Key, done: Done, until_s: float, told: Told) -> None:
        """Tell a reader of a value that expires; or that there is none, if it has."""


class Books:
    """What is under way in crowds: how many operations, and bytes of their values."""

    __slots__ = ("live", "ops", "size")

    def __init__(self) -> None:
        self.live: dict[Crowd, None] = {}
        self.ops = 0
        self.size = 0


class _Heard(msgspec.Struct, frozen=True):
    """What one node said; or, without a reply, why it said nothing."""

    node: NodeId
    verb: int = READ
    reply: BundleReply | None = None
    error: str = ""
    unsure: bool = False
    """The bundle may have arrived twice; or, if there was no answer, at all."""
    sent_s: float = NEVER
    back_s: float = 0.0
    """When the bundle had left, and when that was heard."""

    @property
    def step(self) -> Step:
        what = "agreed" if self.reply is not None else f"gave no answer: {self.error}"
        return self.back_s, what, self.node, 1, self.sent_s


class Crowd:
    """What crowds of readers and of writers share. See ``peers.peer.Askers``."""

    __slots__ = (
        "_books",
        "_bucket",
        "_confirmed",
        "_ended",
        "_gone",
        "_growing",
        "_heard",
        "_home",
        "_since_s",
        "_strays",
        "_told",
        "_told_s",
        "_until_s",
        "_waiting",
        "electorate",
        "keys",
        "size",
    )

    kind: str
    log = Logger()

    def __init__(self, home: Home, books: Books, electorate: Electorate, patience_s: float) -> None:
        self._home = home
        self._books = books
        books.live[self] = None
        self.electorate = electorate
        self.keys: list[Key] = []
        self._told: list[Told] = []
        self.size = 0
        self._gone = 0
        """Bytes of the values of those who have left."""
        self._growing: tuple[dict[Electorate, Any], Electorate] | None = None
        """Where it is found by those who may still be put in."""
        self._ended = False
        """Whether nobody in here waits any more."""
        self._waiting: Voters = 0
        self._confirmed: Voters = 0
        self._heard: list[_Heard] = []
        self._strays: dict[int, Operation] = {}
        """Who has left, by the place that he had."""
        timeout_s = home.limits.operation_timeout_s
        if home.buggify("bundles: a deadline of 1 ms"):
            timeout_s = 0.001
        self._since_s = home.clock.seconds()
        self._until_s = self._since_s + timeout_s
        self._tell_in(min(patience_s, timeout_s))

    def __len__(self) -> int:
        return len(self.keys)

    def grows_in(self, growing: dict[Electorate, Any], place: Electorate) -> None:
        """Be found there until this is closed."""
        self._growing = growing, place

    def close(self) -> None:
        """Let nothing more be put in."""
        growing, self._growing = self._growing, None
        if growing is not None:
            found, place = growing
            del found[place]

    def ask(self, node: NodeId, verb: int, error: str) -> None:
        """Put its bundle into a node's queue, unless that refuses it."""
        if error:
            self._heard.append(_Heard(node, verb, error=error, back_s=self._since_s))
        else:
            self._waiting |= self.electorate.bits[node]
            self._home.queues.by_node[node].ask_bundle(self, verb)

    def answered(self, node: NodeId, verb: int, reply: BundleReply, resent: bool) -> None:
        transit = self._home.queues.transit
        self._hear(_Heard(node, verb, reply, "", resent, transit.sent_s, transit.back_s))
        if self._ended:
            for place, other in reply.others.items():
                if other.abstains and place not in self._strays:
                    self._leave_hint(node, place)
            return
        for place in reply.others:
            if place not in self._strays:
                self._leave(place)
        self._confirmed |= self.electorate.bits[node]
        self._count()

    def unanswered(self, node: NodeId, error: str, arrived: bool) -> None:
        self._hear(_Heard(node, error=error, unsure=arrived, back_s=self._home.clock.seconds()))
        if self._ended:
            self._leave_hints(node)
        elif not self._may_succeed():
            self.scatter()

    def _hear(self, heard: _Heard) -> None:
        self._waiting &= ~self.electorate.bits[heard.node]
        self._heard.append(heard)
        for place, stray in self._strays.items():
            self._pass_on(heard, place, stray)

    def _pass_on(self, heard: _Heard, place: int, stray: Operation) -> None:
        """Tell somebody who has left what a node said."""
        node, unsure = heard.node, heard.unsure
        transit = self._home.queues.transit
        transit.sent_s, transit.back_s = heard.sent_s, heard.back_s
        if heard.reply is None:
            stray.unanswered(node, 1, heard.error, unsure)
            return
        reply = heard.reply.others.get(place)
        if reply is None:
            stray.answered(node, 1, self._plain(heard.reply, place), unsure)
        elif not reply.abstains:
            stray.answered(node, 1, reply, unsure)
        elif reply.abstains != AGAIN.abstains or heard.verb == ACCEPT:
            stray.unanswered(node, 1, reply.abstains, unsure)
        elif stray.done is not None and stray.conversation.round == 1:
            # Nobody who has begun anew, in another epoch maybe, asks for what he was not shown in this one.
            self._home.queues.by_node[node].ask(stray, 1, Op(heard.verb, self.keys[place]))

    def _leave(self, place: int) -> None:
        """Let somebody go on alone, as one who has heard what was heard here."""
        home, size = self._home, self._size(place)
        patience_s = self._told_s - home.clock.seconds()
        conversation, told = self._conversation(place), self._told[place]
        stray = home.go_alone(self.kind, conversation, size, self._since_s, self._until_s, patience_s, told)
        self._strays[place] = stray
        self._gone += size
        self._books.ops -= 1
        self._books.size -= size
        for heard in self._heard:
            self._pass_on(heard, place, stray)

    def scatter(self) -> None:
        """Let everybody go on alone who has not ended."""
        self.close()
        if self._ended:
            return
        for place in range(len(self.keys)):
            if place not in self._strays:
                self._leave(place)
        self._end()

    def _leave_hints(self, node: NodeId) -> None:
        """Leave a hint for an owner of all that it has not taken when others have."""
        for place in range(len(self.keys)):
            if place not in self._strays:
                self._leave_hint(node, place)

    def _scatter_late(self) -> None:
        """Let those go on alone who have waited for as long as they should, and know it."""
        before = len(self._strays)
        self.scatter()
        for stray in list(self._strays.values())[before:]:
            stray.tell_early()

    def _end(self) -> str:
        """Close the books: whoever is still in here is told now. Give what they are called in the log, if anything."""
        self._ended = True
        self._home.deadlines.take_back(self, self._bucket)
        del self._books.live[self]
        keys = self._stayed(self.keys)
        if keys:
            self._books.ops -= len(keys)
            self._books.size -= self.size - self._gone
            return self._home.ended(self.kind, keys, self._since_s, self._steps())
        return ""

    def _steps(self) -> Iterable[Step]:
        """Give what was heard, if somebody wants to know."""
        return (heard.step for heard in self._heard)

    def _stayed(self, column: Sequence[T]) -> Sequence[T]:
        """Give what a column says of those who have not left."""
        if not self._strays:
            return column
        return [one for place, one in enumerate(column) if place not in self._strays]

    def _tell_in(self, pause_s: float) -> None:
        self._told_s = self._home.clock.seconds() + pause_s
        self._bucket = self._home.deadlines.wait(self, self._told_s)

    def tell(self) -> None:
        """See ``deadlines.Waiter``."""
        raise NotImplementedError

    # What the two kinds differ in.

    def pack(self, verb: int) -> msgspec.Raw:
        """See ``peers.peer.Askers``."""
        raise NotImplementedError

    def _conversation(self, place: int) -> Conversation:
        """Give the conversation of somebody who leaves, as it was when the bundle was asked."""
        raise NotImplementedError

    def _plain(self, reply: BundleReply, place: int) -> Reply:
        """Give an answer that is not among a reply's others."""
        raise NotImplementedError

    def _size(self, place: int) -> int:
        """Say how many bytes somebody's value has."""
        return 0

    def _may_succeed(self) -> bool:
        """Whether those who have yet to answer can make it."""
        raise NotImplementedError

    def _count(self) -> None:
        """End if enough have answered."""
        raise NotImplementedError

    def _leave_hint(self, node: NodeId, place: int) -> None:
        """Leave a hint for an owner of what somebody has written; a reader has nothing to leave."""
