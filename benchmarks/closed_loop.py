"""What our own closed-loop clients share: each asks again as soon as it was answered, and all count into one tally.

A client that C programs have is not written here again: wrk and redis-benchmark make what load they can. These make
what those cannot, and print what ``done.lua`` prints.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Awaitable, Callable

KEY = "k%05d"
"""As in calls.lua."""


class Tally:
    """The time that each call took, in seconds, from its beginning to its end."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.began_s = 0.0
        self.ended_s = 0.0

    def as_wrk(self) -> str:
        """Say it as ``done.lua`` does."""
        ordered = sorted(self.took_s) or [0.0]
        return json.dumps(
            {
                "requests": len(self.took_s),
                "duration_us": round((self.ended_s - self.began_s) * 1e6),
                "p50_us": round(ordered[len(ordered) // 2] * 1e6),
                "p99_us": round(ordered[int(len(ordered) * 0.99)] * 1e6),
            }
        )


async def calls_until(until_s: float, call: Callable[[], Awaitable[object]], tally: Tally) -> None:
    """Make one call after another until a moment has come, on the monotonic clock."""
    took, clock = tally.took_s.append, time.monotonic
    began = clock()
    while began < until_s:
        await call()
        ended = clock()
        took(ended - began)
        began = ended


def quiet() -> None:
    """Let the garbage collector look seldom, as in the servers: the client must not be what is measured."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
