"""The contract of transports, over real sockets: one answer read to its end, or one of two errors, in time.

Every test runs over the agent that is the default, over Twisted's, whose place it takes, and below links that cannot
be opened. What goes over a link is in ``test_link``.
"""

from __future__ import annotations

import gc
import gzip
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived

from tests.contracts.twisted_agent import TwistedAgent
from twisted_kv.errors import KvError, PeerSilent, PeerUnreachable
from twisted_kv.limits import Limits
from twisted_kv.peers.http import HttpTransport
from twisted_kv.peers.link import LinkTransport
from twisted_kv.peers.peer import Answer, Transport

reactor: Any = real_reactor

SHORT_S = 0.2
LONG_S = 5.0
PATIENCE_S = 30.0
LIMITS = Limits(node_body_bytes_max=100_000)
Script = Callable[["Line", bytes], None]


def ok(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", body]
    return b"\r\n".join(lines)


class Nowhere:
    """Gives no endpoint."""

    def endpointForURI(self, uri: object) -> Any:
        raise ValueError("there is no way")


TRANSPORTS: dict[str, Callable[[], HttpTransport | LinkTransport]] = {
    "ours": lambda: HttpTransport(reactor, LIMITS),
    "Twisted's": lambda: HttpTransport(reactor, LIMITS, TwistedAgent(reactor, LIMITS)),
    "no link": lambda: LinkTransport(reactor, LIMITS, HttpTransport(reactor, LIMITS), Nowhere()),  # type: ignore[arg-type]
}
transport_made = TRANSPORTS["ours"]


@pytest.fixture(params=TRANSPORTS, autouse=True)
def _transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "transport_made", TRANSPORTS[request.param])


