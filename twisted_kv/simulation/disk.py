"""A simulated disk: what is pending apart from what is durable, and all that disks do wrong.

Like RocksDB's log it keeps the order of what was written: a power cut takes an end of what was pending, never a part
from its middle, and never what was synced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import TypeVar

from ..errors import Damaged, DiskBusy, DiskFailed, DiskFull
from ..names import Key, Slot
from ..register import Cell, Floor
from ..storage.engine import UNREADABLE, Change, Place
from ..storage.memory import MemoryEngine

R = TypeVar("R")
Step = Callable[["Disk"], object]
Spoiled = tuple[int, Place]
"""A place whose cell went bad, and how many steps were written before that."""


class Disk(MemoryEngine):
    """The newest state of a log of steps, of which the first ``durable`` outlast a power cut.

    A cell that went bad stays so until a step replaces or drops it. Where a power cut takes that step, it is bad again.
    """

    __slots__ = ("_log", "_spoiled", "bad", "broken", "busy", "durable", "full")

    name = "simulated"

    def __init__(self, log: Iterable[Step] = (), spoiled: Iterable[Spoiled] = ()) -> None:
        super().__init__()
        self.bad: set[bytes] = set()
        """The keys whose cells cannot be read."""
        self.broken = self.busy = self.full = False
        """Whether each write and sync fails for good, has to be tried again, has no room."""
        self._log: list[Step] = []
        self._spoiled: list[Spoiled] = []
        ahead = deque(spoiled)
        for step in log:
            while ahead and ahead[0][0] <= self.written:
                self._spoil(ahead.popleft()[1])
            step(self)
            self._log.append(step)
        for _, place in ahead:
            self._spoil(place)
        self.durable = self.written

    @property
    def written(self) -> int:
        return len(self._log)

    def spoil(self, random: Random, places: Sequence[Place] = ()) -> None:
        """Flip a bit in one record, if there is any; in one of those at certain places, if any are given."""
        if self._cells:
            self._spoil(random.choice(list(places or self._cells)))

    def _spoil(self, place: Place) -> None:
        # A power cut may have taken the cell that was bad.
        if place in self._cells:
            self.bad.add(place[1])
            self._spoiled.append((self.written, place))

    def after_crash(self, random: Random, power: bool) -> Disk:
        """The disk as its process's end leaves it, or with ``power`` the end of the whole machine."""
        if not power:
            return Disk(self._log, self._spoiled)
        # Mostly all of it is gone: what the kernel had not been told to write was in memory only.
        kept = self.durable if random.random() < 0.5 else random.randint(self.durable, self.written)
        return Disk(self._log[:kept], self._spoiled)

    def without_tail(self, steps: int) -> Disk:
        """The disk without the last steps, synced or not."""
        return Disk(self._log[: max(0, self.written - steps)], self._spoiled)

    def _do(self, step: Callable[[Disk], R]) -> R:
        if self.broken:
            raise DiskFailed("the simulated disk has failed")
        if self.full:
            raise DiskFull("there is no room left on the simulated disk")
        if self.busy:
            raise DiskBusy("the simulated disk is behind")
        result = step(self)
        self._log.append(step)
        return result

    def get(self, slot: Slot, key: Key) -> Cell | None:
        """See ``Engine``."""
        if key in self.bad:
            raise Damaged(f"the checksum of the record under {key!r} fails")
        return super().get(slot, key)

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        """See ``Engine``."""
        page = super().scan(first, last, after, limit, bytes_max)
        if not self.bad:
            return page
        return [Change(slot, key, UNREADABLE if key in self.bad else cell) for slot, key, cell in page]

    def apply(self, changes: Iterable[Change]) -> None:
        """See ``Engine``."""
        drawn = self._draw(changes)
        self._do(lambda engine: MemoryEngine.apply(engine, drawn))

    def _draw(self, changes: Iterable[Change]) -> list[Change]:
        drawn = list(changes)
        for _, key, _ in drawn:
            if key in self.bad:
                raise Damaged(f"the checksum of the record under {key!r} fails")
        return drawn

    def replace_damaged(self, slot: Slot, key: Key, cell: Cell | None) -> None:
        """See ``Engine``."""

        def step(engine: Disk) -> None:
            engine.bad.discard(key)
            MemoryEngine.replace_damaged(engine, slot, key, cell)

        self._do(step)

    def mend_digest(self, slot: Slot) -> None:
        """See ``Engine``."""
        self._do(lambda engine: MemoryEngine.mend_digest(engine, slot))

    def drop(self, first: Slot, last: Slot, limit: int) -> int:
        """See ``Engine``."""

        def step(engine: Disk) -> int:
            before = set(engine._cells) if engine.bad else set()
            gone = MemoryEngine.drop(engine, first, last, limit)
            engine.bad -= {key for _, key in before - engine._cells.keys()}
            return gone

        return self._do(step)

    def set_floors(self, floors: Mapping[Slot, Floor], changes: Iterable[Change] = ()) -> None:
        """See ``Engine``."""
        set_, drawn = dict(floors), self._draw(changes)
        self._do(lambda engine: MemoryEngine.set_floors(engine, set_, drawn))

    def write_side(self, rows: Mapping[bytes, bytes | None]) -> None:
        """See ``Engine``."""
        drawn = dict(rows)
        self._do(lambda engine: MemoryEngine.write_side(engine, drawn))

    def write_note(self, name: str, value: bytes) -> None:
        """See ``Engine``."""
        self._do(lambda engine: MemoryEngine.write_note(engine, name, value))

    def sync(self) -> None:
        """See ``Engine``. Here it takes no time; who simulates the wait calls ``synced`` at its end."""
        self.durable = self.written
