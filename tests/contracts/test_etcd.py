"""What is etcd's alone among the state stores, on an etcd in memory."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.contracts.fake_etcd import FakeEtcd
from tests.contracts.test_stores import FIRST, found, grown, result, run
from twisted_kv.errors import StateUnusable
from twisted_kv.limits import Limits
from twisted_kv.membership import State
from twisted_kv.state.etcd import LEASE_S, LOOK_S, EtcdStore


class Scene:
    """Two proxies' stores in one etcd."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.etcd = FakeEtcd(self.clock)
        self.names = count()
        self.one, self.other = self.open(), self.open()

    def open(self, prefix: str = "/kv") -> EtcdStore:
        return EtcdStore(self.clock, self.etcd, prefix, f"proxy {next(self.names)}", Limits())


@pytest.fixture
def scene() -> Scene:
    return Scene()


def unusable(fired: Deferred[Any]) -> str:
    with pytest.raises(StateUnusable) as caught:
        result(fired)
    return caught.value.detail


def test_clusters_of_two_prefixes_know_nothing_of_each_other(scene: Scene) -> None:
    result(scene.one.update(found))
    stranger = scene.open("/kv/other")
    assert result(stranger.read()) is None
    assert result(scene.one.lead()) is True
    assert result(stranger.lead()) is True
    scene.one.resign()
    stranger.resign()


def test_an_update_whose_answer_is_lost_is_known_to_have_been_done(scene: Scene) -> None:
    result(scene.one.update(found))
    scene.etcd.loses_answers = True
    assert result(scene.one.update(grown)).epoch == 2
    scene.etcd.loses_answers = False
    assert result(scene.other.read()).epoch == 2


def test_an_update_that_was_not_done_says_so(scene: Scene) -> None:
    result(scene.one.update(found))
    scene.etcd.gone = True
    assert "etcd" in unusable(scene.one.update(grown))
    assert "etcd" in unusable(scene.one.read())
    assert "etcd" in unusable(scene.one.lead())
    scene.etcd.gone = False
    assert result(scene.one.read()) == FIRST


def test_a_step_is_taken_again_on_what_came_between(scene: Scene) -> None:
    result(scene.one.update(found))
    came_between: list[State] = []

    def step(state: State | None) -> State:
        if not came_between:
            came_between.append(result(scene.other.update(grown)))
        return grown(state)

    assert result(scene.one.update(step)).epoch == 3


def test_two_who_take_the_same_step_do_not_both_believe_that_they_did_it(scene: Scene) -> None:
    """Both would drive a change in the same epoch, and the late orders of one be taken for the other's."""
    result(scene.one.update(found))
    taken: list[State] = []

    def step(state: State | None) -> State:
        if not taken:
            taken.append(result(scene.other.update(grown)))
            return grown(state)
        raise LookupError("somebody else has moved on")

    with pytest.raises(LookupError):
        result(scene.one.update(step))


def test_a_document_that_cannot_be_read_is_refused_and_left_as_it_is(scene: Scene) -> None:
    result(scene.one.update(found))
    row = scene.etcd._rows[scene.one._document]
    row.value = "eA=="
    assert "cannot be read" in unusable(scene.one.read())
    assert "cannot be read" in unusable(scene.one.update(grown))
    assert row.value == "eA=="


def test_a_watch_hears_at_once_by_its_stream(scene: Scene) -> None:
    result(scene.one.update(found))
    seen: list[int] = []
    stop = scene.other.watch(lambda state: seen.append(state.epoch))
    run(scene.clock, 0.1)
    result(scene.one.update(grown))
    assert seen == [1, 2]
    stop()
    assert scene.clock.getDelayedCalls() == []


def test_a_stream_that_ends_begins_again_and_misses_nothing(scene: Scene) -> None:
    result(scene.one.update(found))
    seen: list[int] = []
    stop = scene.other.watch(lambda state: seen.append(state.epoch))
    run(scene.clock, 0.1)
    scene.etcd.cut_streams()
    result(scene.one.update(grown))
    assert seen == [1]
    run(scene.clock, 1)
    assert seen == [1, 2]
    result(scene.one.update(grown))
    assert seen == [1, 2, 3]
    stop()


