"""Nodes and proxies of the simulation: the real rooms, each process an object graph that a crash drops."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from ..commit import AtOnce, Commit, GroupCommit
from ..config import ProxyConfig
from ..errors import DiskBusy, DiskFailed, DiskFull, StateUnusable
from ..limits import Limits
from ..membership import Seat, State, encode_state, founded
from ..metrics import NodeMetrics
from ..names import ClusterId
from ..peers.control import Control
from ..peers.peer import Answer
from ..proxy import founding
from ..pulling import Puller
from ..register import PREPARE
from ..replica import Replica
from ..rooms import Rooms
from ..scrubbing import Scrubber
from ..storage.memory import MemoryEngine
from ..wire.batches import batch_decoder
from ..wire.moving import drop_request_decoder
from .disk import Disk
from .door import answered
from .level import Carriage, Messages, Wire
from .network import Network
from .sites import Sites
from .store import Shelf, ShelfStore
from .world import Host, World

VNODES = 16
RESTART_S = 0.3


class Dropped(NamedTuple):
    """Ranges of slots that a node forgot on an order, and the state in the store as the order came."""

    url: str
    incarnation: str
    document: bytes
    ranges: list[tuple[int, int]]


class Node:
    """One node, and what outlasts its process: its disk, or with the memory engine nothing."""

    def __init__(self, cluster: Cluster, url: str, durable: bool) -> None:
        self._cluster = cluster
        self.url = url
        self.durable = durable
        self.host = Host(cluster.world, f"node{len(cluster.nodes)}")
        self.up = False
        self.sync_s: tuple[float, float] = (0.0005, 0.004)
        """How long a sync takes."""
        self.doom: Callable[[], object] | None = None
        """What happens to it as soon as it has answered a batch, or where ``doomed_by_promise`` one with a prepare."""
        self.doomed_by_promise = False
        self.engine: MemoryEngine = MemoryEngine()
        self.incarnation = ""
        self.replica: Replica
        self.forget()

    # Its process.

    def start(self) -> None:
        """Start on what the disk holds."""
        cluster, host = self._cluster, self.host
        self.up = True
        metrics = NodeMetrics()
        commit: Commit = AtOnce()
        if self.durable:
            commit = GroupCommit(host, self.engine.sync, self._in_thread, self._broken, metrics, cluster.sites)
        self.replica = Replica(
            host,
            host.wall_ms,
            cluster.world.random.getrandbits(64),
            self.engine,
            commit,
            self.incarnation,
            cluster.limits,
            metrics,
            self._broken,
            buggify=cluster.sites,
        )
        self.transport = cluster.carriage.transport(host)
        self.puller = Puller(host, cluster.limits, Control(self.transport, cluster.limits), self.replica, cluster.sites)
        self.replica.on_renewal = self._renewed
        self.scrubber = Scrubber(host, Random(cluster.world.random.getrandbits(64)), cluster.limits, self.replica)
        self.scrubber.start()
        cluster.carriage.open_node(host, self.replica, self.puller, metrics)

    def _renewed(self) -> None:
        """Begin anew with an empty disk, as a node does that cannot verify what it has."""
        self._cluster.world_host.callLater(0, self.forget)

    def _in_thread(self, work: Callable[[], None]) -> Deferred[None]:
        """Sync: what was written until now is durable in a while, unless the process or the disk fails meanwhile."""
        disk = self.engine
        assert isinstance(disk, Disk)
        covered = disk.written
        synced: Deferred[None] = Deferred()

        def done() -> None:
            if disk.broken:
                synced.errback(Failure(DiskFailed("the simulated disk has failed")))
            elif disk.full:
                synced.errback(Failure(DiskFull("there is no room left on the simulated disk")))
            elif disk.busy:
                synced.errback(Failure(DiskBusy("the simulated disk is behind")))
            else:
                disk.durable = max(disk.durable, covered)
                synced.callback(None)

        self.host.callLater(self._cluster.world.random.uniform(*self.sync_s), done)
        return synced

    def _broken(self, failure: Failure) -> None:
        """End at once, as the real node does, and come back on another disk's copy of what was durable."""
        failure.trap(DiskFailed)
        self.crash(power=True)
        if isinstance(self.engine, Disk):
            self.engine.broken = False
        self._cluster.world_host.callLater(RESTART_S, self.restart)

    def crash(self, power: bool = False) -> None:
        """End the process with SIGKILL, or with ``power`` the machine: then what was not synced may be gone."""
        if not self.up:
            return
        self.up = False
        self.host.end()
        if isinstance(self.engine, Disk):
            self.engine = self.engine.after_crash(self._cluster.world.random, power)
        else:
            self.forget(start=False)

    def restart(self) -> None:
        if not self.up:
            self.start()

    def forget(self, start: bool = True) -> None:
        """Lose the disk, or the memory; the node comes back empty, as another incarnation."""
        self._lose(Disk() if self.durable else MemoryEngine(), start)

    def forget_tail(self, steps: int) -> None:
        """Lose the end of what was synced, and notice it at the start."""
        assert isinstance(self.engine, Disk)
        self._lose(self.engine.without_tail(steps), True)

    def _lose(self, engine: MemoryEngine, start: bool) -> None:
        if self.up:
            self.up = False
            self.host.end()
        self.engine = engine
        self.incarnation = f"i-{self._cluster.world.random.getrandbits(64):016x}"
        if start:
            self.start()

    # Its door.

    def handle(self, path: str, body: bytes) -> Deferred[Answer]:
        """Answer as the node's routes do; not at all if the process ends meanwhile."""
        life, document = self.host.life, self._cluster.shelf.document
        answering = answered(
            self.replica, self.puller, path, body, lambda: self.host.life == life, self._cluster.bug, self._cluster.bug
        )
        if path == "drop" and document is not None:
            answering.addCallback(self._dropped, body, document)
        return answering.addCallback(self._answered, body) if path == "batch" and self.doom else answering

    def _dropped(self, answer: Answer, body: bytes, document: bytes) -> Answer:
        if answer.code == 200:
            ranges = drop_request_decoder.decode(body).ranges
            self._cluster.dropped.append(Dropped(self.url, self.incarnation, document, ranges))
        return answer

    def _answered(self, answer: Answer, body: bytes) -> Answer:
        meant = not self.doomed_by_promise or any(op.verb == PREPARE for op in batch_decoder.decode(body).ops)
        if self.doom is not None and meant:
            self._cluster.world_host.callLater(0, self.doom)
            self.doom = None
        return answer


