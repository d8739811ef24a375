"""The agent: what it writes, what it makes of answers, and what becomes of its connections."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    RequestGenerationFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
    SchemeNotSupported,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from tests.strict_clock import StrictClock
from twisted_kv.fasthttp.agent import PooledAgent
from twisted_kv.fasthttp.exchange import CalledOff
from twisted_kv.limits import Limits
from twisted_kv.peers.http import Body, WholeBody

LIMITS = Limits(connections_max=3, batches_in_flight_max=1, answer_head_bytes_max=400, answer_fields_max=5)
IDLE_MAX = 3
URL = b"http://node:8081/node/v1/batch"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer"


@implementer(ITCPTransport)
class Wire:
    """A connection whose other end is the test.

    Once it is aborted it is gone with the next turn, see ``Net.turn``; a polite end is up to the other side, and so to
    the test.
    """

    disconnecting = False

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.end = ""
        self.gone = False
        self.paused = self.no_delay = False
        protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def loseConnection(self) -> None:
        self.end = self.end or "closed"

    def abortConnection(self) -> None:
        self.end = "aborted"

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        assert self.paused, "nothing is resumed that was not paused"
        self.paused = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    # What the other end does.

    def says(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def goes(self, error: Exception | None = None) -> None:
        assert not self.gone, "a connection is lost once"
        self.gone = True
        self.protocol.connectionLost(Failure(error or ConnectionDone()))


@implementer(IStreamClientEndpoint, IAgentEndpointFactory)
class Net:
    """Endpoints that connect when the test says so."""

    def __init__(self) -> None:
        self.uris: list[URI] = []
        self.attempts: list[tuple[Any, Deferred[Any]]] = []
        self.wires: list[Wire] = []
        self.called_off = 0
        self.refusing = False

    def endpointForURI(self, uri: URI) -> Net:
        self.uris.append(uri)
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.refusing:
            return fail(ConnectError())
        self.attempts.append((factory, Deferred(self._call_off)))
        return self.attempts[-1][1]

    def _call_off(self, _: object) -> None:
        self.called_off += 1

    def accept(self, number: int = -1) -> Wire:
        factory, made = self.attempts.pop(number)
        wire = self.wire(factory)
        made.callback(wire.protocol)
        return wire

    def wire(self, factory: Any) -> Wire:
        self.wires.append(Wire(factory.buildProtocol(None)))
        return self.wires[-1]

    def turn(self) -> None:
        """Let the reactor turn once."""
        for wire in self.wires:
            if wire.end == "aborted" and not wire.gone:
                wire.goes(ConnectionAborted())

    def refuse(self) -> None:
        self.attempts.pop()[1].errback(ConnectError())


class Reading(Protocol):
    """Who reads an answer's body."""

    def __init__(self) -> None:
        self.data = b""
        self.reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.reason is None, "a body ends once"
        self.reason = reason


class Asked:
    """A request under way, and what has come of it."""

    def __init__(self, made: Deferred[Any], read: bool = True) -> None:
        self.made = made
        self.response: Any = None
        self.failure: Failure | None = None
        self.body = Reading()
        self._read = read
        made.addCallbacks(self._answered, self._failed)

    def _answered(self, response: Any) -> None:
        self.response = response
        if self._read:
            response.deliverBody(self.body)

    def _failed(self, failure: Failure) -> None:
        self.failure = failure

    @property
    def whole(self) -> bytes:
        """The body of an answer that was read to its end."""
        assert self.body.reason is not None
        assert self.body.reason.check(ResponseDone)
        return self.body.data

    def failed(self, kind: type[Exception]) -> None:
        assert self.failure is not None
        assert type(self.failure.value) is kind, repr(self.failure.value)

    def cut(self, kind: type[Exception]) -> None:
        assert self.body.reason is not None
        assert type(self.body.reason.value) is kind, repr(self.body.reason.value)


