"""Proxies that break, hang, trickle and babble, on real sockets: what a client makes of it, and whom it asks then."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.client.both import MAKES, MORE, Make, reactor, using
from tests.client.scripts import ETAG, OTHER
from tests.contracts.test_transports import Line, Server
from twisted_kv.client import BlockingClient, Client, Get, MaybeApplied, NobodyAnswers, Overloaded, Put, Value, Written

Deed = Callable[[Line, bytes], None]


@pytest.fixture(params=MORE)
def make(request: pytest.FixtureRequest) -> Make:
    return MORE[request.param]


def whole(status: int, body: bytes = b"", **headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} So", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if status != 204:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def value(body: bytes = b"v") -> bytes:
    return whole(200, body, ETag=f'"{ETAG}"')


WRITTEN = whole(204, ETag=f'"{ETAG}"', KV_Replicas="2/3")


def problem(status: int, slug: str, retry_after: str = "1", **fields: Any) -> bytes:
    document = {"type": slug, "title": slug, "detail": "so", **fields}
    return whole(status, json.dumps(document).encode(), Retry_After=retry_after)


def says(data: bytes) -> Deed:
    return lambda line, request: line.transport.write(data)  # type: ignore[union-attr]


def breaks(data: bytes = b"") -> Deed:
    def deed(line: Line, request: bytes) -> None:
        line.transport.write(data)  # type: ignore[union-attr]
        line.transport.loseConnection()  # type: ignore[union-attr]

    return deed


def resets(line: Line, request: bytes) -> None:
    line.transport.abortConnection()  # type: ignore[union-attr]


def hangs(line: Line, request: bytes) -> None:
    """Say nothing."""


def trickles(line: Line, request: bytes) -> None:
    """Say a byte of a head without an end, again and again: each is in time, and the whole never is."""

    def go_on() -> None:
        if line.open:
            line.transport.write(b"x")  # type: ignore[union-attr]
            reactor.callLater(0.02, go_on)

    line.transport.write(b"HTTP/1.1 200 OK\r\nX: ")  # type: ignore[union-attr]
    go_on()


def trickles_a_body(line: Line, request: bytes) -> None:
    line.transport.write(b'HTTP/1.1 200 OK\r\nETag: "' + ETAG.encode() + b'"\r\nContent-Length: 100000\r\n\r\n')  # type: ignore[union-attr]

    def go_on() -> None:
        if line.open:
            line.transport.write(b"x")  # type: ignore[union-attr]
            reactor.callLater(0.02, go_on)

    go_on()


@asynccontextmanager
async def proxies(*deeds: Deed) -> AsyncIterator[list[Server]]:
    servers = [Server(deed) for deed in deeds]
    try:
        yield servers
    finally:
        for server in servers:
            await server.stop()


def asked(servers: list[Server]) -> list[str]:
    """The methods that were asked for, of all."""
    return [request.split(b" ")[0].decode() for server in servers for request in server.requests]


async def soon(seconds: float = 0.05) -> None:
    await deferLater(reactor, seconds)


BAD = {
    "closed": breaks(),
    "reset": resets,
    "cut in the status line": breaks(b"HTTP/1.1 20"),
    "cut in the head": breaks(b"HTTP/1.1 200 OK\r\nETag"),
    "cut in the body": breaks(value(b"0123456789")[:-3]),
    "cut in a chunk": breaks(
        b'HTTP/1.1 200 OK\r\nETag: "%b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n012' % ETAG.encode()
    ),
    "without an end": breaks(b'HTTP/1.1 200 OK\r\nETag: "%b"\r\n\r\nuntil I close' % ETAG.encode()),
    "not HTTP": breaks(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "nonsense": breaks(b"\x00\xff" * 1000),
    "someone else's page": says(whole(200, b"<html>welcome</html>")),
    "encoded": says(whole(200, b"\x1f\x8b", ETag=f'"{ETAG}"', Content_Encoding="gzip")),
    "moved": says(whole(302, Location="http://127.0.0.1:1/")),
    "a gateway's error": says(whole(502, b"<html>Bad Gateway</html>")),
    "a bug": says(problem(500, "internal-error")),
    "in doubt": says(problem(503, "quorum-unreached", maybe_applied=True)),
    "hanging": hangs,
    "trickling": trickles,
    "trickling a body": trickles_a_body,
}
"""Proxies that leave a change in doubt."""

SILENT = ("hanging", "trickling", "trickling a body")
"""Those on whom a call's whole time is spent."""


