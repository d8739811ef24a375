"""Rounds that clients' changes share: who waits for which, and what they hear when their time is up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.rooms.test_coordinator import K, Scene
from twisted_kv.conditional import Decide, Draft
from twisted_kv.errors import DeadlinePassed

GRACE_S = 0.05


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.run(60)
    assert scene.clock.getDelayedCalls() == []
    assert scene.coordinator.under_way == 0


class Heard:
    """What a client heard in the end, and when."""

    def __init__(self, scene: Scene, waiting: Deferred[Any]) -> None:
        self.result: Any = None
        self.at_s: float | None = None

        def ended(result: Any) -> None:
            self.result, self.at_s = result, scene.clock.seconds()

        waiting.addBoth(ended)

    @property
    def error(self) -> Any:
        assert isinstance(self.result, Failure), self.result
        return self.result.value


def puts(value: bytes) -> Decide:
    return lambda held: Draft(value)


def change(scene: Scene, value: bytes, timeout_s: float | None = None) -> Heard:
    return Heard(scene, scene.coordinator.change(K, puts(value), timeout_s))


def be(scene: Scene, manner: str | None) -> None:
    """Let all three owners behave in a manner, or as they should."""
    scene.street.manner = dict.fromkeys("abc", manner) if manner else {}


@pytest.mark.parametrize("late_s", [0.0, 0.001, 0.02, 0.049])
def test_a_round_begins_although_the_deadline_of_those_who_wait_has_just_passed(scene: Scene, late_s: float) -> None:
    scene.adopt(2, open_=False)
    first = change(scene, b"1", timeout_s=1.0)
    second = change(scene, b"2", timeout_s=1.0 - late_s)
    scene.run(2)
    assert isinstance(first.result, Failure), "the client whose round has ended hears of it"
    assert isinstance(second.result, Failure)
    assert second.error.maybe_applied is False
    scene.adopt(3)
    third = change(scene, b"3")
    scene.run(1)
    assert third.result.record.value == b"3", "the key is not stuck"


def test_a_client_who_is_out_of_time_when_its_round_begins_changes_nothing(scene: Scene) -> None:
    scene.adopt(2, open_=False)
    change(scene, b"1", timeout_s=1.0)
    second = change(scene, b"2", timeout_s=0.97)
    scene.clock.advance(1.0)
    scene.adopt(3)
    scene.run(2)
    assert isinstance(second.error, DeadlinePassed)
    assert scene.street.holders(b"2") == set()
