"""The scrub: a node reads all that it holds, slowly, to find what its disk has spoiled before anybody asks for it."""

from __future__ import annotations

from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from .limits import Limits
from .names import Slot
from .periodic import Rounds
from .replica import Replica
from .ring import SLOTS


class Scrubber:
    """Scrubs one replica, a few slots at a time, from a place of its own on: nodes that start together do not scrub
    the same slots together. Old hints are looked for on the way."""

    def __init__(self, clock: IReactorTime, random: Random, limits: Limits, replica: Replica) -> None:
        self._clock = clock
        self._replica = replica
        self._slots_per_s = SLOTS / limits.scrub_period_s
        self._next = random.getrandbits(16)
        self._due = 0.0
        self._last_s = clock.seconds()
        self._rounds = Rounds(clock, random, limits.scrub_interval_s, self._round, "the scrub")
        self._tidying = Rounds(clock, random, limits.hints_tidy_interval_s, self._tidy, "looking for old hints")

    def start(self) -> None:
        self._rounds.start()
        self._tidying.start()

    async def stop(self) -> None:
        await self._rounds.stop()
        await self._tidying.stop()

    async def _tidy(self) -> None:
        self._replica.tidy()

    async def _round(self) -> None:
        now_s = self._clock.seconds()
        self._due += (now_s - self._last_s) * self._slots_per_s
        self._last_s = now_s
        while self._due >= 1:
            self._due -= 1
            await self._turn()
            self._replica.scrub(Slot(self._next))
            self._next = (self._next + 1) % SLOTS

    def _turn(self) -> Deferred[None]:
        """Let others have their turn between two slots."""
        turn: Deferred[None] = Deferred()
        self._clock.callLater(0, turn.callback, None)
        return turn
