"""The coordinator: operations under a deadline, under limits, and over changes of the epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from tests.rooms.street import HOP_S, OUTDATED, REFUSED, SILENT, K, Scene, on_time
from twisted_kv.errors import (
    ChangeUnderWay,
    DeadlinePassed,
    NoNodes,
    Overloaded,
    Unreached,
)
from twisted_kv.liveness import HEDGE_SHARE, HEDGES_SAVED_MAX, SLACK
from twisted_kv.names import Key, NodeId
from twisted_kv.operation import Done
from twisted_kv.quorum import Level
from twisted_kv.register import ACCEPT, FETCH, HINT, PREPARE, READ

# The common way.


def test_a_value_that_was_put_is_read(scene: Scene) -> None:
    assert scene.get().result is None
    scene.run(1)
    written = scene.put(b"v")
    scene.run(1)
    assert (written.result.acks >= 2, written.result.owners) == (True, 3)
    read = scene.get()
    scene.run(1)
    assert read.value == b"v"
    assert scene.street.holders(b"v") == {"a", "b", "c"}


def test_an_absent_key_is_an_answer_with_an_empty_record(scene: Scene) -> None:
    outcomes = [scene.get(level=level) for level in Level]
    scene.run(1)
    assert [outcome.result.record for outcome in outcomes] == [b""] * 3


def test_operations_are_counted_by_kind_level_and_outcome(scene: Scene) -> None:
    scene.put()
    scene.put(level=Level.ALL)
    scene.get()
    scene.get(level=Level.ONE)
    scene.run(1)
    scene.street.manner = dict.fromkeys("abc", REFUSED)
    scene.put()
    scene.get(level=Level.ONE)
    scene.run(1)
    assert scene.counted("write", "ok") == scene.counted("write", "ok", "all") == scene.counted("read", "ok") == 1
    assert scene.counted("read", "ok", "one") == 1
    assert scene.counted("write", "quorum-unreached") == 1
    assert scene.counted("read", "quorum-unreached", "one") == 1


# Deadlines.


def test_a_deadline_that_passes_names_the_silent_nodes(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(batch_timeout_s=60.0)
    first, *silent = scene.owners
    scene.street.manner = dict.fromkeys(silent, SILENT)
    write, read = scene.put(), scene.get()
    scene.run(4.99)
    assert (write.at_s, read.at_s, scene.coordinator.under_way) == (None, None, 2)
    scene.run(0.02)
    for outcome in (write, read):
        assert outcome.at_s == on_time(5.0)
        assert isinstance(outcome.error, DeadlinePassed)
        assert dict(outcome.error.replicas) == dict.fromkeys(silent, "no answer before the deadline")
        assert (outcome.error.required, outcome.error.acks) == (2, 1)
    assert write.error.maybe_applied
    assert scene.street.holders(b"v") == {first}
    assert scene.counted("write", "deadline-passed") == scene.counted("read", "deadline-passed") == 1
    scene.run(60)


def test_silence_is_found_out_before_the_deadline(scene: Scene) -> None:
    scene.street.manner = dict.fromkeys(scene.owners[1:], SILENT)
    write = scene.put()
    scene.run(10)
    assert write.at_s == on_time(scene.limits.batch_timeout_s)
    assert dict(write.error.replicas) == dict.fromkeys(scene.owners[1:], "no answer")


# Clients that hang up.


@pytest.mark.parametrize("patience_s", [0.0, HOP_S / 2])
def test_a_client_that_hangs_up_does_not_stop_its_write(scene: Scene, patience_s: float) -> None:
    write = scene.put(b"stays")
    scene.run(patience_s)
    write.deferred.cancel()
    assert scene.coordinator.under_way == 1
    scene.run(1)
    assert scene.street.holders(b"stays") == {"a", "b", "c"}
    assert scene.coordinator.under_way == 0
    assert scene.counted("write", "ok") == 1


def test_a_client_that_hangs_up_on_a_failing_write_leaves_nothing_in_the_log(scene: Scene) -> None:
    scene.street.manner = dict.fromkeys("abc", REFUSED)
    write = scene.put()
    write.deferred.cancel()
    scene.run(1)
    assert scene.counted("write", "quorum-unreached") == 1


def test_a_write_goes_on_when_its_client_hangs_up_in_the_middle_of_a_contest(scene: Scene) -> None:
    scene.street.rival = True
    write = scene.put(b"mine")
    scene.run(HOP_S * 1.5)
    write.deferred.cancel()
    scene.street.rival = False
    scene.run(1)
    assert scene.street.holders(b"mine") == {"a", "b", "c"}


@pytest.mark.parametrize("closed", [False, True])
def test_a_client_may_hang_up_on_a_level_one_read(scene: Scene, closed: bool) -> None:
    if closed:
        scene.adopt(2, open_=False)
    read = scene.get(level=Level.ONE)
    read.deferred.cancel()
    scene.run(0.5)
    scene.adopt(3)
    scene.run(5)
    assert read.at_s is not None


# Limits.


def test_the_client_beyond_operations_max_is_turned_away_and_room_comes_back(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(operations_max=2)
    admitted = [scene.put(), scene.get()]
    turned_away = [scene.put(), scene.get()]
    for outcome in turned_away:
        assert isinstance(outcome.error, Overloaded)
        assert "2 operations" in outcome.error.detail
        assert outcome.error.hint
    scene.run(1)
    assert all(isinstance(outcome.result, Done) for outcome in admitted)
    later = scene.put()
    scene.run(1)
    assert isinstance(later.result, Done)


def test_the_value_beyond_operation_bytes_max_is_turned_away_and_room_comes_back(
    scene_of: Callable[..., Scene],
) -> None:
    scene = scene_of(operation_bytes_max=100)
    full = scene.put(bytes(60)), scene.put(bytes(40), Key(b"k2"))
    beyond = scene.put(b"1", Key(b"k3"))
    assert isinstance(beyond.error, Overloaded)
    small = scene.put(None, Key(b"k4")), scene.get()
    scene.run(1)
    assert all(isinstance(outcome.result, Done) for outcome in (*full, *small))
    later = scene.put(bytes(100))
    scene.run(1)
    assert isinstance(later.result, Done)


def test_operations_that_fail_give_their_room_back_too(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(operations_max=1, operation_bytes_max=10)
    scene.street.manner = dict.fromkeys("abc", REFUSED)
    for _ in range(2):
        failed = scene.put(bytes(10))
        scene.run(1)
        assert isinstance(failed.error, Unreached)
        assert not isinstance(failed.error, DeadlinePassed)


def test_level_one_reads_take_room_like_all_others(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(operations_max=1)
    admitted, turned_away = scene.get(level=Level.ONE), scene.get(level=Level.ONE)
    assert isinstance(turned_away.error, Overloaded)
    scene.run(1)
    assert isinstance(admitted.result, Done)
    assert scene.coordinator.under_way == 0


def test_without_a_member_there_is_nothing_to_ask(scene: Scene) -> None:
    scene.adopt(2, nodes=())
    for outcome in (scene.put(), scene.get(), scene.get(level=Level.ONE)):
        assert isinstance(outcome.error, NoNodes)
        assert "AddServer" in outcome.error.hint


# Which owners are asked.


def test_reads_are_spread_evenly_over_the_owners_and_neighbours_go_together(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"v")
    turns = []
    for _ in range(6):
        for number in range(16):
            scene.get(Key(b"k%d" % number))
        scene.run(1)
        turns.append(Counter(asked.node for asked in scene.street.take() if asked.op.verb == FETCH))
    fetched = sum(turns, Counter())
    assert set(fetched) == {"a", "b", "c"}
    assert max(fetched.values()) == min(fetched.values())
    assert all(len(turn) == 1 for turn in turns)


def test_a_read_asks_a_bare_majority_and_only_one_of_them_for_the_record(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"v")
    scene.get()
    scene.run(1)
    assert sorted(asked.op.verb for asked in scene.street.take()) == [READ, FETCH]


def test_a_slow_read_asks_the_owner_it_had_spared(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"v")
        scene.street.hop_s[node] = 3.0
    read = scene.get()
    scene.run(0)
    first = {asked.node for asked in scene.street.take()}
    assert len(first) == 2
    (spared,) = {"a", "b", "c"} - first
    scene.street.hop_s[spared] = HOP_S
    scene.run(scene.limits.slow_read_s - 0.001)
    assert scene.street.take() == []
    scene.run(0.002)
    (asked,) = scene.street.take()
    assert (asked.node, asked.op.verb) == (spared, FETCH)
    assert asked.at_s == on_time(scene.limits.slow_read_s)
    scene.run(5)
    assert read.value == b"v"


def warmed(scene: Scene, hop_s: float) -> None:
    """Let reads find out how fast the nodes are."""
    for node in "abc":
        scene.street.hold(node, b"v")
        scene.street.hop_s[node] = hop_s
    for _ in range(4 * 16):
        scene.get()
        scene.run(hop_s)
    assert scene.coordinator.under_way == 0
    scene.run(scene.limits.standing_s)
    scene.street.take()


def hedged(scene: Scene) -> float:
    return scene.metrics.registry.get_sample_value("kv_hedged_reads_total") or 0.0


def late(scene: Scene, hop_s: float) -> NodeId:
    """Make one of the nodes slow that the next read asks."""
    _, next_one, _ = scene.coordinator.order(K, "read").nodes
    scene.street.hop_s[next_one] = hop_s
    return next_one


@pytest.mark.parametrize("usual_s", [0.005, 0.02])
def test_a_read_asks_another_owner_after_the_time_in_which_nearly_all_answers_come(
    scene: Scene, usual_s: float
) -> None:
    warmed(scene, usual_s)
    assert hedged(scene) == 0
    late(scene, 3.0)
    began, read = scene.clock.seconds(), scene.get()
    scene.run(1)
    assert read.value == b"v"
    assert read.at_s == on_time(began + usual_s * SLACK + usual_s)
    assert hedged(scene) == 1
    assert [asked.at_s for asked in scene.street.take()] == on_time([began, began, began + usual_s * SLACK])


def test_no_read_asks_twice_sooner_than_hedge_s_min(scene: Scene) -> None:
    warmed(scene, 0.0001)
    late(scene, 3.0)
    began, read = scene.clock.seconds(), scene.get()
    scene.run(1)
    assert read.at_s == on_time(began + scene.limits.hedge_s_min + 0.0001)


def test_hedges_stop_when_none_is_left_until_reads_have_earned_more(scene: Scene) -> None:
    warmed(scene, 0.01)
    # All become late at once: no node is worse than the others, and a hedge would only be more to do.
    for node in "abc":
        scene.street.hop_s[node] = 1.5
    reads = [scene.get(Key(b"k%d" % number)) for number in range(60)]
    scene.run(1.4)
    assert hedged(scene) == HEDGES_SAVED_MAX
    scene.run(5)
    assert all(isinstance(read.result, Done) for read in reads)
    assert hedged(scene) <= HEDGES_SAVED_MAX + HEDGE_SHARE * (60 + 4 * 16)


def test_reads_that_wait_for_a_silent_node_ask_the_one_they_had_spared_even_if_no_hedge_is_left(scene: Scene) -> None:
    warmed(scene, 0.01)
    while scene.queues.allowance.take():
        pass
    silent = late(scene, 60.0)
    scene.street.manner[silent] = SILENT
    reads = [scene.get() for _ in range(5)]
    began = scene.clock.seconds()
    scene.run(1)
    assert all(read.value == b"v" for read in reads)
    assert max(read.at_s - began for read in reads) < 0.3, "it is found out long before its batches fail"
    assert hedged(scene) == len(reads)


def test_a_slow_owner_is_asked_last_and_reads_are_as_fast_as_the_others(scene: Scene) -> None:
    warmed(scene, 0.002)
    slow = NodeId("b")
    scene.street.hop_s[slow] = 0.2
    for _ in range(400):
        scene.get()
        scene.run(0.02)
    assert scene.coordinator.order(K, "read").nodes[-1] == slow
    assert scene.queues.slow() == 1
    scene.run(0.3)
    for _ in range(3 * 16):
        began, read = scene.clock.seconds(), scene.get()
        scene.run(0.02)
        assert read.at_s == on_time(began + 0.002)
    assert scene.owners == scene.coordinator.order(K, "write").nodes, "the owners of a write keep their order"
    scene.street.hop_s[slow] = 0.002
    scene.run(scene.limits.pace_s_max)
    assert scene.coordinator.order(K, "read").nodes
    assert scene.queues.slow() == 0


def test_a_level_one_read_goes_on_sooner_where_the_owner_used_to_be_fast(scene: Scene) -> None:
    warmed(scene, 0.01)
    first, second, third = scene.owners
    scene.street.manner = {first: SILENT, second: SILENT}
    began, read = scene.clock.seconds(), scene.get(level=Level.ONE)
    scene.run(3)
    assert [(asked.node, asked.at_s) for asked in scene.street.take()] == [
        (first, on_time(began)),
        (second, on_time(began + 0.04 * SLACK)),
        (third, on_time(began + 0.08 * SLACK)),
    ]
    assert read.value == b"v"


def test_a_level_one_read_waits_for_the_last_owner_as_long_as_ever(scene: Scene) -> None:
    warmed(scene, 0.01)
    first, second, third = scene.owners
    scene.street.manner = {first: REFUSED, second: REFUSED}
    scene.street.hop_s[third] = 0.9
    read = scene.get(level=Level.ONE)
    scene.run(1)
    assert read.value == b"v"


def test_a_read_that_began_again_asks_the_owner_it_had_spared_too(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"v")
    scene.adopt(2, open_=False)
    read = scene.get()
    scene.run(1)
    assert scene.street.take() == []
    for node in "abc":
        scene.street.hop_s[node] = 3.0
    scene.adopt(3)
    scene.run(scene.limits.slow_read_s + 0.001)
    assert {asked.node for asked in scene.street.take()} == {"a", "b", "c"}
    scene.run(5)
    assert read.result is not None or read.error is not None


def test_avoided_owners_are_asked_last(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"v")
    suspicion = scene.queues.by_node[NodeId("b")].suspicion
    for _ in range(scene.limits.suspect_after_failures):
        suspicion.refuse("silent", 0.0)
    for _ in range(6):
        assert scene.coordinator.order(K, "read").nodes[-1] == "b"
        read = scene.get()
        scene.run(1)
        assert read.value == b"v"
    assert {asked.node for asked in scene.street.take()} == {"a", "c"}
    assert scene.owners == scene.coordinator.order(K, "write").nodes, "the owners of a write keep their order"


# Epochs.


def test_operations_wait_in_a_closed_view_and_begin_in_the_open_one(scene: Scene) -> None:
    scene.adopt(2, open_=False)
    outcomes = [scene.put(), scene.get(), scene.get(level=Level.ONE)]
    scene.run(3)
    assert scene.street.take() == []
    assert all(outcome.at_s is None for outcome in outcomes)
    scene.adopt(3)
    scene.run(1)
    assert all(isinstance(outcome.result, Done) for outcome in outcomes)
    assert {asked.epoch for asked in scene.street.take()} == {3}


def test_an_operation_that_waited_in_vain_says_that_data_is_moving_and_changed_nothing(scene: Scene) -> None:
    scene.adopt(2, open_=False)
    outcomes = [scene.put(), scene.get(), scene.get(level=Level.ONE)]
    scene.run(5.1)
    for outcome in outcomes:
        assert outcome.at_s == on_time(5.0)
        assert isinstance(outcome.error, ChangeUnderWay)
    assert scene.counted("write", "change-under-way") == scene.counted("read", "change-under-way") == 1
    scene.adopt(3)
    scene.run(1)
    assert scene.street.take() == []


def test_a_level_one_read_that_waited_in_vain_is_counted(scene: Scene) -> None:
    scene.adopt(2, open_=False)
    scene.get(level=Level.ONE)
    scene.run(5.1)
    assert scene.counted("read", "change-under-way", "one") == 1


def test_a_cluster_that_its_first_node_is_joining_lets_clients_come_again(scene: Scene) -> None:
    scene.adopt(2, open_=False, nodes=())
    assert isinstance(scene.put().error, ChangeUnderWay)


def test_a_write_whose_epoch_moves_goes_on_with_a_prepare_to_the_new_owners(scene: Scene) -> None:
    write = scene.put(b"v")
    scene.run(0)
    assert {asked.op.verb for asked in scene.street.take()} == {ACCEPT}
    # The answers of epoch 1 are in the air while epoch 2 comes.
    scene.adopt(2, nodes=("a", "d", "e"))
    scene.run(HOP_S * 0.5)
    first = scene.street.take()
    assert {(asked.op.verb, asked.node, asked.epoch) for asked in first} == {
        (PREPARE, node, 2) for node in ("a", "d", "e")
    }
    scene.run(HOP_S * 0.6)
    assert write.at_s is None, "three owners of epoch 1 took it, which counts for nothing in epoch 2"
    scene.run(1)
    assert isinstance(write.result, Done)
    assert {"a", "d", "e"} <= scene.street.holders(b"v")


def test_a_write_that_was_never_sent_begins_anew_without_a_prepare(scene: Scene) -> None:
    write = scene.put(b"v")
    scene.adopt(2, open_=False)
    scene.run(1)
    assert scene.street.take() == []
    scene.adopt(3)
    scene.run(1)
    assert isinstance(write.result, Done)
    assert {asked.epoch for asked in scene.street.take()} == {3}


def test_a_read_whose_epoch_moves_counts_no_older_answer(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"old")
    for node in "de":
        scene.street.hold(node, b"new", ms=2)
    read = scene.get()
    scene.run(0)
    scene.adopt(2, nodes=("c", "d", "e"))
    scene.run(1)
    assert read.value == b"new"


def test_an_operation_of_an_old_epoch_waits_for_the_view_that_comes(scene: Scene) -> None:
    scene.street.manner = dict.fromkeys("abc", OUTDATED)
    write, read = scene.put(), scene.get()
    scene.run(1)
    assert (write.at_s, read.at_s) == (None, None)
    assert set(scene.complaints) == {"a", "b", "c"}
    assert scene.queues.avoided() == set()
    scene.street.manner = {}
    scene.adopt(2)
    scene.run(1)
    assert isinstance(write.result, Done)
    assert isinstance(read.result, Done)


def test_a_level_one_read_of_an_old_epoch_waits_for_the_view_that_comes(scene: Scene) -> None:
    scene.street.manner = dict.fromkeys("abc", OUTDATED)
    read = scene.get(level=Level.ONE)
    scene.run(1)
    assert read.at_s is None
    scene.street.manner = {}
    scene.street.hold("a", b"v")
    scene.adopt(2)
    scene.run(1)
    assert read.value == b"v"


def test_a_level_one_read_that_is_refused_after_the_view_has_come_waits_for_no_other(scene: Scene) -> None:
    scene.street.manner = dict.fromkeys("abc", OUTDATED)
    read = scene.get(level=Level.ONE)
    scene.run(2.5 * HOP_S)
    assert len(scene.street.take()) == 3
    scene.street.manner = {}
    scene.adopt(2)
    scene.run(1)
    assert isinstance(read.result, Done)


# Contention.


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_contended_write_rests_for_a_seeded_while_and_then_goes_on(scene_of: Callable[..., Scene], seed: int) -> None:
    scene = scene_of(seed)
    scene.street.rival = True
    write = scene.put(b"mine")
    # Two rounds, both refused; then the pause.
    scene.run(2 * HOP_S)
    assert [asked.op.verb for asked in scene.street.take()] == [ACCEPT] * 6
    paused_s = scene.clock.seconds()
    scene.street.rival = False
    pause_s = Random(seed).uniform(0, 2 * scene.limits.backoff_s * 2**2)
    scene.run(pause_s - 1e-6)
    assert (scene.street.take(), write.at_s) == ([], None)
    scene.run(2e-6)
    asked = scene.street.take()
    assert len(asked) == 3
    assert asked[0].at_s == on_time(paused_s + pause_s)
    scene.run(1)
    assert scene.street.holders(b"mine") == {"a", "b", "c"}


def test_a_contest_that_does_not_end_ends_at_the_deadline_with_ever_longer_pauses(scene: Scene) -> None:
    scene.street.rival = True
    write = scene.put(b"mine")
    scene.run(6)
    assert isinstance(write.error, DeadlinePassed)
    assert write.at_s == on_time(5.0)
    attempts = [asked.at_s for asked in scene.street.take() if asked.node == "a"]
    assert 8 < len(attempts) < 60


# Level one.


def test_a_level_one_read_asks_the_primary_alone(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, node.encode())
    read = scene.get(level=Level.ONE)
    scene.run(2 * HOP_S)
    assert scene.clock.getDelayedCalls() == []
    assert [(asked.node, asked.op.verb) for asked in scene.street.take()] == [(scene.owners[0], FETCH)]
    assert read.value == scene.owners[0].encode()
    assert (read.result.acks, read.result.owners) == (1, 3)


def test_a_level_one_read_goes_on_in_order_past_a_failure_and_an_absent_key(scene: Scene) -> None:
    first, second, third = scene.owners
    scene.street.manner[first] = REFUSED
    scene.street.hold(third, b"last")
    read = scene.get(level=Level.ONE)
    scene.run(1)
    assert [asked.node for asked in scene.street.take()] == [first, second, third]
    assert read.value == b"last"


def test_a_level_one_read_stops_at_a_tombstone(scene: Scene) -> None:
    first, second, third = scene.owners
    scene.street.hold(second, None)
    scene.street.hold(third, b"older")
    read = scene.get(level=Level.ONE)
    scene.run(1)
    assert [asked.node for asked in scene.street.take()] == [first, second]
    assert read.value is None
    assert read.result.record


def test_a_level_one_read_waits_no_longer_than_chain_step_s_for_each_silent_owner(scene: Scene) -> None:
    while scene.queues.allowance.take():
        pass
    first, second, third = scene.owners
    scene.street.manner = {first: SILENT, second: SILENT}
    scene.street.hold(third, b"v")
    read = scene.get(level=Level.ONE)
    scene.run(4)
    step_s = scene.limits.chain_step_s
    assert [(asked.node, asked.at_s) for asked in scene.street.take()] == [
        (first, 0.0),
        (second, on_time(step_s)),
        (third, on_time(2 * step_s)),
    ]
    assert read.value == b"v"
    assert read.at_s == on_time(2 * step_s + HOP_S)


def test_a_level_one_read_that_one_owner_called_absent_is_absent_whoever_fails(scene: Scene) -> None:
    first, second, third = scene.owners
    scene.street.manner = {first: REFUSED, third: REFUSED}
    read = scene.get(level=Level.ONE)
    scene.run(1)
    assert [asked.node for asked in scene.street.take()] == [first, second, third]
    assert read.result.record == b""


def test_a_level_one_read_without_any_answer_says_what_the_last_owner_said(scene: Scene) -> None:
    scene.street.manner = dict.fromkeys("abc", REFUSED)
    read = scene.get(level=Level.ONE)
    scene.run(1)
    assert isinstance(read.error, Unreached)
    assert "connection refused" in read.error.detail
    assert (read.error.required, read.error.acks) == (1, 0)


def test_late_answers_disturb_no_finished_operation(scene: Scene) -> None:
    slow = dict.fromkeys(scene.owners[1:], 3.0)
    scene.street.hop_s = slow
    write = scene.put(b"v", level=Level.ONE)
    scene.run(1)
    assert write.at_s == on_time(HOP_S)
    read = scene.get(level=Level.ONE)
    scene.run(5)
    assert (write.result.acks, read.value) == (1, b"v")
    assert scene.counted("write", "ok", "one") == 1


# What an owner missed.


def hints(scene: Scene) -> list[tuple[str, bytes, str]]:
    """Give who was told to keep a hint since the last look, of which key, and for whom."""
    return [(each.node, each.op.key, each.op.record.decode()) for each in scene.street.take() if each.op.verb == HINT]


@pytest.mark.parametrize("manner", [REFUSED, SILENT])
@pytest.mark.parametrize("level", [Level.ONE, Level.STRONG])
def test_an_owner_that_did_not_take_a_write_is_named_to_one_that_did(scene: Scene, manner: str, level: Level) -> None:
    missing = scene.owners[1]
    scene.street.manner[missing] = manner
    written = scene.put(b"v", level=level)
    scene.run(scene.limits.batch_timeout_s + 1)
    assert written.result.acks >= 1
    asked = scene.street.asked[:]
    ((keeper, key, owner),) = hints(scene)
    assert (key, owner) == (K, missing)
    assert keeper in scene.street.holders(b"v")
    (ballot,) = {each.op.ballot for each in asked if each.op.verb == HINT}
    assert scene.street.cells[keeper, K].accepted == ballot
    assert scene.metrics.registry.get_sample_value("kv_hints_left_total") == 1


def test_a_write_that_all_owners_took_leaves_no_hint(scene: Scene) -> None:
    for value in (b"v", None):
        scene.put(value)
    scene.run(10)
    assert hints(scene) == []


def test_a_write_that_too_few_took_leaves_no_hint(scene: Scene) -> None:
    for node in scene.owners[1:]:
        scene.street.manner[node] = REFUSED
    written = scene.put(b"v")
    scene.run(10)
    assert isinstance(written.error, Unreached)
    assert hints(scene) == []


def test_a_read_leaves_a_hint_only_where_it_has_written_back(scene: Scene) -> None:
    first, second, third = scene.owners
    for node in (first, second):
        scene.street.hold(node, b"v")
    scene.street.manner[third] = REFUSED
    assert scene.get().result is None
    scene.run(5)
    assert hints(scene) == []
    scene.street.hold(first, b"newer", ms=2)
    read = scene.get()
    scene.run(5)
    assert read.value == b"newer"
    assert [owner for _, _, owner in hints(scene)] == [third]


def test_who_is_no_member_any_more_when_its_silence_is_noticed_is_missed_by_nobody(scene: Scene) -> None:
    missing = scene.owners[0]
    scene.street.manner[missing] = SILENT
    scene.put(b"v")
    scene.run(0.5)
    scene.adopt(2, nodes=tuple({"a", "b", "c"} - {missing}))
    scene.run(10)
    assert hints(scene) == []
