"""Judges histories: is there one order of a key's operations that explains what every client saw?

The search is Wing and Gong's ("Testing and verifying concurrent objects", J. Parallel Distrib. Comput. 17, 1993): place
one operation after the other, never one that was called after another, unplaced one had returned. It remembers where it
has been, as Lowe does ("Testing for linearizability", Concurrency Computat. Pract. Exper. 29, 2017): the operations
placed and the value held say all that matters about the way there. Keys are judged one by one, which is enough
(locality: Herlihy and Wing, TOPLAS 1990, theorem 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    PUT = "put"
    DELETE = "delete"
    SWAP = "swap"
    """A conditional change: it takes effect only where the key holds its ``base``."""
    READ = "read"


class Fate(Enum):
    """What is certain about an operation's effect."""

    DONE = "done"
    """It took effect between its call and its return."""

    UNKNOWN = "unknown"
    """It may take effect at any time after its call, once, or never. The client crashed, or was told so."""

    DROPPED = "dropped"
    """It certainly had no effect, and its client saw nothing."""


@dataclass(frozen=True, slots=True)
class Event:
    """One operation of one client on one key.

    ``value`` is what was written or read, None standing for absent. A delete writes None; where reads can tell one
    tombstone from another, it writes any bytes that name its own, which makes the judgement sharper.
    ``called`` and ``returned`` are times on one clock. Equal times count as overlapping.
    """

    client: str
    kind: Kind
    key: bytes
    value: bytes | None
    called: float
    returned: float | None = None
    fate: Fate = Fate.DONE
    base: bytes | None = None

    def __post_init__(self) -> None:
        if self.fate is Fate.DONE and (self.returned is None or self.returned < self.called):
            raise ValueError(f"an operation that is done returns after its call: {self}")

    def __str__(self) -> str:
        end = "" if self.returned is None else f"{self.returned:g}"
        value = "?" if self.kind is Kind.READ and self.fate is not Fate.DONE else self.value
        base = f"{self.base!r} for " if self.kind is Kind.SWAP else ""
        return f"{self.called:g}..{end} {self.client} {self.kind.value} {base}{value!r} {self.fate.value}"


def violation(history: Iterable[Event], initial: bytes | None = None) -> str | None:
    """Say why a history is not linearizable, or None if it is.

    :param initial: the value that every key holds at first.
    """
    keys: dict[bytes, list[Event]] = {}
    for event in history:
        keys.setdefault(event.key, []).append(event)
    for key, events in sorted(keys.items()):
        story = _judge(key, events, initial)
        if story is not None:
            return story
    return None


def _judge(key: bytes, events: Sequence[Event], initial: bytes | None) -> str | None:
    events = sorted(events, key=lambda event: event.called)
    done = [event for event in events if event.fate is Fate.DONE]
    seen_values = {event.value for event in done if event.kind is Kind.READ}
    seen_values |= {event.base for event in done if event.kind is Kind.SWAP}
    # An uncertain write that nobody saw may as well never have happened, and an uncertain read says nothing.
    uncertain = [event for event in events if event.fate is Fate.UNKNOWN and event.kind is not Kind.READ]
    maybe: list[Event] = []
    while more := [event for event in uncertain if event.value in seen_values and event not in maybe]:
        maybe += more
        seen_values |= {event.base for event in more if event.kind is Kind.SWAP}
    search = _Search(done, maybe)
    if search.succeeds(initial):
        return None
    placed, held = search.furthest
    stuck = [event for i, event in enumerate(done) if not placed >> i & 1]
    lines = "\n".join(f"    {event}" for event in events)
    return (
        f"key {key!r} is not linearizable: after {placed.bit_count()} operations it holds {held!r}, which explains "
        f"none of those that must come next, the first of them being\n    {stuck[0]}\n  of the history\n{lines}"
    )


UNSEEN = b"(what nobody saw)"
"""Stands for all values that no read and no change has found."""


