"""A simulated network, message by message: lines between proxies and nodes that wait, lose, double, and are cut.

What is lost is lost as on a TCP connection: the sender hears of it when the connection is reset, or not before its own
time-out. A request that met a stale connection is sent again, and may arrive twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from ..errors import PeerSilent, PeerUnreachable
from ..peers.peer import Answer
from .world import Host, World


class Server(Protocol):
    """Who answers at an address."""

    host: Host

    @property
    def up(self) -> bool:
        """Whether anybody listens."""

    def handle(self, path: str, body: bytes) -> Deferred[Answer]:
        """Answer a request, or never."""


@dataclass
class Weather:
    """How all lines are at present."""

    delays_s: tuple[float, float] = (0.0005, 0.003)
    loss: float = 0.0
    """The part of messages whose connection breaks on the way, each way."""
    doubling: float = 0.0
    """The part of requests that are sent again on a new connection."""
    slow: float = 0.0
    """The part of messages that take up to ``slow_s`` longer."""
    slow_s: float = 1.0


@dataclass
class Network:
    """Who is reachable from where.

    ``deaf`` are directions (from, to) in which nothing arrives, by the names of hosts; what the hosts in ``slow`` send
    takes so much longer, in seconds between the two.
    """

    world: World
    weather: Weather = field(default_factory=Weather)
    servers: dict[str, Server] = field(default_factory=dict)
    deaf: set[tuple[str, str]] = field(default_factory=set)
    slow: dict[str, tuple[float, float]] = field(default_factory=dict)

    def delay_s(self, sender: Host | None = None) -> float:
        random, weather = self.world.random, self.weather
        delay_s = random.uniform(*weather.delays_s)
        if sender is not None and sender.name in self.slow:
            delay_s += random.uniform(*self.slow[sender.name])
        if weather.slow and random.random() < weather.slow:
            delay_s += random.uniform(0, weather.slow_s)
        return delay_s

    def loses(self) -> bool:
        return self.weather.loss > 0 and self.world.random.random() < self.weather.loss


class Line:
    """One process's transport. See ``peers.peer.Transport``."""

    def __init__(self, network: Network, host: Host) -> None:
        self._network = network
        self._host = host

    def request(self, method: str, url: str, body: bytes, *, content_type: str, timeout_s: float) -> Deferred[Answer]:
        return _Request(self._network, self._host, url, body, timeout_s).done

    def close(self) -> Deferred[None]:
        return succeed(None)


class _Request:
    """One request on its way there and back."""

    def __init__(self, network: Network, host: Host, url: str, body: bytes, timeout_s: float) -> None:
        self._network = network
        self._host = host
        self._base, _, self._path = url.partition("/node/v1/")
        self._body = body
        self._resent = False
        self._life = host.life
        self.done: Deferred[Answer] = Deferred()
        self._timer = host.callLater(timeout_s, self._end, Failure(PeerSilent(f"no answer within {timeout_s:g} s")))
        self._send()

    def _send(self) -> None:
        network = self._network
        if network.weather.doubling and network.world.random.random() < network.weather.doubling:
            # The connection was closed before it answered, and the node may have read the request all the same.
            self._resent = True
            if network.world.random.random() < 0.7:
                self._later(self._arrive, False)
            gap_s = network.world.random.choice([0.0, 0.02, 0.3])
            self._later(self._host.callLater, gap_s, self._arrive)
        else:
            self._later(self._arrive)

    def _later(self, work: Callable[..., object], *args: object, sender: Host | None = None) -> None:
        if self._host.life != self._life:
            return  # whoever asked has ended, and what he was must not wake in the process that took his place
        self._host.callLater(self._network.delay_s(sender), work, *args)

    def _arrive(self, heard: bool = True) -> None:
        network = self._network
        server = network.servers.get(self._base)
        if server is None or not server.up:
            # A process that has just ended resets what it has not answered; who comes later is refused.
            kind = PeerSilent if self._resent else PeerUnreachable
            if heard:
                self._later(self._end, Failure(kind("connection refused")))
            return
        if (self._host.name, server.host.name) in network.deaf:
            return
        if not heard:
            server.host.callLater(0, self._unheard, server)
            return
        if network.loses():
            self._later(self._end, Failure(PeerSilent("the connection broke")))
            return
        server.host.links[self] = lambda: self._later(self._end, Failure(PeerSilent("connection reset")))
        if server.host.paused:
            server.host.callLater(0, self._handed, server)
        else:
            self._handed(server)

    def _unheard(self, server: Server) -> None:
        """The first of two copies: whatever comes of it, its answer reaches nobody."""
        self._network.world.note(f"{self._host.name}>{server.host.name}/{self._path}")
        server.handle(self._path, self._body)

    def _handed(self, server: Server) -> None:
        network = self._network
        network.world.note(f"{self._host.name}>{server.host.name}/{self._path}")

        def answered(answer: Answer) -> None:
            server.host.links.pop(self, None)
            if (server.host.name, self._host.name) in network.deaf:
                return
            if network.loses():
                self._later(self._end, Failure(PeerSilent("the connection broke")))
                return
            self._later(self._end, Answer(answer.code, answer.body, self._resent), sender=server.host)

        server.handle(self._path, self._body).addCallback(answered)

    def _end(self, result: Answer | Failure) -> None:
        if not self.done.called:
            if self._timer.active():
                self._timer.cancel()
            self.done.callback(result)  # a Failure makes it an errback
