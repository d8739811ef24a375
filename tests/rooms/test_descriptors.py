"""File descriptors run short: who asks nothing goes, and who does stays."""

from __future__ import annotations

import resource
from typing import Any

import pytest
from twisted.protocols.policies import ProtocolWrapper

from tests.contracts.test_lane import Port
from tests.rooms.test_redis_door import Scene
from tests.streams import get, kv_put
from twisted_kv.fasthttp.descriptors import lacking
from twisted_kv.fasthttp.overdue import BEGUN_S_MIN, IDLE_S_MIN
from twisted_kv.limits import Limits
from twisted_kv.web import site as site_module

BOTH = pytest.mark.parametrize("lane", [True, False], ids=["lane", "klein"])


class Numbered:
    """A transport that stands on a descriptor, as does its handle."""

    def __init__(self, number: int) -> None:
        self._number = number

    def getHandle(self) -> Numbered:
        return self

    def fileno(self) -> int:
        return self._number


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found = [1000]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (found[0], 20_000))
    return found


def test_the_reserve_is_what_clients_do_not_get_and_half_of_all_at_the_most(most: list[int]) -> None:
    limits = Limits(descriptors_spare=400)
    assert [lacking(Numbered(number), limits) for number in (3, 599, 600, 799, 999)] == [0, 0, 1 / 400, 0.5, 1]
    most[0] = 100
    assert [lacking(Numbered(number), limits) for number in (49, 50, 99)] == [0, 1 / 50, 1]
    most[0] = resource.RLIM_INFINITY
    assert lacking(Numbered(10**6), limits) == 0
    assert lacking(object(), limits) == 0


def test_what_lies_under_tls_counts(most: list[int]) -> None:
    wrapper: Any = ProtocolWrapper.__new__(ProtocolWrapper)
    wrapper.transport = Numbered(999)
    assert lacking(wrapper, Limits()) == 1


class Crowd:
    """Connections to one port, of which new ones find so much of the reserve taken."""

    def __init__(self, lane: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.port = Port(lane)
        self.taken = 0.0
        monkeypatch.setattr(site_module, "lacking", lambda transport, limits: self.taken)
        self.wires = [self.port.wire]
        self.protocols = [self.port.protocol]

    def connect(self) -> None:
        self.port.connect()
        self.wires.append(self.port.wire)
        self.protocols.append(self.port.protocol)

    def closed(self) -> list[bool]:
        return [wire.closed for wire in self.wires]


@BOTH
def test_the_idlest_go_first_and_who_was_answered_just_now_or_waits_stays(
    lane: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(lane, monkeypatch)
    crowd.connect()
    crowd.connect()
    crowd.port.clock.advance(1)
    crowd.protocols[0].dataReceived(get(b"/slow"))  # was the idlest
    crowd.port.shelf.waiting = []
    crowd.protocols[1].dataReceived(kv_put(b"a", b"v"))  # is not answered yet
    crowd.port.clock.advance(1)
    crowd.taken = 0.1
    crowd.connect()
    assert crowd.closed() == [False, False, True, False]
    crowd.connect()
    assert crowd.closed() == [True, False, True, False, False]


@BOTH
def test_where_all_are_busy_newcomers_are_let_in_while_half_of_the_reserve_is_left(
    lane: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(lane, monkeypatch)
    crowd.port.clock.advance(IDLE_S_MIN / 2)
    crowd.taken = 0.5
    crowd.connect()
    assert crowd.closed() == [False, False]
    crowd.taken = 0.6
    crowd.connect()
    assert crowd.closed() == [False, False, True]


@BOTH
@pytest.mark.parametrize("begun", [b"GET /GET?Key=a HTTP/1.1\r\nHo", kv_put(b"a", b"value")[:-1], b"GET /slow HT"])
def test_where_nobody_is_idle_those_go_whose_requests_never_end_and_nothing_is_done_for_them(
    lane: bool, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(lane, monkeypatch)
    crowd.connect()
    crowd.port.shelf.waiting = []
    crowd.protocols[0].dataReceived(kv_put(b"busy", b"v"))
    crowd.protocols[1].dataReceived(begun)
    crowd.port.clock.advance(BEGUN_S_MIN / 2)
    crowd.taken = 0.6
    crowd.connect()
    assert crowd.closed() == [False, False, True]  # it may yet come

    crowd.port.clock.advance(BEGUN_S_MIN)
    crowd.connect()
    assert crowd.closed() == [False, True, True, False]
    crowd.protocols[1].dataReceived(b"e\r\n\r\n")
    assert crowd.port.shelf.asked == [b"put busy"]


def test_new_redis_clients_are_refused_and_those_that_are_there_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    monkeypatch.setattr("twisted_kv.resp.door.lacking", lambda transport, limits: 0.1)
    late = scene.connect()
    assert late.value() == b"-ERR max number of clients reached\r\n"
    assert late.disconnecting
    scene.send("PING")
    assert scene.said() == b"+PONG\r\n"
    scene.end()
