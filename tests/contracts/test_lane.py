"""One port, two servers: the lane and twisted.web give the same bytes for the same bytes, whatever is sent.

Each case is sent to both, whole, byte by byte, and cut at random places. The routes behind are the real ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import h11
import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web import http, server

from tests.streams import FINE, chunked, get, kv_put, node_call, put, spoilt
from twisted_kv.coordinator import Coordinator
from twisted_kv.fasthttp import request as lane_request
from twisted_kv.fasthttp.gate import Gate
from twisted_kv.limits import Limits
from twisted_kv.operation import Done
from twisted_kv.quorum import Level
from twisted_kv.versions import HybridClock, Record, Version
from twisted_kv.web.answers import answer
from twisted_kv.web.original import add_original_proxy
from twisted_kv.web.site import App, KvSite
from twisted_kv.web.v1 import add_v1

LIMITS = Limits()
BODY_MAX = 50_000


class Wire(StringTransport):
    """A client's end: what it got, whether it was hung up on, and whether it is being read.

    As with a socket, what it does not read is kept up to 64 KiB until its producer is told to pause, again at each
    write; and a connection that is to be closed is closed when all was read and no producer has still to go on.
    """

    def __init__(self) -> None:
        super().__init__(hostAddress=IPv4Address("TCP", "127.0.0.1", 1), peerAddress=IPv4Address("TCP", "127.0.0.1", 2))
        self.closed = False
        self.aborted = False
        self.reads = True
        self.unread = 0
        self._closing = False
        self._told_to_pause = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def write(self, data: bytes) -> None:
        super().write(data)
        if not self.reads:
            self.unread += len(data)
            if self.unread > 65_536 and self.producer is not None:
                self._told_to_pause = True
                self.producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def unregisterProducer(self) -> None:
        self.producer = None
        self._close_if_done()

    def read_on(self) -> None:
        """Read all there is."""
        self.unread = 0
        told, self._told_to_pause = self._told_to_pause, False
        if told and self.producer is not None:
            self.producer.resumeProducing()
        else:
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._closing and not self.unread and not (self.producer is not None and self._told_to_pause):
            self.closed = True

    def loseConnection(self) -> None:
        self._closing = True
        self._close_if_done()

    def loseWriteConnection(self) -> None:
        self.closed = True

    def abortConnection(self) -> None:
        self.closed = self.aborted = True


class Shelf:
    """A coordinator that keeps values by itself, and answers at once or when it is told to."""

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}
        self._clock = HybridClock(lambda: 1000, 1)
        self.waiting: list[Callable[[], None]] | None = None
        self.asked: list[bytes] = []

    def get(self, key: bytes, level: Level, *_: object, **__: object) -> Deferred[Done]:
        self.asked.append(b"get " + key)
        return self._later(Done(self._records.get(key, b""), 2, 3))

    def put(self, key: bytes, value: bytes | None, content_type: bytes, *_: object, **__: object) -> Deferred[Done]:
        self.asked.append(b"put " + key)
        record = Record(Version(self._clock.tick()), value, content_type=content_type).encode()
        self._records[key] = record
        return self._later(Done(record, 2, 3))

    def _later(self, done: Done) -> Deferred[Done]:
        if self.waiting is None:
            return succeed(done)
        answer: Deferred[Done] = Deferred()
        self.waiting.append(lambda: answer.callback(done))
        return answer


class Port:
    """A door, and one connection to it."""

    def __init__(self, lane: bool, limits: Limits = LIMITS) -> None:
        self.clock = Clock()
        self.shelf = Shelf()
        app = App()
        coordinator: Coordinator = self.shelf  # type: ignore[assignment]
        add_original_proxy(app, coordinator, None, limits, Level.STRONG)  # type: ignore[arg-type]
        add_v1(app, coordinator, lambda: 0, limits, Level.STRONG)

        @app.route("/slow", methods=["GET", "POST"])
        def slow(request: Any) -> bytes:
            request.setHeader(b"Content-Length", b"4")
            return b"slow"

        @app.route("/node/v1/echo", methods=["POST"])
        def echo(request: Any) -> bytes:
            return answer(request, request.content.read(), b"application/msgpack")

        @app.route("/bug", methods=["GET"])
        def bug(request: Any) -> bytes:
            raise RuntimeError("a bug")

        self.site = KvSite(self.clock, app, limits, BODY_MAX, lane, gate=Gate(names=["a"]))
        self.connect()

    def connect(self) -> None:
        self.wire = Wire()
        self.protocol = self.site.buildProtocol(None)
        self.protocol.makeConnection(self.wire)

    def send(self, *pieces: bytes) -> bytes:
        """Send, as far as it is let, and give all that was answered."""
        for piece in pieces:
            if not self.wire.aborted:
                self.protocol.dataReceived(piece)
        return self.wire.value()

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both servers say the same date."""
    monkeypatch.setattr(server, "datetimeToString", lambda: b"now")
    monkeypatch.setattr(lane_request.Stamp, "text", lambda self: b"Server: %s\r\nDate: now\r\n" % server.version)
    monkeypatch.setattr(http, "datetimeToString", lambda: b"now")