class Scene:
    """An agent on a clock that stands still, and a net that does as it is told."""

    def __init__(self) -> None:
        self.clock = StrictClock()
        self.net = Net()
        self.agent = PooledAgent(self.clock, self.net, LIMITS)

    def ask(self, method: bytes = b"GET", url: bytes = URL, read: bool = True) -> Asked:
        return Asked(self.agent.request(method, url, Headers({b"x": [b"y"]})), read)

    def wire(self) -> Wire:
        """A connection that is idle."""
        asked, wire = self.ask(), self.net.accept()
        wire.says(OK)
        assert asked.whole == b"answer"
        wire.writes.clear()
        return wire

    def answered(self, *said: bytes, method: bytes = b"GET") -> tuple[Asked, Wire]:
        asked, wire = self.ask(method), self.net.accept()
        for data in said:
            wire.says(data)
        return asked, wire

    def wires(self, count: int) -> list[Wire]:
        """Connections that are idle, the one used last at the end."""
        asked = [self.ask() for _ in range(count)]
        wires = [self.net.accept(0) for _ in range(count)]
        for wire in wires:
            wire.says(OK)
        assert [one.whole for one in asked] == [b"answer"] * count
        return wires


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    closed = scene.agent.closeCachedConnections()
    scene.net.turn()
    assert closed.called, "whoever stops waits for nobody's end"
    assert scene.clock.getDelayedCalls() == []


# What it writes.


def test_a_request_leaves_in_one_write(scene: Scene) -> None:
    headers = Headers({b"content-type": [b"application/msgpack"], b"x-two": [b"1", b"2"]})
    scene.agent.request(b"POST", URL + b"?a=b&c", headers, WholeBody(b"\x00body"))
    wire = scene.net.accept()
    assert wire.no_delay
    assert wire.writes == [
        b"POST /node/v1/batch?a=b&c HTTP/1.1\r\nHost: node:8081\r\nContent-Type: application/msgpack\r\n"
        b"X-Two: 1\r\nX-Two: 2\r\nContent-Length: 5\r\n\r\n\x00body"
    ]


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        (b"http://node", b"GET / HTTP/1.1", b"Host: node"),
        (b"http://node:80/a", b"GET /a HTTP/1.1", b"Host: node"),
        (b"https://node/a", b"GET /a HTTP/1.1", b"Host: node"),
        (b"https://node:80/a", b"GET /a HTTP/1.1", b"Host: node:80"),
        (b"http://[::1]:81/a%2Fb#c", b"GET /a%2Fb HTTP/1.1", b"Host: [::1]:81"),
        (b"http://[::1]/a", b"GET /a HTTP/1.1", b"Host: [::1]"),
    ],
)
def test_the_host_is_told_as_its_url_writes_it(scene: Scene, url: bytes, line: bytes, host: bytes) -> None:
    scene.agent.request(b"GET", url)
    assert scene.net.accept().writes == [line + b"\r\n" + host + b"\r\n\r\n"]


def test_a_host_and_lengths_that_the_caller_gives(scene: Scene) -> None:
    headers = Headers({b"host": [b"other"], b"content-length": [b"7"], b"transfer-encoding": [b"chunked"]})
    scene.agent.request(b"POST", b"http://node/", headers, WholeBody(b""))
    assert scene.net.accept().writes == [b"POST / HTTP/1.1\r\nHost: other\r\nContent-Length: 0\r\n\r\n"]


def test_methods_that_mean_something_by_a_body_say_that_there_is_none(scene: Scene) -> None:
    scene.agent.request(b"PUT", b"http://node/")
    assert scene.net.accept().writes == [b"PUT / HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n"]


