"""Simulated time, and the processes that live in it.

One heap holds everything that is going to happen; what happens at the same moment happens in an order that the seed
draws. Time jumps from one event to the next, never past one.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from math import inf
from random import Random
from struct import pack
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

BEGIN_MS = 20_000 * 86_400 * 1000
"""The wall time at which every simulation begins."""


INSPECTED_EVERY = 32
"""How many events pass between two looks at what has to hold always."""


@implementer(IDelayedCall)
class Call:
    """Something that a process is going to do."""

    __slots__ = ("_args", "_at_s", "_host", "_kw", "_life", "_state", "_work")

    def __init__(self, host: Host, life: int, at_s: float, work: Callable[..., object], args: Any, kw: Any) -> None:
        self._host = host
        self._life = life
        self._at_s = at_s
        self._work: Callable[..., object] | None = work
        self._args = args
        self._kw = kw
        self._state = "waiting"

    def getTime(self) -> float:
        return self._at_s

    def active(self) -> bool:
        return self._state == "waiting"

    def cancel(self) -> None:
        self._check()
        self._state = "cancelled"
        self._work = None

    def reset(self, secondsFromNow: float) -> None:
        self._check()
        self._move(self._host.world.now_s + secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        self._check()
        self._move(self._at_s + secondsLater)

    def _move(self, at_s: float) -> None:
        self._at_s = at_s
        self._host.world.put(self)

    def _check(self) -> None:
        if self._state == "called":
            raise AlreadyCalled
        if self._state == "cancelled":
            raise AlreadyCancelled

    @property
    def lives(self) -> bool:
        """Whether its process has neither crashed since nor taken it back."""
        return self._state == "waiting" and self._life == self._host.life

    def run(self) -> None:
        host, work = self._host, self._work
        if host.paused_until_s > self._at_s:
            # A stopped process does nothing; when it goes on, all that was due happens at once, in any order.
            self._move(host.paused_until_s)
            return
        assert work is not None
        self._state, self._work = "called", None
        host.world.note(host.name)
        work(*self._args, **self._kw)


class World:
    """The heap of what is going to happen, the one source of randomness, and a digest of all that has happened."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_s = 0.0
        self.events = 0
        self._heap: list[tuple[float, float, int, Call]] = []
        self._count = 0
        self._digest = blake2b(digest_size=16)
        self.inspect: Callable[[], object] | None = None
        """Called after every few events: whatever holds always has to hold then."""

    def put(self, call: Call) -> None:
        self._count += 1
        heappush(self._heap, (call.getTime(), self.random.random(), self._count, call))

    def note(self, what: str) -> None:
        """Add an event to the digest."""
        self.events += 1
        self._digest.update(pack(">d", self.now_s) + what.encode())

    @property
    def digest(self) -> str:
        """What happened until now, event for event, as one number."""
        return self._digest.hexdigest()

    def _next_s(self) -> float:
        """Say when the next thing happens; what was taken back or put off is forgotten on the way."""
        heap = self._heap
        while heap:
            at_s, _, _, call = heap[0]
            if call.lives and call.getTime() == at_s:
                return at_s
            heappop(heap)
        return inf

    def _step(self) -> None:
        self.now_s, _, _, call = heappop(self._heap)
        call.run()
        if self.inspect is not None and not self.events % INSPECTED_EVERY:
            self.inspect()

    def run(self, seconds: float) -> None:
        """Let everything happen that is due within a time, and be at its end."""
        until_s = self.now_s + seconds
        while self._next_s() <= until_s:
            self._step()
        self.now_s = until_s

    def until(self, holds: Callable[[], bool], patience_s: float) -> bool:
        """Let things happen until something holds; say whether it came to that in time."""
        until_s = self.now_s + patience_s
        while not holds():
            if self._next_s() > until_s:
                self.now_s = until_s
                return False
            self._step()
        return True

    def waiting(self) -> list[Call]:
        """Give all that living processes are still going to do."""
        return [call for at_s, _, _, call in self._heap if call.lives and call.getTime() == at_s]


@implementer(IReactorTime)
class Host:
    """One process: its timers, which end with it, and its clocks.

    Timers go by monotonic time. The wall clock may be wrong, jump and drift.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.life = 0
        self.paused_until_s = 0.0
        self.skew_ms = 0.0
        self.drift = 0.0
        """How much faster the wall clock goes than time does, as a part of it."""
        self.links: dict[object, Callable[[], object]] = {}
        """Who is connected, and is told at once when the process ends."""

    def seconds(self) -> float:
        return self.world.now_s

    def callLater(self, delay: float, work: Callable[..., object], *args: object, **kw: object) -> Call:
        return self.call_in_life(self.life, delay, work, *args, **kw)

    def call_in_life(self, life: int, delay: float, work: Callable[..., object], *args: object, **kw: object) -> Call:
        """Do something later, if the process still leads that life then.

        It may end in the midst of an event, and what it goes on to ask for must not wake in the one after it.
        """
        assert delay >= 0, f"{delay} is not greater than or equal to 0 seconds"
        call = Call(self, life, self.world.now_s + delay, work, args, kw)
        self.world.put(call)
        return call

    def getDelayedCalls(self) -> list[Call]:
        return [call for call in self.world.waiting() if call._host is self]

    def wall_ms(self) -> int:
        return BEGIN_MS + int(self.world.now_s * 1000 * (1 + self.drift) + self.skew_ms)

    @property
    def paused(self) -> bool:
        return self.paused_until_s > self.world.now_s

    def pause(self, seconds: float) -> None:
        """Stop the process for a while: it notices nothing of it."""
        self.paused_until_s = max(self.paused_until_s, self.world.now_s + seconds)

    def end(self) -> None:
        """End the process at once: none of its timers will run."""
        self.life += 1
        self.paused_until_s = 0.0
        links, self.links = self.links, {}
        for reset in links.values():
            reset()
