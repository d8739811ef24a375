"""Floors: what is purged answers as if it were still there, and nothing that holds a value is ever touched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from twisted_kv.floors import buried, over, stored, tombstone
from twisted_kv.names import Key
from twisted_kv.register import ACCEPT, BLANK, FETCH, NO_FLOOR, PREPARE, READ, Cell, Floor, Op, Reply, decide
from twisted_kv.versions import NONE, Ballot, Record, Version, is_value

HIGHEST = 12
KEYS = [Key(b"a"), Key(b"b"), Key(b"c")]


def ballot(number: int) -> Ballot:
    return Ballot(number.to_bytes(16, "big"))


def record(number: int, value: bytes | None = b"v") -> bytes:
    return Record(Version(ballot(number)), value).encode() if number else b""


@st.composite
def cells(draw: st.DrawFn) -> Cell | None:
    """What an owner may keep of a key: nothing, a bare promise, a tombstone or a value."""
    if draw(st.booleans()):
        return None
    promised = draw(st.integers(1, HIGHEST))
    accepted = draw(st.integers(0, promised))
    return Cell(ballot(promised), ballot(accepted), record(accepted, draw(st.sampled_from([None, b"v"]))))


@st.composite
def floors(draw: st.DrawFn) -> Floor:
    """Who forgets has promised to before; only one of the two, or neither, may have happened yet."""
    promised = draw(st.integers(0, HIGHEST))
    return Floor(ballot(promised), ballot(draw(st.integers(0, promised))))


ops = st.builds(
    lambda verb, number, value: Op(verb, KEYS[0], ballot(number), record(number, value) if verb == ACCEPT else b""),
    st.sampled_from([READ, FETCH, PREPARE, ACCEPT]),
    st.integers(1, HIGHEST),
    st.sampled_from([None, b"v"]),
)


def test_without_a_floor_a_key_without_a_cell_was_never_written() -> None:
    assert over(NO_FLOOR, None) == BLANK
    assert tombstone(NONE) == b""


@given(cells())
def test_without_a_floor_a_cell_is_what_is_stored_of_it(cell: Cell | None) -> None:
    assert over(NO_FLOOR, cell) == (cell or BLANK)
    assert stored(NO_FLOOR, over(NO_FLOOR, cell)) == cell


@given(floors(), cells())
def test_a_floor_says_the_same_of_what_it_has_said_already(floor: Floor, cell: Cell | None) -> None:
    assert over(floor, over(floor, cell)) == over(floor, cell)


@given(floors(), cells())
def test_nothing_is_lost_by_storing_less(floor: Floor, cell: Cell | None) -> None:
    said = over(floor, cell)
    assert over(floor, stored(floor, said)) == said


@given(floors(), cells())
def test_a_value_shows_through_every_floor_under_its_ballot(floor: Floor, cell: Cell | None) -> None:
    if cell is not None and is_value(cell.record):
        said = over(floor, cell)
        assert (said.accepted, said.record) == (cell.accepted, cell.record)
        assert stored(floor, said) is said


@given(floors(), cells())
def test_a_key_below_a_floor_without_a_value_counts_as_deleted_at_the_floor(floor: Floor, cell: Cell | None) -> None:
    accepted, held = (cell.accepted, cell.record) if cell is not None else (NONE, b"")
    if floor.accepted != NONE and accepted <= floor.accepted and not is_value(held):
        said = over(floor, cell)
        assert said.accepted == floor.accepted
        assert said.record == record(int.from_bytes(floor.accepted, "big"), None)


@given(floors(), cells(), ops)
def test_every_ballot_below_a_promised_floor_is_refused_unless_it_was_accepted_before(
    floor: Floor, cell: Cell | None, op: Op
) -> None:
    said = over(floor, cell)
    reply, kept = decide(said, op)
    if op.verb in (PREPARE, ACCEPT) and op.ballot < floor.promised:
        assert kept is said
        assert not reply.taken or (op.verb == ACCEPT and op.ballot == said.accepted)


@given(st.dictionaries(st.sampled_from(KEYS), cells()), floors())
def test_who_has_forgotten_and_who_has_not_yet_say_the_same(kept: dict[Key, Cell | None], floor: Floor) -> None:
    present = {key: cell for key, cell in kept.items() if cell is not None}
    left: dict[Key, Cell | None] = {**present, **dict(buried(present.items(), floor.accepted))}
    for key in KEYS:
        assert over(floor, left.get(key)) == over(floor, present.get(key))


@given(st.dictionaries(st.sampled_from(KEYS), cells()), floors())
def test_only_what_holds_no_value_and_lies_below_is_forgotten(kept: dict[Key, Cell | None], floor: Floor) -> None:
    present = {key: cell for key, cell in kept.items() if cell is not None}
    for key, cell in buried(present.items(), floor.accepted):
        before = present[key]
        assert not is_value(before.record)
        assert before.accepted <= floor.accepted
        # A promise above the floor outlives its record.
        assert cell == (Cell(before.promised, NONE, b"") if before.promised > floor.accepted else None)


@given(st.dictionaries(st.sampled_from(KEYS), cells()), floors())
def test_forgetting_again_changes_nothing(kept: dict[Key, Cell | None], floor: Floor) -> None:
    left = {key: cell for key, cell in kept.items() if cell is not None}
    for key, cell in list(buried(left.items(), floor.accepted)):
        if cell is None:
            del left[key]
        else:
            left[key] = cell
    assert list(buried(left.items(), floor.accepted)) == []


class Frugal:
    """An owner's slot as it is: a floor, and what has to be stored beside it."""

    def __init__(self) -> None:
        self.floor = NO_FLOOR
        self.cells: dict[Key, Cell] = {}

    def ask(self, op: Op) -> Reply:
        key = Key(op.key)
        said = over(self.floor, self.cells.get(key))
        reply, kept = decide(said, op)
        if kept is not said:
            self._put(key, stored(self.floor, kept))
        return reply

    def promise(self, number: int) -> None:
        self.floor = self.floor._replace(promised=max(self.floor.promised, ballot(number)))

    def bury(self, number: int) -> None:
        if self.floor.promised >= ballot(number) > self.floor.accepted:
            changes = list(buried(self.cells.items(), ballot(number)))
            self.floor = self.floor._replace(accepted=ballot(number))
            for key, cell in changes:
                self._put(key, cell)

    def _put(self, key: Key, cell: Cell | None) -> None:
        if cell is None:
            self.cells.pop(key, None)
        else:
            self.cells[key] = cell