@pytest.mark.parametrize(
    ("method", "url", "error"),
    [
        (b"GET /x", URL, ValueError),
        (b"", URL, ValueError),
        (b"GET", b"http://node/a b", ValueError),
        (b"GET", b"http://node/a\r\nX: y", ValueError),
        (b"GET", b"http://node/\xff", ValueError),
        (b"GET", b"ftp://node/", SchemeNotSupported),
        (b"GET", b"node", SchemeNotSupported),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_leaves(
    scene: Scene, method: bytes, url: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        scene.agent.request(method, url)
    assert scene.net.attempts == []


@implementer(IBodyProducer)
class Slow:
    """Has no body yet."""

    length = 10

    def startProducing(self, consumer: Any) -> Deferred[None]:
        raise AssertionError("nobody asks it to write")

    pauseProducing = resumeProducing = stopProducing = startProducing


def test_a_body_that_is_not_there_as_a_whole_is_refused(scene: Scene) -> None:
    with pytest.raises(RequestGenerationFailed):
        scene.agent.request(b"POST", URL, None, Slow())
    assert scene.net.attempts == []


# What it makes of answers.


def test_an_answer_has_all_that_treq_asks_of_it(scene: Scene) -> None:
    asked, _ = scene.answered(b"HTTP/1.1 404 Not There\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\nno")
    response = asked.response
    assert (response.version, response.code, response.phrase, response.length) == (
        (b"HTTP", 1, 1),
        404,
        b"Not There",
        2,
    )
    assert response.headers.getRawHeaders(b"X-a") == [b"1", b"2"]
    assert (response.request, response.previousResponse) == (None, None)
    assert asked.whole == b"no"
    with pytest.raises(RuntimeError):
        response.deliverBody(Reading())


def test_chunks_are_put_together_and_their_trailers_forgotten(scene: Scene) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
    asked, wire = scene.answered(head + b"3\r\nabc\r\n2;x=y\r\nde\r\n", b"0\r\nTrailer: x\r\n\r\n")
    assert asked.whole == b"abcde"
    assert asked.response.length is UNKNOWN_LENGTH
    assert not asked.response.headers.hasHeader(b"trailer")
    assert wire.end == ""


def test_interim_answers_are_skipped(scene: Scene) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"
    asked, wire = scene.answered(interim + OK)
    assert asked.whole == b"answer"
    assert asked.response.phrase == b"OK"
    assert not asked.response.headers.hasHeader(b"link")
    assert wire.end == ""


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 60\r\n\r\n"),
    ],
)
def test_answers_without_a_body_end_with_their_head(scene: Scene, method: bytes, head: bytes) -> None:
    asked, wire = scene.answered(head, method=method)
    assert asked.whole == b""
    assert asked.response.length == 0
    again = scene.ask()
    wire.says(OK)
    assert again.whole == b"answer"


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x, Close\r\n\r\nx", 1),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 0),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx", 0),
    ],
)
def test_a_connection_that_the_server_closes_is_not_used_again(scene: Scene, said: bytes, version: int) -> None:
    asked, wire = scene.answered(said)
    assert asked.whole == b"x"
    assert asked.response.version == (b"HTTP", 1, version)
    assert wire.end == "aborted"
    scene.ask()
    assert len(scene.net.attempts) == 1


MUCH = b"HTTP/1.1 200 OK\r\nX: %b\r\n\r\n"
AT_LIMIT = MUCH % (b"x" * (LIMITS.answer_head_bytes_max - len(MUCH) + 2))
REFUSED = {
    "a large head": AT_LIMIT.replace(b"X:", b"XX:"),
    "a head without an end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 3 + b"Z: " + b"z" * LIMITS.answer_head_bytes_max,
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (LIMITS.answer_fields_max + 1) + b"\r\n",
    "many fields of interim answers": b"HTTP/1.1 100 Continue\r\nX: y\r\nX: y\r\n\r\n" * 3 + OK,
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    "empty lines without end": b"\r\n\r\n" * 500,
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 1\r\n\r\nx",
    "a protocol nobody asked for": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "another encoding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an encoding without an end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length below nothing": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
}


@pytest.mark.parametrize("said", REFUSED.values(), ids=REFUSED)
def test_what_is_no_answer_is_refused_at_once(scene: Scene, said: bytes) -> None:
    asked, wire = scene.answered(said)
    asked.failed(ResponseFailed)
    assert wire.end == "aborted"


def test_a_head_at_the_limit_is_read(scene: Scene) -> None:
    assert len(AT_LIMIT) == LIMITS.answer_head_bytes_max
    asked, wire = scene.answered(AT_LIMIT)
    assert asked.response.code == 200
    wire.goes()


