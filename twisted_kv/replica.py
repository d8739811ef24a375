"""One replica: the only door to storage. It answers proxies' batches, and admits only those that mean it.

Every answer is computed from the newest state, at once, and leaves when what it shows is as safe as the node promises
(``commit.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from .buggify import Buggify, inert
from .commit import NOTES, Commit
from .errors import (
    ChangeUnderWay,
    Damaged,
    DiskBusy,
    DiskFailed,
    DiskFull,
    KvError,
    MalformedBody,
    NodeHasData,
    NotAMember,
    OtherEpoch,
    Stopping,
)
from .identity import Identity
from .limits import Limits
from .metrics import NodeMetrics
from .names import Epoch, Key, Slot
from .register import ABSTAIN, ACCEPT, BLANK, FETCH, PREPARE, READ, Cell, Op, Reply, decide
from .ring import SLOTS, slot_of
from .storage.engine import UNREADABLE, Change, Due, Engine
from .versions import NONE, HybridClock, Record, Version, drawn_by_a_clock, is_expired, is_value, is_whole
from .wire import (
    DISK_BUSY,
    DISK_FULL,
    FORMAT,
    Announcement,
    Batch,
    BatchReply,
    Digests,
    DigestsRequest,
    DropRequest,
    DuePage,
    DueRequest,
    Header,
    Info,
    Join,
    KeyRow,
    KeysPage,
    KeysRequest,
    Page,
    PageRequest,
    Row,
    rows_digest,
)

T = TypeVar("T")

HARDLY_ANY_ROOM = "there is hardly any room left on the node's disk"
NO_ROOM = Reply(False, NONE, NONE, abstains=f"{DISK_FULL}: {HARDLY_ANY_ROOM}")
"""The answer to a value that there is no room for."""


class Replica:
    """A node's data. All its methods run on one thread.

    :param clock: for waiting while the disk is behind.
    :param now_ms: wall time, which ballots of this node's own and expiry go by.
    :param broken: told when the disk has failed; nothing may be answered any more.
    """

    log = Logger()

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
    ) -> None:
        self._clock = clock
        self._now_ms = now_ms
        self._hybrid = HybridClock(now_ms, writer)
        self._engine = engine
        self._commit = commit
        self._limits = limits
        self._metrics = metrics
        self._broken = broken
        self._version = version
        self._buggify = buggify
        self._identity = Identity(engine, commit, incarnation)
        self.full = False
        """Whether values are refused for want of room; reads and deletes go on."""
        self._retired = False

    def retire(self) -> None:
        """Refuse whatever comes from now on: the engine is about to be closed."""
        self._retired = True

    @property
    def epoch(self) -> Epoch:
        return self._identity.epoch

    @property
    def incarnation(self) -> str:
        return self._identity.incarnation

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
        )

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
        keys = [op.key for op in batch.ops]
        return self._serve(batch, keys, self._clock.seconds() + batch.header.deadline_ms / 1000)

    def _serve(self, batch: Batch, keys: list[bytes], until_s: float) -> Deferred[BatchReply]:
        def served() -> BatchReply:
            if self._buggify("replica: the disk is behind"):
                raise DiskBusy("the disk is behind")
            refusal = self._identity.refusal(batch.header, batch.copying)
            return refusal if refusal is not None else self._answer(batch.ops, batch.copying)

        reply = self._when_safe(self._or_refused(served), lambda reply: keys)

        def again(reply: BatchReply) -> BatchReply | Deferred[BatchReply]:
            if reply.refusal != DISK_BUSY or self._clock.seconds() + self._limits.stall_retry_s >= until_s:
                return reply
            return deferLater(self._clock, self._limits.stall_retry_s, self._serve, batch, keys, until_s)

        return reply.addCallback(again)

    def _answer(self, ops: Sequence[Op], copying: bool) -> BatchReply:
        for op in ops:
            self._check(op)
        cells: dict[bytes, Cell] = {}
        changes: list[Change] = []
        replies: list[Reply] = []
        get = self._engine.get
        full = self.full or self._buggify("replica: there is hardly any room")
        for op in ops:
            key = Key(op.key)
            slot = slot_of(key)
            try:
                cell = cells.get(key) or get(slot, key) or BLANK
            except Damaged as error:
                self._metrics.damaged.inc()
                self.log.error("{detail}", detail=error.detail)
                replies.append(ABSTAIN)
                continue
            reply, kept = decide(cell, op)
            if kept is not cell:
                if full and kept.record is not cell.record and is_value(kept.record):
                    # Tombstones and promises are taken: deleting makes room, and reads may need either.
                    if copying:
                        raise DiskFull(HARDLY_ANY_ROOM)
                    replies.append(NO_ROOM)
                    continue
                cells[key] = kept
                changes.append(Change(slot, key, kept))
            replies.append(reply)
        if changes:
            self._engine.apply(changes)
            self._commit.wrote(cells)
        return BatchReply(FORMAT, self.epoch, replies)

    def page(self, request: PageRequest) -> Deferred[Page]:
        """Give one page of accepted records; keys that were only promised are left out.

        Errors: ``PeerRefused`` if the request means another node, life or epoch; ``Damaged`` if part of the range
        cannot be read at all.
        """
        return self._when_safe(lambda: self._page(request), lambda page: [row.key for row in page.rows])

    def _page(self, request: PageRequest) -> Page:
        self._identity.admit(request.header, copying=True)
        limits = self._limits
        rows: list[Row] = []
        size = 0
        after = request.after
        for first, last in request.ranges:
            _check_range(first, last)
            if after is not None and after[0] > last:
                continue
            place = (Slot(after[0]), Key(after[1])) if after is not None and after[0] >= first else None
            while True:
                found = self._engine.scan(Slot(first), Slot(last), place, limits.page_records_max)
                for slot, key, cell in found:
                    place = (slot, key)
                    if cell is UNREADABLE:
                        rows.append(Row(key, NONE, b"", NONE))
                    elif cell.accepted != NONE:
                        rows.append(Row(key, cell.accepted, cell.record, cell.promised))
                        size += len(key) + len(cell.record)
                    if len(rows) >= limits.page_records_max or size >= limits.page_bytes_max:
                        return Page(FORMAT, self.epoch, rows, place, rows_digest(rows))
                if len(found) < limits.page_records_max:
                    break
        return Page(FORMAT, self.epoch, rows, digest=rows_digest(rows))

    def digests(self, request: DigestsRequest) -> Deferred[Digests]:
        """Give the digests of slots. Errors as in ``page``."""

        def found() -> Digests:
            self._identity.admit(request.header, copying=True)
            return Digests(FORMAT, self.epoch, list(self.own_digests(request.ranges)))

        return self._when_safe(found, lambda _: [NOTES])

    def own_digests(self, ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
        """Give the digests of slots as they are now."""
        for first, last in ranges:
            _check_range(first, last)
            yield from self._engine.digests(Slot(first), Slot(last))

    def admit(self, header: Header) -> None:
        """Take an order, or refuse it.

        :raises PeerRefused: as in ``page``.
        """
        self._identity.admit(header, copying=True)

    def take(self, epoch: int, rows: Sequence[Row]) -> Deferred[list[bytes]]:
        """Take copies of what others hold; give the keys that this node has promised not to take, or cannot replace.

        Errors: ``OtherEpoch`` if the epoch has moved; those of the disk.
        """

        def taken() -> list[bytes]:
            if self.epoch != epoch:
                raise OtherEpoch(f"this node is at epoch {self.epoch}")
            if self.full:
                raise DiskFull(HARDLY_ANY_ROOM)
            changes: list[Change] = []
            refused: list[bytes] = []
            for row in rows:
                op = Op(ACCEPT, row.key, row.ballot, row.record)
                self._check(op)
                key = Key(row.key)
                slot = slot_of(key)
                try:
                    cell = self._engine.get(slot, key) or BLANK
                except Damaged:
                    refused.append(key)
                    continue
                _, kept = decide(cell, op)
                if kept is not cell:
                    changes.append(Change(slot, key, kept))
                elif cell.accepted < row.ballot:
                    refused.append(key)
            if changes:
                self._engine.apply(changes)
                self._commit.wrote([change.key for change in changes])
            return refused

        return self._when_safe(taken, lambda _: [row.key for row in rows])

    def drop(self, request: DropRequest) -> Deferred[BatchReply]:
        """Forget slots, or the first cells of them. Errors: ``Damaged``."""

        def dropped() -> BatchReply:
            refusal = self._identity.refusal(request.header, copying=True)
            if refusal is not None:
                return refusal
            for first, last in request.ranges:
                _check_range(first, last)
            room = self._limits.drop_cells_max
            try:
                for first, last in request.ranges:
                    room -= self._engine.drop(Slot(first), Slot(last), room)
                    if not room:
                        break
            finally:
                # Where one range fails, those before it are gone all the same.
                self._commit.wrote([NOTES])
            reply = self._done()
            reply.unfinished = not room
            return reply

        return self._when_safe(self._or_refused(dropped), lambda reply: [NOTES])

    def keys(self, request: KeysRequest) -> Deferred[KeysPage]:
        """Give one page of the key index. Errors as in ``page``."""

        def listed() -> KeysPage:
            self._identity.admit(request.header, copying=False)
            limit = min(request.limit, self._limits.keys_page_max)
            found = self._engine.keys(request.after, request.prefix, limit)
            return KeysPage(FORMAT, self.epoch, [KeyRow(*row) for row in found], more=len(found) == limit)

        return self._when_safe(listed, lambda page: [row.key for row in page.rows])

    def due(self, request: DueRequest) -> Deferred[DuePage]:
        """Give one page of the values that have expired. Errors as in ``page``."""

        def found() -> DuePage:
            self._identity.admit(request.header, copying=False)
            after = Due(request.after[0], Key(request.after[1])) if request.after is not None else None
            limit = min(request.limit, self._limits.keys_page_max)
            rows = self._engine.due(request.until_ms, after, limit)
            return DuePage(FORMAT, self.epoch, [(row.expires_ms, row.key) for row in rows], more=len(rows) == limit)

        return self._when_safe(found, lambda page: [key for _, key in page.rows])

    # The original's two calls, for the one replica that this node holds.

    def read_local(self, key: Key) -> Deferred[bytes]:
        """Read this replica's own record, empty if there is none or it has expired.

        It may be older than what the others hold.
        """

        def read() -> bytes:
            cell = self._engine.get(slot_of(key), key)
            record = cell.record if cell is not None else b""
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
            cell = self._engine.get(slot, key) or BLANK
            self._hybrid.learn(max(cell.promised, cell.accepted))
            ballot = self._hybrid.tick()
            _, kept = decide(cell, Op(ACCEPT, key, ballot, Record(Version(ballot), value).encode()))
            self._engine.apply([Change(slot, key, kept)])
            self._commit.wrote([key])

        return self._when_safe(written, lambda _: [key])

    # What all of them share.

    def _when_safe(self, work: Callable[[], T], keys_of: Callable[[T], list[bytes]]) -> Deferred[T]:
        """Do something now, and give what came of it when what it shows is safe."""
        if self._retired:
            return fail(Stopping("this node is stopping"))
        try:
            result = work()
        except DiskFailed:
            self._broken(Failure())
            return fail(Failure())
        except KvError:
            # An error may tell of the epoch, or of whom this node belongs to.
            failure = Failure()
            return self._commit.release(None, [NOTES]).addCallback(lambda _: failure)
        return self._commit.release(result, keys_of(result))

    def _or_refused(self, work: Callable[[], BatchReply]) -> Callable[[], BatchReply]:
        """Answer with a refusal where the disk takes no more; then nothing has changed."""

        def worked() -> BatchReply:
            try:
                return work()
            except DiskFull as error:
                return self._identity.refuse(DISK_FULL, error.detail)
            except DiskBusy as error:
                return self._identity.refuse(DISK_BUSY, error.detail)

        return worked

    def _done(self) -> BatchReply:
        return BatchReply(FORMAT, self.epoch)

    def _check(self, op: Op) -> None:
        """Refuse what no proxy of ours sends: it would be stored, and copied from then on."""
        if not 0 < len(op.key) <= self._limits.key_bytes_max:
            raise MalformedBody(f"the batch holds a key of {len(op.key)} bytes")
        if op.verb in (READ, FETCH):
            return
        if op.verb not in (PREPARE, ACCEPT) or not drawn_by_a_clock(op.ballot):
            raise MalformedBody("the batch holds an operation without a usable verb or ballot")
        if op.verb == ACCEPT and not is_whole(op.record):
            raise MalformedBody("the batch holds a record that is cut or of an unknown format")


def _check_range(first: int, last: int) -> None:
    if not 0 <= first <= last < SLOTS:
        raise MalformedBody(f"there is no range of slots from {first} to {last}")
