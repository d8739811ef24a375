"""What a replica holds, slot by slot: for movers, menders and couriers, who compare, copy, purge and repair it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from .buggify import Buggify, inert
from .commit import DROPS, NOTES, Commit
from .errors import Damaged, DiskBusy, DiskFailed, DiskFull, KvError, MalformedBody, OtherEpoch, Stopping
from .identity import Identity
from .limits import Limits
from .metrics import NodeMetrics
from .names import Epoch, Key, Slot
from .register import ACCEPT, BLANK, FETCH, HINT, PREPARE, READ, Cell, Floor, Op, accepted
from .ring import SLOTS
from .storage.engine import UNREADABLE, Change, Due, Engine, Place, value_expiry
from .versions import NONE, Ballot, drawn_by_a_clock, is_proposable, is_value, is_whole, record_version
from .wire.batches import DISK_BUSY, DISK_FULL, Batch, BatchReply, Bundle
from .wire.header import FORMAT, Header
from .wire.moving import DropRequest
from .wire.pages import (
    DuePage,
    DueRequest,
    KeyRow,
    KeysPage,
    KeysRequest,
    Page,
    PageRequest,
    Row,
    SlotKeysPage,
    SlotKeysRequest,
    rows_digest,
)
from .wire.upkeep import Digests, DigestsRequest, FloorRow

T = TypeVar("T")

MEMBER_BYTES_MAX = 64
"""The longest id of a member that anybody draws."""

BLOCK_SLOTS = 256
"""Slots that are looked at together: compared with nothing, or dropped."""
_BLANK = bytes(8 * BLOCK_SLOTS)
LAST_SLOT = Slot(SLOTS - 1)

HARDLY_ANY_ROOM = "there is hardly any room left on the node's disk"


class SlotCopy(NamedTuple):
    """What is to be taken of one slot: the rows on which those agree who hold it, and its floor with them.

    ``agreed`` says whether these are all that it holds; if not, the floor has to wait.
    """

    slot: Slot
    rows: Sequence[Row]
    floor: Floor
    agreed: bool


class Holding:
    """A node's data. All its methods run on one thread.

    :param now_ms: wall time, which expiry and the age of hints go by.
    :param broken: told when the disk has failed; nothing may be answered any more.
    """

    log = Logger()

    def __init__(
        self,
        now_ms: Callable[[], int],
        engine: Engine,
        commit: Commit,
        incarnation: str,
        limits: Limits,
        metrics: NodeMetrics,
        broken: Callable[[Failure], None],
        buggify: Buggify = inert,
    ) -> None:
        self._now_ms = now_ms
        self._engine = engine
        self._commit = commit
        self._limits = limits
        self._metrics = metrics
        self._broken = broken
        self._buggify = buggify
        self._identity = Identity(engine, commit, incarnation)
        self.full = False
        """Whether values are refused for want of room; reads and deletes go on."""
        self.spoiled = False
        """Whether part of what is stored cannot be read at all."""
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

    # What is there.

    def page(self, request: PageRequest) -> Deferred[Page]:
        """Give one page of accepted records; keys that were only promised are left out.

        Errors: ``PeerRefused`` if the request means another node, life or epoch; ``Damaged`` if part of the range
        cannot be read at all.
        """

        def found() -> Page:
            page = self._page(request)
            if page.rows and self._buggify("replica: a page is cut on its way"):
                # Its digest says what there was.
                page.rows = page.rows[:-1]
            return page

        return self._when_safe(lambda: self._read_through(found), lambda page: [DROPS, *(row.key for row in page.rows)])

    def _page(self, request: PageRequest) -> Page:
        self._identity.admit(request.header, copying=True)
        limits = self._limits
        rows: list[Row] = []
        size = 0
        after = request.after
        for first, last in request.ranges:
            check_range(first, last)
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
                        record = b"" if request.bare else cell.record
                        rows.append(Row(key, cell.accepted, record, cell.promised))
                        size += len(key) + len(record)
                    if len(rows) >= limits.page_records_max or size >= limits.page_bytes_max:
                        return Page(FORMAT, self.epoch, rows, place, rows_digest(rows))
                if len(found) < limits.page_records_max:
                    break
        return Page(FORMAT, self.epoch, rows, digest=rows_digest(rows))

    def digests(self, request: DigestsRequest) -> Deferred[Digests]:
        """Give the digests of slots, their graves and floors. Errors as in ``page``."""

        def found() -> Digests:
            self._identity.admit(request.header, copying=True)
            digests = self.own_digests(request.ranges)
            graves: dict[int, int] = {}
            floors: list[FloorRow] = []
            for first, last in request.ranges:
                graves |= _not_zero(self._engine.graves(Slot(first), Slot(last)), first)
                found = self._engine.floors(Slot(first), Slot(last))
                floors += [FloorRow(slot, floor.promised, floor.accepted) for slot, floor in found.items()]
            return Digests(FORMAT, self.epoch, digests, graves, floors, self._engine.highest)

        return self._when_safe(found, lambda _: [NOTES, DROPS])

    def own_digests(self, ranges: Sequence[tuple[int, int]]) -> dict[int, int]:
        """Give the digests of slots as they are now, but for those of blank ones."""
        digests: dict[int, int] = {}
        for first, last in ranges:
            check_range(first, last)
            digests |= _not_zero(self._engine.digests(Slot(first), Slot(last)), first)
        return digests

    def floor_of(self, slot: Slot) -> Floor:
        return self._engine.floor(slot)

    # What a move brings.

    def admit(self, header: Header) -> None:
        """Take an order, or refuse it.

        :raises PeerRefused: as in ``page``.
        """
        self._identity.admit(header, copying=True)

    def promise(self, epoch: int, floors: Mapping[Slot, Ballot]) -> Deferred[None]:
        """Promise for whole slots what those who are copied from have promised. Errors as in ``take``."""

        def promised() -> None:
            self._must_be_in(epoch)
            now = {slot: self._engine.floor(slot) for slot in floors}
            raised = {slot: now[slot]._replace(promised=b) for slot, b in floors.items() if b > now[slot].promised}
            if raised:
                self._engine.set_floors(raised)
                self._commit.wrote([NOTES])

        return self._when_safe(promised, lambda _: [NOTES])

    def take(self, epoch: int, copies: Sequence[SlotCopy]) -> Deferred[list[bytes]]:
        """Take copies of what others hold; give the keys that this node has promised not to take, or cannot replace.

        A slot's floor comes last, with what it does not leave standing: what lies below it here and is held by nobody
        else is what a late message brought.

        Errors: ``OtherEpoch`` if the epoch has moved; those of the disk.
        """

        def taken() -> list[bytes]:
            self._must_be_in(epoch)
            if self.full:
                raise DiskFull(HARDLY_ANY_ROOM)
            changes: list[Change] = []
            floors: dict[Slot, Floor] = {}
            refused: list[bytes] = []
            for copy in copies:
                kept_out = len(refused)
                for row in copy.rows:
                    self._take_row(copy.slot, row, changes, refused)
                if copy.agreed and len(refused) == kept_out:
                    changes += self._settled_under(copy, floors)
            if changes or floors:
                self._engine.set_floors(floors, changes) if floors else self._engine.apply(changes)
                self._commit.wrote([change.key for change in changes])
                if floors:
                    self._commit.wrote([NOTES])
            return refused

        return self._when_safe(taken, lambda _: [row.key for copy in copies for row in copy.rows])

    def _take_row(self, slot: Slot, row: Row, changes: list[Change], refused: list[bytes]) -> None:
        """Accept a copied row. The slot's floor forbids nothing: what others hold below it was there before it."""
        check_accept(row.key, row.ballot, row.record, self._limits)
        key, ballot = Key(row.key), Ballot(row.ballot)
        try:
            cell = self._engine.get(slot, key) or BLANK
        except Damaged:
            refused.append(key)
            return
        kept = accepted(cell, ballot, row.record)
        if kept is not cell:
            changes.append(Change(slot, key, kept))
        elif cell.accepted < ballot:
            refused.append(key)

    def _settled_under(self, copy: SlotCopy, floors: dict[Slot, Floor]) -> Iterator[Change]:
        """Take a slot's floor; give what it leaves no room for."""
        floor = self._engine.floor(copy.slot)
        if copy.floor.accepted <= floor.accepted:
            return
        floors[copy.slot] = Floor(max(floor.promised, copy.floor.promised), copy.floor.accepted)
        known = {row.key for row in copy.rows}
        for _, key, cell in self._cells(copy.slot):
            if cell is UNREADABLE or key in known or cell.accepted > copy.floor.accepted:
                continue
            above = cell.promised > copy.floor.promised
            yield Change(copy.slot, key, Cell(cell.promised, NONE, b"") if above else None)

    def _cells(self, slot: Slot) -> list[Change]:
        return self._engine.scan(slot, slot, None, 1 << 30)

    def drop(self, request: DropRequest) -> Deferred[BatchReply]:
        """Forget slots, or the first cells of them. Errors: ``Damaged``."""

        def dropped() -> BatchReply:
            refusal = self._identity.refusal(request.header, copying=True)
            if refusal is not None:
                return refusal
            for first, last in request.ranges:
                check_range(first, last)
            reply = self._done()
            room = self._limits.drop_cells_max
            try:
                for first, last in _pieces(request.ranges):
                    room -= self._engine.drop(Slot(first), Slot(last), room)
                    if not room:
                        reply.next = first
                        break
            finally:
                # Where one range fails, those before it are gone all the same.
                self._commit.wrote([DROPS])
            return reply

        return self._when_safe(self._or_refused(dropped), lambda reply: [NOTES, DROPS])

    def keys(self, request: KeysRequest) -> Deferred[KeysPage]:
        """Give one page of the key index. Errors as in ``page``."""

        def listed() -> KeysPage:
            self._identity.admit(request.header, copying=False)
            limit = min(request.limit, self._limits.keys_page_max)
            found = self._engine.keys(request.after, request.prefix, limit)
            return KeysPage(FORMAT, self.epoch, [KeyRow(*row) for row in found], more=len(found) == limit)

        return self._when_safe(lambda: self._read_through(listed), lambda page: [row.key for row in page.rows])

    def slot_keys(self, request: SlotKeysRequest) -> Deferred[SlotKeysPage]:
        """Give the keys of some slots. Errors as in ``page``."""

        def listed() -> SlotKeysPage:
            self._identity.admit(request.header, copying=False)
            check_range(request.first, SLOTS - 1)
            limit = min(request.limit, self._limits.keys_page_max)
            found = self._slots_from(Slot(request.first), limit)
            whole = len(found) <= limit
            if not whole and found[-1].slot != request.first:
                last = found[-1].slot
                found = [change for change in found if change.slot != last]
            elif not whole:
                found = self._cells(Slot(request.first))
            following = None if whole else found[-1].slot + 1
            rows = [_listed(change) for change in found]
            return SlotKeysPage(FORMAT, self.epoch, rows, following if following != SLOTS else None)

        return self._when_safe(lambda: self._read_through(listed), lambda page: [row.key for row in page.rows])

    def _slots_from(self, first: Slot, limit: int) -> list[Change]:
        """Give the cells from a slot on: more than ``limit``, if there are so many."""
        found: list[Change] = []
        after: Place | None = None
        while len(found) <= limit:
            page = self._engine.scan(first, LAST_SLOT, after, limit + 1 - len(found), self._limits.page_bytes_max)
            if not page:
                break
            found += page
            after = page[-1].slot, page[-1].key
        return found

    def due(self, request: DueRequest) -> Deferred[DuePage]:
        """Give one page of the values that have expired. Errors as in ``page``."""

        def found() -> DuePage:
            self._identity.admit(request.header, copying=False)
            after = Due(request.after[0], Key(request.after[1])) if request.after is not None else None
            limit = min(request.limit, self._limits.keys_page_max)
            rows = self._engine.due(request.until_ms, after, limit)
            return DuePage(FORMAT, self.epoch, [(row.expires_ms, row.key) for row in rows], more=len(rows) == limit)

        return self._when_safe(lambda: self._read_through(found), lambda page: [key for _, key in page.rows])

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

    def _read_through(self, work: Callable[[], T]) -> T:
        """Read many rows, and note if they cannot be read at all: no single record can be replaced there."""
        try:
            return work()
        except Damaged:
            self.spoiled = True
            raise

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

    def _must_be_in(self, epoch: int) -> None:
        """:raises OtherEpoch: if the epoch has moved since an order was given."""
        if self.epoch != epoch:
            raise OtherEpoch(f"this node is at epoch {self.epoch}")


