"""The pulse: how late the reactor runs what is due. Whoever holds it up shows here, whatever it is that does."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Pulse:
    """Measures by a call that comes again and again.

    :param interval_s: how long from one call to the next.
    :param late: told by how many seconds each was late.
    """

    def __init__(self, clock: IReactorTime, interval_s: float, late: Callable[[float], None]) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._late = late
        self._due_s = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        self._due_s = self._clock.seconds() + self._interval_s
        self._timer = self._clock.callLater(self._interval_s, self._beat)

    def stop(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _beat(self) -> None:
        self._late(max(0.0, self._clock.seconds() - self._due_s))
        self.start()
