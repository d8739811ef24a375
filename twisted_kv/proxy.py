"""``twistd kvproxy``: the proxy put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from klein import Klein
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, ensureDeferred, inlineCallbacks
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from .buggify import Buggify, inert
from .config import ProxyConfig
from .coordinator import Coordinator
from .courier import Courier
from .errors import BadInput, ForeignNode, KvError, NodeHasData, StateUnusable
from .leading import Lead
from .limits import Limits
from .listing import Listing
from .membership import State, founded
from .mender import Mender
from .metrics import ProxyMetrics
from .mover import Mover
from .names import ClusterId, Key
from .node import listening, url_of
from .options import (
    Leash,
    ProxyOptions,
    end_with_failure,
    fresh_random,
    monotonic_reactor,
    spare_the_collector,
    wall_ms,
)
from .peers.control import Control
from .peers.http import HttpTransport
from .peers.peer import Transport
from .peers.queue import Queues
from .quorum import Level, parse_level
from .ring import FNV_IS_COMPILED
from .roster import Roster
from .state.etcd import EtcdStore
from .state.file import FileStore
from .state.gateway import HttpGateway
from .state.store import StateStore
from .sweeper import Sweeper
from .versions import COUNTER_BITS, Ballot, HybridClock, is_value
from .views import View
from .web.bulk import add_bulk
from .web.cluster import ClusterDoor, add_cluster
from .web.keys import add_keys
from .web.original import add_original_proxy
from .web.site import App, KvSite
from .web.tasks import TaskDoor, add_tasks
from .web.v1 import add_v1

Options = ProxyOptions

STOP_PATIENCE_S = 2.0
FIRST_NODES_RETRY_S = 0.3


class Rooms:
    """A proxy's rooms, wired together, on whatever clock, randomness, store and transport they are handed."""

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
        self._now_ms = now_ms
        self.metrics = ProxyMetrics()
        hybrid = HybridClock(now_ms, random.getrandbits(64))
        if buggify("clock: the counter is near its end"):
            next_ms = (now_ms() + 1) << COUNTER_BITS
            hybrid.learn(Ballot((next_ms - 3).to_bytes(8, "big") + bytes(8)))
        control = Control(transport, limits)
        self.queues = Queues(
            clock, limits, transport, self.metrics, lambda node, reply: self.roster.outdated(node, reply), buggify
        )
        self.coordinator = Coordinator(clock, random, now_ms, hybrid, limits, self.queues, self.metrics, buggify)
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
        watch("kv_queued_operations", "Operations waiting for a batch", self.queues.waiting)
        watch("kv_nodes_avoided", "Nodes that are avoided since they failed", lambda: len(self.queues.avoided()))
        watch("kv_nodes_slow", "Nodes that are asked last since the others are far faster", self.queues.slow)

    def _view_of(self, figure: Callable[[View], float]) -> float:
        return figure(self.roster.view) if self.roster.view is not None else 0

    async def start(self, found: Callable[[State | None], State]) -> State:
        self.mover.start()
        state = await self.roster.start(found)
        self.sweeper.start()
        self.courier.start()
        self.mender.start()
        return state

    async def stop(self) -> None:
        await self.courier.stop()
        await self.mender.stop()
        await self.sweeper.stop()
        await self.mover.stop()
        await self.roster.stop()

    def _holds_value(self, key: Key) -> Deferred[bool]:
        found = self.coordinator.get(key, Level.STRONG)
        return found.addCallback(lambda done: is_value(done.record))

    def app(self, limits: Limits, default: Level) -> Klein:
        """The proxy's whole door."""
        app = App()
        add_original_proxy(app, self.coordinator, self.roster, limits, default)
        add_v1(app, self.coordinator, self._now_ms, limits, default)
        add_keys(app, self.listing, limits)
        add_bulk(app, self.coordinator, self._now_ms, limits, default)
        add_cluster(app, ClusterDoor(self.roster, self.mover, limits, default), self.metrics)
        add_tasks(app, TaskDoor(self.roster, self.mover, self.mender, limits))
        return app


