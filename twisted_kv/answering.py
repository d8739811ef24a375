"""One batch, answered: its operations in order, each on what those before it have left of its key.

Nothing is changed until all were looked at; what is to be kept is then applied at once.
"""

from __future__ import annotations

from collections.abc import Callable

from .errors import Damaged, DiskFull
from .floors import over, stored
from .holding import HARDLY_ANY_ROOM
from .limits import Limits
from .names import Key, Slot
from .register import ACCEPT, AGAIN, BLANK, FETCH, HINT, NO_FLOOR, SHOWING, Cell, Floor, Op, Reply, accepted, decide
from .ring import slot_of
from .storage.engine import Engine, Placed
from .versions import NONE, Ballot, is_value
from .wire.batches import DISK_FULL, Bundle, BundleReply

NO_ROOM = Reply(False, NONE, NONE, abstains=f"{DISK_FULL}: {HARDLY_ANY_ROOM}")
"""The answer to a value that there is no room for."""

NOTED = Reply(True, NONE, NONE)
"""The answer to a hint."""


class Answering:
    """What becomes of a batch: ``changes`` are to be applied, ``hints`` noted; ``cells`` are all that changed, by key.

    :param full: whether there is hardly any room for values.
    :param copying: whether the batch is a mover's, which stops where there is no room.
    :param damaged: answers an operation whose cell cannot be read.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        full: bool,
        copying: bool,
        damaged: Callable[[Slot, Op, Damaged], Reply],
    ) -> None:
        self.cells: dict[bytes, Cell] = {}
        self.changes: list[Placed] = []
        self.hints: list[Op] = []
        self._get = engine.get
        self._floor_of = engine.floor
        self._full = full
        self._copying = copying
        self._damaged = damaged
        self._room = limits.reply_bytes_max
        self._shown = 0
        self._again = False

    def answer(self, op: Op) -> Reply:
        """Answer one operation.

        :raises DiskFull: if there is no room for a copy.
        """
        verb = op.verb
        if verb == HINT:
            self.hints.append(op)
            return NOTED
        if self._again and verb in SHOWING:
            return AGAIN  # what is read in vain is read twice
        key = op.key
        slot = slot_of(key)
        floor = self._floor_of(slot)
        try:
            cell = self._cell(slot, key, floor)
        except Damaged as error:
            return self._damaged(slot, op, error)
        if verb in SHOWING and not self._shows(cell):
            return AGAIN
        reply, kept = decide(cell, op)
        if kept is not cell and not self._keep(slot, key, floor, cell, kept):
            return NO_ROOM
        return reply

    def answer_all(self, bundle: Bundle) -> BundleReply:
        """Answer a bundle; errors as in ``answer``."""
        if bundle.verb == ACCEPT:
            return self._take_all(bundle)
        return self._show_all(bundle.keys, bundle.verb == FETCH)

    def _take_all(self, bundle: Bundle) -> BundleReply:
        others: dict[int, Reply] = {}
        floor_of, cell_of, keep = self._floor_of, self._cell, self._keep
        for place, (key, record) in enumerate(zip(bundle.keys, bundle.records, strict=True)):
            ballot: Ballot = record[2:18]  # type: ignore[assignment]  # its version, without a call
            slot = slot_of(key)
            floor = floor_of(slot)
            try:
                cell = cell_of(slot, key, floor)
            except Damaged as error:
                reply = self._damaged(slot, Op(ACCEPT, key, ballot, record), error)
                if not reply.taken:
                    others[place] = reply
                continue
            kept = accepted(cell, ballot, record)
            if kept is cell:
                if ballot != cell.accepted:
                    others[place] = Reply(False, cell.accepted, cell.promised)
            elif not keep(slot, key, floor, cell, kept):
                others[place] = NO_ROOM
        return BundleReply(others=others)

    def _show_all(self, keys: list[Key], fetch: bool) -> BundleReply:
        ballots: list[Ballot] = []
        records: list[bytes] = []
        others: dict[int, Reply] = {}
        floor_of, cell_of = self._floor_of, self._cell
        for place, key in enumerate(keys):
            slot = slot_of(key)
            try:
                cell = cell_of(slot, key, floor_of(slot))
            except Damaged as error:
                others[place] = self._damaged(slot, Op(FETCH, key), error)
                cell = BLANK
            if fetch:
                if self._again or not self._shows(cell):
                    others[place] = AGAIN
                    cell = BLANK
                records.append(cell.record)
            ballots.append(cell.accepted)
        return BundleReply(ballots, records, others)

    def _cell(self, slot: Slot, key: Key, floor: Floor) -> Cell:
        cell = self.cells.get(key)
        if cell is None:
            cell = self._get(slot, key) or BLANK
            if floor is not NO_FLOOR:
                cell = over(floor, cell)
        return cell

    def _shows(self, cell: Cell) -> bool:
        """Count a record that is to be shown, unless it makes the answer too large: neither it nor later ones are
        shown then. The first always is."""
        shown = self._shown + len(cell.record)
        if self._shown and shown > self._room:
            self._again = True
            return False
        self._shown = shown
        return True

    def _keep(self, slot: Slot, key: Key, floor: Floor, cell: Cell, kept: Cell) -> bool:
        """Put another cell in the place of one, if there is room.

        Tombstones and promises are always taken: deleting makes room, and reads may need either.
        """
        if self._full and kept.record is not cell.record and is_value(kept.record):
            if self._copying:
                raise DiskFull(HARDLY_ANY_ROOM)
            return False
        self.cells[key] = kept
        self.changes.append((slot, key, kept if floor is NO_FLOOR else stored(floor, kept)))
        return True