class Lavish:
    """The same without any purging: a floor is a promise, and later a tombstone, of every key there may be."""

    def __init__(self) -> None:
        self.promised = NONE
        self.cells = dict.fromkeys(KEYS, BLANK)

    def ask(self, op: Op) -> Reply:
        reply, self.cells[Key(op.key)] = decide(self.cells[Key(op.key)], op)
        return reply

    def promise(self, number: int) -> None:
        self.promised = max(self.promised, ballot(number))
        for key, cell in self.cells.items():
            self.cells[key] = replace(cell, promised=max(cell.promised, self.promised))

    def bury(self, number: int) -> None:
        at = ballot(number)
        if self.promised < at:
            return
        for key, cell in self.cells.items():
            if cell.accepted <= at and not is_value(cell.record):
                self.cells[key] = Cell(cell.promised, at, record(number, None))


steps = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(KEYS), ops),
    st.tuples(st.sampled_from(["promise", "bury"]), st.integers(1, HIGHEST)),
)


@given(st.lists(steps, max_size=40))
def test_a_slot_that_was_purged_answers_as_one_that_keeps_everything(story: list[tuple[object, ...]]) -> None:
    frugal, lavish = Frugal(), Lavish()
    for step in story:
        if step[0] == "ask":
            _, key, op = step
            assert isinstance(op, Op)
            assert isinstance(key, bytes)
            asked = Op(op.verb, key, op.ballot, op.record)
            assert frugal.ask(asked) == lavish.ask(asked)
        elif step[0] == "promise":
            frugal.promise(step[1])  # type: ignore[arg-type]
            lavish.promise(step[1])  # type: ignore[arg-type]
        else:
            frugal.bury(step[1])  # type: ignore[arg-type]
            lavish.bury(step[1])  # type: ignore[arg-type]
    for key in KEYS:
        assert frugal.ask(Op(FETCH, key)) == lavish.ask(Op(FETCH, key))
