"""Leading: of all proxies one at a time drives changes, replays hints and repairs. It saves double work, no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .errors import KvError
from .state.store import StateStore


class Lead:
    """One process's part of the lead: its rooms hold it together, and it is given back when the last one lets go."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._holders = 0

    async def take(self) -> bool:
        """Try to hold the lead; True if this process has it. Errors: ``StateUnusable``."""
        self._holders += 1
        try:
            leads = await self._store.lead()
        except BaseException:
            self.release()
            raise
        if not leads:
            self.release()
        return leads

    def release(self) -> None:
        """Let go of the lead, after each ``take`` that gave True."""
        self._holders -= 1
        if not self._holders:
            self._store.resign()

    async def during(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something if this process leads; nothing if another one does, or if nobody can say who does."""
        try:
            if not await self.take():
                return
        except KvError:
            return
        try:
            await work()
        finally:
            self.release()

    def give_away(self) -> None:
        """Let another process lead although somebody here believes to; what they do stays safe."""
        self._store.resign()
