"""Floors: what is left of a slot's tombstones when they are purged.

A slot is purged in two steps. First each of its owners, all of them holding the same, promises to refuse every ballot
up to the floor: from then on nothing below it can be taken anywhere, and no owner lacks what another one has. Then they
forget what holds no value and lies below, one by one: a key without a cell counts as one whose tombstone was accepted
at the floor, so that owners who have forgotten, and owners who have not yet, agree that there is nothing (P5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from .names import Key
from .register import BLANK, Cell, Floor
from .versions import NONE, Ballot, Record, Version, is_value


def over(floor: Floor, cell: Cell | None) -> Cell:
    """Say what a key of a slot with this floor is to whoever asks, given what is stored of it."""
    cell = cell or BLANK
    accepted, record = cell.accepted, cell.record
    if accepted <= floor.accepted and not is_value(record):
        accepted, record = floor.accepted, tombstone(floor.accepted)
    return Cell(max(cell.promised, floor.promised, accepted), accepted, record)


def stored(floor: Floor, cell: Cell) -> Cell | None:
    """Say what is to be stored of a cell: of what the floor says anyway only a promise above it, or nothing."""
    if cell.accepted > floor.accepted or is_value(cell.record):
        return cell
    return Cell(cell.promised, NONE, b"") if cell.promised > floor.promised else None


def buried(cells: Iterable[tuple[Key, Cell]], floor: Ballot) -> Iterator[tuple[Key, Cell | None]]:
    """Say what is to be stored of a slot's cells under a new floor, of those for which that is something else."""
    for key, cell in cells:
        if is_value(cell.record) or cell.accepted > floor:
            continue
        if cell.promised <= floor:
            yield key, None
        elif cell.record:
            yield key, Cell(cell.promised, NONE, b"")


@lru_cache(maxsize=1024)
def tombstone(floor: Ballot) -> bytes:
    """Give the record of a key that lies below a floor: none at all where there is no floor."""
    return Record(Version(floor), None).encode() if floor != NONE else b""
