"""Shortens a wrong history to the few operations that show what is wrong with it.

By delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE Trans. Softw. Eng.
28, 2002, section 3): drop half of the operations, quarters, and so on down to single ones, as long as what is left is
wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .linearizability import Event, Fate, Kind, violation

JUDGEMENTS_MAX = 2_000
"""Judgements spent on one history. A thousand operations with one wrong read take some forty; where hardly any can
go, it is two for each."""


def shortest(
    history: Sequence[Event], initial: bytes | None = None, judgements_max: int = JUDGEMENTS_MAX
) -> list[Event]:
    """Give a part of the first wrong key's history that is wrong still, by their calls.

    None of its operations can go: the rest would be linearizable. (Another part may be shorter still.) Where the
    judgements run out before that, it is what was reached.

    Whoever saw a written value leaves together with its write. So a history that is linearizable stays so, and what
    is wrong with the part was wrong with the whole.

    :param initial: the value that every key holds at first.
    :raises ValueError: if nothing is wrong with the history.
    """
    for key in sorted({event.key for event in history}):
        events = [event for event in history if event.key == key]
        if violation(events, initial) is not None:
            return _shorten(sorted(events, key=lambda event: event.called), initial, judgements_max)
    raise ValueError("there is nothing wrong with this history")


def _shorten(events: list[Event], initial: bytes | None, judgements: int) -> list[Event]:
    size = (len(events) + 1) // 2
    while True:
        # From the end: what came late explains least of the rest.
        end = len(events)
        while end > 0:
            if judgements <= 0:
                return events
            begin = max(0, end - size)
            left = _without(events, begin, end, initial)
            judgements -= 1
            if violation(left, initial) is None:
                end = begin
            else:
                events, end = left, min(begin, len(left))
        if size == 1:
            # What had to stay once has to stay: dropping it left a linearizable history, and every part of such a one,
            # made by dropping more, is linearizable too.
            return events
        size = max(1, min(size, len(events)) // 2)


def _without(events: Sequence[Event], begin: int, end: int, initial: bytes | None) -> list[Event]:
    """Drop those from ``begin`` to ``end``, and whoever saw what they wrote, and whoever saw what those wrote."""
    writers: dict[bytes | None, list[int]] = {}
    viewers: dict[bytes | None, list[int]] = {}
    for i, event in enumerate(events):
        if event.kind is not Kind.READ:
            writers.setdefault(event.value, []).append(i)
        if event.kind is Kind.SWAP:
            viewers.setdefault(event.base, []).append(i)
        elif event.kind is Kind.READ:
            viewers.setdefault(event.value, []).append(i)
    gone = set(range(begin, end))
    fresh = [i for i in gone if events[i].kind is not Kind.READ]
    while fresh:
        write = events[fresh.pop()]
        # What returned before the call of this write saw another of the same value, if there is another.
        others = write.value == initial or any(i not in gone for i in writers[write.value])
        for i in viewers.get(write.value, ()):
            if i not in gone and (not others or _end(events[i]) >= write.called):
                gone.add(i)
                if events[i].kind is Kind.SWAP:
                    fresh.append(i)
    return [event for i, event in enumerate(events) if i not in gone]


def _end(event: Event) -> float:
    return math.inf if event.returned is None or event.fate is not Fate.DONE else event.returned