def founding(config: ProxyConfig, random: Random) -> Callable[[State | None], State]:
    """The first transaction of a proxy: found a cluster, or agree with the one that is there."""
    cluster_id = ClusterId(f"c-{random.getrandbits(64):016x}")

    def step(state: State | None) -> State:
        if state is None:
            return founded(cluster_id, config.replicas or 3, config.vnodes or 256)
        for name in ("replicas", "vnodes"):
            wanted, is_now = getattr(config, name), getattr(state, name)
            if wanted is not None and wanted != is_now:
                raise StateUnusable(
                    f"--{name} {wanted} contradicts the cluster's state, which says {is_now}",
                    f"leave --{name} out, or name another state with --state",
                )
        return state

    return step


class Proxy(Service):
    """One proxy process."""

    log = Logger()

    def __init__(self, reactor: Any, random: Random, now_ms: Callable[[], int], config: ProxyConfig) -> None:
        self._reactor = reactor
        self._random = random
        self._now_ms = now_ms
        self._config = config
        self._door: IService | None = None
        self._first_nodes: list[Deferred[None]] = []

    def startService(self) -> None:
        super().startService()
        config, limits = self._config, self._config.limits
        if not FNV_IS_COMPILED:
            self.log.warn("fnv-hash-fast has no compiled part here: every look-up costs 3 us more")
        self._transport = HttpTransport(self._reactor, limits)
        store = self._state_store()
        self._rooms = Rooms(self._reactor, self._random, self._now_ms, limits, store, self._transport)
        starting = ensureDeferred(self._rooms.start(founding(config, self._random)))
        starting.addCallback(self._open).addErrback(self._cannot_start)

    def _state_store(self) -> StateStore:
        config, limits = self._config, self._config.limits
        place = config.state_place
        if isinstance(place, Path):
            return FileStore(self._reactor, place, limits)
        gateway = HttpGateway(self._transport, place.urls, limits)
        name = f"{url_of(config.interface, config.port)}/{self._random.getrandbits(64):016x}"
        return EtcdStore(self._reactor, gateway, place.prefix, name, limits)

    def _open(self, state: State) -> None:
        config = self._config
        app = self._rooms.app(config.limits, parse_level(config.consistency))
        site = KvSite(self._reactor, app, config.limits, config.limits.body_bytes_max)
        self._door = listening(self._reactor, config.interface, config.port, site)
        self.log.info(
            "kvproxy on {url}, cluster {cluster} at epoch {epoch} with {count} members",
            url=url_of(config.interface, config.port),
            cluster=state.cluster_id,
            epoch=state.epoch,
            count=len(state.members),
        )
        members = {seat.url for seat in state.members}
        self._first_nodes = [ensureDeferred(self._add_first(url)) for url in config.nodes if url not in members]

    async def _add_first(self, url: str) -> None:
        """Add a node that may be starting at this very moment; give up on one that can never be added."""
        complaint = ""
        roster = self._rooms.roster
        roster.awaited.add(url)
        while self.running:
            try:
                await roster.add(url, 1)
                break
            except (BadInput, ForeignNode, NodeHasData) as error:
                self.log.error("{url} is not added: {error} ({hint})", url=url, error=error.detail, hint=error.hint)
                break
            except KvError as error:
                if error.detail != complaint:
                    complaint = error.detail
                    self.log.warn("{url} cannot be added yet: {error}", url=url, error=complaint)
            await deferLater(self._reactor, FIRST_NODES_RETRY_S)
        roster.awaited.discard(url)

    def _cannot_start(self, failure: Failure) -> None:
        """End the process with status 1 and a sentence."""
        error = failure.value
        if isinstance(error, KvError):
            self.log.critical("the proxy cannot start: {detail} ({hint})", detail=error.detail, hint=error.hint)
        elif isinstance(error, SystemExit):
            self.log.critical("the proxy cannot start: {error}", error=error)
        else:
            self.log.failure("the proxy cannot start", failure)
        end_with_failure(self._reactor)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Close the door, let what runs end, stop the rounds, close the pool: in this order."""
        yield super().stopService()
        for adding in self._first_nodes:
            adding.addErrback(lambda _: None)
            adding.cancel()
        if self._door is not None:
            yield self._door.stopService()
        until = self._reactor.seconds() + STOP_PATIENCE_S
        while self._rooms.coordinator.under_way and self._reactor.seconds() < until:
            yield deferLater(self._reactor, 0.02)
        yield ensureDeferred(self._rooms.stop())
        yield self._transport.close()


def makeService(options: ProxyOptions) -> IService:
    reactor = monotonic_reactor()
    spare_the_collector()
    if options["leash"]:
        Leash.put_on(reactor)
    return Proxy(reactor, fresh_random(), wall_ms, options.config)
