"""Merging: what a cluster held, put together from the checkpoints of its members.

Each key counts as a read of the owners whose checkpoints are there would have answered: the record that was accepted
under the highest ballot, where a key without a cell counts as a tombstone at its slot's floor (``floors.py``). Who owns
a slot says the state document of the backup; what others still hold of it is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from itertools import groupby
from typing import NamedTuple, TypeAlias

from .errors import Damaged
from .floors import over
from .names import Key, NodeId, Slot
from .quorum import Electorate, met
from .register import NO_FLOOR, Cell, Floor
from .storage.engine import UNREADABLE
from .versions import is_value
from .views import View

Placed: TypeAlias = tuple[Slot, Key, NodeId, Cell]


class Part(NamedTuple):
    """One member's checkpoint: its cells in the order of their places, as a scan shows them."""

    cells: Iterable[tuple[Slot, Key, Cell]]
    floors: Mapping[Slot, Floor]


def lacking(view: View, nodes: Iterable[NodeId]) -> int:
    """Count the slots of which these members are no majority of the owners."""
    bad = uncovered(view, nodes)
    return sum(one in bad for one in view.electorates)


def uncovered(view: View, nodes: Iterable[NodeId]) -> set[Electorate]:
    """Give the electorates of which these members are no majority."""
    silent = set(view.seats).difference(nodes)
    return {one for one in view.distinct if not met(one.quorum, one.everybody & ~one.voters(silent))}


def merged(view: View, parts: Mapping[NodeId, Part]) -> Iterator[tuple[Slot, Key, bytes]]:
    """Give the records of all keys that hold a value, in the order of their places.

    :raises Damaged: if so many owners' cells of a key cannot be read that nobody can say what it held.
    """
    walks = [_named(node, part.cells) for node, part in parts.items()]
    for (slot, key), found in groupby(merge(*walks, key=_place), key=_place):
        electorate = view.electorates[slot]
        cells = {node: cell for _, _, node, cell in found}
        owners = [node for node in electorate.nodes if node in parts]
        told = [node for node in owners if cells.get(node) is not UNREADABLE]
        if not met(electorate.quorum, electorate.voters(told)):
            raise Damaged(f"too few owners of {key[:100]!r} have a cell of it that can be read")
        shown = [over(parts[node].floors.get(slot, NO_FLOOR), cells.get(node)) for node in told]
        record = max(shown, key=lambda cell: cell.accepted).record
        if is_value(record):
            yield slot, key, record


def _named(node: NodeId, cells: Iterable[tuple[Slot, Key, Cell]]) -> Iterator[Placed]:
    for slot, key, cell in cells:
        yield slot, key, node, cell


def _place(placed: Placed) -> tuple[Slot, Key]:
    return placed[0], placed[1]
