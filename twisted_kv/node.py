"""``twistd kvnode``: a storage node put together."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from math import nan
from random import Random
from typing import Any

from twisted.application.service import IService, Service
from twisted.application.strports import service as listening_service
from twisted.internet.defer import CancelledError, ensureDeferred, inlineCallbacks
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import deferLater
from twisted.internet.tcp import makeBinding
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from . import __version__
from .aside import Aside
from .backups import Backups
from .commit import AtOnce, Commit, GroupCommit
from .config import NodeConfig
from .errors import DiskBusy, DiskFull, KvError
from .fasthttp.gate import Gate
from .fasthttp.readers import watching
from .interfaces import allowed_networks
from .limits import Limits
from .metrics import NodeMetrics
from .notify import Notices, silent
from .options import NodeOptions
from .peers.control import Control
from .peers.http import HttpTransport
from .periodic import Rounds
from .process import (
    Leash,
    boot_id,
    end_at_once,
    end_with_failure,
    fresh_random,
    let_threads_in,
    monotonic_reactor,
    notices_of,
    on_hangup,
    spare_the_collector,
    stop_once,
    take_descriptors,
    wall_ms,
)
from .pulling import Puller
from .pulse import Pulse
from .replica import Replica
from .scrubbing import Scrubber
from .storage.engine import Engine
from .storage.figures import MEANING
from .storage.marks import ALWAYS, INTERVAL, NEVER
from .storage.memory import MemoryEngine
from .storage.opening import Disk
from .tls import client_tls
from .token_files import TokenFile
from .tracing import Ids
from .web.backups import add_node_backups
from .web.node import Batches, add_node
from .web.original import add_original_node
from .web.site import App, KvSite

Options = NodeOptions

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted. Beyond it clients' attempts are dropped, and tried again
by their kernels a second later: Twisted's 50 are a burst of a few milliseconds."""


SHORT_PATIENCE_S = 2.0
"""How long an engine may take to find that there is room on its disk again, before it is opened anew."""
OPEN_SPARE_BYTES = 1024 * 1024
"""Room that opening a folder takes beside what its log is written out to."""


def node_app(
    replica: Replica, puller: Puller, metrics: NodeMetrics, limits: Limits, backups: Backups | None = None
) -> App:
    """A node's whole door.

    :param backups: its backups, if it has a place for them.
    """
    app = App()
    add_node(app, replica, puller, metrics)
    add_original_node(app, replica, limits)
    if backups is not None:
        add_node_backups(app, backups)
    return app