@pytest.mark.parametrize("at", range(1, 5))
def test_where_a_head_ends_is_seen_across_a_cut(scene: Scene, at: int) -> None:
    body = bytes(2 * LIMITS.answer_head_bytes_max)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    asked, _ = scene.answered(head[:-at], head[-at:] + body)
    assert asked.whole == body


def test_chunks_that_bring_nothing_do_not_go_on_for_ever(scene: Scene) -> None:
    asked, wire = scene.answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nTrailer: ")
    for _ in range(LIMITS.answer_head_bytes_max // 100 + 1):
        assert asked.body.reason is None
        wire.says(b"y" * 100)
    asked.cut(ResponseFailed)
    assert wire.end == "aborted"


@pytest.mark.parametrize("behind", [b"x", b"HTTP/1.1 200 OK\r\n", OK])
def test_bytes_behind_an_answer_close_its_connection(scene: Scene, behind: bytes) -> None:
    asked, wire = scene.answered(OK + behind)
    assert asked.whole == b"answer"
    assert wire.end == "aborted"


def test_bytes_behind_chunks_close_their_connection(scene: Scene) -> None:
    asked, wire = scene.answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + OK)
    assert asked.whole == b"a"
    assert wire.end == "aborted"


def test_bytes_behind_an_answer_without_body_close_its_connection(scene: Scene) -> None:
    asked, wire = scene.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer", method=b"HEAD")
    assert asked.whole == b""
    assert wire.end == "aborted"


def test_bytes_on_an_idle_connection_close_it(scene: Scene) -> None:
    wire = scene.wire()
    wire.says(OK)
    assert wire.end == "aborted"
    scene.ask()
    assert len(scene.net.attempts) == 1, "it is not taken for the answer to the next question"


def test_an_answer_of_which_nothing_came_is_told_from_one_that_was_cut(scene: Scene) -> None:
    lost = ConnectionLost()
    asked, wire = scene.answered()
    wire.goes(lost)
    asked.failed(ResponseNeverReceived)
    assert asked.failure is not None
    assert asked.failure.value.reasons[0].value is lost
    asked, wire = scene.answered(b"H")
    wire.goes()
    asked.failed(ResponseFailed)
    asked, wire = scene.answered(OK[:-1])
    wire.goes()
    asked.cut(ResponseFailed)
    asked, wire = scene.answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    wire.goes()
    asked.cut(ResponseFailed)


def test_an_answer_that_ends_with_its_connection_may_have_been_cut(scene: Scene) -> None:
    asked, wire = scene.answered(b"HTTP/1.1 200 OK\r\n\r\nbo", b"dy")
    wire.goes()
    asked.cut(PotentialDataLoss)
    assert asked.body.data == b"body"


def test_nobody_reads_ahead_of_who_does_not_take_the_body(scene: Scene) -> None:
    asked, wire = scene.ask(read=False), scene.net.accept()
    wire.says(OK[:-4])
    assert wire.paused
    asked.response.deliverBody(asked.body)
    assert not wire.paused
    assert asked.body.data == b"an"
    asked.body.transport.pauseProducing()  # type: ignore[union-attr]
    assert wire.paused
    wire.says(OK[-4:])
    assert asked.whole == b"answer"
    assert not wire.paused, "an idle connection is read, to see its end"


def test_who_pauses_at_the_first_bytes_of_a_body_is_given_no_more(scene: Scene) -> None:
    asked, wire = scene.ask(read=False), scene.net.accept()
    wire.says(OK[:-4])
    body = asked.body
    body.dataReceived = lambda _: body.transport.pauseProducing()  # type: ignore[method-assign,union-attr]
    asked.response.deliverBody(body)
    assert wire.paused
    wire.goes()


def test_a_whole_body_can_be_taken_late(scene: Scene) -> None:
    asked, wire = scene.ask(read=False), scene.net.accept()
    wire.says(OK)
    assert not wire.paused
    wire.goes()
    asked.response.deliverBody(asked.body)
    assert asked.whole == b"answer"


# Giving up.


def test_a_request_that_is_called_off_breaks_its_connection(scene: Scene) -> None:
    asked, wire = scene.answered(b"HTTP/1.1 2")
    asked.made.cancel()
    asked.failed(CancelledError)
    assert wire.end == "aborted"
    wire.goes()


