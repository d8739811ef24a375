"""The engine that forgets: everything is in this process's memory and ends with it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from threading import Lock

from sortedcontainers import SortedList

from twisted_kv.names import Key, Slot
from twisted_kv.register import Cell
from twisted_kv.storage.engine import Change, Place, Totals, View, is_value

# Who may touch what.
#
# All state changes under one lock, and whatever reads more than one cell takes it too. `get` does not: it is the hot
# path, and is one look-up in a dict that is never replaced.
#  - With the GIL, `dict.get` on a tuple of an int and a bytes is one step: hashing and comparing them is C that never
#    runs Python code, so no other thread gets a turn inside, not even while a writer is about to make the dict grow.
#    A batch enters by one `dict.update` from another dict, which is one such step as well.
#  - In a free-threaded build, single dict operations are safe too (PEP 703: changes lock the dict, reads notice a
#    change under way and look again). `get` still gives a whole old cell or a whole new one, since cells are frozen.
#    Only, two calls of `get` may fall into the middle of an `update`, which is why the contract promises agreement
#    between keys for scans and snapshots alone, and those take the lock.
# The index is plain Python over several lists, half changed between two bytecodes: nobody looks at it unlocked. The
# same goes for the two totals, of which a reader could otherwise see one before and one after a change.
#
# The road not taken: a lock in `get` too. It would cost half as much as the look-up, and a get in the reactor's thread
# would wait for a drop in another one, which is seconds for a million cells.


class MemoryEngine:
    """Keeps cells in a dict, and their places in an ordered index that only new and dropped places touch."""

    __slots__ = ("_bytes", "_cells", "_keys", "_lock", "_notes", "_places")

    name = "memory"

    def __init__(self) -> None:
        self._lock = Lock()
        self._cells: dict[Place, Cell] = {}
        self._places = SortedList()
        self._notes: dict[str, bytes] = {}
        self._keys = 0
        self._bytes = 0

    def get(self, slot: Slot, key: Key) -> Cell | None:
        """See ``View``."""
        return self._cells.get((slot, key))

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        """See ``View``. Holds up writers for the length of one page."""
        start, end, inclusive = _bounds(first, last, after)
        with self._lock:
            places = self._places.irange(start, end, (inclusive, False))
            return _page(self._cells, places, limit, bytes_max)

    def apply(self, changes: Iterable[Change]) -> None:
        """See ``Engine``."""
        batch = {(slot, key): cell for slot, key, cell in changes}
        with self._lock:
            cells = self._cells
            keys, bytes_ = self._keys, self._bytes
            fresh: list[Place] = []
            for place, cell in batch.items():
                old = cells.get(place)
                record = cell.record
                if old is None:
                    fresh.append(place)
                    keys += is_value(record)
                    bytes_ += len(place[1]) + len(record)
                elif record is not old.record:
                    keys += is_value(record) - is_value(old.record)
                    bytes_ += len(record) - len(old.record)
            # Nothing was changed so far, and nothing below can fail: a batch is taken whole or not at all.
            if fresh:
                self._places.update(fresh)
            cells.update(batch)
            self._keys, self._bytes = keys, bytes_

    def drop(self, first: Slot, last: Slot) -> None:
        """See ``Engine``. Holds up writers for two or three microseconds for each cell dropped."""
        start, end, _ = _bounds(first, last, None)
        with self._lock:
            low, high = self._places.bisect_left(start), self._places.bisect_left(end)
            for place in self._places.islice(low, high):
                record = self._cells.pop(place).record
                self._keys -= is_value(record)
                self._bytes -= len(place[1]) + len(record)
            del self._places[low:high]

    def snapshot(self) -> View:
        """See ``Engine``. Copies every place and reference, not the records.

        For each million cells that is 50 to 160 ms, in which no other thread runs if there is a GIL, and 50 to 100 MB
        for as long as the view is referred to.
        """
        with self._lock:
            return _Copy(self._cells.copy(), list(self._places))

    def totals(self) -> Totals:
        """See ``Engine``."""
        with self._lock:
            return Totals(self._keys, self._bytes)

    def read_note(self, name: str) -> bytes | None:
        """See ``Engine``."""
        return self._notes.get(name)

    def write_note(self, name: str, value: bytes) -> None:
        """See ``Engine``. One dict operation, so it needs no lock."""
        self._notes[name] = value

    def close(self) -> None:
        """See ``Engine``."""
        with self._lock:
            self._cells.clear()
            self._places.clear()
            self._notes.clear()
            self._keys = self._bytes = 0


class _Copy:
    """A snapshot: nobody changes it, so nothing is locked."""

    __slots__ = ("_cells", "_places")

    def __init__(self, cells: Mapping[Place, Cell], places: Sequence[Place]) -> None:
        self._cells = cells
        self._places = places

    def get(self, slot: Slot, key: Key) -> Cell | None:
        return self._cells.get((slot, key))

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        start, end, inclusive = _bounds(first, last, after)
        places = self._places
        low = bisect_left(places, start) if inclusive else bisect_right(places, start)
        high = min(bisect_left(places, end), low + limit)
        return _page(self._cells, iter(places[low:high]), limit, bytes_max)


def _bounds(first: Slot, last: Slot, after: Place | None) -> tuple[Place, Place, bool]:
    """Say between which places a scan is: start, end (excluded), and whether the start is included."""
    start = (first, Key(b""))
    end = (Slot(last + 1), Key(b""))
    if after is None or after < start:
        return start, end, True
    return after, end, False


def _page(cells: Mapping[Place, Cell], places: Iterator[Place], limit: int, bytes_max: int | None) -> list[Change]:
    page: list[Change] = []
    room = bytes_max
    for slot, key in islice(places, limit):
        cell = cells[slot, key]
        if room is not None:
            room -= len(key) + len(cell.record)
            if room < 0 and page:
                break
        page.append(Change(slot, key, cell))
    return page
