"""Rounds: one after another, whatever happens in one of them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from twisted_kv.periodic import Rounds

INTERVAL_S = 10.0


class Scene:
    """Rounds whose work the test lets end, fail or hang."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = Clock()
        self.begun: list[float] = []
        self.under_way = 0
        self.most_under_way = 0
        self.gate: Deferred[None] | None = None
        self.error: Exception | None = None
        self.kicks_itself = False
        self.rounds = Rounds(self.clock, Random(seed), INTERVAL_S, self._work, "chores")

    async def _work(self) -> None:
        self.begun.append(self.clock.seconds())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.kicks_itself:
                self.kicks_itself = False
                self.rounds.kick()
            await (self.gate if self.gate is not None else succeed(None))
            if self.error is not None:
                raise self.error
        finally:
            self.under_way -= 1

    def close_gate(self) -> Deferred[None]:
        self.gate = Deferred()
        return self.gate

    def run(self, seconds: float) -> None:
        """Advance from timer to timer: ``Clock.advance`` jumps first and runs the timers then."""
        until = self.clock.seconds() + seconds
        while (calls := self.clock.getDelayedCalls()) and min(call.getTime() for call in calls) <= until:
            self.clock.advance(max(0.0, min(call.getTime() for call in calls) - self.clock.seconds()))
        self.clock.advance(until - self.clock.seconds())


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.rounds.stop()
    assert made.clock.getDelayedCalls() == []
    assert made.under_way == 0


def test_the_first_round_begins_within_an_interval_and_the_next_ones_an_interval_apart(scene: Scene) -> None:
    scene.rounds.start()
    scene.run(10 * INTERVAL_S)
    assert 0 <= scene.begun[0] <= INTERVAL_S
    pauses = [later - earlier for earlier, later in zip(scene.begun, scene.begun[1:], strict=False)]
    assert len(pauses) >= 7
    assert all(0.8 * INTERVAL_S <= pause <= 1.2 * INTERVAL_S for pause in pauses)
    assert max(pauses) - min(pauses) > 0.05 * INTERVAL_S, "rounds of many processes must drift apart"


def test_the_pauses_repeat_by_the_seed() -> None:
    def begun(seed: int) -> list[float]:
        scene = Scene(seed)
        scene.rounds.start()
        scene.run(5 * INTERVAL_S)
        scene.rounds.stop()
        assert scene.clock.getDelayedCalls() == []
        return scene.begun

    assert begun(7) == begun(7)
    assert begun(7) != begun(8)


def test_a_round_that_fails_is_logged_and_the_next_one_comes(
    scene: Scene, no_logged_failure: list[dict[str, Any]]
) -> None:
    scene.error = ZeroDivisionError("a bad round")
    scene.rounds.start()
    scene.run(2.5 * INTERVAL_S)
    count = len(scene.begun)
    assert count >= 2
    assert [event["log_failure"].type for event in no_logged_failure] == [ZeroDivisionError] * count
    assert {event["name"] for event in no_logged_failure} == {"chores"}
    no_logged_failure.clear()
    scene.error = None
    scene.run(2 * INTERVAL_S)
    assert len(scene.begun) > count


def test_no_round_begins_while_one_is_under_way(scene: Scene) -> None:
    gate = scene.close_gate()
    scene.rounds.start()
    scene.run(10 * INTERVAL_S)
    for _ in range(3):
        scene.rounds.kick()
        scene.run(INTERVAL_S)
    assert len(scene.begun) == 1
    scene.gate = None
    gate.callback(None)
    scene.run(1)
    assert (len(scene.begun), scene.most_under_way) == (2, 1)


def test_a_kick_begins_a_round_at_once_and_the_rhythm_goes_on_from_there(scene: Scene) -> None:
    scene.rounds.start()
    scene.rounds.kick()
    scene.rounds.kick()
    scene.run(0)
    assert scene.begun == [0.0]
    scene.run(0.79 * INTERVAL_S)
    assert scene.begun == [0.0]
    scene.run(0.42 * INTERVAL_S)
    assert len(scene.begun) == 2


def test_a_kick_during_a_round_begins_another_one_right_after_it(scene: Scene) -> None:
    gate = scene.close_gate()
    scene.rounds.start()
    scene.rounds.kick()
    scene.run(1)
    scene.rounds.kick()
    scene.run(1)
    assert len(scene.begun) == 1
    scene.gate = None
    gate.callback(None)
    scene.run(0)
    assert scene.begun == [0.0, 2.0]
    scene.run(0.79 * INTERVAL_S)
    assert len(scene.begun) == 2, "one kick is one round"


def test_a_round_that_kicks_before_it_first_waits_does_not_overlap_with_itself() -> None:
    scene = Scene()
    gate = scene.close_gate()
    scene.kicks_itself = True
    scene.rounds.start()
    scene.rounds.kick()
    scene.run(1)
    assert scene.most_under_way == 1
    scene.gate = None
    gate.callback(None)
    scene.run(0)
    assert (scene.begun, scene.most_under_way) == ([0.0, 1.0], 1)
    scene.rounds.stop()
    assert scene.clock.getDelayedCalls() == []


def test_stop_between_rounds_is_immediate_and_no_round_follows(scene: Scene) -> None:
    scene.rounds.start()
    scene.run(INTERVAL_S)
    count = len(scene.begun)
    assert scene.rounds.stop().called
    scene.rounds.kick()
    scene.run(5 * INTERVAL_S)
    assert len(scene.begun) == count


def test_stop_cancels_the_round_under_way_and_says_nothing_about_it(scene: Scene) -> None:
    scene.close_gate()
    scene.rounds.start()
    scene.rounds.kick()
    scene.run(0)
    assert scene.under_way == 1
    assert scene.rounds.stop().called
    assert scene.under_way == 0
    scene.run(5 * INTERVAL_S)
    assert len(scene.begun) == 1


def test_stop_waits_for_a_round_that_cannot_be_cancelled(scene: Scene) -> None:
    cancelled = []
    last_words: Deferred[None] = Deferred()

    async def stubborn() -> None:
        try:
            await Deferred(lambda _: cancelled.append(True))
        finally:
            await last_words

    rounds = Rounds(scene.clock, Random(1), INTERVAL_S, stubborn, "stubborn")
    rounds.start()
    rounds.kick()
    scene.run(0)
    stopped = rounds.stop()
    assert cancelled == [True]
    assert not stopped.called
    last_words.callback(None)
    assert stopped.called


def test_kicks_before_the_start_do_nothing(scene: Scene) -> None:
    scene.rounds.kick()
    scene.run(INTERVAL_S)
    assert scene.begun == []


def test_rounds_that_were_stopped_can_start_again(scene: Scene) -> None:
    scene.rounds.start()
    scene.rounds.stop()
    scene.rounds.start()
    scene.run(INTERVAL_S)
    assert len(scene.begun) >= 1
