"""The way to another process of the same proxy: what is made of its answers, and of a socket that gives none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from twisted_kv.errors import KvError, PeerSilent, PeerUnreachable
from twisted_kv.limits import Limits
from twisted_kv.web.relay import Relay, Relayed

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nRetry-After: 1\r\nX: y\r\nContent-Length: 6\r\n\r\nanswer"


class Scene:
    """A relay whose sockets are the test's."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.relay = Relay(self.reactor, Path("/folder/socket"), Limits())
        self.answers: list[Relayed] = []
        self.failures: list[Failure] = []

    def ask(self) -> Deferred[Any]:
        asked = self.relay.ask(b"POST", b"/v1/x?y=z", 10, b"body")
        return asked.addCallbacks(self.answers.append, self.failures.append)

    def accept(self) -> tuple[Any, StringTransport]:
        """Let the newest attempt find somebody."""
        path, factory, *_ = self.reactor.unixClients[-1]
        assert path == "/folder/socket"
        protocol, wire = factory.buildProtocol(None), StringTransport()
        protocol.makeConnection(wire)
        return protocol, wire

    def refuse(self, why: Exception) -> None:
        factory = self.reactor.unixClients[-1][1]
        factory.clientConnectionFailed(None, Failure(why))

    def failed(self, kind: type[KvError]) -> KvError:
        (failure,) = self.failures
        assert type(failure.value) is kind, repr(failure.value)
        return failure.value


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    assert scene.reactor.getDelayedCalls() == []


def test_an_answer_is_given_as_it_was_with_the_fields_that_are_its_own(scene: Scene) -> None:
    scene.ask()
    protocol, wire = scene.accept()
    head, _, body = wire.value().partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x?y=z HTTP/1.1\r\nHost: worker\r\n")
    assert body == b"body"
    protocol.dataReceived(OK)
    assert scene.answers == [Relayed(200, {b"content-type": b"text/plain", b"retry-after": b"1"}, b"answer")]


def test_each_call_has_a_connection_of_its_own(scene: Scene) -> None:
    for calls in (1, 2):
        scene.ask()
        assert len(scene.reactor.unixClients) == calls
        protocol, wire = scene.accept()
        protocol.dataReceived(OK)
        assert wire.disconnected
        protocol.connectionLost(Failure(error.ConnectionDone()))
    assert len(scene.answers) == 2


@pytest.mark.parametrize(
    ("met", "why"),
    [
        (error.ConnectionRefusedError(), "refused"),
        (error.ConnectionRefusedError(111, "Connection refused"), ": Connection refused"),
        (error.TimeoutError(), "timeout"),
        # What Twisted makes of a socket whose queue is full.
        (error.ConnectError(string=Failure(error.ConnectionLost())), "it takes no more connections"),  # type: ignore[arg-type]
    ],
)
def test_a_socket_that_nobody_answers_at_is_told_in_one_line(scene: Scene, met: Exception, why: str) -> None:
    scene.ask()
    scene.refuse(met)
    detail = scene.failed(PeerUnreachable).detail
    assert detail.startswith("cannot connect: ")
    assert why in detail
    assert "\n" not in detail
    assert "Failure" not in detail


def test_a_process_that_ends_in_its_answer_may_have_done_what_was_asked(scene: Scene) -> None:
    for said in (b"", OK[:9], OK[:-1]):
        scene.failures.clear()
        scene.ask()
        protocol, _ = scene.accept()
        if said:
            protocol.dataReceived(said)
        protocol.connectionLost(Failure(error.ConnectionDone()))
        scene.failed(PeerSilent)


@pytest.mark.parametrize("connects", [False, True])
def test_an_answer_that_takes_too_long_is_waited_for_no_more(scene: Scene, connects: bool) -> None:
    scene.ask()
    if connects:
        protocol, wire = scene.accept()
    scene.reactor.advance(10)
    assert "longer than 10 s" in scene.failed(PeerSilent).detail
    if connects:
        assert wire.disconnected
        protocol.connectionLost(Failure(error.ConnectionDone()))


@pytest.mark.parametrize("connects", [False, True])
def test_who_waits_is_told_at_once_that_this_process_ends(scene: Scene, connects: bool) -> None:
    scene.ask()
    if connects:
        scene.accept()[0].dataReceived(OK[:-1])
    scene.relay.stop()
    assert scene.failed(PeerSilent).detail == "this worker is stopping"
