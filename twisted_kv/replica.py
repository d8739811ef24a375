"""One replica: the only door to storage. It answers proxies' batches, and admits only those that mean it.

A node keeps no list of the others. What it knows of the cluster is who it is itself, the highest epoch it was shown,
and the newest state document as bytes that it hands to proxies which are behind.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from .errors import ChangeUnderWay, ForeignNode, MalformedBody, NodeHasData, NotAMember, PeerRefused
from .limits import Limits
from .names import Epoch, Key, Slot
from .register import ACCEPT, BLANK, FETCH, PREPARE, READ, Cell, Op, Reply, decide
from .ring import SLOTS, slot_of
from .storage.engine import Change, Engine
from .versions import NONE, HybridClock, Record, Version, drawn_by_a_clock, is_whole
from .wire import (
    CLOSED_EPOCH,
    FORMAT,
    OLD_EPOCH,
    OTHER_CLUSTER,
    OTHER_INCARNATION,
    OTHER_MEMBER,
    UNKNOWN_FORMAT,
    Announcement,
    Batch,
    BatchReply,
    DropRequest,
    Header,
    Info,
    Join,
    Page,
    PageRequest,
    Row,
)


class _Notes(msgspec.Struct):
    """What a node keeps about itself beside the data."""

    cluster: str = ""
    member: str = ""
    epoch: int = 0
    open: bool = True


class Replica:
    """A node's data and identity. All its methods run on one thread and answer at once.

    :param incarnation: the name of this life of the node's memory, drawn by whoever starts it.
    """

    log = Logger()

    def __init__(
        self,
        now_ms: Callable[[], int],
        writer: int,
        engine: Engine,
        incarnation: str,
        limits: Limits,
        version: str = "",
    ) -> None:
        self._now_ms = now_ms
        self._clock = HybridClock(now_ms, writer)
        self._engine = engine
        self._limits = limits
        self._version = version
        self.incarnation = incarnation
        kept = engine.read_note("identity")
        self._notes = msgspec.json.decode(kept, type=_Notes) if kept else _Notes()
        self._state = engine.read_note("state") or b""

    @property
    def epoch(self) -> Epoch:
        return Epoch(self._notes.epoch)

    @property
    def joined(self) -> bool:
        return bool(self._notes.member)

    def info(self) -> Info:
        totals = self._engine.totals()
        return Info(
            role="kvnode",
            format=FORMAT,
            cluster=self._notes.cluster,
            member=self._notes.member,
            incarnation=self.incarnation,
            epoch=self._notes.epoch,
            engine=self._engine.name,
            keys=totals.keys,
            bytes=totals.bytes,
            now_ms=self._now_ms(),
            version=self._version,
        )

    def join(self, join: Join) -> Info:
        """Take the identity that a cluster's proxy gives; taking the same one twice is harmless.

        :raises ForeignNode: if this node is somebody else already.
        :raises NodeHasData: if it holds data without being a member.
        """
        notes = self._notes
        if self.joined:
            if (notes.cluster, notes.member) != (join.cluster, join.member):
                raise ForeignNode(
                    f"this node is member {notes.member} of cluster {notes.cluster}",
                    "remove it there first, or start it with an empty data directory",
                )
            return self.info()
        totals = self._engine.totals()
        if totals.bytes:
            raise NodeHasData(
                f"this node holds {totals.keys} keys and belongs to no cluster",
                "copy what you need to the cluster, then start the node with an empty data directory",
            )
        self._notes = _Notes(join.cluster, join.member)
        self._keep_notes()
        self.log.info("joined cluster {cluster} as {member}", cluster=join.cluster, member=join.member)
        return self.info()

    def announce(self, announcement: Announcement) -> BatchReply:
        """Adopt an epoch and keep the state document that belongs to it."""
        refusal = self._refusal(announcement.header, copying=True)
        if refusal is None:
            self._state = announcement.state
            self._engine.write_note("state", self._state)
            return BatchReply(FORMAT, self._notes.epoch)
        return refusal

    def serve(self, batch: Batch) -> BatchReply:
        """Answer a batch: all of it, in order, or none.

        :raises MalformedBody: if an operation is none that the register knows.
        """
        refusal = self._refusal(batch.header, batch.copying)
        if refusal is not None:
            return refusal
        cells: dict[bytes, Cell] = {}
        changes: list[Change] = []
        replies: list[Reply] = []
        get = self._engine.get
        for op in batch.ops:
            key = Key(op.key)
            slot = slot_of(key)
            cell = cells.get(key) or get(slot, key) or BLANK
            self._check(op)
            reply, kept = decide(cell, op)
            replies.append(reply)
            if kept is not cell:
                cells[key] = kept
                changes.append(Change(slot, key, kept))
        if changes:
            self._engine.apply(changes)
        return BatchReply(FORMAT, self._notes.epoch, replies)

    def page(self, request: PageRequest) -> Page:
        """Give one page of accepted records; keys that were only promised are left out.

        :raises PeerRefused: if the request means another node, life or epoch.
        """
        self._admit_order(request.header)
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
                    if cell.accepted != NONE:
                        rows.append(Row(key, cell.accepted, cell.record, cell.promised))
                        size += len(key) + len(cell.record)
                    if len(rows) >= limits.page_records_max or size >= limits.page_bytes_max:
                        return Page(FORMAT, self._notes.epoch, rows, place)
                if len(found) < limits.page_records_max:
                    break
        return Page(FORMAT, self._notes.epoch, rows)

    def drop(self, request: DropRequest) -> BatchReply:
        """Forget slots, on the order of whoever drives a change of this epoch."""
        refusal = self._refusal(request.header, copying=True)
        if refusal is not None:
            return refusal
        for first, last in request.ranges:
            _check_range(first, last)
        for first, last in request.ranges:
            self._engine.drop(Slot(first), Slot(last))
        return BatchReply(FORMAT, self._notes.epoch)

    # The original's two calls, for the one replica that this node holds.

    def read_local(self, key: Key) -> bytes:
        """Read this replica's own record, empty if there is none; it may be older than what the others hold."""
        cell = self._engine.get(slot_of(key), key)
        return cell.record if cell is not None else b""

    def write_local(self, key: Key, value: bytes) -> None:
        """Write to this replica under a ballot of its own: level ``one``, as the original's node did it.

        :raises NotAMember: before it has joined a cluster. What it held then would keep it from joining one.
        :raises ChangeUnderWay: in an epoch in which clients wait, and before this node was filled.
        """
        if not self.joined:
            raise NotAMember("this node belongs to no cluster yet", "add it with POST /AddServer at a proxy")
        if not (self._notes.open and self._notes.epoch):
            raise ChangeUnderWay("data is being moved to or from this node", "try again in a moment")
        slot = slot_of(key)
        cell = self._engine.get(slot, key) or BLANK
        self._clock.learn(max(cell.promised, cell.accepted))
        ballot = self._clock.tick()
        _, kept = decide(cell, Op(ACCEPT, key, ballot, Record(Version(ballot), value).encode()))
        self._engine.apply([Change(slot, key, kept)])

    # Who may speak to this node.

    def _refusal(self, header: Header, copying: bool) -> BatchReply | None:
        """Say why a message is not for this node as it is now, or adopt its epoch and say nothing."""
        notes = self._notes
        if header.format != FORMAT:
            return self._refuse(UNKNOWN_FORMAT, f"format {header.format} is not known here, only {FORMAT} is")
        if header.cluster != notes.cluster or not notes.cluster:
            return self._refuse(OTHER_CLUSTER, f"this node belongs to cluster {notes.cluster or '(none yet)'}")
        if header.member != notes.member:
            return self._refuse(OTHER_MEMBER, f"this node is member {notes.member}")
        if header.incarnation != self.incarnation:
            return self._refuse(OTHER_INCARNATION, "this node forgot what it held and waits to be rebuilt")
        if header.epoch < notes.epoch:
            return self._refuse(OLD_EPOCH, f"this node is at epoch {notes.epoch}")
        if header.epoch > notes.epoch:
            self._adopt(header)
        if not self._notes.open and not copying:
            return self._refuse(CLOSED_EPOCH, "data is being moved; clients wait")
        return None

    def _refuse(self, refusal: str, detail: str) -> BatchReply:
        return BatchReply(FORMAT, self._notes.epoch, [], refusal, detail, self._state)

    def _admit_order(self, header: Header) -> None:
        refusal = self._refusal(header, copying=True)
        if refusal is not None:
            raise PeerRefused(refusal.detail)

    def _adopt(self, header: Header) -> None:
        self._notes = _Notes(self._notes.cluster, self._notes.member, header.epoch, header.open)
        self._keep_notes()

    def _keep_notes(self) -> None:
        self._engine.write_note("identity", msgspec.json.encode(self._notes))

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