def test_a_request_that_is_called_off_while_it_connects_lets_go_of_the_attempt(scene: Scene) -> None:
    asked = scene.ask()
    asked.made.cancel()
    asked.failed(CalledOff)
    assert scene.net.called_off == 1


def test_a_connection_that_comes_when_its_request_was_called_off_is_kept_for_others(scene: Scene) -> None:
    asked = scene.ask()
    factory, made = scene.net.attempts.pop()
    wires: list[Wire] = []

    def too_late(_: object) -> None:
        wires.append(scene.net.wire(factory))
        made.callback(wires[0].protocol)

    made._canceller = too_late
    asked.made.cancel()
    asked.failed(CalledOff)
    (wire,) = wires
    assert wire.writes == []
    scene.ask()
    assert len(wire.writes) == 1


def test_a_body_that_is_broken_off_breaks_the_connection(scene: Scene) -> None:
    asked, wire = scene.answered(OK[:-1])
    asked.body.transport.abortConnection()  # type: ignore[union-attr]
    assert wire.end == "aborted"
    wire.goes()
    asked.cut(ResponseFailed)


def test_who_breaks_off_a_body_hears_no_more_of_it(scene: Scene) -> None:
    asked, wire = scene.ask(read=False), scene.net.accept()
    wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    asked.response.deliverBody(asked.body)

    def break_off(data: bytes) -> None:
        asked.body.data += data
        asked.body.transport.loseConnection()  # type: ignore[union-attr]

    asked.body.dataReceived = break_off  # type: ignore[method-assign]
    wire.says(b"1\r\na\r\n")
    wire.says(b"1\r\nb\r\n")
    assert asked.body.data == b"a"
    wire.goes()


def test_breaking_off_a_body_that_is_whole_leaves_the_connection_to_its_next_user(scene: Scene) -> None:
    asked, wire = scene.answered(OK)
    again = scene.ask()
    asked.body.transport.abortConnection()  # type: ignore[union-attr]
    asked.body.transport.pauseProducing()  # type: ignore[union-attr]
    assert (wire.end, wire.paused) == ("", False)
    wire.says(OK)
    assert again.whole == b"answer"


# Connections that are kept.


def test_who_is_told_the_answer_can_use_its_connection_for_the_next_question(scene: Scene) -> None:
    wire = scene.wire()
    later: list[Asked] = []
    asked = scene.ask()
    asked.made.addCallback(lambda _: later.append(scene.ask()))
    wire.says(OK)
    assert scene.net.attempts == []
    assert len(wire.writes) == 2
    wire.says(OK)
    assert [one.whole for one in later] == [b"answer"]


def test_origins_share_no_connections(scene: Scene) -> None:
    scene.wire()
    for url in (b"http://node:8082/", b"https://node:8081/", b"http://other:8081/"):
        scene.ask(url=url)
    assert len(scene.net.attempts) == 3
    assert [(uri.scheme, uri.host, uri.port) for uri in scene.net.uris] == [
        (b"http", b"node", 8081),
        (b"http", b"node", 8082),
        (b"https", b"node", 8081),
        (b"http", b"other", 8081),
    ]


def test_the_connection_that_was_used_last_is_used_next(scene: Scene) -> None:
    first, second = scene.wires(2)
    scene.ask()
    assert (len(first.writes), len(second.writes)) == (1, 2)


def test_no_more_connections_are_kept_than_the_limit() -> None:
    scene = Scene()
    scene.agent = PooledAgent(scene.clock, scene.net, Limits(connections_max=9, batches_in_flight_max=1))
    wires = scene.wires(6)
    assert [wire.end for wire in wires] == [""] * 4 + ["aborted"] * 2
    scene.agent.closeCachedConnections()


