"""A thread beside the reactor's, for what may block: it does one thing after the other.

Twisted's pool would do for that, but a node that syncs before each answer hands over a thousand syncs a second, and the
pool spends more on each, in its own coordination and in waking two threads, than the node does on the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class Reactor(Protocol):
    """What is asked of the reactor."""

    def callFromThread(self, call: Callable[..., object], *args: object) -> object: ...


class Aside:
    """The thread. It is begun at once, and has to be stopped."""

    def __init__(self, reactor: Reactor, name: str) -> None:
        self._reactor = reactor
        self._todo: SimpleQueue[tuple[Callable[[], None], Deferred[None]] | None] = SimpleQueue()
        # A daemon, so that a process which fails before it comes to stop this one ends all the same.
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], None]) -> Deferred[None]:
        """Do something there, after all that was given before; tell of its end on the reactor's thread."""
        done: Deferred[None] = Deferred()
        self._todo.put((work, done))
        return done

    def stop(self) -> None:
        """Return when all that was given is done. Its ends are told in the reactor's next turn."""
        self._todo.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._todo.get()) is not None:
            work, done = given
            try:
                work()
            except BaseException:
                self._reactor.callFromThread(done.errback, Failure())
            else:
                self._reactor.callFromThread(done.callback, None)
