"""Plain reads and writes that ask the same owners at the same time, asked and answered as one.

Nearly every operation goes the same way: it is asked, and a majority agrees. Of those a bundle counts the answers all
together, which costs a fifth of what as many operations do. Whatever goes another way (it is refused, or late, owners
differ, a node is silent without whom there is no majority, the epoch moves) leaves its bundle and goes on alone, as an
``Operation`` that has heard what the bundle has.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

import msgspec

from .conditional import Draft
from .conversation import Conversation
from .names import Key, NodeId
from .operation import Done, Operation, Told
from .operation import Home as OperationHome
from .quorum import Electorate, Level, Voters, met
from .reading import Read
from .register import ACCEPT, AGAIN, FETCH, READ, Op, Reply
from .versions import NEVER, Ballot, HybridClock, Version, encode_record, expiry_bytes, record_version
from .wire import Bundle, BundleReply, encode
from .writing import Write

T = TypeVar("T")

GROWS_S = 0.1
"""How long a bundle of writes may grow while no node takes it: those who come last have as much less time."""


class Home(OperationHome, Protocol):
    """What bundles need of the coordinator."""

    hybrid: HybridClock

    def go_alone(
        self, kind: str, conversation: Conversation, size: int, until_s: float, patience_s: float, told: Told
    ) -> Operation:
        """Make an operation of one that was in a bundle. It asks nobody before it is told of an answer."""

    def ended(self, kind: str, keys: Sequence[Key]) -> None:
        """Hear of operations that have ended well."""

    def missed_by(self, key: Key, ballot: Ballot, electorate: Electorate, confirmed: Voters, node: NodeId) -> None:
        """Leave a hint for an owner that did not take what others took."""

    def expires(self, key: Key, done: Done, until_s: float, told: Told) -> None:
        """Tell a reader of a value that expires; or that there is none, if it has."""


class Books:
    """What is under way in bundles: how many operations, and bytes of their values."""

    __slots__ = ("live", "ops", "size")

    def __init__(self) -> None:
        self.live: dict[_Bundle, None] = {}
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


class _Bundle:
    """What both kinds share. See ``peers.peer.Askers``."""

    __slots__ = (
        "_books",
        "_bucket",
        "_confirmed",
        "_ended",
        "_gone",
        "_heard",
        "_home",
        "_strays",
        "_told",
        "_told_s",
        "_until_s",
        "_waiting",
        "electorate",
        "grows",
        "keys",
        "size",
    )

    kind: str

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
        self.grows = True
        """Whether more may be put in."""
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
        self._until_s = home.clock.seconds() + timeout_s
        self._tell_in(min(patience_s, timeout_s))

    def __len__(self) -> int:
        return len(self.keys)

    def ask(self, node: NodeId, verb: int, error: str) -> None:
        """Put the bundle into a node's queue, unless that refuses it."""
        if error:
            self._heard.append(_Heard(node, verb, error=error))
        else:
            self._waiting |= self.electorate.bits[node]
            self._home.queues.by_node[node].ask_bundle(self, verb)

    def answered(self, node: NodeId, verb: int, reply: BundleReply, resent: bool) -> None:
        self._hear(_Heard(node, verb, reply, unsure=resent))
        if self._ended:
            return
        for place in reply.others:
            if place not in self._strays:
                self._leave(place)
        self._confirmed |= self.electorate.bits[node]
        self._count()

    def unanswered(self, node: NodeId, error: str, arrived: bool) -> None:
        self._hear(_Heard(node, error=error, unsure=arrived))
        if self._ended:
            self._missed(node)
        elif not self._hopes():
            self.scatter()

    def _hear(self, heard: _Heard) -> None:
        self._waiting &= ~self.electorate.bits[heard.node]
        self._heard.append(heard)
        for place, stray in self._strays.items():
            self._pass_on(heard, place, stray)

    def _pass_on(self, heard: _Heard, place: int, stray: Operation) -> None:
        """Tell somebody who has left what a node said."""
        node, unsure = heard.node, heard.unsure
        if heard.reply is None:
            stray.unanswered(node, 1, heard.error, unsure)
            return
        reply = heard.reply.others.get(place)
        if reply is None:
            stray.answered(node, 1, self._plain(heard.reply, place), unsure)
        elif not reply.abstains:
            stray.answered(node, 1, reply, unsure)
        elif reply.abstains != AGAIN.abstains:
            stray.unanswered(node, 1, reply.abstains, unsure)
        else:
            self._home.queues.by_node[node].ask(stray, 1, Op(heard.verb, self.keys[place]))

    def _leave(self, place: int) -> None:
        """Let somebody go on alone, as one who has heard what was heard here."""
        home, size = self._home, self._size(place)
        patience_s = self._told_s - home.clock.seconds()
        stray = home.go_alone(self.kind, self._conversation(place), size, self._until_s, patience_s, self._told[place])
        self._strays[place] = stray
        self._gone += size
        self._books.ops -= 1
        self._books.size -= size
        for heard in self._heard:
            self._pass_on(heard, place, stray)

    def scatter(self) -> None:
        """Let everybody go on alone who has not ended."""
        self.grows = False
        if self._ended:
            return
        for place in range(len(self.keys)):
            if place not in self._strays:
                self._leave(place)
        self._end()

    def _scatter_late(self) -> None:
        """Let those go on alone who have waited for as long as they should, and know it."""
        before = len(self._strays)
        self.scatter()
        for stray in list(self._strays.values())[before:]:
            stray.tell_early()

    def _end(self) -> None:
        """Close the books: whoever is still in here is told now."""
        self._ended = True
        self._home.deadlines.take_back(self, self._bucket)
        del self._books.live[self]
        keys = self._stayed(self.keys)
        if keys:
            self._books.ops -= len(keys)
            self._books.size -= self.size - self._gone
            self._home.ended(self.kind, keys)

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

    def _conversation(self, place: int) -> Conversation:
        """Give the conversation of somebody who leaves, as it was when the bundle was asked."""
        raise NotImplementedError

    def _plain(self, reply: BundleReply, place: int) -> Reply:
        """Give an answer that is not among a reply's others."""
        raise NotImplementedError

    def _size(self, place: int) -> int:
        """Say how many bytes somebody's value has."""
        return 0

    def _hopes(self) -> bool:
        """Whether those who have yet to answer can make it."""
        raise NotImplementedError

    def _count(self) -> None:
        """End if enough have answered."""
        raise NotImplementedError

    def _missed(self, node: NodeId) -> None:
        """Hear that a node has not answered what others have."""