class Proxy:
    """One proxy: started again after a crash it is another process, with a writer id of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.host = Host(cluster.world, f"proxy{len(cluster.proxies)}")
        self.up = False
        self.rooms: Rooms
        self.store: ShelfStore
        self.ready = False

    def start(self) -> None:
        cluster, host = self._cluster, self.host
        self.up, self.ready = True, False
        random = Random(cluster.world.random.getrandbits(64))
        self.store = ShelfStore(host, cluster.shelf, cluster.sites, self._fall)
        self._transport = cluster.carriage.transport(host)
        self.rooms = Rooms(host, random, host.wall_ms, cluster.limits, self.store, self._transport, cluster.sites)
        config = ProxyConfig(replicas=cluster.replicas, vnodes=VNODES)
        life = host.life

        def started(_: object) -> None:
            self.ready = host.life == life
            if self.ready:
                cluster.carriage.open_proxy(host, self.rooms)

        starting = ensureDeferred(self.rooms.start(founding(config, random))).addCallback(started)
        starting.addErrback(self._cannot_start).addErrback(cluster.bug)

    def _cannot_start(self, failure: Failure) -> None:
        """End, as the real proxy does; whoever supervises it starts it again."""
        failure.trap(StateUnusable)
        self._fall()

    async def stop(self) -> None:
        """End in good order."""
        await self.rooms.stop()
        await self._transport.close()

    def crash(self) -> None:
        if self.up:
            self.up = self.ready = False
            self.host.end()

    def _fall(self) -> None:
        """Crash, and be started again."""
        self.crash()
        self._cluster.world_host.callLater(RESTART_S, self.restart)

    def restart(self) -> None:
        if not self.up:
            self.start()


class Cluster:
    """Nodes, proxies, and what lies between them."""

    def __init__(
        self, world: World, sites: Sites, limits: Limits, replicas: int, durable: bool, wire: bool = False
    ) -> None:
        self.world = world
        self.sites = sites
        self.limits = limits
        self.replicas = replicas
        self.durable = durable
        self.network = Network(world)
        self.carriage: Carriage = Wire(self.network, limits) if wire else Messages(self.network)
        self.shelf = Shelf()
        self.nodes: list[Node] = []
        self.proxies: list[Proxy] = []
        self.bugs: list[str] = []
        self.world_host = Host(world, "world")
        """What happens from outside happens in a process that never ends."""
        self.doom: Callable[[], object] | None = None
        """What happens to it as soon as a write was acknowledged."""
        self.dropped: list[Dropped] = []
        """What nodes were made to forget and nobody has looked at yet."""
        self.spoiled: dict[bytes, float] = {}
        """Keys of which an owner could not read a record, and since when first."""

    def bug(self, failure: Failure) -> None:
        """Take note of what is no expected trouble."""
        self.bugs.append(failure.getTraceback())

    def acknowledged(self) -> None:
        """Hear that a client was just told that its write is safe."""
        if self.doom is not None:
            self.world_host.callLater(0, self.doom)
            self.doom = None

    def build(self) -> Node:
        """Start a node that belongs to no cluster yet."""
        node = Node(self, f"http://node{len(self.nodes)}:80", self.durable)
        self.nodes.append(node)
        self.network.servers[node.url] = node
        return node

    def open_proxy(self) -> Proxy:
        proxy = Proxy(self)
        self.proxies.append(proxy)
        proxy.start()
        return proxy

    def settle(self, nodes: int, proxies: int) -> None:
        """Found a cluster and wait until it is whole: mostly with all its nodes at once, sometimes one by one."""
        one_by_one = self.world.random.random() < 0.1
        if not one_by_one:
            seats = [Seat(f"n-{number}", self.build().url) for number in range(nodes)]
            self.shelf.document = encode_state(self._founded(seats))
        for _ in range(proxies):
            self.open_proxy()
            self._must(lambda: self.proxies[-1].ready, "a proxy to start")
        for _ in range(nodes if one_by_one else 0):
            node = self.build()
            ended: list[object] = []
            ensureDeferred(self.proxies[0].rooms.roster.add(node.url, 1)).addBoth(ended.append)
            self._must(lambda: bool(ended), "a node to join")  # noqa: B023
        self._must(lambda: all(node.replica.info().member for node in self.nodes), "all nodes to have joined")
        epoch = self.proxies[0].rooms.roster.state.epoch
        self._must(
            lambda: all(proxy.rooms.roster.state.epoch >= epoch for proxy in self.proxies), "all proxies to know it"
        )

    def _founded(self, seats: list[Seat]) -> State:
        members = tuple(
            msgspec.structs.replace(seat, incarnation=node.incarnation, forgetful=not self.durable)
            for seat, node in zip(seats, self.nodes, strict=True)
        )
        return msgspec.structs.replace(founded(ClusterId("c-0"), self.replicas, VNODES), epoch=2, members=members)

    def _must(self, holds: Callable[[], bool], what: str) -> None:
        assert self.world.until(holds, 60.0), f"waited in vain for {what}"
