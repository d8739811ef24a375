"""Judges histories in which no value is written twice: fast enough for every seed.

Such a history says itself which write each read saw, and then no search is needed (Gibbons and Korach, "Testing shared
memories", SIAM J. Comput. 26, 1997). A value's write and its reads span a zone, between the earliest end
``f`` and the latest start ``s`` of any of them. Where f < s the zone is forward: one of them ended before another
began, so the key held the value from f to s. Else it is backward: all of them may have happened at one moment, any
between s and f. The history is linearizable if and only if

- no read ends before its write starts,
- no two forward zones overlap,
- no backward zone lies inside a forward one.

Times that are equal overlap, as in ``linearizability``: "before" and "inside" are strict, and zones that share no more
than an end do not overlap.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from .linearizability import Event, Fate, Kind


def fits(events: Iterable[Event], initial: bytes | None = None) -> bool:
    """Say whether the zone test can judge the events of one key: reads and writes, no two of which write the same.

    A delete is such a write where it names its tombstone. What was dropped may be anything. The initial value is
    written too, before everything.
    """
    written = {initial}
    for event in events:
        if event.kind is Kind.READ or event.fate is Fate.DROPPED:
            continue
        names_its_own = event.kind is Kind.PUT or (event.kind is Kind.DELETE and event.value is not None)
        if not names_its_own or event.value in written:
            return False
        written.add(event.value)
    return True


def zone_violation(history: Iterable[Event], initial: bytes | None = None) -> str | None:
    """Say why a history is not linearizable, or None if it is. Takes n log n steps for a key of n operations.

    :param initial: the value that every key holds at first.
    :raises ValueError: if some key does not fit.
    """
    keys: dict[bytes, list[Event]] = {}
    for event in history:
        keys.setdefault(event.key, []).append(event)
    for key, events in sorted(keys.items()):
        if not fits(events, initial):
            raise ValueError(f"the zone test judges reads and writes of unique values, and {key!r} saw others")
        wrong = _judge(events, initial)
        if wrong is not None:
            reason, concerned = wrong
            lines = "".join(f"\n    {event}" for event in sorted(dict.fromkeys(concerned), key=lambda e: e.called))
            return f"key {key!r} is not linearizable: {reason}{lines}"
    return None


@dataclass(slots=True)
class _Zone:
    """What the operations on one value span, and the two of them that say so. The initial value's write is None."""

    value: bytes | None
    f: float
    s: float
    first: Event | None
    """Ends at ``f``, before all others."""
    last: Event | None
    """Starts at ``s``, after all others."""

    def events(self) -> list[Event]:
        return [event for event in (self.first, self.last) if event is not None]


Wrong: TypeAlias = tuple[str, list[Event]]
"""A reason, and the operations concerned."""


def _judge(events: Sequence[Event], initial: bytes | None) -> Wrong | None:
    writes = {e.value: e for e in events if e.kind is not Kind.READ and e.fate is not Fate.DROPPED}
    zones = {initial: _Zone(initial, -math.inf, -math.inf, None, None)}
    for value, write in writes.items():
        # One of unknown outcome that nobody read may as well not have been: without an end it lies inside of nothing.
        zones[value] = _Zone(value, _end(write), write.called, write, write)
    for read in events:
        if read.kind is not Kind.READ or read.fate is not Fate.DONE:
            continue
        zone = zones.get(read.value)
        if zone is None:
            return f"{read.value!r} was read, and no write of it can have taken effect", [read]
        if read.value in writes and _end(read) < writes[read.value].called:
            return f"{read.value!r} was read before it was written", [read, writes[read.value]]
        if _end(read) < zone.f:
            zone.f, zone.first = _end(read), read
        if read.called > zone.s:
            zone.s, zone.last = read.called, read
    return _clash(list(zones.values()))


def _end(event: Event) -> float:
    return math.inf if event.returned is None or event.fate is Fate.UNKNOWN else event.returned


def _clash(zones: Sequence[_Zone]) -> Wrong | None:
    forward = sorted((zone for zone in zones if zone.f < zone.s), key=lambda zone: (zone.f, zone.s))
    # While none has overlapped its neighbour, they lie one after another: looking at neighbours is enough.
    for zone, following in pairwise(forward):
        if following.f < zone.s:
            reason = (
                f"the key held {zone.value!r} from {zone.f:g} to {zone.s:g}, "
                f"and {following.value!r} from {following.f:g} to {following.s:g}"
            )
            return reason, zone.events() + following.events()
    starts = [zone.f for zone in forward]
    for zone in zones:
        if zone.f < zone.s:
            continue
        # Whatever began earlier than the last forward zone before this one has ended before that one began.
        i = bisect_left(starts, zone.s) - 1
        if i >= 0 and zone.f < forward[i].s:
            around = forward[i]
            reason = (
                f"the key held {around.value!r} from {around.f:g} to {around.s:g}, "
                f"and in between, from {zone.s:g} to {zone.f:g}, {zone.value!r} came and went"
            )
            return reason, around.events() + zone.events()
    return None
