"""Settling: keys on which owners differ, proposed again with majorities of both sides."""

from __future__ import annotations

import pytest

from tests.rooms.nodes import STATE, Nodes, ballot_at, record_of
from twisted_kv.errors import ChangeFailed
from twisted_kv.names import Key, NodeId
from twisted_kv.planning import Fill
from twisted_kv.register import ACCEPT, PREPARE, READ, Op
from twisted_kv.ring import slot_of
from twisted_kv.settling import ATTEMPTS, Settling
from twisted_kv.versions import HybridClock

K = Key(b"k")
A, B, C, D, E = map(NodeId, "abcde")


@pytest.fixture
def owners() -> Nodes:
    return Nodes(A, B, C, D, E)


def settling_of(owners: Nodes, *present: NodeId, now_ms: int = 100) -> Settling:
    return Settling(owners.control, HybridClock(lambda: now_ms, 7), STATE, owners.seats, present or (A, B, C, D, E))


def fill_of(*targets: NodeId, gets: tuple[NodeId, ...] = (C, D, E)) -> Fill:
    return Fill((slot_of(K),), (A, B, C), 2, 2, targets or (D, E), gets)


def settle(owners: Nodes, settling: Settling, fill: Fill, *keys: bytes) -> None:
    owners.wait(settling.settle(fill, [Key(key) for key in keys or (K,)]))


def test_the_newest_is_proposed_to_old_and_new_owners_under_a_ballot_of_its_own(owners: Nodes) -> None:
    owners.hold(A, K, 1, b"older")
    owners.hold(B, K, 2, b"newer")
    settling = settling_of(owners)
    settle(owners, settling, fill_of())
    assert settling.settled == 1
    cells = {owners.cell(node, K) for node in (A, B, C, D, E)}
    assert {cell.record for cell in cells} == {record_of(2, b"newer")}
    (ballot,) = {cell.accepted for cell in cells}
    assert ballot > ballot_at(2), "its version stays, its ballot does not"


def test_many_keys_are_settled_in_one_round_of_two_questions(owners: Nodes) -> None:
    keys = [b"k%d" % number for number in range(20)]
    for key in keys:
        owners.hold(A, key, 1, key)
    settle(owners, settling_of(owners), fill_of(), *keys)
    assert {owners.value(E, key) for key in keys} == set(keys)
    assert len(owners.asked) == 2 * 5


def test_a_key_that_nobody_holds_is_settled_without_being_proposed(owners: Nodes) -> None:
    owners.promise(A, K, 3)
    settling = settling_of(owners)
    settle(owners, settling, fill_of())
    assert settling.settled == 1
    assert {owners.value(node, K) for node in (A, B, C, D, E)} == {None}


def test_a_promise_higher_than_its_clock_is_learned_and_overtaken(owners: Nodes) -> None:
    owners.hold(A, K, 1)
    for node in (A, B):
        owners.promise(node, K, 1_000)
    settle(owners, settling_of(owners), fill_of())
    assert owners.cell(D, K).accepted > ballot_at(1_000)


def test_it_is_settled_with_a_majority_of_the_old_owners_and_every_one_who_is_filled(owners: Nodes) -> None:
    owners.hold(B, K, 1)
    settle(owners, settling_of(owners, B, C, D, E), fill_of())
    assert owners.cell(A, K).record == b""
    assert {owners.cell(node, K).record for node in (B, C, D, E)} == {record_of(1)}


@pytest.mark.parametrize("silent", [(A, B), (A, C), (D, E), (D,)])
def test_it_is_not_settled_without_a_majority_of_each_side_and_every_one_who_is_filled(
    owners: Nodes, silent: tuple[str, ...]
) -> None:
    for node in (A, B, C):
        owners.hold(node, K, 1)
    owners.silent = set(silent)
    with pytest.raises(ChangeFailed, match="1 keys on which a, b, c differ"):
        settle(owners, settling_of(owners), fill_of())


def test_what_comes_between_the_two_questions_at_a_target_is_as_good(owners: Nodes) -> None:
    owners.hold(A, K, 1, b"settled")

    def before(node: str, path: str) -> None:
        if node == D and len([one for one in owners.asked if one == (D, "batch")]) == 2:
            owners.hold(D, K, 900, b"a client's")

    owners.before = before
    settling = settling_of(owners)
    settle(owners, settling, fill_of())
    assert settling.settled == 1
    assert owners.value(D, K) == b"a client's"
    assert owners.value(E, K) == b"settled"


def test_a_rival_who_always_promises_more_is_given_up_against(owners: Nodes) -> None:
    owners.hold(A, K, 1)
    ms = iter(range(1_000, 100_000, 1_000))

    def before(node: str, path: str) -> None:
        for other in (A, B, C):
            owners.promise(other, K, next(ms))

    owners.before = before
    with pytest.raises(ChangeFailed):
        settle(owners, settling_of(owners), fill_of())
    assert len(owners.asked) <= 2 * 5 * ATTEMPTS


def test_one_key_that_cannot_be_settled_does_not_undo_the_others(owners: Nodes) -> None:
    owners.hold(A, b"good", 1)
    for node in (A, B, C):
        owners.hold(node, b"bad", 1)
        owners.engines[node].unreadable.add(b"bad")
    with pytest.raises(ChangeFailed, match="1 keys"):
        settle(owners, settling_of(owners), fill_of(), b"good", b"bad")
    assert owners.value(D, b"good") == b"v"


def test_questions_that_are_missed_once_leave_no_two_new_owners_apart(owners: Nodes) -> None:
    owners.hold(A, K, 1)
    owners.hold(B, K, 1)
    owners.deaf[A, ACCEPT] = owners.deaf[B, ACCEPT] = 1
    owners.deaf[C, PREPARE] = 1
    settle(owners, settling_of(owners), fill_of())
    replies = [
        owners.wait(owners.control.ask(owners.seats[node], STATE, [Op(READ, K)]))[0].accepted for node in (C, D, E)
    ]
    assert len(set(replies)) == 1
