"""Changes of one key that share rounds: one at a time, deadlines while they wait and run, and reads that join."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from tests.rooms.street import HOP_S, REFUSED, SILENT, K, Outcome, Scene
from twisted_kv.conditional import Decide, Draft, leave
from twisted_kv.errors import DeadlinePassed, Overloaded, Unreached
from twisted_kv.names import Key
from twisted_kv.quorum import Level
from twisted_kv.register import ACCEPT, PREPARE
from twisted_kv.sharing import GRACE_S, Changed
from twisted_kv.versions import Record

SceneOf = Callable[..., Scene]


class Counted:
    """Change after change adds one to a number: a lost one or one done twice shows in the sum."""

    def __init__(self) -> None:
        self.found: list[bytes | None] = []

    def add_one(self, held: Record | None) -> Draft:
        value = held.value if held is not None else None
        self.found.append(value)
        return Draft(b"%d" % (int(value or b"0") + 1))


def sets(value: bytes) -> Decide:
    return lambda held: Draft(value)


def change(scene: Scene, decide: Decide, timeout_s: float | None = None, key: Key = K) -> Outcome:
    return Outcome(scene.coordinator.change(key, decide, timeout_s), scene.clock)  # type: ignore[arg-type]


def rounds(scene: Scene) -> int:
    """How many ballots were prepared since it was last asked."""
    return len({asked.op.ballot for asked in scene.street.take() if asked.op.verb == PREPARE})


def test_changes_that_come_while_one_runs_share_the_next_round(scene: Scene) -> None:
    counted = Counted()
    changes = [change(scene, counted.add_one) for _ in range(20)]
    scene.run(1)
    assert [changed.result.record.value for changed in changes] == [b"%d" % (n + 1) for n in range(20)]
    assert all(changed.result.changed for changed in changes)
    assert len({changed.result.record.version for changed in changes}) == 20
    assert rounds(scene) == 2
    assert scene.street.holders(b"20") == {"a", "b", "c"}


def test_no_round_takes_more_changes_than_a_batch_has_operations(scene_of: SceneOf) -> None:
    scene = scene_of(batch_ops_max=4)
    counted = Counted()
    changes = [change(scene, counted.add_one) for _ in range(10)]
    scene.run(1)
    assert [changed.result.record.value for changed in changes] == [b"%d" % (n + 1) for n in range(10)]
    assert rounds(scene) == 1 + 3


def test_one_round_at_a_time_runs_for_each_key_and_keys_do_not_wait_for_one_another(scene: Scene) -> None:
    other = Key(b"other")
    first, second, beside = (change(scene, sets(b"v"), key=key) for key in (K, K, other))
    scene.run(HOP_S / 2)
    assert {asked.op.key for asked in scene.street.asked} == {K, other}
    assert scene.coordinator.under_way == 3
    scene.run(1)
    assert beside.at_s == first.at_s
    assert first.at_s is not None
    assert second.at_s is not None
    assert second.at_s > first.at_s
    accepts = {
        asked.op.ballot: asked.at_s for asked in scene.street.asked if asked.op.key == K and asked.op.verb == ACCEPT
    }
    prepares = {
        asked.op.ballot: asked.at_s for asked in scene.street.asked if asked.op.key == K and asked.op.verb == PREPARE
    }
    early, late = sorted(prepares)
    assert accepts[early] < prepares[late]


def test_a_change_that_waits_until_its_deadline_certainly_has_no_effect(scene: Scene) -> None:
    scene.street.hop_s = dict.fromkeys("abc", 1.0)
    running, waiting = change(scene, sets(b"first")), change(scene, sets(b"second"), 0.5)
    scene.run(4)
    assert waiting.at_s == pytest.approx(0.5 + GRACE_S)
    assert isinstance(waiting.error, DeadlinePassed)
    assert waiting.error.maybe_applied is False
    assert running.result.changed
    assert scene.street.holders(b"first") == {"a", "b", "c"}


def test_a_change_whose_deadline_passes_before_its_round_proposes_is_left_out_of_it(scene: Scene) -> None:
    scene.street.hop_s = dict.fromkeys("abc", 1.0)
    head, short, long = change(scene, sets(b"head")), change(scene, sets(b"short"), 2.5), change(scene, sets(b"long"))
    scene.run(4.9)
    assert head.result.changed
    assert isinstance(short.error, DeadlinePassed)
    assert short.error.maybe_applied is False
    assert long.result.changed
    assert long.result.record.before[0] == head.result.record.version


def test_a_change_whose_deadline_passes_after_its_round_has_proposed_is_maybe_applied(scene: Scene) -> None:
    scene.street.hop_s = dict.fromkeys("abc", 1.0)
    head, short, long = change(scene, sets(b"head")), change(scene, sets(b"short"), 3.5), change(scene, leave)
    scene.run(4.9)
    assert head.result.changed
    assert isinstance(short.error, DeadlinePassed)
    assert short.error.maybe_applied is True
    assert long.result.record.value == b"short"


def test_the_round_of_those_whose_deadline_has_just_passed_does_not_end_the_sharing(scene: Scene) -> None:
    """A real reactor takes no negative delay: the answer of the round before would have been lost with the key."""
    scene.street.hop_s = dict.fromkeys("abc", 0.5)
    delays: list[float] = []
    call_later = scene.clock.callLater

    def recorded(delay_s: float, *args: object, **more: object) -> object:
        delays.append(delay_s)
        return call_later(delay_s, *args, **more)

    scene.clock.callLater = recorded  # type: ignore[method-assign]
    running, waiting = change(scene, sets(b"first")), change(scene, sets(b"second"), 1 - GRACE_S / 2)
    scene.run(4)
    assert running.result.changed
    assert isinstance(waiting.error, DeadlinePassed)
    assert min(delays) >= 0
    later = change(scene, sets(b"third"))
    scene.run(2)
    assert later.result.changed


def test_a_round_that_fails_fails_for_all_who_share_it_and_the_next_one_begins(scene: Scene) -> None:
    scene.street.manner = dict.fromkeys("abc", REFUSED)
    changes = [change(scene, sets(b"v")) for _ in range(5)]
    scene.run(1)
    assert all(isinstance(changed.error, Unreached) for changed in changes)
    assert not any(changed.error.maybe_applied for changed in changes)
    assert rounds(scene) == 2
    scene.street.manner = {}
    again = change(scene, sets(b"again"))
    scene.run(1)
    assert again.result.changed


def test_silent_owners_hold_up_a_round_and_those_behind_it_no_longer_than_their_deadlines(scene: Scene) -> None:
    scene.street.manner = dict.fromkeys("abc", SILENT)
    changes = [change(scene, sets(b"v")) for _ in range(3)]
    scene.run(scene.limits.operation_timeout_s + 2 * GRACE_S)
    for changed in changes:
        assert isinstance(changed.error, Unreached)
        assert changed.at_s is not None


@pytest.mark.parametrize("patience_s", [0.0, HOP_S / 2, HOP_S * 1.5])
def test_a_client_that_hangs_up_changes_nothing_for_those_it_shares_a_round_with(
    scene: Scene, patience_s: float
) -> None:
    counted = Counted()
    changes = [change(scene, counted.add_one) for _ in range(4)]
    scene.run(patience_s)
    changes[0].deferred.cancel()
    changes[2].deferred.cancel()
    scene.run(1)
    assert [changes[n].result.record.value for n in (1, 3)] == [b"2", b"4"]
    assert scene.street.holders(b"4") == {"a", "b", "c"}


def test_changes_wait_while_the_cluster_moves_and_run_in_the_epoch_after(scene: Scene) -> None:
    counted = Counted()
    changes = [change(scene, counted.add_one) for _ in range(3)]
    scene.adopt(2, open_=False)
    scene.run(1)
    assert scene.coordinator.under_way == 3
    scene.adopt(3)
    scene.run(1)
    assert sorted(changed.result.record.value for changed in changes) == [b"1", b"2", b"3"]
    assert scene.street.holders(b"3")


def test_changes_that_wait_take_room_like_other_operations(scene_of: SceneOf) -> None:
    scene = scene_of(operations_max=3)
    changes = [change(scene, sets(b"v")) for _ in range(5)]
    turned_away = [changed for changed in changes if changed.at_s is not None]
    assert all(isinstance(changed.error, Overloaded) for changed in turned_away)
    assert len(turned_away) == 2
    scene.run(1)
    assert all(isinstance(changed.result, Changed) for changed in changes if changed not in turned_away)


def test_the_values_of_changes_take_room_and_give_it_back_however_they_end(scene_of: SceneOf) -> None:
    scene = scene_of(operation_bytes_max=100)

    def big(size: int) -> Outcome:
        return Outcome(scene.coordinator.change(K, sets(bytes(size)), 0.5, size), scene.clock)  # type: ignore[arg-type]

    full = big(60), big(40)
    assert isinstance(big(1).error, Overloaded)
    scene.run(1)
    assert all(isinstance(outcome.result, Changed) for outcome in full)
    scene.street.manner = dict.fromkeys("abc", SILENT)
    late = big(100)
    scene.run(1)
    assert isinstance(late.error, DeadlinePassed)
    scene.street.manner = {}
    scene.run(5)
    again = big(100)
    scene.run(1)
    assert isinstance(again.result, Changed)


# Reads.


def test_reads_join_the_round_for_which_changes_wait(scene: Scene) -> None:
    change(scene, sets(b"1"))
    change(scene, sets(b"2"))
    reads = [scene.get() for _ in range(10)]
    scene.run(1)
    assert [read.value for read in reads] == [b"2"] * 10
    assert {asked.op.verb for asked in scene.street.asked} == {PREPARE, ACCEPT}


def test_a_read_that_comes_while_no_change_waits_asks_for_itself(scene: Scene) -> None:
    change(scene, sets(b"1"))
    assert not scene.coordinator._sharing.expects(K)
    read = scene.get()
    scene.run(1)
    assert read.value in (None, b"1")
    assert {asked.op.verb for asked in scene.street.asked} > {PREPARE, ACCEPT}


def test_a_read_whose_round_fails_reads_alone(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"old")
    first, second = change(scene, sets(b"1")), change(scene, sets(b"2"))
    read = scene.get()
    scene.run(HOP_S / 2)
    scene.street.manner = dict.fromkeys("abc", REFUSED)
    while second.at_s is None:
        scene.run(HOP_S / 10)
    scene.street.manner = {}
    scene.run(2)
    assert isinstance(first.error, Unreached)
    assert isinstance(second.error, Unreached)
    assert read.result is not None


def test_level_one_does_not_join(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"old")
    change(scene, sets(b"1"))
    change(scene, sets(b"2"))
    read = scene.get(level=Level.ONE)
    scene.run(1)
    assert read.value in (b"old", b"1")


def test_an_answer_of_a_change_that_was_withdrawn_goes_to_nobody(scene: Scene) -> None:
    scene.street.hop_s = dict.fromkeys("abc", 1.0)
    done: Deferred[Changed] = scene.coordinator.change(K, sets(b"v"), 0.5)
    seen: list[object] = []
    done.addBoth(seen.append)
    scene.run(4)
    assert len(seen) == 1
