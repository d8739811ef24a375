"""Bundles: plain reads and writes that ask the same owners at the same time go into one (see ``crowd``)."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from .conditional import Draft
from .crowd import Books, Crowd, Home
from .names import Key, NodeId
from .operation import Done, Told
from .quorum import Electorate, Level, met
from .reading import Read
from .register import ACCEPT, FETCH, READ, Reply
from .versions import NEVER, NONE, Ballot, Version, encode_record, expiry_bytes, record_version
from .wire.batches import Bundle, BundleReply
from .wire.header import encode
from .writing import Write

GROWS_S = 0.1
"""How long a bundle of writes may grow while no node takes it: those who come last have as much less time."""


class Writes(Crowd):
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
            self.close()
            tick = self._home.hybrid.tick
            self._records = [encode_record(Version(tick()), *draft) for draft in self._drafts]
            self._packed = msgspec.Raw(encode(Bundle(ACCEPT, self.keys, self._records)))
        return self._packed

    def tell(self) -> None:
        """See ``deadlines.Waiter``."""
        self.close()
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

    def _may_succeed(self) -> bool:
        return met(self.electorate.quorum, self._confirmed | self._waiting)

    def _count(self) -> None:
        if not met(self.electorate.quorum, self._confirmed):
            return
        request_id = self._end()
        acks, owners = self._confirmed.bit_count(), len(self.electorate.nodes)
        for record, told in zip(self._stayed(self._records), self._stayed(self._told), strict=True):
            try:
                told(Done(record, acks, owners, request_id))
            except Exception:
                self.log.failure("somebody could not be told that he has written")
        for heard in self._heard:
            if heard.reply is None:
                self._leave_hints(heard.node)

    def _leave_hint(self, node: NodeId, place: int) -> None:
        ballot = Ballot(record_version(self._records[place]))
        self._home.missed_by(self.keys[place], ballot, self.electorate, self._confirmed, node)


class Reads(Crowd):
    """Reads at level strong: of a bare majority one is asked for the records, the others for their ballots."""

    __slots__ = ("_asked", "_patience_s")

    kind = "read"

    def __init__(self, home: Home, books: Books, electorate: Electorate) -> None:
        self._patience_s = home.queues.hedge_s(electorate.fewest)
        super().__init__(home, books, electorate, self._patience_s)
        self._asked = False
        """Whether some node has been asked, or may be at any time."""

    def add(self, key: Key, told: Told) -> None:
        self.keys.append(key)
        self._told.append(told)
        self._books.ops += 1

    def pack(self, verb: int) -> msgspec.Raw:
        """See ``peers.peer.Askers``."""
        self.close()
        self._asked = True
        return msgspec.Raw(encode(Bundle(verb, self.keys)))

    def tell(self) -> None:
        """See ``deadlines.Waiter``. As many leave as may ask other owners, too; the others wait for longer."""
        self.close()
        self._asked = True
        home, electorate = self._home, self.electorate
        left_s = self._until_s - home.clock.seconds()
        if left_s <= 0:
            self._scatter_late()
            return
        waiting = electorate.members(self._waiting)
        spared = electorate.members(electorate.everybody & ~electorate.fewest_voters)
        for place in range(len(self.keys)):
            if place in self._strays:
                continue
            if not home.queues.may_hedge(waiting, spared):
                self._patience_s = max(2 * self._patience_s, home.limits.slow_read_s)
                self._tell_in(min(left_s, self._patience_s))
                return
            self._leave(place)
            self._strays[place].hedge()
        self._end()

    def _conversation(self, place: int) -> Read:
        read = Read(self.keys[place], self.electorate, self._home.hybrid, Level.STRONG)
        if self._asked:
            read.begin()
        return read

    def _plain(self, reply: BundleReply, place: int) -> Reply:
        ballot = reply.ballots[place]
        return Reply(True, ballot, ballot, reply.records[place] if reply.records else b"")

    def _may_succeed(self) -> bool:
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
        self._home.hybrid.learn(max(self._stayed(ballots), default=NONE))
        request_id = self._end()
        records = next(heard.reply.records for heard in self._heard if heard.verb == FETCH and heard.reply is not None)
        acks, owners, stayed = len(replies), len(self.electorate.nodes), self._stayed
        for key, record, told in zip(stayed(self.keys), stayed(records), stayed(self._told), strict=True):
            done = Done(record, acks, owners, request_id)
            try:
                if record and expiry_bytes(record) != NEVER:
                    self._home.expires(key, done, self._until_s, told)
                else:
                    told(done)
            except Exception:
                self.log.failure("somebody could not be told what he has read")


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

    def scatter(self) -> None:
        """Let everybody go on alone: an epoch has ended."""
        self._alike.clear()
        self._first.clear()
        while self.books.live:  # who is told of an end by this may begin something else
            for bundle in list(self.books.live):
                bundle.scatter()

    def write(self, electorate: Electorate, key: Key, draft: Draft, told: Told) -> bool:
        """Put a write into a bundle, unless there is no majority to ask. What cannot be encoded spoils only itself."""
        if draft.expires_ms >> 64:
            return False
        alike = self._alike.get(electorate) or self._one_of(electorate)
        bundle = self._writes.get(alike)
        if bundle is not None and bundle.size + draft.size > self._home.limits.batch_bytes_max:
            bundle.close()
            bundle = None
        if bundle is None:
            bundle = self._open_writes(alike)
            if bundle is None:
                return False
        bundle.add(key, draft, told)
        self._close_if_full(bundle)
        return True

    def _open_writes(self, electorate: Electorate) -> Writes | None:
        nodes, queues = electorate.nodes, self._home.queues.by_node
        errors = [queues[node].refusal(ACCEPT) for node in nodes]
        asked = electorate.everybody
        if any(errors):
            asked = electorate.voters([node for node, error in zip(nodes, errors, strict=True) if not error])
        if not met(electorate.quorum, asked) or self._home.buggify("bundles: a write alone"):
            return None
        bundle = self._writes[electorate] = Writes(self._home, self.books, electorate)
        bundle.grows_in(self._writes, electorate)
        for node, error in zip(nodes, errors, strict=True):
            bundle.ask(node, ACCEPT, error)
        return bundle

    def read(self, electorate: Electorate, key: Key, told: Told) -> bool:
        """Put a read into a bundle, unless one of those to ask first cannot be asked."""
        alike = self._alike.get(electorate) or self._one_of(electorate)
        bundle = self._reads.get(alike)
        if bundle is None:
            bundle = self._open_reads(alike, self._home.order(key, "read"))
            if bundle is None:
                return False
        bundle.add(key, told)
        self._close_if_full(bundle)
        return True

    def _open_reads(self, alike: Electorate, electorate: Electorate) -> Reads | None:
        nodes, queues = electorate.fewest, self._home.queues.by_node
        if not met(electorate.quorum, electorate.fewest_voters) or self._home.buggify("bundles: a read alone"):
            return None
        verbs = [FETCH, *[READ] * (len(nodes) - 1)]
        for node, verb in zip(nodes, verbs, strict=True):
            if queues[node].refusal(verb):
                return None
        bundle = self._reads[alike] = Reads(self._home, self.books, electorate)
        bundle.grows_in(self._reads, alike)
        for node, verb in zip(nodes, verbs, strict=True):
            bundle.ask(node, verb, "")
        return bundle

    def _one_of(self, electorate: Electorate) -> Electorate:
        """Find the electorate that stands for one and all like it."""
        alike = self._alike[electorate] = self._first.setdefault(electorate.unordered(), electorate)
        return alike

    def _close_if_full(self, bundle: Writes | Reads) -> None:
        limits = self._home.limits
        full = len(bundle.keys) >= limits.batch_ops_max or bundle.size >= limits.batch_bytes_max
        if full or self._home.buggify("bundles: a small one"):
            bundle.close()
