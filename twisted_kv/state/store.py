"""The contract of a state store: one document, changed by transactions, watched by every proxy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from ..membership import State


class StateStore(Protocol):
    """Keeps the cluster's state. All calls fail with ``StateUnusable`` where the store cannot be used."""

    def read(self) -> Deferred[State | None]:
        """Give the newest state, None if no cluster was founded yet."""

    def update(self, step: Callable[[State | None], State]) -> Deferred[State]:
        """Put ``step`` of the newest state in its place, durably, with nobody coming between.

        ``step`` may be called more than once; what it raises comes back, and nothing was changed. A step that gives
        back the state it was given writes nothing.
        """

    def watch(self, seen: Callable[[State], None]) -> Callable[[], None]:
        """Call ``seen`` with each newer state within a second, until the function that comes back is called.

        States may be skipped, never reordered.
        """

    def lead(self) -> Deferred[bool]:
        """Try to become the one who drives changes; True if this process is. It saves double work, no more."""

    def resign(self) -> None:
        """Let another process drive."""
