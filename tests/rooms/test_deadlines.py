"""Who waits is told at his time, once, unless he is taken back."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from tests.strict_clock import StrictClock
from twisted_kv.deadlines import BUCKETS_PER_S, Deadlines

WIDTH_S = 1 / BUCKETS_PER_S


class Waiter:
    """Writes down when it was told, and then does something."""

    def __init__(self, clock: Clock, then: Callable[[], object] = lambda: None) -> None:
        self._clock = clock
        self._then = then
        self.told_s: list[float] = []

    def tell(self) -> None:
        self.told_s.append(self._clock.seconds())
        self._then()


@pytest.fixture
def clock() -> Clock:
    return StrictClock()


def run(clock: Clock, seconds: float) -> None:
    """Let time pass, timer by timer."""
    until_s = clock.seconds() + seconds
    while (calls := clock.getDelayedCalls()) and min(call.getTime() for call in calls) <= until_s:
        clock.advance(max(0.0, min(call.getTime() for call in calls) - clock.seconds()))
    clock.advance(max(0.0, until_s - clock.seconds()))


def test_nobody_is_told_too_early_or_more_than_a_buckets_width_too_late(clock: Clock) -> None:
    deadlines, rng = Deadlines(clock), random.Random(1)
    waiters = {Waiter(clock): rng.uniform(0, 3) for _ in range(300)}
    for waiter, at_s in waiters.items():
        deadlines.wait(waiter, at_s)
    run(clock, 4)
    for waiter, at_s in waiters.items():
        (told_s,) = waiter.told_s
        assert at_s <= told_s <= at_s + 1.001 * WIDTH_S


def test_who_is_taken_back_is_not_told(clock: Clock) -> None:
    deadlines = Deadlines(clock)
    stays, goes = Waiter(clock), Waiter(clock)
    deadlines.wait(stays, 1.0)
    deadlines.take_back(goes, deadlines.wait(goes, 1.0))
    run(clock, 2)
    assert (len(stays.told_s), goes.told_s) == (1, [])


def test_taking_back_who_was_told_already_does_nothing(clock: Clock) -> None:
    deadlines, waiter = Deadlines(clock), Waiter(clock)
    bucket = deadlines.wait(waiter, 0.5)
    run(clock, 1)
    deadlines.take_back(waiter, bucket)
    assert len(waiter.told_s) == 1


def test_one_who_is_told_may_take_another_one_back_whose_time_has_come_too(clock: Clock) -> None:
    deadlines = Deadlines(clock)
    second = Waiter(clock)
    first = Waiter(clock, lambda: deadlines.take_back(second, bucket))
    deadlines.wait(first, 1.0)
    bucket = deadlines.wait(second, 1.0)
    run(clock, 2)
    assert (len(first.told_s), second.told_s) == (1, [])


def test_one_who_is_told_may_wait_again(clock: Clock) -> None:
    deadlines = Deadlines(clock)
    patient = Waiter(clock, lambda: deadlines.wait(patient, clock.seconds() + 0.1) if clock.seconds() < 1 else None)
    deadlines.wait(patient, 0.1)
    run(clock, 3)
    assert 9 <= len(patient.told_s) <= 10
    assert clock.getDelayedCalls() == []


def test_a_time_that_has_come_is_told_at_the_next_chance(clock: Clock) -> None:
    deadlines, waiter = Deadlines(clock), Waiter(clock)
    deadlines.wait(waiter, clock.seconds())
    assert waiter.told_s == [], "never from inside of the call"
    run(clock, 2 * WIDTH_S)
    assert len(waiter.told_s) == 1


def test_an_error_of_one_is_logged_and_the_others_are_told(clock: Clock, no_logged_failure: list[object]) -> None:
    def fail() -> None:
        raise RuntimeError("this one has a bug")

    deadlines = Deadlines(clock)
    others = [Waiter(clock), Waiter(clock)]
    for waiter in (others[0], Waiter(clock, fail), others[1]):
        deadlines.wait(waiter, 1.0)
    run(clock, 2)
    assert [len(other.told_s) for other in others] == [1, 1]
    assert len(no_logged_failure) == 1
    no_logged_failure.clear()


def test_many_who_come_and_go_cost_no_timers(clock: Clock) -> None:
    deadlines = Deadlines(clock)
    for _ in range(10_000):
        waiter = Waiter(clock)
        deadlines.take_back(waiter, deadlines.wait(waiter, clock.seconds() + 5.0))
        clock.advance(0.0001)
    assert len(clock.getDelayedCalls()) == 1
    run(clock, 6)
    assert clock.getDelayedCalls() == [], "nobody waits, so no timer is left"
