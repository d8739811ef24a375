"""The sweep: values that have expired and that nobody reads become tombstones too.

Whoever reads an expired value proposes the tombstone that replaces it; this room does the same for what the owners'
indexes by expiry show. Several proxies may sweep at once: the later one finds the tombstone.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from .errors import KvError
from .limits import Limits
from .metrics import ProxyMetrics
from .names import Key, NodeId
from .peers.control import Control
from .periodic import Rounds
from .ring import slot_of
from .together import every
from .views import View

Place: TypeAlias = tuple[int, bytes]
"""Where a node's index by expiry was left off: a time in milliseconds, and a key."""


class Sweeper:
    """Sweeps for one proxy.

    :param view: gives the view that the proxy acts on now.
    :param bury: reads a key in a round that replaces what has expired by its tombstone; says whether it has now done
        so, and not found it done.
    :param spread: reads a key at level ``all``, which gives every owner what a majority holds.
    """

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        now_ms: Callable[[], int],
        limits: Limits,
        control: Control,
        metrics: ProxyMetrics,
        view: Callable[[], View | None],
        bury: Callable[[Key], Deferred[bool]],
        spread: Callable[[Key], Deferred[object]],
    ) -> None:
        self._now_ms = now_ms
        self._limits = limits
        self._control = control
        self._metrics = metrics
        self._view = view
        self._bury = bury
        self._spread = spread
        self._rounds = Rounds(clock, random, limits.sweep_interval_s, self.sweep, "the sweep for expired values")

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> Deferred[None]:
        return self._rounds.stop()

    async def sweep(self) -> None:
        """Make one round: page after page of what is due now on each owner, until all of it was seen once."""
        view, until_ms = self._view(), self._now_ms()
        if view is None or not view.open:
            return
        places: dict[NodeId, Place | None] = dict.fromkeys(view.seats)
        while places and self._view() is view:
            found: dict[Key, None] = {}
            for node, place in list(places.items()):
                del places[node]
                try:
                    page = await self._control.due(
                        view.seats[node], view.state, until_ms, place, self._limits.keys_page_max
                    )
                except KvError:
                    continue  # another owner will show the same, or the next round
                if page.more:
                    places[node] = page.rows[-1]
                found |= {Key(key): None for _, key in page.rows if node in view.electorates[slot_of(Key(key))].nodes}
            keys = list(found)
            for at in range(0, len(keys), self._limits.sweep_at_once):
                some = keys[at : at + self._limits.sweep_at_once]
                await every(map(self._put_away, some))

    async def _put_away(self, key: Key) -> None:
        try:
            if await self._bury(key):
                self._metrics.swept.inc()
            else:
                # A majority held something newer before: whoever showed the value has missed that.
                await self._spread(key)
        except KvError:
            pass  # the next round tries again
