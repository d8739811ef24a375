"""Shortened histories are wrong for the reason that the whole was wrong, and nothing in them can go."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.laws.test_linearizability import delete, guessed_history, mutated, put, read, swap, true_history
from twisted_kv.simulation.linearizability import Event, Fate, Kind, violation
from twisted_kv.simulation.shortest import shortest


def seen_by(event: Event) -> list[bytes | None]:
    if event.kind is Kind.READ:
        return [event.value] if event.fate is Fate.DONE else []
    return [event.base] if event.kind is Kind.SWAP else []


def unexplained(history: Sequence[Event]) -> list[Event]:
    """Those that saw a value which nobody writes."""
    written = {None, *(event.value for event in history if event.kind is not Kind.READ)}
    return [event for event in history if any(value not in written for value in seen_by(event))]


def without(history: Sequence[Event], gone: Event) -> list[Event]:
    """The history without one operation, and whoever saw what it wrote; for values that are unique."""
    left = [event for event in history if event is not gone]
    if gone.kind is not Kind.READ:
        for event in [event for event in left if gone.value in seen_by(event)]:
            left = without(left, event)
    return left


def wrong_histories(count: int, plain: bool) -> list[list[Event]]:
    found: list[list[Event]] = []
    for seed in range(20 * count):
        rng = random.Random(seed)
        history = mutated(rng, true_history(rng, 10 + seed % 30, overlap=3.0, uncertain=0.2, plain=plain))
        if violation(history) is not None:
            found.append(history)
            if len(found) == count:
                return found
    raise AssertionError("too few of them are wrong")


@pytest.mark.parametrize("plain", [True, False])
def test_shortest_part_is_wrong_and_explains_whatever_was_explained(plain: bool) -> None:
    for history in wrong_histories(150, plain):
        part = shortest(history)
        assert violation(part) is not None
        assert all(event in history for event in part)
        assert unexplained(part) == [event for event in unexplained(history) if event in part]


def test_nothing_can_go_from_the_shortest_part() -> None:
    for history in wrong_histories(150, plain=True):
        part = shortest(history)
        for event in part:
            if event.kind is Kind.READ or event.value is not None:
                assert violation(without(part, event)) is None, part


def test_dropping_operations_of_a_linearizable_history_never_makes_it_wrong() -> None:
    """Values that are written again and again, in a linearizable history beside one wrong key's."""
    for seed in range(4000):
        rng = random.Random(seed)
        history = [
            replace(event, returned=event.called + rng.randrange(3)) if event.fate is Fate.UNKNOWN else event
            for event in guessed_history(rng, 2 + seed % 7)
        ]
        if violation(history) is not None:
            continue
        # The one thing that is wrong is the last read: it must be in every part that is wrong.
        last = read(b"never", 100, 101)
        assert shortest([*history, last]) == [last], f"seed {seed}: {history}"


def test_parts_of_guessed_histories_are_wrong_and_cannot_be_shortened_again() -> None:
    for seed in range(3000):
        history = guessed_history(random.Random(seed), 2 + seed % 7)
        if violation(history) is not None:
            part = shortest(history)
            assert violation(part) is not None
            assert len(part) <= len(history)
            assert shortest(part) == part, "something could go, and stayed"


def test_stale_read_among_many_operations_leaves_three() -> None:
    history = true_history(random.Random(1), 300, overlap=3.0, plain=True)
    stale = [put(b"old", 400, 401), put(b"new", 402, 403), read(b"old", 404, 405)]
    assert shortest([*history, *stale, put(b"later", 406, 407), read(b"later", 408, 409)]) == stale


def test_reads_that_go_backwards_stay_with_their_writes() -> None:
    wrong = [put(b"1", 0, 1), put(b"2", 2, 9), read(b"2", 3, 4), read(b"1", 5, 6)]
    assert shortest([read(b"1", 2, 3), *wrong, read(b"2", 12, 13)]) == wrong


def test_read_of_what_nobody_wrote_stands_alone() -> None:
    wrong = read(b"never", 4, 5)
    assert shortest([put(b"1", 0, 1), wrong, read(b"1", 2, 3), put(b"2", 6, 7)]) == [wrong]


