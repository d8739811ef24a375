"""What is remembered of cells is what they are, and bounded."""

from __future__ import annotations

import random

from twisted_kv.names import Key
from twisted_kv.register import Cell
from twisted_kv.storage.recent import CELL_BYTES, UNKNOWN, Recent
from twisted_kv.versions import NONE, Ballot


def cell(number: int, size: int = 10) -> Cell:
    ballot = Ballot(number.to_bytes(16, "big"))
    return Cell(ballot, ballot, bytes(size))


def key(number: int) -> Key:
    return Key(b"k%09d" % number)


def test_what_was_put_is_given_and_that_there_is_none_too() -> None:
    recent = Recent()
    assert recent.get(key(1)) is UNKNOWN
    recent.put(key(1), cell(1))
    recent.put(key(2), None)
    assert recent.get(key(1)) == cell(1)
    assert recent.get(key(2)) is None
    recent.put(key(1), cell(3))
    assert recent.get(key(1)) == cell(3)
    recent.clear()
    assert recent.get(key(1)) is recent.get(key(2)) is UNKNOWN


def test_it_is_bounded_and_forgets_who_was_not_asked_for() -> None:
    each = CELL_BYTES + 10 + 1_000
    recent = Recent(bytes_max=100 * each)
    for number in range(10_000):
        recent.put(key(number), cell(number, 1_000))
        assert recent.get(key(0)) == cell(0, 1_000), "it is asked for all the time"
        assert len(recent._young) + len(recent._old) <= 102
    assert recent.get(key(9_999)) == cell(9_999, 1_000)
    assert recent.get(key(9_000)) is UNKNOWN


def test_it_never_gives_what_was_replaced() -> None:
    rng, recent = random.Random(1), Recent(bytes_max=50 * CELL_BYTES)
    held: dict[Key, Cell | None] = {}
    for number in range(20_000):
        which = key(rng.randrange(80))
        if rng.random() < 0.5:
            held[which] = cell(number) if rng.random() < 0.9 else None
            recent.put(which, held[which])
        else:
            found = recent.get(which)
            assert found is UNKNOWN or found == held[which]


def test_what_stands_for_nothing_is_like_no_cell() -> None:
    assert Cell(NONE, NONE, b"") != UNKNOWN
