"""The node's side of the link: every question is answered once, and nobody can make it hold more than it should."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from twisted_kv.fasthttp.frames import Frame, Frames, head
from twisted_kv.fasthttp.heads import Head, read_head
from twisted_kv.fasthttp.intake import Intake
from twisted_kv.fasthttp.linked import GATHERED_BYTES, Linked, Serve
from twisted_kv.fasthttp.upgrade import SWITCHED, asks_for_link
from twisted_kv.limits import Limits
from twisted_kv.metrics import NodeMetrics
from twisted_kv.slow import Sparing
from twisted_kv.web.node import Batches

LIMITS = Limits(node_body_bytes_max=200_000, link_questions_max=3)
INTAKE_BYTES_MAX = 1_000


def asked(*fields: bytes) -> Head:
    return read_head(b"\r\n".join((b"GET /node/v1/link HTTP/1.1", b"Host: node", *fields, b"", b"")), 10)


ASKING = {
    "as proxies do": (b"Connection: Upgrade", b"Upgrade: kv-link/1"),
    "among others": (b"connection: keep-alive, upgrade", b"UPGRADE: websocket, KV-Link/1"),
    "in several lines": (b"Connection: keep-alive", b"Connection: upgrade", b"Upgrade: kv-link/1"),
}
NOT_ASKING = {
    "nothing": (),
    "no connection": (b"Upgrade: kv-link/1",),
    "no protocol": (b"Connection: Upgrade",),
    "another protocol": (b"Connection: Upgrade", b"Upgrade: websocket"),
    "another version": (b"Connection: Upgrade", b"Upgrade: kv-link/10"),
    "a body before it": (b"Connection: Upgrade", b"Upgrade: kv-link/1", b"Content-Length: 1"),
    "chunks before it": (b"Connection: Upgrade", b"Upgrade: kv-link/1", b"Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("fields", ASKING.values(), ids=ASKING)
def test_a_request_that_asks_for_the_link_is_known(fields: tuple[bytes, ...]) -> None:
    assert asks_for_link(asked(*fields))


@pytest.mark.parametrize("fields", NOT_ASKING.values(), ids=NOT_ASKING)
def test_a_request_that_does_not_is_left_to_http(fields: tuple[bytes, ...]) -> None:
    assert not asks_for_link(asked(*fields))


class Wire:
    """The transport of one connection, with a buffer that is full as a socket's is."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.unread = 0
        self.reads = True
        self.closing = ""
        self._producer: Any = None
        self._paused = False

    def setTcpKeepAlive(self, on: bool) -> None:
        assert on

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        assert self._producer is None
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.unread += len(data)
        if self.unread > 64 * 1024 and self._producer is not None:
            self._paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def let_read(self) -> None:
        """Let the proxy read all that was written."""
        self.unread = 0
        if self._paused and self._producer is not None:
            self._paused = False
            self._producer.resumeProducing()

    def pauseProducing(self) -> None:
        assert self.reads
        self.reads = False

    def resumeProducing(self) -> None:
        assert not self.reads
        self.reads = True

    def loseConnection(self) -> None:
        assert self._producer is None, "a transport waits for its producer"
        self.closing = "closed"

    def abortConnection(self) -> None:
        self.closing = "aborted"


class Scene:
    """A node's end of one link, its questions and what was written back."""

    def __init__(self, serve: Serve | None = None, intake: Intake | None = None) -> None:
        self.intake = intake if intake is not None else Intake(LIMITS.intake_bytes_max)
        self.asked: list[tuple[bytes, Deferred[tuple[int, bytes]]]] = []
        self.wire = Wire()
        self.linked = Linked(serve or self._keep, LIMITS, self.intake)
        self.linked.makeConnection(self.wire)
        assert self.wire.writes.pop() == SWITCHED

    def _keep(self, body: bytes) -> Deferred[tuple[int, bytes]]:
        self.asked.append((body, Deferred()))
        return self.asked[-1][1]

    def ask(self, *ids: int) -> None:
        self.linked.dataReceived(b"".join(question(id_) for id_ in ids))

    def answer(self, number: int, body: bytes = b"yes") -> None:
        self.asked[number][1].callback((200, body))

    @property
    def bodies(self) -> list[bytes]:
        return [body for body, _ in self.asked]

    @property
    def answers(self) -> list[Frame]:
        return Frames(10**9).feed(b"".join(self.wire.writes))


