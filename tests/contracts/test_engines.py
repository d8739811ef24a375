"""What ``storage/engine.py`` promises, asked of every engine. A new engine is one more line in ``ENGINES``."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier, Thread
from types import FrameType

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from twisted_kv.names import Key, Slot
from twisted_kv.register import Cell
from twisted_kv.storage.engine import Change, Engine, Place, Totals, View
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.versions import NONE, Ballot, Record, Version

Open = Callable[[Path], Engine]
"""Opens an engine that may keep its files in an empty directory of its own."""

ENGINES: dict[str, Open] = {
    "memory": lambda directory: MemoryEngine(),
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


def value(number: int, text: bytes = b"") -> Cell:
    drawn = ballot(number)
    return Cell(drawn, drawn, Record(Version(drawn), text).encode())


def tombstone(number: int) -> Cell:
    drawn = ballot(number)
    return Cell(drawn, drawn, Record(Version(drawn), None).encode())


def promise(number: int) -> Cell:
    return Cell(ballot(number), NONE, b"")


def change(slot: int, key: bytes, cell: Cell) -> Change:
    return Change(Slot(slot), Key(key), cell)


def everything(view: View) -> list[Change]:
    return view.scan(LOWEST, HIGHEST, None, EVERYTHING)


def pages(view: View, limit: int, bytes_max: int | None = None) -> Iterator[list[Change]]:
    after: Place | None = None
    while page := view.scan(LOWEST, HIGHEST, after, limit, bytes_max):
        yield page
        after = (page[-1].slot, page[-1].key)


def recount(changes: Iterable[Change]) -> Totals:
    """Count anew, by reading records whole and not as engines do."""
    keys = bytes_ = 0
    for _, key, (_, _, record) in changes:
        keys += bool(record) and record[1] & 1 == 0
        bytes_ += len(key) + len(record)
    return Totals(keys, bytes_)


# One promise each.


def test_a_key_never_written_has_no_cell(engine: Engine) -> None:
    engine.apply([change(1, b"other", value(1))])

    assert engine.get(Slot(1), Key(b"key")) is None


def test_one_key_in_two_slots_has_two_cells(engine: Engine) -> None:
    engine.apply([change(1, b"key", value(1)), change(2, b"key", value(2))])

    assert engine.get(Slot(1), Key(b"key")) == value(1)
    assert engine.get(Slot(2), Key(b"key")) == value(2)
    assert engine.get(Slot(3), Key(b"key")) is None


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

    engine.apply(change(2, key, cell) for _, key, cell in engine.scan(Slot(1), Slot(1), None, 1))
    engine.apply(change(3, b"n", value(engine.totals().keys)) for _ in range(1))

    assert engine.get(Slot(2), Key(b"a")) == value(1)
    assert engine.get(Slot(3), Key(b"n")) == value(3)


def test_a_scan_is_ordered_by_slot_and_then_by_the_bytes_of_the_key(engine: Engine) -> None:
    places = [(1, b"\xff"), (256, b"a"), (0, b"z"), (65_535, b"\x00"), (1, b"b"), (1, b"a\x00"), (255, b"a"), (1, b"a")]
    engine.apply(change(slot, key, value(1)) for slot, key in places)

    assert [(slot, key) for slot, key, _ in everything(engine)] == sorted(places)


def test_a_scan_goes_on_after_a_place_that_is_gone(engine: Engine) -> None:
    engine.apply(change(slot, b"key", value(1)) for slot in (1, 2, 3))
    engine.drop(Slot(2), Slot(2))

    assert engine.scan(LOWEST, HIGHEST, (Slot(2), Key(b"key")), 9) == [change(3, b"key", value(1))]


def test_a_scan_begins_at_its_first_slot_even_if_it_is_to_go_on_after_a_place_before_it(engine: Engine) -> None:
    engine.apply(change(slot, b"key", value(1)) for slot in (1, 2, 3))

    assert engine.scan(Slot(2), Slot(3), (Slot(0), Key(b"x")), 1) == [change(2, b"key", value(1))]


@pytest.mark.parametrize("after", [None, (Slot(9), Key(b"key")), (Slot(4), Key(b"key"))])
def test_a_scan_of_no_slots_is_empty(engine: Engine, after: Place | None) -> None:
    engine.apply(change(slot, b"key", value(1)) for slot in (3, 4, 5))

    assert engine.scan(Slot(5), Slot(3), after, 9) == []


def test_a_page_ends_before_it_has_too_many_bytes(engine: Engine) -> None:
    engine.apply(change(1, b"%d" % number, value(1, b"x" * 67)) for number in range(5))
    assert engine.totals().bytes == 5 * 100

    assert [len(page) for page in pages(engine, 9, 200)] == [2, 2, 1]
    assert [len(page) for page in pages(engine.snapshot(), 9, 299)] == [2, 2, 1]


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
    engine.apply(change(slot, key, value(1)) for slot in range(6) for key in (b"\x00", b"\xff" * 1024))

    engine.drop(Slot(1), Slot(4))

    assert {slot for slot, _, _ in everything(engine)} == {0, 5}
    assert engine.get(Slot(4), Key(b"\x00")) is None
    assert engine.totals() == recount(everything(engine))


def test_a_drop_reaches_the_highest_slot(engine: Engine) -> None:
    engine.apply([change(65_534, b"key", value(1)), change(65_535, b"\xff\xff\xff", value(1))])

    engine.drop(HIGHEST, HIGHEST)

    assert everything(engine) == [change(65_534, b"key", value(1))]


def test_a_key_can_be_written_again_after_a_drop(engine: Engine) -> None:
    engine.apply([change(1, b"key", value(1))])
    engine.drop(LOWEST, HIGHEST)
    assert engine.totals() == Totals(0, 0)

    engine.apply([change(1, b"key", value(2))])

    assert everything(engine) == [change(1, b"key", value(2))]


def test_a_snapshot_is_not_touched_by_later_changes(engine: Engine) -> None:
    before = [change(1, b"kept", value(1)), change(2, b"dropped", value(1)), change(3, b"rewritten", value(1))]
    engine.apply(before)

    snapshot = engine.snapshot()
    engine.apply([change(3, b"rewritten", value(2)), change(4, b"new", value(2))])
    engine.drop(Slot(2), Slot(2))

    assert everything(snapshot) == before
    assert snapshot.get(Slot(2), Key(b"dropped")) == value(1)
    assert snapshot.get(Slot(3), Key(b"rewritten")) == value(1)
    assert snapshot.get(Slot(4), Key(b"new")) is None


def test_a_note_is_read_as_it_was_written_last_and_survives_a_drop(engine: Engine) -> None:
    assert engine.read_note("epoch") is None

    engine.write_note("epoch", b"1")
    engine.write_note("epoch", b"")
    engine.write_note("state", b"\x00\xff")
    engine.drop(LOWEST, HIGHEST)

    assert engine.read_note("epoch") == b""
    assert engine.read_note("state") == b"\x00\xff"
    assert everything(engine) == []


def test_closing_again_does_nothing(engine: Engine) -> None:
    engine.apply([change(1, b"key", value(1))])

    engine.close()
    engine.close()


def test_an_engine_says_what_it_is_called(request: pytest.FixtureRequest, engine: Engine) -> None:
    assert engine.name == request.node.callspec.id


# Any sequence of calls, beside a plain dict.

slots = st.sampled_from([Slot(number) for number in (0, 1, 2, 255, 256, 65_534, 65_535)])
keys = st.sampled_from([Key(key) for key in (b"\x00", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff")])
cells = st.one_of(
    st.builds(value, st.integers(1, 9), st.binary(max_size=40)),
    st.builds(tombstone, st.integers(1, 9)),
    st.builds(promise, st.integers(1, 9)),
)
places = st.tuples(slots, keys)
batches = st.lists(st.builds(Change, slots, keys, cells), max_size=12)
limits = st.integers(1, 12)
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
        self.snapshots: list[tuple[View, Model]] = []

    def teardown(self) -> None:
        self.snapshots.clear()
        self.engine.close()
        self.directory.cleanup()

    @rule(batch=batches)
    def apply(self, batch: list[Change]) -> None:
        self.engine.apply(batch)
        self.model.update({(slot, key): cell for slot, key, cell in batch})

    @rule(batch=batches)
    def break_off_a_batch(self, batch: list[Change]) -> None:
        def breaks_off() -> Iterator[Change]:
            yield from batch
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            self.engine.apply(breaks_off())

    @rule(ends=st.tuples(slots, slots))
    def drop(self, ends: tuple[Slot, Slot]) -> None:
        first, last = ends
        self.engine.drop(first, last)
        self.model = {place: cell for place, cell in self.model.items() if not first <= place[0] <= last}

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

    @precondition(lambda self: len(self.snapshots) < 3)
    @rule()
    def take_a_snapshot(self) -> None:
        self.snapshots.append((self.engine.snapshot(), dict(self.model)))

    @precondition(lambda self: self.snapshots)
    @rule(place=places, first=slots, last=slots, after=st.none() | places, limit=limits, bytes_max=room)
    def read_the_snapshots(
        self, place: Place, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None
    ) -> None:
        for snapshot, model in self.snapshots:
            assert snapshot.get(*place) == model.get(place)
            page = snapshot.scan(first, last, after, limit, bytes_max)
            assert page == model_scan(model, first, last, after, limit, bytes_max)
            assert everything(snapshot) == model_scan(model, LOWEST, HIGHEST, None, EVERYTHING, None)

    @precondition(lambda self: self.snapshots)
    @rule()
    def let_a_snapshot_go(self) -> None:
        self.snapshots.pop(0)

    @rule(name=st.sampled_from(["identity", "epoch", "state"]), text=st.binary(max_size=9))
    def write_a_note(self, name: str, text: bytes) -> None:
        self.engine.write_note(name, text)
        self.notes[name] = text

    @invariant()
    def notes_are_the_same(self) -> None:
        assert {name: self.engine.read_note(name) for name in self.notes} == self.notes

    @invariant()
    def totals_are_what_a_recount_gives(self) -> None:
        assert self.engine.totals() == recount(Change(*place, cell) for place, cell in self.model.items())


def test_an_engine_does_what_a_plain_dict_does(open_engine: Open) -> None:
    run_state_machine_as_test(
        lambda: EngineBesideADict(open_engine),
        settings=settings(max_examples=150, stateful_step_count=30, deadline=None),
    )


# Eight threads at once.
#
# Keys come in pairs of one record, in an even slot and the odd one above it; batches write whole pairs, drops cover
# whole pairs. So at every moment both halves are equal, and the keys and bytes of the totals tell one another.

THREADS = 8
PAIRS = 100
ROUNDS = 300
JOIN_S = 60.0
HALF_BYTES = len(b"half-000") + len(value(1, b"12345678").record)


def slow_down(frame: FrameType, event: str, arg: object) -> Callable[..., object] | None:
    """Trace the engine's code without a purpose: each of its bytecodes becomes a place where threads may take turns.

    Without it most turns fall into the tests' own code, and a missing lock goes unnoticed more often than not.
    """
    if not frame.f_globals.get("__name__", "").startswith(("twisted_kv.storage", "sortedcontainers")):
        return None
    frame.f_trace_opcodes = True
    return slow_down


@contextmanager
def hasty_threads() -> Iterator[None]:
    """Let the threads started here take turns as often as can be, where the interpreter would let one run for 5 ms."""
    interval, trace = sys.getswitchinterval(), threading.gettrace()
    sys.setswitchinterval(1e-6)
    threading.settrace(slow_down)
    try:
        yield
    finally:
        threading.settrace(trace)  # None means no tracing
        sys.setswitchinterval(interval)


def half(pair: int, side: int) -> Place:
    return Slot(2 * pair + side), Key(b"half-%03d" % pair)


def assert_whole(rows: list[Change]) -> None:
    """See that rows are in order, each place once, and that each pair is there with both halves or with none."""
    seen = [(row.slot, row.key) for row in rows]
    assert all(low < high for low, high in pairwise(seen))
    left, right = rows[0::2], rows[1::2]
    assert [half(row.slot // 2, 0) for row in left] == [(row.slot, row.key) for row in left]
    assert [(half(row.slot // 2, 1), row.cell) for row in left] == [((row.slot, row.key), row.cell) for row in right]


class Hammer:
    """Calls that may be made in any number of threads at once, and what each must see."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def write(self, dice: random.Random) -> None:
        batch = []
        for pair in dice.sample(range(PAIRS), dice.randint(1, 4)):
            cell = value(dice.getrandbits(64), b"%08d" % dice.randrange(10**8))
            batch += [Change(*half(pair, side), cell) for side in (0, 1)]
        dice.shuffle(batch)
        self.engine.apply(batch)

    def drop(self, dice: random.Random) -> None:
        first = dice.randrange(PAIRS)
        self.engine.drop(half(first, 0)[0], half(min(first + dice.randrange(20), PAIRS - 1), 1)[0])

    def get(self, dice: random.Random) -> None:
        for _ in range(20):
            cell = self.engine.get(*half(dice.randrange(PAIRS), dice.randrange(2)))
            assert cell is None or cell == Cell(cell.accepted, cell.accepted, cell.record)
            assert cell is None or cell.record[2:18] == cell.accepted

    def scan(self, dice: random.Random) -> None:
        first = dice.randrange(PAIRS)
        assert_whole(self.engine.scan(half(first, 0)[0], half(PAIRS - 1, 1)[0], None, EVERYTHING))

    def page_through(self, dice: random.Random) -> None:
        before = (Slot(-1), Key(b""))
        for page in pages(self.engine, dice.randint(10, 60)):
            for row in page:
                assert before < (row.slot, row.key)
                before = row.slot, row.key

    def snapshot(self, dice: random.Random) -> None:
        view = self.engine.snapshot()
        for pair in dice.sample(range(PAIRS), 5):
            assert view.get(*half(pair, 0)) == view.get(*half(pair, 1))
        rows = everything(view)
        assert_whole(rows)
        assert rows == everything(view)
        assert all(view.get(row.slot, row.key) == row.cell for row in dice.sample(rows, min(5, len(rows))))

    def totals(self, dice: random.Random) -> None:
        for _ in range(100):
            keys, bytes_ = self.engine.totals()
            assert keys % 2 == 0
            assert 0 <= keys <= 2 * PAIRS
            assert bytes_ == keys * HALF_BYTES


