"""A daemon that stops: what was begun is answered, what comes later is not begun, and who waits idly is let go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock

from tests.contracts.test_lane import LIMITS, Port
from tests.rooms.test_redis_door import Scene
from tests.streams import get, kv_put
from twisted_kv.fasthttp.parting import part_with_all

BOTH = pytest.mark.parametrize("lane", [True, False], ids=["lane", "klein"])
SAID = b"connection: close\r\n"
LARGE = 45_000


@BOTH
def test_a_request_under_way_is_answered_as_the_last_one_and_what_comes_behind_it_is_not_begun(lane: bool) -> None:
    port = Port(lane)
    port.shelf.waiting = []
    port.send(kv_put(b"a", b"v") + kv_put(b"b", b"v"))
    port.site.part()
    port.site.part_with_idle()
    assert port.site.busy
    assert not port.wire.closed
    port.shelf.waiting[0]()
    assert SAID in port.wire.value().lower()
    assert port.wire.value().count(b"HTTP/1.1 204") == 1
    assert port.wire.closed
    port.send(kv_put(b"c", b"v"))
    assert port.shelf.asked == [b"put a"]
    assert not port.site.busy


@BOTH
@pytest.mark.parametrize("target", [b"/v1/kv/a", b"/slow"], ids=["data", "any call"])
def test_an_idle_connection_is_told_with_its_next_answer(lane: bool, target: bytes) -> None:
    port = Port(lane)
    assert SAID not in port.send(kv_put(b"a", b"v")).lower()
    port.site.part()
    assert not port.wire.closed
    assert SAID in port.send(get(target)).lower()
    assert port.wire.closed


@BOTH
@pytest.mark.parametrize("begun", [b"", kv_put(b"a", b"v")[:9], kv_put(b"a", b"value")[:-2]], ids=["", "head", "body"])
def test_who_asks_nothing_whole_is_let_go_and_nothing_is_done_for_him_any_more(lane: bool, begun: bytes) -> None:
    port = Port(lane)
    port.send(kv_put(b"first", b"v"))
    if begun:
        port.send(begun)
    port.site.part()
    assert not port.site.busy
    port.site.part_with_idle()
    assert port.wire.closed
    assert not port.wire.aborted
    answered = port.wire.value()
    port.send(kv_put(b"a", b"value")[len(begun) :])
    assert port.wire.value() == answered
    assert port.shelf.asked == [b"put first"]
    port.lose()
    assert port.clock.getDelayedCalls() == []


@BOTH
def test_an_answer_that_is_being_read_keeps_its_connection_until_it_was_read(lane: bool) -> None:
    port = Port(lane)
    port.send(kv_put(b"a", b"v" * LARGE))
    port.wire.reads = False
    port.send(*[get(b"/v1/kv/a")] * 3)
    port.site.part()
    port.site.part_with_idle()
    assert port.site.busy
    assert not port.wire.closed
    port.wire.reads = True
    port.wire.read_on()
    assert port.wire.closed
    assert port.wire.value().count(b"HTTP/1.1 20") == len(port.shelf.asked), "whatever was begun was answered"


def test_a_redis_client_has_the_replies_to_all_that_has_come_and_then_its_connection_ends() -> None:
    scene = Scene()
    scene.send("INCR a", "GET b", "PING")
    scene.door.part()
    assert scene.door.busy
    assert not scene.wire.disconnecting
    scene.send("INCR c")  # comes too late
    assert scene.answer() == ["change a", "get b"]
    assert scene.said() == b":1\r\n$-1\r\n+PONG\r\n"
    assert scene.wire.disconnecting
    assert scene.store.asked == []
    assert not scene.door.busy
    scene.end()


def test_an_idle_redis_client_is_let_go_at_once() -> None:
    scene = Scene()
    scene.send("PING")
    scene.door.part()
    assert scene.said() == b"+PONG\r\n"
    assert scene.wire.disconnecting
    scene.end()


class Door:
    """Notes when it is told what."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.crowd = 0
        self.busy = False
        self.told: dict[str, float] = {}

    def part(self) -> None:
        self.told["part"] = self._clock.seconds()

    def part_with_idle(self) -> None:
        self.told["idle"] = self._clock.seconds()


def ended_s(clock: Clock, door: Door, at: dict[float, Callable[[], None]], under_way: Callable[[], int]) -> float:
    """Give when all was over."""
    done: list[float] = []
    parting = ensureDeferred(part_with_all(clock, [door], under_way, 0.5, 5.0))
    parting.addCallback(lambda _: done.append(clock.seconds()))
    for second, deed in at.items():
        clock.callLater(second, deed)
    while not done:
        clock.advance(0.01)
    return done[0]


def test_where_nobody_is_connected_the_end_comes_at_once() -> None:
    clock = Clock()
    assert ended_s(clock, door := Door(clock), {}, lambda: 0) == 0
    assert door.told == {"part": 0, "idle": 0}


def test_idle_connections_have_a_moment_to_be_told() -> None:
    clock = Clock()
    door = Door(clock)
    door.crowd = 1
    assert ended_s(clock, door, {}, lambda: 0) == pytest.approx(0.5, abs=0.05)
    assert door.told["idle"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("by", ["connection", "operation"])
def test_what_runs_is_waited_for_and_not_for_ever(by: str) -> None:
    for until_s, over_s in ((2.0, 2.0), (60.0, 5.0)):
        clock = Clock()
        door = Door(clock)
        running = [1]
        door.busy = by == "connection"

        def under_way() -> int:
            return 0 if by == "connection" else len(running)  # noqa: B023

        def end() -> None:
            door.busy = False  # noqa: B023
            running.clear()  # noqa: B023

        assert ended_s(clock, door, {until_s: end}, under_way) == pytest.approx(over_s, abs=0.05)


def test_who_waits_for_the_end_of_a_port_does_not_wait_for_those_who_read_slowly_longer_than_that() -> None:
    port = Port(lane=True)
    port.send(kv_put(b"a", b"v" * LARGE))
    port.wire.reads = False
    port.send(*[get(b"/v1/kv/a")] * 3)
    over: list[float] = []
    parting = ensureDeferred(part_with_all(port.clock, [port.site], lambda: 0, 0.5, 5.0))
    parting.addCallback(lambda _: over.append(port.clock.seconds()))
    while not over:
        port.clock.advance(0.01)
    assert over[0] == pytest.approx(5.0, abs=0.05)
    assert LIMITS.stalled_s_max > 5.0
    port.lose()
