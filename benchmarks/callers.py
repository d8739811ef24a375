"""One process that calls another: ``python -m benchmarks.callers PORT KIND KEYS BYTES CALLERS SECONDS``.

So many callers call ``benchmarks.echo`` by gRPC or by one of our transports, each one call after the other. KEYS is not
used; it stands there since every generator takes it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.web.client import Agent, HTTPConnectionPool

from twisted_kv.fasthttp.agent import PooledAgent
from twisted_kv.limits import Limits
from twisted_kv.peers.http import Endpoints, HttpTransport
from twisted_kv.peers.link import BATCH_PATH, LinkTransport
from twisted_kv.peers.peer import Answer, Transport
from twisted_kv.peers.queue import MSGPACK

from .closed_loop import Tally, calls_until, quiet
from .echo import METHOD
from .servers import CALL_TIMEOUT_S, HOST

KINDS = {
    "treq-twisted": "treq on Twisted's agent",
    "treq-ours": "treq on our agent",
    "link": "the link",
    "grpc": "grpc.aio",
}


def transport_of(kind: str, reactor: Any, callers: int) -> Transport:
    # Nobody shall wait for a connection: what is compared is calls, not pools.
    usual = Limits()
    limits = replace(
        usual,
        batches_in_flight_max=max(callers, usual.batches_in_flight_max),
        connections_max=max(callers, usual.connections_max),
    )
    endpoints = Endpoints(reactor, limits)
    if kind == "treq-twisted":
        pool = HTTPConnectionPool(reactor)
        pool.maxPersistentPerHost = callers
        return HttpTransport(reactor, limits, Agent.usingEndpointFactory(reactor, endpoints, pool))
    http = HttpTransport(reactor, limits, PooledAgent(reactor, endpoints, limits))
    return LinkTransport(reactor, limits, http) if kind == "link" else http


class Caller:
    """Calls again as soon as it was answered, until a moment has come."""

    def __init__(self, ask: Callable[[], Deferred[Answer]], payload: bytes, until_s: float, tally: Tally) -> None:
        self._ask = ask
        self._payload = payload
        self._until_s = until_s
        self._took = tally.took_s.append
        self._began_s = 0.0
        self.done: Deferred[None] = Deferred()

    def begin(self) -> None:
        self._began_s = time.monotonic()
        self._ask().addCallbacks(self._answered, self.done.errback)

    def _answered(self, answer: Answer) -> None:
        now_s = time.monotonic()
        self._took(now_s - self._began_s)
        assert answer.body == self._payload, answer
        if now_s < self._until_s:
            self.begin()
        else:
            self.done.callback(None)


def measure_transport(kind: str, port: int, payload: bytes, callers: int, seconds: float) -> Tally:
    from twisted.internet import reactor

    tally, transport = Tally(), transport_of(kind, reactor, callers)
    url = f"http://{HOST}:{port}{BATCH_PATH}"
    failed: list[Any] = []

    def ask() -> Deferred[Answer]:
        return transport.request("POST", url, payload, content_type=MSGPACK, timeout_s=CALL_TIMEOUT_S)

    def once_warm(_: object) -> Deferred[Any] | None:
        if isinstance(transport, LinkTransport) and not transport.links():
            # The first calls go over HTTP while the link is being opened.
            reactor.callLater(0.05, begin)
            return None
        quiet()
        tally.began_s = time.monotonic()
        crew = [Caller(ask, payload, tally.began_s + seconds, tally) for _ in range(callers)]
        for caller in crew:
            caller.begin()
        return DeferredList([caller.done for caller in crew], fireOnOneErrback=True).addCallback(over)

    def over(_: object) -> None:
        tally.ended_s = time.monotonic()
        reactor.stop()

    def give_up(failure: Any) -> None:
        failed.append(failure)
        reactor.stop()

    def begin() -> None:
        ask().addCallback(once_warm).addErrback(give_up)

    reactor.callWhenRunning(begin)
    reactor.callLater(seconds + CALL_TIMEOUT_S, sys.exit, "the calls did not end")
    reactor.run()
    if failed:
        sys.exit(f"{kind}: {failed[0]}")
    return tally


async def measure_grpc(port: int, payload: bytes, callers: int, seconds: float) -> Tally:
    try:
        import grpc
    except ImportError:
        sys.exit("grpcio is missing: pip install -e '.[bench]'")
    tally = Tally()
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        await asyncio.wait_for(channel.channel_ready(), CALL_TIMEOUT_S)
        ask = channel.unary_unary(METHOD)

        async def call() -> None:
            assert await ask(payload, timeout=CALL_TIMEOUT_S) == payload

        quiet()
        tally.began_s = time.monotonic()
        await asyncio.gather(*(calls_until(tally.began_s + seconds, call, tally) for _ in range(callers)))
        tally.ended_s = time.monotonic()
    return tally


if __name__ == "__main__":
    port, kind, _, body_bytes, callers, seconds = sys.argv[1:]
    payload = b"v" * int(body_bytes)
    if kind == "grpc":
        seen = asyncio.run(measure_grpc(int(port), payload, int(callers), float(seconds)))
    else:
        seen = measure_transport(kind, int(port), payload, int(callers), float(seconds))
    print(seen.as_wrk())
