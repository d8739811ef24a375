"""Sockets that are watched together are read as the reactor would read them."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_kv.fasthttp.readers import ACCEPTED_AT_ONCE, AT_ONCE, Readers, watching


@implementer(IReactorFDSet)
class Reactor:
    """Notes who reads, and whose writer was taken away."""

    def __init__(self) -> None:
        self.readers: list[object] = []
        self.no_writers: list[object] = []

    def addReader(self, reader: object) -> None:
        assert reader not in self.readers
        self.readers.append(reader)

    def removeReader(self, reader: object) -> None:
        self.readers.remove(reader)

    def removeWriter(self, writer: object) -> None:
        self.no_writers.append(writer)


class Line:
    """A connection: one end of it is watched, the other is the test's."""

    def __init__(self, readers: Readers, then: Callable[[], object] = lambda: None) -> None:
        self._near, self.far = socket.socketpair()
        self._readers = readers
        self._then = then
        self.came = b""
        self.lost: Failure | None = None
        self.half_lost: Failure | None = None
        readers.addReader(self)

    def fileno(self) -> int:
        return self._near.fileno()

    def doRead(self) -> object:
        data = self._near.recv(100)
        self.came += data
        return self._then() if data else CONNECTION_DONE

    def readConnectionLost(self, reason: Failure) -> None:
        self.half_lost = reason
        self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        assert self.lost is None, "it ends once"
        self.lost = reason
        self._readers.removeReader(self)
        self._near.close()
        self.far.close()


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def readers(reactor: Reactor) -> Iterator[Readers]:
    readers = Readers(reactor)
    yield readers
    readers.connectionLost(Failure(CONNECTION_LOST))


def test_the_reactor_has_one_reader_while_there_is_somebody_to_watch(reactor: Reactor, readers: Readers) -> None:
    assert reactor.readers == []
    lines = [Line(readers) for _ in range(3)]
    assert reactor.readers == [readers]
    for line in lines:
        readers.removeReader(line)
        readers.removeReader(line)
    assert reactor.readers == []
    for line in lines:
        readers.addReader(line)
        readers.addReader(line)
    assert reactor.readers == [readers]


def test_who_has_something_to_read_is_read(readers: Readers) -> None:
    first, second = Line(readers), Line(readers)
    second.far.send(b"abc")
    readers.doRead()
    assert (first.came, second.came) == (b"", b"abc")
    readers.removeReader(second)
    for line in (first, second):
        line.far.send(b"def")
    readers.doRead()
    assert (first.came, second.came) == (b"def", b"abc"), "who is watched no longer is left alone"
    readers.addReader(second)
    readers.doRead()
    assert second.came == b"abcdef"


def test_what_is_ready_wakes_the_reactor_until_all_was_read_and_everybody_has_a_turn(readers: Readers) -> None:
    lines = [Line(readers) for _ in range(3 * AT_ONCE)]
    for line in lines:
        line.far.send(b"x")
    outer = select.epoll()
    outer.register(readers.fileno(), select.EPOLLIN)
    for turn in range(3):
        assert outer.poll(0)
        readers.doRead()
        assert sum(bool(line.came) for line in lines) == (turn + 1) * AT_ONCE
    assert not outer.poll(0)
    outer.close()


def test_one_who_never_stops_keeps_nobody_waiting(readers: Readers) -> None:
    lines = [Line(readers) for _ in range(2 * AT_ONCE)]
    for line in lines:
        line.far.send(bytes(10_000))  # more than is read at once
    for _ in range(3):
        readers.doRead()
    assert all(line.came for line in lines)


def test_a_connection_that_its_client_has_closed_is_told_so(reactor: Reactor, readers: Readers) -> None:
    line = Line(readers)
    line.far.close()
    readers.doRead()
    assert line.half_lost is not None
    assert line.half_lost.value is CONNECTION_DONE
    assert reactor.readers == []


def test_a_connection_that_is_lost_loses_its_writer_too(reactor: Reactor, readers: Readers) -> None:
    line = Line(readers, lambda: CONNECTION_LOST)
    line.far.send(b"x")
    readers.doRead()
    assert line.lost is not None
    assert line.lost.value is CONNECTION_LOST
    assert line.half_lost is None
    assert reactor.no_writers == [line]


def test_an_error_ends_one_connection_and_no_other(readers: Readers, no_logged_failure: list[Any]) -> None:
    def fail() -> None:
        raise RuntimeError("this one has a bug")

    lines = [Line(readers), Line(readers, fail), Line(readers)]
    for line in lines:
        line.far.send(b"x")
    readers.doRead()
    assert [line.came for line in lines] == [b"x"] * 3
    assert [line.lost is not None for line in lines] == [False, True, False]
    assert len(no_logged_failure) == 1
    no_logged_failure.clear()


def test_who_was_hung_up_on_in_the_same_turn_is_not_read(readers: Readers) -> None:
    lines: list[Line] = []

    def hang_up_on_the_others() -> None:
        for line in lines:
            if not line.came and line.lost is None:
                line.connectionLost(Failure(CONNECTION_LOST))

    lines += [Line(readers, hang_up_on_the_others) for _ in range(3)]
    for line in lines:
        line.far.send(b"x")
    readers.doRead()
    assert sum(line.came == b"x" for line in lines) == 1
    assert sum(line.lost is not None for line in lines) == 2


def test_a_descriptor_that_is_used_again_is_watched_again(readers: Readers) -> None:
    first = Line(readers)
    number = first.fileno()
    first.connectionLost(Failure(CONNECTION_LOST))
    second = Line(readers)
    assert second.fileno() == number, "the kernel gives the lowest number that is free"
    second.far.send(b"x")
    readers.doRead()
    assert second.came == b"x"


def test_when_the_reactor_stops_every_connection_ends(reactor: Reactor) -> None:
    readers = Readers(reactor)
    lines = [Line(readers) for _ in range(3)]
    reason = Failure(CONNECTION_LOST)
    readers.connectionLost(reason)
    assert [line.lost for line in lines] == [reason] * 3


def test_a_port_accepts_a_few_before_the_reactor_has_its_turn(reactor: Reactor, readers: Readers) -> None:
    crowd = Factory.forProtocol(Protocol)
    crowd.noisy = False
    made: list[object] = []
    crowd.buildProtocol = made.append  # type: ignore[method-assign,assignment]
    door = readers.listenTCP(0, crowd, backlog=5 * ACCEPTED_AT_ONCE, interface="127.0.0.1")
    place = ("127.0.0.1", door.getHost().port)
    clients = [socket.create_connection(place) for _ in range(4 * ACCEPTED_AT_ONCE)]
    try:
        for turn in (1, 2, 3):
            door.doRead()
            assert len(made) == turn * ACCEPTED_AT_ONCE
    finally:
        for client in clients:
            client.close()
        door.connectionLost(Failure(CONNECTION_DONE))


def test_what_it_does_not_know_is_the_reactors(reactor: Reactor, readers: Readers) -> None:
    assert readers.removeWriter == reactor.removeWriter
    with pytest.raises(AttributeError):
        readers.nothing_of_this_name  # noqa: B018


def test_without_epoll_the_reactor_watches_by_itself(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(watching(reactor), Readers)
    monkeypatch.delattr(select, "epoll")
    assert watching(reactor) is reactor