def question(id_: int, body: bytes | None = None) -> bytes:
    body = b"%d" % id_ if body is None else body
    return head(id_, 0, len(body)) + body


def test_a_question_is_served_with_its_body_and_answered_with_its_id() -> None:
    scene = Scene()
    scene.linked.dataReceived(question(7, b"body"))
    assert scene.bodies == [b"body"]
    scene.asked[0][1].callback((409, b"refusal"))
    assert scene.answers == [Frame(7, 409, b"refusal")]


def test_answers_leave_when_they_are_ready_in_whatever_order() -> None:
    scene = Scene()
    scene.ask(1, 2, 3)
    scene.answer(2, b"third")
    scene.answer(0, b"first")
    scene.answer(1, b"second")
    assert scene.answers == [Frame(3, 200, b"third"), Frame(1, 200, b"first"), Frame(2, 200, b"second")]


def test_questions_that_came_together_and_are_answered_at_once_are_answered_in_one_write() -> None:
    scene = Scene(lambda body: succeed((200, body)))
    scene.ask(*range(1, 51))
    assert scene.answers == [Frame(id_, 200, b"%d" % id_) for id_ in range(1, 51)]
    assert len(scene.wire.writes) == 1


def test_no_more_is_read_and_asked_while_as_many_are_under_way_as_may_be() -> None:
    scene = Scene()
    scene.ask(1, 2)
    assert scene.wire.reads
    scene.ask(3, 4, 5)
    assert scene.bodies == [b"1", b"2", b"3"]
    assert not scene.wire.reads
    scene.answer(1)
    assert scene.bodies == [b"1", b"2", b"3", b"4"]
    assert not scene.wire.reads
    scene.answer(0)
    assert not scene.wire.reads
    scene.answer(2)
    assert scene.wire.reads
    assert scene.bodies == [b"1", b"2", b"3", b"4", b"5"]
    assert [frame.id for frame in scene.answers] == [2, 1, 3]


def test_bytes_that_come_although_nothing_is_read_are_not_lost() -> None:
    scene = Scene()
    scene.ask(1, 2, 3)
    scene.linked.dataReceived(question(4) + question(5)[:6])
    scene.linked.dataReceived(question(5)[6:])
    for number in range(5):
        scene.answer(number)
    assert scene.bodies == [b"1", b"2", b"3", b"4", b"5"]
    assert [frame.id for frame in scene.answers] == [1, 2, 3, 4, 5]


def test_nothing_is_asked_for_a_proxy_that_does_not_read_its_answers() -> None:
    large = bytes(40_000)
    served: list[bytes] = []

    def serve(body: bytes) -> Deferred[tuple[int, bytes]]:
        served.append(body)
        return succeed((200, large))

    scene = Scene(serve)
    scene.ask(*range(1, 11))
    assert not scene.wire.reads
    assert len(served) < 10
    assert scene.wire.unread < GATHERED_BYTES + 2 * len(large)
    while len(served) < 10:
        scene.wire.let_read()
    assert [frame.id for frame in scene.answers] == list(range(1, 11))
    scene.wire.let_read()
    assert scene.wire.reads


def test_a_proxy_that_never_reads_its_answers_is_given_up() -> None:
    scene = Scene(lambda body: succeed((200, bytes(100_000))))
    scene.ask(1)
    scene.linked.look(100.0)
    scene.linked.look(100.0 + LIMITS.stalled_s_max)
    assert scene.wire.closing == ""
    scene.linked.look(100.1 + LIMITS.stalled_s_max)
    assert scene.wire.closing == "aborted"


def test_a_proxy_that_reads_now_and_then_is_not_given_up() -> None:
    scene = Scene(lambda body: succeed((200, bytes(100_000))))
    for now_s in range(0, 200, 5):
        scene.ask(now_s + 1)
        scene.linked.look(now_s)
        scene.wire.let_read()
        scene.linked.look(now_s + 1)
    assert scene.wire.closing == ""


def test_a_question_that_does_not_come_to_its_end_is_given_up_and_an_idle_link_is_not() -> None:
    scene = Scene(lambda body: succeed((200, body)))
    half = question(2, bytes(1000))[:500]
    scene.ask(1)
    for now_s in (0.0, 1_000.0, 2_000.0):
        scene.linked.look(now_s)
    scene.linked.dataReceived(half)
    scene.linked.look(3_000.0)
    scene.linked.look(3_000.0 + LIMITS.body_s(500))
    assert scene.wire.closing == ""
    scene.linked.look(3_000.1 + LIMITS.body_s(500))
    assert scene.wire.closing == "aborted"


