"""The link: batches go over it while it is there, over HTTP while it is not, and never twice.

On simulated connections, where a test decides how time goes by; what only a kernel shows is asked of real sockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from twisted_kv.errors import KvError, PeerSilent, PeerUnreachable
from twisted_kv.fasthttp.frames import ID_MAX, LINK_PATH, Frame, Frames, head
from twisted_kv.fasthttp.gate import Gate
from twisted_kv.fasthttp.heads import Head
from twisted_kv.fasthttp.intake import Intake
from twisted_kv.fasthttp.linked import Linked
from twisted_kv.fasthttp.upgrade import SWITCHED, asks_for_link
from twisted_kv.limits import Limits
from twisted_kv.peers.http import HttpTransport
from twisted_kv.peers.link import LinkTransport
from twisted_kv.peers.peer import Answer
from twisted_kv.simulation.network import Network, Weather
from twisted_kv.simulation.tcp import Socket, Stack, Tcp
from twisted_kv.simulation.world import Host, World
from twisted_kv.tokens import Ticket
from twisted_kv.web.answers import MSGPACK, answer
from twisted_kv.web.site import App, KvSite

reactor: Any = real_reactor

LIMITS = Limits(node_body_bytes_max=300_000)
TIMEOUT_S = LIMITS.batch_timeout_s
PORT = 80
URL = f"http://node:{PORT}"
Talk = Callable[["Line", Frame], None]
Switch = Callable[["Line"], None]


class Line(Protocol):
    """One connection to a scripted node, over HTTP or switched to a link."""

    def __init__(self, node: ScriptedNode) -> None:
        self.node = node
        self.transport: Any
        self.open = True
        self.linked: Linked | None = None
        self.frames: Frames | None = None
        self._buffer = b""

    def dataReceived(self, data: bytes) -> None:
        if self.linked is not None:
            self.linked.dataReceived(data)
        elif self.frames is not None:
            for frame in self.frames.feed(data):
                self.node.talk(self, frame)
        else:
            self._buffer += data
            self._http()

    def _http(self) -> None:
        start, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = start.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        self._buffer = b""
        if start.startswith(b"GET " + LINK_PATH):
            self.node.requests_to_switch.append(start)
            self.node.switch(self)
        else:
            self.node.by_http.append(rest)
            self.transport.write(ok(b"http " + rest))

    def answer(self, frame: Frame, body: bytes, status: int = 200) -> None:
        self.transport.write(head(frame.id, status, len(body)) + body)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.open = False
        if self.linked is not None:
            self.linked.connectionLost(reason)


def ok(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def switching(line: Line) -> None:
    """Switch, and let the script talk in frames."""
    line.frames = Frames(10**9)
    line.transport.write(SWITCHED)


def answering(data: bytes) -> Switch:
    return lambda line: line.transport.write(data)


def linking(line: Line) -> None:
    """Switch to the node's own side of the link, which answers each batch at once."""
    line.linked = Linked(lambda body: succeed((200, b"link " + body)), LIMITS)
    line.linked.makeConnection(line.transport)


def echo(line: Line, frame: Frame) -> None:
    line.node.by_link.append(frame.payload)
    line.answer(frame, b"link " + frame.payload)


def keep(line: Line, frame: Frame) -> None:
    line.node.by_link.append(frame.payload)
    line.node.kept.append((line, frame))


class ScriptedNode(Factory):
    """A node that speaks HTTP, and does what a test wants where it is asked to switch, or in frames."""

    noisy = False

    def __init__(self, switch: Switch = switching, talk: Talk = echo) -> None:
        self.switch = switch
        self.talk = talk
        self.lines: list[Line] = []
        self.requests_to_switch: list[bytes] = []
        self.by_http: list[bytes] = []
        self.by_link: list[bytes] = []
        self.kept: list[tuple[Line, Frame]] = []

    def buildProtocol(self, addr: object) -> Line:
        self.lines.append(Line(self))
        return self.lines[-1]

    def answer_kept(self, number: int, body: bytes) -> None:
        line, frame = self.kept[number]
        line.answer(frame, body)