class Node(Service):
    """One storage node. Everything is opened when the service starts, since twistd forks before that."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        random: Random,
        now_ms: Callable[[], int],
        config: NodeConfig,
        notices: Notices = silent,
    ) -> None:
        self._reactor = reactor
        self._notices = notices
        self._random = random
        self._now_ms = now_ms
        self._config = config
        self._door: IService | None = None
        self._disk: Disk | None = None
        self._rounds: list[Rounds] = []
        self._renewing = False
        self._short_s: float | None = None
        """Since when the engine has not found back from the end of the disk, though there is room."""
        self._tokens = TokenFile(config.token_file, of_nodes=True)
        self._tls = client_tls(config.tls_authority, config.tls_identity)

    def read_tokens_again(self) -> None:
        self._tokens.read_again()

    def startService(self) -> None:
        super().startService()
        self._renewing = False
        self._short_s = None
        self._rounds = []
        self._door = None  # where it was open before, and cannot be opened now
        self._notices.status("opening its folder")
        try:
            self._open()
        except KvError as error:
            self._cannot_start(error)

    def _cannot_start(self, error: KvError) -> None:
        """End the process with status 1 and a sentence."""
        self.log.critical("the node cannot start: {detail} ({hint})", detail=error.detail, hint=error.hint)
        end_with_failure(self._reactor)

    def _open(self) -> None:
        """:raises DiskFailed: if the node's folder cannot be used.
        :raises BadConfig: if the token file cannot.
        """
        config, random, reactor = self._config, self._random, self._reactor
        limits, metrics = config.limits, NodeMetrics()
        self._tokens.read()
        keyring = self._tokens.keyring
        engine, commit, incarnation = self._memory() if config.engine == "memory" else self._disk_engine(metrics)
        writer = random.getrandbits(64)
        replica = self._replica = Replica(
            reactor,
            self._now_ms,
            writer,
            engine,
            commit,
            incarnation,
            limits,
            metrics,
            self._broken,
            __version__,
            sync=config.sync if self._disk is not None else NEVER,
            free_bytes=self._disk.free_bytes if self._disk is not None else None,
        )
        self._count(metrics, replica, engine)
        metrics.watch("kv_node_keys", "Keys that hold a value", lambda: engine.totals().keys)
        metrics.watch("kv_node_bytes", "Bytes of keys and records", lambda: engine.totals().bytes)
        metrics.watch("kv_node_epoch", "The highest epoch this node was shown", lambda: replica.epoch)
        for rounds in self._rounds:
            rounds.start()
        replica.on_renewal = self._renew
        self._scrubber = Scrubber(reactor, random, limits, replica)
        self._scrubber.start()
        networks = allowed_networks(config.node_networks)
        self._transport = HttpTransport(reactor, limits, keyring=keyring, tls=self._tls, networks=networks)
        puller = Puller(reactor, limits, Control(self._transport, limits), replica)
        folder = config.folder / "backups" if self._disk is not None else None
        self._copying = Aside(reactor, "backups")
        self._backups = Backups(folder, engine, replica, self._copying.do, self._now_ms)
        app = node_app(replica, puller, metrics, limits, self._backups)
        link = Batches(replica, metrics).link(limits)
        gate = Gate(keyring, config.hosts)
        metrics.watch("kv_http_connections", "Connections of proxies and others", lambda: len(self._site.overdue))
        metrics.watch_total(
            "kv_http_connections_shed",
            "Connections that were closed, or not let in, since descriptors were short",
            lambda: self._site.shed,
        )
        site = self._site = KvSite(
            reactor, app, limits, limits.node_body_bytes_max, config.lane, link, gate, Ids(writer)
        )
        try:
            self._door = listening(reactor, config.listen or tcp_endpoint(config.interface, config.port), site)
        except SystemExit:
            self._close_disk()  # the thread that syncs would outlast the reactor, and the process never end
            raise
        self.log.info(
            "kvnode on {url}, engine {engine}, incarnation {incarnation}",
            url=place_of(config.listen) or url_of(config.interface, config.port),
            engine=engine.name,
            incarnation=replica.incarnation,
        )
        # Not before the reactor runs: until then SIGHUP is not heard, and a reload would be lost.
        where = place_of(config.listen) or url_of(config.interface, config.port)
        self._reactor.callWhenRunning(self._notices.ready, f"serving on {where}")

    def _count(self, metrics: NodeMetrics, replica: Replica, engine: Engine) -> None:
        """Show what is read only when somebody asks."""
        metrics.watch_process("kvnode", __version__)
        self._pulse = Pulse(self._reactor, self._config.limits.pulse_interval_s, metrics.reactor_lag.observe)
        self._pulse.start()
        metrics.watch("kv_node_full", "Whether values are refused for want of room", lambda: replica.full)
        metrics.watch("kv_node_spoiled", "Whether part of the data cannot be read at all", lambda: replica.spoiled)
        metrics.watch("kv_node_tombstones", "Keys that hold no value: tombstones and bare promises", replica.graves)
        metrics.watch("kv_node_repair_marks", "Slots that are marked for repair", lambda: replica.info().marks)
        metrics.watch_each(
            "kv_node_hints", "Hints kept here, by the member that they are for", ("owner",), replica.hints_kept
        )
        for name in engine.figures():
            metrics.watch(f"kv_engine_{name}", MEANING[name], partial(_figure, engine, name))
        if self._disk is not None:
            reserve_bytes = self._config.limits.disk_free_bytes_min
            metrics.watch("kv_node_disk_reserve_bytes", "Room below which values are refused", lambda: reserve_bytes)
            metrics.watch(
                "kv_node_disk_free_bytes",
                "Room left on the disk of the node's folder",
                partial(_free_bytes, self._disk),
            )

    def _draw_incarnation(self) -> str:
        return f"i-{self._random.getrandbits(64):016x}"

    def _memory(self) -> tuple[Engine, Commit, str]:
        return MemoryEngine(), AtOnce(), self._draw_incarnation()

    def _disk_engine(self, metrics: NodeMetrics) -> tuple[Engine, Commit, str]:
        """Open the folder, and say when its answers may leave."""
        config, reactor, limits = self._config, self._reactor, self._config.limits
        disk = self._disk = Disk(config.folder, config.sync, boot_id(), self._draw_incarnation)
        if disk.forgot:
            self.log.warn("this node does not vote before it is rebuilt: {reason}", reason=disk.forgot)
        # One thread: a second sync beside the first would only wait for it.
        self._syncs = Aside(reactor, "syncs")
        self._rounds.append(
            Rounds(reactor, self._random, limits.disk_check_interval_s, self._look_at_room, "looks at the room left")
        )
        commit: Commit = AtOnce()
        if config.sync == ALWAYS:
            commit = GroupCommit(reactor, disk.engine.sync, self._syncs.do, self._broken, metrics)
        elif config.sync == INTERVAL:
            self._rounds.append(Rounds(reactor, self._random, limits.sync_interval_s, self._sync, "syncs"))
        return disk.engine, commit, disk.incarnation

    async def _sync(self) -> None:
        assert self._disk is not None
        try:
            await self._syncs.do(self._disk.engine.sync)
        except CancelledError:
            raise  # the node is stopping: that lets this sync end, and makes one of its own
        except (DiskBusy, DiskFull):
            pass  # the next round tries again; no answer waits for it
        except Exception:
            self._broken(Failure())

    async def _look_at_room(self) -> None:
        assert self._disk is not None
        free, least = self._disk.free_bytes(), self._config.limits.disk_free_bytes_min
        full = free < least
        if full and not self._replica.full:
            self.log.error(
                "the disk is full: {free} of the {least} bytes are free that it keeps free; values are refused with 507"
                " until there is room, reads and deletes go on",
                free=free,
                least=least,
            )
        elif self._replica.full and not full:
            self.log.info("there is room again, values are taken")
        self._replica.full = full
        if full or not self._disk.engine.short:
            self._short_s = None
        else:
            await self._see_to_engine(free)

    async def _see_to_engine(self, free_bytes: int) -> None:
        """Have the engine find its way back, where it ran into the end of the disk and there is room again.

        RocksDB looks for room every five seconds, and wants as much as it may have in memory: on a small disk there
        never is. What a node that was killed there comes back from, this one does: the folder is opened anew.
        """
        assert self._disk is not None
        try:
            await self._syncs.do(self._disk.engine.sync)
        except (DiskBusy, DiskFull):
            now_s = self._reactor.seconds()
            if self._short_s is None:
                self._short_s = now_s
            elif now_s - self._short_s > SHORT_PATIENCE_S and free_bytes > self._disk.log_bytes() + OPEN_SPARE_BYTES:
                self._begin_anew("the engine has not found back from a full disk; its folder is opened anew")
        except CancelledError:
            raise
        except Exception:
            self._broken(Failure())

    def _renew(self) -> None:
        """Begin anew in this process: what cannot be verified is set aside, and got back from the others."""
        if self._disk is not None and self.running and not self._renewing:
            self._disk.doubt()
            self._begin_anew("part of the data cannot be read; all of it is verified now")

    def _begin_anew(self, why: str) -> None:
        if not self.running or self._renewing:
            return
        self._renewing = True
        self.log.warn("{why}", why=why)
        self._notices.pause(why)  # opening a folder, and verifying one, holds the reactor up
        # The order that this was asked with is answered first.
        again = deferLater(self._reactor, 0.1, self.stopService)
        # Answers that waited for the last sync leave in this turn. On a connection that stayed open a proxy would go on
        # to hear from the memory that was given up.
        again.addCallback(lambda _: deferLater(self._reactor, 0, self._site.hang_up))
        again.addCallback(lambda _: self.startService())
        again.addErrback(lambda failure: self.log.failure("the node cannot begin anew", failure))

    def _broken(self, failure: Failure) -> None:
        """End at once. What was not answered is not safe, and a sync tried again would say that it is."""
        self.log.critical("the disk has failed, the node ends: {error}", error=failure.getErrorMessage())
        if self._disk is not None:
            self._disk.doubt()
        end_at_once()

    @inlineCallbacks
    def stopService(self) -> Any:
        """Close the door, stop the rounds, let the last sync end, close the engine: in this order."""
        yield super().stopService()
        if not self._renewing:
            self._notices.stopping()
        if self._door is None:
            return
        yield self._door.stopService()
        yield self._stop_rounds()
        self._close_disk()
        if not self._renewing:
            self._notices.stop()

    @inlineCallbacks
    def _stop_rounds(self) -> Any:
        """Stop all that runs behind the door, but for the disk."""
        self._pulse.stop()
        yield ensureDeferred(self._scrubber.stop())
        for rounds in self._rounds:
            yield rounds.stop()
        self._replica.retire()
        self._backups.stop()
        self._copying.stop()
        yield self._transport.close()

    def _close_disk(self) -> None:
        if self._disk is not None:
            # The thread ends its work first; answers that waited for it leave in the reactor's next turn.
            self._syncs.stop()
            self._disk.close()


def _figure(engine: Engine, name: str) -> float:
    return engine.figures()[name]


def _free_bytes(disk: Disk) -> float:
    try:
        return disk.free_bytes()
    except OSError:
        return nan  # whoever asks how the node is should hear all the rest


def url_of(interface: str, port: int) -> str:
    return f"http://[{interface}]:{port}" if ":" in interface else f"http://{interface}:{port}"


def place_of(endpoint: str | None) -> str:
    """Name an endpoint in the log by its kind and its port: the rest may say where a key lies."""
    return ":".join((endpoint or "").split(":")[:2])


def tcp_endpoint(interface: str, port: int) -> str:
    address = interface.replace(":", "\\:")
    return f"tcp:{port}:interface={address}:backlog={BACKLOG}"


class Sharing:
    """Stands for the reactor where a port is opened that other processes listen on, too. No endpoint can say this."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See ``IReactorTCP``."""
        # Without the interface beside the binding, Twisted would try ::1 as IPv4.
        binding = makeBinding(interface, port, reuseAddress=True, reusePort=True)
        return self._reactor.listenTCP(binding, factory, backlog, interface)

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See ``IReactorSSL``."""
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)


def listening(reactor: Any, endpoint: str, site: IProtocolFactory, shared: bool = False) -> IService:
    """Listen, or end the process with a plain sentence.

    :param endpoint: where, as ``twisted.internet.endpoints.serverFromString`` reads it.
    :param shared: whether other processes listen on the port, too; the kernel gives each of them its share of clients.
    """
    reactor = watching(reactor)
    try:
        door: Any = listening_service(endpoint, site, Sharing(reactor) if shared else reactor)
        if isinstance(door.endpoint, AdoptedStreamServerEndpoint):
            # It closes what it was given when it has its own; a node that begins anew listens there once more.
            door.endpoint.fileno = os.dup(door.endpoint.fileno)
        door.privilegedStartService()
    except CannotListenError as error:
        raise SystemExit(f"port {error.port} on {error.interface} cannot be used: {error.socketError}") from None
    except LookupError:
        if not endpoint.startswith("systemd:"):
            raise
        raise SystemExit(
            f"systemd has handed over no socket for {endpoint}: start the daemon by its .socket unit, and let the"
            " endpoint's name be that unit's FileDescriptorName"
        ) from None
    except Exception as error:
        # What stands in an endpoint's string is read by whoever it is for, and each has errors of its own.
        raise SystemExit(f"nobody can listen at {place_of(endpoint)}: {error}") from None
    door.startService()
    return door


def makeService(options: NodeOptions) -> IService:
    reactor = monotonic_reactor()
    stop_once(reactor)
    spare_the_collector()
    take_descriptors()
    let_threads_in()
    if options["leash"]:
        Leash.put_on(reactor)
    notices = notices_of(reactor)
    node = Node(reactor, fresh_random(), wall_ms, options.config, notices)
    on_hangup(reactor, node.read_tokens_again, options.config.token_file, notices=notices)
    return node
