"""A source's records, read page by page."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from ..errors import PeerSilent
from ..names import Slot
from ..ring import SLOTS, slot_of
from ..wire.pages import Page, Row

Place: TypeAlias = tuple[int, bytes]
"""A slot and a key, the order in which records are read."""

END: Place = (SLOTS, b"")

BARREN_MAX = 1_000
"""Pages in a row without a row. Keys that were only promised are left out, but nobody goes through so many."""


class Pages:
    """One source's records in order of slot and key. While one page is worked on, the next one is on its way.

    :param fetch: gives the page after a place, the first one after None.
    """

    def __init__(self, fetch: Callable[[Place | None], Coroutine[Any, Any, Page]]) -> None:
        self._fetch = fetch
        self._ahead: Deferred[Page | None] | None = None
        self._trouble: Failure | None = None
        self._rows: deque[tuple[Slot, Row]] = deque()
        self._after: Place | None = None
        self._more = True

    async def turn(self) -> None:
        """Fetch the next page if this one is used up. A page of bare promises may hold no row at all.

        :raises PeerSilent: if page after page does.
        """
        barren = 0
        while self._more and not self._rows:
            if barren > BARREN_MAX:
                raise PeerSilent("the pages hold nothing, and do not end")
            barren += 1
            page = await (self._ahead or self._ask())
            if page is None:
                assert self._trouble is not None
                self._trouble.raiseException()
            self._rows.extend((slot_of(row.key), row) for row in page.rows)
            self._after = page.after
            self._more = page.after is not None
            self._ahead = self._ask() if self._more else None

    def _ask(self) -> Deferred[Page | None]:
        return ensureDeferred(self._fetch(self._after)).addErrback(self._failed)

    def _failed(self, trouble: Failure) -> None:
        """Keep what went wrong for whoever comes for the page; perhaps nobody does."""
        self._trouble = trouble

    @property
    def horizon(self) -> Place:
        """The last place up to which everything is known."""
        if not self._more:
            return END
        slot, row = self._rows[-1]
        return (slot, row.key)

    def take(self, until: Place) -> Iterator[tuple[Slot, Row]]:
        """Give what lies up to a place, with its slots; it is then used up."""
        rows = self._rows
        while rows and (rows[0][0], rows[0][1].key) <= until:
            yield rows.popleft()

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
        for _, row in stream.take(horizon):
            found.setdefault(row.key, []).append(row)
    return list(found.values()), horizon