REFUSED: dict[str, bytes] = {
    **{
        f"{what} in a trailer": chunked(b"/v1/kv/a", b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n") + get(b"/v1/kv/a")
        for what, trailer in {
            "half an end": b"X: a\rb",
            "the other half": b"X: a\nb",
            "an end for some": b"X: a\n\nGET /v1/kv/b HTTP/1.1\r\nHost: a",
            "no name": b": a",
            "no field": b"abc",
            "a folded line": b"X: a\r\n b",
            "a length": b"Content-Length: 3",
            "an encoding": b"Transfer-Encoding: chunked",
        }.items()
    },
    "two lengths": get(b"/PUT", b"Content-Length: 2", b"Content-Length: 2", method=b"PUT") + b"{}",
    "two unlike lengths": get(b"/PUT", b"Content-Length: 2", b"Content-Length: 3", method=b"PUT") + b"{}",
    "a list of lengths": get(b"/PUT", b"Content-Length: 2, 2", method=b"PUT") + b"{}",
    "a signed length": kv_put(b"a", b"v", length=b"+1"),
    "a negative length": kv_put(b"a", b"v", length=b"-1"),
    "a hexadecimal length": kv_put(b"a", b"v", length=b"0x1"),
    "an empty length": kv_put(b"a", b"v", length=b""),
    "an astronomical length": kv_put(b"a", b"v", length=b"9" * 30),
    "a length and chunks": chunked(b"/PUT", b"0\r\n\r\n", fields=(b"Content-Length: 2",)),
    "another encoding": get(b"/PUT", b"Transfer-Encoding: gzip, chunked", method=b"PUT"),
    "the identity": get(b"/PUT", b"Transfer-Encoding: identity", b"Content-Length: 2", method=b"PUT") + b"{}",
    "two encodings": get(b"/PUT", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", method=b"PUT"),
    "a hidden encoding": get(b"/PUT", b"Transfer-Encoding: \x0bchunked", method=b"PUT"),
    "chunks in http/1.0": get(b"/PUT", b"Transfer-Encoding: chunked", method=b"PUT", version=b"HTTP/1.0"),
    "a bad chunk": chunked(b"/PUT", b"x\r\nabc\r\n0\r\n\r\n"),
    "a chunk too long": chunked(b"/PUT", b"3\r\nabcd\r\n0\r\n\r\n"),
    "a signed chunk": chunked(b"/PUT", b"+3\r\nabc\r\n0\r\n\r\n"),
    "a chunk's bare line feed": chunked(b"/PUT", b"3\nabc\n0\n\n", b"\r\n"),
    "a fold": put("a", "1", b"X: a\r\n b"),
    "a fold of the length": get(b"/PUT", b"Content-Length:\r\n 2", method=b"PUT") + b"{}",
    "a bare line feed": get(b"/GET?Key=a", b"X: a\nY: b"),
    "bare line feeds alone": b"GET /GET?Key=a HTTP/1.1\nHost: a\n\n" + b"\r\n\r\n",
    "a bare carriage return": get(b"/GET?Key=a", b"X: a\rY: b"),
    "a nul": get(b"/GET?Key=a", b"X: a\0b"),
    "a control character": get(b"/GET?Key=a", b"X: a\x01b"),
    "a space before the colon": get(b"/GET?Key=a", b"X : a"),
    "no colon": get(b"/GET?Key=a", b"X"),
    "an empty name": get(b"/GET?Key=a", b": x"),
    "no host": b"GET /GET?Key=a HTTP/1.1\r\n\r\n",
    "two hosts": put("a", "1", b"Host: elsewhere"),
    "a host with a path": put("a", "1", host=b"Host: a/b"),
    "a host with a user": put("a", "1", host=b"Host: a@b"),
    "two spaces": b"GET  /GET?Key=a HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab": b"GET\t/GET?Key=a HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the target": b"GET /GET?Key=a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "http/0.9": b"GET /GET?Key=a\r\n\r\n",
    "http/1.2": get(b"/GET?Key=a", version=b"HTTP/1.2"),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower-case http": get(b"/GET?Key=a", version=b"http/1.1"),
    "raw utf-8 in a key": get("/v1/kv/é".encode()),
    "del in a key": get(b"/v1/kv/a\x7f"),
    "two empty lines before": b"\r\n\r\n\r\n" + put("a", "1"),
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}

TOO_LARGE: dict[str, tuple[bytes, bytes]] = {
    "a body that is announced": (kv_put(b"a", b"", length=b"50001"), b"413"),
    "a body in chunks": (chunked(b"/v1/kv/a", *[b"4000\r\n" + bytes(0x4000) + b"\r\n"] * 4), b"413"),
    "an announced body that waits": (kv_put(b"a", b"", b"Expect: 100-continue", length=b"50001"), b"413"),
    "a long target": (get(b"/v1/kv/" + b"a" * 17_000), b"431"),
    "a long field": (get(b"/GET?Key=a", b"X: " + b"a" * 17_000), b"431"),
    "a head without an end": (b"GET /GET?Key=a HTTP/1.1\r\n" + b"X: y\r\n" * 3_000, b"431"),
    "a first line without an end": (b"GET /GET?Key=" + b"a" * 17_000, b"431"),
    "many fields": (get(b"/GET?Key=a", *[b"X-%d: y" % n for n in range(120)]), b"431"),
    "one field many times": (get(b"/GET?Key=a", *[b"X: y"] * 120), b"431"),
}


def cuts(data: bytes, name: str) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and cut at random."""
    yield [data]
    if len(data) < 5_000:
        yield [data[n : n + 1] for n in range(len(data))]
    rng = random.Random(name)
    for _ in range(4):
        places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))
        yield [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def answers(data: bytes, pieces: list[bytes], lane: bool) -> tuple[bytes, bool, list[bytes]]:
    assert b"".join(pieces) == data
    port = Port(lane)
    got = port.send(*pieces)
    return got, port.wire.closed, port.shelf.asked


def alike(name: str, data: bytes) -> tuple[bytes, bool]:
    """Send to both in all ways, demand one result, and give it."""
    [first, *others] = [answers(data, pieces, lane) for pieces in cuts(data, name) for lane in (False, True)]
    for other in others:
        assert other == first
    return first[0], first[1]


@pytest.mark.parametrize("name", FINE)
def test_what_is_fine_is_answered_alike(name: str) -> None:
    got, _ = alike(name, FINE[name])
    assert got.startswith(b"HTTP/1.")
    assert b"HTTP/1.1 5" not in got


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_closed(name: str) -> None:
    got, closed = alike(name, REFUSED[name])
    assert got.startswith(
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    )
    assert closed
    assert got.count(b"HTTP/1.1") == 1 + got.count(b"METHOD TARGET HTTP/1.1") + got.count(b"which HTTP/1.1 demands")


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_is_refused_in_words(name: str) -> None:
    data, status = TOO_LARGE[name]
    got, closed = alike(name, data)
    assert got.startswith(b"HTTP/1.1 %s " % status)
    assert closed


def test_nothing_is_stored_of_what_is_refused() -> None:
    for data in REFUSED.values():
        port = Port(lane=True)
        port.send(data)
        assert [asked for asked in port.shelf.asked if asked.startswith(b"put")] == []


def test_a_bug_is_answered_alike(no_logged_failure: list[Any]) -> None:
    for lane in (False, True):
        port = Port(lane)
        assert port.send(get(b"/bug")).startswith(b"HTTP/1.1 500 ")
    no_logged_failure.clear()


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "klein"])
def test_who_cannot_be_answered_is_hung_up_on(lane: bool, no_logged_failure: list[Any]) -> None:
    port = Port(lane)
    port.shelf.waiting = []
    port.send(put("a", "1"))
    port.wire.write = port.wire.writeSequence = lambda data: 1 / 0  # type: ignore[method-assign, assignment]
    port.shelf.waiting[0]()
    assert port.wire.aborted
    assert len(no_logged_failure) == 1
    no_logged_failure.clear()


@pytest.mark.parametrize("part", range(4))
def test_spoilt_streams_are_answered_alike_and_framed_as_h11_frames_them(part: int) -> None:
    for seed in range(part * 400, part * 400 + 400):
        data = spoilt(seed)
        rng = random.Random(seed)
        place = rng.randrange(len(data) + 1)
        by_klein = answers(data, [data], lane=False)
        by_lane = answers(data, [data[:place], data[place:]], lane=True)
        assert by_lane == by_klein, f"seed {seed}"
        assert framed_by_h11(data, by_lane[0]), f"seed {seed}"


def framed_by_h11(data: bytes, answered: bytes) -> bool:
    """Whether h11 sees at least those requests in a stream that were not refused."""
    lines = [line for line in answered.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    served = sum(line[9:12] not in (b"100", b"400", b"408", b"413", b"431") for line in lines)
    seen, rest = 0, data
    while seen < served:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
        # h11 knows nothing of the empty line that is forgiven before a request.
        connection.receive_data(rest.removeprefix(b"\r\n"))
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return False
        except h11.RemoteProtocolError:
            return False
        seen += 1
        rest = connection.trailing_data[0]
    return True


# Slow clients, and those that do not read.


BOTH = pytest.mark.parametrize("lane", [True, False], ids=["lane", "klein"])


def pass_s(port: Port, seconds: float) -> None:
    port.clock.pump([0.5] * int(seconds * 2))


@BOTH
@pytest.mark.parametrize(
    ("begun", "patience_s", "status"),
    [
        (b"", LIMITS.idle_s_max, b""),
        (b"PUT /P", LIMITS.head_s_max, b"408"),
        (b"PUT /PUT HTTP/1.1\r\nHost: a\r\n", LIMITS.head_s_max, b"408"),
        (b"GET /slow HTTP/1.1\r\nHost: a\r\n", LIMITS.head_s_max, b"408"),
        (get(b"/PUT", b"Content-Length: 99", method=b"PUT") + b"{", LIMITS.body_s(99), b"408"),
        (get(b"/slow", b"Content-Length: 99", method=b"POST") + b"{", LIMITS.body_s(99), b"408"),
        (chunked(b"/PUT", b"3\r\nab"), LIMITS.body_s(0), b"408"),
    ],
)
def test_who_takes_too_long_is_cut_off_but_not_before(
    lane: bool, begun: bytes, patience_s: float, status: bytes
) -> None:
    port = Port(lane)
    port.send(begun) if begun else None
    pass_s(port, patience_s - 1)
    assert not port.wire.closed
    pass_s(port, 3)
    assert port.wire.closed
    assert port.wire.value()[9:12] == status
    pass_s(port, LIMITS.linger_s)
    port.lose()
    assert port.clock.getDelayedCalls() == []


@BOTH
def test_a_byte_now_and_then_gives_no_more_time(lane: bool) -> None:
    port = Port(lane)
    for byte in b"PUT /PUT HTTP/1.1\r\nHost: a":
        port.send(bytes([byte]))
        pass_s(port, 1)
    assert port.wire.closed
    assert port.wire.value().startswith(b"HTTP/1.1 408 ")


QUICK = {
    "a get": get(b"/GET?Key=a"),
    "a put": put("a", "1"),
    "another call": get(b"/slow"),
    "another call with a body": get(b"/slow", b"Content-Length: 2", method=b"POST") + b"{}",
}


@BOTH
@pytest.mark.parametrize("kind", QUICK)
def test_after_an_answer_the_time_begins_anew(lane: bool, kind: str) -> None:
    port = Port(lane)
    for _ in range(3):
        pass_s(port, LIMITS.idle_s_max - 2)
        port.send(QUICK[kind])
    assert not port.wire.closed
    assert b" 408 " not in port.wire.value()


LARGE = 45_000
READERS = pytest.mark.parametrize("field", [b"Connection: keep-alive", b"Connection: keep-alive, x"], ids=["", "guest"])
"""The second one is for twisted.web, whoever is asked first."""


@BOTH
@READERS
def test_who_does_not_read_is_begun_no_further_request_for_and_at_last_cut_off(lane: bool, field: bytes) -> None:
    port = Port(lane)
    port.send(kv_put(b"a", b"v" * LARGE))
    port.wire.reads = False
    asked = len(port.shelf.asked)
    port.send(*[get(b"/v1/kv/a", field)] * 50)
    assert len(port.shelf.asked) - asked == 2, "64 KiB may lie unread, and the answer that passes that"
    assert port.wire.producerState == "paused"
    pass_s(port, LIMITS.unread_s(LARGE) - 1)
    assert not port.wire.closed
    pass_s(port, 3)
    assert port.wire.aborted


@BOTH
@READERS
def test_who_reads_again_is_served_again(lane: bool, field: bytes) -> None:
    port = Port(lane)
    port.send(kv_put(b"a", b"v" * LARGE))
    port.wire.reads = False
    port.send(*[get(b"/v1/kv/a", field)] * 50)
    for _ in range(25):
        pass_s(port, LIMITS.stalled_s_max - 1)
        port.wire.read_on()
    assert not port.wire.aborted
    assert port.wire.value().count(b"HTTP/1.1 200") == 50
    assert port.wire.producerState == "producing"
    port.wire.reads = True
    pass_s(port, LIMITS.stalled_s_max)
    assert port.send(get(b"/GET?Key=b")).count(b"HTTP/1.1 404") == 1


@BOTH
def test_a_slow_reader_of_much_has_the_time_that_it_takes(lane: bool) -> None:
    port = Port(lane, Limits(body_bytes_per_s_min=1_000))
    port.send(kv_put(b"a", b"v" * LARGE))
    port.wire.reads = False
    port.send(*[get(b"/v1/kv/a")] * 2)
    pass_s(port, LIMITS.stalled_s_max + LARGE / 1_000 - 2)
    assert not port.wire.aborted
    pass_s(port, 4)
    assert port.wire.aborted


@BOTH
def test_what_comes_ahead_of_an_answer_is_held_back_and_answered_in_its_turn(lane: bool) -> None:
    port = Port(lane)
    port.shelf.waiting = []
    sent = b"".join(put(f"k{n}", "v" * 200) for n in range(400))
    for at in range(0, len(sent), 1_000):
        if port.wire.producerState == "paused":
            break
        port.send(sent[at : at + 1_000])
    assert at < len(sent) - 1_000, "it would have read without end"
    assert len(port.shelf.asked) == 1
    done = 0
    while port.shelf.waiting:
        port.shelf.waiting.pop(0)()
        done += 1
    assert port.wire.producerState == "producing"
    port.shelf.waiting = None
    assert port.send(sent[at:]).count(b"HTTP/1.1 200 OK") == 400
    assert port.shelf.asked == [f"put k{n}".encode() for n in range(400)]
    assert done > 1


@BOTH
def test_a_client_that_goes_while_it_waits_is_missed_by_nobody(lane: bool) -> None:
    port = Port(lane)
    port.shelf.waiting = []
    port.send(put("a", "1") + put("b", "1"))
    port.lose()
    port.shelf.waiting[0]()
    assert port.wire.value() == b""
    assert port.shelf.asked == [b"put a"]
    assert port.clock.getDelayedCalls() == []


@BOTH
def test_all_connections_can_be_hung_up(lane: bool) -> None:
    port = Port(lane)
    first = port.wire
    port.connect()
    port.send(get(b"/slow"))
    port.site.hang_up()
    assert first.closed
    assert port.wire.closed


@BOTH
def test_who_is_hung_up_on_reads_what_was_answered_and_hears_nothing_more(lane: bool) -> None:
    port = Port(lane)
    port.send(kv_put(b"a", b"v" * LARGE))
    port.wire.reads = False
    port.send(*[get(b"/v1/kv/a")] * 3)
    asked = len(port.shelf.asked)
    port.site.hang_up()
    assert not port.wire.closed
    port.wire.read_on()
    assert port.wire.closed
    assert len(port.shelf.asked) == asked
    port.connect()
    port.wire.reads = False
    port.send(*[get(b"/v1/kv/a")] * 3)
    port.site.hang_up()
    pass_s(port, LIMITS.unread_s(LARGE) + 3)
    assert port.wire.aborted


def test_ten_thousand_pipelined_requests_that_are_answered_at_once_do_not_nest() -> None:
    port = Port(lane=True)
    assert port.send(get(b"/GET") * 10_000).count(b"HTTP/1.1 400 Bad Request\r\nServer") == 10_000


def test_a_connection_stays_in_the_lane_whatever_a_proxy_asks_a_node_on_it() -> None:
    port = Port(lane=True)
    for data in (get(b"/node/v1/info"), node_call(b"echo", b"12"), node_call(b"nothing", b"34")):
        port.send(data)
        assert port.wire.producer is port.protocol, "who takes a connection over is its producer from then on"
    port.send(get(b"/slow"))
    assert port.wire.producer is not port.protocol


# Memory.


@BOTH
@pytest.mark.parametrize("kind", ["a length", "chunks"])
def test_bodies_that_come_at_the_same_time_have_a_bound_together(lane: bool, kind: str) -> None:
    port = Port(lane, Limits(intake_bytes_max=60_000))
    head = get(b"/v1/kv/a", b"Content-Length: 40000", method=b"PUT")
    port.send(head + bytes(30_000))
    first = port.wire, port.protocol
    port.connect()
    body = bytes(40_000)
    request = kv_put(b"b", body) if kind == "a length" else chunked(b"/v1/kv/b", b"9C40\r\n" + body + b"\r\n0\r\n\r\n")
    refused = port.send(request)
    assert refused.startswith(b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\n")
    assert port.wire.closed
    port.lose()
    port.connect()
    assert port.send(put("small", "1")).startswith(b"HTTP/1.1 200 ")
    port.wire, port.protocol = first
    assert port.send(bytes(10_000)).startswith(b"HTTP/1.1 204 ")
    assert port.site.intake.bytes == 0


@BOTH
def test_what_is_only_announced_takes_no_room_from_others(lane: bool) -> None:
    port = Port(lane, Limits(intake_bytes_max=60_000))
    for _ in range(20):
        port.send(kv_put(b"a", b"", length=b"40000"))
        port.connect()
    assert port.send(kv_put(b"a", bytes(40_000))).startswith(b"HTTP/1.1 204 ")


@BOTH
def test_what_a_client_leaves_behind_takes_no_room(lane: bool) -> None:
    port = Port(lane)
    port.send(kv_put(b"a", bytes(100), length=b"40000"))
    assert port.site.intake.bytes == 100
    port.lose()
    port.connect()
    port.send(chunked(b"/v1/kv/a", b"64\r\n" + bytes(100)))
    assert port.site.intake.bytes == 100
    pass_s(port, LIMITS.body_s(0) + 2)
    port.lose()
    assert port.site.intake.bytes == 0
    assert port.clock.getDelayedCalls() == []


@BOTH
def test_a_body_in_chunks_that_is_too_large_is_refused_once(lane: bool) -> None:
    port = Port(lane)
    got = port.send(chunked(b"/v1/kv/a", *[b"4000\r\n" + bytes(0x4000) + b"\r\n"] * 8))
    assert got.count(b"HTTP/1.1") == 1
    port.lose()
    assert port.site.intake.bytes == 0
    assert port.clock.getDelayedCalls() == []


@BOTH
@pytest.mark.parametrize("kind", ["a length", "chunks"])
def test_a_large_body_has_the_time_that_it_takes_and_no_more(lane: bool, kind: str) -> None:
    port = Port(lane, Limits(body_bytes_per_s_min=100))
    if kind == "a length":
        port.send(kv_put(b"a", b"", length=b"50000"))
    else:
        port.send(chunked(b"/v1/kv/a", b"C350\r\n"))
    for _ in range(200):
        port.send(bytes(110))
        pass_s(port, 1)
    assert not port.wire.closed
    for _ in range(300):
        port.send(bytes(50))
        pass_s(port, 1)
    assert port.wire.value().startswith(b"HTTP/1.1 408 ")
