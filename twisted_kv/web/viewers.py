"""Those who watch: one look a second at how things are, taken once and encoded once for all of them, and only while
somebody watches. What is told are server-sent events (HTML Living Standard, section 9.2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..errors import KvError, Overloaded, PeerSilent, Stopping
from ..limits import Limits
from ..tokens import Ticket
from .outflow import Outflow

Compose: TypeAlias = Callable[[], Awaitable[bytes]]
"""Looks at how things are, and gives that as JSON."""

EVENT_STREAM = b"text/event-stream"
RETRY = b"retry: 1000\n\n"
HEARTBEAT = b": still here\n\n"
GLANCES = 3
"""After so many looks that nobody has asked for they end."""


def event(name: str, data: bytes) -> bytes:
    """Encode one event. Each line of its data is a field of its own; what reads it puts them together again."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"event: %b\n%b\n" % (name.encode(), b"".join(b"data: %b\n" % line for line in lines))


class Viewers:
    """All who watch at one process.

    A snapshot says everything, so who reads slowly is told less often: while one lies here for it, nothing else waits.

    :param compose: takes a look.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, limits: Limits, compose: Compose) -> None:
        self._clock = clock
        self._limits = limits
        self._compose = compose
        self._outs: dict[Outflow, None] = {}
        self._waiting: list[Deferred[None]] = []
        self._told = b""
        """What those who watch were told last, and who comes is told first."""
        self._number = 0
        self._snapshot: bytes | None = None
        self._error: KvError | None = None
        """Why there is none."""
        self._glances = 0
        self._timer: IDelayedCall | None = None
        self._looking: Deferred[bytes] | None = None
        self._stopped = False

    def __len__(self) -> int:
        return sum(not out.gone for out in self._outs)

    async def watch(self, request: Any, ticket: Ticket | None) -> bytes:
        """Tell a request's client how things are until it goes, its token holds no more, or all ends.

        :raises Overloaded: if as many as there may be watch already.
        :raises Stopping: if nobody is told any more.
        """
        if self._stopped:
            raise Stopping("this proxy is stopping", "ask another one, or again in a moment")
        if len(self) >= self._limits.viewers_max:
            raise Overloaded(f"{self._limits.viewers_max} watch already", "close one of the others' pages")
        request.setHeader(b"Content-Type", EVENT_STREAM)
        request.setHeader(b"Cache-Control", b"no-store")
        if request.method == b"HEAD":
            return b""
        out = Outflow(request)
        self._outs[out] = None
        self._look_on()
        try:
            async with out:
                await out.write(RETRY + self._told)
                told = self._number
                while True:
                    if told == self._number and not self._stopped:
                        await self._next()
                    await out.room()
                    if self._stopped or (ticket is not None and not ticket.holds()):
                        break
                    told = self._number
                    await out.write(self._told)
        finally:
            del self._outs[out]
        return b""

    async def glance(self) -> bytes:
        """Give the newest snapshot, at most as old as the time between two looks. Errors are those of the look."""
        if self._stopped:
            raise Stopping("this proxy is stopping", "ask another one, or again in a moment")
        self._glances = GLANCES
        self._look_on()
        if self._snapshot is None:
            await self._next()
        if self._snapshot is None:
            raise self._error or Stopping("this proxy is stopping", "ask another one, or again in a moment")
        return self._snapshot

    def stop(self) -> None:
        """Tell nobody any more: whoever watches is let go at once."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        for out in list(self._outs):
            out.break_off()
        self._wake()

    def _look_on(self) -> None:
        if self._timer is None and self._looking is None:
            self._timer = self._clock.callLater(0, self._look)

    def _look(self) -> None:
        if not self._glances and not len(self):
            self._timer, self._snapshot, self._told = None, None, b""
            self._wake()  # those who have gone
            return
        self._glances = max(0, self._glances - 1)
        self._timer = self._clock.callLater(self._limits.events_interval_s, self._look)
        if self._looking is None:
            self._looking = ensureDeferred(self._composed())
            self._looking.addTimeout(self._limits.events_heartbeat_s, self._clock)
            self._looking.addCallbacks(self._tell, self._tell_trouble)

    async def _composed(self) -> bytes:
        return await self._compose()

    def _tell(self, snapshot: bytes) -> None:
        self._snapshot = snapshot
        self._say(event("snapshot", snapshot))

    def _tell_trouble(self, failure: Any) -> None:
        self._snapshot = None
        if self._stopped:
            self._looking = None
        elif failure.check(KvError):
            self._error = failure.value
            self._say(event("trouble", msgspec.json.encode({"detail": self._error.detail})))
        else:
            if not failure.check(defer.TimeoutError):
                self.log.failure("a look at how things are failed; the next one comes all the same", failure)
            self._error = PeerSilent("a look at how things are could not be taken in time")
            self._say(HEARTBEAT)

    def _next(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def _say(self, told: bytes) -> None:
        self._looking = None
        self._told = told
        self._number += 1
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)
