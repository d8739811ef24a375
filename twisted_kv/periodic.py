"""Periodic work that survives a bad round. Twisted's ``TimerService`` stops for good after one exception."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class Rounds:
    """Runs rounds one after another, never two at once, with a seeded jitter before the first and between them.

    :param work: one round; an exception is logged and the next round comes all the same.
    """

    log = Logger()

    def __init__(
        self, clock: IReactorTime, random: Random, interval_s: float, work: Callable[[], Awaitable[None]], name: str
    ) -> None:
        self._clock = clock
        self._random = random
        self._interval_s = interval_s
        self._work = work
        self._name = name
        self._call: IDelayedCall | None = None
        self._running: Deferred[None] | None = None
        self._again = False
        self._stopped = True

    def start(self) -> None:
        self._stopped = False
        self._call = self._clock.callLater(self._interval_s * self._random.random(), self._round)

    def kick(self) -> None:
        """Begin a round now; if one is running, begin another as soon as it ends."""
        if self._stopped:
            return
        if self._running is not None:
            self._again = True
            return
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = self._clock.callLater(0, self._round)

    def stop(self) -> Deferred[None]:
        """Begin no further round, and fire when the running one has ended: it is cancelled where it waits."""
        self._stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        stopped: Deferred[None] = Deferred()
        if self._running is None:
            stopped.callback(None)
        else:
            self._running.addBoth(lambda _: stopped.callback(None))
            self._running.cancel()
        return stopped

    def _round(self) -> None:
        self._again = False
        # Without the gate a round's first part would run before there is a Deferred to hold: a kick in it would begin
        # a second round beside it, and a stop would not wait for it.
        gate: Deferred[None] = Deferred()
        self._running = ensureDeferred(self._guarded(gate))
        self._running.addBoth(self._ended)
        gate.callback(None)

    async def _guarded(self, gate: Deferred[None]) -> None:
        await gate
        try:
            await self._work()
        except Exception:
            if not self._stopped:
                self.log.failure("a round of {name} failed; the next one comes all the same", name=self._name)

    def _ended(self, _: object) -> None:
        self._running = None
        if not self._stopped:
            pause_s = 0 if self._again else self._interval_s * self._random.uniform(0.8, 1.2)
            self._call = self._clock.callLater(pause_s, self._round)