class _Search:
    """A depth-first walk over (operations placed, as bits; value held). The bits of ``maybe`` come after ``done``'s."""

    def __init__(self, done: Sequence[Event], maybe: Sequence[Event]) -> None:
        self.done = done
        self.all_done = (1 << len(done)) - 1
        self.reads_of: dict[bytes | None, int] = {}
        self.writes_of: dict[bytes | None, int] = {}
        self.swaps_on: dict[bytes | None, int] = {}
        self.bases: set[bytes | None] = {e.base for e in (*done, *maybe) if e.kind is Kind.SWAP}
        self.maybe_of: dict[tuple[bytes | None, bool, bytes | None], list[tuple[int, float]]] = {}
        for i, event in enumerate(done):
            bits = self.reads_of if event.kind is Kind.READ else self.writes_of
            bits[event.value] = bits.get(event.value, 0) | 1 << i
            if event.kind is Kind.SWAP:
                self.swaps_on[event.base] = self.swaps_on.get(event.base, 0) | 1 << i
        for i, event in enumerate(maybe, len(done)):
            self.writes_of[event.value] = self.writes_of.get(event.value, 0) | 1 << i
            alike = (event.value, event.kind is Kind.SWAP, event.base)
            self.maybe_of.setdefault(alike, []).append((1 << i, event.called))
        self.furthest: tuple[int, bytes | None] = (0, None)

    def succeeds(self, initial: bytes | None) -> bool:
        stack = [(0, initial)]
        known = set(stack)
        self.furthest = stack[0]
        while stack:
            placed, held = stack.pop()
            placed, writes, limit = self._place_reads(placed, held)
            if placed & self.all_done == self.all_done:
                return True
            if placed.bit_count() > self.furthest[0].bit_count():
                self.furthest = (placed, held)
            unread = ~placed & self.reads_of.get(held, 0)
            if unread and not ~placed & self.writes_of.get(held, 0):
                continue  # a write now would hide a value that is still to be read and never comes back
            finders = ~placed & self.swaps_on.get(held, 0)
            if finders and not ~placed & self.writes_of.get(held, 0):
                # The same for a change that is still to find it: it has to be the next write, and the only such one.
                following = [(placed | 1 << i, self.done[i].value) for i in writes if finders == 1 << i]
                choices_of: Iterable[tuple[tuple[bytes | None, bool, bytes | None], list[tuple[int, float]]]] = ()
            else:
                following = self._following(placed, writes)
                choices_of = self.maybe_of.items()
            for (value, swaps, base), choices in choices_of:
                if value == held or (swaps and base != held):
                    continue
                if value not in self.bases and not ~placed & self.reads_of[value]:
                    continue
                # They differ in nothing but their calls and have no end: the earliest can stand for any other.
                bit, called = next((choice for choice in choices if not placed & choice[0]), (0, math.inf))
                if called <= limit:
                    following.append((placed | bit, value))
            for state in reversed(following):
                if state not in known:
                    known.add(state)
                    stack.append(state)
        return False

    def _following(self, placed: int, writes: Sequence[int]) -> list[tuple[int, bytes | None]]:
        """Give where the writes that may come now lead to, as far as one of them is not as good as another.

        Of plain writes of one value, the one that returned first can stand for all: where another one comes now and it
        comes later, they may change places. A plain write that nobody saw can come right before any other plain write
        that may come now: it hides nothing that this one does not hide, and moved there from later on it is missed by
        nobody.
        """
        done = self.done
        found: list[tuple[int, bytes | None]] = []
        first: dict[bytes | None, int] = {}
        unseen = 0
        for i in writes:
            event = done[i]
            if event.kind is Kind.SWAP:
                found.append((placed | 1 << i, event.value))
            elif event.value not in self.reads_of and event.value not in self.bases:
                unseen |= 1 << i
            elif event.value not in first or event.returned < done[first[event.value]].returned:
                first[event.value] = i
        found += [(placed | unseen | 1 << i, value) for value, i in first.items()]
        if unseen:
            found.append((placed | unseen, UNSEEN))
        return found

    def _place_reads(self, placed: int, held: bytes | None) -> tuple[int, list[int], float]:
        """Place every read that may come now and fits: it changes nothing, so no order is lost by doing it at once.

        Gives the writes that may come now too, and the first return among the unplaced, which what comes now must
        have been called before.
        """
        while True:
            before = placed
            writes = []
            limit = math.inf
            undone = ~placed & self.all_done
            i = (undone & -undone).bit_length() - 1 if undone else len(self.done)
            while i < len(self.done):
                event = self.done[i]
                if event.called > limit:
                    break
                if not placed >> i & 1:
                    assert event.returned is not None
                    limit = min(limit, event.returned)
                    if event.kind is Kind.SWAP:
                        if event.base == held:
                            writes.append(i)
                    elif event.kind is not Kind.READ:
                        writes.append(i)
                    elif event.value == held:
                        placed |= 1 << i
                i += 1
            if placed == before:
                return placed, writes, limit
