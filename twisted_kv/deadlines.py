"""Deadlines: who waits too long is told, with one timer for thousands who wait.

A reactor's timer for each would cost more than all else that is done about their time, and nearly every one is taken
back again. Here who waits is put into the bucket of the millisecond at which he is to be told, and taken out of it, for
the price of two look-ups (a timing wheel: Varghese and Lauck, SOSP 1987; the buckets lie in a heap, not in a wheel).
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

BUCKETS_PER_S = 1000


class Waiter(Protocol):
    """Who waits; at most for one time at once."""

    def tell(self) -> None:
        """Hear that the time has come."""


class Deadlines:
    """All who wait. They are told at their time, or up to a bucket's width later; those of one bucket in order."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._buckets: dict[int, dict[Waiter, None]] = {}
        self._ahead: list[int] = []
        """A heap of the buckets' numbers. Those that have become empty stay until their turn comes."""
        self._timer: IDelayedCall | None = None
        self._set_for = 0

    def wait(self, waiter: Waiter, at_s: float) -> int:
        """Have somebody told at a time that has not passed yet, unless he is taken back; give his bucket's number."""
        number = int(at_s * BUCKETS_PER_S) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heappush(self._ahead, number)
            if self._timer is None or number < self._set_for:
                self._set(number)
        bucket[waiter] = None
        return number

    def take_back(self, waiter: Waiter, number: int) -> None:
        """Let somebody wait no more; it is no matter if he was told."""
        bucket = self._buckets.get(number)
        if bucket is not None:
            bucket.pop(waiter, None)

    def _set(self, number: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._set_for = number
        self._timer = self._clock.callLater(max(0.0, number / BUCKETS_PER_S - self._clock.seconds()), self._look)

    def _look(self) -> None:
        self._timer = None
        now_s = self._clock.seconds()
        ahead = self._ahead
        while ahead:
            bucket = self._buckets[ahead[0]]
            if bucket and ahead[0] / BUCKETS_PER_S > now_s:
                break
            while bucket:
                self._tell(next(iter(bucket)), bucket)
            del self._buckets[heappop(ahead)]
        if ahead and (self._timer is None or ahead[0] < self._set_for):
            self._set(ahead[0])

    def _tell(self, waiter: Waiter, bucket: dict[Waiter, None]) -> None:
        del bucket[waiter]
        try:
            waiter.tell()
        except Exception:
            # The others' time has come, too.
            self._log.failure("somebody could not be told that his time has come")
