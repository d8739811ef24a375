"""The two levels of the simulation: messages handed from room to room, or bytes between real parsers.

Most seeds run at the message level, where a second shows more. At the wire level everything that a request goes through
is the real thing, but for the kernel: treq and its agent, links, the lane, twisted.web and klein's routes (``tcp.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..fasthttp.gate import Gate
from ..fasthttp.heads import Head
from ..fasthttp.intake import Intake
from ..fasthttp.lane import Guest
from ..limits import Limits
from ..metrics import NodeMetrics
from ..node import node_app
from ..peers.http import HttpTransport
from ..peers.link import LinkTransport
from ..pulling import Puller
from ..quorum import Level
from ..replica import Replica
from ..rooms import Rooms
from ..tokens import Keyring
from ..web.node import Batches
from ..web.site import App, KvSite
from .network import Line, Network
from .rotation import TokenFile
from .tcp import Stack, Tcp
from .world import Host

PORT = 80
RESP_PORT = 6380

LINKED = 0.5
"""The part of the processes that are started with ``transport = "link"``."""

LANED = 0.75
"""The part of them that are started with the lane."""

GUARDED = 0.5
"""The part of the clusters whose daemons ask for tokens."""


class Carriage(Protocol):
    """How requests come from one process to another. ``tokens`` are what clients show, None where nobody asks."""

    tokens: TokenFile | None

    def transport(self, host: Host) -> Line | HttpTransport | LinkTransport:
        """Give a process that starts its way to the nodes."""

    def open_node(self, host: Host, replica: Replica, puller: Puller, metrics: NodeMetrics) -> None:
        """Open a node's door."""

    def open_proxy(self, host: Host, rooms: Rooms) -> None:
        """Open a proxy's door."""

    def rotate(self, by: Host) -> bool:
        """Begin to exchange all tokens; say whether there are any, and nobody is about it already."""


class Messages:
    """Requests are handed over as they are; clients call a proxy's rooms. See ``Carriage``."""

    tokens = None

    def __init__(self, network: Network) -> None:
        self._network = network

    def transport(self, host: Host) -> Line:
        return Line(self._network, host)

    def open_node(self, host: Host, replica: Replica, puller: Puller, metrics: NodeMetrics) -> None:
        """See ``Carriage``. Whoever is named in the network is handed its requests."""

    def open_proxy(self, host: Host, rooms: Rooms) -> None:
        """See ``Carriage``."""

    def rotate(self, by: Host) -> bool:
        """See ``Carriage``."""
        return False


class Wire:
    """Requests are bytes on connections. See ``Carriage``.

    Each process is started, as its operator may have it, with links or without, and with the lane or without. Proxies
    may ask for clients' tokens, and nodes for proxies'.
    """

    def __init__(self, network: Network, limits: Limits) -> None:
        self.tcp = Tcp(network)
        self._random = network.world.random
        self._limits = limits
        guarded = self._random.random() < GUARDED
        self.tokens = TokenFile(self._random) if guarded else None
        self._of_nodes = TokenFile(self._random) if guarded else None

    def rotate(self, by: Host) -> bool:
        """See ``Carriage``."""
        if self.tokens is None or self._of_nodes is None:
            return False
        return self._of_nodes.rotate(by) and self.tokens.rotate(by)

    def transport(self, host: Host) -> HttpTransport | LinkTransport:
        stack = Stack(self.tcp, host)
        http = HttpTransport(stack, self._limits, keyring=self._of_nodes.keyring(host) if self._of_nodes else None)
        return LinkTransport(stack, self._limits, http) if self._random.random() < LINKED else http

    def open_node(self, host: Host, replica: Replica, puller: Puller, metrics: NodeMetrics) -> None:
        link = Batches(replica, metrics).link(self._limits)
        app = node_app(replica, puller, metrics, self._limits)
        keyring = self._of_nodes.keyring(host) if self._of_nodes else None
        self._listen(host, app, self._limits.node_body_bytes_max, link, keyring)

    def open_proxy(self, host: Host, rooms: Rooms) -> None:
        keyring = self.tokens.keyring(host) if self.tokens else None
        app = rooms.app(self._limits, Level.STRONG)
        self._listen(host, app, self._limits.body_bytes_max, lambda *_: None, keyring)
        self.tcp.listen(host, RESP_PORT, rooms.redis(self._limits, Level.STRONG, False, keyring))

    def _listen(
        self,
        host: Host,
        app: App,
        bytes_max: int,
        link: Callable[[Head, Intake], Guest | None],
        keyring: Keyring | None,
    ) -> None:
        gate = Gate(keyring, [host.name])
        lane = self._random.random() < LANED
        self.tcp.listen(host, PORT, KvSite(Stack(self.tcp, host), app, self._limits, bytes_max, lane, link, gate))
