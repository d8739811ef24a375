"""``twistd kvnode``: a storage node put together."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from klein import Klein
from twisted.application.service import IService, Service
from twisted.application.strports import service as listening_service
from twisted.internet.defer import inlineCallbacks
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from . import __version__
from .config import NodeConfig
from .metrics import NodeMetrics
from .options import Leash, NodeOptions, fresh_random, monotonic_reactor, spare_the_collector, wall_ms
from .replica import Replica
from .storage.memory import MemoryEngine
from .web.node import add_node
from .web.original import add_original_node
from .web.site import App, KvSite

Options = NodeOptions


def node_app(replica: Replica, metrics: NodeMetrics, config: NodeConfig) -> Klein:
    """A node's whole door."""
    app = App()
    add_node(app, replica, metrics)
    add_original_node(app, replica, config.limits)
    return app


class Node(Service):
    """One storage node. Everything is opened when the service starts, since twistd forks before that."""

    log = Logger()

    def __init__(self, reactor: Any, random: Random, now_ms: Callable[[], int], config: NodeConfig) -> None:
        self._reactor = reactor
        self._random = random
        self._now_ms = now_ms
        self._config = config

    def startService(self) -> None:
        super().startService()
        config, random, metrics = self._config, self._random, NodeMetrics()
        self._engine = MemoryEngine()
        replica = Replica(
            self._now_ms,
            random.getrandbits(64),
            self._engine,
            f"i-{random.getrandbits(64):016x}",
            config.limits,
            __version__,
        )
        metrics.watch("kv_node_keys", "Keys that hold a value", lambda: self._engine.totals().keys)
        metrics.watch("kv_node_bytes", "Bytes of keys and records", lambda: self._engine.totals().bytes)
        metrics.watch("kv_node_epoch", "The highest epoch this node was shown", lambda: replica.epoch)
        site = KvSite(
            self._reactor, node_app(replica, metrics, config), config.limits, config.limits.node_body_bytes_max
        )
        self._door = listening(self._reactor, config.interface, config.port, site)
        self.log.info(
            "kvnode on {url}, engine {engine}, incarnation {incarnation}",
            url=url_of(config.interface, config.port),
            engine=self._engine.name,
            incarnation=replica.incarnation,
        )

    @inlineCallbacks
    def stopService(self) -> Any:
        yield super().stopService()
        yield self._door.stopService()
        self._engine.close()


def url_of(interface: str, port: int) -> str:
    return f"http://[{interface}]:{port}" if ":" in interface else f"http://{interface}:{port}"


def listening(reactor: Any, interface: str, port: int, site: KvSite) -> IService:
    """Listen, or end the process with a plain sentence."""
    address = interface.replace(":", "\\:")
    door = listening_service(f"tcp:{port}:interface={address}", site, reactor)
    try:
        door.privilegedStartService()
    except CannotListenError as error:
        raise SystemExit(f"port {port} on {interface} cannot be used: {error.socketError}") from None
    door.startService()
    return door


def makeService(options: NodeOptions) -> IService:
    reactor = monotonic_reactor()
    spare_the_collector()
    if options["leash"]:
        Leash.put_on(reactor)
    return Node(reactor, fresh_random(), wall_ms, options.config)
