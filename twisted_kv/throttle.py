"""The throttle: how fast data is moved beside clients who are being served."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

SLOWEST = 1 / 8
"""What is left of the speed at the least, however long clients wait: a change has to end some day."""

PATIENCE = 2.0
"""How much longer than at the beginning clients may wait before the speed is halved."""

RECOVERY = 1.1
"""How fast the speed comes back: additive increase would take an hour after a single bad moment."""

PAUSE_S_MAX = 3_600.0
"""The longest rest. How much was moved says who has moved it, and may be wrong by any amount."""

REST_S_MAX = 10.0
"""The longest rest for the sake of clients. A piece that took long has mostly waited itself, for somebody slow."""

LEAST_WAIT_S = 0.03
"""A wait of clients below which nothing is slowed down."""


class Throttle:
    """Paces one flow of data: never above a rate, and slower while clients wait longer than before it began.

    :param wait_s: says how long clients wait at present: the 99th percentile of the last second or so, 0 if unknown.
    """

    def __init__(self, clock: IReactorTime, bytes_per_s: float, wait_s: Callable[[], float]) -> None:
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._wait_s = wait_s
        self._usual_s = wait_s()
        self._free_s = clock.seconds()
        self.share = 1.0
        """The part of full speed that clients leave."""

    def pause(self, moved: int, worked_s: float) -> Deferred[None]:
        """Fire when the next piece may be moved, after one of so many bytes that took so long."""
        wait_s = self._wait_s()
        if wait_s > max(LEAST_WAIT_S, PATIENCE * self._usual_s):
            self.share = max(SLOWEST, self.share / 2)
        else:
            self.share = min(1.0, self.share * RECOVERY)
        now_s = self._clock.seconds()
        self._free_s = min(now_s + PAUSE_S_MAX, max(self._free_s, now_s - worked_s) + moved / self._bytes_per_s)
        # At half the share, clients are left as long a time as the piece took.
        rest_s = min(REST_S_MAX, worked_s * (1 / self.share - 1))
        return deferLater(self._clock, max(0.0, self._free_s - now_s, rest_s))
