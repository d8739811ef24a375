"""The way to etcd: which member is asked, and what becomes of answers that are none."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from twisted_kv.errors import KvError, PeerSilent, PeerUnreachable, StateUnusable
from twisted_kv.limits import Limits
from twisted_kv.peers.http import HttpTransport
from twisted_kv.peers.peer import Answer
from twisted_kv.state.gateway import HttpGateway

A, B = "http://a:2379", "http://b:2379"


class Response:
    """An answer whose body is still to come."""

    def __init__(self) -> None:
        self.original = self
        self.body: Any = None

    def deliverBody(self, body: Any) -> None:
        self.body = body
        body.makeConnection(StringTransport())


class Members:
    """Stands for the transport: what each member of an etcd answers, and who was asked."""

    def __init__(self, **answers: Answer | KvError) -> None:
        self.answers = {f"http://{name}:2379": answer for name, answer in answers.items()}
        self.asked: list[str] = []
        self.streams: list[Deferred[Response]] = []

    def request(self, method: str, url: str, body: bytes, **_: object) -> Deferred[Answer]:
        base, _, _ = url.partition("/v3/")
        self.asked.append(base)
        answer = self.answers[base]
        return fail(answer) if isinstance(answer, KvError) else succeed(answer)

    def send(self, method: str, url: str, body: bytes, content_type: str) -> Deferred[Response]:
        self.asked.append(url)
        self.streams.append(Deferred())
        return self.streams[-1]

    def gateway(self) -> HttpGateway:
        return HttpGateway(cast(HttpTransport, self), list(self.answers), Limits())


def asked(gateway: HttpGateway) -> Any:
    results: list[Any] = []
    ensureDeferred(gateway.call("kv/range", {"key": "a2V5"})).addBoth(results.append)
    return results[0]


def trouble(gateway: HttpGateway) -> StateUnusable:
    failure = asked(gateway)
    assert isinstance(failure, Failure)
    assert failure.check(StateUnusable)
    assert isinstance(failure.value, StateUnusable)
    assert failure.value.hint
    return failure.value


WELL = Answer(200, b'{"kvs": []}')


def test_a_member_that_refuses_connections_is_passed_over() -> None:
    members = Members(a=PeerUnreachable("refused"), b=WELL)
    assert asked(members.gateway()) == {"kvs": []}
    assert members.asked == [A, B]


def test_a_silent_member_may_have_done_it_so_nobody_else_is_asked_and_the_next_call_begins_with_another() -> None:
    members = Members(a=PeerSilent("no answer"), b=WELL)
    gateway = members.gateway()
    assert A in trouble(gateway).detail
    assert members.asked == [A]
    assert asked(gateway) == {"kvs": []}
    assert members.asked == [A, B]


def test_a_member_without_a_leader_is_passed_over_and_asked_last_from_then_on() -> None:
    members = Members(a=Answer(503, b'{"error": "etcdserver: no leader"}'), b=WELL)
    gateway = members.gateway()
    assert asked(gateway) == asked(gateway) == {"kvs": []}
    assert members.asked == [A, B, B]


def test_the_last_complaint_is_told_when_nobody_can_be_asked() -> None:
    members = Members(a=PeerUnreachable("refused"), b=Answer(503, b'{"error": "etcdserver: no leader"}'))
    assert "no leader" in trouble(members.gateway()).detail


def test_who_answers_no_json_is_no_etcd() -> None:
    assert "is no etcd" in trouble(Members(a=Answer(200, b"<html>")).gateway()).detail


class Listener:
    """Who listens to a stream."""

    def __init__(self, members: Members) -> None:
        self.lines: list[dict[str, Any]] = []
        self.ends = 0
        self.stop = members.gateway().stream("watch", {}, self.lines.append, self.ended)

    def ended(self) -> None:
        self.ends += 1


def test_a_stream_is_handed_over_line_by_line_however_it_is_cut() -> None:
    members = Members(a=WELL)
    listener = Listener(members)
    response = Response()
    members.streams[0].callback(response)
    for piece in (b'{"resu', b'lt": {}}\n{"res', b'ult": {"n": 1}}\n', b'{"half'):
        response.body.dataReceived(piece)
    assert listener.lines == [{"result": {}}, {"result": {"n": 1}}]
    assert listener.ends == 0
    response.body.connectionLost(Failure(ConnectionLost()))
    assert listener.ends == 1


def test_a_stream_that_never_begins_has_ended() -> None:
    members = Members(a=WELL)
    listener = Listener(members)
    members.streams[0].errback(Failure(ConnectionLost()))
    assert (listener.lines, listener.ends) == ([], 1)


def test_a_line_that_is_no_json_ends_the_stream() -> None:
    members = Members(a=WELL)
    listener = Listener(members)
    response = Response()
    members.streams[0].callback(response)
    response.body.dataReceived(b"<html>\n")
    assert response.body.transport.disconnecting
    assert listener.lines == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_was_stopped_says_nothing_more(begun: bool) -> None:
    members = Members(a=WELL)
    listener = Listener(members)
    response = Response()
    if begun:
        members.streams[0].callback(response)
    listener.stop()
    if begun:
        assert response.body.transport.disconnecting
        response.body.dataReceived(b'{"result": {}}\n')
        response.body.connectionLost(Failure(ConnectionLost()))
    assert (listener.lines, listener.ends) == ([], 0)
