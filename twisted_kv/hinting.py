"""Hints: which keys another owner has missed, kept beside the data of one that has them.

A hint names the owner and the key; what the key holds is read when the hint is replayed (hinted handoff: Dynamo, SOSP
2007, section 4.6, but on an owner, so that a hint is never a copy that counts). Where there are too many, or one is too
old, its slot is marked for repair instead. Losing one is no loss: repair finds what it would have said.

Rows of the engine's side table, numbers big-endian:

========================= ==================================================
``h`` owner ``\\0`` key     ballot(16) at_ms(8): what it missed, and when
``m`` slot(2)             nothing: the slot is to be repaired
========================= ==================================================
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from .limits import Limits
from .names import Key, NodeId, Slot
from .ring import slot_of
from .storage.engine import Engine
from .versions import Ballot

_HINT, _MARK = b"h", b"m"
_VALUE = struct.Struct(">16sQ")
_SLOT = struct.Struct(">H")
_PAGE = 1_000


class Hint(NamedTuple):
    """That an owner has missed a ballot of a key."""

    owner: NodeId
    key: Key
    ballot: Ballot
    at_ms: int


class Hints:
    """A node's hints and marks. All changes go through the engine, and are as safe as it makes them."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self.counts: Counter[NodeId] = Counter()
        """Hints by the owner they are for."""
        self._bytes = 0
        for hint in self._walk(_HINT):
            self._count(hint, 1)
        self.marks = {Slot(_SLOT.unpack_from(row, 1)[0]) for row in self._names(_MARK) if len(row) == 1 + _SLOT.size}
        """Slots to be repaired."""

    def keep(self, hints: Iterable[Hint]) -> None:
        """Keep hints, the newest of each key; or mark the slots of those that there is no room for.

        Errors: those of ``Engine.write_side``.
        """
        newest: dict[bytes, Hint] = {}
        fresh: list[Hint] = []
        marked: set[Slot] = set()
        for hint in hints:
            name = _name(hint.owner, hint.key)
            known = newest.get(name) or self._find(name)
            if known is None and not self._has_room(len(fresh)):
                marked.add(slot_of(hint.key))
            elif known is None:
                newest[name] = hint
                fresh.append(hint)
            elif hint.ballot > known.ballot:
                newest[name] = hint._replace(at_ms=known.at_ms)
        rows: dict[bytes, bytes | None] = {name: _VALUE.pack(*hint[2:]) for name, hint in newest.items()}
        rows |= {_mark(slot): b"" for slot in marked - self.marks}
        if rows:
            self._engine.write_side(rows)
            self.marks |= marked
            for hint in fresh:
                self._count(hint, 1)

    def mark(self, slots: Iterable[Slot]) -> bool:
        """Mark slots for repair; say whether any of them was not. Errors as in ``keep``."""
        fresh = set(slots) - self.marks
        if fresh:
            self._engine.write_side({_mark(slot): b"" for slot in fresh})
            self.marks |= fresh
        return bool(fresh)

    def unmark(self, slots: Iterable[Slot]) -> None:
        """Take marks back. Errors as in ``keep``."""
        gone = self.marks.intersection(slots)
        if gone:
            self._engine.write_side({_mark(slot): None for slot in gone})
            self.marks -= gone

    def page(self, owner: NodeId, after: Key, limit: int) -> list[Hint]:
        """Give hints for an owner, by key, strictly after one; fewer than ``limit`` are the last ones."""
        start, end = _name(owner, after) + b"\0", _HINT + owner.encode() + b"\1"
        if not after:
            start = _name(owner, after)
        found = self._engine.side(start, end, limit)
        return [hint for name, value in found if (hint := _hint(name, value)) is not None]

    def drop(self, owner: NodeId, done: Sequence[tuple[bytes, bytes]]) -> None:
        """Forget the hints that are not above these ballots, by key. Errors as in ``keep``."""
        gone: dict[bytes, Hint] = {}
        for key, ballot in done:
            hint = self._find(_name(owner, Key(key)))
            if hint is not None and hint.ballot <= ballot:
                gone[key] = hint
        self._forget(gone.values())

    def tidy(self, now_ms: int) -> int:
        """Turn hints that are too old into marks, and say how many. Errors as in ``keep``."""
        oldest = now_ms - int(self._limits.hints_age_s_max * 1000)
        old = [hint for hint in self._walk(_HINT) if hint.at_ms < oldest][:_PAGE]
        self.mark(slot_of(hint.key) for hint in old)
        self._forget(old)
        return len(old)

    def _forget(self, hints: Collection[Hint]) -> None:
        rows: dict[bytes, bytes | None] = {_name(hint.owner, hint.key): None for hint in hints}
        if rows:
            self._engine.write_side(rows)
            for hint in hints:
                self._count(hint, -1)

    def _has_room(self, more: int) -> bool:
        limits = self._limits
        return self.counts.total() + more < limits.hints_max and self._bytes < limits.hints_bytes_max

    def _count(self, hint: Hint, by: int) -> None:
        self.counts[hint.owner] += by
        if not self.counts[hint.owner]:
            del self.counts[hint.owner]
        self._bytes += by * (len(hint.key) + _VALUE.size)

    def _find(self, name: bytes) -> Hint | None:
        rows = self._engine.side(name, name + b"\0", 1)
        return _hint(*rows[0]) if rows else None

    def _walk(self, kind: bytes) -> Iterable[Hint]:
        start = kind
        while True:
            rows = self._engine.side(start, bytes((kind[0] + 1,)), _PAGE)
            yield from (hint for name, value in rows if (hint := _hint(name, value)) is not None)
            if len(rows) < _PAGE:
                return
            start = rows[-1][0] + b"\0"

    def _names(self, kind: bytes) -> list[bytes]:
        return [name for name, _ in self._engine.side(kind, bytes((kind[0] + 1,)), 1 << 17)]


def _name(owner: NodeId, key: Key) -> bytes:
    return _HINT + owner.encode() + b"\0" + key


def _mark(slot: Slot) -> bytes:
    return _MARK + _SLOT.pack(slot)


def _hint(name: bytes, value: bytes) -> Hint | None:
    """Read a row; None of what is no hint: losing one is no loss."""
    owner, _, key = name[1:].partition(b"\0")
    if len(value) != _VALUE.size or not key or not _is_text(owner):
        return None
    ballot, at_ms = _VALUE.unpack(value)
    return Hint(NodeId(owner.decode()), Key(key), Ballot(ballot), at_ms)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
