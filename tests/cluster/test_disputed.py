"""What a new owner must not forget: the promises and half-taken records of the one whose place it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.town import Town, value_of
from twisted_kv.names import Key
from twisted_kv.register import Cell
from twisted_kv.ring import slot_of
from twisted_kv.storage.engine import Change
from twisted_kv.versions import NONE, Ballot, Record, Version


def ballot(number: int) -> Ballot:
    return Ballot(number.to_bytes(8, "big") + b"\0" * 8)


def record(number: int, value: bytes) -> bytes:
    return Record(Version(ballot(number)), value).encode()


@pytest.mark.parametrize("seed", range(4))
def test_a_value_that_was_acknowledged_is_not_unread_when_an_owner_is_replaced(seed: int, tmp_path: Path) -> None:
    """One owner promised b2 and holds x of b0; another holds x proposed again at b2; the third took an open y of b1.

    x was acknowledged. A new owner that merely copied the newest of the first and the third would hold y and no promise
    against it: one read would answer y, the next one x again.
    """
    town = Town(seed, tmp_path)
    houses = town.settle(3)
    (fourth,) = town.build(1)
    keys = [Key(b"key%d" % number) for number in range(40)]
    stories = [
        Cell(ballot(0x20), ballot(0x10), record(0x10, b"x")),
        Cell(ballot(0x20), ballot(0x20), record(0x10, b"x")),
        Cell(ballot(0x18), ballot(0x18), record(0x18, b"y")),
    ]
    for key in keys:
        town.random.shuffle(stories)
        for house, cell in zip(houses, stories, strict=True):
            house.engine.apply([Change(slot_of(key), key, cell)])
    town.settle_one(fourth)
    for key in keys:
        seen = [value_of(town.wait(town.get(key))) for _ in range(48)]
        assert seen in ([b"x"] * 48, [b"y"] * 48), "the reads went back and forth"
    town.close()


def test_a_bare_promise_is_no_reason_to_dispute(tmp_path: Path) -> None:
    town = Town(1, tmp_path)
    houses = town.settle(3)
    key = Key(b"k")
    houses[0].engine.apply([Change(slot_of(key), key, Cell(ballot(9), NONE, b""))])
    (fourth,) = town.build(1)
    town.settle_one(fourth)
    assert value_of(town.wait(town.get(key))) is None
    town.close()