class Heard:
    """What became of one request."""

    def __init__(self, waiting: Deferred[Answer]) -> None:
        self.results: list[Any] = []
        waiting.addBoth(self.results.append)

    @property
    def answer(self) -> Answer:
        (answer,) = self.results
        assert isinstance(answer, Answer), answer
        return answer

    @property
    def error(self) -> KvError:
        (failure,) = self.results
        assert isinstance(failure, Failure), failure
        assert isinstance(failure.value, KvError), failure
        return failure.value


class Scene:
    """A proxy's machine and a node's."""

    def __init__(self, node: ScriptedNode, seed: int = 1) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        self.tcp = Tcp(self.network)
        self.client, self.server = Host(self.world, "client"), Host(self.world, "node")
        self.node = node
        self.listen()
        stack = Stack(self.tcp, self.client)
        self.transport = LinkTransport(stack, LIMITS, HttpTransport(stack, LIMITS))

    def listen(self) -> None:
        self.tcp.listen(self.server, PORT, self.node)

    def batch(self, body: bytes, timeout_s: float = TIMEOUT_S, url: str = URL) -> Heard:
        return Heard(
            self.transport.request(
                "POST", f"{url}/node/v1/batch", body, content_type="application/msgpack", timeout_s=timeout_s
            )
        )

    def ask(self, body: bytes) -> Answer:
        """Send a batch and give its answer."""
        heard = self.batch(body)
        self.world.run(1)
        return heard.answer

    def link(self) -> Scene:
        """Open the link, with a batch that goes over HTTP."""
        assert self.ask(b"first").body == b"http first"
        assert self.transport.links() == 1
        self.node.by_http.clear()
        return self


@contextmanager
def scene_of(node: ScriptedNode, seed: int = 1) -> Iterator[Scene]:
    """A scene at whose end nothing waits any more: no timer, and no connection of the proxy."""
    scene = Scene(node, seed)
    yield scene
    closed = Heard(scene.transport.close())  # type: ignore[arg-type]
    scene.world.run(10)
    assert closed.results == [None]
    assert scene.client.links == {}
    assert [str(call) for call in scene.client.getDelayedCalls()] == []


# Finding the way.


def test_the_first_batch_goes_over_http_and_those_after_it_over_one_link() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.link()
        assert scene.ask(b"second") == Answer(200, b"link second", False)
        assert scene.ask(b"third") == Answer(200, b"link third", False)
        assert scene.node.by_http == []
        assert len(scene.node.requests_to_switch) == 1


def test_the_request_to_switch_says_what_http_wants_to_hear() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.link()
        (request,) = scene.node.requests_to_switch
        assert request.split(b"\r\n") == [
            b"GET /node/v1/link HTTP/1.1",
            b"Host: node:80",
            b"Connection: Upgrade",
            b"Upgrade: kv-link/1",
        ]


def test_what_is_no_batch_goes_over_http_and_opens_no_link() -> None:
    with scene_of(ScriptedNode()) as scene:
        for method, path in (("GET", "info"), ("POST", "slots"), ("PUT", "batch")):
            heard = Heard(
                scene.transport.request(
                    method, f"{URL}/node/v1/{path}", b"x", content_type="application/json", timeout_s=1
                )
            )
            scene.world.run(1)
            assert heard.answer.body == b"http x"
        assert scene.node.requests_to_switch == []


def test_many_batches_while_a_link_is_being_opened_open_one() -> None:
    with scene_of(ScriptedNode()) as scene:
        heard = [scene.batch(b"%d" % number) for number in range(5)]
        scene.world.run(1)
        assert [each.answer.body for each in heard] == [b"http %d" % number for number in range(5)]
        assert len(scene.node.requests_to_switch) == 1
        assert scene.transport.links() == 1


def test_each_node_has_a_link_of_its_own() -> None:
    with scene_of(ScriptedNode()) as scene:
        other = ScriptedNode()
        scene.tcp.listen(Host(scene.world, "other"), PORT, other)
        scene.link()
        scene.batch(b"x", url="http://other:80")
        scene.world.run(1)
        assert scene.transport.links() == 2
        scene.batch(b"y", url="http://other:80")
        scene.world.run(1)
        assert (scene.node.by_link, other.by_link) == ([], [b"y"])