def test_connections_that_nobody_uses_are_closed_by_one_timer(scene: Scene) -> None:
    first, second = scene.wires(2)
    scene.clock.advance(20)
    asked = scene.ask()
    second.says(OK)
    assert asked.whole == b"answer"
    assert len(scene.clock.getDelayedCalls()) == 1
    scene.clock.advance(10)
    assert (first.end, second.end) == ("aborted", "")
    assert len(scene.clock.getDelayedCalls()) == 1
    scene.clock.advance(19.9)
    assert second.end == ""
    scene.clock.advance(0.2)
    assert second.end == "aborted"
    assert scene.clock.getDelayedCalls() == []


def test_a_busy_connection_is_not_idle(scene: Scene) -> None:
    wire = scene.wire()
    asked = scene.ask()
    scene.clock.advance(100)
    assert wire.end == ""
    wire.says(OK)
    assert asked.whole == b"answer"


def test_a_connection_that_the_server_has_closed_is_not_used(scene: Scene) -> None:
    wire = scene.wire()
    wire.goes()
    scene.ask()
    assert (wire.writes, len(scene.net.attempts)) == ([], 1)


def test_a_question_that_met_a_stale_connection_meets_no_other_one(scene: Scene) -> None:
    wires = scene.wires(3)
    asked = scene.ask()
    wires[2].goes()
    asked.failed(ResponseNeverReceived)
    assert [wire.end for wire in wires] == ["aborted", "aborted", ""]
    scene.ask()
    assert len(scene.net.attempts) == 1


def test_a_connection_that_was_cut_in_its_answer_says_nothing_about_the_others(scene: Scene) -> None:
    wires = scene.wires(3)
    asked = scene.ask()
    wires[2].says(OK[:5])
    wires[2].goes()
    asked.failed(ResponseFailed)
    assert [wire.end for wire in wires] == ["", "", ""]


# The line.


def full(scene: Scene, waiting: int) -> tuple[list[Wire], list[Asked]]:
    """As many busy connections as there may be, and some who wait for one."""
    for _ in range(LIMITS.connections_max):
        scene.ask()
    wires = [scene.net.accept(0) for _ in range(LIMITS.connections_max)]
    asked = [scene.ask() for _ in range(waiting)]
    assert scene.net.attempts == []
    return wires, asked


def test_who_finds_no_free_connection_waits_in_line_for_one(scene: Scene) -> None:
    wires, asked = full(scene, 2)
    wires[1].says(OK)
    wires[0].says(OK)
    assert [len(wire.writes) for wire in wires] == [2, 2, 1]
    wires[1].says(OK)
    assert asked[0].whole == b"answer"
    assert asked[1].response is None
    wires[0].says(OK)
    assert asked[1].whole == b"answer"


