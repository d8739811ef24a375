"""What a state means for each slot: who owns it, who votes on it, and whose memory counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import TypeAlias, cast

from .membership import Seat, State, ring_of
from .names import ClusterId, Epoch, NodeId, Slot
from .quorum import Electorate, Group
from .ring import Ring, overlaid


@lru_cache(maxsize=64)
def foreign(ring: Ring, node: NodeId) -> list[tuple[Slot, Slot]]:
    """Give the ranges of slots that a node does not own."""
    ranges: list[tuple[Slot, Slot]] = []
    for slots, owners in ring.spans:
        if node not in owners:
            begin = ranges.pop()[0] if ranges and ranges[-1][1] == slots[0] - 1 else slots[0]
            ranges.append((Slot(begin), Slot(slots[-1])))
    return ranges


Pair: TypeAlias = tuple[tuple[NodeId, ...], tuple[NodeId, ...]]
"""The owners of a slot before a change, and after it."""


def pairs_of(state: State) -> Mapping[Pair, Sequence[Slot]]:
    """Group all slots by who owns them, and who will when the change under way is done; without one by who does."""
    old = ring_of(state.members, state)
    return _pairs(old, ring_of(state.change.seats, state) if state.change is not None else old)


@lru_cache(maxsize=8)
def _pairs(old: Ring, new: Ring) -> dict[Pair, list[Slot]]:
    pairs: dict[Pair, list[Slot]] = {}
    for slots, had, gets in overlaid(old, new):
        pairs.setdefault((had, gets), []).extend(cast("Sequence[Slot]", slots))
    return pairs


def given_up(state: State) -> set[str]:
    """Name who is to be asked for nothing: members who are lost for good."""
    seats = state.change.seats if state.change is not None else ()
    dead = state.change.dead if state.change is not None else ()
    return {seat.id for seat in seats if not seat.incarnation} | set(dead)


def forgotten(state: State) -> set[str]:
    """Name the members whose memory of before the change under way does not count."""
    lives = {seat.id: seat.incarnation for seat in state.members}
    seats = state.change.seats if state.change is not None else ()
    return given_up(state) | {s.id for s in seats if lives.get(s.id, s.incarnation) != s.incarnation}


def electorate_of(pair: Pair, forgot: Collection[str], away: Collection[str]) -> Electorate:
    """Say who votes on a slot that has these owners, and will have those."""
    had, gets = pair
    if set(had) == set(gets) and not any(node in forgot for node in had):
        return Electorate(had)
    old = tuple(node for node in had if node not in forgot)
    new = tuple(node for node in gets if node not in away)
    groups = [Group(new, len(gets))] if not had else [Group(old, len(had)), Group(new, len(gets))]
    return Electorate(tuple(dict.fromkeys((*old, *new))), groups)


class View:
    """What one proxy acts on: an epoch, whether it is open, and who owns what. Never changed, only replaced.

    ``table`` names the owners of each slot; while a change is under way, those of before it, who hold everything.
    ``electorates`` says who votes on each slot, ``distinct`` has each of them once.
    """

    __slots__ = ("cluster_id", "distinct", "electorates", "epoch", "open", "ring", "seats", "state", "table")

    def __init__(self, state: State) -> None:
        self.state = state
        self.cluster_id = ClusterId(state.cluster_id)
        self.epoch = Epoch(state.epoch)
        self.open = state.open
        coming = state.change.seats if state.change is not None and state.open else ()
        self.seats: Mapping[NodeId, Seat] = {NodeId(seat.id): seat for seat in (*state.members, *coming)}
        self.ring = ring_of(state.members, state)
        self.table = self.ring.table
        self.electorates, self.distinct = _electorates(state)


def _electorates(state: State) -> tuple[Sequence[Electorate], Sequence[Electorate]]:
    old = ring_of(state.members, state)
    if not state.open or state.change is None:
        return _electorates_of(old, old, frozenset(), frozenset())
    new = ring_of(state.change.seats, state)
    return _electorates_of(old, new, frozenset(forgotten(state)), frozenset(given_up(state)))


@lru_cache(maxsize=8)
def _electorates_of(
    old: Ring, new: Ring, forgot: frozenset[str], away: frozenset[str]
) -> tuple[Sequence[Electorate], Sequence[Electorate]]:
    by_pair = {pair: electorate_of(pair, forgot, away) for pair in _pairs(old, new)}
    of_slots = chain.from_iterable([by_pair[had, gets]] * len(slots) for slots, had, gets in overlaid(old, new))
    return list(of_slots), list(by_pair.values())
