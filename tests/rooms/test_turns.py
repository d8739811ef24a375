"""Plain writes of one key take turns, and those that wait are written as one."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from tests.rooms.street import HOP_S, REFUSED, SILENT, K, Outcome, Scene
from twisted_kv.errors import DeadlinePassed, Overloaded, Unreached
from twisted_kv.names import Key
from twisted_kv.quorum import Level
from twisted_kv.register import ACCEPT
from twisted_kv.versions import decode_record, record_version


def accepts(scene: Scene) -> list[bytes | None]:
    """The values that reached the owner who is asked first, in their order."""
    node = scene.owners[0]
    return [
        decode_record(asked.op.record).value
        for asked in scene.street.asked
        if asked.node == node and asked.op.verb == ACCEPT
    ]


def timely(scene: Scene, value: bytes, timeout_s: float) -> Outcome:
    return Outcome(scene.coordinator.put(K, value, b"", Level.STRONG, 0, timeout_s), scene.clock)


def test_what_comes_while_a_write_is_under_way_is_written_after_it_as_one(scene: Scene) -> None:
    outcomes = [scene.put(value) for value in (b"1", b"2", b"3", b"4")]
    scene.run(1)
    assert accepts(scene) == [b"1", b"4"]
    assert [outcome.value for outcome in outcomes] == [b"1", b"2", b"3", b"4"]
    assert all(outcome.result.acks >= 2 for outcome in outcomes)
    read = scene.get()
    scene.run(1)
    assert read.value == b"4"
    assert scene.counted("write", "ok") == 4
    assert scene.street.holders(b"4") == {"a", "b", "c"}


def test_each_write_has_a_version_of_its_own_in_the_order_of_their_effects(scene: Scene) -> None:
    outcomes = [scene.put(b"%d" % n) for n in range(20)]
    scene.run(1)
    versions = [record_version(outcome.result.record) for outcome in outcomes]
    assert versions == sorted(set(versions))


def test_a_delete_takes_its_turn_too(scene: Scene) -> None:
    outcomes = [scene.put(value) for value in (b"1", None, b"2", None)]
    scene.run(1)
    assert accepts(scene) == [b"1", None]
    assert [outcome.value for outcome in outcomes] == [b"1", None, b"2", None]
    read = scene.get()
    scene.run(1)
    assert read.value is None


def test_other_keys_and_other_levels_do_not_wait(scene: Scene) -> None:
    scene.put(b"1")
    scene.put(b"2", key=Key(b"other"))
    scene.put(b"3", level=Level.ONE)
    scene.put(b"4", level=Level.ALL)
    scene.run(0)
    assert sorted(accepts(scene)) == [b"1", b"2", b"3", b"4"]


def test_many_writers_of_few_keys_never_thwart_each_other(scene: Scene) -> None:
    outcomes: list[Outcome] = []

    def again(n: int, key: Key) -> Deferred[None]:
        outcomes.append(scene.put(b"%d" % n, key=key))
        done = outcomes[-1].deferred
        return done.addCallback(lambda _: again(n + 100, key) if n < 1000 else None)

    # The owners answer at different speeds, so that two writes under way would meet in another order at each.
    scene.street.hop_s = {"a": 0.001, "b": 0.0017, "c": 0.0031}
    for n in range(100):
        again(n, Key(b"%d" % (n % 3)))
    scene.run(4)
    assert len(outcomes) == 1100
    assert scene.counted("write", "ok") == 1100
    assert all(asked.op.verb == ACCEPT for asked in scene.street.asked)


def test_all_who_wrote_together_are_told_of_a_failure(scene: Scene) -> None:
    first = scene.put(b"1")
    scene.street.manner = dict.fromkeys("ab", REFUSED)
    others = [scene.put(b"2"), scene.put(b"3")]
    scene.run(1)
    assert isinstance(first.error, Unreached)
    assert [(outcome.error.maybe_applied, outcome.error.acks) for outcome in others] == [(True, 1)] * 2
    assert scene.counted("write", "quorum-unreached") == 3
    scene.street.manner = {}
    scene.run(5)
    read = scene.get(level=Level.ALL)
    scene.run(1)
    held = record_version(read.result.record).hex()
    # The one whose value holds is told its version; the other one is not, lest he take it for his own.
    assert read.value == b"3"
    assert [outcome.error.etag == held for outcome in others] == [False, True]


def test_a_write_whose_time_passes_while_it_waits_has_changed_nothing(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(batch_timeout_s=60.0)
    scene.street.manner = dict.fromkeys("ab", SILENT)
    first, hasty, last = scene.put(b"1"), timely(scene, b"2", 0.5), scene.put(b"3")
    scene.run(1)
    assert first.result is None
    assert isinstance(hasty.error, DeadlinePassed)
    assert hasty.error.maybe_applied is False
    scene.street.manner = {}
    scene.run(4.1)
    assert isinstance(first.error, DeadlinePassed)
    assert b"2" not in accepts(scene)
    assert isinstance(last.error, DeadlinePassed)


def test_a_write_whose_time_passes_in_its_turn_is_told_that_nothing_is_known(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(batch_timeout_s=60.0)
    first = scene.put(b"1")
    hasty, last = timely(scene, b"2", 0.5), scene.put(b"3")
    scene.run(HOP_S / 2)
    scene.street.manner = dict.fromkeys("abc", SILENT)
    scene.run(1)
    assert first.value == b"1"
    assert accepts(scene) == [b"1", b"3"]
    assert isinstance(hasty.error, DeadlinePassed)
    assert hasty.error.maybe_applied is True
    assert last.result is None
    scene.run(5)
    assert isinstance(last.error, DeadlinePassed)


def test_writes_that_wait_count_among_what_is_under_way(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(operations_max=3, operation_bytes_max=100)
    scene.put(b"1" * 40)
    scene.put(b"2" * 40)
    assert isinstance(scene.put(b"3" * 40).error, Overloaded)
    scene.put(b"4")
    assert scene.coordinator.under_way == 3
    assert isinstance(scene.put(b"5").error, Overloaded)
    scene.run(HOP_S * 1.5)
    # Two are being written now; what was replaced waits, and takes room, until that is over.
    assert scene.coordinator.under_way == 2
    scene.put(b"6", key=Key(b"other"))
    assert isinstance(scene.put(b"7", key=Key(b"one too many")).error, Overloaded)
    scene.run(1)
    assert scene.coordinator.under_way == 0
    after = scene.put(b"6" * 90)
    scene.run(1)
    assert after.value == b"6" * 90


def test_a_write_that_waits_goes_on_in_the_next_epoch(scene: Scene) -> None:
    outcomes = [scene.put(b"1"), scene.put(b"2")]
    scene.adopt(2, open_=False)
    scene.run(1)
    assert [outcome.result for outcome in outcomes] == [None, None]
    scene.adopt(3)
    scene.run(1)
    assert [outcome.value for outcome in outcomes] == [b"1", b"2"]


def test_a_write_that_waited_in_vain_is_counted(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(batch_timeout_s=60.0)
    scene.street.manner = dict.fromkeys("abc", SILENT)
    scene.put(b"1")
    timely(scene, b"2", 0.5)
    scene.run(1)
    assert scene.counted("write", "deadline-passed") == 1
