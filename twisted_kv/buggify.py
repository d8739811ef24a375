"""Sites in the real rooms where the simulation lets something rare happen.

A site asks whether it is to happen now; outside of the simulation the answer is no. What a site does is always
something that could have happened anyway, only seldom: so it may never make a promise untrue (Zhou et al.,
"FoundationDB: A Distributed Unbundled Transactional Key Value Store", SIGMOD 2021, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Buggify: TypeAlias = Callable[[str], bool]
"""Given a site's name, says whether its rare thing is to happen now."""

LATE_S = 10.0
"""How late a site makes what it delays: later than every time-out of a batch or an operation."""


def inert(site: str) -> bool:
    """Let nothing rare happen: what every daemon is handed."""
    return False