@pytest.mark.parametrize("seed", range(6))
def test_both_sides_of_the_link_understand_each_other_however_the_network_cuts_it(seed: int) -> None:
    with scene_of(ScriptedNode(linking), seed) as scene:
        scene.link()
        scene.network.weather = Weather(delays_s=(0.0, 0.05), slow=0.1, slow_s=0.2)
        bodies = [b"%d" % number * (1 + number * 97) for number in range(40)]
        heard = []
        for body in bodies:
            heard.append(scene.batch(body))
            scene.world.run(0.01)
        scene.world.run(3)
        assert [each.answer.body for each in heard] == [b"link " + body for body in bodies]


def test_a_node_s_one_port_takes_the_link_beside_all_else() -> None:
    counted: list[int] = []

    def link(asked: Head, intake: Intake, ticket: Ticket | None) -> Linked | None:
        def serve(body: bytes) -> Deferred[tuple[int, bytes]]:
            counted.append(site.intake.bytes)
            return succeed((200, b"link " + body))

        return Linked(serve, LIMITS, intake, ticket) if asks_for_link(asked) else None

    app = App()

    @app.route("/node/v1/batch", methods=["POST"])
    def batch(request: Any) -> bytes:
        return answer(request, b"http " + request.content.read(), MSGPACK)

    with scene_of(ScriptedNode()) as scene:
        gate, stack = Gate(names=["node"]), Stack(scene.tcp, scene.server)
        site = KvSite(stack, app, LIMITS, LIMITS.node_body_bytes_max, link=link, gate=gate)
        scene.tcp.listen(scene.server, PORT, site)
        assert scene.ask(b"1").body == b"http 1"
        heard = [scene.batch(b"%d" % number) for number in range(2, 5)]
        scene.world.run(1)
        assert [each.answer.body for each in heard] == [b"link 2", b"link 3", b"link 4"]
        scene.world.run(LIMITS.link_idle_s - 10)
        assert scene.ask(b"five").body == b"link five", "an idle link stays for longer than an idle connection"
        assert counted == [1, 1, 1, 4], "batches count with all that comes into the port"
        site.hang_up()
        scene.world.run(1)
        assert scene.transport.links() == 0


REFUSALS = {
    "not found": ok(b"", b"404 Not Found"),
    "upgrade required": ok(b"", b"426 Upgrade Required"),
    "bad request": ok(b"", b"400 Bad Request"),
    "no upgrade": ok(b"welcome"),
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "another protocol beneath it": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: TLS/1.0, kv-link/1\r\n\r\n",
    "another protocol in another line": SWITCHED[:-2] + b"Upgrade: TLS/1.0\r\n\r\n",
    "no protocol": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "garbage": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "frames": head(1, 200, 3) + b"abc",
    "a head without an end": b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 1000,
    "a head that is too long": b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
}


@pytest.mark.parametrize("said", REFUSALS.values(), ids=REFUSALS)
def test_a_node_without_a_link_is_asked_over_http_and_hung_up_on(said: bytes) -> None:
    with scene_of(ScriptedNode(answering(said))) as scene:
        assert scene.ask(b"1").body == b"http 1"
        assert scene.ask(b"2").body == b"http 2"
        assert scene.transport.links() == 0
        assert scene.node.by_link == []
        asked_to_switch = [line for line in scene.node.lines if not line.open]
        assert len(asked_to_switch) == len(scene.node.requests_to_switch)


def test_a_node_without_a_link_is_asked_for_one_ever_more_seldom() -> None:
    with scene_of(ScriptedNode(answering(REFUSALS["not found"]))) as scene:
        asked_at: list[float] = []
        for second in range(200):
            before = len(scene.node.requests_to_switch)
            scene.ask(b"x")
            asked_at += [second] * (len(scene.node.requests_to_switch) - before)
        pauses = [late - early for early, late in pairwise(asked_at)]
        assert pauses == sorted(pauses)
        assert pauses[0] <= 2
        assert LIMITS.link_pause_s_max <= pauses[-1] <= LIMITS.link_pause_s_max + 1