@pytest.mark.parametrize("bad", BAD)
@pytest_twisted.ensureDeferred
async def test_a_read_is_answered_by_the_next_and_a_put_is_sent_once(make: Make, bad: str) -> None:
    async with proxies(BAD[bad]) as sick, proxies(says(value())) as well:
        for which in range(2):
            servers = [sick[0].url, well[0].url]
            async with using(make, servers[::-1] if which else servers) as kv:
                assert await kv.get("k") == Value(b"v", ETAG)
        sick[0].requests.clear()
        async with using(make, sick[0].url, timeout=2.0 if bad in SILENT else 30.0) as kv:
            with pytest.raises(MaybeApplied) as caught:
                await kv.put("k", "v")
            assert caught.value.tried
        assert asked(sick).count("PUT") == 1


NOT_DONE = {
    "overloaded": problem(429, "overloaded", "0"),
    "a gateway's limit": whole(429, b"<html>", Retry_After="0"),
    "not reached": problem(503, "quorum-unreached", "0", maybe_applied=False),
    "no nodes": problem(503, "no-nodes", "0"),
    "moving": problem(503, "change-under-way", "0"),
}


@pytest.mark.parametrize("why", NOT_DONE)
@pytest_twisted.ensureDeferred
async def test_a_put_that_did_nothing_is_done_by_the_next(make: Make, why: str) -> None:
    async with proxies(says(NOT_DONE[why]), says(WRITTEN)) as servers:
        for urls in ([one.url for one in servers], [one.url for one in servers[::-1]]):
            async with using(make, urls) as kv:
                assert await kv.put("k", "v") == Written(ETAG, 2, 3)


@pytest_twisted.ensureDeferred
async def test_who_asks_to_be_left_alone_is_and_the_call_ends_in_its_time(make: Make) -> None:
    busy = problem(429, "overloaded", "30")
    async with proxies(says(busy), says(busy)) as servers, using(make, [one.url for one in servers]) as kv:
        with pytest.raises(Overloaded):
            await kv.put("k", "v", timeout=5)
        assert [len(server.requests) for server in servers] == [1, 1]


@pytest_twisted.ensureDeferred
async def test_retry_after_is_waited_for_where_there_is_time(make: Make) -> None:
    answers = [problem(429, "overloaded", "1"), WRITTEN]
    times: list[float] = []

    def deed(line: Line, request: bytes) -> None:
        times.append(reactor.seconds())
        line.transport.write(answers[len(times) - 1])  # type: ignore[union-attr]

    async with proxies(deed) as servers, using(make, servers[0].url) as kv:
        assert await kv.put("k", "v") == Written(ETAG, 2, 3)
    assert times[1] - times[0] > 0.9


@pytest_twisted.ensureDeferred
async def test_a_proxy_that_closed_a_kept_connection_is_simply_asked_again(make: Make) -> None:
    """As a proxy that was restarted has: the connection was closed before, so nothing is in doubt."""
    async with proxies(says(WRITTEN)) as servers, using(make, servers[0].url) as kv:
        for number in range(3):
            await kv.put("k", "v")
            for line in servers[0].lines:
                line.transport.abortConnection()  # type: ignore[union-attr]
            await servers[0].gone()
            await soon()
            assert len(servers[0].requests) == number + 1


@pytest.mark.parametrize("kind", MAKES)
@pytest_twisted.ensureDeferred
async def test_connections_are_kept(kind: str) -> None:
    async with proxies(says(WRITTEN)) as servers, using(MAKES[kind], servers[0].url) as kv:
        for _ in range(5):
            await kv.put("k", "v")
        assert len(servers[0].lines) == 1


@pytest_twisted.ensureDeferred
async def test_a_proxy_that_says_close_is_called_anew(make: Make) -> None:
    closing = whole(200, b"v" * 100_000, ETag=f'"{ETAG}"', Connection="close")
    async with proxies(breaks(closing)) as servers, using(make, servers[0].url) as kv:
        for _ in range(3):
            assert await kv.get("k") == Value(b"v" * 100_000, ETAG)
        assert len(servers[0].lines) == 3


@pytest_twisted.ensureDeferred
async def test_connections_are_bounded_and_the_others_wait(make: Make) -> None:
    waiting: list[Line] = []

    def deed(line: Line, request: bytes) -> None:
        waiting.append(line)

    async with proxies(deed) as servers, using(make, servers[0].url, connections=2, timeout=30) as kv:
        calls = gatherResults([kv.put(f"k{number}", "v") for number in range(6)])
        for answered in range(6):
            while len(waiting) <= answered:
                await soon(0.01)
            assert sum(line.open for line in servers[0].lines) <= 2
            assert len(waiting) - answered <= 2
            waiting[answered].transport.write(WRITTEN)  # type: ignore[union-attr]
        assert len(await calls) == 6


