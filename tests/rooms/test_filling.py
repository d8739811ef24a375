"""Filling, question by question: what a fill makes of owners that are silent or cannot read what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.python.failure import Failure

from twisted_kv.errors import ChangeFailed, PeerSilent
from twisted_kv.filling import Filling
from twisted_kv.membership import Change, Seat, State
from twisted_kv.names import Key, NodeId
from twisted_kv.peers.control import Control
from twisted_kv.planning import Fill, Plan, planned
from twisted_kv.register import ABSTAIN, BLANK, PREPARE, Cell, Op, Reply, decide
from twisted_kv.ring import slot_of
from twisted_kv.versions import NONE, Ballot, HybridClock, Record, Version, record_version
from twisted_kv.wire import FORMAT, Page, Row

K = Key(b"k")
A, B, C, D = map(NodeId, "abcd")
OLD, NEW = (HybridClock(lambda ms=ms: ms, 1).tick() for ms in (1, 2))


class Owners:
    """Nodes that keep one key, in the place of ``Control``. ``deaf`` misses questions of a verb so many times."""

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        self.deaf: dict[tuple[str, int], int] = {}
        self.unreadable: set[str] = set()

    def hold(self, node: str, ballot: Ballot) -> None:
        self.cells[node] = Cell(ballot, ballot, Record(Version(ballot), b"v").encode())

    def version(self, node: str) -> Version:
        return record_version(self.cells[node].record)

    async def page(self, seat: Seat, state: State, ranges: Sequence[Any], after: Any) -> Page:
        cell = self.cells.get(seat.id, BLANK)
        if seat.id in self.unreadable:
            return Page(FORMAT, 2, [Row(K, NONE, b"", NONE)])
        rows = [Row(K, cell.accepted, cell.record, cell.promised)] if cell.accepted != NONE else []
        return Page(FORMAT, 2, rows)

    async def ask(self, seat: Seat, state: State, ops: Sequence[Op]) -> list[Reply]:
        return [self._answer(seat.id, op) for op in ops]

    def _answer(self, node: str, op: Op) -> Reply:
        misses = self.deaf.get((node, op.verb), 0)
        if misses:
            self.deaf[node, op.verb] = misses - 1
            raise PeerSilent("no answer")
        if node in self.unreadable:
            return ABSTAIN
        reply, self.cells[node] = decide(self.cells.get(node, BLANK), op)
        return reply

    async def drop(self, seat: Seat, state: State, ranges: Sequence[Any]) -> None:
        self.cells.pop(seat.id, None)
        self.unreadable.discard(seat.id)


@pytest.fixture
def owners() -> Owners:
    return Owners()


def fill_of(sources: Iterable[NodeId], targets: Iterable[NodeId], gets: Iterable[NodeId]) -> Fill:
    return Fill((slot_of(K),), tuple(sources), 2, 2, tuple(targets), tuple(gets))


def rescue() -> Fill:
    """What is planned where all three owners forgot a part and the operator has accepted the loss."""
    seats = tuple(Seat(node, f"http://{node}:80", incarnation="i-1") for node in (A, B, C))
    later = tuple(Seat(seat.id, seat.url, incarnation="i-2") for seat in seats)
    change = Change("c-1", "rebuild", later, (A, B, C))
    (fill,) = planned(State(1, "c-1", 2, vnodes=1, members=seats, change=change)).fills
    assert fill.rescue
    return fill


def run(owners: Owners, fill: Fill) -> Filling:
    seats = {node: Seat(node, f"http://{node}:80") for node in (A, B, C, D)}
    filling = Filling(cast(Control, owners), HybridClock(lambda: 100, 7), State(1, "c-1", 2), seats, frozenset(seats))
    results: list[Any] = []
    ensureDeferred(filling.run(Plan((fill,), 0, 0))).addBoth(results.append)
    assert results, "nothing here takes time"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return filling


@pytest.mark.parametrize("misses", [1, 2])
def test_an_accepted_loss_keeps_the_newest_although_its_only_holder_misses_a_question(
    owners: Owners, misses: int
) -> None:
    for node, ballot in ((A, OLD), (B, OLD), (C, NEW)):
        owners.hold(node, ballot)
    owners.deaf[C, PREPARE] = misses
    run(owners, rescue())
    assert {owners.version(node) for node in (A, B, C)} == {NEW}


def test_an_accepted_loss_gives_up_what_its_holder_cannot_read(owners: Owners) -> None:
    owners.hold(A, OLD)
    owners.hold(C, NEW)
    owners.unreadable.add(C)
    run(owners, rescue())
    assert {owners.version(node) for node in (A, B)} == {OLD}


def test_an_accepted_loss_with_a_single_copy_that_cannot_be_read_is_not_held_up_by_it(owners: Owners) -> None:
    owners.unreadable.add(C)
    run(owners, rescue())
    assert owners.cells[A].record == b""


def test_an_accepted_loss_leaves_a_key_alone_that_too_many_cannot_read(owners: Owners) -> None:
    owners.hold(C, NEW)
    owners.unreadable |= {A, B}
    run(owners, rescue())
    # Those two go on abstaining, so that it is answered by an error and never as absent.
    assert owners.unreadable == {A, B}
    assert owners.version(C) == NEW


def test_a_row_that_cannot_be_read_and_that_no_majority_holds_does_not_hold_up_a_change(owners: Owners) -> None:
    owners.unreadable.add(A)
    run(owners, fill_of((A, B, C), (D,), (B, C, D)))
    assert owners.cells[D].record == b""


def test_a_copy_that_one_owner_alone_holds_is_waited_for(owners: Owners) -> None:
    owners.hold(A, NEW)
    owners.deaf[A, PREPARE] = 1
    run(owners, fill_of((A, B, C), (D,), (B, C, D)))
    assert owners.version(D) == NEW


def test_a_row_that_too_many_sources_cannot_read_holds_up_a_change(owners: Owners) -> None:
    owners.hold(C, OLD)
    owners.unreadable |= {A, B}
    with pytest.raises(ChangeFailed):
        run(owners, fill_of((A, B, C), (D,), (B, C, D)))


def test_what_was_promised_is_settled(owners: Owners) -> None:
    owners.hold(A, OLD)
    owners.cells[B] = Cell(NEW, OLD, owners.cells[A].record)
    owners.cells[C] = owners.cells[A]
    assert run(owners, fill_of((A, B, C), (D,), (B, C, D))).settled == 1
    assert owners.cells[D].accepted > NEW