def test_a_node_that_does_not_answer_the_request_to_switch_holds_nothing_up() -> None:
    with scene_of(ScriptedNode(lambda line: None)) as scene:
        for number in range(int(LIMITS.control_timeout_s) - 1):
            assert scene.ask(b"%d" % number).body == b"http %d" % number
        assert len(scene.node.requests_to_switch) == 1
        assert all(line.open for line in scene.node.lines)
        scene.world.run(2)
        assert len([line for line in scene.node.lines if not line.open]) == 1
        scene.node.switch = switching
        assert scene.ask(b"x").body == b"http x"
        assert scene.transport.links() == 1


def test_a_node_that_learns_to_link_is_found_out() -> None:
    with scene_of(ScriptedNode(answering(REFUSALS["not found"]))) as scene:
        scene.ask(b"1")
        scene.node.switch = switching
        scene.world.run(LIMITS.link_pause_s)
        scene.link()
        assert scene.ask(b"3").body == b"link 3"


def test_a_batch_larger_than_a_node_takes_is_for_http_to_be_refused() -> None:
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        scene.batch(bytes(LIMITS.node_body_bytes_max))
        scene.batch(bytes(LIMITS.node_body_bytes_max + 1))
        scene.world.run(1)
        assert [len(body) for body in scene.node.by_link] == [LIMITS.node_body_bytes_max]
        assert [len(body) for body in scene.node.by_http] == [LIMITS.node_body_bytes_max + 1]
        assert scene.transport.links() == 1


@pytest.mark.parametrize("url", ["http://node:port", "nonsense", "http://[::1", "ftp://node:80", "", "http://nöde"])
def test_a_url_that_is_none_is_an_error_of_http(url: str) -> None:
    with scene_of(ScriptedNode()) as scene:
        heard = scene.batch(b"x", url=url)
        scene.world.run(10)
        assert type(heard.error) is PeerUnreachable


# Questions under way.


def test_answers_come_to_their_questions_in_whatever_order() -> None:
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        heard = [scene.batch(b"%d" % number) for number in range(3)]
        scene.world.run(1)
        for number in (2, 0, 1):
            scene.node.answer_kept(number, b"to %d" % number)
        scene.world.run(1)
        assert [each.answer.body for each in heard] == [b"to 0", b"to 1", b"to 2"]


def test_an_error_status_is_an_answer_like_any_other() -> None:
    with scene_of(ScriptedNode(talk=lambda line, frame: line.answer(frame, b"no", 409))) as scene:
        scene.link()
        assert scene.ask(b"x") == Answer(409, b"no", False)


def test_an_answer_may_be_as_large_as_a_node_may_make_it_and_no_larger() -> None:
    sizes = iter([LIMITS.node_body_bytes_max, LIMITS.node_body_bytes_max + 1])
    with scene_of(ScriptedNode(talk=lambda line, frame: line.answer(frame, bytes(next(sizes))))) as scene:
        scene.link()
        assert len(scene.ask(b"x").body) == LIMITS.node_body_bytes_max
        heard = scene.batch(b"y")
        scene.world.run(1)
        assert type(heard.error) is PeerSilent
        assert scene.transport.links() == 0


