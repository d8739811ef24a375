"""Filling, question by question: what a fill makes of owners that are silent or cannot read what they hold."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.rooms.nodes import LIFE, STATE, Nodes, ballot_at, record_of
from twisted_kv.errors import ChangeFailed
from twisted_kv.filling import Filling
from twisted_kv.membership import Change, Seat, State
from twisted_kv.names import Key, NodeId, Slot
from twisted_kv.peers.peer import Answer
from twisted_kv.planning import Fill, Plan, planned
from twisted_kv.register import ACCEPT, PREPARE
from twisted_kv.ring import slot_of
from twisted_kv.throttle import Throttle
from twisted_kv.versions import HybridClock
from twisted_kv.wire.header import FORMAT, encode
from twisted_kv.wire.moving import PullReply

K = Key(b"k")
A, B, C, D = map(NodeId, "abcd")
OLD, NEW = 1, 2


@pytest.fixture
def owners() -> Nodes:
    return Nodes(A, B, C, D)


def fill_of(sources: Iterable[NodeId], targets: Iterable[NodeId], gets: Iterable[NodeId]) -> Fill:
    return Fill((slot_of(K),), tuple(sources), 2, 2, tuple(targets), tuple(gets))


def join() -> Fill:
    """D takes the place of A."""
    return fill_of((A, B, C), (D,), (B, C, D))


def rescue() -> Fill:
    """What is planned where all three owners forgot a part and the operator has accepted the loss."""
    seats = tuple(Seat(node, f"http://{node}:80", incarnation="i-0") for node in (A, B, C))
    later = tuple(Seat(seat.id, seat.url, incarnation=LIFE) for seat in seats)
    change = Change("c-1", "rebuild", later, (A, B, C))
    (fill,) = planned(State(1, "c-1", 2, vnodes=1, members=seats, change=change)).fills
    assert fill.rescue
    return fill


def filling_of(owners: Nodes, adopted: Iterable[NodeId] = (A, B, C, D)) -> Filling:
    throttle = Throttle(owners.clock, owners.limits.rebalance_bytes_per_s, lambda: 0.0)
    hybrid = HybridClock(lambda: 100, 7)
    return Filling(
        owners.clock, owners.limits, owners.control, hybrid, STATE, owners.seats, frozenset(adopted), throttle
    )


def run(owners: Nodes, fill: Fill, adopted: Iterable[NodeId] = (A, B, C, D)) -> Filling:
    filling = filling_of(owners, adopted)
    owners.wait(filling.run(Plan((fill,), 0, 0)))
    return filling


@pytest.mark.parametrize("misses", [1, 2])
def test_an_accepted_loss_keeps_the_newest_although_its_only_holder_misses_a_question(
    owners: Nodes, misses: int
) -> None:
    for node, ms in ((A, OLD), (B, OLD), (C, NEW)):
        owners.hold(node, K, ms)
    owners.deaf[C, PREPARE] = misses
    run(owners, rescue())
    assert {owners.cell(node, K).record for node in (A, B, C)} == {record_of(NEW)}


def test_an_accepted_loss_gives_up_what_its_holder_cannot_read(owners: Nodes) -> None:
    owners.hold(A, K, OLD)
    owners.hold(C, K, NEW)
    owners.engines[C].unreadable.add(K)
    run(owners, rescue())
    # What is proposed again is newer than all that the third was ever shown, and takes the place of what it lost.
    assert {owners.cell(node, K).record for node in (A, B, C)} == {record_of(OLD)}


def test_an_accepted_loss_with_a_single_copy_that_cannot_be_read_is_not_held_up_by_it(owners: Nodes) -> None:
    owners.hold(C, K, OLD)
    owners.engines[C].unreadable.add(K)
    run(owners, rescue())
    assert owners.cell(A, K).record == b""


def test_an_accepted_loss_leaves_a_key_alone_that_too_many_cannot_read(owners: Nodes) -> None:
    for node, ms in ((A, OLD), (B, OLD), (C, NEW)):
        owners.hold(node, K, ms)
    for node in (A, B):
        owners.engines[node].unreadable.add(K)
    run(owners, rescue())
    # Those two go on abstaining, so that it is answered by an error and never as absent.
    assert {owners.cell(node, K).record for node in (A, B)} == {record_of(OLD)}
    assert owners.cell(C, K).record == record_of(NEW)


def test_a_row_that_cannot_be_read_and_that_no_majority_holds_does_not_hold_up_a_change(owners: Nodes) -> None:
    owners.hold(A, K, OLD)
    owners.engines[A].unreadable.add(K)
    run(owners, join())
    assert owners.cell(D, K).record == b""


def test_a_copy_that_one_owner_alone_holds_is_waited_for(owners: Nodes) -> None:
    owners.hold(A, K, NEW)
    owners.deaf[A, PREPARE] = 1
    assert run(owners, join()).settled == 1
    assert owners.cell(D, K).record == record_of(NEW)


def test_a_row_that_too_many_sources_cannot_read_holds_up_a_change(owners: Nodes) -> None:
    for node, ms in ((A, NEW), (B, NEW), (C, OLD)):
        owners.hold(node, K, ms)
    for node in (A, B):
        owners.engines[node].unreadable.add(K)
    with pytest.raises(ChangeFailed):
        run(owners, join())


def test_what_a_majority_holds_is_copied_under_its_ballot_whatever_a_third_one_holds(owners: Nodes) -> None:
    for node, ms in ((A, NEW), (B, NEW), (C, OLD)):
        owners.hold(node, K, ms)
    assert run(owners, join()).settled == 0
    assert owners.cell(D, K) == owners.cell(A, K)


def test_a_promise_of_an_old_owner_needs_no_settling(owners: Nodes) -> None:
    for node in (A, B, C):
        owners.hold(node, K, OLD)
    owners.promise(B, K, NEW)
    filling = run(owners, join())
    assert (filling.copied, filling.settled) == (1, 0)
    assert owners.cell(D, K).accepted == ballot_at(OLD)


def test_a_promise_of_the_new_owner_is_settled_above_it(owners: Nodes) -> None:
    for node in (A, B, C):
        owners.hold(node, K, OLD)
    owners.promise(D, K, NEW)
    assert run(owners, join()).settled == 1
    assert owners.cell(D, K).accepted > ballot_at(NEW)
    assert owners.cell(D, K).record == record_of(OLD)


def test_a_settled_key_that_the_new_owner_did_not_take_is_settled_again(owners: Nodes) -> None:
    owners.hold(A, K, NEW)
    owners.deaf[D, ACCEPT] = 2
    run(owners, join())
    assert owners.cell(D, K).record == record_of(NEW)


def test_a_change_ends_with_an_error_where_the_new_owner_never_takes_what_is_disputed(owners: Nodes) -> None:
    owners.hold(A, K, NEW)
    owners.deaf[D, ACCEPT] = 99
    with pytest.raises(ChangeFailed, match="could not be settled"):
        run(owners, join())


@pytest.mark.parametrize("missing", [A, D])
def test_a_source_may_be_missing_and_a_target_may_not(owners: Nodes, missing: NodeId) -> None:
    for node in (A, B, C):
        owners.hold(node, K, OLD)
    others = [node for node in (A, B, C, D) if node != missing]
    if missing == D:
        with pytest.raises(ChangeFailed, match="cannot be reached"):
            run(owners, join(), adopted=others)
        assert owners.cell(D, K).record == b""
    else:
        run(owners, join(), adopted=others)
        assert owners.cell(D, K).record == record_of(OLD)


def test_slots_are_looked_at_until_nothing_is_missing_but_not_for_ever(owners: Nodes) -> None:
    numbers = iter(range(1, 99))

    def before(node: str, path: str) -> None:
        if path == "pull":
            ms = next(numbers)
            for source in (A, B, C):
                owners.hold(source, K, ms)

    owners.before = before
    filling = run(owners, join())
    assert filling.copied == owners.limits.pull_passes_max
    assert filling.done == filling.total == 1, "what is looked at again is not counted again"


def test_what_is_done_is_counted_slot_by_slot_over_the_orders_of_a_fill(owners: Nodes) -> None:
    first = slot_of(K)
    parts = iter([first + 3, first + 7, None])
    seen: list[int] = []

    def altered(node: str, path: str, answer: Answer) -> Answer:
        if path != "pull":
            return answer
        seen.append(filling.done)
        return Answer(200, encode(PullReply(FORMAT, 2, 0, 0, [], next(parts))))

    owners.altered = altered
    filling = filling_of(owners)
    fill = Fill(tuple(Slot(first + place) for place in range(10)), (A, B, C), 2, 2, (D,), (B, C, D))
    owners.wait(filling.run(Plan((fill,), 0, 0)))
    assert seen == [0, 3, 7]
    assert (filling.done, filling.total) == (10, 10)
