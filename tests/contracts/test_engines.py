"""What ``storage/engine.py`` promises, asked of every engine. A new engine is one more line in ``ENGINES``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.cluster.paper_disk import PaperDisk
from twisted_kv.digest import EMPTY, term
from twisted_kv.names import Key, Slot
from twisted_kv.register import NO_FLOOR, Cell, Floor
from twisted_kv.simulation.disk import Disk
from twisted_kv.storage.engine import Change, Due, Engine, Inspection, Listed, Place, Totals
from twisted_kv.storage.figures import MEANING
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.storage.rocks import RocksEngine
from twisted_kv.versions import NONE, Ballot, Record, Version, decode_record

Open = Callable[[Path], Engine]
"""Opens an engine that may keep its files in an empty directory of its own."""

ENGINES: dict[str, Open] = {
    "memory": lambda directory: MemoryEngine(),
    "rocksdb": lambda directory: RocksEngine(directory / "data"),
    "simulated": lambda directory: Disk(),
    "paper": lambda directory: PaperDisk(),
}

LOWEST, HIGHEST = Slot(0), Slot(65_535)
EVERYTHING = 1_000_000


@pytest.fixture(params=ENGINES.values(), ids=ENGINES.keys())
def open_engine(request: pytest.FixtureRequest) -> Open:
    opens: Open = request.param
    return opens


@pytest.fixture
def engine(open_engine: Open, tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(tmp_path)
    yield engine
    engine.close()


def ballot(number: int) -> Ballot:
    return Ballot(number.to_bytes(16, "big"))


def value(number: int, text: bytes = b"", expires_ms: int = 0) -> Cell:
    drawn = ballot(number)
    return Cell(drawn, drawn, Record(Version(drawn), text, expires_ms=expires_ms).encode())


def tombstone(number: int) -> Cell:
    drawn = ballot(number)
    return Cell(drawn, drawn, Record(Version(drawn), None).encode())


def promise(number: int) -> Cell:
    return Cell(ballot(number), NONE, b"")


def floor(promised: int, accepted: int) -> Floor:
    return Floor(ballot(promised), ballot(accepted))


def change(slot: int, key: bytes, cell: Cell | None) -> Change:
    return Change(Slot(slot), Key(key), cell)


def everything(engine: Engine) -> list[Change]:
    return engine.scan(LOWEST, HIGHEST, None, EVERYTHING)


def pages(engine: Engine, limit: int, bytes_max: int | None = None) -> Iterator[list[Change]]:
    after: Place | None = None
    while page := engine.scan(LOWEST, HIGHEST, after, limit, bytes_max):
        yield page
        after = (page[-1].slot, page[-1].key)


def recount(changes: Iterable[Change]) -> Totals:
    """Count anew, by reading records whole and not as engines do."""
    keys = bytes_ = 0
    for _, key, cell in changes:
        record = cell.record
        keys += bool(record) and record[1] & 1 == 0
        bytes_ += len(key) + len(record)
    return Totals(keys, bytes_)


def relist(changes: Iterable[Change]) -> list[Listed]:
    """Make the key index anew."""
    found = []
    for _, key, cell in changes:
        data = cell.record
        if data:
            record = decode_record(data)
            found.append(Listed(key, record.value is not None, record.expires_ms))
    return sorted(found)


def redigest(changes: Iterable[Change]) -> dict[Slot, int]:
    """Make the digests anew."""
    digests: dict[Slot, int] = {}
    for slot, key, cell in changes:
        digests[slot] = (digests.get(slot, EMPTY) + term(key, cell.accepted)) % 2**64
    return digests


def regrave(changes: Iterable[Change]) -> Counter[Slot]:
    """Count anew how many cells of each slot hold no value, by reading records whole."""
    return Counter(slot for slot, _, cell in changes if not cell.record or decode_record(cell.record).value is None)


def graves(engine: Engine) -> dict[Slot, int]:
    """Give the count of those slots that have any."""
    return {Slot(slot): count for slot, count in enumerate(engine.graves(LOWEST, HIGHEST)) if count}


# One promise each.


def test_a_key_never_written_has_no_cell(engine: Engine) -> None:
    engine.apply([change(1, b"other", value(1))])

    assert engine.get(Slot(1), Key(b"key")) is None


def test_the_later_change_of_a_key_in_a_batch_wins(engine: Engine) -> None:
    engine.apply([change(1, b"key", value(2, b"first")), change(1, b"key", value(1, b"second"))])

    assert everything(engine) == [change(1, b"key", value(1, b"second"))]
    assert engine.totals() == recount(everything(engine))


def test_an_empty_batch_changes_nothing(engine: Engine) -> None:
    engine.apply([])

    assert everything(engine) == []
    assert engine.totals() == Totals(0, 0)


def test_a_batch_that_fails_while_it_is_drawn_up_changes_nothing(engine: Engine) -> None:
    engine.apply([change(1, b"old", value(1))])

    def breaks_off() -> Iterator[Change]:
        yield change(1, b"old", value(2))
        yield change(1, b"new", value(2))
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        engine.apply(breaks_off())

    assert everything(engine) == [change(1, b"old", value(1))]
    assert engine.totals() == recount([change(1, b"old", value(1))])


def test_a_batch_may_read_the_engine_while_it_is_drawn_up(engine: Engine) -> None:
    engine.apply([change(1, b"a", value(1)), change(1, b"b", value(1))])

    engine.apply(change(2, key + b"2", cell) for _, key, cell in engine.scan(Slot(1), Slot(1), None, 1))
    engine.apply(change(3, b"n", value(engine.totals().keys)) for _ in range(1))

    assert engine.get(Slot(2), Key(b"a2")) == value(1)
    assert engine.get(Slot(3), Key(b"n")) == value(3)


def test_a_scan_is_ordered_by_slot_and_then_by_the_bytes_of_the_key(engine: Engine) -> None:
    places = [
        (1, b"\xff"),
        (256, b"a1"),
        (0, b"z"),
        (65_535, b"\x00"),
        (1, b"b"),
        (1, b"a\x00"),
        (255, b"a2"),
        (1, b"a"),
    ]
    engine.apply(change(slot, key, value(1)) for slot, key in places)

    assert [(slot, key) for slot, key, _ in everything(engine)] == sorted(places)


def test_a_scan_goes_on_after_a_place_that_is_gone(engine: Engine) -> None:
    engine.apply(change(slot, b"key%d" % slot, value(1)) for slot in (1, 2, 3))
    engine.drop(Slot(2), Slot(2), 9)

    assert engine.scan(LOWEST, HIGHEST, (Slot(2), Key(b"key2")), 9) == [change(3, b"key3", value(1))]


def test_a_scan_begins_at_its_first_slot_even_if_it_is_to_go_on_after_a_place_before_it(engine: Engine) -> None:
    engine.apply(change(slot, b"key%d" % slot, value(1)) for slot in (1, 2, 3))

    assert engine.scan(Slot(2), Slot(3), (Slot(0), Key(b"x")), 1) == [change(2, b"key2", value(1))]


@pytest.mark.parametrize("after", [None, (Slot(9), Key(b"key")), (Slot(4), Key(b"key"))])
def test_a_scan_of_no_slots_is_empty(engine: Engine, after: Place | None) -> None:
    engine.apply(change(slot, b"key%d" % slot, value(1)) for slot in (3, 4, 5))

    assert engine.scan(Slot(5), Slot(3), after, 9) == []


def test_a_page_ends_before_it_has_too_many_bytes(engine: Engine) -> None:
    engine.apply(change(1, b"%d" % number, value(1, b"x" * 67)) for number in range(5))
    assert engine.totals().bytes == 5 * 100

    assert [len(page) for page in pages(engine, 9, 200)] == [2, 2, 1]
    assert [len(page) for page in pages(engine, 9, 299)] == [2, 2, 1]


def test_a_page_has_one_cell_however_large_it_is(engine: Engine) -> None:
    engine.apply(change(1, b"%d" % number, value(1, b"x" * 1000)) for number in range(3))

    assert [len(page) for page in pages(engine, 9, 1)] == [1, 1, 1]


def test_tombstones_and_bare_promises_count_as_bytes_and_not_as_keys(engine: Engine) -> None:
    engine.apply([change(1, b"value", value(1)), change(1, b"gone", tombstone(1)), change(1, b"asked", promise(1))])

    record_bytes = len(value(1).record)
    assert engine.totals() == Totals(1, len(b"valuegoneasked") + 2 * record_bytes)


@pytest.mark.parametrize("before", [value(1, b"x"), tombstone(1), promise(1)])
@pytest.mark.parametrize("after", [value(2, b"longer"), tombstone(2), promise(2)])
def test_totals_follow_a_key_from_any_kind_of_cell_to_any_other(engine: Engine, before: Cell, after: Cell) -> None:
    engine.apply([change(1, b"key", before)])
    engine.apply([change(1, b"key", after)])

    assert engine.totals() == recount([change(1, b"key", after)])


def test_a_drop_forgets_the_slots_at_both_its_ends_and_no_others(engine: Engine) -> None:
    engine.apply(change(slot, key + b"%d" % slot, value(1)) for slot in range(6) for key in (b"\x00", b"\xff" * 1023))

    assert engine.drop(Slot(1), Slot(4), 100) == 8

    assert {slot for slot, _, _ in everything(engine)} == {0, 5}
    assert engine.get(Slot(4), Key(b"\x004")) is None
    assert engine.totals() == recount(everything(engine))


def test_a_drop_stops_at_its_limit_and_says_how_many_went(engine: Engine) -> None:
    rows = [change(1, b"%d" % number, value(1)) for number in range(5)]
    engine.apply(rows)

    assert engine.drop(LOWEST, HIGHEST, 2) == 2
    assert everything(engine) == rows[2:]
    assert engine.keys(b"", b"", 9) == relist(rows[2:])
    assert engine.drop(LOWEST, HIGHEST, 4) == 3
    assert everything(engine) == []
    assert engine.drop(Slot(2), Slot(1), 4) == 0


def test_a_drop_reaches_the_highest_slot(engine: Engine) -> None:
    engine.apply([change(65_534, b"key", value(1)), change(65_535, b"\xff\xff\xff", value(1))])

    engine.drop(HIGHEST, HIGHEST, 9)

    assert everything(engine) == [change(65_534, b"key", value(1))]


def test_a_key_can_be_written_again_after_a_drop(engine: Engine) -> None:
    engine.apply([change(1, b"key", value(1))])
    engine.drop(LOWEST, HIGHEST, 9)
    assert engine.totals() == Totals(0, 0)

    engine.apply([change(1, b"key", value(2))])

    assert everything(engine) == [change(1, b"key", value(2))]


def test_a_note_is_read_as_it_was_written_last_and_survives_a_drop(engine: Engine) -> None:
    assert engine.read_note("epoch") is None

    engine.write_note("epoch", b"1")
    engine.write_note("epoch", b"")
    engine.write_note("state", b"\x00\xff")
    engine.drop(LOWEST, HIGHEST, 9)

    assert engine.read_note("epoch") == b""
    assert engine.read_note("state") == b"\x00\xff"
    assert everything(engine) == []


def test_the_key_index_shows_values_and_tombstones_in_the_order_of_their_bytes(engine: Engine) -> None:
    cells = {b"b": value(1), b"a\x00": tombstone(1), b"\xff": value(1, b"", 77), b"asked": promise(1), b"a": value(1)}
    engine.apply(change(number, key, cell) for number, (key, cell) in enumerate(cells.items()))

    listed = [(b"a", True, 0), (b"a\x00", False, 0), (b"b", True, 0), (b"\xff", True, 77)]
    assert engine.keys(b"", b"", 9) == listed
    assert engine.keys(b"", b"", 2) == listed[:2]
    assert engine.keys(b"a", b"", 9) == listed[1:]
    assert engine.keys(b"a", b"a", 9) == listed[1:2]
    assert engine.keys(b"", b"a", 1) == listed[:1]
    assert engine.keys(b"aa", b"a\x00", 9) == []
    assert engine.keys(b"\xff", b"\xff", 9) == []


def test_what_expires_is_due_in_the_order_of_time_until_it_is_replaced(engine: Engine) -> None:
    engine.apply(change(1, b"key%d" % at, value(1, b"", at)) for at in (30, 10, 20))
    engine.apply([change(2, b"b", value(1, b"", 10)), change(2, b"stays", value(1))])

    assert engine.due(9, None, 9) == []
    assert engine.due(20, None, 9) == [(10, b"b"), (10, b"key10"), (20, b"key20")]
    assert engine.due(20, None, 1) == [(10, b"b")]
    assert engine.due(99, Due(10, Key(b"key10")), 9) == [(20, b"key20"), (30, b"key30")]
    engine.apply([change(1, b"key10", tombstone(2)), change(1, b"key20", value(2, b"", 40)), change(2, b"b", value(2))])
    assert engine.due(99, None, 9) == [(30, b"key30"), (40, b"key20")]
    engine.drop(Slot(1), Slot(1), 9)
    assert engine.due(99, None, 9) == []


def test_a_slot_has_the_same_digest_whichever_way_it_came_to_hold_what_it_holds(engine: Engine) -> None:
    engine.apply([change(1, b"a", value(1)), change(1, b"b", tombstone(2)), change(2, b"c", value(3))])
    one, two = engine.digests(Slot(1), Slot(2))
    engine.apply([change(1, b"a", value(8)), change(1, b"b", value(9)), change(1, b"asked", promise(9))])
    assert engine.digests(Slot(1), Slot(1))[0] not in (one, EMPTY)
    engine.apply([change(1, b"b", tombstone(2))])
    engine.apply([change(1, b"a", value(1))])

    assert list(engine.digests(Slot(0), Slot(3))) == [EMPTY, one, two, EMPTY]
    engine.drop(Slot(1), Slot(1), 9)
    assert list(engine.digests(Slot(0), Slot(2))) == [EMPTY, EMPTY, two]
    assert len(engine.digests(LOWEST, HIGHEST)) == 65_536


@pytest.mark.parametrize("cell", [value(1, b"text", 30), tombstone(1), promise(1)])
def test_a_removed_cell_leaves_nothing_behind(engine: Engine, cell: Cell) -> None:
    stays = change(1, b"stays", value(1))
    engine.apply([stays])
    (digest,) = engine.digests(Slot(1), Slot(1))
    engine.apply([change(1, b"key", cell)])

    engine.apply([change(1, b"key", None)])

    assert engine.get(Slot(1), Key(b"key")) is None
    assert everything(engine) == [stays]
    assert engine.totals() == recount([stays])
    assert engine.keys(b"", b"", 9) == [(b"stays", True, 0)]
    assert engine.due(99, None, 9) == []
    assert list(engine.digests(Slot(1), Slot(1))) == [digest]
    assert graves(engine) == {}


def test_to_remove_what_is_not_there_changes_nothing(engine: Engine) -> None:
    rows = [change(1, b"a", value(1)), change(1, b"b", tombstone(2))]
    engine.apply(rows)

    engine.apply([change(1, b"c", None), change(2, b"d", None)])

    assert everything(engine) == rows
    assert engine.totals() == recount(rows)
    assert graves(engine) == {1: 1}


def test_a_key_may_be_removed_and_written_in_one_batch_and_what_comes_later_wins(engine: Engine) -> None:
    engine.apply([change(1, b"a", value(1)), change(1, b"b", value(1))])

    engine.apply(
        [
            change(1, b"a", None),
            change(1, b"a", tombstone(2)),
            change(1, b"b", value(2)),
            change(1, b"b", None),
            change(1, b"c", value(2)),
            change(1, b"c", None),
        ]
    )

    assert everything(engine) == [change(1, b"a", tombstone(2))]
    assert engine.totals() == recount(everything(engine))
    assert graves(engine) == {1: 1}


def test_a_removed_key_can_be_written_again(engine: Engine) -> None:
    engine.apply([change(1, b"key", value(1, b"", 10))])
    engine.apply([change(1, b"key", None)])

    engine.apply([change(1, b"key", value(2, b"", 20))])

    assert everything(engine) == [change(1, b"key", value(2, b"", 20))]
    assert engine.totals() == recount(everything(engine))
    assert engine.due(99, None, 9) == [(20, b"key")]


def test_graves_are_the_tombstones_and_bare_promises_of_a_slot(engine: Engine) -> None:
    cells = {b"value": value(1), b"gone": tombstone(1), b"asked": promise(1), b"expires": value(1, b"", 5)}
    engine.apply(change(7, key, cell) for key, cell in cells.items())
    engine.apply([change(65_535, b"gone too", tombstone(1))])

    assert list(engine.graves(Slot(6), Slot(8))) == [0, 2, 0]
    assert list(engine.graves(HIGHEST, HIGHEST)) == [1]
    assert len(engine.graves(LOWEST, HIGHEST)) == 65_536


@pytest.mark.parametrize("before", [None, value(1, b"x"), tombstone(1), promise(1)])
@pytest.mark.parametrize("after", [None, value(2, b"longer"), tombstone(2), promise(2)])
def test_graves_follow_a_key_from_any_kind_of_cell_to_any_other(
    engine: Engine, before: Cell | None, after: Cell | None
) -> None:
    engine.apply([change(1, b"key", before), change(1, b"other", tombstone(1))])
    engine.apply([change(1, b"key", after)])

    assert graves(engine) == regrave(everything(engine))


def test_a_dropped_grave_is_none(engine: Engine) -> None:
    engine.apply(change(1, key, tombstone(1)) for key in (b"a", b"b", b"c"))

    engine.drop(Slot(1), Slot(1), 2)
    assert graves(engine) == {1: 1}
    engine.drop(Slot(1), Slot(1), 2)
    assert graves(engine) == {}


def test_a_slot_has_the_floor_that_it_was_given_last(engine: Engine) -> None:
    assert engine.floor(Slot(7)) == NO_FLOOR

    engine.set_floors({Slot(7): floor(3, 2), Slot(8): floor(4, 4), HIGHEST: floor(9, 1)})
    engine.set_floors({Slot(7): floor(1, 1), Slot(8): NO_FLOOR, Slot(9): NO_FLOOR})

    assert [engine.floor(Slot(slot)) for slot in (6, 7, 8)] == [NO_FLOOR, floor(1, 1), NO_FLOOR]
    assert engine.floors(LOWEST, HIGHEST) == {7: floor(1, 1), HIGHEST: floor(9, 1)}
    assert engine.floors(Slot(7), Slot(7)) == {7: floor(1, 1)}
    assert engine.floors(Slot(8), Slot(65_534)) == {}
    assert engine.floors(HIGHEST, LOWEST) == {}


def test_floors_come_together_with_the_changes_that_they_stand_for(engine: Engine) -> None:
    engine.apply([change(1, b"gone", tombstone(1)), change(1, b"stays", value(1))])

    engine.set_floors({Slot(1): floor(2, 2)}, [change(1, b"gone", None), change(1, b"new", promise(3))])

    assert engine.floor(Slot(1)) == floor(2, 2)
    assert everything(engine) == [change(1, b"new", promise(3)), change(1, b"stays", value(1))]
    assert engine.totals() == recount(everything(engine))
    assert graves(engine) == {1: 1}


def test_floors_whose_changes_fail_while_they_are_drawn_up_are_not_set(engine: Engine) -> None:
    def breaks_off() -> Iterator[Change]:
        yield change(1, b"new", value(2))
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        engine.set_floors({Slot(1): floor(2, 2)}, breaks_off())

    assert engine.floors(LOWEST, HIGHEST) == {}
    assert everything(engine) == []
    assert engine.highest == NONE


def test_the_floors_of_a_range_go_with_the_last_of_its_cells(engine: Engine) -> None:
    engine.set_floors(
        {Slot(slot): floor(slot, slot) for slot in (1, 2, 3, 4)},
        [change(2, b"a", value(1)), change(3, b"b", value(1))],
    )

    assert engine.drop(Slot(2), Slot(3), 2) == 2
    assert len(engine.floors(LOWEST, HIGHEST)) == 4
    assert engine.drop(Slot(2), Slot(3), 2) == 0
    assert engine.floors(LOWEST, HIGHEST) == {1: floor(1, 1), 4: floor(4, 4)}
    assert engine.drop(Slot(4), Slot(4), 1) == 0
    assert engine.floors(LOWEST, HIGHEST) == {1: floor(1, 1)}


@pytest.mark.parametrize(
    "come",
    [
        lambda engine: engine.apply([change(1, b"other", promise(7)), change(1, b"low", value(5))]),
        lambda engine: engine.apply([change(1, b"other", Cell(NONE, ballot(7), b""))]),
        lambda engine: engine.set_floors({Slot(1): floor(7, 2)}),
        lambda engine: engine.set_floors({Slot(1): floor(2, 7), Slot(2): floor(1, 1)}),
        lambda engine: engine.set_floors({}, [change(1, b"other", promise(7))]),
    ],
    ids=["a promise", "an accepted ballot", "a floor's promise", "a floor's accepted ballot", "beside floors"],
)
def test_the_highest_ballot_is_the_highest_that_was_ever_kept(engine: Engine, come: Callable[[Engine], object]) -> None:
    assert engine.highest == NONE
    engine.apply([change(1, b"key", value(6))])
    assert engine.highest == ballot(6)

    come(engine)

    assert engine.highest == ballot(7)


def test_the_highest_ballot_never_goes_back(engine: Engine) -> None:
    engine.apply([change(1, b"key", value(6))])

    engine.apply([change(1, b"key", value(5))])
    engine.apply([change(1, b"key", None)])
    engine.set_floors({Slot(1): floor(7, 7)})
    engine.set_floors({Slot(1): NO_FLOOR})
    engine.drop(LOWEST, HIGHEST, 9)
    engine.apply([change(1, b"key", value(1))])

    assert engine.highest == ballot(7)


@pytest.mark.parametrize("before", [None, value(1, b"x", 9), tombstone(1), promise(1)])
@pytest.mark.parametrize("after", [None, value(2, b"longer", 7), tombstone(2), promise(2)])
def test_a_cell_that_can_be_read_is_replaced_like_one_that_cannot(
    engine: Engine, before: Cell | None, after: Cell | None
) -> None:
    others = [change(1, b"a", tombstone(1)), change(1, b"z", value(1)), change(2, b"two", value(3, b"", 8))]
    engine.apply([*others, change(1, b"key", before)])

    engine.replace_damaged(Slot(1), Key(b"key"), after)

    rows = sorted([*others, *([change(1, b"key", after)] if after is not None else [])])
    assert everything(engine) == rows
    assert engine.totals() == recount(rows)
    assert engine.keys(b"", b"", 9) == relist(rows)
    assert engine.due(99, None, 9) == sorted(Due(row.expires_ms, row.key) for row in relist(rows) if row.expires_ms)
    assert list(engine.digests(Slot(1), Slot(2))) == [redigest(rows)[Slot(1)], redigest(rows)[Slot(2)]]
    assert graves(engine) == regrave(rows)
    assert engine.highest == ballot(3)


def test_a_cell_that_replaces_another_raises_the_highest_ballot(engine: Engine) -> None:
    engine.replace_damaged(Slot(1), Key(b"key"), promise(7))
    engine.replace_damaged(Slot(1), Key(b"key"), value(6))
    engine.replace_damaged(Slot(1), Key(b"key"), None)

    assert engine.highest == ballot(7)


def test_an_inspection_counts_the_cells_of_its_slot_and_finds_them_right(engine: Engine) -> None:
    engine.apply([change(1, b"a", value(1)), change(1, b"b", tombstone(1)), change(1, b"c", promise(1))])
    engine.apply([change(0, b"d", tombstone(1)), change(2, b"e", value(1))])

    assert engine.inspect(Slot(1)) == Inspection(3, [], True)
    assert engine.inspect(Slot(3)) == Inspection(0, [], True)
    assert engine.inspect(HIGHEST) == Inspection(0, [], True)


def test_to_mend_what_is_right_changes_nothing(engine: Engine) -> None:
    rows = [change(1, b"a", value(1)), change(1, b"b", tombstone(1)), change(2, b"c", promise(1))]
    engine.apply(rows)

    for slot in (0, 1, 2):
        engine.mend_digest(Slot(slot))

    assert everything(engine) == rows
    assert list(engine.digests(Slot(0), Slot(2))) == [EMPTY, redigest(rows)[Slot(1)], EMPTY]
    assert graves(engine) == regrave(rows)


def test_the_side_table_gives_its_rows_in_the_order_of_their_names(engine: Engine) -> None:
    rows = {b"b": b"2", b"a\x00": b"", b"": b"none", b"\xff" * 2000: b"last", b"a": b"1"}
    engine.write_side(rows)

    ordered = [(b"", b"none"), (b"a", b"1"), (b"a\x00", b""), (b"b", b"2"), (b"\xff" * 2000, b"last")]
    assert engine.side(b"", b"\xff" * 2001, 9) == ordered
    assert engine.side(b"", b"\xff" * 2001, 2) == ordered[:2]
    assert engine.side(b"a", b"b", 9) == ordered[1:3]
    assert engine.side(b"a\x00", b"b\x00", 9) == ordered[2:4]
    assert engine.side(b"a", b"b", 1) == ordered[1:2]
    assert engine.side(b"c", b"d", 9) == []
    assert engine.side(b"a", b"a", 9) == []
    assert engine.side(b"b", b"a", 9) == []


def test_a_row_of_the_side_table_is_replaced_and_removed_beside_others(engine: Engine) -> None:
    engine.write_side({b"a": b"1", b"b": b"2"})

    engine.write_side({b"a": None, b"b": b"3", b"c": b"4", b"never": None})
    engine.write_side({})

    assert engine.side(b"", b"\xff", 9) == [(b"b", b"3"), (b"c", b"4")]


def test_the_side_table_is_apart_from_cells_and_notes(engine: Engine) -> None:
    engine.apply([change(1, b"key", value(1))])
    engine.write_note("key", b"note")
    engine.write_side({b"key": b"row", b"\x00\x01key": b"row"})
    assert everything(engine) == [change(1, b"key", value(1))]
    assert engine.totals() == recount(everything(engine))

    engine.drop(LOWEST, HIGHEST, 9)

    assert engine.side(b"", b"\xff", 9) == [(b"\x00\x01key", b"row"), (b"key", b"row")]
    assert engine.read_note("key") == b"note"
    assert engine.totals() == Totals(0, 0)


def test_a_sync_runs_in_a_thread_of_its_own_beside_changes(engine: Engine) -> None:
    syncs = Thread(target=lambda: [engine.sync() for _ in range(20)])
    syncs.start()
    rows = [change(number % 7, b"%03d" % number, value(number + 1)) for number in range(200)]
    for row in rows:
        engine.apply([row])
    syncs.join(60)

    assert not syncs.is_alive()
    assert everything(engine) == sorted(rows)


def test_closing_again_does_nothing(engine: Engine) -> None:
    engine.apply([change(1, b"key", value(1))])

    engine.close()
    engine.close()


def test_figures_are_numbers_by_name_before_and_after_changes(engine: Engine) -> None:
    before = engine.figures()
    engine.apply([Change(LOWEST, Key(b"k"), value(1, b"v" * 9_000))])

    after = engine.figures()

    assert before.keys() == after.keys()
    assert all(isinstance(figure, float) for figure in after.values())
    assert after.get("memtable_bytes", 1.0) > before.get("memtable_bytes", 0.0)
    assert after.keys() == (MEANING.keys() if engine.name == "rocksdb" else set())


def test_an_engine_says_what_it_is_called(request: pytest.FixtureRequest, engine: Engine) -> None:
    assert engine.name == request.node.callspec.id


# Any sequence of calls, beside a plain dict.

PLACES = [
    (Slot(slot), Key(key + b"%d" % slot))
    for slot in (0, 1, 2, 255, 256, 65_534, 65_535)
    for key in (b"\x00", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff")
]
limits = st.integers(1, 12)
slots = st.sampled_from(sorted({slot for slot, _ in PLACES}))
cells = st.one_of(
    st.builds(value, st.integers(1, 9), st.binary(max_size=40), st.sampled_from([0, 0, 5, 10])),
    st.builds(tombstone, st.integers(1, 9)),
    st.builds(promise, st.integers(1, 9)),
)
places = st.sampled_from(PLACES)
batches = st.lists(st.builds(lambda place, cell: Change(*place, cell), places, st.none() | cells), max_size=12)
names = st.binary(max_size=2)
floors = st.just(NO_FLOOR) | st.builds(floor, st.integers(0, 9), st.integers(0, 9))
room = st.none() | st.integers(1, 300)

Model = dict[Place, Cell]


def model_scan(
    model: Model, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None
) -> list[Change]:
    wanted = [place for place in sorted(model) if first <= place[0] <= last and (after is None or place > after)]
    page: list[Change] = []
    size = 0
    for place in wanted[:limit]:
        size += len(place[1]) + len(model[place].record)
        if page and bytes_max is not None and size > bytes_max:
            break
        page.append(Change(*place, model[place]))
    return page


class EngineBesideADict(RuleBasedStateMachine):
    """Does the same to an engine and to a dict, and compares what can be seen of both."""

    def __init__(self, opens: Open) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.engine = opens(Path(self.directory.name))
        self.model: Model = {}
        self.notes: dict[str, bytes] = {}
        self.floors: dict[Slot, Floor] = {}
        self.side: dict[bytes, bytes] = {}
        self.highest = NONE

    def teardown(self) -> None:
        self.engine.close()
        self.directory.cleanup()

    @rule(batch=batches)
    def apply(self, batch: list[Change]) -> None:
        self.engine.apply(batch)
        self.take(batch)

    def take(self, batch: list[Change]) -> None:
        for place, cell in {(slot, key): cell for slot, key, cell in batch}.items():
            if cell is None:
                self.model.pop(place, None)
            else:
                self.model[place] = cell
                self.highest = max(self.highest, cell.promised, cell.accepted)

    @rule(place=places, cell=st.none() | cells)
    def replace(self, place: Place, cell: Cell | None) -> None:
        self.engine.replace_damaged(*place, cell)
        self.take([Change(*place, cell)])

    @rule(slot=slots)
    def mend(self, slot: Slot) -> None:
        self.engine.mend_digest(slot)

    @rule(slot=slots)
    def inspect(self, slot: Slot) -> None:
        rows = sum(place[0] == slot for place in self.model)
        assert self.engine.inspect(slot) == Inspection(rows, [], True)

    @rule(set_=st.dictionaries(slots, floors, max_size=4), batch=st.just([]) | batches)
    def set_floors(self, set_: Mapping[Slot, Floor], batch: list[Change]) -> None:
        self.engine.set_floors(set_, batch)
        self.take(batch)
        self.floors = {slot: floor for slot, floor in (self.floors | dict(set_)).items() if floor != NO_FLOOR}
        self.highest = max([self.highest, *(ballot for floor in set_.values() for ballot in floor)])

    @rule(batch=batches)
    def break_off_a_batch(self, batch: list[Change]) -> None:
        def breaks_off() -> Iterator[Change]:
            yield from batch
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            self.engine.apply(breaks_off())

    @rule(ends=st.tuples(slots, slots), limit=limits)
    def drop(self, ends: tuple[Slot, Slot], limit: int) -> None:
        first, last = ends
        within = sorted(place for place in self.model if first <= place[0] <= last)
        assert self.engine.drop(first, last, limit) == min(len(within), limit)
        for place in within[:limit]:
            del self.model[place]
        if len(within) < limit:
            self.floors = {slot: floor for slot, floor in self.floors.items() if not first <= slot <= last}

    @rule(first=slots, last=slots)
    def ask_for_floors(self, first: Slot, last: Slot) -> None:
        wanted = {slot: floor for slot, floor in self.floors.items() if first <= slot <= last}
        assert self.engine.floors(first, last) == wanted

    @rule(after=st.just(b"") | st.sampled_from([key for _, key in PLACES]), prefix=st.binary(max_size=1), limit=limits)
    def list_keys(self, after: bytes, prefix: bytes, limit: int) -> None:
        rows = relist(Change(*place, cell) for place, cell in self.model.items())
        wanted = [row for row in rows if row.key > after and row.key.startswith(prefix)]
        assert self.engine.keys(after, prefix, limit) == wanted[:limit]

    @rule(until_ms=st.integers(0, 11), limit=limits)
    def ask_what_is_due(self, until_ms: int, limit: int) -> None:
        rows = relist(Change(*place, cell) for place, cell in self.model.items())
        wanted = sorted(Due(row.expires_ms, row.key) for row in rows if 0 < row.expires_ms <= until_ms)
        assert self.engine.due(until_ms, None, limit) == wanted[:limit]

    @rule(place=places)
    def get(self, place: Place) -> None:
        assert self.engine.get(*place) == self.model.get(place)

    @rule(first=slots, last=slots, after=st.none() | places, limit=limits, bytes_max=room)
    def scan(self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None) -> None:
        page = self.engine.scan(first, last, after, limit, bytes_max)
        assert page == model_scan(self.model, first, last, after, limit, bytes_max)

    @rule(limit=limits, bytes_max=room)
    def page_through(self, limit: int, bytes_max: int | None) -> None:
        seen = [row for page in pages(self.engine, limit, bytes_max) for row in page]
        assert seen == model_scan(self.model, LOWEST, HIGHEST, None, EVERYTHING, None)

    @rule(name=st.sampled_from(["identity", "epoch", "state"]), text=st.binary(max_size=9))
    def write_a_note(self, name: str, text: bytes) -> None:
        self.engine.write_note(name, text)
        self.notes[name] = text

    @rule(rows=st.dictionaries(names, st.none() | st.binary(max_size=9), max_size=5))
    def write_side(self, rows: dict[bytes, bytes | None]) -> None:
        self.engine.write_side(rows)
        self.side = {name: row for name, row in (self.side | rows).items() if row is not None}

    @rule(start=names, end=names, limit=limits)
    def read_side(self, start: bytes, end: bytes, limit: int) -> None:
        wanted = sorted(row for row in self.side.items() if start <= row[0] < end)
        assert self.engine.side(start, end, limit) == wanted[:limit]

    @invariant()
    def side_tables_are_the_same(self) -> None:
        assert self.engine.side(b"", b"\xff" * 3, EVERYTHING) == sorted(self.side.items())

    @invariant()
    def notes_are_the_same(self) -> None:
        assert {name: self.engine.read_note(name) for name in self.notes} == self.notes

    @rule()
    def sync(self) -> None:
        self.engine.sync()

    @invariant()
    def digests_are_what_a_recount_gives(self) -> None:
        digests = redigest(Change(*place, cell) for place, cell in self.model.items())
        for slot in (0, 1, 2, 255, 256, 65_534, 65_535):
            assert list(self.engine.digests(Slot(slot), Slot(slot))) == [digests.get(Slot(slot), EMPTY)]

    @invariant()
    def graves_are_what_a_recount_gives(self) -> None:
        counts = regrave(Change(*place, cell) for place, cell in self.model.items())
        for slot in (0, 1, 2, 255, 256, 65_534, 65_535):
            assert list(self.engine.graves(Slot(slot), Slot(slot))) == [counts[Slot(slot)]]

    @invariant()
    def floors_are_the_same(self) -> None:
        for slot in (0, 1, 2, 255, 256, 65_534, 65_535):
            assert self.engine.floor(Slot(slot)) == self.floors.get(Slot(slot), NO_FLOOR)

    @invariant()
    def the_highest_ballot_is_the_same(self) -> None:
        assert self.engine.highest == self.highest

    @invariant()
    def totals_are_what_a_recount_gives(self) -> None:
        assert self.engine.totals() == recount(Change(*place, cell) for place, cell in self.model.items())


def test_an_engine_does_what_a_plain_dict_does(open_engine: Open) -> None:
    run_state_machine_as_test(
        lambda: EngineBesideADict(open_engine),
        settings=settings(max_examples=150, stateful_step_count=30),
    )
