"""Cells that were read or written lately, as objects: most keys that are asked for were asked for just before."""

from __future__ import annotations

from typing import Final

from twisted_kv.names import Key
from twisted_kv.register import Cell

BYTES_MAX = 32 * 1024 * 1024
CELL_BYTES = 400
"""About what the objects of a cell take, beside the bytes of its key and record."""

UNKNOWN: Final = Cell(b"unknown", b"unknown", b"")  # type: ignore[arg-type]
"""Stands for what is not remembered, where None stands for a key without a cell."""


class Recent:
    """A bounded memory of cells, by key.

    It has two generations: what is asked for moves into the young one, and when that is full it becomes the old one,
    whose cells are forgotten. So what was not asked for while half of the memory was filled anew goes, for the price
    of one look-up in a dict.
    """

    __slots__ = ("_bytes", "_bytes_max", "_old", "_young")

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max // 2
        self._young: dict[Key, Cell | None] = {}
        self._old: dict[Key, Cell | None] = {}
        self._bytes = 0

    def get(self, key: Key) -> Cell | None:
        """Give what is remembered, ``UNKNOWN`` if that is nothing."""
        cell = self._young.get(key, UNKNOWN)
        if cell is UNKNOWN:
            cell = self._old.get(key, UNKNOWN)
            if cell is not UNKNOWN:
                self.put(key, cell)
        return cell

    def put(self, key: Key, cell: Cell | None) -> None:
        """Remember what a key holds now."""
        young = self._young
        if key not in young:
            # A cell that grows is not counted anew: records are of a size, by and large, and few stay for long.
            self._bytes += CELL_BYTES + len(key) + (len(cell.record) if cell is not None else 0)
            if self._bytes > self._bytes_max:
                self._old, self._young, self._bytes = young, {}, 0
                young = self._young
        young[key] = cell

    def clear(self) -> None:
        """Forget everything."""
        self._young, self._old = {}, {}
        self._bytes = 0
