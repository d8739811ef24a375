"""Group commit: which answers wait for which sync."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_kv.commit import NOTES, AtOnce, GroupCommit
from twisted_kv.errors import DiskFailed
from twisted_kv.metrics import NodeMetrics


class Desk:
    """A group commit whose syncs begin and end when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = NodeMetrics()
        self.syncs: list[Deferred[None]] = []
        self.failures: list[Failure] = []
        self.left: list[str] = []
        self.commit = GroupCommit(self.clock, self.sync, self.in_thread, self.failures.append, self.metrics)

    def sync(self) -> None:
        raise AssertionError("a sync is left to the thread")

    def in_thread(self, work: Callable[[], None]) -> Deferred[None]:
        assert work == self.sync
        self.syncs.append(Deferred())
        return self.syncs[-1]

    def release(self, answer: str, *keys: bytes) -> Deferred[str]:
        """Ask for an answer to leave, and note in ``left`` when it does."""
        released = self.commit.release(answer, list(keys))
        released.addCallback(self.left.append)
        return released

    def write(self, answer: str, *keys: bytes) -> None:
        """Write some keys, and answer for them."""
        self.commit.wrote(keys)
        self.release(answer, *keys)

    def end_sync(self) -> None:
        """End the sync that began last."""
        self.syncs[-1].callback(None)

    def fail_sync(self) -> None:
        self.syncs[-1].errback(DiskFailed("the log could not be synced"))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_answer_leaves_at_once_while_nothing_written_is_waiting(desk: Desk) -> None:
    desk.release("read", b"a")
    desk.release("of nothing")

    assert desk.left == ["read", "of nothing"]
    assert desk.syncs == []


def test_an_answer_about_a_key_leaves_when_the_sync_that_began_after_its_write_is_done(desk: Desk) -> None:
    desk.write("a", b"a")
    assert desk.left == []

    desk.end_sync()

    assert desk.left == ["a"]


def test_a_sync_that_was_running_at_the_time_of_a_write_does_not_cover_it(desk: Desk) -> None:
    desk.write("a", b"a")
    desk.write("b", b"b")

    desk.end_sync()
    assert (desk.left, len(desk.syncs)) == (["a"], 2)
    desk.end_sync()

    assert desk.left == ["a", "b"]


def test_answers_about_other_keys_leave_at_once(desk: Desk) -> None:
    desk.write("a", b"a")
    desk.write("b", b"b")

    desk.release("c", b"c")
    desk.release("neither", b"c", b"d", b"")

    assert desk.left == ["c", "neither"]


def test_an_answer_about_several_keys_waits_for_the_last_of_them(desk: Desk) -> None:
    desk.write("a", b"a")
    desk.write("b", b"b")
    desk.release("both", b"a", b"b", b"c")

    desk.end_sync()
    assert desk.left == ["a"]
    desk.end_sync()

    assert desk.left == ["a", "b", "both"]


def test_a_key_written_again_during_its_sync_waits_for_the_next_one(desk: Desk) -> None:
    desk.write("first", b"a")
    desk.write("second", b"a")

    desk.end_sync()
    desk.release("read", b"a")
    assert desk.left == ["first"]
    desk.end_sync()

    assert desk.left == ["first", "second", "read"]


def test_a_read_of_a_key_that_is_being_synced_waits_for_that_sync(desk: Desk) -> None:
    desk.commit.wrote([b"a"])
    desk.release("read", b"a")
    assert desk.left == []

    desk.end_sync()

    assert desk.left == ["read"]


def test_a_read_of_a_key_written_during_a_sync_waits_for_the_next_one(desk: Desk) -> None:
    desk.write("a", b"a")
    desk.commit.wrote([b"b"])
    desk.release("read", b"b")

    desk.end_sync()
    assert desk.left == ["a"]
    desk.end_sync()

    assert desk.left == ["a", "read"]


def test_changed_notes_hold_everything_back(desk: Desk) -> None:
    desk.commit.wrote([NOTES])
    desk.release("another key", b"a")
    desk.release("no key")
    assert desk.left == []

    desk.end_sync()
    desk.release("later", b"a")

    assert desk.left == ["another key", "no key", "later"]


