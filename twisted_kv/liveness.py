"""Who is avoided: suspicion from failures counted in a row. ``now`` is always handed in."""

from __future__ import annotations

from .limits import Limits


class Suspicion:
    """One node's standing, as one proxy sees it (a circuit breaker: Nygard, "Release It!", 2007, chapter 5).

    After ``suspect_after_failures`` failures in a row the node is avoided: reads ask it last, writes count it as
    unreachable at once. Any answer of it, a probe's among them, ends that.
    """

    __slots__ = ("_failures", "_limits", "avoided_since", "last_error")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._failures = 0
        self.avoided_since: float | None = None
        self.last_error = ""

    @property
    def avoided(self) -> bool:
        return self.avoided_since is not None

    def confirm(self) -> bool:
        """Count an answer. True if the node was avoided until now."""
        was_avoided = self.avoided_since is not None
        self._failures = 0
        self.avoided_since = None
        return was_avoided

    def refuse(self, error: str, now: float) -> bool:
        """Count a failure. True if the node is avoided from now on."""
        self._failures += 1
        self.last_error = error
        if self.avoided_since is None and self._failures >= self._limits.suspect_after_failures:
            self.avoided_since = now
            return True
        return False
