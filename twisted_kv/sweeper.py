"""The sweep: values that have expired and that nobody reads become tombstones too.

Whoever reads an expired value proposes the tombstone that replaces it; this room does the same for what the owners'
indexes by expiry show. Several proxies may sweep at once: the later one finds the tombstone.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime

from .errors import KvError
from .limits import Limits
from .membership import View
from .metrics import ProxyMetrics
from .names import Key
from .peers.control import Control
from .periodic import Rounds
from .ring import slot_of


class Sweeper:
    """Sweeps for one proxy.

    :param view: gives the view that the proxy acts on now.
    :param bury: reads a key in a round that replaces what has expired by its tombstone.
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
        bury: Callable[[Key], Deferred[object]],
        spread: Callable[[Key], Deferred[object]],
    ) -> None:
        self._now_ms = now_ms
        self._limits = limits
        self._control = control
        self._metrics = metrics
        self._view = view
        self._bury = bury
        self._spread = spread
        self._buried: set[Key] = set()
        self._rounds = Rounds(clock, random, limits.sweep_interval_s, self.sweep, "the sweep for expired values")

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> Deferred[None]:
        return self._rounds.stop()

    async def sweep(self) -> None:
        """Make one round: a page of what is due on each owner."""
        view = self._view()
        if view is None or not view.open:
            return
        found: dict[Key, None] = {}
        for node, seat in view.seats.items():
            try:
                rows = await self._control.due(seat, view.state, self._now_ms(), None, self._limits.keys_page_max)
            except KvError:
                continue  # another owner will show the same, or the next round
            found |= {Key(key): None for _, key in rows if node in view.table[slot_of(Key(key))]}
        # What was buried and is shown again lies on an owner whom the tombstone has missed.
        again = self._buried.intersection(found)
        self._buried = set(found) - again
        keys = list(found)
        for at in range(0, len(keys), self._limits.sweep_at_once):
            some = keys[at : at + self._limits.sweep_at_once]
            await DeferredList(
                [(self._spread if key in again else self._bury)(key) for key in some], consumeErrors=True
            )
        self._metrics.swept.inc(len(keys) - len(again))
