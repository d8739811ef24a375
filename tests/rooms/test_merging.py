"""What the checkpoints of several members come to: what a read of them would have answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.errors import Damaged
from twisted_kv.floors import over
from twisted_kv.membership import Seat, State
from twisted_kv.merging import Part, lacking, merged
from twisted_kv.names import Key, NodeId, Slot
from twisted_kv.register import Cell, Floor
from twisted_kv.storage.engine import UNREADABLE
from twisted_kv.versions import NONE, Ballot, Record, Version, is_value
from twisted_kv.views import View

SEATS = tuple(Seat(f"n-{number}", f"http://n{number}:1", incarnation=f"i-{number}") for number in range(4))
THREE = View(State(1, "c-1", 5, vnodes=8, members=SEATS[:3]))
FOUR = View(State(1, "c-1", 5, vnodes=8, members=SEATS))
A, B, C, D = (NodeId(seat.id) for seat in SEATS)
K, SLOT = Key(b"k"), Slot(7)


def ballot(number: int) -> Ballot:
    return Ballot(number.to_bytes(8, "big") + bytes(8)) if number else NONE


def cell(number: int, value: bytes | None) -> Cell:
    return Cell(ballot(number), ballot(number), Record(Version(ballot(number)), value).encode())


def part(held: Cell | None, floor: int = 0) -> Part:
    floors = {SLOT: Floor(ballot(floor), ballot(floor))} if floor else {}
    return Part([(SLOT, K, held)] if held is not None else [], floors)


def values(view: View, **parts: Part) -> list[bytes]:
    named = {NodeId(name.replace("_", "-")): one for name, one in parts.items()}
    return [record for _, _, record in merged(view, named)]


def test_the_newest_of_a_majority_counts() -> None:
    assert values(THREE, n_0=part(cell(1, b"old")), n_1=part(cell(2, b"new"))) == [cell(2, b"new").record]


def test_what_was_deleted_stays_deleted_though_one_has_missed_it() -> None:
    assert values(THREE, n_0=part(cell(1, b"old")), n_1=part(cell(2, None)), n_2=part(None)) == []


def test_what_a_floor_has_buried_stays_buried() -> None:
    assert values(THREE, n_0=part(cell(1, b"old")), n_1=part(None, floor=2)) == []
    assert values(THREE, n_0=part(cell(3, b"new")), n_1=part(None, floor=2)) == [cell(3, b"new").record]


def test_who_owns_nothing_of_a_slot_is_not_listened_to() -> None:
    slot = next(Slot(slot) for slot in range(65_536) if D not in FOUR.electorates[slot].nodes)
    parts = {node: Part([(slot, K, cell(1, b"right"))], {}) for node in (A, B, C)}
    parts[D] = Part([(slot, K, cell(9, b"left over"))], {})
    assert [record for _, _, record in merged(FOUR, parts)] == [cell(1, b"right").record]


def test_a_cell_that_cannot_be_read_is_missed_and_too_many_are_an_error() -> None:
    bad = part(UNREADABLE)
    assert values(THREE, n_0=bad, n_1=part(cell(1, b"v")), n_2=part(cell(1, b"v"))) == [cell(1, b"v").record]
    with pytest.raises(Damaged, match="too few owners"):
        values(THREE, n_0=bad, n_1=part(cell(1, b"v")))


def test_a_majority_of_each_slot_is_needed() -> None:
    assert lacking(THREE, [A, B, C]) == lacking(THREE, [A, C]) == 0
    assert lacking(THREE, [B]) == 65_536
    assert 0 < lacking(FOUR, [A, B]) < 65_536


cells = st.none() | st.builds(cell, st.integers(1, 5), st.none() | st.sampled_from([b"a", b"b"]))


@given(st.lists(st.tuples(cells, st.integers(0, 5)), min_size=3, max_size=3))
def test_the_highest_ballot_wins_whoever_holds_it(held: list[tuple[Cell | None, int]]) -> None:
    parts = {node: part(one, floor) for node, (one, floor) in zip((A, B, C), held, strict=True)}
    shown = [
        over(one.floors.get(SLOT, Floor(NONE, NONE)), found)
        for one, (found, _) in zip(parts.values(), held, strict=True)
    ]
    best = max(one.accepted for one in shown)
    found = [record for _, _, record in merged(THREE, parts)]
    assert all(is_value(record) for record in found)
    assert found == [] or any(one.accepted == best and one.record == found[0] for one in shown)
    if not found:
        assert (
            not any(one.accepted == best and is_value(one.record) for one in shown)
            or len({one.record for one in shown if one.accepted == best}) > 1
        )