class Writes(_Bundle):
    """Plain writes at level strong, each of another key: one accept under a fresh ballot."""

    __slots__ = ("_drafts", "_packed", "_records")

    kind = "write"

    def __init__(self, home: Home, books: Books, electorate: Electorate) -> None:
        super().__init__(home, books, electorate, GROWS_S)
        self._drafts: list[Draft] = []
        self._records: list[bytes] = []
        self._packed: msgspec.Raw | None = None

    def add(self, key: Key, draft: Draft, told: Told) -> None:
        self.keys.append(key)
        self._drafts.append(draft)
        self._told.append(told)
        size = draft.size
        self.size += size
        self._books.ops += 1
        self._books.size += size

    def pack(self, verb: int) -> msgspec.Raw:
        """See ``peers.peer.Askers``. The ballots are drawn here."""
        if self._packed is None:
            self.grows = False
            tick = self._home.hybrid.tick
            self._records = [encode_record(Version(tick()), *draft) for draft in self._drafts]
            self._packed = msgspec.Raw(encode(Bundle(ACCEPT, self.keys, self._records)))
        return self._packed

    def tell(self) -> None:
        """See ``deadlines.Waiter``."""
        self.grows = False
        left_s = self._until_s - self._home.clock.seconds()
        if left_s > 0:
            self._tell_in(left_s)
        else:
            self.pack(ACCEPT)  # it lies in the queues yet: nobody may be told that nothing will happen
            self._scatter_late()

    def _conversation(self, place: int) -> Write:
        write = Write(self.keys[place], self.electorate, self._home.hybrid, Level.STRONG, *self._drafts[place])
        if self._packed is not None:
            write.join(self._records[place])
        return write

    def _plain(self, reply: BundleReply, place: int) -> Reply:
        ballot = Ballot(record_version(self._records[place]))
        return Reply(True, ballot, ballot)

    def _size(self, place: int) -> int:
        return self._drafts[place].size

    def _hopes(self) -> bool:
        return met(self.electorate.quorum, self._confirmed | self._waiting)

    def _count(self) -> None:
        if not met(self.electorate.quorum, self._confirmed):
            return
        self._end()
        acks, owners = self._confirmed.bit_count(), len(self.electorate.nodes)
        for record, told in zip(self._stayed(self._records), self._stayed(self._told), strict=True):
            told(Done(record, acks, owners))
        for heard in self._heard:
            if heard.reply is None:
                self._missed(heard.node)

    def _missed(self, node: NodeId) -> None:
        for key, record in zip(self._stayed(self.keys), self._stayed(self._records), strict=True):
            self._home.missed_by(key, Ballot(record_version(record)), self.electorate, self._confirmed, node)


