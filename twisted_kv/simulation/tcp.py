"""Simulated TCP: what Twisted's real protocols are given to stand on where bytes are simulated, not messages.

TCP loses no byte: it delays, cuts what was written at odd places, is reset, or is left half open. A direction that is
cut holds its bytes back until it is whole again. A process that stops reads nothing; one that ends resets its
connections, and hears nothing more of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IConnector,
    IConsumer,
    IDelayedCall,
    IHostnameResolver,
    IPushProducer,
    IReactorPluggableNameResolver,
    IReactorTime,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from .network import Network
from .world import Host

HELD_S = 0.2
"""How often a direction that is cut tries again to let its bytes through."""
FIN = None
"""Stands behind the last bytes of a direction."""


@implementer(ITCPTransport, IPushProducer, IConsumer)
class Socket:
    """One end of a connection."""

    disconnecting = False

    def __init__(self, network: Network, host: Host, here: IPv4Address, there: IPv4Address) -> None:
        self._network = network
        self._here = here
        self._there = there
        self._flight: deque[bytes | None] = deque()
        """What comes to this end, in order; each piece has an event of its own that lets the next one in."""
        self._inbox: deque[bytes | None] = deque()
        self._arrival_s = 0.0
        self._reads = True
        self._broken = False
        self._protocol: Any = None
        self.host = host
        self.open = True
        self.peer: Socket
        host.links[self] = self._vanish

    def use(self, protocol: Any) -> None:
        """Give the connection to the protocol that it was made for."""
        self._protocol = protocol
        protocol.makeConnection(self)
        self._read()

    # What protocols do with it.

    def write(self, data: bytes) -> None:
        if self.open and not self.disconnecting:
            for piece in self._cut(bytes(data)):
                self._send(piece)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self, *_: object) -> None:
        if self.open and not self.disconnecting:
            # A producer that pushes is not waited for, as with Twisted's own transports.
            self.disconnecting = True
            self._send(FIN)
            self.host.callLater(0, self._lost, error.ConnectionDone())

    def abortConnection(self) -> None:
        if self.open:
            self.disconnecting = True
            self._reset_peer()
            self.host.callLater(0, self._lost, error.ConnectionAborted())

    def loseWriteConnection(self) -> None:
        if self.open:
            self._send(FIN)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take whatever is written: a connection here has room for all of it."""
        assert streaming, "nobody here has to be asked for more"

    def unregisterProducer(self) -> None: ...

    def pauseProducing(self) -> None:
        self._reads = False

    def resumeProducing(self) -> None:
        self._reads = True
        self.host.callLater(0, self._read)

    stopProducing = loseConnection

    def getHost(self) -> IPv4Address:
        return self._here

    def getPeer(self) -> IPv4Address:
        return self._there

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing waits for more to be written here."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Connections that stay half open are what a simulation wants."""

    def getTcpNoDelay(self) -> bool:
        return True

    def getTcpKeepAlive(self) -> bool:
        return False

    # The way there.

    def _cut(self, data: bytes) -> list[bytes]:
        random = self._network.world.random
        dice = random.random()
        if dice < 0.7 or len(data) < 2:
            return [data]
        if dice < 0.72 and len(data) < 300:
            return [data[at : at + 1] for at in range(len(data))]
        at = random.randrange(1, len(data))
        return [data[:at], data[at:]]

    def _send(self, piece: bytes | None) -> None:
        if self._broken:
            return
        if self._network.loses():
            self._break()
            return
        now_s = self._network.world.now_s
        self._arrival_s = max(self._arrival_s, now_s + self._network.delay_s(self.host))
        self.peer._flight.append(piece)
        self.peer.host.callLater(self._arrival_s - now_s, self.peer._arrive)

    def _break(self) -> None:
        """The connection breaks for both: something between them has forgotten it. Nothing comes through any more."""
        self._broken = self.peer._broken = True
        self._reset_peer()
        self.peer._reset_peer()

    def _reset_peer(self) -> None:
        self.peer.host.callLater(self._network.delay_s(), self.peer._reset)

    # The way here.

    def _held(self, again: Callable[[], object]) -> bool:
        if (self.peer.host.name, self.host.name) not in self._network.deaf:
            return False
        self.host.callLater(HELD_S, again)
        return True

    def _arrive(self) -> None:
        if self.open and not self._held(self._arrive):
            self._inbox.append(self._flight.popleft())
            self._read()

    def _reset(self) -> None:
        if self.open and not self._held(self._reset):
            self._lost(error.ConnectionLost())

    def _read(self) -> None:
        # Who closes a connection reads nothing more of it, as with Twisted's own transports.
        while self._reads and self._inbox and self.open and not self.disconnecting and self._protocol is not None:
            piece = self._inbox.popleft()
            if piece is FIN:
                # Twisted closes its end too, unless the protocol knows of half-closed connections; none here does.
                self._send(FIN)
                self._lost(error.ConnectionDone())
            else:
                self._protocol.dataReceived(piece)

    def _lost(self, reason: Exception) -> None:
        if self.open:
            self.open = False
            self.host.links.pop(self, None)
            if self._protocol is not None:
                self._protocol.connectionLost(Failure(reason))

    def _vanish(self) -> None:
        """Its process has ended: nobody is told here, and the other end hears it from the kernel."""
        self.open = False
        self._reset_peer()


