"""Rounds that clients share: what they hear when their time is up, and reads that keep to their own deadline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.rooms.street import SILENT, K, Scene
from twisted_kv.conditional import Decide, Draft
from twisted_kv.errors import DeadlinePassed, Unreached
from twisted_kv.quorum import Level
from twisted_kv.register import Cell
from twisted_kv.versions import HybridClock, Record, Version, decode_record

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


# Reads that share a round, because a value has expired or because others' changes wait.


def hold(scene: Scene, nodes: str, value: bytes, ms: int = 1, expires_ms: int = 0) -> None:
    ballot = HybridClock(lambda: ms, 1).tick()
    record = Record(Version(ballot), value, expires_ms=expires_ms)
    for node in nodes:
        scene.street.cells[node, K] = Cell(ballot, ballot, record.encode())


def read(scene: Scene, timeout_s: float | None = None) -> Heard:
    return Heard(scene, scene.coordinator.get(K, Level.STRONG, timeout_s))


def test_an_expired_value_is_absent_when_a_majority_holds_its_tombstone(scene: Scene) -> None:
    hold(scene, "abc", b"old", expires_ms=scene.now_ms() - 1)
    reader = read(scene)
    scene.run(1)
    assert decode_record(reader.result.record).value is None
    assert len(scene.street.holders(None)) >= 2


def test_an_expired_value_that_could_not_be_made_absent_for_everybody_is_not_called_absent(scene: Scene) -> None:
    hold(scene, "abc", b"old", expires_ms=scene.now_ms() - 1)
    scene.street.rival = True
    reader = read(scene, timeout_s=1.0)
    scene.run(5)
    # Another proxy's clock may be behind: it would read the value again.
    assert len(scene.street.holders(None)) < 2
    assert isinstance(reader.error, Unreached)
    assert reader.error.maybe_applied is None, "a read changes nothing"


@pytest.mark.parametrize("trouble", ["rival", "silent"])
@pytest.mark.parametrize("expired", [True, False])
def test_a_read_that_shares_a_round_keeps_to_its_own_deadline(scene: Scene, trouble: str, expired: bool) -> None:
    hold(scene, "abc", b"old", expires_ms=scene.now_ms() - 1 if expired else 0)
    scene.street.rival = True
    others = [change(scene, b"new", timeout_s=3.0) for _ in range(0 if expired else 2)]
    reader = read(scene, timeout_s=1.0)
    scene.run(0.0105)
    if trouble == "silent":
        be(scene, SILENT)
    scene.run(20)
    assert reader.at_s is not None
    assert reader.at_s <= 1.0 + GRACE_S
    if not expired and trouble == "rival":
        assert decode_record(reader.result.record).value == b"old", "what keeps changes out keeps no read out"
    assert all(other.at_s is not None for other in others)