@pytest.mark.parametrize("end", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", None])
def test_a_connection_that_ends_makes_room_for_a_new_one(scene: Scene, end: bytes | None) -> None:
    wires, asked = full(scene, 1)
    if end is None:
        wires[0].goes()
    else:
        wires[0].says(end)
    scene.net.accept().says(OK)
    assert asked[0].whole == b"answer"


def test_who_gives_up_waiting_leaves_the_line(scene: Scene) -> None:
    wires, asked = full(scene, 2)
    asked[0].made.cancel()
    asked[0].failed(CalledOff)
    wires[0].says(OK)
    wires[0].says(OK)
    assert asked[1].whole == b"answer"
    assert len(wires[0].writes) == 2


def test_who_gives_up_connecting_makes_room_for_the_next(scene: Scene) -> None:
    asked = [scene.ask() for _ in range(LIMITS.connections_max + 1)]
    assert len(scene.net.attempts) == LIMITS.connections_max
    asked[0].made.cancel()
    scene.net.accept().says(OK)
    assert asked[-1].whole == b"answer"


def test_a_connection_that_could_not_be_made_fails_one_and_the_next_one_tries(scene: Scene) -> None:
    asked = [scene.ask() for _ in range(LIMITS.connections_max + 1)]
    scene.net.refuse()
    asked[LIMITS.connections_max - 1].failed(ConnectError)
    assert asked[-1].failure is None
    scene.net.accept().says(OK)
    assert asked[-1].whole == b"answer"


def test_a_long_line_fails_at_once_where_nobody_listens_any_more(scene: Scene) -> None:
    wires, asked = full(scene, 2_000)
    scene.net.refusing = True
    wires[0].goes()
    for one in asked:
        one.failed(ConnectError)


# The end.


def test_closing_waits_for_idle_connections_to_be_gone(scene: Scene) -> None:
    wires = scene.wires(2)
    done: list[None] = []
    scene.agent.closeCachedConnections().addCallback(done.append)
    assert [wire.end for wire in wires] == ["aborted"] * 2
    wires[0].goes()
    assert done == []
    wires[1].goes()
    assert done == [None]
    assert scene.clock.getDelayedCalls() == []


def test_closing_waits_for_those_that_were_hung_up_on_before(scene: Scene) -> None:
    _, wire = scene.answered(OK + b"x")
    done = scene.agent.closeCachedConnections()
    assert not done.called
    wire.goes()
    assert done.called


def test_closing_has_nothing_to_wait_for_where_nothing_is_open(scene: Scene) -> None:
    assert scene.agent.closeCachedConnections().called


def test_what_is_busy_while_the_rest_is_closed_ends_with_its_answer(scene: Scene) -> None:
    wire = scene.wire()
    asked = scene.ask()
    scene.agent.closeCachedConnections()
    assert wire.end == ""
    wire.says(OK)
    assert asked.whole == b"answer"
    assert wire.end == "aborted"
    assert scene.clock.getDelayedCalls() == []


def test_a_connection_that_comes_after_the_end_serves_who_asked_for_it_and_is_not_kept(scene: Scene) -> None:
    asked = scene.ask()
    scene.agent.closeCachedConnections()
    wire = scene.net.accept()
    wire.says(OK)
    assert asked.whole == b"answer"
    assert wire.end == "aborted"
    assert scene.clock.getDelayedCalls() == []


def test_what_is_closed_stays_closed(scene: Scene) -> None:
    scene.wire()
    scene.agent.closeCachedConnections()
    for url in (URL, b"http://other:8081/"):
        asked, wire = scene.ask(url=url), scene.net.accept()
        wire.says(OK)
        assert asked.whole == b"answer"
        assert wire.end == "aborted"
    assert scene.clock.getDelayedCalls() == []


def test_those_in_line_when_it_is_closed_get_connections_of_their_own(scene: Scene) -> None:
    wires, asked = full(scene, 1)
    scene.agent.closeCachedConnections()
    wires[0].says(OK)
    assert wires[0].end == "aborted"
    scene.net.accept().says(OK)
    assert asked[0].whole == b"answer"


def test_where_none_is_kept_each_request_has_a_connection_of_its_own(scene: Scene) -> None:
    scene.agent = PooledAgent(scene.clock, scene.net, LIMITS, keeps=False)
    for _ in range(2):
        asked, wire = scene.ask(), scene.net.accept()
        wire.says(OK)
        assert asked.whole == b"answer"
        assert wire.end == "aborted"


def test_nodes_that_are_gone_are_forgotten(scene: Scene) -> None:
    for port in range(8001, 8020):
        asked = scene.ask(url=b"http://node:%d/" % port)
        scene.net.refuse()
        asked.failed(ConnectError)
    assert len(scene.agent._origins) == 1


# The body.


def test_a_body_that_comes_by_the_byte_takes_no_more_than_one_that_comes_at_once() -> None:
    count = 100_000
    body = Body(2 * count)
    pieces = (b"%02x" % (number % 251) for number in range(count))
    tracemalloc.start()
    try:
        for piece in pieces:
            body.dataReceived(piece)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    body.connectionLost(Failure(ResponseDone()))
    assert held_bytes < 4 * 2 * count
    assert body.done.result == b"".join(b"%02x" % (number % 251) for number in range(count))


def test_chunks_of_a_byte_are_put_together_before_they_are_given(scene: Scene) -> None:
    asked, wire = scene.ask(read=False), scene.net.accept()
    given: list[bytes] = []
    asked.body.dataReceived = given.append  # type: ignore[method-assign]
    wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n")
    asked.response.deliverBody(asked.body)
    wire.says(b"1\r\nc\r\n1\r\nd\r\n0\r\n\r\n")
    assert given == [b"ab", b"cd"]
