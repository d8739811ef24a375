"""What one client has set for its connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..limits import Limits
from ..listing import KeyPage
from ..names import Key
from ..quorum import Level
from ..tokens import Keyring, Ticket


class Keyspace(Protocol):
    """All keys together."""

    async def keys(self, prefix: bytes, after: bytes) -> KeyPage:
        """Give a page of keys in the order of their bytes."""

    async def scan(self, cursor: int, count: int) -> tuple[list[Key], int]:
        """Give about so many keys from a cursor on, 0 at the beginning; and the next cursor, 0 at the end."""

    async def count(self) -> int:
        """Say about how many keys there are."""

    async def random(self) -> Key | None:
        """Give some key, None if there is none."""

    async def flush(self) -> None:
        """Delete all keys."""

    async def explain(self, key: Key) -> dict[str, Any]:
        """Tell all that is known about a key."""


class Server(Protocol):
    """What commands need of the server.

    ``keyring`` holds the tokens that clients have to show; ``level`` is that of connections that have chosen none;
    ``durable`` says whether what is answered is on disks.
    """

    limits: Limits
    now_ms: Callable[[], int]
    level: Level
    keyring: Keyring
    keyspace: Keyspace
    allow_flush: bool
    since_ms: int
    received: int
    processed: int

    @property
    def durable(self) -> bool: ...

    def sessions(self) -> list[Session]:
        """Give the connections that are open."""


class Session:
    """A connection's settings. ``protocol`` is 2 or 3, as HELLO has set it; ``level`` is KV.LEVEL's; ``ticket`` is for
    the token that AUTH has shown."""

    __slots__ = (
        "address",
        "closing",
        "id",
        "level",
        "local",
        "name",
        "protocol",
        "server",
        "since_ms",
        "ticket",
        "told",
    )

    def __init__(self, server: Server, number: int, address: str, local: str) -> None:
        self.server = server
        self.id = number
        self.address = address
        self.local = local
        self.since_ms = server.now_ms()
        self.closing = False
        """Whether the connection ends with the reply that is being made."""
        self.told: dict[str, bytes] = {}
        """What CLIENT SETINFO said of the client's library."""
        self.reset()

    def reset(self) -> None:
        """Be as at the beginning."""
        self.protocol = 2
        self.level = self.server.level
        self.name = b""
        self.ticket = Ticket(self.server.keyring, None)
