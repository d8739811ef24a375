"""A clock that only tests turn, and that is as strict as the reactor whose place it takes."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock


class StrictClock(Clock):
    """Refuses what ``reactor.callLater`` refuses; Twisted's ``Clock`` takes a negative delay."""

    def callLater(self, delay: float, work: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:
        assert delay >= 0, f"{delay} is not greater than or equal to 0 seconds"
        return super().callLater(delay, work, *args, **kw)