def run_together(works: list[Callable[[random.Random], None]]) -> list[BaseException]:
    """Do each work in a thread of its own, and give what was raised."""
    raised: list[BaseException] = []
    start = Barrier(len(works))

    def run(work: Callable[[random.Random], None], seed: int) -> None:
        try:
            start.wait(JOIN_S)
            work(random.Random(seed))
        except BaseException as error:
            raised.append(error)

    threads = [Thread(target=run, args=(work, seed), daemon=True) for seed, work in enumerate(works)]
    with hasty_threads():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(JOIN_S)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return raised


def test_eight_threads_at_once_never_see_half_a_batch(engine: Engine) -> None:
    hammer = Hammer(engine)
    # Every thread does all of it: with one kind of work each, the writers would be done before the readers began.
    kinds = [hammer.write] * 6 + [hammer.drop] * 2 + [hammer.snapshot] * 4 + [hammer.totals] * 2
    kinds += [hammer.get, hammer.scan, hammer.page_through]

    def work(dice: random.Random) -> None:
        for _ in range(ROUNDS):
            dice.choice(kinds)(dice)

    raised = run_together([work] * THREADS)

    assert raised == []
    rows = everything(engine)
    assert_whole(rows)
    assert engine.totals() == recount(rows)
    places = [half(pair, side) for pair in range(PAIRS) for side in (0, 1)]
    assert [(*place, cell) for place in places if (cell := engine.get(*place))] == rows


def test_a_thread_sees_its_own_changes_at_once_whatever_the_others_do(engine: Engine) -> None:
    numbers = iter(range(THREADS))

    def work(dice: random.Random) -> None:
        slot, key = Slot(next(numbers)), Key(b"mine")
        for _ in range(ROUNDS):
            cell = value(dice.getrandbits(64))
            engine.apply([Change(slot, key, cell)])
            assert engine.get(slot, key) == cell
            assert engine.scan(slot, slot, None, 9) == [Change(slot, key, cell)]
            assert engine.snapshot().get(slot, key) == cell
            engine.write_note(f"slot {slot}", cell.record)
            assert engine.read_note(f"slot {slot}") == cell.record
            engine.drop(slot, slot)
            assert engine.get(slot, key) is None

    raised = run_together([work] * THREADS)

    assert raised == []
    assert engine.totals() == Totals(0, 0)
