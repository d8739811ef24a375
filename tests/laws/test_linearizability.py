"""The checker of histories against brute force: a checker that is wrong makes every test that uses it worthless."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from twisted_kv.simulation.linearizability import Event, Fate, Kind, violation

KEY = b"k"


def put(value: bytes, called: float, returned: float | None, fate: Fate = Fate.DONE) -> Event:
    return Event("p", Kind.PUT, KEY, value, called, returned, fate)


def delete(called: float, returned: float | None, fate: Fate = Fate.DONE) -> Event:
    return Event("d", Kind.DELETE, KEY, None, called, returned, fate)


def read(value: bytes | None, called: float, returned: float | None, fate: Fate = Fate.DONE) -> Event:
    return Event("r", Kind.READ, KEY, value, called, returned, fate)


def swap(
    base: bytes | None, value: bytes | None, called: float, returned: float | None, fate: Fate = Fate.DONE
) -> Event:
    return Event("s", Kind.SWAP, KEY, value, called, returned, fate, base)


def orders(history: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """All sequences of the operations that are done and any of the uncertain writes."""
    done = [event for event in history if event.fate is Fate.DONE]
    maybe = [event for event in history if event.fate is Fate.UNKNOWN and event.kind is not Kind.READ]
    for count in range(len(maybe) + 1):
        for chosen in itertools.combinations(maybe, count):
            yield from itertools.permutations([*done, *chosen])


def explains(order: Sequence[Event]) -> bool:
    held: bytes | None = None
    latest_call = float("-inf")
    for event in order:
        latest_call = max(latest_call, event.called)
        if event.fate is Fate.DONE and event.returned is not None and event.returned < latest_call:
            return False
        if event.kind is Kind.SWAP and event.base != held:
            return False
        if event.kind is not Kind.READ:
            held = event.value
        elif event.value != held:
            return False
    return True


def linearizable_by_brute_force(history: Sequence[Event]) -> bool:
    return any(explains(order) for order in orders(history))


def guessed_history(rng: random.Random, size: int) -> list[Event]:
    """Anything at all, with few values and few times, so that about half of the histories are wrong."""
    history = []
    for _ in range(size):
        called = rng.randrange(8)
        returned = called + rng.randrange(5)
        kind = rng.choice((Kind.PUT, Kind.DELETE, Kind.SWAP, Kind.READ, Kind.READ, Kind.READ))
        value = None if kind is Kind.DELETE else rng.choice((b"1", b"2", b"3"))
        if kind is Kind.READ and rng.random() < 0.3:
            value = None
        fate = rng.choice((Fate.DONE, Fate.DONE, Fate.DONE, Fate.UNKNOWN, Fate.DROPPED))
        base = rng.choice((None, b"1", b"2", b"3")) if kind is Kind.SWAP else None
        history.append(Event("c", kind, KEY, value, called, returned if fate is Fate.DONE else None, fate, base))
    return history


def true_history(
    rng: random.Random, size: int, overlap: float, uncertain: float = 0.1, plain: bool = False
) -> list[Event]:
    """A linearizable history: operations take effect one after another, calls and returns lie around that.

    :param overlap: how far calls and returns reach, in operations.
    :param uncertain: the share of writes whose client never learns how they ended.
    :param plain: whether there are only reads and puts.
    """
    held: bytes | None = None
    history = []
    for moment in range(size):
        called = moment - rng.random() * overlap
        returned = moment + rng.random() * overlap
        client = f"c{moment}"
        if rng.random() < 0.5:
            history.append(Event(client, Kind.READ, KEY, held, called, returned))
            continue
        kind = Kind.DELETE if not plain and rng.random() < 0.2 else Kind.PUT
        value = None if kind is Kind.DELETE else b"%d" % moment
        base = None
        if not plain and kind is Kind.PUT and rng.random() < 0.4:
            kind, base = Kind.SWAP, held
        if rng.random() >= uncertain:
            held = value
            history.append(Event(client, kind, KEY, value, called, returned, base=base))
        else:
            if rng.random() < 0.5:
                held = value
            history.append(Event(client, kind, KEY, value, called, None, Fate.UNKNOWN, base))
    rng.shuffle(history)
    return history


def mutated(rng: random.Random, history: list[Event]) -> list[Event]:
    """The same history with one read that saw something else."""
    reads = [i for i, event in enumerate(history) if event.kind is Kind.READ]
    values = [event.value for event in history if event.kind is not Kind.READ] + [None]
    if not reads:
        return history
    i = rng.choice(reads)
    old = history[i]
    other = rng.choice(values)
    return [*history[:i], Event("m", Kind.READ, KEY, other, old.called, old.returned), *history[i + 1 :]]


def test_checker_agrees_with_brute_force_on_small_histories() -> None:
    verdicts = set()
    for seed in range(3000):
        history = guessed_history(random.Random(seed), 1 + seed % 5)
        expected = linearizable_by_brute_force(history)
        verdicts.add(expected)
        assert (violation(history) is None) == expected, f"seed {seed}: {history}"
    assert verdicts == {True, False}


def test_checker_agrees_with_brute_force_on_true_histories_with_one_mutation() -> None:
    wrong = 0
    for seed in range(1500):
        rng = random.Random(seed)
        history = true_history(rng, 3 + seed % 4, overlap=2.0, uncertain=0.2)
        assert violation(history) is None, f"seed {seed}"
        history = mutated(rng, history)
        expected = linearizable_by_brute_force(history)
        wrong += not expected
        assert (violation(history) is None) == expected, f"seed {seed}: {history}"
    assert wrong > 200


def ends(times: int) -> Iterator[tuple[int, int | None, Fate]]:
    """Every call and return among so many times, and every call that is never answered."""
    for called in range(times):
        yield called, None, Fate.UNKNOWN
        yield from ((called, returned, Fate.DONE) for returned in range(called, times))


@pytest.mark.parametrize(("times", "writes"), [(3, []), (2, [b"1"]), (2, [None])])
def test_checker_agrees_with_brute_force_on_all_small_histories_of_two_swaps(
    times: int, writes: list[bytes | None]
) -> None:
    """Two conditional changes, on any value, to two other values or back to the one that was put; a put or delete
    or none; and a read."""
    held = [None, b"1", b"2", b"3"]
    firsts = [swap(base, value, *end) for base in held for value in (b"1", b"2") for end in ends(times)]
    seconds = [swap(base, b"3", *end) for base in held for end in ends(times)]
    reads = [read(value, *end) for value in held for end in ends(times) if end[2] is Fate.DONE]
    puts = [Event("p", Kind.PUT, KEY, value, *end) for value in writes for end in ends(times)]
    verdicts = set()
    for history in itertools.product(firsts, seconds, reads, *([puts] if puts else [])):
        expected = linearizable_by_brute_force(history)
        verdicts.add(expected)
        assert (violation(history) is None) == expected, history
    assert verdicts == {True, False}


def test_checker_agrees_with_brute_force_on_guessed_histories_of_mostly_swaps() -> None:
    verdicts = []
    for seed in range(2500):
        rng = random.Random(seed)
        history = []
        for _ in range(3 + seed % 4):
            called = rng.randrange(6)
            fate = rng.choice((Fate.DONE, Fate.DONE, Fate.UNKNOWN))
            returned = called + rng.randrange(6) if fate is Fate.DONE or rng.random() < 0.3 else None
            kind = rng.choice((Kind.SWAP, Kind.SWAP, Kind.SWAP, Kind.READ, Kind.PUT))
            base, value = rng.choice((None, b"1", b"2", b"3")), rng.choice((None, b"1", b"2", b"3"))
            history.append(Event("c", kind, KEY, value, called, returned, fate, base if kind is Kind.SWAP else None))
        expected = linearizable_by_brute_force(history)
        verdicts.append(expected)
        assert (violation(history) is None) == expected, f"seed {seed}: {history}"
    assert min(verdicts.count(True), verdicts.count(False)) > 300


def test_checker_agrees_with_brute_force_where_one_swap_found_something_else() -> None:
    wrong = 0
    for seed in range(1500):
        rng = random.Random(seed)
        history = true_history(rng, 3 + seed % 4, overlap=2.0, uncertain=0.2)
        swaps = [i for i, event in enumerate(history) if event.kind is Kind.SWAP]
        if swaps:
            i = rng.choice(swaps)
            history[i] = replace(history[i], base=rng.choice([None, *(event.value for event in history)]))
            expected = linearizable_by_brute_force(history)
            wrong += not expected
            assert (violation(history) is None) == expected, f"seed {seed}: {history}"
    assert wrong > 100


def test_long_crowded_histories_are_judged() -> None:
    """As the next ones, it ends only if the search does not go through all orders."""
    for seed in range(40):
        rng = random.Random(seed)
        history = true_history(rng, 60, overlap=6.0)
        assert violation(history) is None, f"seed {seed}"
        violation(mutated(rng, history))


def test_a_thousand_operations_are_judged() -> None:
    assert violation(true_history(random.Random(1), 1000, overlap=3.0)) is None


def test_many_writes_at_once_are_judged_where_most_are_as_good_as_one_another() -> None:
    crowd = [delete(0.0, 1.0) for _ in range(20)] + [put(b"unseen %d" % n, 0.0, 1.0) for n in range(20)]
    seen = [put(b"seen %d" % n, 0.0, 1.0) for n in range(4)] + [read(b"seen %d" % n, 0.0, 1.5) for n in range(4)]
    assert violation([*crowd, *seen, read(None, 2.0, 3.0)]) is None
    assert violation([*crowd, *seen, read(b"seen 2", 2.0, 3.0), read(b"seen 3", 2.0, 3.0)]) is not None


def test_every_mutation_that_shows_a_value_never_written_is_found_in_long_histories() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        history = true_history(rng, 60, overlap=6.0)
        history.append(read(b"never written", 30.0, 31.0))
        assert violation(history) is not None, f"seed {seed}"


def test_empty_history_is_linearizable() -> None:
    assert violation([]) is None


def test_first_read_sees_the_initial_value() -> None:
    assert violation([read(None, 0, 1)]) is None
    assert violation([read(b"old", 0, 1)]) is not None
    assert violation([read(b"old", 0, 1)], initial=b"old") is None


def test_stale_read_is_a_violation() -> None:
    assert violation([put(b"1", 0, 1), put(b"2", 2, 3), read(b"1", 4, 5)]) is not None


def test_reads_that_go_backwards_are_a_violation() -> None:
    history = [put(b"1", 0, 1), put(b"2", 2, 9), read(b"2", 3, 4), read(b"1", 5, 6)]
    assert violation(history) is not None


def test_read_beside_a_write_may_see_either_value() -> None:
    for value in (b"1", b"2"):
        assert violation([put(b"1", 0, 1), put(b"2", 2, 5), read(value, 3, 4)]) is None


def test_operations_that_touch_in_time_may_take_either_order() -> None:
    assert violation([put(b"1", 0, 1), read(None, 1, 2)]) is None


def test_write_of_unknown_outcome_may_take_effect_late_or_never() -> None:
    lost = put(b"2", 2, None, Fate.UNKNOWN)
    assert violation([put(b"1", 0, 1), lost, read(b"1", 10, 11), read(b"1", 12, 13)]) is None
    assert violation([put(b"1", 0, 1), lost, read(b"1", 10, 11), read(b"2", 12, 13)]) is None


def test_write_of_unknown_outcome_takes_effect_once_and_not_before_its_call() -> None:
    lost = put(b"2", 2, None, Fate.UNKNOWN)
    assert violation([put(b"1", 0, 1), lost, read(b"2", 3, 4), read(b"1", 5, 6)]) is not None
    assert violation([lost, read(b"2", 0, 1)]) is not None
    twice = [lost, read(b"2", 3, 4), put(b"3", 5, 6), read(b"3", 7, 8), read(b"2", 9, 10)]
    assert violation(twice) is not None


def test_deletes_of_unknown_outcome_each_count_once() -> None:
    again = [put(b"1", 0, 1), read(None, 4, 5), put(b"2", 6, 7), read(None, 8, 9)]
    assert violation([*again, delete(2, None, Fate.UNKNOWN)]) is not None
    assert violation([*again, delete(2, None, Fate.UNKNOWN), delete(3, None, Fate.UNKNOWN)]) is None


def test_only_one_of_two_changes_can_find_the_same_value() -> None:
    assert violation([put(b"1", 0, 1), swap(b"1", b"2", 2, 9), swap(b"1", b"3", 2, 9)]) is not None
    assert violation([put(b"1", 0, 1), swap(b"1", b"2", 2, 9), swap(b"2", b"3", 2, 9)]) is None
    twice = [put(b"1", 0, 1), put(b"1", 2, 9), swap(b"1", b"2", 2, 9), swap(b"1", b"3", 2, 9)]
    assert violation(twice) is None


def test_change_that_found_a_stale_value_is_a_violation() -> None:
    assert violation([put(b"1", 0, 1), put(b"2", 2, 3), swap(b"1", b"3", 4, 5)]) is not None
    assert violation([put(b"1", 0, 1), put(b"2", 2, 5), swap(b"1", b"3", 4, 5), read(b"2", 6, 7)]) is None


def test_change_may_find_nothing_or_the_initial_value() -> None:
    assert violation([swap(None, b"1", 0, 1), read(b"1", 2, 3)]) is None
    assert violation([swap(b"old", b"1", 0, 1)]) is not None
    assert violation([swap(b"old", b"1", 0, 1)], initial=b"old") is None


def test_change_of_unknown_outcome_takes_effect_only_where_the_key_holds_its_base() -> None:
    lost = swap(b"1", b"2", 2, None, Fate.UNKNOWN)
    assert violation([put(b"1", 0, 1), lost, read(b"1", 4, 5), read(b"2", 6, 7)]) is None
    assert violation([put(b"1", 0, 1), lost, put(b"3", 4, 5), read(b"3", 6, 7), read(b"2", 8, 9)]) is not None
    assert violation([put(b"1", 0, 1), lost, put(b"3", 4, 5), read(b"2", 6, 7)]) is not None


def test_changes_of_unknown_outcome_may_follow_one_another_unseen() -> None:
    chain = [swap(b"%d" % i, b"%d" % (i + 1), 2, None, Fate.UNKNOWN) for i in range(1, 5)]
    assert violation([put(b"1", 0, 1), *chain, read(b"5", 4, 5)]) is None
    assert violation([put(b"1", 0, 1), *chain[1:], read(b"5", 4, 5)]) is not None
    assert violation([put(b"1", 0, 1), *chain, swap(b"5", b"6", 4, 5)]) is None


def test_dropped_change_must_never_be_read_and_needs_no_base() -> None:
    refused = swap(b"never", b"2", 2, 3, Fate.DROPPED)
    assert violation([put(b"1", 0, 1), refused, read(b"1", 4, 5)]) is None
    assert violation([put(b"1", 0, 1), refused, read(b"2", 4, 5)]) is not None


def test_dropped_write_must_never_be_read() -> None:
    refused = put(b"2", 2, 3, Fate.DROPPED)
    assert violation([put(b"1", 0, 1), refused, read(b"1", 4, 5)]) is None
    assert violation([put(b"1", 0, 1), refused, read(b"2", 4, 5)]) is not None


def test_resurrection_after_a_delete_is_a_violation() -> None:
    assert violation([put(b"1", 0, 1), delete(2, 3), read(None, 4, 5), read(b"1", 6, 7)]) is not None


def test_keys_are_judged_apart() -> None:
    other = Event("p", Kind.PUT, b"other", b"2", 2, 3)
    assert violation([put(b"1", 0, 1), other, read(b"1", 4, 5)]) is None
    wrong = Event("r", Kind.READ, b"other", b"1", 4, 5)
    story = violation([put(b"1", 0, 1), other, wrong])
    assert story is not None
    assert "b'other'" in story


def test_violation_names_the_operation_that_fits_nowhere() -> None:
    story = violation([put(b"1", 0, 1), put(b"2", 2, 3), read(b"1", 4, 5)])
    assert story is not None
    assert "4..5 r read b'1' done" in story


def test_operation_that_is_done_must_have_an_end() -> None:
    with pytest.raises(ValueError, match="returns after its call"):
        put(b"1", 2, None)
    with pytest.raises(ValueError, match="returns after its call"):
        put(b"1", 2, 1)
