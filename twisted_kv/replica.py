"""One replica: the only door to storage. It answers proxies' batches, and admits only those that mean it.

Every answer is computed from the newest state, at once, and leaves when what it shows is as safe as the node promises
(``commit.py``).
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from .answering import Answering
from .buggify import Buggify, inert
from .commit import NOTES, Commit
from .errors import ChangeUnderWay, Damaged, DiskBusy, DiskFull, NodeHasData, NotAMember
from .floors import over, stored
from .holding import HARDLY_ANY_ROOM, check_batch
from .limits import Limits
from .metrics import NodeMetrics
from .names import Key, Slot
from .register import ABSTAIN, ACCEPT, Cell, Op, Reply, decide
from .ring import slot_of
from .storage.engine import Engine
from .tracing import Trace
from .upkeep import Upkeep
from .versions import NONE, HybridClock, Record, Version, is_expired
from .wire.batches import DISK_BUSY, Batch, BatchReply
from .wire.header import FORMAT, OLDEST_FORMAT
from .wire.joining import Announcement, Info, Join


class Replica(Upkeep):
    """A node's data, as its clients see it: see ``Holding``.

    :param clock: for waiting while the disk is behind.
    :param now_ms: wall time, which ballots of this node's own and expiry go by.
    :param broken: told when the disk has failed; nothing may be answered any more.
    :param sync: see ``wire.joining.Info``.
    :param free_bytes: looks at the room that is left on the disk, if there is one.
    """

    def __init__(
        self,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        writer: int,
        engine: Engine,
        commit: Commit,
        incarnation: str,
        limits: Limits,
        metrics: NodeMetrics,
        broken: Callable[[Failure], None],
        version: str = "",
        buggify: Buggify = inert,
        sync: str = "",
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(now_ms, engine, commit, incarnation, limits, metrics, broken, buggify)
        self._clock = clock
        self._batch: Batch | None = None
        """The batch that was answered last."""
        self._hybrid = HybridClock(now_ms, writer)
        self._version = version
        self._sync = sync
        self._free_bytes = free_bytes
        self._began_s = clock.seconds()

    @property
    def clock(self) -> IReactorTime:
        return self._clock

    @property
    def limits(self) -> Limits:
        return self._limits

    def info(self) -> Info:
        totals, identity = self._engine.totals(), self._identity
        return Info(
            role="kvnode",
            format=FORMAT,
            cluster=identity.cluster,
            member=identity.member,
            incarnation=identity.incarnation,
            epoch=identity.epoch,
            engine=self._engine.name,
            keys=totals.keys,
            bytes=totals.bytes,
            now_ms=self._now_ms(),
            version=self._version,
            hints=dict(self._hints.counts),
            marks=len(self._hints.marks),
            spoiled=self.spoiled,
            uptime_s=round(self._clock.seconds() - self._began_s, 1),
            free_bytes=self._room(),
            sync=self._sync,
            oldest_format=OLDEST_FORMAT,
        )

    def _room(self) -> int | None:
        """Look at the room on the disk. Where that cannot be told, whoever asks is to hear all the rest."""
        try:
            return self._free_bytes() if self._free_bytes is not None else None
        except OSError:
            return None

    def join(self, join: Join) -> Deferred[Info]:
        """Take the identity that a cluster's proxy gives; taking the same one twice is harmless.

        Errors: ``ForeignNode`` if this node is somebody else already; ``NodeHasData`` if it holds data without being a
        member; those of the disk.
        """

        def joined() -> Info:
            totals = self._engine.totals()
            if not self._identity.member and totals.bytes:
                raise NodeHasData(
                    f"this node holds {totals.keys} keys and belongs to no cluster",
                    "copy what you need to the cluster, then start the node with an empty data directory",
                )
            self._identity.take(join)
            return self.info()

        return self._when_safe(joined, lambda info: [NOTES])

    def announce(self, announcement: Announcement) -> Deferred[BatchReply]:
        """Adopt an epoch and keep the state document that belongs to it."""

        def announced() -> BatchReply:
            refusal = self._identity.refusal(announcement.header, copying=True)
            if refusal is not None:
                return refusal
            self._identity.keep_state(announcement.state)
            return self._done()

        return self._when_safe(self._or_refused(announced), lambda reply: [NOTES])

    def serve(self, batch: Batch) -> Deferred[BatchReply]:
        """Answer a batch: all of it, in order, or none.

        While the disk is behind it waits, for as long as the proxy does.

        Errors: ``MalformedBody`` if an operation is none that the register knows.
        """
        keys: list[bytes] = [*batch.keys]
        return self._serve(batch, keys, self._clock.seconds() + batch.header.deadline_ms / 1000)

    def _serve(self, batch: Batch, keys: list[bytes], until_s: float) -> Deferred[BatchReply]:
        def served() -> BatchReply:
            if self._buggify("replica: the disk is behind"):
                raise DiskBusy("the disk is behind")
            refusal = self._identity.refusal(batch.header, batch.copying)
            return refusal if refusal is not None else self._answer(batch)

        reply = self._when_safe(self._or_refused(served), lambda reply: keys)

        def again(reply: BatchReply) -> BatchReply | Deferred[BatchReply]:
            if reply.refusal != DISK_BUSY or self._clock.seconds() + self._limits.stall_retry_s >= until_s:
                return reply
            self._metrics.stalled.inc()
            return deferLater(self._clock, self._limits.stall_retry_s, self._serve, batch, keys, until_s)

        return reply.addCallback(again)

    def _answer(self, batch: Batch) -> BatchReply:
        check_batch(batch, self._limits)
        full = self.full or self._buggify("replica: there is hardly any room")
        self._batch = batch
        answering = Answering(self._engine, self._limits, full, batch.copying, self._answer_damaged)
        replies = [answering.answer(op) for op in batch.ops]
        bundles = [answering.answer_all(bundle) for bundle in batch.bundles]
        if answering.changes:
            self._engine.apply(answering.changes)
            self._commit.wrote(answering.cells)
        if answering.hints:
            self._note_hints(answering.hints)
        return BatchReply(FORMAT, self.epoch, replies, bundles=bundles)

    def _answer_damaged(self, slot: Slot, op: Op, error: Damaged) -> Reply:
        """Answer about a record that cannot be read: abstain, but take a newer one in its place.

        What was promised and accepted before cannot be known; it was no higher than the highest ballot that this node
        ever gave.
        """
        self._note_damage(slot, error.detail, trace_in(self._batch, op))
        if op.verb != ACCEPT:
            return ABSTAIN
        if op.ballot <= self._engine.highest:
            return Reply(False, NONE, self._engine.highest)
        ballot = op.ballot
        try:
            self._engine.replace_damaged(slot, op.key, Cell(ballot, ballot, op.record))
        except Damaged:
            # More than this record is lost; the rest of the batch has nothing to do with it.
            self.spoiled = True
            return ABSTAIN
        self._commit.wrote([op.key])
        self._metrics.refilled.inc()
        return Reply(True, ballot, ballot)

    # The original's two calls, for the one replica that this node holds.

    def read_local(self, key: Key) -> Deferred[bytes]:
        """Read this replica's own record, empty if there is none or it has expired.

        It may be older than what the others hold.
        """

        def read() -> bytes:
            slot = slot_of(key)
            try:
                cell = self._engine.get(slot, key)
            except Damaged as error:
                self._note_damage(slot, error.detail)
                raise
            record = over(self._engine.floor(slot), cell).record
            return b"" if is_expired(record, self._now_ms()) else record

        return self._when_safe(read, lambda record: [key])

    def write_local(self, key: Key, value: bytes) -> Deferred[None]:
        """Write to this replica under a ballot of its own: level ``one``, as the original's node did it.

        Errors: ``NotAMember`` before it has joined a cluster, since what it held then would keep it from joining one;
        ``ChangeUnderWay`` in an epoch in which clients wait, and before this node was filled; those of the disk.
        """

        def written() -> None:
            if not self._identity.member:
                raise NotAMember("this node belongs to no cluster yet", "add it with POST /AddServer at a proxy")
            if not self._identity.open:
                raise ChangeUnderWay("data is being moved to or from this node", "try again in a moment")
            if self.full:
                raise DiskFull(HARDLY_ANY_ROOM, "make room, or add a node")
            slot = slot_of(key)
            floor = self._engine.floor(slot)
            cell = over(floor, self._engine.get(slot, key))
            self._hybrid.learn(max(cell.promised, cell.accepted))
            ballot = self._hybrid.tick()
            _, kept = decide(cell, Op(ACCEPT, key, ballot, Record(Version(ballot), value).encode()))
            self._engine.apply([(slot, key, stored(floor, kept))])
            self._commit.wrote([key])

        return self._when_safe(written, lambda _: [key])


def trace_in(batch: Batch | None, op: Op) -> Trace | None:
    """Say what an operation is called, if it came in that batch and has a name there."""
    if batch is None or not batch.traces:
        return None
    place = next((place for place, one in enumerate(batch.ops) if one is op), -1)
    return batch.traces.get(place)
