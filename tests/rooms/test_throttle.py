"""The throttle: below its rate, and slower while clients wait longer than they used to."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.strict_clock import StrictClock
from twisted_kv.throttle import LEAST_WAIT_S, PATIENCE, RECOVERY, REST_S_MAX, SLOWEST, Throttle

RATE = 1_000.0


class Flow:
    """A flow of pieces at a rate of 1000 bytes a second, beside clients who wait as long as the test says."""

    def __init__(self, usual_s: float = 0.0) -> None:
        self.clock = StrictClock()
        self.wait_s = usual_s
        self.throttle = Throttle(self.clock, RATE, lambda: self.wait_s)

    def pause(self, moved: int, worked_s: float = 0.0) -> float:
        """Move a piece that takes a while; say how long the pause after it is."""
        self.clock.advance(worked_s)
        paused: Deferred[None] = self.throttle.pause(moved, worked_s)
        (call,) = self.clock.getDelayedCalls()
        pause_s = call.getTime() - self.clock.seconds()
        self.clock.advance(pause_s)
        assert paused.called
        return pause_s


def test_a_flow_keeps_to_its_rate() -> None:
    flow = Flow()
    for _ in range(20):
        flow.pause(100)
    assert flow.clock.seconds() == pytest.approx(2.0)


def test_the_time_that_a_piece_took_counts_for_its_rate() -> None:
    flow = Flow()
    assert flow.pause(100, worked_s=0.04) == pytest.approx(0.06)
    assert flow.pause(100, worked_s=0.1) == pytest.approx(0.0)


def test_a_piece_that_took_longer_than_its_rate_asks_is_followed_at_once_and_no_credit_is_saved() -> None:
    flow = Flow()
    assert flow.pause(100, worked_s=60.0) == 0.0
    assert flow.pause(1_000) == pytest.approx(1.0)


def test_a_piece_of_nothing_takes_no_time_of_anybody() -> None:
    flow = Flow()
    assert flow.pause(0) == 0.0


def test_a_flow_halves_again_and_again_while_clients_wait_and_never_stops() -> None:
    flow = Flow(usual_s=0.1)
    flow.wait_s = 0.1 * PATIENCE + 0.01
    shares = []
    for _ in range(8):
        pause_s = flow.pause(0, worked_s=1.0)
        shares.append(flow.throttle.share)
        assert pause_s == pytest.approx(1 / flow.throttle.share - 1)
    assert shares == [max(SLOWEST, 1 / 2**halved) for halved in range(1, 9)]
    assert shares[-1] == SLOWEST


def test_a_flow_comes_back_when_clients_wait_no_longer() -> None:
    flow = Flow(usual_s=0.1)
    flow.wait_s = 1.0
    for _ in range(10):
        flow.pause(0, worked_s=0.1)
    flow.wait_s = 0.1
    flow.pause(0)
    assert flow.throttle.share == pytest.approx(SLOWEST * RECOVERY)
    for _ in range(40):
        flow.pause(0)
    assert flow.throttle.share == 1.0
    assert flow.pause(0, worked_s=1.0) == 0.0


@pytest.mark.parametrize(("usual_s", "wait_s", "slows"), [(0.1, 0.2, False), (0.1, 0.201, True), (0.0, 0.0, False)])
def test_only_a_wait_that_is_longer_than_before_the_change_slows_it(usual_s: float, wait_s: float, slows: bool) -> None:
    flow = Flow(usual_s)
    flow.wait_s = wait_s
    flow.pause(0, worked_s=0.1)
    assert (flow.throttle.share < 1.0) == slows


def test_waits_that_nobody_notices_slow_nothing() -> None:
    flow = Flow(usual_s=0.0001)
    flow.wait_s = LEAST_WAIT_S
    assert flow.pause(0, worked_s=1.0) == 0.0
    flow.wait_s = LEAST_WAIT_S * 1.01
    assert flow.pause(0, worked_s=1.0) == pytest.approx(1.0)


def test_who_has_waited_long_himself_rests_no_longer_than_some_seconds() -> None:
    flow = Flow()
    flow.wait_s = 1.0
    assert [flow.pause(0, worked_s=30.0) for _ in range(3)] == [pytest.approx(REST_S_MAX)] * 3
