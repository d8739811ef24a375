"""The contract of storage engines: cells by slot and key, in order; beside them floors, notes, and a side table.

An engine knows nothing of ballots' rules: it keeps what it is given. Only ``replica.py`` calls one, and the suite
``tests/contracts/test_engines.py`` holds every engine to what is written here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from twisted_kv.digest import EMPTY, moved, term
from twisted_kv.names import Key, Slot
from twisted_kv.register import Cell, Floor
from twisted_kv.versions import Ballot, is_value, record_expiry

Place: TypeAlias = tuple[Slot, Key]
"""Where a cell is. Places are ordered by slot, then by the key's bytes. A key always comes with the same slot."""


class Change(NamedTuple):
    """One place and the cell it holds: what is given to ``apply``, and what a scan shows.

    None instead of a cell removes the one that is there, if there is one; a scan never shows it.
    """

    slot: Slot
    key: Key
    cell: Cell | None


Placed: TypeAlias = tuple[Slot, Key, Cell | None]
"""A ``Change``, or as much as that: one is made for each write."""


class Totals(NamedTuple):
    """What an engine holds.

    ``keys`` counts the records that are values: neither tombstones nor bare promises, but expired values, since those
    stay until a tombstone replaces them. ``bytes`` is the key and record bytes of all cells, without overhead.
    """

    keys: int
    bytes: int


class Listed(NamedTuple):
    """One key of the key index. ``expires_ms`` is 0 for a tombstone, and for a value that stays."""

    key: Key
    is_value: bool
    expires_ms: int


class Inspection(NamedTuple):
    """What was found when all of a slot was read."""

    rows: int
    """Its cells, those that cannot be read too."""
    damaged: list[Key]
    """The keys of those that cannot be read, in order."""
    right: bool
    """Whether the kept digest and graves are those of the cells that can be read."""


class Due(NamedTuple):
    """A value that expires, in the order of the expiry index."""

    expires_ms: int
    key: Key


def value_expiry(record: bytes) -> int:
    """Say what both indexes hold of a record's expiry: of a value its own, 0 of anything else."""
    return record_expiry(record) if is_value(record) else 0


UNREADABLE = Cell(b"unreadable", b"unreadable", b"")  # type: ignore[arg-type]
"""What a scan shows for a cell whose checksum fails. It is compared by identity."""


class Stock(NamedTuple):
    """What a slot's cells come to when they are counted anew: rows and damaged as in ``Inspection``."""

    rows: int
    damaged: list[Key]
    digest: int
    graves: int


def take_stock(cells: Iterable[tuple[Key, Cell]]) -> Stock:
    """Count the cells of one slot. ``UNREADABLE`` ones are rows, and count nothing else."""
    rows, damaged, digest, graves = 0, [], EMPTY, 0
    for key, cell in cells:
        rows += 1
        if cell is UNREADABLE:
            damaged.append(key)
        else:
            digest = moved(digest, 0, term(key, cell.accepted))
            graves += not is_value(cell.record)
    return Stock(rows, damaged, digest, graves)


def indexed_alike(was: bytes, now: bytes) -> bool:
    """Say whether two records look the same to both indexes: of the same kind, expiring at the same time."""
    if not was or not now:
        return was == now
    return was[1] == now[1] and was[18:26] == now[18:26]


