"""A source's records, read page by page."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

from ..ring import SLOTS, slot_of
from ..wire import Page, Row

Place: TypeAlias = tuple[int, bytes]
"""A slot and a key, the order in which records are read."""

END: Place = (SLOTS, b"")


class Pages:
    """One source's records in order of slot and key.

    :param fetch: gives the page after a place, the first one after None.
    """

    def __init__(self, fetch: Callable[[Place | None], Awaitable[Page]]) -> None:
        self._fetch = fetch
        self._rows: deque[Row] = deque()
        self._after: Place | None = None
        self._more = True

    async def turn(self) -> None:
        """Fetch the next page if this one is used up. A page of bare promises may hold no row at all."""
        while self._more and not self._rows:
            page = await self._fetch(self._after)
            self._rows.extend(page.rows)
            self._after = page.after
            self._more = page.after is not None

    @property
    def horizon(self) -> Place:
        """The last place up to which everything is known."""
        return place_of(self._rows[-1]) if self._more else END

    def take(self, until: Place) -> Iterator[Row]:
        """Give what lies up to a place; it is then used up."""
        while self._rows and place_of(self._rows[0]) <= until:
            yield self._rows.popleft()

    @property
    def ended(self) -> bool:
        return not self._more and not self._rows


async def merged(streams: list[Pages]) -> tuple[list[list[Row]], Place] | None:
    """Give what the sources hold up to where all is known, key by key and in order, and where that is; None at the end
    of all."""
    for stream in streams:
        await stream.turn()
    if all(stream.ended for stream in streams):
        return None
    horizon = min(stream.horizon for stream in streams)
    found: dict[bytes, list[Row]] = {}
    for stream in streams:
        for row in stream.take(horizon):
            found.setdefault(row.key, []).append(row)
    return list(found.values()), horizon


def place_of(row: Row) -> Place:
    return (slot_of(row.key), row.key)