@implementer(IConnector)
class Connecting:
    """A connection that is to be made."""

    def __init__(self, tcp: Tcp, host: Host, life: int, there: IPv4Address, factory: Any, timeout_s: float) -> None:
        self._tcp = tcp
        self._host = host
        self._there = there
        self._factory = factory
        self._socket: Socket | None = None
        self._done = False
        self._timer = host.call_in_life(life, timeout_s, self._fail, error.TimeoutError())
        tcp.kernel.callLater(tcp.network.delay_s(), self._knock, life)
        factory.startedConnecting(self)

    def getDestination(self) -> IPv4Address:
        return self._there

    def stopConnecting(self) -> None:
        self._fail(error.UserError())

    disconnect = stopConnecting

    def connect(self) -> None:
        raise NotImplementedError("nothing here connects again")

    def _knock(self, life: int) -> None:
        """Be at the other machine, whose kernel answers even while the process is stopped."""
        tcp, network = self._tcp, self._tcp.network
        if self._done or self._host.life != life:
            return
        listener = tcp.listener_at(self._there)
        if listener is None:
            self._host.callLater(network.delay_s(), self._fail, error.ConnectionRefusedError())
            return
        server, factory = listener
        if (self._host.name, server.name) in network.deaf:
            return
        here = IPv4Address("TCP", self._host.name, tcp.port())
        near, far = Socket(network, self._host, here, self._there), Socket(network, server, self._there, here)
        near.peer, far.peer = far, near
        self._socket = near
        server.callLater(0, self._accept, far, factory)
        self._host.callLater(network.delay_s(), self._established)

    def _accept(self, far: Socket, factory: Any) -> None:
        if far.open:
            far.use(factory.buildProtocol(far.getPeer()))

    def _established(self) -> None:
        near = self._socket
        assert near is not None
        if self._done or near._held(self._established):
            return
        if not near.open:
            self._fail(error.ConnectionRefusedError())
            return
        self._done = True
        self._timer.cancel()
        near.use(self._factory.buildProtocol(self._there))

    def _fail(self, why: Exception) -> None:
        if not self._done:
            self._done = True
            if self._timer.active():
                self._timer.cancel()
            if self._socket is not None:
                self._socket.abortConnection()
            assert isinstance(why, error.ConnectError | error.UserError)
            self._factory.clientConnectionFailed(self, Failure(why))


class Tcp:
    """Who listens where."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.kernel = Host(network.world, "kernel")
        """What happens on machines whatever their processes do."""
        self._listeners: dict[tuple[str, int], tuple[Host, int, Any]] = {}
        self._ports = 40_000

    def port(self) -> int:
        self._ports += 1
        return self._ports

    def listener_at(self, address: IPv4Address) -> tuple[Host, Any] | None:
        host, life, factory = self._listeners.get((address.host, address.port), (None, 0, None))
        return (host, factory) if host is not None and host.life == life else None

    def listen(self, host: Host, port: int, factory: Any) -> None:
        """Let a process accept connections until it ends."""
        self._listeners[host.name, port] = (host, host.life, factory)


@implementer(IReactorTime, IReactorPluggableNameResolver, IHostnameResolver)
class Stack:
    """What a process of the simulation has for a reactor: its timers, and connections by the names of hosts."""

    def __init__(self, tcp: Tcp, host: Host) -> None:
        self._tcp = tcp
        self._host = host
        self._life = host.life
        self.nameResolver = self

    def seconds(self) -> float:
        return self._host.seconds()

    def callLater(self, delay: float, work: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:
        return self._host.call_in_life(self._life, delay, work, *args, **kw)

    def getDelayedCalls(self) -> list[Any]:
        return list(self._host.getDelayedCalls())

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30.0, bindAddress: object = None
    ) -> Connecting:
        return Connecting(self._tcp, self._host, self._life, IPv4Address("TCP", host, port), factory, timeout)

    def resolveHostName(self, receiver: Any, hostName: str, portNumber: int = 0, *_: object, **__: object) -> Any:
        receiver.resolutionBegan(self)
        receiver.addressResolved(IPv4Address("TCP", hostName, portNumber))
        receiver.resolutionComplete()
        return self
