"""The courier: brings to an owner that is back what it has missed, as the hints of others say.

What a keeper of a hint holds of the key now is sent as an accept under the ballot it has. So a hint may be replayed
twice, late, or beside a client's write; and a deleted value does not come back by one (P6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from .buggify import Buggify, inert
from .errors import KvError
from .leading import Lead
from .limits import Limits
from .membership import Seat
from .metrics import ProxyMetrics
from .names import Key, NodeId
from .peers.control import Control
from .periodic import Rounds
from .register import ACCEPT, Op
from .ring import slot_of
from .throttle import Throttle
from .together import tried
from .versions import NONE
from .views import View
from .wire.joining import Info
from .wire.pages import Row


class Courier:
    """Replays hints, for one proxy.

    :param view: gives the view that the proxy acts on now.
    :param info_of: says what a member last said of itself, None if it did not answer or has forgotten.
    :param spread: reads a key at level ``all``, which gives every owner what a majority holds.
    :param wait_s: says how long clients wait at present.
    """

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        limits: Limits,
        lead: Lead,
        control: Control,
        metrics: ProxyMetrics,
        view: Callable[[], View | None],
        info_of: Callable[[Seat], Info | None],
        spread: Callable[[Key], Deferred[object]],
        wait_s: Callable[[], float],
        buggify: Buggify = inert,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._lead = lead
        self._control = control
        self._metrics = metrics
        self._view = view
        self._info_of = info_of
        self._spread = spread
        self._wait_s = wait_s
        self._buggify = buggify
        self._rounds = Rounds(clock, random, limits.courier_interval_s, self._round, "the replay of hints")

    def start(self) -> None:
        self._rounds.start()

    def kick(self) -> None:
        """Look now whether hints wait: a member is back."""
        self._rounds.kick()

    def stop(self) -> Deferred[None]:
        return self._rounds.stop()

    async def _round(self) -> None:
        view = self._view()
        if view is None or not view.open:
            return
        said = {node: info for node, seat in view.seats.items() if (info := self._info_of(seat)) is not None}
        # Whoever has left takes its hints along: they are brought to the present owners.
        work = [
            (view.seats[keeper], NodeId(owner))
            for keeper, info in said.items()
            for owner in info.hints
            if owner not in view.seats or owner in said
        ]
        if work:
            await self._lead.during(lambda: self._replay_all(view, work))

    async def _replay_all(self, view: View, work: Iterable[tuple[Seat, NodeId]]) -> None:
        throttle = Throttle(self._clock, self._limits.rebalance_bytes_per_s, self._wait_s)
        for keeper, owner in work:
            try:
                await self._replay(view, keeper, owner, throttle)
            except KvError:
                continue  # the next round tries again

    async def _replay(self, view: View, keeper: Seat, owner: NodeId, throttle: Throttle) -> None:
        """Replay what one keeper has for one owner, page by page. What cannot be brought now stays."""
        after, done, more = Key(b""), [], True
        while more and self._view() is view:
            began_s = self._clock.seconds()
            page = await self._control.hints(keeper, view.state, owner, after, self._limits.hints_page_max, done)
            more = page.more
            if not page.rows:
                return
            after = Key(page.rows[-1].key)
            done = await self._brought(view, keeper, owner, page.rows)
            if self._buggify("courier: a page is replayed twice"):
                done = await self._brought(view, keeper, owner, page.rows)
            self._metrics.replayed.inc(len(done))
            size = sum(len(row.key) + len(row.record) for row in page.rows)
            await throttle.pause(size, self._clock.seconds() - began_s)
        if done:
            await self._control.hints(keeper, view.state, owner, after, 1, done)

    async def _brought(self, view: View, keeper: Seat, owner: NodeId, rows: Iterable[Row]) -> list[tuple[bytes, bytes]]:
        """Bring rows to whom they are for; name those that are there now, each with its ballot."""
        sent: dict[NodeId, list[Row]] = {}
        done: dict[bytes, bytes] = {}
        for row in rows:
            if row.ballot == NONE:
                # The keeper has nothing of it any more: its slot has moved, and whoever owns it was filled.
                done[row.key] = b"\xff" * 16
                continue
            done[row.key] = row.ballot
            owners = view.electorates[slot_of(row.key)].nodes
            for node in (owner,) if owner in owners else owners:
                if node != keeper.id:
                    sent.setdefault(node, []).append(row)
        refused: dict[Key, None] = {}
        missed: set[bytes] = set()
        for node, some in sent.items():
            ops = [Op(ACCEPT, row.key, row.ballot, row.record) for row in some]
            try:
                replies = await self._control.ask(view.seats[node], view.state, ops)
            except KvError:
                missed |= {row.key for row in some}
                continue
            for row, reply in zip(some, replies, strict=True):
                if not reply.taken and reply.accepted < row.ballot:
                    refused[Key(row.key)] = None
        results = await tried(map(self._spread, refused))
        missed |= {key for key, result in zip(refused, results, strict=True) if isinstance(result, KvError)}
        return [(key, ballot) for key, ballot in done.items() if key not in missed]