class Engine(Protocol):
    """Keeps the cells of one owner.

    One thread calls all methods but ``sync``, which may run in another one beside them. Every change happens whole, or
    not at all, at one moment; read by itself, an engine shows the newest state.
    """

    name: str
    """What ``/node/v1/info`` calls this kind of engine."""

    @property
    def highest(self) -> Ballot:
        """The highest ballot, promised or accepted, that was ever put into a cell or a floor here; NONE at first.

        It never goes back, whatever is removed or dropped, and outlasts what the cells outlast.
        """

    def get(self, slot: Slot, key: Key) -> Cell | None:
        """Give the cell of one key, or None if the key was never written here, or was removed or dropped.

        :raises Damaged: if something is there that cannot be read.
        """

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        """Give a page of the cells in slots ``first`` to ``last`` (both included), ordered by place.

        A cell that is there and cannot be read is shown as ``UNREADABLE``.

        :param after: give only cells strictly after this place, which need not hold a cell or be in the range. None
            begins at ``first``.
        :param limit: the most cells that the page may have, at least 1.
        :param bytes_max: end the page before its key and record bytes exceed this; it has at least one cell all the
            same, so only an empty page is the end. Without it a page shorter than ``limit`` is the end too.
        :raises Damaged: if part of the range cannot be read at all.
        """

    def apply(self, changes: Iterable[Placed]) -> None:
        """Put every cell of a batch in its place, or remove it, all or none of them.

        Totals, both indexes, digests and graves are kept in step. If one place occurs twice, the later change wins. The
        batch is drawn up before anything is touched: if drawing raises, nothing has changed, and drawing may read this
        engine.

        :raises Damaged: if a cell is to be replaced or removed that cannot be read; ``replace_damaged`` does that.
        :raises DiskBusy: if the disk is behind; nothing has changed, try again in a moment.
        :raises DiskFull: if there is no room; nothing has changed.
        :raises DiskFailed: if the disk has failed. Nothing may be done with this engine afterwards but ``close``.
        """

    def replace_damaged(self, slot: Slot, key: Key, cell: Cell | None) -> None:
        """Put a cell in the place of one that cannot be read, or with None remove it; works on any other place too.

        What the old cell was to the slot's digest and graves is unknown, so both are counted anew from the cells of the
        slot that can be read; others that are damaged count nothing. Totals and both indexes follow too, as long as the
        damage has left the old cell its length. All of it happens at one moment. Errors as in ``apply``.

        :raises Damaged: if part of the slot cannot be read at all, as in ``inspect``; nothing has changed.
        """

    def inspect(self, slot: Slot) -> Inspection:
        """Read every cell of a slot from where it is kept, check it, and count digest and graves anew.

        It takes as long as the slot is large, and leaves no trace in caches.

        :raises Damaged: if part of the slot cannot be read at all, so that it is not known what is there.
        """

    def mend_digest(self, slot: Slot) -> None:
        """Set the kept digest and graves of a slot to what ``inspect`` counts. Errors as in both."""

    def drop(self, first: Slot, last: Slot, limit: int) -> int:
        """Forget at most ``limit`` cells in slots ``first`` to ``last`` (both included), and say how many.

        Fewer than ``limit`` were all that was left there, and with the last of them the floors of these slots go. Notes
        stay. Errors as in ``apply``, but what cannot be read is forgotten like all the rest.
        """

    def floor(self, slot: Slot) -> Floor:
        """Give a slot's floor, ``NO_FLOOR`` if it has none: one look-up in memory."""

    def floors(self, first: Slot, last: Slot) -> dict[Slot, Floor]:
        """Give the floors of those slots from ``first`` to ``last`` (both included) that have one."""

    def set_floors(self, floors: Mapping[Slot, Floor], changes: Iterable[Placed] = ()) -> None:
        """Set the floors of slots and apply a batch of changes, all of it or nothing. ``NO_FLOOR`` takes a floor away.

        An engine does not compare floors: one may go down. Errors as in ``apply``.
        """

    def totals(self) -> Totals:
        """Say what the engine holds, without counting: the cost does not depend on it."""

    def digests(self, first: Slot, last: Slot) -> array[int]:
        """Give the digests (see ``digest.py``) of slots ``first`` to ``last``, both included."""

    def graves(self, first: Slot, last: Slot) -> array[int]:
        """Say of each slot from ``first`` to ``last``, both included, how many of its cells hold no value.

        Those are tombstones and bare promises. A folder of a version that did not count them begins with 0 wherever
        nothing was changed since, which is too few.
        """

    def keys(self, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Give a page of the keys that hold a record, tombstones too, in the order of their bytes.

        :param after: give only keys strictly after this one; empty begins at the first.
        :param prefix: give only keys that begin with it.
        :param limit: the most keys that the page may have; a shorter page is the end.
        :raises Damaged: if part of the index cannot be read.
        """

    def due(self, until_ms: int, after: Due | None, limit: int) -> list[Due]:
        """Give a page of the values that expire by then, the earliest first. Errors as in ``keys``."""

    def read_note(self, name: str) -> bytes | None:
        """Give the note of this name, or None if there is none."""

    def write_note(self, name: str, value: bytes) -> None:
        """Keep a small fact about the node: its identity, its epoch, the cluster's state document.

        Errors as in ``apply``.
        """

    def write_side(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Put rows into the side table, all or none of them; None removes a row, if it is there.

        The side table is a small one for names that are no keys, in the order of their bytes: hints. It is none of the
        engine's business what they mean; totals and digests do not know of them, and a drop leaves them. Errors as in
        ``apply``.
        """

    def side(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Give a page of the side table: names from ``start`` to before ``end``, in order, each with its row.

        :param limit: the most rows that the page may have; a shorter page is the end.
        :raises Damaged: if part of the range cannot be read.
        """

    def figures(self) -> Mapping[str, float]:
        """Give what an operator may want to see of the engine, by names that carry their units; it takes some 20 us."""

    def sync(self) -> None:
        """Return when every change made before this call will outlast the machine, where the engine can do that.

        :raises DiskFull, DiskBusy: if it could not be tried; it may be called again.
        :raises DiskFailed: if that is not certain.
        """

    def close(self) -> None:
        """Give back what the engine holds. Closing again does nothing; no other method may be called afterwards."""
