"""Probes: the members are asked again and again who they are, and whether they still know what they held."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from random import Random
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .errors import ForeignNode, KvError
from .limits import Limits
from .liveness import Pace
from .membership import Seat, State, present_seats
from .names import Epoch, NodeId
from .peers.control import Control
from .peers.queue import Queues
from .periodic import Rounds
from .wire.joining import Info


class Sighting(NamedTuple):
    """What a member said when it was last asked, None if it did not answer, and why not."""

    info: Info | None
    error: str = ""
    ahead_s: float = 0.0
    """How far its clock was ahead of this proxy's."""


class RoundTrips(NamedTuple):
    """Within which time half, and nearly all, of a member's answers came lately."""

    p50_s: float
    p99_s: float


class Probes:
    """One proxy's probes.

    :param state: gives the state that the proxy acts on now.
    :param ahead: called with the epoch of a node that knows a newer one.
    :param back: called when a member answers again, or for the first time.
    :param forgot: called with the seats of those who forgot, as they would be after a rebuild.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        now_ms: Callable[[], int],
        limits: Limits,
        control: Control,
        queues: Queues,
        state: Callable[[], State],
        ahead: Callable[[Epoch], object],
        forgot: Callable[[Sequence[Seat]], Coroutine[Any, Any, None]],
        back: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._now_ms = now_ms
        self._limits = limits
        self._control = control
        self._queues = queues
        self._state = state
        self._ahead = ahead
        self._forgot = forgot
        self._back = back
        self._rounds = Rounds(clock, random, limits.probe_interval_s, self.ask_all, "probes")
        self._kicked_s = float("-inf")
        self.sightings: dict[NodeId, Sighting] = {}
        self._paces: dict[NodeId, Pace] = {}
        """How long members took to answer probes."""

    def start(self) -> None:
        self._rounds.start()

    def kick(self) -> None:
        self._rounds.kick()

    def stop(self) -> Deferred[None]:
        return self._rounds.stop()

    def look_around(self) -> None:
        """Ask the members now who and in which epoch they are, unless that was just done."""
        now = self._clock.seconds()
        if now >= self._kicked_s + self._limits.kick_pause_s:
            self._kicked_s = now
            self._rounds.kick()

    def forget_all_but(self, nodes: Collection[NodeId]) -> None:
        """Forget what was seen of those who take part no more."""
        for node in [node for node in self.sightings if node not in nodes]:
            del self.sightings[node]
            self._paces.pop(node, None)

    def info_of(self, seat: Seat) -> Info | None:
        """What a member said of itself when it was last asked, None if it did not answer."""
        sighting = self.sightings.get(NodeId(seat.id))
        return sighting.info if sighting is not None else None

    def round_trips(self, seat: Seat) -> RoundTrips | None:
        """Say how long a member takes to answer reads, or probes where nobody reads; None if nobody knows."""
        node, now = NodeId(seat.id), self._clock.seconds()
        queue, probes = self._queues.by_node.get(node), self._paces.get(node)
        for pace in (queue.pace if queue is not None else None, probes):
            if pace is not None:
                half, most = pace.quantile(0.5, now), pace.quantile(0.99, now)
                if half is not None and most is not None:
                    return RoundTrips(half, most)
        return None

    def remembered(self, seat: Seat) -> Info | None:
        """What a member said of itself, if it is the one whose memory counts."""
        info = self.info_of(seat)
        return info if info is not None and info.incarnation == seat.incarnation else None

    def renewed(self, seat: Seat) -> Seat | None:
        """The seat with the incarnation it has now, if that is another one."""
        info = self.info_of(seat)
        if info is None or info.incarnation == seat.incarnation:
            return None
        return msgspec.structs.replace(seat, incarnation=info.incarnation, forgetful=info.forgetful)

    def clock_ahead_s(self) -> float:
        """How far this proxy's clock is ahead of most nodes' (of the median one's)."""
        clocks = sorted(s.info.now_ms for s in self.sightings.values() if s.info is not None)
        return (self._now_ms() - clocks[len(clocks) // 2]) / 1000 if clocks else 0.0

    async def ask_all(self) -> None:
        """Make one round."""
        await DeferredList(
            [ensureDeferred(self._ask(seat)) for seat in present_seats(self._state())], consumeErrors=True
        )
        renewed = [seat for seat in map(self.renewed, present_seats(self._state())) if seat is not None]
        if renewed:
            await self._forgot(renewed)

    async def _ask(self, seat: Seat) -> None:
        node = NodeId(seat.id)
        queue = self._queues.by_node.get(node)
        cluster, began_s = self._state().cluster_id, self._clock.seconds()
        try:
            info = await self._control.info(seat.url, self._limits.probe_timeout_s)
            ahead_s = (info.now_ms - self._now_ms()) / 1000
            now_s = self._clock.seconds()
            self._paces.setdefault(node, Pace(self._limits)).add(now_s, now_s - began_s)
            if not info.cluster:
                info = await self._control.join(seat.url, cluster, seat.id)
            if (info.cluster, info.member) != (cluster, seat.id):
                raise ForeignNode(f"member {info.member} of cluster {info.cluster} answers at its address")
        except KvError as error:
            self._saw(seat, Sighting(None, error.detail))
            if queue is not None:
                queue.refuse(error.detail, probe=True)
            return
        self._saw(seat, Sighting(info, ahead_s=ahead_s))
        if info.epoch > self._state().epoch:
            self._ahead(Epoch(info.epoch))
        if queue is not None:
            queue.confirm(probe=True)

    def _saw(self, seat: Seat, sighting: Sighting) -> None:
        before = self.sightings.get(NodeId(seat.id))
        self.sightings[NodeId(seat.id)] = sighting
        if sighting.info is None and (before is None or before.info is not None):
            self.log.warn("{node} at {url} is down: {error}", node=seat.id, url=seat.url, error=sighting.error)
        elif sighting.info is not None and (before is None or before.info is None):
            if before is not None:
                self.log.info("{node} at {url} is up again", node=seat.id, url=seat.url)
            self._back()