def test_a_stream_that_has_fallen_silent_is_made_up_for_by_looking(scene: Scene) -> None:
    result(scene.one.update(found))
    seen: list[int] = []
    stop = scene.other.watch(lambda state: seen.append(state.epoch))
    run(scene.clock, 0.1)
    scene.etcd.cut_streams(silently=True)
    result(scene.one.update(grown))
    run(scene.clock, LOOK_S)
    assert seen == [1, 2]
    stop()


@pytest.mark.parametrize("last_line", [{"result": {"canceled": True}}, {"error": {"message": "compacted"}}])
def test_a_watch_that_etcd_ends_begins_again(scene: Scene, last_line: dict[str, Any]) -> None:
    result(scene.one.update(found))
    seen: list[int] = []
    stop = scene.other.watch(lambda state: seen.append(state.epoch))
    run(scene.clock, 0.1)
    scene.etcd._streams[0].line(last_line)
    assert scene.etcd._streams == []
    result(scene.one.update(grown))
    run(scene.clock, 1)
    assert seen == [1, 2]
    assert len(scene.etcd._streams) == 1
    stop()
    assert scene.etcd._streams == []


def test_a_watch_outlives_an_etcd_that_is_gone_for_a_while(scene: Scene) -> None:
    result(scene.one.update(found))
    seen: list[int] = []
    stop = scene.other.watch(lambda state: seen.append(state.epoch))
    run(scene.clock, 0.1)
    scene.etcd.gone = True
    scene.etcd.cut_streams()
    run(scene.clock, 3600)
    scene.etcd.gone = False
    result(scene.one.update(grown))
    run(scene.clock, LOOK_S + 0.1)
    assert seen == [1, 2]
    result(scene.one.update(grown))
    assert seen == [1, 2, 3]
    stop()


def test_a_driver_keeps_its_lease_for_as_long_as_it_lives(scene: Scene) -> None:
    assert result(scene.one.lead()) is True
    run(scene.clock, 10 * LEASE_S)
    assert result(scene.other.lead()) is False
    assert result(scene.one.lead()) is True
    scene.one.resign()
    assert result(scene.other.lead()) is True
    scene.other.resign()
    assert scene.clock.getDelayedCalls() == []


def test_another_one_drives_when_the_lease_of_a_dead_driver_has_ended(scene: Scene) -> None:
    assert result(scene.one.lead()) is True
    lease = scene.one._lease
    assert lease is not None
    lease._call.cancel()  # as if its process had ended
    run(scene.clock, LEASE_S - 0.5)
    assert result(scene.other.lead()) is False
    run(scene.clock, 1)
    assert result(scene.other.lead()) is True
    assert not lease.holds
    assert result(scene.one.lead()) is False, "it sees that it was given up"
    scene.other.resign()


def test_a_driver_that_cannot_reach_etcd_stops_to_believe_that_it_drives(scene: Scene) -> None:
    assert result(scene.one.lead()) is True
    scene.etcd.gone = True
    run(scene.clock, LEASE_S + 0.1)
    assert "etcd" in unusable(scene.one.lead())
    scene.etcd.gone = False
    assert result(scene.other.lead()) is True
    scene.other.resign()
    scene.one.resign()


def test_a_lead_whose_answer_is_lost_gives_its_lease_back(scene: Scene) -> None:
    scene.etcd.loses_answers = True
    assert "etcd" in unusable(scene.one.lead())
    scene.etcd.loses_answers = False
    assert result(scene.other.lead()) is True
    scene.other.resign()


def test_states_of_several_epochs_are_never_shown_backwards(scene: Scene) -> None:
    result(scene.one.update(found))
    seen: list[int] = []
    stop = scene.other.watch(lambda state: seen.append(state.epoch))
    run(scene.clock, 0.1)
    for _ in range(30):
        result(scene.one.update(grown))
        run(scene.clock, 0.3)
        scene.etcd.cut_streams(silently=True)
    run(scene.clock, LOOK_S)
    stop()
    assert seen == sorted(set(seen))
    assert seen[-1] == 31


def test_a_failure_in_a_step_changes_nothing(scene: Scene) -> None:
    result(scene.one.update(found))
    results: list[Any] = []
    scene.one.update(lambda state: msgspec.structs.replace(state, epoch=1 // 0)).addBoth(results.append)
    assert isinstance(results[0], Failure)
    assert results[0].check(ZeroDivisionError)
    assert result(scene.one.read()) == FIRST
