"""The engine that forgets: everything is in this process's memory and ends with it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from itertools import islice, takewhile

from sortedcontainers import SortedDict, SortedList

from twisted_kv.digest import replaced
from twisted_kv.names import Key, Slot
from twisted_kv.register import BLANK, NO_FLOOR, Cell, Floor
from twisted_kv.ring import SLOTS
from twisted_kv.storage.engine import (
    Change,
    Due,
    Inspection,
    Listed,
    Place,
    Placed,
    Stock,
    Totals,
    indexed_alike,
    take_stock,
    value_expiry,
)
from twisted_kv.versions import NONE, is_value


class MemoryEngine:
    """Keeps cells in a dict, and three ordered indexes that only new, removed and expiring places touch."""

    __slots__ = (
        "_bytes",
        "_cells",
        "_digests",
        "_due",
        "_floors",
        "_graves",
        "_keys",
        "_notes",
        "_places",
        "_side",
        "_slots",
        "highest",
    )

    name = "memory"

    def __init__(self) -> None:
        self._cells: dict[Place, Cell] = {}
        self._places = SortedList()
        self._slots: SortedList[tuple[Key, Slot]] = SortedList()
        self._due: SortedList[Due] = SortedList()
        self._digests = array("Q", bytes(8 * SLOTS))
        self._graves = array("Q", bytes(8 * SLOTS))
        self._floors: dict[Slot, Floor] = {}
        self._notes: dict[str, bytes] = {}
        self._side: SortedDict[bytes, bytes] = SortedDict()
        self._keys = 0
        self._bytes = 0
        self.highest = NONE
        """See ``Engine``."""

    def get(self, slot: Slot, key: Key) -> Cell | None:
        """See ``Engine``."""
        return self._cells.get((slot, key))

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        """See ``Engine``."""
        start, end, inclusive = _bounds(first, last, after)
        page: list[Change] = []
        room = bytes_max
        for slot, key in islice(self._places.irange(start, end, (inclusive, False)), limit):
            cell = self._cells[slot, key]
            if room is not None:
                room -= len(key) + len(cell.record)
                if room < 0 and page:
                    break
            page.append(Change(slot, key, cell))
        return page

    def apply(self, changes: Iterable[Placed]) -> None:
        """See ``Engine``."""
        self._put(changes)

    def _put(self, changes: Iterable[Placed]) -> None:
        """Do what ``apply`` does. Disks that log their steps override that one."""
        cells, digests = self._cells, self._digests
        fresh: list[Place] = []
        grown, highest = 0, NONE
        for place, cell in {(slot, key): cell for slot, key, cell in changes}.items():
            old = cells.get(place)
            if old is not None and cell is not None and indexed_alike(old.record, cell.record):
                # What nearly every write does: all that `_account` would find is in these lines.
                grown += len(cell.record) - len(old.record)
                promised, accepted = cell.promised, cell.accepted
                if promised > highest:
                    highest = promised
                if accepted > highest:
                    highest = accepted
                if accepted != old.accepted:
                    slot, key = place
                    digests[slot] = replaced(digests[slot], key, old.accepted, accepted)
                cells[place] = cell
                continue
            self._account(place, old, cell)
            if cell is not None:
                if old is None:
                    fresh.append(place)
                cells[place] = cell
            elif old is not None:
                del cells[place]
                self._places.remove(place)
                self._slots.remove((place[1], place[0]))
        self._bytes += grown
        if highest > self.highest:
            self.highest = highest
        if fresh:
            self._places.update(fresh)
            self._slots.update((key, slot) for slot, key in fresh)

    def _account(self, place: Place, old: Cell | None, new: Cell | None) -> None:
        """Bring all that is counted, and the expiry index, up to one change; None stands for no cell."""
        slot, key = place
        was, now = old or BLANK, new or BLANK
        self._bytes += len(now.record) - len(was.record)
        if old is None or new is None or not indexed_alike(was.record, now.record):
            self._index(place, was.record, now.record, (new is not None) - (old is not None))
        if now.promised > self.highest:
            self.highest = now.promised
        if now.accepted > self.highest:
            self.highest = now.accepted
        if now.accepted != was.accepted:
            self._digests[slot] = replaced(self._digests[slot], key, was.accepted, now.accepted)

    def _index(self, place: Place, was: bytes, now: bytes, cells: int) -> None:
        """Bring counts and the expiry index up to another kind of record, or another expiry.

        :param cells: by how many there are more of them.
        """
        slot, key = place
        values = is_value(now) - is_value(was)
        self._bytes += len(key) * cells
        self._keys += values
        # A cell that could not be read was no grave when the slot was counted anew, and may have been one.
        self._graves[slot] = max(0, self._graves[slot] + cells - values)
        if expires_ms := value_expiry(was):
            self._due.remove(Due(expires_ms, key))
        if expires_ms := value_expiry(now):
            self._due.add(Due(expires_ms, key))

    def replace_damaged(self, slot: Slot, key: Key, cell: Cell | None) -> None:
        """See ``Engine``. Nothing is damaged here, but a simulated disk shows cells as if they were."""
        self._put([Change(slot, key, cell)])
        self._recount(slot)

    def inspect(self, slot: Slot) -> Inspection:
        """See ``Engine``."""
        stock = self._stock(slot)
        kept = self._digests[slot], self._graves[slot]
        return Inspection(stock.rows, stock.damaged, kept == (stock.digest, stock.graves))

    def mend_digest(self, slot: Slot) -> None:
        """See ``Engine``."""
        self._recount(slot)

    def _stock(self, slot: Slot) -> Stock:
        rows = self.scan(slot, slot, None, len(self._cells))
        return take_stock((key, cell) for _, key, cell in rows if cell is not None)

    def _recount(self, slot: Slot) -> None:
        stock = self._stock(slot)
        self._digests[slot] = stock.digest
        self._graves[slot] = stock.graves

    def drop(self, first: Slot, last: Slot, limit: int) -> int:
        """See ``Engine``."""
        start, end, _ = _bounds(first, last, None)
        low: int = self._places.bisect_left(start)
        gone: int = max(low, min(low + limit, self._places.bisect_left(end)))
        for place in self._places.islice(low, gone):
            self._account(place, self._cells.pop(place), None)
            self._slots.remove((place[1], place[0]))
        del self._places[low:gone]
        if gone - low < limit:
            # Nothing is left here. What is still counted is the part of cells that could not be read.
            for kept in (self._digests, self._graves):
                kept[first : last + 1] = array("Q", bytes(8 * max(0, last + 1 - first)))
            for slot in self.floors(first, last):
                del self._floors[slot]
        return gone - low

    def floor(self, slot: Slot) -> Floor:
        """See ``Engine``."""
        return self._floors.get(slot, NO_FLOOR)

    def floors(self, first: Slot, last: Slot) -> dict[Slot, Floor]:
        """See ``Engine``."""
        return {slot: floor for slot, floor in self._floors.items() if first <= slot <= last}

    def set_floors(self, floors: Mapping[Slot, Floor], changes: Iterable[Placed] = ()) -> None:
        """See ``Engine``."""
        self._put(changes)
        for slot, floor in floors.items():
            if floor == NO_FLOOR:
                self._floors.pop(slot, None)
            else:
                self._floors[slot] = floor
            self.highest = max(self.highest, *floor)

    def totals(self) -> Totals:
        """See ``Engine``."""
        return Totals(self._keys, self._bytes)

    def digests(self, first: Slot, last: Slot) -> array[int]:
        """See ``Engine``."""
        return self._digests[first : last + 1]

    def graves(self, first: Slot, last: Slot) -> array[int]:
        """See ``Engine``."""
        return self._graves[first : last + 1]

    def keys(self, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """See ``Engine``."""
        start = (Key(prefix), Slot(-1)) if after < prefix else (Key(after), Slot(SLOTS))
        page = []
        for key, slot in takewhile(lambda found: found[0].startswith(prefix), self._slots.irange(start)):
            record = self._cells[slot, key].record
            if record:
                page.append(Listed(key, is_value(record), value_expiry(record)))
                if len(page) == limit:
                    break
        return page

    def due(self, until_ms: int, after: Due | None, limit: int) -> list[Due]:
        """See ``Engine``."""
        end = Due(until_ms + 1, Key(b""))
        return list(islice(self._due.irange(after, end, (False, False)), limit))

    def read_note(self, name: str) -> bytes | None:
        """See ``Engine``."""
        return self._notes.get(name)

    def write_note(self, name: str, value: bytes) -> None:
        """See ``Engine``."""
        self._notes[name] = value

    def write_side(self, rows: Mapping[bytes, bytes | None]) -> None:
        """See ``Engine``."""
        for name, row in rows.items():
            if row is None:
                self._side.pop(name, None)
            else:
                self._side[name] = row

    def side(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``Engine``."""
        return [(name, self._side[name]) for name in islice(self._side.irange(start, end, (True, False)), limit)]

    def figures(self) -> Mapping[str, float]:
        """See ``Engine``. There is nothing to tell but totals."""
        return {}

    def sync(self) -> None:
        """See ``Engine``. Nothing here outlasts anything."""

    def close(self) -> None:
        """See ``Engine``."""
        for kept in (self._cells, self._places, self._slots, self._due, self._notes, self._side):
            kept.clear()
        self._floors.clear()
        del self._digests[:], self._graves[:]
        self._keys = self._bytes = 0


def _bounds(first: Slot, last: Slot, after: Place | None) -> tuple[Place, Place, bool]:
    """Say between which places a scan is: start, end (excluded), and whether the start is included."""
    start = (first, Key(b""))
    end = (Slot(last + 1), Key(b""))
    if after is None or after < start:
        return start, end, True
    return after, end, False