@pytest_twisted.ensureDeferred
async def test_who_gets_no_connection_in_time_has_sent_nothing(make: Make) -> None:
    async with proxies(hangs) as servers, using(make, servers[0].url, connections=1) as kv:
        first = kv.put("a", "v", timeout=1.0)
        first.addErrback(lambda failure: failure.trap(MaybeApplied))
        while not servers[0].requests:
            await soon(0.01)
        with pytest.raises(NobodyAnswers, match="busy"):
            await kv.put("b", "v", timeout=0.1)
        await first
        assert not [request for request in servers[0].requests if b"/kv/b" in request]


@pytest_twisted.ensureDeferred
async def test_bulk_keeps_what_came_before_the_break(make: Make) -> None:
    cut = b"".join(
        json.dumps(line).encode() + b"\n" for line in ({"key": "a", "status": 204, "etag": OTHER}, {"status": 2})
    )
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(cut) + 10)
    rest = [{"key": "c", "status": 200, "value": "v", "etag": ETAG}]
    answers = [head + cut[:-4], whole(200, b"".join(json.dumps(line).encode() + b"\n" for line in rest))]

    def deed(line: Line, request: bytes) -> None:
        breaks(answers[0])(line, request) if len(answers) == 2 else says(answers[0])(line, request)
        answers.pop(0)

    async with proxies(deed) as servers, using(make, servers[0].url) as kv:
        first, second, third = await kv.bulk([Put("a", "1"), Put("b", "2"), Get("c")])
        assert first == Written(OTHER)
        assert isinstance(second, MaybeApplied)
        assert third == Value(b"v", ETAG, expires_ms=0)


@pytest_twisted.ensureDeferred
async def test_a_scan_goes_on_where_it_was_when_a_proxy_breaks(make: Make) -> None:
    pages = {
        b"cursor": whole(200, b'{"keys": ["b"], "cursor": null}'),
        b"": whole(200, b'{"keys": ["a"], "cursor": "x"}'),
    }
    broken: list[bytes] = []

    def deed(line: Line, request: bytes) -> None:
        target = request.split(b" ")[1]
        if target not in broken:
            broken.append(target)
            resets(line, request)
            return
        line.transport.write(pages[b"cursor" if b"cursor" in target else b""])  # type: ignore[union-attr]

    async with proxies(deed) as servers, using(make, servers[0].url) as kv:
        assert await kv.scan() == [b"a", b"b"]


# What only one of them does.


@pytest_twisted.ensureDeferred
async def test_a_call_may_be_cancelled_and_nothing_more_is_sent() -> None:
    async with proxies(hangs) as servers:
        client = Client(reactor, servers[0].url)
        for number, ask in enumerate((client.get, client.delete), 1):
            asking: Deferred[Any] = ask("k")
            while len(servers[0].requests) < number:
                await soon(0.01)
            asking.cancel()
            with pytest.raises(CancelledError):
                await asking
            await servers[0].gone()
            await soon()
            assert len(servers[0].requests) == number
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_client_works_in_async_with_and_in_callbacks() -> None:
    async with proxies(says(value())) as servers:
        async with Client(reactor, servers[0].url) as client:
            got: Deferred[bytes] = client.get("k").addCallback(lambda found: found.value if found else b"")
            assert await got == b"v"
        with pytest.raises(RuntimeError):
            await client.get("k")


def test_importing_the_blocking_one_loads_neither_twisted_nor_klein() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom twisted_kv.client import BlockingClient, Get, Put, Delete, MaybeApplied, KvError\n"
        "BlockingClient(['a:1'], token='x' * 20).close()\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('twisted', 'klein', 'treq', 'msgspec')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import twisted_kv.client as package

    assert [name for name in package.__all__ if getattr(package, name).__name__ != name] == []
    assert set(package.__all__) == set(package.ROOMS)
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        package.Clinet  # noqa: B018


def test_both_clients_take_the_same() -> None:
    import inspect

    for name in ("get", "put", "delete", "cas", "increment", "bulk", "scan"):
        one, other = (inspect.signature(getattr(kind, name)).parameters for kind in (Client, BlockingClient))
        assert list(one.values()) == list(other.values()), name