UNUSABLE = "the batch holds an operation without a usable verb or ballot"


def check_batch(batch: Batch, limits: Limits) -> None:
    """Refuse what no proxy of ours sends: it would be stored, and copied from then on.

    :raises MalformedBody: saying what is wrong.
    """
    for op in batch.ops:
        _check_op(op, limits)
    for bundle in batch.bundles:
        _check_bundle(bundle, limits)


def _check_op(op: Op, limits: Limits) -> None:
    if op.verb == ACCEPT:
        check_accept(op.key, op.ballot, op.record, limits)
        return
    _check_key(op.key, limits)
    if op.verb in (READ, FETCH):
        return
    if op.verb not in (PREPARE, HINT) or not drawn_by_a_clock(op.ballot):
        raise MalformedBody(UNUSABLE)
    if op.verb == HINT and not (0 < len(op.record) <= MEMBER_BYTES_MAX and b"\0" not in op.record):
        raise MalformedBody("the batch holds a hint for nobody")


def _check_bundle(bundle: Bundle, limits: Limits) -> None:
    if bundle.verb == ACCEPT:
        if len(bundle.keys) != len(bundle.records):
            raise MalformedBody(f"a bundle holds {len(bundle.keys)} keys and {len(bundle.records)} records")
        for key, record in zip(bundle.keys, bundle.records, strict=True):
            if not (0 < len(key) <= limits.key_bytes_max and is_proposable(record)):
                check_accept(key, record_version(record), record, limits)
        return
    if bundle.verb not in (READ, FETCH):
        raise MalformedBody(UNUSABLE)
    for key in bundle.keys:
        _check_key(key, limits)


