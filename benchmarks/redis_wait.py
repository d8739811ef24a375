"""Writes to Redis that wait for a replica: ``python -m benchmarks.redis_wait PORT KEYS BYTES CLIENTS SECONDS``.

Each call is ``SET`` and ``WAIT 1 0`` in one piece: it ends when one replica has confirmed the write, in its memory.
redis-benchmark cannot do that.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable

from .closed_loop import KEY, Tally, quiet
from .servers import HOST

OK = b"+OK\r\n"


class Client(asyncio.Protocol):
    """One connection with one call under way."""

    def __init__(self, following: Callable[[], bytes], tally: Tally) -> None:
        self._following = following
        self._tally = tally
        self._until_s = 0.0
        self._asked_s = 0.0
        self._received = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def begin(self, until_s: float) -> None:
        self._until_s = until_s
        self._ask(time.monotonic())

    def _ask(self, now_s: float) -> None:
        self._asked_s = now_s
        self._transport.write(self._following())

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.count(b"\r\n") < 2:
            return
        answers, self._received = self._received, b""
        # ":1" or ":2": how many replicas have it.
        if not answers.startswith(OK + b":") or int(answers[len(OK) + 1 : -2]) < 1:
            self.done.set_exception(ConnectionError(f"Redis answered {answers!r}"))
            return
        now_s = time.monotonic()
        self._tally.took_s.append(now_s - self._asked_s)
        if now_s < self._until_s:
            self._ask(now_s)
        else:
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("Redis closed the connection"))


async def measure(port: int, keys: int, value_bytes: int, clients: int, seconds: float) -> Tally:
    set_ = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n"
    names = [(KEY % number).encode() for number in range(keys)]
    following = itertools.cycle([set_ % (len(k), k, value_bytes, b"v" * value_bytes) for k in names]).__next__
    tally, loop = Tally(), asyncio.get_running_loop()
    crew = [(await loop.create_connection(lambda: Client(following, tally), HOST, port))[1] for _ in range(clients)]
    quiet()
    tally.began_s = time.monotonic()
    for client in crew:
        client.begin(tally.began_s + seconds)
    await asyncio.gather(*(client.done for client in crew))
    tally.ended_s = time.monotonic()
    return tally


if __name__ == "__main__":
    port, keys, value_bytes, clients, seconds = sys.argv[1:]
    print(asyncio.run(measure(int(port), int(keys), int(value_bytes), int(clients), float(seconds))).as_wrk())
