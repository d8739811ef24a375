"""Both clients behind one face, so that one suite holds them to the same: every call gives something to await."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Protocol

from twisted.internet import reactor as real_reactor
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent

from twisted_kv.client import BlockingClient, Client, Value, Written
from twisted_kv.client.values import Line, Result, Text

reactor: Any = real_reactor


class Asked(Protocol):
    """What tests call."""

    async def get(self, key: Text, **how: Any) -> Value | None: ...

    async def put(self, key: Text, value: Text, **how: Any) -> Written: ...

    async def delete(self, key: Text, **how: Any) -> Written: ...

    async def cas(self, key: Text, value: Text | None, expected: str | None, **how: Any) -> Written: ...

    async def increment(self, key: Text, by: int = 1, **how: Any) -> int: ...

    async def bulk(self, lines: Iterable[Line], **how: Any) -> list[Result]: ...

    async def scan(self, prefix: Text = b"", **how: Any) -> list[bytes]: ...


class WithReactor:
    def __init__(self, client: Client) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    async def bulk(self, lines: Iterable[Line], **how: Any) -> list[Result]:
        return [result async for result in self.client.bulk(lines, **how)]

    async def scan(self, prefix: Text = b"", **how: Any) -> list[bytes]:
        return [key async for key in self.client.scan(prefix, **how)]

    async def close(self) -> None:
        await self.client.close()


class WithoutReactor:
    """Each call in a thread of its own."""

    def __init__(self, client: BlockingClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **how: deferToThread(getattr(self.client, name), *given, **how)

    async def bulk(self, lines: Iterable[Line], **how: Any) -> list[Result]:
        return await deferToThread(lambda: list(self.client.bulk(lines, **how)))

    async def scan(self, prefix: Text = b"", **how: Any) -> list[bytes]:
        return await deferToThread(lambda: list(self.client.scan(prefix, **how)))

    async def close(self) -> None:
        self.client.close()


Make = Callable[..., Any]

MAKES: dict[str, Make] = {
    "blocking": lambda servers, **how: WithoutReactor(BlockingClient(servers, random=Random(1), **how)),
    "deferred": lambda servers, **how: WithReactor(Client(reactor, servers, random=Random(1), **how)),
}
MORE: dict[str, Make] = {
    **MAKES,
    "over Twisted's agent": lambda servers, **how: WithReactor(
        Client(reactor, servers, agent=Agent(reactor), random=Random(1), **how)
    ),
}


@asynccontextmanager
async def using(make: Make, servers: str | Sequence[str], **how: Any) -> AsyncIterator[Asked]:
    """A client that is closed in the end."""
    client = make(servers, **how)
    try:
        yield client
    finally:
        await client.close()
