"""The upkeep of what a replica holds: purging, hints for others, what its disk has spoiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .commit import NOTES
from .errors import Damaged, DiskBusy, DiskFailed, DiskFull, MalformedBody
from .floors import buried
from .hinting import Hint, Hints
from .holding import LAST_SLOT, Holding, check_range
from .names import Key, NodeId, Slot
from .register import BLANK, Cell, Floor, Op
from .ring import slot_of
from .slow import named
from .storage.engine import UNREADABLE, Change, Inspection
from .tracing import Trace
from .versions import Ballot, drawn_by_a_clock
from .wire.batches import BatchReply
from .wire.header import FORMAT
from .wire.pages import Row
from .wire.upkeep import (
    HintsPage,
    HintsRequest,
    Marks,
    MarksRequest,
    PurgeReply,
    PurgeRequest,
    VerifyReply,
    VerifyRequest,
)


class Upkeep(Holding):
    """See ``Holding``."""

    def __init__(self, *holding: Any) -> None:
        super().__init__(*holding)
        self._hints = Hints(self._engine, self._limits)
        self.on_renewal: Callable[[], object] = lambda: None
        """Called when this node is to verify what it holds, and to forget it if some of it cannot be read."""

    # What is counted.

    def graves(self) -> int:
        """Count the keys that hold no value: tombstones and bare promises."""
        return sum(self._engine.graves(Slot(0), LAST_SLOT))

    def hints_kept(self) -> list[tuple[tuple[str], float]]:
        """Count the hints kept here, by the member that they are for."""
        return [((owner,), count) for owner, count in self._hints.counts.items()]

    # Purging (``floors.py``).

    def purge(self, request: PurgeRequest) -> Deferred[PurgeReply]:
        """Take a floor for slots, or forget what lies below it. Errors as in ``page``."""

        def purged() -> PurgeReply:
            self._identity.admit(request.header, copying=True)
            if not drawn_by_a_clock(request.floor):
                raise MalformedBody("the floor is no ballot")
            work = self._bury if request.final else self._promise_floor
            floors: dict[Slot, Floor] = {}
            changes: list[Change] = []
            done = []
            for number, digest in request.slots:
                check_range(number, number)
                slot = Slot(number)
                if work(slot, digest, Ballot(request.floor), floors, changes):
                    done.append(number)
            if floors:
                self._engine.set_floors(floors, changes)
                self._commit.wrote([NOTES])
            return PurgeReply(FORMAT, self.epoch, done)

        return self._when_safe(purged, lambda _: [NOTES])

    def _promise_floor(
        self, slot: Slot, digest: int, ballot: Ballot, floors: dict[Slot, Floor], changes: list[Change]
    ) -> bool:
        if self._engine.digests(slot, slot)[0] != digest or slot in self._hints.marks:
            return False
        floor = self._engine.floor(slot)
        if floor.promised < ballot:
            floors[slot] = Floor(ballot, floor.accepted)
        return True

    def _bury(self, slot: Slot, digest: int, ballot: Ballot, floors: dict[Slot, Floor], changes: list[Change]) -> bool:
        floor = self._engine.floor(slot)
        if floor.promised < ballot:
            return False
        if floor.accepted < ballot:
            floors[slot] = Floor(floor.promised, ballot)
            changes += [Change(slot, key, cell) for key, cell in buried(self._readable(slot), ballot)]
        return True

    def _readable(self, slot: Slot) -> list[tuple[Key, Cell]]:
        return [(key, cell) for _, key, cell in self._cells(slot) if cell is not UNREADABLE and cell is not None]

    # What others have missed, and what is to be repaired.

    def _note_hints(self, ops: Sequence[Op]) -> None:
        """Keep what others have missed. It is no part of anybody's write, so whatever hinders it hinders nobody."""
        now_ms = self._now_ms()
        hints = [Hint(NodeId(op.record.decode("ascii", "replace")), op.key, op.ballot, now_ms) for op in ops]
        try:
            self._hints.keep(hints)
        except (Damaged, DiskBusy, DiskFull):
            return
        self._commit.wrote([hint.key for hint in hints])

    def hints(self, request: HintsRequest) -> Deferred[HintsPage]:
        """Give what keys hold that an owner has missed, after forgetting what it has by now. Errors as in ``page``."""

        def found() -> HintsPage:
            self._identity.admit(request.header, copying=True)
            owner, limit = NodeId(request.owner), min(request.limit, self._limits.hints_page_max)
            if request.done:
                self._hints.drop(owner, request.done)
            hints = self._hints.page(owner, Key(request.after), limit)
            return HintsPage(FORMAT, self.epoch, [self._row(hint.key) for hint in hints], len(hints) == limit)

        return self._when_safe(found, lambda page: [row.key for row in page.rows])

    def _row(self, key: Key) -> Row:
        try:
            cell = self._engine.get(slot_of(key), key) or BLANK
        except Damaged:
            cell = BLANK
        return Row(key, cell.accepted, cell.record, cell.promised)

    def marks(self, request: MarksRequest) -> Deferred[Marks]:
        """Give the slots that are marked for repair, after taking back those that are done. Errors as in ``page``."""

        def found() -> Marks:
            self._identity.admit(request.header, copying=True)
            self._hints.unmark(map(Slot, request.done))
            return Marks(FORMAT, self.epoch, sorted(self._hints.marks))

        return self._when_safe(found, lambda _: [NOTES])

    def renew(self, request: MarksRequest) -> Deferred[BatchReply]:
        """Begin anew with what can be verified, once this is answered. Errors as in ``page``."""

        def renewed() -> BatchReply:
            refusal = self._identity.refusal(request.header, copying=True)
            if refusal is None and self.spoiled:
                self.on_renewal()
            return refusal if refusal is not None else self._done()

        return self._when_safe(renewed, lambda _: [NOTES])

    def tidy(self) -> None:
        """Turn old hints into marks."""
        self._aside(lambda: self._hints.tidy(self._now_ms()))

    def verify(self, request: VerifyRequest) -> Deferred[VerifyReply]:
        """Scrub slots, or the first of them, and say in how many something cannot be read. Errors as in ``page``."""

        def verified() -> VerifyReply:
            self._identity.admit(request.header, copying=True)
            damaged = rows = 0
            for first, last in request.ranges:
                check_range(first, last)
                slot = self._next_held(first, last)
                while slot is not None:
                    if rows >= self._limits.verify_cells_max:
                        return VerifyReply(FORMAT, self.epoch, damaged, slot)
                    found = self._scrub(slot)
                    rows += 1 + (found.rows if found is not None else 0)
                    damaged += found is None or bool(found.damaged)
                    slot = self._next_held(slot + 1, last)
            return VerifyReply(FORMAT, self.epoch, damaged)

        return self._when_safe(verified, lambda _: [NOTES])

    def _next_held(self, first: int, last: int) -> Slot | None:
        """Give the first slot of a range that holds something, or may. Its digest would not tell: it counts only what
        could be read when it was last put right."""
        if first > last:
            return None
        try:
            found = self._engine.scan(Slot(first), Slot(last), None, 1)
        except Damaged:
            return Slot(first)
        return found[0].slot if found else None

    def scrub(self, slot: Slot) -> None:
        """Read all of a slot, mark it for repair where something cannot be read, and put its digest right."""
        self._aside(lambda: self._scrub(slot))

    def _aside(self, work: Callable[[], object]) -> None:
        """Do what nobody waits for; what cannot be done now is done the next time."""
        try:
            work()
        except (Damaged, DiskBusy, DiskFull):
            pass
        except DiskFailed:
            self._broken(Failure())

    def _scrub(self, slot: Slot) -> Inspection | None:
        """Give what was found, None where the slot cannot be read at all."""
        self._metrics.scrubbed.inc()
        try:
            found = self._engine.inspect(slot)
        except Damaged as error:
            self._note_damage(slot, error.detail)
            self.spoiled = True
            return None
        if found.damaged:
            self._note_damage(slot, f"{len(found.damaged)} records of slot {slot} cannot be read")
        if not found.right:
            self._metrics.digests_mended.inc()
            self._engine.mend_digest(slot)
            self._commit.wrote([NOTES])
        return found

    def _note_damage(self, slot: Slot, detail: str, trace: Trace | None = None) -> None:
        """Have a slot repaired, of which something cannot be read.

        :param trace: what the operation is called that met it.
        """
        self._metrics.damaged.inc()
        if slot in self._hints.marks:
            return
        if not self.spoiled:
            # Where whole blocks are lost there are thousands of such slots, and the node is to be renewed anyway.
            met_by = named([trace] if trace is not None else [])
            self.log.error("{detail}; it is to be repaired{requests}", detail=detail, slot=slot, **met_by)
        try:
            self._hints.mark([slot])
        except (DiskBusy, DiskFull):
            pass  # whoever meets it next marks it
