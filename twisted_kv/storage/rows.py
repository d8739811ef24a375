"""The rows that the engine on a disk keeps in RocksDB: their bytes, and the walk through them.

Column families, all flushed together, so that after any crash they are of one moment:

========== ==================== ==============================================================
``data``   slot(2) key          format(1) checksum(4) promised(16) accepted(16) record
``keys``   key                  flags(1) expires_ms(8): the key index, tombstones included
``expiry`` expires_ms(8) key    nothing: the values that expire
``meta``   ``d`` slot(2)        digest(8) graves(4) of a slot
``meta``   ``f`` slot(2)        promised(16) accepted(16): the floor of a slot that has one
``meta``   ``n`` name           a note
``meta``   ``t``                keys(8) bytes(8) highest(16): totals, and the highest ballot ever kept
``hints``  name                 a row of the side table, which only those who write it can read
========== ==================== ==============================================================

Numbers are big-endian. Older versions kept neither graves nor the highest ballot, and their rows end before them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias
from zlib import crc32

from rocksdict import Rdict, ReadOptions

from twisted_kv.errors import Damaged
from twisted_kv.names import Key, Slot
from twisted_kv.register import Cell, Floor
from twisted_kv.storage.complaints import unreadable
from twisted_kv.storage.engine import UNREADABLE
from twisted_kv.versions import UNDRAWN, Ballot, is_held

_FORMAT = 1
CELL = struct.Struct(">BI16s16s")
TOTALS = struct.Struct(">QQ16s")
SUMS = struct.Struct(">QI")
FLOOR = struct.Struct(">16s16s")
SLOT = struct.Struct(">H")
NUMBER = struct.Struct(">Q")
END = b"\xff" * 1100  # no key is as long
TOTALS_KEY = b"t"

Sums: TypeAlias = tuple[int, int]
"""What is kept of a slot beside its cells: its digest, and how many of them hold no value."""


def encode_cell(key: Key, cell: Cell) -> bytes:
    """Give a cell's bytes on the disk; the checksum covers the key too, so that no cell passes for another's."""
    promised, accepted, record = cell.promised, cell.accepted, cell.record
    return CELL.pack(_FORMAT, crc32(record, crc32(promised + accepted + key)), promised, accepted) + record


def decode_cell(key: Key, data: bytes) -> Cell:
    """Read a cell's bytes.

    :raises Damaged: if they are not what was written under this key.
    """
    if len(data) >= CELL.size:
        form, checksum, promised, accepted = CELL.unpack_from(data)
        record = data[CELL.size :]
        if form == _FORMAT and crc32(record, crc32(promised + accepted + key)) == checksum:
            if promised < UNDRAWN and is_held(accepted, record):
                return Cell(Ballot(promised), Ballot(accepted), record)
            raise Damaged(f"what is stored under {key[:100]!r} is none that anybody can have accepted")
    raise Damaged(f"the checksum of the record under {key[:100]!r} fails")


def shown_cell(key: Key, data: bytes) -> Cell:
    """Read a cell's bytes as a scan shows them: ``UNREADABLE`` if they are not what was written."""
    try:
        return decode_cell(key, data)
    except Damaged:
        return UNREADABLE


def counted_bytes(key: Key, data: bytes) -> int:
    """Say what a cell's bytes count in the totals; their length says it, damaged or not."""
    return len(key) + max(0, len(data) - CELL.size)


def read_place(place: bytes) -> tuple[Slot, Key]:
    """Read the name of a cell's row.

    :raises Damaged: if it is none.
    """
    if len(place) <= SLOT.size:
        raise Damaged(f"a row is called {place!r}, which is no slot and key")
    return Slot(SLOT.unpack_from(place)[0]), Key(place[SLOT.size :])


def read_slot(row: bytes) -> Slot:
    """Read the slot that a row of ``meta`` is about. Errors as in ``read_place``."""
    if len(row) != 1 + SLOT.size:
        raise Damaged(f"a row is called {row[:100]!r}, which names no slot")
    return Slot(SLOT.unpack_from(row, 1)[0])


def read_floor(row: bytes, value: bytes) -> tuple[Slot, Floor]:
    """Read the row of a slot's floor.

    :raises Damaged: if it is none that anybody can have taken.
    """
    slot = read_slot(row)
    if len(value) < FLOOR.size or max(ballots := FLOOR.unpack_from(value)) >= UNDRAWN:
        raise Damaged(f"the floor of slot {slot} is not what was written")
    return slot, Floor(*map(Ballot, ballots))


def after_slot(slot: Slot) -> bytes:
    """Give the bytes above every place of a slot, and below those of the next one."""
    return SLOT.pack(slot) + END


def walk(
    family: Rdict, start: bytes, end: bytes, limit: int = 1 << 62, *, cached: bool = True
) -> Iterator[tuple[bytes, bytes]]:
    """Walk through a column family from ``start`` to before ``end``.

    :param cached: whether the blocks that are read stay in the cache.
    :raises Damaged: if a block cannot be read. An iterator just ends there, and has to be asked why.
    """
    # The upper bound only: rocksdict's setter of the lower bound sets the upper one.
    bounds = ReadOptions()
    bounds.set_iterate_upper_bound(end)
    bounds.fill_cache(cached)  # type: ignore[call-arg]  # the stub forgets the argument
    iterator = family.iter(bounds)
    iterator.seek(start)
    try:
        while limit and iterator.valid():
            yield iterator.key(), iterator.value()
            limit -= 1
            if limit:
                iterator.next()
        try:
            iterator.status()
        except Exception as error:
            raise unreadable(error) from None
    finally:
        # The error's traceback would keep it, and it the folder's lock, while opening.py moves the folder aside.
        del iterator


def cells(data: Rdict, start: bytes, end: bytes) -> Iterator[tuple[Key, Cell]]:
    """Walk through the cells between two places, past the cache, and give each with its key, as a scan shows it.

    :raises Damaged: as ``walk``.
    """
    for place, value in walk(data, start, end, cached=False):
        _, key = read_place(place)
        yield key, shown_cell(key, value)
