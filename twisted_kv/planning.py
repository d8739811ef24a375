"""What a change has to copy, as a value: worked out from the state alone, before anybody is asked for anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from .membership import State, cancelled, finished, ring_of
from .names import NodeId, Slot
from .quorum import blocking, majority
from .ring import Ring
from .views import Pair, View, forgotten, given_up, pairs_of


class Fill(msgspec.Struct, frozen=True):
    """Slots that the same targets get from the same sources."""

    slots: tuple[Slot, ...]
    sources: tuple[NodeId, ...]
    """The old owners who remember. None at all: the slots start empty."""
    needed: int
    """So many of the sources hold together every acknowledged change (see ``quorum.blocking``)."""
    majority: int
    """So many of the sources are a majority of the old owners; in a rescue all of them."""
    targets: tuple[NodeId, ...]
    """Who must be filled."""
    owners: tuple[NodeId, ...]
    """All the new owners, the targets among them."""
    rescue: bool = False
    """Whether the operator has accepted the loss of what the sources do not show: then targets which forgot only a part
    are sources too, and the newest of all that is left becomes the truth."""


class Plan(msgspec.Struct, frozen=True):
    """What a change has to do, as a value: what to fill, and what is lost for good."""

    fills: tuple[Fill, ...]
    emptied: int
    """Slots that every owner forgot and that start empty."""
    lost: int
    """Slots of which too few owners remember to know the newest value."""

    @property
    def closed(self) -> bool:
        """Whether clients have to wait for it: they could not be served in any case."""
        return bool(self.emptied) or any(fill.rescue for fill in self.fills)

    def gained(self) -> dict[NodeId, list[Slot]]:
        """Give the slots that each target has to start empty: what it may hold from an earlier time is out of date."""
        gained: dict[NodeId, list[Slot]] = {}
        for fill in self.fills:
            for node in fill.targets:
                if node not in fill.sources:
                    gained.setdefault(node, []).extend(fill.slots)
        return gained


class _Wants(NamedTuple):
    """What the slots of one pair of owner sets, old and new, need."""

    sources: tuple[NodeId, ...]
    needed: int
    majority: int
    targets: tuple[NodeId, ...]
    owners: tuple[NodeId, ...]
    rescue: bool = False


def planned(state: State) -> Plan:
    """Work out what the change of a state has to copy, slot by slot.

    A target gets what ``blocking`` of the old owners hold together: a source alone may lack what a majority without it
    acknowledged. Where an owner forgot, the others must still be that many, or the slot counts as lost; a plan with
    lost slots must not be carried out.
    """
    assert state.change is not None
    forgot, away = forgotten(state), given_up(state)
    # Who is said to be dead has only left: that what he alone held is lost has to be accepted by itself.
    given = {seat.id for seat in (*state.members, *state.change.seats) if not seat.incarnation}
    accepted = given | set(state.change.accepted)
    engines = {seat.id: seat.forgetful for seat in (*state.members, *state.change.seats)}
    empties = {node for node, forgetful in engines.items() if forgetful}
    groups: dict[_Wants, list[Slot]] = {}
    emptied = lost = 0
    for (had, gets), slots in pairs_of(state).items():
        wants = _wants((had, gets), forgot, away)
        if wants is None:
            continue
        if len(wants.sources) < wants.needed:
            left = tuple(sorted(node for node in had if node not in away and not (node in forgot and node in empties)))
            if not wants.sources and all(node in empties for node in had):
                emptied += len(slots)
            elif not accepted.issuperset(node for node in had if node in forgot):
                lost += len(slots)
            elif left != wants.sources:
                # What is left of a change may be on any single one of them.
                wants = wants._replace(sources=left, majority=len(left), rescue=True)
            wants = wants._replace(needed=len(wants.sources))
        groups.setdefault(wants, []).extend(slots)
    return Plan(
        tuple(Fill(tuple(sorted(slots)), *wants) for wants, slots in groups.items()),
        emptied,
        lost,
    )


def _wants(pair: Pair, forgot: Collection[str], away: Collection[str]) -> _Wants | None:
    """Say who must be filled and from whom, None where nobody must."""
    had, gets = pair
    # With fewer owners than before, those who stay are filled as well: what two of three acknowledged may be missing on
    # the one that is left.
    fewer = len(gets) < len(had)
    targets = tuple(sorted(n for n in gets if (fewer or n in forgot or n not in had) and n not in away))
    sources = tuple(sorted(node for node in had if node not in forgot))
    if not targets and len(sources) == len(had):
        return None
    # Who forgot votes in no epoch before it was rebuilt, so those who remember are majority enough among the old.
    enough = min(majority(len(had)), len(sources))
    return _Wants(sources, blocking(len(had)) if had else 0, enough, targets, tuple(sorted(gets)))


def thinned(state: State) -> dict[NodeId, list[Slot]]:
    """Give the slots of which a change leaves fewer owners, by each who stays.

    What nobody has noticed that one of them cannot read has to be got back before, as long as the others are there to
    get it from. Where one of those is given up it may be too late for that, and those slots are left out. Who forgot
    has nothing to read, and is filled.
    """
    assert state.change is not None
    forgot, away = forgotten(state), given_up(state)
    stays: dict[NodeId, list[Slot]] = {}
    for (had, gets), slots in pairs_of(state).items():
        if 0 < len(gets) < len(had) and not any(node in away for node in had):
            for node in gets:
                if node in had and node not in forgot:
                    stays.setdefault(node, []).extend(slots)
    return stays


class Load(NamedTuple):
    """What one node carries before a change and after it: copies of slots, and about so many bytes."""

    node: NodeId
    slots_before: int
    slots_after: int
    bytes_before: int
    bytes_after: int


class Weakest(NamedTuple):
    """The moment at which the fewest failures are survived: how many nodes may fail then without any slot losing its
    majorities, and how many slots survive no more."""

    when: str
    survives: int
    slots: int


class Preview(NamedTuple):
    """What a change would come to."""

    kind: str
    moved: int
    """Copies of slots that would be made."""
    bytes: int
    """About so many bytes in them."""
    loads: tuple[Load, ...]
    weakest: Weakest
    closed: bool
    lost: int


def previewed(state: State, bytes_of: Mapping[NodeId, int]) -> Preview:
    """Say what a change that has begun comes to.

    :param bytes_of: what each member holds now; what is to be held is reckoned from it by the number of slots.
    """
    assert state.change is not None
    plan = planned(state)
    before, after = _copies(ring_of(state.members, state)), _copies(ring_of(state.change.seats, state))
    each = sum(bytes_of.values()) / max(1, sum(before.values()))
    moved = sum(len(fill.slots) * len(set(fill.targets) - set(fill.sources)) for fill in plan.fills)
    return Preview(
        state.change.kind,
        moved,
        round(moved * each),
        tuple(
            Load(node, before[node], after[node], bytes_of.get(node, 0), round(after[node] * each))
            for node in dict.fromkeys((*before, *after))
        ),
        _weakest(state),
        plan.closed,
        plan.lost,
    )


def _copies(ring: Ring) -> Counter[NodeId]:
    copies: Counter[NodeId] = Counter({NodeId(member.id): 0 for member in ring.members})
    for slots, owners in ring.spans:
        for node in owners:
            copies[node] += len(slots)
    return copies


def _weakest(state: State) -> Weakest:
    """Find the moment of a change at which the fewest failures are survived, the earliest of several."""
    moments = {"before": cancelled(state), "during": state, "after": finished(state)}
    found: list[Weakest] = []
    for when, then in moments.items():
        survives = Counter(
            min(len(group.voters) - majority(group.size) for group in electorate.groups)
            for electorate in View(then).electorates
            if electorate.nodes
        )
        if survives:
            found.append(Weakest(when, min(survives), survives[min(survives)]))
    return min(found, key=lambda weakest: weakest.survives, default=Weakest("before", 0, 0))
