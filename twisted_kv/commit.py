"""Group commit: answers leave when the sync that covers what they say is done.

What is written between the beginnings of two syncs shares the second one (DeWitt et al., "Implementation Techniques for
Main Memory Database Systems", SIGMOD 1984, section 5.2). While nothing written is waiting, no answer waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from .buggify import Buggify, inert
from .errors import DiskBusy, DiskFull
from .metrics import NodeMetrics

NOTES = b""
"""Stands for the node's notes, its epoch among them, where keys are named: no key is empty."""

DROPS = bytes(2_000)
"""Stands for all that is dropped by slots, for those who look at slots: no key is as long. Other answers need not wait
for a drop: whoever asks for such a key does so in another epoch, which begins when the drop is safe."""

FULL_RETRY_S = 0.5
"""How soon a sync is tried again that could not be tried for want of room."""

SLOW_S = 5.0
"""How slow a sync is that the simulation makes slow."""

T = TypeVar("T")


class Commit(Protocol):
    """Says when an answer may leave."""

    def wrote(self, keys: Iterable[bytes]) -> None:
        """Take note that cells of these keys, or the notes, were changed just now."""

    def release(self, answer: T, keys: list[bytes]) -> Deferred[T]:
        """Give an answer when what it shows of these keys, and the notes, will outlast the machine."""


class AtOnce:
    """For engines that promise nothing, and for ``interval`` and ``never``: an answer leaves at once."""

    def wrote(self, keys: Iterable[bytes]) -> None:
        """See ``Commit``."""

    def release(self, answer: T, keys: list[bytes]) -> Deferred[T]:
        """See ``Commit``."""
        return succeed(answer)


class GroupCommit:
    """Syncs as long as something written waits, one sync at a time.

    :param sync: returns when every change made before its call will outlast the machine.
    :param in_thread: runs a function where it may block, and fires with its result on this thread.
    :param failed: told why a sync failed. It cannot be repeated: the kernel may have thrown the pages away, and a
        second one would say all is well. So nothing of what waits is answered, and the process has to end.
    """

    def __init__(
        self,
        clock: IReactorTime,
        sync: Callable[[], None],
        in_thread: Callable[[Callable[[], None]], Deferred[None]],
        failed: Callable[[Failure], None],
        metrics: NodeMetrics,
        buggify: Buggify = inert,
    ) -> None:
        self._clock = clock
        self._sync = sync
        self._in_thread = in_thread
        self._failed = failed
        self._metrics = metrics
        self._buggify = buggify
        self._written: set[bytes] = set()
        self._syncing: set[bytes] = set()
        self._next: list[Deferred[None]] = []
        self._current: list[Deferred[None]] = []
        self._began_s = 0.0
        self._running = False

    def wrote(self, keys: Iterable[bytes]) -> None:
        """See ``Commit``."""
        self._written.update(keys)
        if not self._running:
            self._begin()

    def release(self, answer: T, keys: list[bytes]) -> Deferred[T]:
        """See ``Commit``."""
        waiting = self._waiting_for(keys)
        if waiting is None:
            return succeed(answer)
        safe: Deferred[None] = Deferred()
        waiting.append(safe)
        return safe.addCallback(lambda _: answer)

    def _waiting_for(self, keys: list[bytes]) -> list[Deferred[None]] | None:
        for unsafe, waiting in ((self._written, self._next), (self._syncing, self._current)):
            if unsafe and (NOTES in unsafe or not unsafe.isdisjoint(keys)):
                return waiting
        return None

    def _begin(self) -> None:
        self._running = True
        self._syncing, self._written = self._written, set()
        self._current, self._next = self._next, []
        self._began_s = self._clock.seconds()
        self._run()

    def _run(self) -> None:
        if self._buggify("commit: a slow sync"):
            self._clock.callLater(SLOW_S, self._run)
            return
        self._in_thread(self._sync).addCallbacks(self._done, self._not_done)

    def _not_done(self, failure: Failure) -> None:
        if failure.check(DiskFull, DiskBusy):
            self._clock.callLater(FULL_RETRY_S, self._run)
        else:
            self._failed(failure)

    def _done(self, _: None) -> None:
        self._metrics.sync_seconds.observe(self._clock.seconds() - self._began_s)
        safe, self._current = self._current, []
        self._syncing = set()
        self._running = False
        if self._written:
            self._begin()
        for answer in safe:
            answer.callback(None)