class Line(Protocol):
    """One connection of a server that follows a script: it is called with each whole request."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""
        self.number = len(server.lines)
        self.requests = 0
        self.open = True
        server.lines.append(self)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        request, self._buffer = head + found + rest[:length], rest[length:]
        self.requests += 1
        self._server.requests.append(request)
        self._server.script(self, request)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.open = False
        self._server.lost()


class Server:
    """A server in this reactor that does as its script says."""

    def __init__(self, script: Script, line: type[Line] = Line) -> None:
        self.script = script
        self.lines: list[Line] = []
        self.requests: list[bytes] = []
        self._all_gone: Deferred[None] | None = None
        factory = Factory()
        factory.noisy = False
        factory.protocol = lambda: line(self)  # type: ignore[assignment]
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port.getHost().port}"

    def lost(self) -> None:
        if self._all_gone is not None and not any(line.open for line in self.lines):
            self._all_gone.callback(None)
            self._all_gone = None

    async def gone(self) -> None:
        """Wait until every connection is closed."""
        if any(line.open for line in self.lines):
            self._all_gone = Deferred()
            await self._all_gone.addTimeout(PATIENCE_S, reactor)

    async def stop(self) -> None:
        await maybeDeferred(self.port.stopListening)
        for line in self.lines:
            if line.open:
                line.transport.abortConnection()  # type: ignore[union-attr]
        await self.gone()


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[tuple[Server, Transport]]:
    """A server and a transport, and nothing left of either: no timer, no connection."""
    timers = set(reactor.getDelayedCalls())
    server = Server(script)
    transport = transport_made()
    try:
        yield server, transport
        await transport.close()
        await server.gone()
    finally:
        await server.stop()
    left = [call for call in reactor.getDelayedCalls() if call not in timers]
    assert left == [], [str(call) for call in left]


def post(transport: Transport, url: str, body: bytes = b"question", timeout_s: float = LONG_S) -> Deferred[Answer]:
    return transport.request(
        "POST", f"{url}/node/v1/batch", body, content_type="application/msgpack", timeout_s=timeout_s
    )


async def error_of(waiting: Deferred[Answer], kind: type[KvError]) -> KvError:
    with pytest.raises(KvError) as caught:
        await waiting
    assert type(caught.value) is kind, repr(caught.value)
    assert caught.value.detail
    return caught.value


@contextmanager
def before(after_s: float) -> Iterator[None]:
    """Hold that what is awaited comes before a timer of the same reactor that was set after it.

    Both timers are late when the machine is: their order is no question of its speed.
    """
    timer = reactor.callLater(after_s, lambda: None)
    yield
    assert timer.active(), f"it took longer than {after_s:g} s"
    timer.cancel()


def answering(data: bytes) -> Script:
    return lambda line, request: line.transport.write(data)  # type: ignore[union-attr]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, kept from everybody else."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest_twisted.ensureDeferred
async def test_an_answer_is_read_to_its_end() -> None:
    body = bytes(range(256)) * 300

    def script(line: Line, request: bytes) -> None:
        whole = ok(body)
        line.transport.write(whole[:100])
        reactor.callLater(0.02, line.transport.write, whole[100:50_000])
        reactor.callLater(0.04, line.transport.write, whole[50_000:])

    async with serving(script) as (server, transport):
        assert await post(transport, server.url, b"\x00\xff") == Answer(200, body, False)
    (request,) = server.requests
    head, _, sent = request.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /node/v1/batch http/1.1"
    assert b"content-type: application/msgpack" in lines
    assert b"content-length: 2" in lines
    assert sent == b"\x00\xff"


@pytest_twisted.ensureDeferred
async def test_an_error_status_is_an_answer_like_any_other() -> None:
    async with serving(answering(ok(b"no", status=b"409 Conflict"))) as (server, transport):
        assert await post(transport, server.url) == Answer(409, b"no")
        assert await transport.request("GET", server.url, b"", content_type="application/json", timeout_s=1) == Answer(
            409, b"no"
        )


@pytest_twisted.ensureDeferred
async def test_requests_of_one_node_share_connections() -> None:
    async with serving(answering(ok(b"x"))) as (server, transport):
        for _ in range(5):
            await post(transport, server.url)
        assert len(server.lines) == 1


@pytest_twisted.ensureDeferred
async def test_a_refused_connection_took_nothing(closed_port: int) -> None:
    async with serving(answering(b"")) as (_, transport):
        error = await error_of(post(transport, f"http://127.0.0.1:{closed_port}"), PeerUnreachable)
        assert error.detail == "cannot connect: Connection refused"


@pytest_twisted.ensureDeferred
async def test_an_unknown_host_took_nothing() -> None:
    async with serving(answering(b"")) as (_, transport):
        await error_of(post(transport, "http://nobody.invalid:80"), PeerUnreachable)


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "nonsense", "http://[::1", "ftp://127.0.0.1:80", ""])
@pytest_twisted.ensureDeferred
async def test_a_url_that_is_none_is_a_typed_error_and_not_a_bug(url: str) -> None:
    async with serving(answering(b"")) as (_, transport):
        with pytest.raises((PeerUnreachable, PeerSilent)):
            await post(transport, url)


SILENCES = {
    "says nothing": b"",
    "hangs in the status": b"HTTP/1.1 2",
    "hangs in the headers": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
    "hangs before the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "hangs in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12",
    "hangs in the chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
}


@pytest.mark.parametrize("said", SILENCES.values(), ids=SILENCES)
@pytest_twisted.ensureDeferred
async def test_a_server_that_goes_silent_is_left_in_time_and_hung_up_on(said: bytes) -> None:
    async with serving(answering(said)) as (server, transport):
        too_early = reactor.callLater(SHORT_S / 2, lambda: None)
        waiting = post(transport, server.url, timeout_s=SHORT_S)
        with before(SHORT_S * 1.5):
            error = await error_of(waiting, PeerSilent)
        assert not too_early.active()
        assert error.detail == "no answer within 0.2 s"
        await server.gone()
    assert len(server.requests) == 1, "a time-out is no reason to send it again"


@pytest_twisted.ensureDeferred
async def test_a_body_that_drips_does_not_stretch_the_deadline() -> None:
    def drip(line: Line) -> None:
        if line.open:
            line.transport.write(b".")
            reactor.callLater(0.05, drip, line)

    def script(line: Line, request: bytes) -> None:
        line.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n")
        drip(line)

    server = Server(script)
    transport = transport_made()
    waiting = post(transport, server.url, timeout_s=SHORT_S)
    with before(SHORT_S * 1.5):
        await error_of(waiting, PeerSilent)
    await server.gone()
    await transport.close()
    await server.stop()


CUTS = {
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12",
    "before the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "in the chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "at no announced length": b"HTTP/1.1 200 OK\r\n\r\nabc",
    "in the headers": b"HTTP/1.1 200 OK\r\nContent-",
}


@pytest.mark.parametrize("said", CUTS.values(), ids=CUTS)
@pytest_twisted.ensureDeferred
async def test_an_answer_that_was_cut_is_no_answer(said: bytes) -> None:
    def script(line: Line, request: bytes) -> None:
        line.transport.write(said)
        line.transport.loseConnection()

    async with serving(script) as (server, transport):
        await error_of(post(transport, server.url), PeerSilent)
    assert len(server.requests) == 1


@pytest_twisted.ensureDeferred
async def test_what_is_no_http_is_no_answer() -> None:
    async with serving(answering(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")) as (server, transport):
        await error_of(post(transport, server.url), PeerSilent)


@pytest_twisted.ensureDeferred
async def test_a_body_over_the_limit_is_hung_up_on_and_one_at_the_limit_is_read() -> None:
    size = LIMITS.node_body_bytes_max

    def script(line: Line, request: bytes) -> None:
        line.transport.write(ok(bytes(size if len(server.requests) == 1 else size + 1)))

    async with serving(script) as (server, transport):
        assert len((await post(transport, server.url)).body) == size
        error = await error_of(post(transport, server.url), PeerSilent)
        assert error.detail == f"the answer is larger than {size} bytes"


@pytest_twisted.ensureDeferred
async def test_an_endless_body_is_hung_up_on_long_before_the_deadline() -> None:
    def pour(line: Line) -> None:
        if line.open:
            line.transport.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            reactor.callLater(0, pour, line)

    def script(line: Line, request: bytes) -> None:
        line.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        pour(line)

    server = Server(script)
    transport = transport_made()
    error = await error_of(post(transport, server.url), PeerSilent)
    assert error.detail == f"the answer is larger than {LIMITS.node_body_bytes_max} bytes"
    await server.gone()
    await transport.close()
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    async with serving(answering(ok(b"", b"Location: /elsewhere", status=b"307 Temporary Redirect"))) as (
        server,
        transport,
    ):
        assert (await post(transport, server.url)).code == 307
    assert len(server.requests) == 1


@pytest_twisted.ensureDeferred
async def test_compression_is_not_offered() -> None:
    async with serving(answering(ok(b"x"))) as (server, transport):
        await post(transport, server.url)
    assert b"accept-encoding" not in server.requests[0].lower()


async def refuse_encoded() -> Server:
    """Ask a server that sends a bomb, and give it; the connection to it may still be open."""
    bomb = gzip.compress(bytes(1_000_000))
    server = Server(answering(ok(bomb, b"Content-Encoding: gzip")))
    transport = transport_made()
    error = await error_of(post(transport, server.url), PeerSilent)
    assert "encoded" in error.detail
    await transport.close()
    return server


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_compressed_all_the_same_is_refused() -> None:
    server = await refuse_encoded()
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_refused_compressed_answer_leaves_no_connection_open() -> None:
    server = await refuse_encoded()
    try:
        await server.gone()
    finally:
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_request_that_meets_a_stale_connection_is_sent_once_more_and_says_so() -> None:
    def script(line: Line, request: bytes) -> None:
        if line.number == 0 and line.requests == 2:
            # The server's idle time-out and the second request cross on the wire.
            line.transport.loseConnection()
        else:
            line.transport.write(ok(b"answer"))

    async with serving(script) as (server, transport):
        assert await post(transport, server.url, b"first") == Answer(200, b"answer", False)
        assert await post(transport, server.url, b"second") == Answer(200, b"answer", True)
        assert await post(transport, server.url, b"third") == Answer(200, b"answer", False)
        assert len(server.lines) == 2
    assert [request.rpartition(b"\r\n")[2] for request in server.requests] == [b"first", b"second", b"second", b"third"]


@pytest_twisted.ensureDeferred
async def test_a_connection_that_was_closed_in_time_is_not_used_and_nothing_is_sent_twice() -> None:
    closing: Deferred[None] = Deferred()

    def script(line: Line, request: bytes) -> None:
        line.transport.write(ok(b"answer"))
        if line.number == 0:
            line.transport.loseConnection()
            reactor.callLater(0.05, closing.callback, None)

    async with serving(script) as (server, transport):
        await post(transport, server.url)
        await closing
        assert await post(transport, server.url) == Answer(200, b"answer", False)
    assert len(server.requests) == 2


@pytest_twisted.ensureDeferred
async def test_a_server_that_always_hangs_up_is_asked_twice_and_no_more() -> None:
    async with serving(lambda line, request: line.transport.loseConnection()) as (server, transport):
        error = await error_of(post(transport, server.url), PeerSilent)
        assert "broke" in error.detail
    assert len(server.requests) == 2


@pytest_twisted.ensureDeferred
async def test_a_second_attempt_that_cannot_connect_does_not_say_that_nothing_left() -> None:
    def script(line: Line, request: bytes) -> None:
        server.port.stopListening()
        line.transport.loseConnection()

    async with serving(script) as (server, transport):
        await error_of(post(transport, server.url), PeerSilent)
    assert len(server.requests) == 1


class Breaking:
    """An agent whose connection breaks at once, and that can make no other request."""

    def __init__(self) -> None:
        self._asked = 0

    def request(self, *_: object) -> Deferred[Any]:
        self._asked += 1
        if self._asked > 1:
            raise ValueError("there is no way any more")
        return fail(ResponseNeverReceived([]))


@pytest_twisted.ensureDeferred
async def test_a_second_attempt_that_cannot_be_made_does_not_say_that_nothing_left() -> None:
    error = await error_of(post(HttpTransport(reactor, LIMITS, Breaking()), "http://127.0.0.1:80"), PeerSilent)
    assert "no way any more" in error.detail


@pytest_twisted.ensureDeferred
async def test_both_attempts_share_one_deadline() -> None:
    def script(line: Line, request: bytes) -> None:
        if len(server.requests) == 1:
            reactor.callLater(0.4, line.transport.loseConnection)

    async with serving(script) as (server, transport):
        waiting = post(transport, server.url, timeout_s=1.0)
        with before(1.2):
            await error_of(waiting, PeerSilent)
    assert len(server.requests) == 2


@pytest_twisted.ensureDeferred
async def test_idle_connections_are_closed_with_the_transport() -> None:
    async with serving(answering(ok(b"x"))) as (server, transport):
        waiting = [post(transport, server.url) for _ in range(4)]
        for answer in waiting:
            await answer
        assert [line.open for line in server.lines] == [True] * 4
        await transport.close()
        await server.gone()
        assert not any(line.open for line in server.lines)


@pytest_twisted.ensureDeferred
async def test_who_answers_early_and_reads_no_more_does_not_keep_the_transport_open() -> None:
    class Early(Line):
        def dataReceived(self, data: bytes) -> None:
            if not self.requests:
                self.requests += 1
                self.transport.pauseProducing()  # type: ignore[union-attr]
                refusal = ok(b"too large", b"Connection: close", status=b"413 Content Too Large")
                self.transport.write(refusal)  # type: ignore[union-attr]

    server = Server(answering(b""), Early)
    transport = transport_made()
    assert (await post(transport, server.url, bytes(20 * 1024 * 1024))).code == 413
    await transport.close().addTimeout(LONG_S, reactor)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_requests_leave_no_circles_behind_for_the_garbage_collector() -> None:
    async with serving(answering(ok(b"x"))) as (server, transport):
        await post(transport, server.url)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await post(transport, server.url)
            assert gc.collect() < 20
        finally:
            gc.enable()
    assert len(server.requests) == 21
