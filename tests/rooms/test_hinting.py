"""Hints: what others have missed is known until they have it, or its slot is marked for repair instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from twisted_kv.hinting import Hint, Hints
from twisted_kv.limits import Limits
from twisted_kv.names import Key, NodeId, Slot
from twisted_kv.ring import slot_of
from twisted_kv.storage.engine import Engine
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.versions import Ballot

A, B = NodeId("n-1"), NodeId("n-2")
HOUR_MS = 3_600_000


def ballot(number: int) -> Ballot:
    return Ballot(number.to_bytes(16, "big"))


def hint(owner: NodeId, key: bytes, number: int = 1, at_ms: int = 0) -> Hint:
    return Hint(owner, Key(key), ballot(number), at_ms)


def everything(hints: Hints, owner: NodeId, limit: int = 1_000) -> list[Hint]:
    """Read all that there is for an owner, page by page."""
    return list(_pages(hints, owner, limit))


def _pages(hints: Hints, owner: NodeId, limit: int) -> Iterator[Hint]:
    after = Key(b"")
    while page := hints.page(owner, after, limit):
        yield from page
        if len(page) < limit:
            return
        after = page[-1].key


@pytest.fixture
def engine() -> Engine:
    return MemoryEngine()


@pytest.fixture
def hints(engine: Engine) -> Hints:
    return Hints(engine, Limits())


def test_a_hint_is_given_for_the_owner_it_is_for(hints: Hints) -> None:
    hints.keep([hint(A, b"k", 3, 7), hint(B, b"l")])
    assert everything(hints, A) == [hint(A, b"k", 3, 7)]
    assert everything(hints, B) == [hint(B, b"l")]
    assert everything(hints, NodeId("n-3")) == []


def test_an_owner_whose_name_begins_like_another_ones_has_hints_of_its_own(hints: Hints) -> None:
    longer = NodeId(A + "0")
    hints.keep([hint(A, b"k"), hint(longer, b"k"), hint(longer, b"0")])
    assert everything(hints, A) == [hint(A, b"k")]
    assert everything(hints, longer) == [hint(longer, b"0"), hint(longer, b"k")]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_give_every_hint_once_and_by_key(hints: Hints, limit: int) -> None:
    keys = [b"\0", b"\0\0", b"\x01", b"a", b"a\0", b"a\0b", b"ab", b"\xff", b"\xff\xff", b"k" * 300]
    hints.keep(hint(A, key) for key in keys)
    hints.keep([hint(B, b"other")])
    assert [found.key for found in everything(hints, A, limit)] == sorted(keys)


def test_the_newest_ballot_that_was_missed_stands_with_the_time_of_the_first(hints: Hints) -> None:
    for number, at_ms in ((2, 10), (5, 20), (3, 30)):
        hints.keep([hint(A, b"k", number, at_ms)])
    assert everything(hints, A) == [hint(A, b"k", 5, 10)]
    assert hints.counts == {A: 1}


@pytest.mark.parametrize("known", [False, True])
def test_so_does_the_newest_of_those_that_come_together(hints: Hints, known: bool) -> None:
    if known:
        hints.keep([hint(A, b"k", 1, 5)])
    hints.keep([hint(A, b"k", 2, 10), hint(A, b"k", 5, 20), hint(A, b"k", 3, 30)])
    assert everything(hints, A) == [hint(A, b"k", 5, 5 if known else 10)]
    assert hints.counts == {A: 1}


def test_a_hint_is_forgotten_when_its_owner_has_what_it_says(hints: Hints) -> None:
    hints.keep([hint(A, b"k", 3), hint(A, b"l", 3), hint(A, b"m", 3), hint(B, b"k", 3)])
    hints.drop(A, [(b"k", ballot(3)), (b"l", ballot(9))])
    assert everything(hints, A) == [hint(A, b"m", 3)]
    assert everything(hints, B) == [hint(B, b"k", 3)]
    assert hints.counts == {A: 1, B: 1}


def test_a_hint_that_has_become_newer_meanwhile_stays(hints: Hints) -> None:
    hints.keep([hint(A, b"k", 4)])
    hints.drop(A, [(b"k", ballot(3))])
    assert everything(hints, A) == [hint(A, b"k", 4)]


def test_what_is_said_to_be_done_twice_or_was_never_missed_is_counted_once_and_not_at_all(hints: Hints) -> None:
    hints.keep([hint(A, b"k"), hint(A, b"l")])
    hints.drop(A, [(b"k", ballot(1)), (b"k", ballot(1)), (b"never", ballot(1))])
    hints.drop(A, [(b"k", ballot(1))])
    assert hints.counts == {A: 1}
    hints.drop(A, [(b"l", ballot(1))])
    assert hints.counts == {}


def test_where_there_are_too_many_the_slot_is_to_be_repaired(engine: Engine) -> None:
    hints = Hints(engine, Limits(hints_max=2))
    hints.keep([hint(A, b"a"), hint(B, b"b"), hint(A, b"c")])
    hints.keep([hint(A, b"d")])
    assert hints.counts == {A: 1, B: 1}
    assert hints.marks == {slot_of(Key(b"c")), slot_of(Key(b"d"))}


def test_what_is_known_can_become_newer_where_there_are_too_many(engine: Engine) -> None:
    hints = Hints(engine, Limits(hints_max=1))
    hints.keep([hint(A, b"a", 1)])
    hints.keep([hint(A, b"a", 2)])
    assert everything(hints, A) == [hint(A, b"a", 2)]
    assert hints.marks == set()


def test_long_keys_have_less_room(engine: Engine) -> None:
    hints = Hints(engine, Limits(hints_bytes_max=1_000))
    for number in range(9):
        hints.keep([hint(A, b"%d" % number * 300)])
    assert 0 < hints.counts[A] < 9
    assert len(hints.marks) == 9 - hints.counts[A]


def test_there_is_room_again_when_hints_were_forgotten(engine: Engine) -> None:
    hints = Hints(engine, Limits(hints_max=1))
    hints.keep([hint(A, b"a")])
    hints.drop(A, [(b"a", ballot(1))])
    hints.keep([hint(A, b"b")])
    assert everything(hints, A) == [hint(A, b"b")]
    assert hints.marks == set()


def test_old_hints_become_marks_and_young_ones_stay(engine: Engine) -> None:
    hints = Hints(engine, Limits(hints_age_s_max=3600.0))
    hints.keep([hint(A, b"old", at_ms=0), hint(B, b"young", at_ms=HOUR_MS)])
    assert hints.tidy(HOUR_MS) == 0
    assert hints.tidy(HOUR_MS + 1) == 1
    assert hints.counts == {B: 1}
    assert hints.marks == {slot_of(Key(b"old"))}


def test_many_old_hints_become_marks_a_part_at_a_time(hints: Hints) -> None:
    hints.keep(hint(A, b"%d" % number) for number in range(2_500))
    parts = []
    while part := hints.tidy(4 * HOUR_MS):
        parts.append(part)
    assert len(parts) > 1
    assert sum(parts) == 2_500
    assert hints.counts == {}
    assert hints.marks == {slot_of(Key(b"%d" % number)) for number in range(2_500)}


def test_a_mark_is_new_once_until_it_is_taken_back(hints: Hints) -> None:
    assert hints.mark([Slot(3), Slot(65_535)])
    assert not hints.mark([Slot(3)])
    hints.unmark([Slot(3), Slot(4)])
    assert hints.marks == {Slot(65_535)}
    assert hints.mark([Slot(3)])


def test_hints_and_marks_are_there_again_after_a_restart_and_counted_alike(engine: Engine) -> None:
    limits = Limits(hints_bytes_max=1_000)
    hints = Hints(engine, limits)
    hints.keep(hint(A, b"%d" % number * 250) for number in range(3))
    hints.keep([hint(B, b"b" * 40)])
    hints.drop(A, [(b"0" * 250, ballot(1))])
    hints.mark([Slot(9)])
    again = Hints(engine, limits)
    assert (again.counts, again.marks) == (hints.counts, hints.marks)
    assert everything(again, A) == everything(hints, A)
    for each in (hints, again):
        each.keep([hint(A, b"l" * 900)])
    assert again.marks == hints.marks, "both know how much room is left"


class HintsInADict(RuleBasedStateMachine):
    """Hints against a dict, over restarts."""

    owners = st.sampled_from([A, B])
    keys = st.sampled_from([b"a", b"b", b"a\0", b"\xff", b"longer than the others"]).map(Key)
    drawn = st.builds(Hint, owners, keys, st.integers(1, 9).map(ballot), st.integers(0, 3 * HOUR_MS))
    done = st.lists(st.tuples(keys, st.integers(1, 9).map(ballot)), max_size=3)
    limits = Limits(hints_max=4, hints_age_s_max=3600.0)

    def __init__(self) -> None:
        super().__init__()
        self.engine = MemoryEngine()
        self.hints = Hints(self.engine, self.limits)
        self.known: dict[tuple[NodeId, Key], tuple[Ballot, int]] = {}
        self.marks: set[Slot] = set()

    @rule(some=st.lists(drawn, max_size=4))
    def keep(self, some: Iterable[Hint]) -> None:
        self.hints.keep(some)
        for each in some:
            before = self.known.get((each.owner, each.key))
            if before is not None:
                self.known[each.owner, each.key] = max(before[0], each.ballot), before[1]
            elif len(self.known) < self.limits.hints_max:
                self.known[each.owner, each.key] = each.ballot, each.at_ms
            else:
                self.marks.add(slot_of(each.key))

    @rule(owner=owners, done=done)
    def drop(self, owner: NodeId, done: list[tuple[Key, Ballot]]) -> None:
        self.hints.drop(owner, done)
        for key, shown in done:
            if (owner, key) in self.known and self.known[owner, key][0] <= shown:
                del self.known[owner, key]

    @rule(now_ms=st.integers(0, 6 * HOUR_MS))
    def tidy(self, now_ms: int) -> None:
        self.hints.tidy(now_ms)
        for place, (_, at_ms) in list(self.known.items()):
            if at_ms < now_ms - HOUR_MS:
                del self.known[place]
                self.marks.add(slot_of(place[1]))

    @rule(keys=st.lists(keys, max_size=2))
    def unmark(self, keys: list[Key]) -> None:
        self.hints.unmark(map(slot_of, keys))
        self.marks -= set(map(slot_of, keys))

    @rule()
    def restart(self) -> None:
        self.hints = Hints(self.engine, self.limits)

    @invariant()
    def nothing_is_missing_and_nothing_too_much(self) -> None:
        for owner in (A, B):
            expected = [Hint(who, key, *what) for (who, key), what in self.known.items() if who == owner]
            assert everything(self.hints, owner, 2) == sorted(expected, key=lambda each: each.key)
        assert self.hints.counts == Counter(owner for owner, _ in self.known)
        assert self.hints.marks == self.marks


def test_hints_are_kept_forgotten_and_marked_as_in_a_dict() -> None:
    run_state_machine_as_test(HintsInADict, settings=settings(max_examples=40, stateful_step_count=20))