def test_read_of_what_was_refused_stays_with_the_refused_write() -> None:
    wrong = [put(b"2", 2, 3, Fate.DROPPED), read(b"2", 4, 5)]
    assert shortest([put(b"1", 0, 1), *wrong]) == wrong


def test_read_before_its_write_stays_with_the_write() -> None:
    wrong = [read(b"1", 0, 1), put(b"1", 2, 3)]
    assert shortest([*wrong, put(b"2", 4, 5), read(b"2", 6, 7)]) == wrong


def test_changes_that_both_found_the_same_value_stay_with_its_write() -> None:
    wrong = [put(b"1", 0, 1), swap(b"1", b"2", 2, 5), swap(b"1", b"3", 3, 6)]
    assert shortest([put(b"0", -3, -2), *wrong, read(b"3", 7, 8)]) == wrong


def test_write_takes_along_who_saw_what_was_made_of_it() -> None:
    chain = [put(b"1", 0, 1), swap(b"1", b"2", 2, 3), swap(b"2", b"3", 4, 5), read(b"3", 6, 7)]
    wrong = [put(b"4", 8, 9), read(None, 10, 11)]
    assert shortest([*chain, *wrong]) == wrong


def test_absence_seen_before_a_delete_needs_no_delete() -> None:
    wrong = [put(b"1", 0, 1), read(None, 2, 3)]
    assert shortest([*wrong, delete(10, 11), read(None, 12, 13)]) == wrong


def test_read_that_came_before_a_write_of_the_same_value_again_needs_only_the_first() -> None:
    wrong = [delete(0, 1), put(b"1", 2, 3), read(None, 4, 5)]
    assert shortest([*wrong, delete(10, 11), read(None, 12, 13)], initial=b"old") == wrong


def test_change_of_unknown_outcome_may_have_seen_what_was_written_after_its_client_gave_up() -> None:
    late = [put(b"1", 0, 1), swap(b"1", b"2", 2, 3, Fate.UNKNOWN), put(b"3", 4, 5), read(b"2", 5.5, 9)]
    late += [read(b"2", 5.9, 30), read(b"2", 5.9, 30), put(b"1", 6, 7), *(read(b"2", 10 + i, 30) for i in range(6))]
    assert violation(late) is None
    wrong = read(b"never", 5.8, 30)
    # The first half to go begins with the second put of 1: without it, what is left of the change explains nothing.
    assert shortest([*late, wrong]) == [wrong]


def test_lost_delete_stays_with_what_came_back() -> None:
    wrong = [put(b"1", 0, 1), delete(2, 3), read(b"1", 6, 7)]
    assert shortest([wrong[0], wrong[1], read(None, 4, 5), wrong[2]]) == wrong


def test_only_the_first_wrong_key_is_kept() -> None:
    def on(key: bytes) -> list[Event]:
        return [Event("p", Kind.PUT, key, b"1", 0, 1), Event("r", Kind.READ, key, None, 2, 3)]

    fine = Event("p", Kind.PUT, b"a", b"1", 0, 1)
    assert shortest([*on(b"c"), *on(b"b"), fine]) == on(b"b")


def test_initial_value_explains_what_saw_it() -> None:
    wrong = [put(b"1", 0, 1), read(b"old", 2, 3)]
    assert shortest([read(b"old", -2, -1), *wrong], initial=b"old") == wrong


def test_same_history_gives_the_same_part() -> None:
    for history in wrong_histories(20, plain=False):
        assert shortest(history) == shortest(list(history))


def test_part_is_wrong_when_the_judgements_run_out() -> None:
    for history in wrong_histories(20, plain=False):
        lengths = [len(shortest(history, judgements_max=judgements)) for judgements in (0, 3, 10, 2000)]
        assert lengths[0] == len(history)
        assert lengths == sorted(lengths, reverse=True)
        assert violation(shortest(history, judgements_max=3)) is not None


def test_history_without_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing wrong"):
        shortest([put(b"1", 0, 1), read(b"1", 2, 3)])
