"""Clients that take their time are cut off: one look a second at all connections, in the place of a timer for each."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nsmallest
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

LOOK_S = 1.0
IDLE_PARTS = 32
IDLE_S_MIN = 0.1
"""How long nothing was asked on a connection that passes for idle: others are between two requests."""
BEGUN_S_MIN = 1.0
"""How long a request has been coming that passes for one which may never be there whole."""


class Watched(Protocol):
    """A connection."""

    def look(self, now_s: float) -> None:
        """End what has taken too long."""

    @property
    def busy(self) -> bool:
        """Whether something is asked here that was not answered yet, or not read."""

    @property
    def idle_since_s(self) -> float | None:
        """Since when nothing is asked here, None while something is."""

    @property
    def begun_since_s(self) -> float | None:
        """Since when a request is coming here that is not whole, None while none is."""

    def hang_up(self) -> None:
        """Close when what was answered has been sent."""

    def part_if_idle(self) -> None:
        """Close if nothing is asked: see ``parting``."""


class Overdue:
    """All connections of one port. There is a timer while there are any."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._watched: dict[Watched, None] = {}  # in the order of their coming, so that a simulation repeats itself
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, connection: Watched) -> None:
        self._watched[connection] = None
        if self._timer is None:
            self._timer = self._clock.callLater(LOOK_S, self._look)

    def forget(self, connection: Watched) -> None:
        self._watched.pop(connection, None)
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hang_up(self) -> None:
        """Close all connections: whoever keeps one would go on speaking to what is behind here."""
        for connection in list(self._watched):
            connection.hang_up()

    @property
    def busy(self) -> bool:
        """Whether somebody was not answered yet."""
        return any(connection.busy for connection in self._watched)

    def hang_up_on_idlest(self) -> int:
        """Close a part of the connections on which nothing is asked, those first that have not been used for longest.
        Where there are none: of those whose requests have been coming for longest, and are nothing yet.

        :returns: how many.
        """
        now_s = self._clock.seconds()
        idle = self._since(now_s - IDLE_S_MIN, lambda connection: connection.idle_since_s)
        idle = idle or self._since(now_s - BEGUN_S_MIN, lambda connection: connection.begun_since_s)
        # A part, since to look at all of them takes as long as some hundred requests.
        part = nsmallest(1 + len(idle) // IDLE_PARTS, idle)
        for _, _, connection in part:
            connection.hang_up()
        return len(part)

    def _since(self, latest_s: float, since: Callable[[Watched], float | None]) -> list[tuple[float, int, Watched]]:
        return [
            (since_s, number, connection)
            for number, connection in enumerate(self._watched)
            if (since_s := since(connection)) is not None and since_s <= latest_s
        ]

    def part_with_idle(self) -> None:
        """Close the connections on which nothing is asked."""
        for connection in list(self._watched):
            connection.part_if_idle()

    def _look(self) -> None:
        self._timer = self._clock.callLater(LOOK_S, self._look)
        now_s = self._clock.seconds()
        for connection in list(self._watched):
            try:
                connection.look(now_s)
            except Exception:
                self._log.failure("a connection could not be looked at")
