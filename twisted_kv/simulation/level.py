"""The two levels of the simulation: messages handed from room to room, or bytes between real parsers.

Most seeds run at the message level, where a second shows more. At the wire level everything that a request goes through
is the real thing, but for the kernel: treq, klein's routes, twisted.web and its client (``tcp.py``).
"""

from __future__ import annotations

from typing import Protocol

from klein import Klein

from ..limits import Limits
from ..metrics import NodeMetrics
from ..node import node_app
from ..peers.http import HttpTransport
from ..proxy import Rooms
from ..pulling import Puller
from ..quorum import Level
from ..replica import Replica
from ..web.site import KvSite
from .network import Line, Network
from .tcp import Stack, Tcp
from .world import Host

PORT = 80


class Carriage(Protocol):
    """How requests come from one process to another."""

    def transport(self, host: Host) -> Line | HttpTransport:
        """Give a process that starts its way to the nodes."""

    def open_node(self, host: Host, replica: Replica, puller: Puller, metrics: NodeMetrics) -> None:
        """Open a node's door."""

    def open_proxy(self, host: Host, rooms: Rooms) -> None:
        """Open a proxy's door."""


class Messages:
    """Requests are handed over as they are; clients call a proxy's rooms. See ``Carriage``."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def transport(self, host: Host) -> Line:
        return Line(self._network, host)

    def open_node(self, host: Host, replica: Replica, puller: Puller, metrics: NodeMetrics) -> None:
        """See ``Carriage``. Whoever is named in the network is handed its requests."""

    def open_proxy(self, host: Host, rooms: Rooms) -> None:
        """See ``Carriage``."""


class Wire:
    """Requests are bytes on connections. See ``Carriage``."""

    def __init__(self, network: Network, limits: Limits) -> None:
        self.tcp = Tcp(network)
        self._limits = limits

    def transport(self, host: Host) -> HttpTransport:
        return HttpTransport(Stack(self.tcp, host), self._limits)

    def open_node(self, host: Host, replica: Replica, puller: Puller, metrics: NodeMetrics) -> None:
        self._listen(host, node_app(replica, puller, metrics, self._limits), self._limits.node_body_bytes_max)

    def open_proxy(self, host: Host, rooms: Rooms) -> None:
        self._listen(host, rooms.app(self._limits, Level.STRONG), self._limits.body_bytes_max)

    def _listen(self, host: Host, app: Klein, bytes_max: int) -> None:
        self.tcp.listen(host, PORT, KvSite(Stack(self.tcp, host), app, self._limits, bytes_max))