def test_questions_that_come_in_pieces_now_and_then_are_not_given_up() -> None:
    scene = Scene(lambda body: succeed((200, body)))
    first, second = question(1, bytes(1000)), question(2, bytes(1000))
    scene.linked.dataReceived(first[:500])
    scene.linked.look(0.0)
    scene.linked.dataReceived(first[500:] + second[:500])
    scene.linked.look(LIMITS.body_s(1010) + 1)
    assert scene.wire.closing == ""


def test_a_question_that_waits_because_nothing_is_read_is_not_given_up() -> None:
    scene = Scene()
    scene.linked.dataReceived(question(1) + question(2) + question(3) + question(4)[:7])
    for now_s in (0.0, 1_000.0):
        scene.linked.look(now_s)
    assert scene.wire.closing == ""


BROKEN = {
    "a length that is none": head(9, 0, 0)[:3] + b"\x05",
    "a question over the bound": head(9, 0, LIMITS.node_body_bytes_max + 1)[:4],
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "an answer": head(9, 200, 0),
    "a question that is under way": question(1),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_question_ends_the_connection_and_nothing_follows(data: bytes) -> None:
    scene = Scene()
    scene.ask(1)
    scene.linked.dataReceived(data + question(10))
    assert scene.wire.closing == "aborted"
    scene.ask(11)
    scene.answer(0)
    assert scene.bodies == [b"1"]
    assert scene.wire.writes == []
    assert scene.intake.bytes == 0


def test_what_is_under_way_when_the_connection_goes_is_done_and_not_answered() -> None:
    scene = Scene()
    scene.ask(1, 2, 3, 4)
    assert scene.intake.bytes == 4
    scene.linked.connectionLost(Failure(ConnectionLost()))
    assert scene.intake.bytes == 3, "what was not begun is forgotten, what was begun takes its memory"
    for number in range(3):
        scene.answer(number)
    assert scene.bodies == [b"1", b"2", b"3"]
    assert scene.wire.writes == []
    assert scene.intake.bytes == 0


def test_a_node_that_hangs_up_closes_at_once_and_answers_no_more() -> None:
    scene = Scene()
    scene.ask(1, 2)
    scene.answer(0)
    scene.linked.hang_up()
    scene.answer(1)
    scene.ask(3)
    assert scene.wire.closing == "closed"
    assert [frame.id for frame in scene.answers] == [1]
    assert len(scene.asked) == 2


def test_a_node_can_hang_up_on_a_proxy_that_does_not_read() -> None:
    scene = Scene(lambda body: succeed((200, bytes(100_000))))
    scene.ask(1, 2)
    scene.linked.hang_up()
    assert scene.wire.closing == "closed"
    scene.wire.let_read()
    assert [frame.id for frame in scene.answers] == [1]


def test_a_proxy_that_still_does_not_read_when_it_was_hung_up_on_is_given_up() -> None:
    scene = Scene(lambda body: succeed((200, bytes(100_000))))
    scene.ask(1)
    scene.linked.look(100.0)
    scene.linked.hang_up()
    scene.linked.look(101.0)
    scene.linked.look(101.0 + LIMITS.linger_s)
    assert scene.wire.closing == "closed"
    scene.linked.look(101.1 + LIMITS.linger_s)
    assert scene.wire.closing == "aborted"


# What all connections of a port may hold together.


def test_no_link_reads_on_while_what_the_port_holds_is_too_much_and_all_do_when_something_was_answered() -> None:
    intake = Intake(INTAKE_BYTES_MAX)
    first, second = Scene(intake=intake), Scene(intake=intake)
    first.linked.dataReceived(question(1, bytes(INTAKE_BYTES_MAX - 1)))
    assert first.wire.reads, "one byte more has room"
    second.ask(1, 2)
    assert second.bodies == [b"1", b"2"], "what is here is answered, which makes room"
    assert not second.wire.reads
    first.ask(2)
    assert not first.wire.reads
    second.answer(0)
    assert (first.wire.reads, second.wire.reads) == (False, False)
    first.answer(0)
    assert (first.wire.reads, second.wire.reads) == (True, True)
    first.answer(1)
    second.answer(1)
    assert intake.bytes == 0


def test_a_question_larger_than_all_that_the_port_may_hold_is_answered_like_any_other() -> None:
    scene = Scene(intake=Intake(INTAKE_BYTES_MAX))
    scene.linked.dataReceived(question(1, bytes(3 * INTAKE_BYTES_MAX)))
    assert len(scene.asked) == 1
    assert not scene.wire.reads
    scene.answer(0)
    assert scene.wire.reads
    assert scene.intake.bytes == 0


def test_room_for_one_link_is_not_room_where_another_reason_keeps_it_from_reading() -> None:
    scene = Scene(intake=Intake(INTAKE_BYTES_MAX))
    scene.intake.count(INTAKE_BYTES_MAX)
    scene.ask(1, 2, 3)
    assert not scene.wire.reads
    scene.intake.give_back(INTAKE_BYTES_MAX)
    assert not scene.wire.reads, "as many are under way as may be"
    scene.answer(0)
    assert scene.wire.reads


def test_a_link_that_has_gone_does_not_read_on_when_there_is_room() -> None:
    scene = Scene(intake=Intake(INTAKE_BYTES_MAX))
    scene.linked.dataReceived(question(1, bytes(INTAKE_BYTES_MAX)))
    scene.linked.connectionLost(Failure(ConnectionLost()))
    scene.answer(0)
    assert not scene.wire.reads
    assert scene.intake.bytes == 0


def test_a_node_s_links_count_what_they_bring_in_the_intake_of_its_port() -> None:
    intake = Intake(INTAKE_BYTES_MAX)
    intake.count(INTAKE_BYTES_MAX)
    # What is no batch never comes to the replica.
    replica = cast(Any, SimpleNamespace(clock=Clock(), limits=LIMITS))
    linked = Batches(replica, NodeMetrics()).link(LIMITS)(asked(*ASKING["as proxies do"]), intake, None)
    assert linked is not None
    wire = Wire()
    linked.makeConnection(wire)
    linked.dataReceived(question(1, b"no batch"))
    assert [frame.status for frame in Frames(10**9).feed(b"".join(wire.writes[1:]))] == [400]
    assert not wire.reads
    intake.give_back(INTAKE_BYTES_MAX)
    assert wire.reads
    assert intake.bytes == 0


def test_an_answer_too_large_for_the_link_is_an_error_of_its_own_question_alone() -> None:
    sizes = {b"1": LIMITS.node_body_bytes_max + 1, b"2": LIMITS.node_body_bytes_max}
    scene = Scene(lambda body: succeed((200, bytes(sizes[body]))))
    scene.ask(1, 2)
    sizes_back = [(frame.status, len(frame.payload)) for frame in scene.answers]
    assert sizes_back == [(500, 0), (200, LIMITS.node_body_bytes_max)]
    assert scene.wire.closing == ""


def raises(body: bytes) -> Deferred[tuple[int, bytes]]:
    raise ZeroDivisionError


BUGS: dict[str, Serve] = {
    "it raises": raises,
    "it fails": lambda body: fail(ZeroDivisionError()),
    "it gives nonsense": lambda body: succeed(None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("serve", BUGS.values(), ids=BUGS)
def test_a_bug_is_logged_and_answered_and_the_link_goes_on(
    serve: Serve, no_logged_failure: list[dict[str, Any]]
) -> None:
    scene = Scene(serve)
    scene.ask(1)
    scene.ask(2)
    assert scene.answers == [Frame(1, 500, b""), Frame(2, 500, b"")]
    assert len(no_logged_failure) == 2
    no_logged_failure.clear()
    assert scene.wire.closing == ""


def test_links_that_speak_nonsense_are_few_lines_in_the_log(caught: list[dict[str, Any]]) -> None:
    spares = Sparing(Clock(), Limits(slow_lines_max=2))
    for _ in range(5):
        wire = Wire()
        linked = Linked(lambda body: succeed((200, body)), Limits(), spares=spares)
        linked.makeConnection(wire)
        linked.dataReceived(b"\xff" * 64)
        assert wire.closing == "aborted"

    assert len(caught) == 2


@pytest.fixture
def caught() -> Iterator[list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []

    def keep(event: dict[str, Any]) -> None:
        if "a link is closed" in str(event.get("log_format")):
            events.append(event)

    globalLogPublisher.addObserver(keep)
    yield events
    globalLogPublisher.removeObserver(keep)
