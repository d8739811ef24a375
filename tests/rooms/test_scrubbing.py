"""The scrub: everything is read once in a period, a little at a time, and old hints are found on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.python.failure import Failure

from tests.rooms.nodes import LIFE, ballot_at, record_of
from tests.strict_clock import StrictClock
from twisted_kv.commit import AtOnce
from twisted_kv.errors import Damaged, DiskBusy, DiskFailed, DiskFull, KvError
from twisted_kv.limits import Limits
from twisted_kv.metrics import NodeMetrics
from twisted_kv.names import Key, Slot
from twisted_kv.register import HINT, Cell, Op
from twisted_kv.replica import Replica
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.scrubbing import Scrubber
from twisted_kv.storage.engine import Change, Inspection
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.wire.batches import Batch
from twisted_kv.wire.header import FORMAT, Header
from twisted_kv.wire.joining import Join

K = Key(b"k")
PERIOD_S = 1_024.0


class Watched(MemoryEngine):
    """Keeps which slots were inspected, and may fail at it."""

    __slots__ = ("inspected", "trouble")

    def __init__(self) -> None:
        super().__init__()
        self.inspected: list[Slot] = []
        self.trouble: KvError | None = None

    def inspect(self, slot: Slot) -> Inspection:
        self.inspected.append(slot)
        if self.trouble is not None:
            raise self.trouble
        return super().inspect(slot)


class Node:
    """A replica that is scrubbed once in ``PERIOD_S`` seconds, beginning at a place drawn by a seed."""

    def __init__(self, seed: int = 1, period_s: float = PERIOD_S) -> None:
        self.clock = StrictClock()
        self.engine = Watched()
        self.failures: list[Failure] = []
        limits = Limits(scrub_period_s=period_s, hints_age_s_max=300.0)
        self.replica = Replica(
            self.clock,
            lambda: int(self.clock.seconds() * 1000),
            1,
            self.engine,
            AtOnce(),
            LIFE,
            limits,
            NodeMetrics(),
            self.failures.append,
        )
        self.replica.join(Join("c-1", "a"))
        self.scrubber = Scrubber(self.clock, Random(seed), limits, self.replica)
        self.scrubber.start()

    def run(self, seconds: float) -> None:
        until_s = self.clock.seconds() + seconds
        while (calls := self.clock.getDelayedCalls()) and min(call.getTime() for call in calls) <= until_s:
            self.clock.advance(max(0.0, min(call.getTime() for call in calls) - self.clock.seconds()))
        self.clock.advance(max(0.0, until_s - self.clock.seconds()))

    def stop(self) -> None:
        stopped: list[Any] = []
        ensureDeferred(self.scrubber.stop()).addCallback(stopped.append)
        assert stopped
        assert self.clock.getDelayedCalls() == []


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.stop()


def test_every_slot_is_read_once_in_a_period_and_one_after_another(node: Node) -> None:
    node.run(PERIOD_S + 2)
    counts = Counter(node.engine.inspected)
    assert len(counts) == SLOTS
    assert len(node.engine.inspected) < SLOTS + 3 * SLOTS / PERIOD_S
    first = node.engine.inspected[0]
    assert node.engine.inspected[:SLOTS] == [(first + place) % SLOTS for place in range(SLOTS)]


def test_it_goes_on_evenly_and_not_all_at_once(node: Node) -> None:
    read: list[int] = []
    for _ in range(50):
        before = len(node.engine.inspected)
        node.run(10)
        read.append(len(node.engine.inspected) - before)
    usual = 10 * SLOTS / PERIOD_S
    assert all(0.7 * usual < each < 1.3 * usual for each in read)


def test_others_have_their_turn_between_two_slots(node: Node) -> None:
    seen: list[int] = []

    def look() -> None:
        seen.append(len(node.engine.inspected))
        if len(seen) < 1_000:
            node.clock.callLater(0, look)

    node.clock.callLater(1.5, look)
    node.run(20)
    assert max(after - before for before, after in pairwise(seen)) <= 1


def test_a_slow_scrub_reads_a_slot_when_its_time_has_come() -> None:
    node = Node(period_s=SLOTS * 100.0)
    node.run(1_000)
    assert 8 <= len(node.engine.inspected) <= 10
    node.stop()


def test_nodes_that_start_together_begin_elsewhere() -> None:
    nodes = [Node(seed) for seed in range(8)]
    for node in nodes:
        node.run(3)
        node.stop()
    assert len({node.engine.inspected[0] for node in nodes}) == 8


def test_what_was_spoiled_is_found_within_a_period(node: Node) -> None:
    ballot = ballot_at(5)
    node.engine.apply([Change(slot_of(K), K, Cell(ballot, ballot, record_of(5)))])
    right = node.engine.digests(slot_of(K), slot_of(K))[0]
    node.engine._digests[slot_of(K)] ^= 1
    node.run(PERIOD_S + 2)
    assert node.engine.digests(slot_of(K), slot_of(K))[0] == right


@pytest.mark.parametrize("trouble", [DiskBusy("it is behind"), DiskFull("there is no room"), Damaged("a block is bad")])
def test_what_hinders_it_for_a_while_does_not_end_it(node: Node, trouble: KvError) -> None:
    node.engine.trouble = trouble
    node.run(5)
    node.engine.trouble = None
    before = len(node.engine.inspected)
    node.run(5)
    assert len(node.engine.inspected) > before
    assert node.failures == []


def test_a_disk_that_has_failed_is_told(node: Node) -> None:
    node.engine.trouble = DiskFailed("the disk has failed")
    node.run(1.5)
    assert node.failures


def test_a_disk_that_fails_where_old_hints_are_looked_for_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(engine: Watched, rows: Mapping[bytes, bytes | None]) -> None:
        raise DiskFailed("the disk has failed")

    hint = Op(HINT, K, ballot_at(5), b"b")
    node.replica.serve(Batch(Header(FORMAT, "c-1", "a", LIFE, 2), [hint]))
    monkeypatch.setattr(Watched, "write_side", failing)
    node.run(400)
    assert node.failures


def test_old_hints_are_found_on_the_way(node: Node) -> None:
    node.run(1)
    hint = Op(HINT, K, ballot_at(5), b"b")
    node.replica.serve(Batch(Header(FORMAT, "c-1", "a", LIFE, 2), [hint]))
    node.run(200)
    assert (node.replica.info().hints, node.replica.info().marks) == ({"b": 1}, 0)
    node.run(200)
    assert (node.replica.info().hints, node.replica.info().marks) == ({}, 1)


def test_a_scrub_that_is_stopped_reads_nothing_more(node: Node) -> None:
    node.run(10)
    node.stop()
    before = len(node.engine.inspected)
    node.run(100)
    assert len(node.engine.inspected) == before