def check_accept(key: bytes, ballot: bytes, record: bytes, limits: Limits) -> None:
    """Refuse what nobody of ours sends to be accepted. Errors as in ``check_batch``."""
    _check_key(key, limits)
    if not drawn_by_a_clock(ballot):
        raise MalformedBody(UNUSABLE)
    if not is_whole(record):
        raise MalformedBody("the batch holds a record that is cut or of an unknown format")


def _check_key(key: bytes, limits: Limits) -> None:
    if not 0 < len(key) <= limits.key_bytes_max:
        raise MalformedBody(f"the batch holds a key of {len(key)} bytes")


def _pieces(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cut ranges of slots into short ones: who goes on with one passes over all that was dropped from it before."""
    for first, last in ranges:
        for piece in range(first, last + 1, BLOCK_SLOTS):
            yield piece, min(piece + BLOCK_SLOTS - 1, last)


def _listed(change: Change) -> KeyRow:
    assert change.cell is not None, "what is scanned is there"
    if change.cell is UNREADABLE:
        return KeyRow(change.key, True, 0)
    record = change.cell.record
    return KeyRow(change.key, is_value(record), value_expiry(record))


def _not_zero(numbers: array[int], first: int) -> dict[int, int]:
    """Give those of some slots' numbers that are not zero, by slot."""
    found: dict[int, int] = {}
    for at in range(0, len(numbers), BLOCK_SLOTS):
        block = numbers[at : at + BLOCK_SLOTS]
        # Most blocks of a small cluster are blank: bytes are compared much faster than one number after the other.
        raw = block.tobytes()
        if raw != _BLANK[: len(raw)]:
            found |= {slot: number for slot, number in enumerate(block, first + at) if number}
    return found


def check_range(first: int, last: int) -> None:
    if not 0 <= first <= last < SLOTS:
        raise MalformedBody(f"there is no range of slots from {first} to {last}")
