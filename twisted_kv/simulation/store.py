"""A state store in the simulation: what a shared file is to several proxies, with waits and late watchers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..buggify import Buggify
from ..errors import StateUnusable
from ..membership import State, decode_state, encode_state
from .world import Host

T = TypeVar("T")

ANSWER_S = 0.002
WATCH_S = 0.25


class Shelf:
    """The one document, as bytes, and who leads."""

    def __init__(self) -> None:
        self.document: bytes | None = None
        self.leader: ShelfStore | None = None
        self.unusable = False
        """Whether every call fails, as when the disk it lies on does not answer."""


class ShelfStore:
    """One process's way to the shelf. See ``state.store.StateStore``.

    :param crash: ends the process: a site does so before and after a transaction.
    """

    def __init__(self, host: Host, shelf: Shelf, buggify: Buggify, crash: Callable[[], object]) -> None:
        self._host = host
        self._buggify = buggify
        self._crash = crash
        self._life = host.life
        self._shelf = shelf
        self.watch_s = WATCH_S
        """How often a watcher looks."""
        self.answer_s = ANSWER_S
        """How long a call is on its way, there and back again."""

    def read(self) -> Deferred[State | None]:
        return self._later(self._load)

    def update(self, step: Callable[[State | None], State]) -> Deferred[State]:
        def stepped() -> State:
            old = self._load()
            new = step(old)
            if new is not old:
                if self._buggify("store: a crash before a transaction"):
                    self._crash()
                    return new
                self._shelf.document = encode_state(new)
                if self._buggify("store: a crash after a transaction"):
                    self._crash()
            return new

        return self._later(stepped)

    def watch(self, seen: Callable[[State], None]) -> Callable[[], None]:
        shown: bytes | None = None

        def look() -> None:
            nonlocal shown, call
            call = self._host.callLater(self.watch_s, look)
            document = self._shelf.document
            if document is not None and document != shown and not self._shelf.unusable:
                shown = document
                seen(decode_state(document))

        call = self._host.callLater(0, look)
        return lambda: call.cancel() if call.active() else None

    def lead(self) -> Deferred[bool]:
        return self._later(self._lead)

    def _lead(self) -> bool:
        leader = self._shelf.leader
        if leader is None or not leader.lives:
            self._shelf.leader = self
        return self._shelf.leader is self

    @property
    def lives(self) -> bool:
        """Whether the process that opened it still runs: a lease ends with it."""
        return self._life == self._host.life

    def resign(self) -> None:
        if self._shelf.leader is self:
            self._shelf.leader = None

    def _load(self) -> State | None:
        if self._shelf.unusable:
            raise StateUnusable("the simulated store cannot be used")
        return decode_state(self._shelf.document) if self._shelf.document is not None else None

    def _later(self, work: Callable[[], T]) -> Deferred[T]:
        """Do it in a while, and answer a while later: who ends in between has done it and does not know."""
        done: Deferred[T] = Deferred()

        def answer(result: T | Failure) -> None:
            done.callback(result)  # a Failure makes it an errback

        def act() -> None:
            try:
                result: T | Failure = work()
            except Exception:
                result = Failure()
            if self.lives:
                self._host.callLater(self.answer_s, answer, result)

        self._host.callLater(self.answer_s, act)
        return done
