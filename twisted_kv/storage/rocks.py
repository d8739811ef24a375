"""The engine on a disk: RocksDB through rocksdict, in raw mode (it would pickle otherwise).

``rows.py`` says what lies where. A change and all that follows from it is one write batch, so nothing is ever counted
anew. Changes go into the write-ahead log without being synced, which outlasts the process; ``sync`` makes them outlast
the machine.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from rocksdict import AccessType, Checkpoint, Rdict, WriteBatch, WriteOptions

from twisted_kv.digest import EMPTY, moved, replaced, term
from twisted_kv.errors import DiskFailed
from twisted_kv.names import Key, Slot
from twisted_kv.register import BLANK, NO_FLOOR, Cell, Floor
from twisted_kv.ring import SLOTS
from twisted_kv.storage.complaints import unopened, unreadable, unwritten
from twisted_kv.storage.engine import (
    UNREADABLE,
    Change,
    Due,
    Inspection,
    Listed,
    Place,
    Placed,
    Totals,
    indexed_alike,
    take_stock,
)
from twisted_kv.storage.figures import figures
from twisted_kv.storage.indexes import NOT_LISTED, Indexes, indexed, lists_value
from twisted_kv.storage.recent import UNKNOWN, Recent
from twisted_kv.storage.rows import (
    END,
    FLOOR,
    SLOT,
    SUMS,
    TOTALS,
    TOTALS_KEY,
    Sums,
    after_slot,
    cells,
    counted_bytes,
    decode_cell,
    encode_cell,
    read_floor,
    read_place,
    read_slot,
    shown_cell,
    walk,
)
from twisted_kv.storage.tuning import family_options, folder_options
from twisted_kv.versions import NONE, Ballot, is_value


class RocksEngine:
    """Keeps cells in a folder of its own. Nobody else may have it open.

    :param synced: told after each sync the ``sequence`` that it covers, in the thread that synced.
    :raises DiskFailed: if the folder cannot be opened for a reason that does not lie in the data.
    :raises Damaged: if what is there is not whole; ``opening.py`` says what is to be done then.
    """

    name = "rocksdb"

    def __init__(self, folder: Path, synced: Callable[[int], None] = lambda sequence: None) -> None:
        self._synced = synced
        options, families = folder_options(folder.parent), family_options("data", "keys", "expiry", "meta", "hints")
        try:
            self._db = Rdict(str(folder), options, column_families=families, access_type=AccessType.read_write())
        except Exception as error:
            raise unopened(error) from None
        self._closed = False
        own = "data", "meta", "hints"
        self._data, self._meta, self._hints = map(self._db.get_column_family, own)
        self._to_data, self._to_meta, self._to_hints = map(self._db.get_column_family_handle, own)
        self._indexes = Indexes(self._db)
        self._write_options = WriteOptions()
        # A stalled write would hold the interpreter's lock for as long as it is stalled.
        self._write_options.no_slowdown = True
        self._recent = Recent()
        self._short = False
        try:
            self._load()
        except BaseException:
            # Left open, it would keep the folder locked against the next engine there.
            self.close()
            raise

    def _load(self) -> None:
        """Read what is kept in memory: all of ``meta``, so that a damaged block there shows now and not later.

        Hints are read through for the same reason: who counts them at the start could not start, again and again.

        :raises Damaged: if some of it cannot be read.
        """
        self._digests = array("Q", [EMPTY]) * SLOTS
        self._graves = array("I", [0]) * SLOTS
        self._floors: dict[Slot, Floor] = {}
        self._notes: dict[str, bytes] = {}
        self._totals = Totals(0, 0)
        highest: bytes = NONE
        for row, value in walk(self._meta, b"", END):
            kind, name = row[:1], row[1:]
            if row == TOTALS_KEY:
                keys, bytes_, highest = TOTALS.unpack_from(value.ljust(TOTALS.size, b"\0"))
                self._totals = Totals(keys, bytes_)
            elif kind == b"d":
                slot = read_slot(row)
                self._digests[slot], self._graves[slot] = SUMS.unpack_from(value.ljust(SUMS.size, b"\0"))
            elif kind == b"f":
                slot, self._floors[slot] = read_floor(row, value)
            elif kind == b"n":
                self._notes[name.decode("ascii", "backslashreplace")] = value
        for _ in walk(self._hints, b"", END):
            pass
        self.highest = Ballot(highest)
        """See ``Engine``."""
        if self.highest == NONE:
            # No row says it in a folder of an older version. Nothing is written here: that would make the sequence
            # number grow, by which ``opening.py`` knows how much was recovered.
            self.highest = self._highest_cell()

    def _highest_cell(self) -> Ballot:
        """Find the highest ballot of all cells that can be read."""
        highest = NONE
        for _, cell in cells(self._data, b"", END):
            if cell is not UNREADABLE:
                highest = max(highest, cell.promised, cell.accepted)
        return highest

    @property
    def short(self) -> bool:
        """Whether the last write found no room, or something else was wrong with it."""
        return self._short

    @property
    def sequence(self) -> int:
        """The number of the newest change; it grows by one for each row written, and a synced one never gets lost."""
        return int(self._db.latest_sequence_number())

    def get(self, slot: Slot, key: Key) -> Cell | None:
        """See ``Engine``."""
        cell = self._recent.get(key)
        if cell is not UNKNOWN:
            return cell
        try:
            data = self._data.get(SLOT.pack(slot) + key)
        except Exception as error:
            raise unreadable(error) from None
        cell = decode_cell(key, data) if data is not None else None
        self._recent.put(key, cell)
        return cell

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        """See ``Engine``."""
        page: list[Change] = []
        if first > last:
            return page
        start = SLOT.pack(first)
        if after is not None and after[0] >= first:
            start = SLOT.pack(after[0]) + after[1] + b"\0"
        room = bytes_max
        for place, data in walk(self._data, start, after_slot(last), limit):
            slot, key = read_place(place)
            cell = shown_cell(key, data)
            if room is not None:
                room -= len(key) + len(cell.record)
                if room < 0 and page:
                    break
            page.append(Change(slot, key, cell))
        return page

    def apply(self, changes: Iterable[Placed]) -> None:
        """See ``Engine``."""
        self.set_floors({}, changes)

    def set_floors(self, floors: Mapping[Slot, Floor], changes: Iterable[Placed] = ()) -> None:
        """See ``Engine``."""
        last = {(slot, key): cell for slot, key, cell in changes}
        if not last and not floors:
            return
        batch = WriteBatch(raw_mode=True)
        sums: dict[Slot, Sums] = {}
        keys, bytes_ = self._totals
        highest = self.highest
        put, to_data = batch.put, self._to_data
        for (slot, key), cell in last.items():
            old = self.get(slot, key)
            dug = 0
            if cell is None:
                if old is None:
                    continue
                batch.delete(SLOT.pack(slot) + key, to_data)
                bytes_ -= len(key)
                dug = -1
                cell = BLANK
            else:
                put(SLOT.pack(slot) + key, encode_cell(key, cell), to_data)
                if old is None:
                    bytes_ += len(key)
                    dug = 1
                    old = BLANK
            promised, accepted, now = cell.promised, cell.accepted, cell.record
            was = old.record
            if promised > highest:
                highest = promised
            if accepted > highest:
                highest = accepted
            if now is not was:
                bytes_ += len(now) - len(was)
                if not indexed_alike(was, now):
                    values = is_value(now) - is_value(was)
                    keys += values
                    dug -= values
                    self._indexes.move(batch, key, indexed(was), indexed(now))
            if dug or accepted != old.accepted:
                digest, graves = sums.get(slot) or (self._digests[slot], self._graves[slot])
                # A folder of an older version may count fewer graves than there are.
                graves = max(0, graves + dug)
                sums[slot] = replaced(digest, key, old.accepted, accepted), graves
        for floor in floors.values():
            highest = max(highest, *floor)
        self._write(batch, sums, Totals(keys, bytes_), highest, floors)
        for (_, key), cell in last.items():
            self._recent.put(key, cell)

    def _write(
        self,
        batch: WriteBatch,
        sums: dict[Slot, Sums],
        totals: Totals,
        highest: Ballot,
        floors: Mapping[Slot, Floor],
    ) -> None:
        """Write a batch and what follows from it, then keep that in memory too."""
        put, to_meta = batch.put, self._to_meta
        for slot, (digest, graves) in sums.items():
            put(b"d" + SLOT.pack(slot), SUMS.pack(digest, graves), to_meta)
        for slot, floor in floors.items():
            if floor == NO_FLOOR:
                batch.delete(b"f" + SLOT.pack(slot), to_meta)
            else:
                put(b"f" + SLOT.pack(slot), FLOOR.pack(*floor), to_meta)
        put(TOTALS_KEY, TOTALS.pack(*totals, highest), to_meta)
        self._commit(batch)
        self._totals = totals
        self.highest = highest
        for slot, (digest, graves) in sums.items():
            self._digests[slot] = digest
            self._graves[slot] = graves
        for slot, floor in floors.items():
            if floor == NO_FLOOR:
                self._floors.pop(slot, None)
            else:
                self._floors[slot] = floor

    def _commit(self, batch: WriteBatch) -> None:
        # Said before it is known, so that no sync begins between the failure and its notice.
        self._short = True
        try:
            self._db.write(batch, self._write_options)
        except Exception as error:
            raise unwritten(error) from None
        self._short = False

    def replace_damaged(self, slot: Slot, key: Key, cell: Cell | None) -> None:
        """See ``Engine``."""
        place = SLOT.pack(slot) + key
        try:
            data = self._data.get(place)
        except Exception as error:
            raise unreadable(error) from None
        batch = WriteBatch(raw_mode=True)
        keys, bytes_ = self._totals
        highest = self.highest
        was = now = NOT_LISTED
        rest: Iterable[tuple[Key, Cell]] = (row for row in self._cells(slot) if row[0] != key)
        if data is not None:
            was = self._was_listed(key, shown_cell(key, data))
            bytes_ -= counted_bytes(key, data)
        if cell is None:
            batch.delete(place, self._to_data)
        else:
            batch.put(place, encode_cell(key, cell), self._to_data)
            now = indexed(cell.record)
            bytes_ += len(key) + len(cell.record)
            highest = max(highest, cell.promised, cell.accepted)
            rest = chain(rest, [(key, cell)])
        self._indexes.move(batch, key, was, now)
        keys += lists_value(now) - lists_value(was)
        stock = take_stock(rest)
        self._write(batch, {slot: (stock.digest, stock.graves)}, Totals(keys, bytes_), highest, {})
        self._recent.put(key, cell)

    def _was_listed(self, key: Key, cell: Cell) -> bytes:
        """Say what both indexes hold for a cell: told by itself, or if it cannot be read by the key index."""
        return self._indexes.listed(key) if cell is UNREADABLE else indexed(cell.record)

    def _cells(self, slot: Slot) -> Iterator[tuple[Key, Cell]]:
        return cells(self._data, SLOT.pack(slot), after_slot(slot))

    def inspect(self, slot: Slot) -> Inspection:
        """See ``Engine``."""
        stock = take_stock(self._cells(slot))
        right = (self._digests[slot], self._graves[slot]) == (stock.digest, stock.graves)
        return Inspection(stock.rows, stock.damaged, right)

    def mend_digest(self, slot: Slot) -> None:
        """See ``Engine``."""
        stock = take_stock(self._cells(slot))
        sums = {slot: (stock.digest, stock.graves)}
        self._write(WriteBatch(raw_mode=True), sums, self._totals, self.highest, {})

    def drop(self, first: Slot, last: Slot, limit: int) -> int:
        """See ``Engine``."""
        if first > last:
            return 0
        batch = WriteBatch(raw_mode=True)
        sums: dict[Slot, Sums] = {}
        floors: dict[Slot, Floor] = {}
        keys, bytes_ = self._totals
        rows = 0
        for place, data in walk(self._data, SLOT.pack(first), after_slot(last), limit):
            rows += 1
            slot, key = Slot(SLOT.unpack_from(place)[0]), Key(place[2:])
            batch.delete(place, self._to_data)
            bytes_ -= counted_bytes(key, data)
            digest, graves = sums.get(slot) or (self._digests[slot], self._graves[slot])
            cell = shown_cell(key, data)
            if cell is not UNREADABLE:
                digest = moved(digest, term(key, cell.accepted), 0)
            listed = self._was_listed(key, cell)
            self._indexes.move(batch, key, listed, NOT_LISTED)
            value = lists_value(listed)
            keys -= value
            sums[slot] = digest, max(0, graves - (not value))
        if rows < limit:
            # Nothing is left here. What is still counted is the part of cells that could not be read.
            kept = enumerate(zip(self._digests[first : last + 1], self._graves[first : last + 1], strict=True), first)
            sums |= {Slot(slot): (EMPTY, 0) for slot, old in kept if sums.get(Slot(slot), old) != (EMPTY, 0)}
            floors = dict.fromkeys(self.floors(first, last), NO_FLOOR)
        if rows or sums or floors:
            self._write(batch, sums, Totals(keys, bytes_), self.highest, floors)
            self._recent.clear()
        return rows

    def floor(self, slot: Slot) -> Floor:
        """See ``Engine``."""
        return self._floors.get(slot, NO_FLOOR)

    def floors(self, first: Slot, last: Slot) -> dict[Slot, Floor]:
        """See ``Engine``."""
        return {slot: floor for slot, floor in self._floors.items() if first <= slot <= last}

    def totals(self) -> Totals:
        """See ``Engine``."""
        return self._totals

    def digests(self, first: Slot, last: Slot) -> array[int]:
        """See ``Engine``."""
        return self._digests[first : last + 1]

    def graves(self, first: Slot, last: Slot) -> array[int]:
        """See ``Engine``."""
        return self._graves[first : last + 1]

    def keys(self, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """See ``Engine``."""
        return self._indexes.keys(after, prefix, limit)

    def due(self, until_ms: int, after: Due | None, limit: int) -> list[Due]:
        """See ``Engine``."""
        return self._indexes.due(until_ms, after, limit)

    def read_note(self, name: str) -> bytes | None:
        """See ``Engine``."""
        return self._notes.get(name)

    def write_note(self, name: str, value: bytes) -> None:
        """See ``Engine``."""
        batch = WriteBatch(raw_mode=True)
        batch.put(b"n" + name.encode(), value, self._to_meta)
        self._commit(batch)
        self._notes[name] = value

    def write_side(self, rows: Mapping[bytes, bytes | None]) -> None:
        """See ``Engine``."""
        if not rows:
            return
        batch = WriteBatch(raw_mode=True)
        for name, row in rows.items():
            if row is None:
                batch.delete(name, self._to_hints)
            else:
                batch.put(name, row, self._to_hints)
        self._commit(batch)

    def side(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``Engine``."""
        return list(walk(self._hints, start, end, limit))

    def figures(self) -> Mapping[str, float]:
        """See ``Engine``. What the names stand for is in ``figures.py``."""
        return figures((self._data, self._meta, self._hints, *self._indexes.families))

    def sync(self) -> None:
        """See ``Engine``. Other threads run meanwhile."""
        if self._short:
            # To sync a log for which there was no room would keep RocksDB from ever mending itself. Once there is room
            # it writes out what that log holds, begins another one, and only then takes a write again.
            trial = WriteBatch(raw_mode=True)
            trial.put(b"nroom", b"", self._to_meta)
            self._commit(trial)
        reached = self.sequence
        try:
            self._db.flush_wal(True)
        except Exception as error:
            raise DiskFailed(f"the log could not be synced: {error}") from None
        self._synced(reached)

    def checkpoint(self, path: Path) -> None:
        """Make a checkpoint in a folder that is not there yet, on the same disk. All else waits meanwhile: what memory
        holds is written out first, for some tenths of a second at the most.

        :raises DiskFull: if there is no room. Other errors of the disk as in ``apply``.
        """
        try:
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:
            raise unwritten(error) from None

    def verify(self) -> None:
        """Read everything, past the cache, and check every checksum.

        :raises Damaged: at the first that fails.
        """
        self._indexes.verify()
        for family in (self._meta, self._hints):
            for _ in walk(family, b"", END, cached=False):
                pass
        for place, data in walk(self._data, b"", END, cached=False):
            decode_cell(Key(place[2:]), data)

    def close(self) -> None:
        """See ``Engine``. What was not synced is left to the kernel."""
        if not self._closed:
            self._closed = True
            # Each of these would keep the folder locked for as long as it lives.
            del self._to_data, self._to_meta, self._to_hints
            for part in (self._data, self._meta, self._hints, *self._indexes.release(), self._db):
                try:
                    part.close()
                except Exception:
                    pass  # after a failed write each of them complains of it once more, and is closed all the same
