"""The Redis door's port: its clients, and what their commands reach."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory

from ..fasthttp.descriptors import lacking
from ..fasthttp.intake import Intake
from ..fasthttp.overdue import Overdue
from ..limits import Limits
from ..quorum import Level
from ..tokens import Keyring
from . import about, counters, expiry, greeting, strings
from . import keyspace as whole_keyspace
from .connection import Client
from .order import Store
from .requests import Cutter
from .session import Keyspace, Session
from .table import TABLE

FILLED_BY = (about, counters, expiry, greeting, strings, whole_keyspace)
"""The rooms that add their commands to the table when they are imported."""


class RedisDoor(Factory):
    """Makes a client of each connection. See ``connection.Door``."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        limits: Limits,
        store: Store,
        keyspace: Keyspace,
        level: Level,
        allow_flush: bool = False,
        durable: Callable[[], bool] = lambda: True,
        keyring: Keyring | None = None,
    ) -> None:
        self.clock = clock
        self.now_ms = now_ms
        self.limits = limits
        self.store = store
        self.keyspace = keyspace
        self.level = level
        self.allow_flush = allow_flush
        self._durable = durable
        self.keyring = keyring or Keyring()
        self.table = TABLE
        self.cutter = Cutter()
        self.intake = Intake(limits.intake_bytes_max)
        self.overdue = Overdue(clock)
        self.since_ms = now_ms()
        self.output = 0
        self.promised = 0
        self.received = 0
        self.refused = 0
        """Connections that were not let in, since there were too many, or descriptors were short."""
        self.processed = 0
        self._numbers = count(1)
        self._clients: dict[Client, Session] = {}

    def buildProtocol(self, addr: IAddress | None) -> Client:
        return Client(self)

    def welcome(self, client: Client) -> Session | None:
        """See ``connection.Door``."""
        self.received += 1
        if len(self._clients) >= self.limits.resp_clients_max or lacking(client.transport, self.limits):
            self.refused += 1
            return None
        transport: Any = client.transport
        session = Session(self, next(self._numbers), _shown(transport.getPeer()), _shown(transport.getHost()))
        self._clients[client] = session
        return session

    def farewell(self, client: Client) -> None:
        """See ``connection.Door``."""
        self._clients.pop(client, None)

    def sessions(self) -> list[Session]:
        """See ``session.Server``."""
        return list(self._clients.values())

    @property
    def durable(self) -> bool:
        """See ``session.Server``."""
        return self._durable()

    # The end: see ``fasthttp.parting``.

    @property
    def crowd(self) -> int:
        return len(self.overdue)

    @property
    def busy(self) -> bool:
        return self.overdue.busy

    def part(self) -> None:
        """Redis's protocol knows no last reply: everybody is parted with who has all of his."""
        self.overdue.part_with_idle()

    def part_with_idle(self) -> None:
        self.overdue.part_with_idle()

    def hang_up(self) -> None:
        """Close all connections."""
        self.overdue.hang_up()


def _shown(address: Any) -> str:
    return f"{getattr(address, 'host', '?')}:{getattr(address, 'port', 0)}"