class Reads(_Bundle):
    """Reads at level strong: of a bare majority one is asked for the records, the others for their ballots."""

    __slots__ = ("_asked",)

    kind = "read"

    def __init__(self, home: Home, books: Books, electorate: Electorate) -> None:
        super().__init__(home, books, electorate, home.queues.hedge_s(electorate.fewest))
        self._asked = False
        """Whether some node has been asked, or may be at any time."""

    def add(self, key: Key, told: Told) -> None:
        self.keys.append(key)
        self._told.append(told)
        self._books.ops += 1

    def pack(self, verb: int) -> msgspec.Raw:
        """See ``peers.peer.Askers``."""
        self.grows = False
        self._asked = True
        return msgspec.Raw(encode(Bundle(verb, self.keys)))

    def tell(self) -> None:
        """See ``deadlines.Waiter``. Each asks other owners then, if he may."""
        self._asked = True
        self._scatter_late()

    def _conversation(self, place: int) -> Read:
        read = Read(self.keys[place], self.electorate, self._home.hybrid, Level.STRONG)
        if self._asked:
            read.begin()
        return read

    def _plain(self, reply: BundleReply, place: int) -> Reply:
        ballot = reply.ballots[place]
        return Reply(True, ballot, ballot, reply.records[place] if reply.records else b"")

    def _hopes(self) -> bool:
        return False  # others have to be asked, by each for himself

    def _count(self) -> None:
        if self._waiting:
            return
        replies = [heard.reply for heard in self._heard if heard.reply is not None]
        ballots = replies[0].ballots
        for reply in replies:
            if reply.ballots != ballots:
                for place, (one, other) in enumerate(zip(ballots, reply.ballots, strict=True)):
                    if one != other and place not in self._strays:
                        self._leave(place)
        self._end()
        if ballots:
            self._home.hybrid.learn(max(ballots))
        records = next(heard.reply.records for heard in self._heard if heard.verb == FETCH and heard.reply is not None)
        acks, owners, stayed = len(replies), len(self.electorate.nodes), self._stayed
        for key, record, told in zip(stayed(self.keys), stayed(records), stayed(self._told), strict=True):
            done = Done(record, acks, owners)
            if record and expiry_bytes(record) != NEVER:
                self._home.expires(key, done, self._until_s, told)
            else:
                told(done)


class Bundles:
    """The bundles of one proxy: those that grow, by whom they ask, and all that are under way."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.books = Books()
        self._writes: dict[Electorate, Writes] = {}
        self._reads: dict[Electorate, Reads] = {}
        self._alike: dict[Electorate, Electorate] = {}
        """For each electorate the one that stands for all with the same voters, whose order is no matter here."""
        self._first: dict[Hashable, Electorate] = {}
        """Those, by their voters."""

    def adopt(self) -> None:
        """Let everybody go on alone: an epoch has ended."""
        self._writes.clear()
        self._reads.clear()
        self._alike.clear()
        self._first.clear()
        for bundle in list(self.books.live):
            bundle.scatter()

    def write(self, electorate: Electorate, key: Key, draft: Draft, told: Told) -> bool:
        """Put a write into a bundle, unless there is no majority to ask."""
        bundle = self._writes.get(electorate)
        if bundle is None or not bundle.grows:
            alike = self._one_of(electorate)
            bundle = self._writes.get(alike)
            if bundle is None or not bundle.grows:
                bundle = self._open_writes(alike)
                if bundle is None:
                    return False
            self._writes[electorate] = self._writes[alike] = bundle
        bundle.add(key, draft, told)
        self._close_if_full(bundle)
        return True

    def _open_writes(self, electorate: Electorate) -> Writes | None:
        nodes = electorate.nodes
        errors = [self._home.queues.by_node[node].refusal(ACCEPT) for node in nodes]
        asked = [node for node, error in zip(nodes, errors, strict=True) if not error]
        if not met(electorate.quorum, electorate.voters(asked)) or self._home.buggify("bundles: a write alone"):
            return None
        bundle = Writes(self._home, self.books, electorate)
        for node, error in zip(nodes, errors, strict=True):
            bundle.ask(node, ACCEPT, error)
        return bundle

    def read(self, electorate: Electorate, key: Key, told: Told) -> bool:
        """Put a read into a bundle, unless one of those to ask first cannot be asked."""
        bundle = self._reads.get(electorate)
        if bundle is None or not bundle.grows:
            alike = self._one_of(electorate)
            bundle = self._reads.get(alike)
            if bundle is None or not bundle.grows:
                bundle = self._open_reads(self._home.order(key, "read"))
                if bundle is None:
                    return False
            self._reads[electorate] = self._reads[alike] = bundle
        bundle.add(key, told)
        self._close_if_full(bundle)
        return True

    def _open_reads(self, electorate: Electorate) -> Reads | None:
        nodes, queues = electorate.fewest, self._home.queues.by_node
        if not met(electorate.quorum, electorate.fewest_voters) or self._home.buggify("bundles: a read alone"):
            return None
        verbs = [FETCH, *[READ] * (len(nodes) - 1)]
        for node, verb in zip(nodes, verbs, strict=True):
            if queues[node].refusal(verb):
                return None
        bundle = Reads(self._home, self.books, electorate)
        for node, verb in zip(nodes, verbs, strict=True):
            bundle.ask(node, verb, "")
        return bundle

    def _one_of(self, electorate: Electorate) -> Electorate:
        """Give the electorate that stands for one and all like it."""
        alike = self._alike.get(electorate)
        if alike is None:
            alike = self._alike[electorate] = self._first.setdefault(electorate.unordered(), electorate)
        return alike

    def _close_if_full(self, bundle: Writes | Reads) -> None:
        limits = self._home.limits
        full = len(bundle.keys) >= limits.batch_ops_max or bundle.size >= limits.batch_bytes_max
        if full or self._home.buggify("bundles: a small one"):
            bundle.grows = False
