"""The order of one connection's operations: on one key they take effect as they were sent, pipelined too.

Plain writes of a key may all be on their way at once, since the proxy lets them take turns as they come (``turns``); so
may conditional changes, which share rounds in their order (``sharing``). What is of another kind waits until they have
ended. Reads that wait together are answered by one, which begins after the last of them was asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from ..conditional import Draft
from ..names import Key
from ..operation import Done, Told
from ..quorum import Level
from ..sharing import Changed
from .plans import Ask, Change, Get, Put


class Store(Protocol):
    """Who carries operations out, and tells of their end. See ``Coordinator``."""

    def read(self, key: Key, level: Level, told: Told) -> None: ...
    def write(self, key: Key, draft: Draft, level: Level, told: Told) -> None: ...
    def change(self, key: Key, decide: Any, timeout_s: float | None, size: int) -> Deferred[Changed]: ...


Hears = Callable[[Any], None]
"""Told the answer to a question, or a Failure."""


class _Line:
    """What one key's operations wait for."""

    __slots__ = ("beginning", "key", "kind", "lines", "store", "under_way", "waiting")

    def __init__(self, store: Store, lines: dict[Key, _Line], key: Key, kind: type[Ask]) -> None:
        self.store = store
        self.lines = lines
        self.key = key
        self.kind = kind
        self.under_way = 0
        self.beginning = False
        self.waiting: deque[tuple[Ask, Level, Hears]] | None = None
        """Who waits; made when the first one does, which is seldom."""

    def start(self, ask: Ask, level: Level, hears: Hears) -> None:
        self.under_way += 1
        kind = type(ask)
        ended = _Asked(self, hears).ended
        if kind is Put:
            self.store.write(self.key, ask.draft, level, ended)  # type: ignore[union-attr]
        elif kind is Get:
            self.store.read(self.key, level, ended)
        else:
            assert type(ask) is Change
            self.store.change(self.key, ask.decide, None, ask.size).addBoth(ended)

    def go_on(self) -> None:
        """Let those begin who have waited. Where the store refuses them at once, they do not nest."""
        self.beginning = True
        while self.waiting and not self.under_way:
            self._begin(self.waiting)
        self.beginning = False
        if not self.under_way:
            del self.lines[self.key]

    def _begin(self, waiting: deque[tuple[Ask, Level, Hears]]) -> None:
        """Begin with the first who waits, and as many behind it as may go with it."""
        ask, level, hears = waiting.popleft()
        self.kind = type(ask)
        if self.kind is Get:
            readers = [hears]
            while waiting and type(waiting[0][0]) is Get and waiting[0][1] is level:
                readers.append(waiting.popleft()[2])
            self.start(ask, level, hears if len(readers) == 1 else _all_of(readers))
            return
        self.start(ask, level, hears)
        while waiting and _beside(self.kind, waiting[0][0], waiting[0][1]):
            self.start(*waiting.popleft())


class _Asked:
    """One operation that is under way."""

    __slots__ = ("_hears", "_line")

    def __init__(self, line: _Line, hears: Hears) -> None:
        self._line = line
        self._hears = hears

    def ended(self, result: Any) -> None:
        line = self._line
        line.under_way -= 1
        if not line.under_way and not line.beginning:
            line.go_on()
        self._hears(result.record if type(result) is Done else result)


def _all_of(readers: list[Hears]) -> Hears:
    def hear(answer: Any) -> None:
        for hears in readers:
            hears(answer)

    return hear


class Order:
    """One connection's operations on their way."""

    __slots__ = ("_lines", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lines: dict[Key, _Line] = {}

    def ask(self, ask: Ask, level: Level, hears: Hears) -> None:
        """Put a question when it is its turn. It may be answered from inside this call, where the store refuses it."""
        key = ask.key
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(self._store, self._lines, key, type(ask))
        elif line.waiting or not _beside(line.kind, ask, level):
            if line.waiting is None:
                line.waiting = deque()
            line.waiting.append((ask, level, hears))
            return
        line.start(ask, level, hears)


def _beside(kind: type[Ask], ask: Ask, level: Level) -> bool:
    """Whether an operation may be on its way beside those of a kind that are."""
    return type(ask) is kind and (kind is Change or (kind is Put and level is Level.STRONG))
