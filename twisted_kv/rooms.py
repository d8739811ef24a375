"""A proxy's rooms, wired together, on whatever clock, randomness, store and transport they are handed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import TypeAlias

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime

from .buggify import Buggify, inert
from .config import FIRST
from .coordinator import Coordinator
from .counted import Counted, counted_by
from .courier import Courier
from .explaining import Explainer
from .leading import Lead
from .limits import Limits
from .listing import Listing
from .membership import Seat, State
from .mender import Mender
from .metrics import ProxyMetrics, Readings
from .mover import Mover
from .names import Key
from .peers.control import Control
from .peers.peer import Transport
from .peers.queue import Queues
from .quorum import Level
from .resp.door import RedisDoor
from .resp.whole import Whole
from .roster import Roster
from .saving import Saver
from .state.store import StateStore
from .sweeper import Sweeper
from .tokens import Keyring
from .tracing import Ids
from .versions import COUNTER_BITS, Ballot, HybridClock, is_value
from .views import View
from .web.backups import add_backups
from .web.bulk import add_bulk
from .web.cluster import ClusterDoor, Elsewhere, add_cluster, nowhere
from .web.events import Snapshots, add_events
from .web.explain import add_explain
from .web.keys import add_keys
from .web.openapi.route import add_openapi
from .web.original import add_original_proxy
from .web.pages import add_pages
from .web.site import App
from .web.tasks import TaskDoor, add_tasks
from .web.v1 import add_v1
from .web.viewers import Compose, Viewers

Others: TypeAlias = Callable[[], Awaitable[Mapping[int, Counted | None]]]
"""Gives what the other processes of this proxy have counted, by their numbers; None for one that did not answer."""


async def nobody() -> Mapping[int, Counted | None]:
    """There is no other process."""
    return {}


class Rooms:
    """The rooms of one proxy."""

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        now_ms: Callable[[], int],
        limits: Limits,
        store: StateStore,
        transport: Transport,
        buggify: Buggify = inert,
    ) -> None:
        self._clock = clock
        self._now_ms = now_ms
        self.metrics = ProxyMetrics()
        writer = random.getrandbits(64)
        hybrid = HybridClock(now_ms, writer)
        self.ids = Ids(writer)
        if buggify("clock: the counter is near its end"):
            next_ms = (now_ms() + 1) << COUNTER_BITS
            hybrid.learn(Ballot((next_ms - 3).to_bytes(8, "big") + bytes(8)))
        control = Control(transport, limits)
        self.queues = Queues(
            clock, limits, transport, self.metrics, lambda node, reply: self.roster.outdated(node, reply), buggify
        )
        self.coordinator = Coordinator(
            clock, random, now_ms, hybrid, limits, self.queues, self.metrics, buggify, self.ids
        )
        lead = Lead(store)
        self.mover = Mover(
            clock,
            random,
            limits,
            store,
            lead,
            control,
            hybrid,
            lambda state: self.roster.take_up(state),
            lambda: self.roster.view.state if self.roster.view is not None else None,
            lambda error: self.roster.waiters.fail(error),
            self.queues.wait_s,
            buggify,
        )
        self.courier = Courier(
            clock,
            random,
            limits,
            lead,
            control,
            self.metrics,
            lambda: self.roster.view,
            lambda seat: self.roster.probes.remembered(seat),
            lambda key: self.coordinator.get(key, Level.ALL),
            self.queues.wait_s,
            buggify,
        )
        self.mender = Mender(
            clock,
            random,
            limits,
            lead,
            control,
            self.metrics,
            hybrid,
            lambda: self.roster.view,
            lambda seat: self.roster.probes.remembered(seat),
            lambda key: self.coordinator.get(key, Level.ALL),
            self.coordinator.refill,
            buggify,
        )
        self.saver = Saver(clock, random, now_ms, control, lambda: self.roster.view)
        self.sweeper = Sweeper(
            clock,
            random,
            now_ms,
            limits,
            control,
            self.metrics,
            lambda: self.roster.view,
            lambda key: ensureDeferred(self.coordinator.bury(key)),
            lambda key: self.coordinator.get(key, Level.ALL),
        )
        self.listing = Listing(
            clock,
            now_ms,
            limits,
            control,
            lambda: self.roster.view,
            lambda: self.roster.probes.look_around(),
            self.queues.avoided,
            self._holds_value,
        )
        self.explainer = Explainer(
            clock,
            now_ms,
            limits,
            self.queues,
            control,
            lambda: self.roster.view,
            lambda seat: self.roster.probes.info_of(seat),
            lambda seat: self.roster.probes.round_trips(seat),
        )
        self.whole = Whole(
            random,
            limits,
            self.listing,
            self.coordinator,
            control,
            lambda: self.roster.view,
            self.explainer.explain,
        )
        self.roster = Roster(
            clock,
            random,
            now_ms,
            limits,
            store,
            control,
            self.queues,
            self.coordinator.adopt,
            self.mover.kick,
            self.courier.kick,
            buggify,
        )
        watch = self.metrics.watch
        watch("kv_epoch", "The epoch of this proxy's view", lambda: self._view_of(lambda view: view.epoch))
        watch("kv_members", "Members of the cluster", lambda: self._view_of(lambda view: len(view.seats)))
        watch("kv_operations_under_way", "Client operations under way", lambda: self.coordinator.under_way)
        each = self.metrics.watch_each
        by_lane = "node", "lane"
        each("kv_queued_operations", "Operations waiting for a batch", by_lane, lambda: self.queues.depths("ops"))
        each("kv_queued_bytes", "Bytes of records waiting for a batch", by_lane, lambda: self.queues.depths("bytes"))
        each("kv_member_info", "A member's URL and zone; always 1", ("node", "url", "zone"), self._members)
        each("kv_member_up", "Whether a member answered when it was last asked", ("node",), self._members_up)
        each("kv_hints_waiting", "Hints that wait for a member, as their keepers say", ("node",), self._hints_for)
        watch("kv_change_under_way", "Whether data moves to other members", lambda: self._changes(True))
        watch("kv_changes_pending", "Changes of the ring that wait for it", lambda: self._changes(False))
        watch(
            "kv_repair_slots_done",
            "Slots that the last round of repair has compared, and repaired where they differed",
            lambda: self.mender.done,
        )
        watch("kv_nodes_avoided", "Nodes that are avoided since they failed", lambda: len(self.queues.avoided()))
        watch("kv_nodes_slow", "Nodes that are asked last since the others are far faster", self.queues.slow)

    def _view_of(self, figure: Callable[[View], float]) -> float:
        return figure(self.roster.view) if self.roster.view is not None else 0

    def _seats(self) -> list[Seat]:
        return list(self.roster.view.seats.values()) if self.roster.view is not None else []

    def _members(self) -> Readings:
        return [((seat.id, seat.url, seat.zone or ""), 1) for seat in self._seats()]

    def _members_up(self) -> Readings:
        return [((seat.id,), self.roster.probes.remembered(seat) is not None) for seat in self._seats()]

    def _hints_for(self) -> Readings:
        infos = [self.roster.probes.info_of(seat) for seat in self._seats()]
        hints = sum((Counter(info.hints) for info in infos if info is not None), Counter[str]())
        return [((seat.id,), hints[seat.id]) for seat in self._seats()]

    def _changes(self, running: bool) -> float:
        state = self.roster.view.state if self.roster.view is not None else None
        if state is None:
            return 0
        return float(state.change is not None) if running else len(state.pending)

    def counted(self) -> Counted:
        """Give what this process has counted."""
        return counted_by(self.metrics, self.coordinator.under_way)

    async def start(self, found: Callable[[State | None], State], drives: bool = True) -> State:
        """Start what serves clients, and what looks after the cluster.

        :param found: a store transaction that gives the state to start with, or refuses what it finds.
        :param drives: False for a proxy that only serves: changes, hints, repair and the sweep are left to others.
        """
        if drives:
            self.mover.start()
        state = await self.roster.start(found)
        if drives:
            self.sweeper.start()
            self.courier.start()
            self.mender.start()
        return state

    async def stop(self) -> None:
        self.saver.stop()
        await self.courier.stop()
        await self.mender.stop()
        await self.sweeper.stop()
        await self.mover.stop()
        await self.roster.stop()

    def _holds_value(self, key: Key) -> Deferred[bool]:
        found = self.coordinator.get(key, Level.STRONG)
        return found.addCallback(lambda done: is_value(done.record))

    def redis(self, limits: Limits, default: Level, allow_flush: bool, keyring: Keyring | None = None) -> RedisDoor:
        """The proxy's Redis door.

        :param keyring: the tokens that its clients have to show, if any.
        """

        def durable() -> bool:
            seats = self.roster.view.seats if self.roster.view is not None else {}
            return not any(seat.forgetful for seat in seats.values())

        return RedisDoor(
            self._clock, self._now_ms, limits, self.coordinator, self.whole, default, allow_flush, durable, keyring
        )

    def app(
        self,
        limits: Limits,
        default: Level,
        app: App | None = None,
        elsewhere: Elsewhere = nowhere,
        others: Others = nobody,
        composing: Callable[[Compose], Compose] = lambda own: own,
        keyring: Keyring | None = None,
    ) -> App:
        """The proxy's whole door.

        :param app: a door without routes, where it is not to be a plain one.
        :param elsewhere: gives the troubles that another process of this proxy knows of.
        :param others: gives what its other processes have counted.
        :param composing: gives who takes looks for those who watch, in the place of this process where it cannot.
        :param keyring: the tokens that its clients have to show, if any.
        """
        app = app if app is not None else App()
        cluster = ClusterDoor(self.roster, self.mover, limits, default)
        tasks = TaskDoor(self.roster, self.mover, self.mender, self.saver, limits)

        async def counting() -> Mapping[int, Counted | None]:
            return {FIRST: self.counted(), **await others()}

        looks = Snapshots(self._clock, self._now_ms, limits, cluster, tasks, counting)
        self.viewers = Viewers(self._clock, limits, composing(looks.compose))
        add_original_proxy(app, self.coordinator, self.roster, limits, default)
        add_v1(app, self.coordinator, self._now_ms, limits, default)
        add_keys(app, self.listing, limits)
        add_bulk(app, self.coordinator, self._now_ms, limits, default)
        add_cluster(app, cluster, self.metrics, elsewhere)
        add_explain(app, self.explainer, limits)
        add_tasks(app, tasks)
        add_backups(app, self.saver)
        add_events(app, self.viewers, lambda: self.roster.view)
        add_pages(app)
        add_openapi(app, limits, keyring or Keyring())
        return app
