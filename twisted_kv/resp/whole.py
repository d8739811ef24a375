"""All keys of a cluster together, for the commands that look at them. See ``session.Keyspace``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from ..coordinator import Coordinator
from ..limits import Limits
from ..listing import KeyPage, Listing
from ..names import Key
from ..peers.control import Control
from ..ring import SLOTS
from ..together import answers, every
from ..views import View
from .strings import delete


class Whole:
    """What one proxy can say of all keys.

    :param view: gives the view that the proxy acts on now, None before it has one.
    :param explain: tells what is known about a key.
    """

    def __init__(
        self,
        random: Random,
        limits: Limits,
        listing: Listing,
        coordinator: Coordinator,
        control: Control,
        view: Callable[[], View | None],
        explain: Callable[[Key], Awaitable[dict[str, Any]]],
    ) -> None:
        self._random = random
        self._limits = limits
        self._listing = listing
        self._coordinator = coordinator
        self._control = control
        self._view = view
        self._explain = explain

    async def keys(self, prefix: bytes, after: bytes) -> KeyPage:
        """See ``session.Keyspace``."""
        return await self._listing.page(prefix, after, self._limits.keys_page_max)

    async def scan(self, cursor: int, count: int) -> tuple[list[Key], int]:
        """See ``session.Keyspace``. A cursor is the number of a slot: any proxy can go on with it, at any time."""
        if cursor >= SLOTS:
            return [], 0
        keys, following = await self._listing.slots(cursor, count)
        return keys, following or 0

    async def count(self) -> int:
        """See ``session.Keyspace``. It is what the nodes count, each key as often as it is kept."""
        view = self._view()
        if view is None or not view.seats:
            return 0
        said = await answers({node: self._control.info(seat.url) for node, seat in view.seats.items()})
        copies = min(view.state.replicas, len(view.seats))
        # Of those that do not answer it is taken that they hold as much as the others.
        return round(sum(info.keys for info in said.values()) * len(view.seats) / copies / len(said)) if said else 0

    async def random(self) -> Key | None:
        """See ``session.Keyspace``: one of the keys of the next slots, from one that is drawn."""
        first = self._random.randrange(SLOTS)
        for start in (first, 0):
            following: int | None = start
            while following is not None:
                keys, following = await self._listing.slots(following, self._limits.keys_page_max)
                if keys:
                    return self._random.choice(keys)
        return None

    async def flush(self) -> None:
        """See ``session.Keyspace``. Keys that are written meanwhile may stay."""
        following: int | None = 0
        while following is not None:
            keys, following = await self._listing.slots(following, self._limits.repair_at_once)
            for at in range(0, len(keys), self._limits.repair_at_once):
                part = keys[at : at + self._limits.repair_at_once]
                await every(self._coordinator.change(key, delete) for key in part)

    async def explain(self, key: Key) -> dict[str, Any]:
        """See ``session.Keyspace``."""
        return await self._explain(key)
