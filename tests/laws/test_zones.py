"""The zone test against the search, which is itself tested against brute force."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.laws.test_linearizability import KEY, delete, mutated, put, read, true_history
from twisted_kv.simulation.linearizability import Event, Fate, Kind, violation
from twisted_kv.simulation.zones import fits, zone_violation


def spans(times: int) -> list[tuple[int, int]]:
    return [(called, returned) for called in range(times) for returned in range(called, times)]


def all_histories(times: int, writes: int, reads: int) -> Iterator[list[Event]]:
    """Every history of that many puts and reads with calls and returns among so many times, up to renaming of values.

    Puts may be of unknown outcome, reads may see what was never written.
    """
    some_puts: list[tuple[int, int | None, Fate]] = [(called, returned, Fate.DONE) for called, returned in spans(times)]
    some_puts += [(called, None, Fate.UNKNOWN) for called in range(times)]
    values = [None, *(b"%d" % number for number in range(writes)), *([b"never"] if reads == 1 else [])]
    some_reads = [read(value, *span) for value in values for span in spans(times)]
    for chosen in itertools.combinations_with_replacement(some_puts, writes):
        put_them = [put(b"%d" % number, *ends) for number, ends in enumerate(chosen)]
        for seen in itertools.combinations_with_replacement(some_reads, reads):
            yield [*put_them, *seen]


@pytest.mark.parametrize(
    ("times", "writes", "reads"), [(5, 1, 2), (5, 2, 1), (4, 2, 2), (3, 2, 3), (4, 3, 1), (3, 3, 2)]
)
def test_zones_agree_with_the_search_on_all_small_histories(times: int, writes: int, reads: int) -> None:
    verdicts = set()
    for history in all_histories(times, writes, reads):
        expected = violation(history) is None
        verdicts.add(expected)
        assert (zone_violation(history) is None) == expected, history
    assert verdicts == {True, False}


def guessed_history(rng: random.Random, size: int) -> list[Event]:
    """Anything at all that the zone test can judge, with few times."""
    history = []
    for number in range(size):
        called = rng.randrange(10)
        fate = rng.choice((Fate.DONE, Fate.DONE, Fate.DONE, Fate.UNKNOWN, Fate.DROPPED))
        # A client that was told of an unknown outcome knows when; that says nothing about the effect.
        returned = called + rng.randrange(6) if fate is Fate.DONE or rng.random() < 0.3 else None
        if rng.random() < 0.4:
            history.append(put(b"%d" % number, called, returned, fate))
        else:
            value = rng.choice((None, *(b"%d" % other for other in range(size))))
            history.append(read(value, called, returned, fate))
    rng.shuffle(history)
    return history


def test_zones_agree_with_the_search_on_guessed_histories_of_every_fate() -> None:
    verdicts = []
    for seed in range(6000):
        history = guessed_history(random.Random(seed), 2 + seed % 7)
        initial = None if seed % 3 else b"old"
        expected = violation(history, initial) is None
        verdicts.append(expected)
        assert (zone_violation(history, initial) is None) == expected, f"seed {seed}: {history}"
    assert min(verdicts.count(True), verdicts.count(False)) > 500


def test_zones_agree_with_the_search_on_true_histories_with_one_mutation() -> None:
    wrong = 0
    for seed in range(600):
        rng = random.Random(seed)
        history = true_history(rng, 10 + seed % 40, overlap=rng.choice((0.5, 2.0, 5.0)), uncertain=0.2, plain=True)
        assert zone_violation(history) is None, f"seed {seed}"
        history = mutated(rng, history) if seed % 2 else shifted(rng, history)
        expected = violation(history) is None
        wrong += not expected
        assert (zone_violation(history) is None) == expected, f"seed {seed}: {history}"
    assert wrong > 200


def shifted(rng: random.Random, history: list[Event]) -> list[Event]:
    """The same history with one operation at another time."""
    i = rng.randrange(len(history))
    old, by = history[i], rng.uniform(-6, 6)
    moved = replace(old, called=old.called + by, returned=None if old.returned is None else old.returned + by)
    return [*history[:i], moved, *history[i + 1 :]]


def test_ten_thousand_operations_are_judged() -> None:
    history = true_history(random.Random(1), 10_000, overlap=5.0, plain=True)
    assert zone_violation(history) is None
    stale = replace(next(event for event in history if event.kind is Kind.READ), called=20_000.0, returned=20_001.0)
    assert zone_violation([*history, stale, put(b"new", 15_000, 15_001)]) is not None


def test_empty_history_is_linearizable() -> None:
    assert zone_violation([]) is None


def test_read_of_the_initial_value_must_come_before_what_is_written() -> None:
    assert zone_violation([read(None, 0, 1), put(b"1", 1, 2)]) is None
    assert zone_violation([put(b"1", 0, 1), read(None, 1, 2)]) is None
    assert zone_violation([put(b"1", 0, 1), read(None, 2, 3)]) is not None
    assert zone_violation([read(b"old", 0, 1)], initial=b"old") is None
    assert zone_violation([read(None, 0, 1)], initial=b"old") is not None


def test_write_of_unknown_outcome_may_take_effect_late_or_never() -> None:
    lost = put(b"2", 2, 3, Fate.UNKNOWN)
    assert zone_violation([put(b"1", 0, 1), lost, read(b"1", 10, 11), read(b"1", 12, 13)]) is None
    assert zone_violation([put(b"1", 0, 1), lost, read(b"1", 10, 11), read(b"2", 12, 13)]) is None
    assert zone_violation([put(b"1", 0, 1), lost, read(b"2", 10, 11), read(b"1", 12, 13)]) is not None


def test_story_tells_of_a_value_that_nobody_wrote() -> None:
    story = zone_violation([put(b"1", 0, 1), put(b"2", 2, 3, Fate.DROPPED), read(b"2", 4, 5)])
    assert story is not None
    assert "b'2' was read, and no write of it can have taken effect" in story
    assert "4..5 r read b'2' done" in story


def test_story_tells_of_a_read_that_came_before_its_write() -> None:
    story = zone_violation([read(b"1", 0, 1), put(b"1", 2, 3), put(b"2", 2, 3)])
    assert story is not None
    assert "b'1' was read before it was written" in story
    assert "0..1 r read b'1' done\n    2..3 p put b'1' done" in story
    assert "b'2'" not in story


def test_story_tells_of_a_stale_read_by_both_values() -> None:
    story = zone_violation([put(b"1", 0, 1), put(b"2", 2, 3), read(b"1", 4, 5), put(b"3", 6, 7)])
    assert story is not None
    assert "the key held b'1' from 1 to 4, and in between, from 2 to 3, b'2' came and went" in story
    assert "0..1 p put b'1' done\n    2..3 p put b'2' done\n    4..5 r read b'1' done" in story
    assert "b'3'" not in story


def test_story_tells_of_two_values_held_at_once() -> None:
    story = zone_violation([put(b"1", 0, 1), put(b"2", 0, 2), read(b"1", 5, 6), read(b"2", 4, 6)])
    assert story is not None
    assert "the key held b'1' from 1 to 5, and b'2' from 2 to 4" in story


def test_keys_are_judged_apart() -> None:
    other = Event("p", Kind.PUT, b"other", b"1", 2, 3)
    history = [put(b"1", 0, 1), other, read(b"1", 4, 5)]
    assert zone_violation(history) is None
    story = zone_violation([*history, Event("r", Kind.READ, b"other", None, 4, 5)])
    assert story is not None
    assert "b'other'" in story


def test_only_reads_and_writes_of_unique_values_fit() -> None:
    assert fits([])
    assert fits([put(b"1", 0, 1), put(b"2", 0, None, Fate.UNKNOWN), read(b"1", 0, 1), read(b"1", 0, 1)])
    assert not fits([put(b"1", 0, 1), put(b"1", 2, 3)])
    assert not fits([put(b"1", 0, 1), put(b"1", 2, None, Fate.UNKNOWN)])
    assert not fits([delete(0, 1)])
    assert fits([put(b"1", 0, 1), Event("d", Kind.DELETE, KEY, b"its own", 2, 3)])
    assert not fits([put(b"1", 0, 1), Event("d", Kind.DELETE, KEY, b"1", 2, 3)])
    assert not fits([Event("s", Kind.SWAP, KEY, b"1", 0, 1)])
    assert not fits([put(b"old", 0, 1)], initial=b"old")


def test_delete_that_names_its_tombstone_is_judged_like_a_put() -> None:
    history = [put(b"1", 0, 1), Event("d", Kind.DELETE, KEY, b"gone", 2, 3), read(b"gone", 4, 5)]
    assert zone_violation(history) is None
    assert zone_violation([*history, read(b"1", 6, 7)]) is not None
    assert zone_violation([*history, put(b"2", 6, 7), read(b"gone", 8, 9)]) is not None


def test_dropped_operations_of_any_kind_fit() -> None:
    refused = put(b"1", 2, 3, Fate.DROPPED)
    history = [put(b"1", 0, 1), refused, delete(2, 3, Fate.DROPPED), read(b"1", 4, 5)]
    assert fits(history)
    assert zone_violation(history) is None


def test_key_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="unique values"):
        zone_violation([put(b"1", 0, 1), put(b"1", 2, 3)])
