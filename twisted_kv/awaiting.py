"""Awaiting: who asked for a change of the ring waits until the state shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from .errors import ChangeFailed, ChangeWaits, KvError
from .membership import State

Holds: TypeAlias = Callable[[State], bool]


class Waiters:
    """Those who wait at one proxy."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: list[tuple[Holds, Deferred[State]]] = []
        self._stopping = False

    def until(self, holds: Holds, now: State, patience_s: float) -> Deferred[State]:
        """Wait for a state of which something holds; it may be the present one.

        Errors: ``ChangeWaits`` after so long, ``ChangeFailed`` where this proxy stops; whatever ``fail`` is told.
        """
        waiter: Deferred[State] = Deferred()
        if holds(now):
            waiter.callback(now)
            return waiter
        if self._stopping:
            # A call that came before the stop and got here after it.
            waiter.errback(Failure(_stopping()))
            return waiter
        entry = (holds, waiter)
        self._waiting.append(entry)

        def give_up() -> None:
            waiter.errback(
                ChangeWaits(f"the change did not come so far within {patience_s:g} s", "watch it with GET /v1/tasks")
            )

        timer = self._clock.callLater(patience_s, give_up)

        def ended(result: State) -> State:
            if timer.active():
                timer.cancel()
            if entry in self._waiting:
                self._waiting.remove(entry)
            return result

        return waiter.addBoth(ended)

    def look(self, state: State) -> None:
        """Tell those who have waited for a state like this one."""
        for entry in list(self._waiting):
            # What one of them does when it fires may end another one.
            if entry in self._waiting and entry[0](state):
                entry[1].callback(state)

    def fail(self, error: KvError) -> None:
        """Tell everybody that what they wait for cannot begin now, and why."""
        waiting, self._waiting = self._waiting, []
        for _, waiter in waiting:
            waiter.errback(Failure(error))

    def stop(self) -> None:
        """Let nobody wait any more."""
        self._stopping = True
        self.fail(_stopping())


def _stopping() -> ChangeFailed:
    return ChangeFailed("the proxy is stopping", "ask another one, or this one when it is back")