def test_notes_changed_during_a_sync_hold_everything_back_until_the_next_one_is_done(desk: Desk) -> None:
    desk.write("a", b"a")
    desk.commit.wrote([NOTES])
    desk.release("being synced", b"a")
    desk.release("another key", b"c")

    desk.end_sync()
    assert desk.left == ["a"]
    desk.end_sync()

    assert desk.left == ["a", "being synced", "another key"]


def test_one_sync_runs_at_a_time_and_what_gathers_meanwhile_shares_the_next(desk: Desk) -> None:
    desk.write("a", b"a")
    for key in (b"b", b"c", b"d"):
        desk.write(key.decode(), key)
    assert len(desk.syncs) == 1

    desk.end_sync()
    assert len(desk.syncs) == 2
    desk.end_sync()

    assert desk.left == ["a", "b", "c", "d"]
    assert len(desk.syncs) == 2


def test_keys_are_safe_again_after_their_sync(desk: Desk) -> None:
    desk.write("a", b"a")
    desk.end_sync()

    desk.release("read", b"a")

    assert desk.left == ["a", "read"]
    assert len(desk.syncs) == 1


def test_a_write_after_everything_was_synced_begins_a_sync_of_its_own(desk: Desk) -> None:
    desk.write("a", b"a")
    desk.end_sync()

    desk.write("b", b"b")
    assert (desk.left, len(desk.syncs)) == (["a"], 2)
    desk.end_sync()

    assert desk.left == ["a", "b"]


def test_what_an_answer_that_leaves_sets_off_is_not_covered_by_the_sync_that_let_it_go(desk: Desk) -> None:
    desk.commit.wrote([b"a"])
    answered = desk.release("a", b"a")
    answered.addCallback(lambda _: desk.write("its consequence", b"b"))

    desk.end_sync()
    assert desk.left == ["a"]
    desk.end_sync()

    assert desk.left == ["a", "its consequence"]
    assert len(desk.syncs) == 2


def test_answers_that_leave_together_set_off_one_sync_and_not_several(desk: Desk) -> None:
    desk.commit.wrote([b"a"])
    for key in (b"b", b"c"):
        desk.release("a", b"a").addCallback(lambda _, key=key: desk.write(key.decode(), key))

    desk.end_sync()
    assert len(desk.syncs) == 2
    desk.end_sync()
    assert len(desk.syncs) == 3
    desk.end_sync()

    assert desk.left == ["a", "a", "b", "c"]


@pytest.mark.parametrize("later", [b"a", b"b", NOTES])
def test_a_failed_sync_answers_nobody_ever_and_is_not_repeated(desk: Desk, later: bytes) -> None:
    desk.write("waits", b"a")
    desk.write("waits for the next", b"b")

    desk.fail_sync()
    desk.write("comes later", later)
    desk.release("reads later", b"a", b"b")
    desk.clock.advance(3600)

    assert desk.left == []
    assert len(desk.syncs) == 1
    assert [failure.check(DiskFailed) for failure in desk.failures] == [DiskFailed]


def test_the_time_that_a_sync_takes_is_measured(desk: Desk) -> None:
    desk.clock.advance(100)
    desk.write("a", b"a")
    desk.clock.advance(0.25)
    desk.end_sync()

    assert observed(desk.metrics.sync_seconds) == (1, 0.25)


def observed(histogram: Any) -> tuple[float, float]:
    samples = {sample.name: sample.value for metric in histogram.collect() for sample in metric.samples}
    (count,) = (value for name, value in samples.items() if name.endswith("_count"))
    (total,) = (value for name, value in samples.items() if name.endswith("_sum"))
    return count, total


def test_without_group_commit_every_answer_leaves_at_once() -> None:
    left: list[str] = []
    commit = AtOnce()

    commit.wrote([b"a", NOTES])
    commit.release("a", [b"a"]).addCallback(left.append)

    assert left == ["a"]