NONSENSE = {
    "a length that is none": bytes(10),
    "an endless frame": b"\xff" * 10,
    "http": ok(b"x"),
    "an answer to what was never asked": head(99, 200, 0),
    "an answer to nothing": head(0, 200, 0),
    "a question": head(1, 0, 0),
    "no status": head(1, 999, 0),
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_the_link_and_batches_go_on_over_http(said: bytes) -> None:
    with scene_of(ScriptedNode(talk=lambda line, frame: line.transport.write(said))) as scene:
        scene.link()
        heard = [scene.batch(b"1"), scene.batch(b"2")]
        scene.world.run(1)
        assert [type(each.error) for each in heard] == [PeerSilent, PeerSilent]
        assert scene.transport.links() == 0
        assert scene.ask(b"3").body == b"http 3"


def test_what_is_under_way_when_the_link_breaks_may_have_arrived_and_is_not_sent_again() -> None:
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        heard = [scene.batch(b"1"), scene.batch(b"2")]
        scene.world.run(1)
        scene.node.kept[0][0].transport.abortConnection()
        scene.world.run(1)
        assert [type(each.error) for each in heard] == [PeerSilent, PeerSilent]
        assert scene.node.by_link == [b"1", b"2"]
        assert scene.node.by_http == []


def test_who_asks_again_while_he_hears_that_the_link_broke_is_answered_over_http() -> None:
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        again: list[Heard] = []
        first = scene.transport.request(
            "POST", f"{URL}/node/v1/batch", b"1", content_type="application/msgpack", timeout_s=TIMEOUT_S
        )
        first.addErrback(lambda _: again.append(scene.batch(b"again")))
        scene.world.run(1)
        scene.node.kept[0][0].transport.loseConnection()
        scene.world.run(1)
        assert [each.answer.body for each in again] == [b"http again"]


def test_a_link_that_the_node_closed_is_opened_anew_with_the_next_batch() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.link()
        scene.ask(b"1")
        scene.node.lines[-1].transport.loseConnection()
        scene.node.lines[0].transport.loseConnection()
        scene.world.run(1)
        assert scene.transport.links() == 0
        assert len(scene.node.requests_to_switch) == 1
        assert scene.ask(b"2").body == b"http 2"
        assert scene.ask(b"3").body == b"link 3"
        assert len(scene.node.requests_to_switch) == 2


def test_a_link_that_breaks_before_it_was_of_use_is_not_opened_again_at_once() -> None:
    with scene_of(ScriptedNode(talk=lambda line, frame: line.transport.abortConnection())) as scene:
        lost = 0
        for _ in range(100):
            heard = scene.batch(b"x")
            scene.world.run(1)
            lost += isinstance(heard.results[0], Failure)
        assert 3 <= lost <= 8


def test_a_node_that_went_and_came_back_has_its_link_back_within_moments() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.link()
        assert scene.ask(b"1").body == b"link 1"
        scene.server.end()
        for _ in range(100):
            heard = scene.batch(b"x")
            scene.world.run(1)
            assert isinstance(heard.error, PeerSilent | PeerUnreachable)
        scene.listen()
        scene.world.run(2 * LIMITS.link_pause_s)
        assert scene.ask(b"2").body == b"http 2"
        assert scene.ask(b"3").body == b"link 3"


def test_a_link_that_the_node_closes_before_it_was_asked_anything_is_no_sign_that_links_are_of_no_use() -> None:
    """A node that is started again several times switches each time, and goes before a batch has come."""
    with scene_of(ScriptedNode()) as scene:
        for _ in range(8):
            scene.link()
            (link,) = [line for line in scene.node.lines if line.open and line.frames is not None]
            link.transport.loseConnection()
            scene.world.run(1.1 * LIMITS.link_pause_s)
        assert len(scene.node.requests_to_switch) == 8


def test_a_link_on_which_nobody_asks_is_ended_and_opened_anew_with_the_next_batch() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.link()
        assert scene.ask(b"1").body == b"link 1"
        scene.world.run(LIMITS.link_idle_s - 2)
        assert scene.transport.links() == 1
        scene.world.run(2)
        assert scene.transport.links() == 0
        assert [line for line in scene.node.lines if line.open and line.frames is not None] == []
        scene.link()
        assert scene.ask(b"2").body == b"link 2"


def test_a_link_that_was_opened_and_never_asked_is_ended_as_well() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.link()
        scene.world.run(LIMITS.link_idle_s + LIMITS.link_pause_s)
        assert scene.transport.links() == 0
        scene.link()


def test_a_link_that_is_asked_now_and_then_stays() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.link()
        for number in range(5):
            assert scene.ask(b"%d" % number).body == b"link %d" % number
            scene.world.run(0.9 * LIMITS.link_idle_s)
        assert len(scene.node.requests_to_switch) == 1


def test_nodes_that_nobody_asks_any_more_are_forgotten() -> None:
    with scene_of(ScriptedNode()) as scene:
        for number in range(5):
            scene.tcp.listen(Host(scene.world, f"n{number}"), PORT, ScriptedNode())
            scene.batch(b"x", url=f"http://n{number}:{PORT}")
            scene.batch(b"x", url=f"http://none-{number}:{PORT}")
            scene.world.run(1)
        assert scene.transport.links() == 5
        scene.world.run(LIMITS.link_idle_s + LIMITS.link_pause_s)
        scene.link()
        assert list(scene.transport._ways) == [f"{URL}/node/v1/batch"]


def test_a_node_that_comes_to_be_asked_makes_no_other_node_forgotten_that_has_a_link_or_failed_just_now() -> None:
    other = ScriptedNode(answering(REFUSALS["not found"]))
    with scene_of(ScriptedNode()) as scene:
        scene.tcp.listen(Host(scene.world, "other"), PORT, other)
        scene.tcp.listen(Host(scene.world, "third"), PORT, ScriptedNode())
        scene.link()
        scene.batch(b"x", url="http://other:80")
        scene.world.run(0.5)
        scene.batch(b"x", url="http://third:80")
        scene.batch(b"x", url="http://other:80")
        scene.world.run(0.1)
        assert len(other.requests_to_switch) == 1
        assert scene.ask(b"1").body == b"link 1"


# Deadlines.


def test_a_question_has_its_own_deadline_and_the_others_go_on() -> None:
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        slow, quick = scene.batch(b"1", timeout_s=3), scene.batch(b"2", timeout_s=1)
        scene.world.run(0.5)
        third = scene.batch(b"3", timeout_s=1)
        scene.world.run(0.25)
        scene.node.answer_kept(2, b"for the third")
        scene.world.run(0.2499)
        assert quick.results == []
        scene.world.run(0.0002)
        assert quick.error.detail == "no answer within 1 s"
        assert third.answer.body == b"for the third"
        scene.world.run(1.9997)
        assert slow.results == []
        scene.world.run(0.0002)
        assert slow.error.detail == "no answer within 3 s"
        assert scene.transport.links() == 1


def test_an_answer_that_comes_too_late_is_dropped() -> None:
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        late = scene.batch(b"1", timeout_s=1)
        scene.world.run(0.5)
        other = scene.batch(b"2")
        scene.world.run(0.25)
        scene.node.answer_kept(1, b"two")
        scene.world.run(1)
        scene.node.answer_kept(0, b"one")
        scene.world.run(1)
        assert type(late.error) is PeerSilent
        assert other.answer.body == b"two"
        assert scene.transport.links() == 1


def test_a_link_over_which_nothing_comes_back_is_given_up() -> None:
    """Whoever is there takes all and says nothing, as a connection does that is half open."""
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        first = scene.batch(b"1")
        scene.world.run(1)
        second = scene.batch(b"2")
        scene.world.run(TIMEOUT_S - 0.5)
        assert first.error.detail == f"no answer within {TIMEOUT_S:g} s"
        assert type(second.error) is PeerSilent, "it would wait for nothing"
        assert scene.transport.links() == 0
        scene.world.run(LIMITS.link_pause_s)
        assert scene.ask(b"3").body == b"http 3"


def test_an_answer_to_another_question_at_the_very_moment_of_asking_is_no_sign_of_life() -> None:
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        second: list[Heard] = []
        first = scene.transport.request(
            "POST", f"{URL}/node/v1/batch", b"1", content_type="application/msgpack", timeout_s=TIMEOUT_S
        )
        first.addCallback(lambda _: second.append(scene.batch(b"2")))
        scene.world.run(1)
        scene.node.answer_kept(0, b"one")
        scene.world.run(TIMEOUT_S + 1)
        assert type(second[0].error) is PeerSilent
        assert scene.transport.links() == 0


def test_a_node_that_is_cut_off_is_left_and_found_again() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.link()
        scene.ask(b"1")
        scene.network.deaf |= {("client", "node"), ("node", "client")}
        heard = scene.batch(b"2")
        scene.world.run(TIMEOUT_S + 0.1)
        assert type(heard.error) is PeerSilent
        assert scene.transport.links() == 0
        for _ in range(60):
            scene.batch(b"x")
            scene.world.run(1)
        scene.network.deaf.clear()
        scene.world.run(10)
        scene.batch(b"x")
        scene.world.run(10)
        assert scene.ask(b"3").body == b"link 3"


def test_a_node_that_reads_nothing_is_left_although_it_speaks() -> None:
    """A transport's buffer is full since a question was written, for as long as it may take: it never left."""
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        spoken = scene.batch(b"1", timeout_s=10)
        scene.world.run(1)
        (socket,) = [link for link in scene.client.links if isinstance(link, Socket) and is_link(link)]
        link: Any = socket._protocol._wrappedProtocol
        stuck = scene.batch(b"2", timeout_s=2)
        link.pauseProducing()
        scene.world.run(1)
        scene.node.answer_kept(0, b"one")
        scene.world.run(2)
        assert spoken.answer.body == b"one"
        assert type(stuck.error) is PeerSilent
        assert scene.transport.links() == 0


def is_link(socket: Socket) -> bool:
    return hasattr(getattr(socket._protocol, "_wrappedProtocol", None), "ask")


def test_ids_are_not_used_twice_on_one_link() -> None:
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        (socket,) = [link for link in scene.client.links if isinstance(link, Socket) and is_link(link)]
        link: Any = socket._protocol._wrappedProtocol
        link._last_id = ID_MAX - 1
        last = scene.batch(b"last")
        assert scene.ask(b"over http").body == b"http over http"
        assert scene.node.kept[0][1].id == ID_MAX
        scene.node.answer_kept(0, b"answered")
        scene.world.run(1)
        assert last.answer.body == b"answered"
        assert scene.ask(b"over http").body == b"http over http"
        scene.ask(b"opens another")
        scene.batch(b"over the new one")
        scene.world.run(1)
        assert scene.node.kept[1][1] == Frame(1, 0, b"over the new one")
        assert len(scene.node.requests_to_switch) == 2


# The end.


def test_questions_under_way_fail_at_once_when_the_transport_is_closed() -> None:
    with scene_of(ScriptedNode(talk=keep)) as scene:
        scene.link()
        heard = [scene.batch(b"1"), scene.batch(b"2")]
        scene.world.run(1)
        closed = Heard(scene.transport.close())  # type: ignore[arg-type]
        assert [type(each.error) for each in heard] == [PeerSilent, PeerSilent]
        scene.world.run(1)
        assert closed.results == [None]
        assert not any(line.open for line in scene.node.lines if line.frames is not None)
        assert scene.ask(b"3").body == b"http 3"
        assert scene.transport.links() == 0


def test_a_transport_that_was_closed_opens_no_link_to_whomever() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.transport.close()
        scene.batch(b"1")
        scene.world.run(1)
        scene.batch(b"2")
        scene.world.run(1)
        assert scene.node.requests_to_switch == []
        assert scene.transport.links() == 0


@pytest.mark.parametrize("moment_s", [0.0, 0.001, 0.003, 0.005, 0.008])
def test_a_transport_may_be_closed_while_a_link_is_being_opened(moment_s: float) -> None:
    with scene_of(ScriptedNode()) as scene:
        heard = scene.batch(b"1")
        scene.world.run(moment_s)
        scene.transport.close()
        scene.world.run(10)
        assert len(heard.results) == 1
        assert scene.transport.links() == 0
        assert not any(line.open for line in scene.node.lines if line.frames is not None)


def test_a_transport_that_is_closed_waits_for_no_connection_any_more() -> None:
    with scene_of(ScriptedNode()) as scene:
        scene.network.deaf.add(("client", "node"))
        heard = scene.batch(b"1", timeout_s=1)
        scene.world.run(2)
        assert type(heard.error) is PeerSilent
        assert scene.client.getDelayedCalls() != []
        scene.transport.close()
        assert [str(call) for call in scene.client.getDelayedCalls()] == []


class LateEndpoint:
    """Connects when the test says so, to whoever waits for it or not."""

    def __init__(self) -> None:
        self.made: Protocol | None = None

    def endpointForURI(self, uri: object) -> LateEndpoint:
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        self.made = factory.buildProtocol(None)
        return Deferred()


def test_a_connection_that_is_made_when_nobody_waits_for_it_any_more_is_closed() -> None:
    endpoint = LateEndpoint()
    with scene_of(ScriptedNode()) as scene:
        stack = Stack(scene.tcp, scene.client)
        scene.transport = LinkTransport(stack, LIMITS, HttpTransport(stack, LIMITS), endpoint)  # type: ignore[arg-type]
        scene.ask(b"1")
        scene.transport.close()
        made = endpoint.made
        assert made is not None
        transport = StringTransport()
        made.makeConnection(transport)
        assert transport.disconnected
        assert transport.value() == b""


# Real sockets.


@asynccontextmanager
async def serving(node: ScriptedNode) -> AsyncIterator[tuple[str, LinkTransport]]:
    """A node on a real port and a transport, and nothing left of either."""
    timers = set(reactor.getDelayedCalls())
    port = reactor.listenTCP(0, node, interface="127.0.0.1")
    transport = LinkTransport(reactor, LIMITS, HttpTransport(reactor, LIMITS))
    try:
        yield f"http://127.0.0.1:{port.getHost().port}", transport
        await transport.close()
    finally:
        await maybeDeferred(port.stopListening)
        for line in node.lines:
            if line.open:
                line.transport.abortConnection()
        while any(line.open for line in node.lines):
            await deferLater(reactor, 0)
    left = [call for call in reactor.getDelayedCalls() if call not in timers]
    assert left == [], [str(call) for call in left]


def post(transport: LinkTransport, url: str, body: bytes, timeout_s: float = 5.0) -> Deferred[Answer]:
    return transport.request(
        "POST", f"{url}/node/v1/batch", body, content_type="application/msgpack", timeout_s=timeout_s
    )


async def linked(transport: LinkTransport, url: str) -> None:
    """Have the link opened."""
    await post(transport, url, b"first")
    while not transport.links():
        await deferLater(reactor, 0)


@pytest_twisted.ensureDeferred
async def test_batches_of_all_sizes_go_over_a_real_connection() -> None:
    async with serving(ScriptedNode(linking)) as (url, transport):
        await linked(transport, url)
        bodies = [bytes([number]) * number * 23_000 for number in range(13)]
        waiting = [post(transport, url, body) for body in bodies]
        assert [(await each).body for each in waiting] == [b"link " + body for body in bodies]


@pytest_twisted.ensureDeferred
async def test_a_real_node_that_never_reads_is_left_at_the_deadline() -> None:
    def deaf(line: Line) -> None:
        switching(line)
        line.transport.pauseProducing()

    async with serving(ScriptedNode(deaf)) as (url, transport):
        await linked(transport, url)
        # More than the kernel's buffers take.
        waiting = [post(transport, url, bytes(LIMITS.node_body_bytes_max), timeout_s=0.2) for _ in range(40)]
        for each in waiting:
            with pytest.raises(PeerSilent):
                await each
        assert transport.links() == 0


@pytest_twisted.ensureDeferred
async def test_a_real_link_that_breaks_is_opened_anew() -> None:
    node = ScriptedNode()
    async with serving(node) as (url, transport):
        await linked(transport, url)
        await post(transport, url, b"1")
        node.talk = lambda line, frame: line.transport.abortConnection()
        with pytest.raises(PeerSilent):
            await post(transport, url, b"2")
        node.talk = echo
        await linked(transport, url)
        assert (await post(transport, url, b"3")).body == b"link 3"
        assert node.by_link == [b"1", b"3"]


@pytest_twisted.ensureDeferred
async def test_nobody_on_a_real_port_is_unreachable() -> None:
    async with serving(ScriptedNode()) as (_, transport):
        with pytest.raises(PeerUnreachable):
            await post(transport, "http://127.0.0.1:1", b"x")
        assert transport.links() == 0
