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

from ..names import Key
from ..operation import Done
from ..quorum import Level
from ..sharing import Changed
from .plans import Ask, Change, Get, Put


class Store(Protocol):
    """Who carries operations out. See ``Coordinator``."""

    def get(self, key: Key, level: Level) -> Deferred[Done]: ...
    def put(
        self, key: Key, value: bytes | None, content_type: bytes, level: Level, expires_ms: int
    ) -> Deferred[Done]: ...
    def change(self, key: Key, decide: Any, timeout_s: float | None, size: int) -> Deferred[Changed]: ...


Told = Callable[[Any], None]
"""Told the answer to a question, or a Failure."""


class _Line:
    """What one key's operations wait for."""

    __slots__ = ("beginning", "kind", "under_way", "waiting")

    def __init__(self, kind: type[Ask]) -> None:
        self.kind = kind
        self.under_way = 0
        self.beginning = False
        self.waiting: deque[tuple[Ask, Level, Told]] = deque()


class Order:
    """One connection's operations on their way."""

    __slots__ = ("_lines", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lines: dict[Key, _Line] = {}

    def ask(self, ask: Ask, level: Level, told: Told) -> None:
        """Put a question when it is its turn. It may be answered from inside this call, where the store refuses it."""
        key = ask.key
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(type(ask))
        elif line.waiting or not _beside(line.kind, ask, level):
            line.waiting.append((ask, level, told))
            return
        self._start(line, ask, level, [told])

    def _start(self, line: _Line, ask: Ask, level: Level, told: list[Told]) -> None:
        line.under_way += 1
        store = self._store
        answer: Deferred[Any]
        if type(ask) is Put:
            value, content_type, expires_ms = ask.draft
            answer = store.put(ask.key, value, content_type, level, expires_ms)
        elif type(ask) is Get:
            answer = store.get(ask.key, level)
        else:
            assert type(ask) is Change
            answer = store.change(ask.key, ask.decide, None, ask.size)
        answer.addBoth(self._ended, line, ask, told)

    def _ended(self, result: Any, line: _Line, ask: Ask, told: list[Told]) -> None:
        line.under_way -= 1
        if not line.under_way and not line.beginning:
            self._go_on(line, ask.key)
        if type(result) is Done:
            result = result.record
        for one in told:
            one(result)

    def _go_on(self, line: _Line, key: Key) -> None:
        """Let those begin who have waited. Where the store refuses them at once, they do not nest."""
        line.beginning = True
        while line.waiting and not line.under_way:
            self._begin(line)
        line.beginning = False
        if not line.under_way:
            del self._lines[key]

    def _begin(self, line: _Line) -> None:
        """Begin with the first who waits, and as many behind it as may go with it."""
        waiting = line.waiting
        ask, level, told = waiting.popleft()
        line.kind = type(ask)
        if line.kind is Get:
            reads = [told]
            while waiting and type(waiting[0][0]) is Get and waiting[0][1] is level:
                reads.append(waiting.popleft()[2])
            self._start(line, ask, level, reads)
            return
        self._start(line, ask, level, [told])
        while waiting and _beside(line.kind, waiting[0][0], waiting[0][1]):
            ask, level, told = waiting.popleft()
            self._start(line, ask, level, [told])


def _beside(kind: type[Ask], ask: Ask, level: Level) -> bool:
    """Whether an operation may be on its way beside those of a kind that are."""
    return type(ask) is kind and (kind is Change or (kind is Put and level is Level.STRONG))
