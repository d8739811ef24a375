"""An engine whose disk can be imagined: what is pending apart from what is durable, so that a crash may lose it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random

from twisted_kv.names import Key, Slot
from twisted_kv.register import Cell, Floor
from twisted_kv.storage.engine import Change
from twisted_kv.storage.memory import MemoryEngine

Step = Callable[[MemoryEngine], object]


class PaperDisk(MemoryEngine):
    """The newest state of a log of steps, of which the first ``durable`` outlast a crash."""

    __slots__ = ("_log", "durable")

    name = "paper"

    def __init__(self, log: Iterable[Step] = ()) -> None:
        super().__init__()
        self._log = list(log)
        for step in self._log:
            step(self)
        self.durable = len(self._log)

    @property
    def written(self) -> int:
        return len(self._log)

    def _do(self, step: Step) -> object:
        result = step(self)
        self._log.append(step)
        return result

    def apply(self, changes: Iterable[Change]) -> None:
        drawn = list(changes)
        self._do(lambda engine: MemoryEngine.apply(engine, drawn))

    def replace_damaged(self, slot: Slot, key: Key, cell: Cell | None) -> None:
        self._do(lambda engine: MemoryEngine.replace_damaged(engine, slot, key, cell))

    def mend_digest(self, slot: Slot) -> None:
        self._do(lambda engine: MemoryEngine.mend_digest(engine, slot))

    def drop(self, first: Slot, last: Slot, limit: int) -> int:
        return self._do(lambda engine: MemoryEngine.drop(engine, first, last, limit))  # type: ignore[return-value]

    def set_floors(self, floors: Mapping[Slot, Floor], changes: Iterable[Change] = ()) -> None:
        set_, drawn = dict(floors), list(changes)
        self._do(lambda engine: MemoryEngine.set_floors(engine, set_, drawn))

    def write_side(self, rows: Mapping[bytes, bytes | None]) -> None:
        drawn = dict(rows)
        self._do(lambda engine: MemoryEngine.write_side(engine, drawn))

    def write_note(self, name: str, value: bytes) -> None:
        self._do(lambda engine: MemoryEngine.write_note(engine, name, value))

    def after_crash(self, random: Random) -> PaperDisk:
        """The disk as a crash may leave it: all that was synced, and a beginning of what was not."""
        return PaperDisk(self._log[: random.randint(self.durable, self.written)])

    def without_tail(self, steps: int) -> PaperDisk:
        """The disk without the last steps, synced or not."""
        return PaperDisk(self._log[: max(0, self.written - steps)])
