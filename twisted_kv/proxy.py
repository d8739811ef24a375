"""``twistd kvproxy``: the proxy put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, ensureDeferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from . import __version__
from .config import FIRST, ProxyConfig
from .errors import BadConfig, BadInput, ForeignNode, KvError, NodeHasData, StateUnusable
from .fasthttp.gate import Gate
from .fasthttp.parting import Parting, part_with_all
from .interfaces import allowed_networks
from .membership import State, founded
from .names import ClusterId
from .node import listening, place_of, tcp_endpoint, url_of
from .notify import Notices, silent
from .options import ProxyOptions
from .peers.http import HttpTransport
from .peers.link import LinkTransport
from .process import (
    Leash,
    end_with_failure,
    fresh_random,
    monotonic_reactor,
    notices_of,
    on_hangup,
    spare_the_collector,
    stop_once,
    take_descriptors,
    wall_ms,
)
from .pulse import Pulse
from .quorum import parse_level
from .resp.door import RedisDoor
from .ring import FNV_IS_COMPILED
from .rooms import Rooms
from .state.etcd import EtcdStore
from .state.file import FileStore
from .state.gateway import HttpGateway
from .state.store import StateStore
from .tls import client_tls
from .token_files import TokenFile
from .web.site import UI_PREFIX, KvSite
from .workers import part_of

Options = ProxyOptions

PART_GRACE_S = 0.5
"""How long a stopping proxy waits for the next request of kept connections, to tell them that it is the last."""
STOP_SPARE_S = 0.5
"""How much longer a stopping proxy waits than an operation may take."""
FIRST_NODES_RETRY_S = 0.3


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
    """One process of a proxy: the only one, or one of several workers.

    :param worker: its number among them.
    :param redis_is_named: whether its operator has named the Redis door's port, and wants it or nothing.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        random: Random,
        now_ms: Callable[[], int],
        config: ProxyConfig,
        worker: int = FIRST,
        redis_is_named: bool = True,
        notices: Notices = silent,
    ) -> None:
        self._reactor = reactor
        self._notices = notices
        self._random = random
        self._now_ms = now_ms
        self._config = config
        self._worker = worker
        self._redis_is_named = redis_is_named
        self._door: IService | None = None
        self._redis: IService | None = None
        self._redis_door: RedisDoor | None = None
        self._site: KvSite | None = None
        self._stopping = False
        self._first_nodes: list[Deferred[None]] = []
        self._tokens = TokenFile(config.token_file)
        self._node_tokens = TokenFile(config.node_token_file, of_nodes=True)
        self._tls = client_tls(config.tls_authority, config.tls_identity)
        self._gateway: HttpTransport | None = None
        self._transport: HttpTransport | LinkTransport | None = None
        self._part = part_of(reactor, config, worker)

    def read_tokens_again(self) -> None:
        self._tokens.read_again()
        self._node_tokens.read_again()
        if self._config.token_file or self._config.node_token_file:  # or workers would end (``process.on_hangup``)
            self._part.read_tokens_again()

    def startService(self) -> None:
        super().startService()
        config, limits = self._config, self._config.limits
        # Nothing of a run before this one is open any more.
        self._stopping = False
        self._transport = self._gateway = self._site = self._door = self._redis = self._redis_door = None
        self._first_nodes = []
        if not FNV_IS_COMPILED:
            self.log.warn("fnv-hash-fast has no compiled part here: every look-up costs 3 us more")
        try:
            self._tokens.read()
            self._node_tokens.read()
        except BadConfig:
            self._cannot_start(Failure())
            return
        networks = allowed_networks(config.node_networks)
        keyring = self._node_tokens.keyring
        http = HttpTransport(self._reactor, limits, keyring=keyring, tls=self._tls, networks=networks)
        links = LinkTransport(self._reactor, limits, http) if config.transport == "link" else None
        transport = self._transport = links or http
        store = self._state_store()
        self._rooms = Rooms(self._reactor, self._random, self._now_ms, limits, store, transport)
        metrics = self._rooms.metrics
        metrics.watch_process("kvproxy", __version__)
        self._pulse = Pulse(self._reactor, limits.pulse_interval_s, metrics.reactor_lag.observe)
        self._pulse.start()
        if links is not None:
            metrics.watch("kv_links", "Links to nodes that are open now", links.links)
        part = self._part
        found = part.founding(founding(config, self._random))
        self._notices.status("reading the cluster's state")
        starting = self._starting = ensureDeferred(self._rooms.start(found, part.drives))
        # One that is stopped meanwhile, as it waits for etcd, neither opens nor has anything to complain of.
        starting.addCallback(lambda state: self._open(state) if self.running else None)
        starting.addErrback(lambda failure: self._cannot_start(failure) if self.running else None)

    def _state_store(self) -> StateStore:
        config, limits = self._config, self._config.limits
        place = config.state_place
        if isinstance(place, Path):
            return FileStore(self._reactor, place, limits)
        # A transport of its own: the nodes' token is none of etcd's business.
        self._gateway = HttpTransport(self._reactor, limits)
        gateway = HttpGateway(self._gateway, place.urls, limits)
        name = f"{url_of(config.interface, config.port)}/{self._random.getrandbits(64):016x}"
        return EtcdStore(self._reactor, gateway, place.prefix, name, limits)

    def _open(self, state: State) -> None:
        config, part, metrics = self._config, self._part, self._rooms.metrics
        keyring = self._tokens.keyring
        app = self._rooms.app(
            config.limits,
            parse_level(config.consistency),
            part.app(metrics),
            self._troubles,
            part.counted,
            part.composing,
            keyring,
        )
        metrics.watch("kv_viewers", "Streams of events that are open", lambda: len(self._rooms.viewers))
        site = self._site = KvSite(
            self._reactor,
            app,
            config.limits,
            config.limits.body_bytes_max,
            config.lane,
            gate=Gate(keyring, config.hosts, UI_PREFIX),
            ids=self._rooms.ids,
        )
        metrics.watch("kv_http_connections", "Connections of HTTP clients", lambda: len(site.overdue))
        metrics.watch_total(
            "kv_http_connections_shed",
            "Connections that were closed, or not let in, since descriptors were short",
            lambda: site.shed,
        )
        place = config.listen or tcp_endpoint(config.interface, config.port)
        self._door = listening(self._reactor, place, site, part.shares_port)
        if config.resp_port or config.resp_listen:
            redis = self._redis_door = self._rooms.redis(
                config.limits, parse_level(config.consistency), config.allow_flush, keyring
            )
            metrics.watch("kv_redis_clients", "Connections of Redis clients", lambda: len(redis.sessions()))
            metrics.watch_total("kv_redis_commands", "Commands of Redis clients", lambda: redis.processed)
            metrics.watch_total("kv_redis_clients_refused", "Redis clients that were not let in", lambda: redis.refused)
            try:
                place = config.resp_listen or tcp_endpoint(config.interface, config.resp_port or 0)
                self._redis = listening(self._reactor, place, redis, part.shares_port)
            except SystemExit as error:
                if self._redis_is_named or part.shares_port:
                    raise
                self.log.warn("there is no Redis door: {why} (name another port with --resp-port)", why=error)
        part.open(app, metrics, self._rooms.counted)
        self.log.info(
            "{name} on {url}, cluster {cluster} at epoch {epoch} with {count} members",
            name="kvproxy" if self._worker == FIRST else f"worker {self._worker} of kvproxy",
            url=place_of(config.listen) or url_of(config.interface, config.port),
            cluster=state.cluster_id,
            epoch=state.epoch,
            count=len(state.members),
        )
        # Not before the reactor runs: until then SIGHUP is not heard, and a reload would be lost.
        where = place_of(config.listen) or url_of(config.interface, config.port)
        self._reactor.callWhenRunning(self._notices.ready, f"serving on {where}")
        members = {seat.url for seat in state.members}
        self._first_nodes = [ensureDeferred(self._add_first(url)) for url in config.nodes if url not in members]

    async def _troubles(self) -> list[str]:
        """Say what the rooms do not know of."""
        if self._stopping:
            return ["this proxy is stopping"]
        return await self._part.troubles()

    def _under_way(self) -> int:
        return self._rooms.coordinator.under_way

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
        """Say so, close the doors, let what runs end, hang up, stop the rounds, close the pool: in this order."""
        yield super().stopService()
        self._stopping = True
        self._notices.stopping()
        if self._transport is None:
            return  # it could not even start
        self._starting.cancel()
        self._pulse.stop()
        for adding in self._first_nodes:
            adding.addErrback(lambda _: None)
            adding.cancel()
        # The other workers end at the same time as this one: whoever waits for all of them does not wait for long.
        parting = ensureDeferred(self._part.stop())
        limits = self._config.limits
        if self._door is not None:
            # Their clients wait for nothing, and the end of the others' answers is not to wait for them.
            self._rooms.viewers.stop()
            yield deferLater(self._reactor, limits.stop_notice_s)
        if self._door is not None:
            yield self._door.stopService()
        if self._redis is not None:
            yield self._redis.stopService()
        doors: list[Parting] = [door for door in (self._site, self._redis_door) if door is not None]
        patience_s = limits.operation_timeout_s + STOP_SPARE_S
        yield ensureDeferred(part_with_all(self._reactor, doors, self._under_way, PART_GRACE_S, patience_s))
        if self._site is not None:
            self._site.hang_up()
        if self._redis_door is not None:
            self._redis_door.hang_up()
        yield parting
        yield ensureDeferred(self._rooms.stop())
        yield self._transport.close()
        if self._gateway is not None:
            yield self._gateway.close()
        self._notices.stop()


def makeService(options: ProxyOptions) -> IService:
    reactor = monotonic_reactor()
    stop_once(reactor)
    spare_the_collector()
    take_descriptors()
    if options["leash"]:
        Leash.put_on(reactor)
    config, notices = options.config, notices_of(reactor)
    proxy = Proxy(reactor, fresh_random(), wall_ms, config, options.worker, options.redis_is_named, notices)
    on_hangup(reactor, proxy.read_tokens_again, config.token_file, config.node_token_file, notices=notices)
    return proxy
