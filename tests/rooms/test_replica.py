"""One replica: whom it admits, what it keeps, and what it gives away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_kv.answering import NO_ROOM
from twisted_kv.commit import AtOnce, Commit, GroupCommit
from twisted_kv.errors import (
    ChangeUnderWay,
    Damaged,
    DiskBusy,
    DiskFailed,
    DiskFull,
    ForeignNode,
    KvError,
    MalformedBody,
    NodeHasData,
    NotAMember,
    OtherEpoch,
    PeerRefused,
    Stopping,
)
from twisted_kv.limits import Limits
from twisted_kv.metrics import NodeMetrics
from twisted_kv.names import Key, Slot
from twisted_kv.register import ABSTAIN, ACCEPT, AGAIN, FETCH, PREPARE, READ, Cell, Op
from twisted_kv.replica import Replica
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.storage.engine import UNREADABLE, Change, Place
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.versions import NONE, Ballot, HybridClock, Record, Version, decode_record
from twisted_kv.wire.batches import (
    CLOSED_EPOCH,
    DISK_BUSY,
    DISK_FULL,
    OLD_EPOCH,
    OTHER_CLUSTER,
    OTHER_INCARNATION,
    OTHER_MEMBER,
    UNKNOWN_FORMAT,
    Batch,
    BatchReply,
)
from twisted_kv.wire.header import FORMAT, Header
from twisted_kv.wire.joining import Announcement, Join
from twisted_kv.wire.moving import DropRequest
from twisted_kv.wire.pages import DuePage, DueRequest, KeyRow, KeysPage, KeysRequest, PageRequest, Row
from twisted_kv.wire.upkeep import DigestsRequest

ME = Header(FORMAT, "c-1", "n-1", "i-1", 5)
ALL: list[tuple[int, int]] = [(0, SLOTS - 1)]
NOW_MS = 1_700_000_000_000
T = TypeVar("T")


def header(**fields: object) -> Header:
    return msgspec.structs.replace(ME, **fields)


def now(answer: Deferred[T]) -> T:
    """Take an answer that has to be there already, or raise its error."""
    found: list[Any] = []
    answer.addBoth(found.append)
    if isinstance(found[0], Failure):
        found[0].raiseException()
    result: T = found[0]
    return result


class Room:
    """A replica on an engine that the test can look into.

    :param broken: told when the disk has failed; without it that is an error of the test.
    """

    def __init__(
        self,
        engine: MemoryEngine | None = None,
        incarnation: str = "i-1",
        commit: Commit | None = None,
        broken: Callable[[Failure], None] = Failure.raiseException,
        **limits: int,
    ) -> None:
        self.engine = engine or MemoryEngine()
        self.metrics = NodeMetrics()
        self.clock = HybridClock(lambda: NOW_MS, 77)
        self.reactor = Clock()
        self.replica = Replica(
            self.reactor,
            lambda: NOW_MS,
            1,
            self.engine,
            commit or AtOnce(),
            incarnation,
            Limits(**limits),  # type: ignore[arg-type]
            self.metrics,
            broken,
            "0.1",
        )

    def serve(self, *ops: Op, me: Header = ME, copying: bool = False) -> BatchReply:
        return now(self.replica.serve(Batch(me, list(ops), copying)))

    def accept(self, key: bytes, value: bytes | None = b"v", ballot: Ballot | None = None, expires_ms: int = 0) -> Op:
        ballot = ballot or self.clock.tick()
        return Op(ACCEPT, key, ballot, Record(Version(ballot), value, expires_ms=expires_ms).encode())

    def value(self, key: bytes) -> bytes | None:
        record = now(self.replica.read_local(Key(key)))
        return decode_record(record).value if record else None

    def keys(self, page_of: int = 512) -> list[bytes]:
        found = self.engine.scan(Slot(0), Slot(SLOTS - 1), None, page_of)
        return [key for _, key, cell in found if cell.accepted != NONE]


def settled(room: Room) -> Room:
    """Make a room's replica a member at epoch 5."""
    now(room.replica.join(Join("c-1", "n-1")))
    room.serve()
    return room


@pytest.fixture
def room() -> Room:
    return settled(Room())


# Who may speak to it.


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"format": FORMAT + 1}, UNKNOWN_FORMAT),
        ({"format": 0}, UNKNOWN_FORMAT),
        ({"cluster": "c-2"}, OTHER_CLUSTER),
        ({"cluster": ""}, OTHER_CLUSTER),
        ({"member": "n-2"}, OTHER_MEMBER),
        ({"incarnation": "i-0"}, OTHER_INCARNATION),
        ({"incarnation": ""}, OTHER_INCARNATION),
        ({"epoch": 4}, OLD_EPOCH),
    ],
)
def test_a_message_that_means_somebody_else_changes_nothing(
    room: Room, fields: dict[str, object], refusal: str
) -> None:
    room.serve(room.accept(b"stays"))
    strange = header(**({"epoch": 9} | fields))
    replies = [
        room.serve(room.accept(b"k"), me=strange),
        room.serve(room.accept(b"k"), me=strange, copying=True),
        now(room.replica.announce(Announcement(strange, b"other"))),
        now(room.replica.drop(DropRequest(strange, ALL))),
    ]
    for reply in replies:
        assert (reply.refusal, reply.replies, reply.epoch, reply.format) == (refusal, [], 5, FORMAT)
        assert reply.detail
    with pytest.raises(PeerRefused):
        now(room.replica.page(PageRequest(strange, ALL)))
    assert room.keys() == [b"stays"]
    assert room.replica.epoch == 5
    assert room.engine.read_note("state") is None


def test_a_node_of_no_cluster_serves_nobody() -> None:
    room = Room()
    for cluster in ("", "c-1"):
        reply = room.serve(room.accept(b"k"), me=header(cluster=cluster, member=""))
        assert reply.refusal == OTHER_CLUSTER
        assert "none yet" in reply.detail
    assert room.keys() == []


def test_who_speaks_in_an_old_epoch_is_given_the_newest_state(room: Room) -> None:
    assert now(room.replica.announce(Announcement(header(epoch=8), b"the state of 8"))).refusal == ""
    reply = room.serve(room.accept(b"k"), me=header(epoch=7))
    assert (reply.refusal, reply.epoch, reply.state) == (OLD_EPOCH, 8, b"the state of 8")
    assert now(room.replica.announce(Announcement(header(epoch=7), b"older"))).refusal == OLD_EPOCH
    assert room.serve(me=header(epoch=7)).state == b"the state of 8"


def test_a_higher_epoch_is_adopted_and_kept_whoever_shows_it(room: Room) -> None:
    assert room.serve(room.accept(b"k"), me=header(epoch=6)).epoch == 6
    assert room.serve(me=header(epoch=5)).refusal == OLD_EPOCH
    now(room.replica.page(PageRequest(header(epoch=7), ALL)))
    assert room.replica.epoch == 7
    now(room.replica.drop(DropRequest(header(epoch=8), [(0, 0)])))
    assert room.replica.epoch == 8
    assert Room(room.engine).replica.epoch == 8


def test_a_closed_epoch_refuses_clients_and_serves_copies(room: Room) -> None:
    closed = header(epoch=6, open=False)
    assert room.serve(room.accept(b"client"), me=closed).refusal == CLOSED_EPOCH
    assert room.serve(Op(READ, b"client"), me=closed).refusal == CLOSED_EPOCH
    # A proxy that has not heard that the epoch is closed is told so as well.
    assert room.serve(room.accept(b"client"), me=header(epoch=6)).refusal == CLOSED_EPOCH
    assert [reply.taken for reply in room.serve(room.accept(b"copy"), me=closed, copying=True).replies] == [True]
    assert room.keys() == [b"copy"]
    assert [row.key for row in now(room.replica.page(PageRequest(closed, ALL))).rows] == [b"copy"]
    assert now(room.replica.drop(DropRequest(closed, ALL))).refusal == ""
    with pytest.raises(ChangeUnderWay):
        now(room.replica.write_local(Key(b"local"), b"v"))
    assert room.keys() == []
    assert room.serve(room.accept(b"client"), me=header(epoch=7)).refusal == ""
    now(room.replica.write_local(Key(b"local"), b"v"))
    assert sorted(room.keys()) == [b"client", b"local"]


def test_that_an_epoch_is_closed_outlives_a_restart_on_the_same_engine(room: Room) -> None:
    room.serve(me=header(epoch=6, open=False), copying=True)
    again = Room(room.engine)
    assert again.serve(again.accept(b"k"), me=header(epoch=6)).refusal == CLOSED_EPOCH


# What a batch does.


def test_operations_on_one_key_in_one_batch_see_each_other(room: Room) -> None:
    first, second, third = (room.clock.tick() for _ in range(3))
    reply = room.serve(
        Op(FETCH, b"k"),
        room.accept(b"k", b"1", second),
        Op(FETCH, b"k"),
        room.accept(b"k", b"0", first),
        Op(PREPARE, b"k", third),
        room.accept(b"k", b"2", second),
        Op(READ, b"k"),
    )
    blank, taken, shown, late, promised, again, last = reply.replies
    assert (blank.accepted, blank.record, taken.taken) == (NONE, b"", True)
    assert (shown.accepted, decode_record(shown.record).value) == (second, b"1")
    assert (late.taken, late.accepted) == (False, second)
    assert (promised.taken, decode_record(promised.record).value) == (True, b"1")
    assert again.taken, "the same accept again is confirmed, whatever was promised since"
    assert (last.accepted, last.promised, last.record) == (second, third, b"")
    assert room.value(b"k") == b"1"


def test_an_answer_holds_no_more_records_than_there_is_room_for_and_what_is_left_out_has_not_happened() -> None:
    room = settled(Room(reply_bytes_max=250))
    room.serve(*(room.accept(key, b"v" * 100) for key in (b"a", b"b", b"c")))
    ballot = room.clock.tick()
    replies = room.serve(
        Op(FETCH, b"a"), Op(PREPARE, b"b", ballot), Op(READ, b"c"), Op(FETCH, b"none"), room.accept(b"d")
    ).replies
    assert [reply is AGAIN for reply in replies] == [False, True, False, True, False]
    assert room.serve(Op(READ, b"b")).replies[0].promised < ballot
    assert room.serve(Op(PREPARE, b"b", ballot)).replies[0].taken


def test_a_single_record_larger_than_the_room_is_shown() -> None:
    room = settled(Room(reply_bytes_max=1))
    room.serve(room.accept(b"a", b"v" * 100))
    shown, again = room.serve(Op(FETCH, b"a"), Op(FETCH, b"a")).replies
    assert (decode_record(shown.record).value, again is AGAIN) == (b"v" * 100, True)


def test_a_batch_without_changes_writes_nothing(room: Room) -> None:
    reply = room.serve(Op(READ, b"k"), Op(FETCH, b"k"))
    assert [answer.taken for answer in reply.replies] == [True, True]
    assert room.engine.get(slot_of(b"k"), Key(b"k")) is None


GOOD = Record(Version(Ballot(b"\x01" * 16)), b"v").encode()
BALLOT = b"\x01" * 16
MALFORMED = {
    "no ballot": Op(ACCEPT, b"k", NONE, GOOD),
    "an empty ballot": Op(PREPARE, b"k", b""),
    "a short ballot": Op(PREPARE, b"k", b"\x01" * 15),
    "a long ballot": Op(ACCEPT, b"k", b"\x01" * 17, GOOD),
    "an unknown verb": Op(5, b"k", BALLOT, GOOD),
    "a negative verb": Op(-1, b"k", BALLOT, GOOD),
    "a negative verb with a short ballot": Op(-1, b"k", b"\x01"),
    "an empty key": Op(ACCEPT, b"", BALLOT, GOOD),
    "a long key": Op(PREPARE, b"k" * 1025, BALLOT),
    "an empty record": Op(ACCEPT, b"k", BALLOT, b""),
    "a cut record": Op(ACCEPT, b"k", BALLOT, GOOD[:-1]),
    "a record of a later format": Op(ACCEPT, b"k", BALLOT, b"\x02" + GOOD[1:]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_operation_refuses_the_whole_batch_and_nothing_of_it_is_kept(room: Room, name: str) -> None:
    for ops in ([room.accept(b"a"), MALFORMED[name]], [MALFORMED[name], room.accept(b"a")]):
        with pytest.raises(MalformedBody):
            room.serve(*ops)
    assert room.engine.totals().bytes == 0
    assert room.engine.scan(Slot(0), Slot(SLOTS - 1), None, 9) == []


# Pages and drops.


def paged(room: Room, ranges: list[tuple[int, int]]) -> list[bytes]:
    """Walk all pages as the mover does."""
    keys, after, pages = [], None, 0
    while True:
        page = now(room.replica.page(PageRequest(ME, ranges, after)))
        keys += [row.key for row in page.rows]
        after = page.after
        pages += 1
        assert pages < 1000
        if after is None:
            return keys


@pytest.mark.parametrize("limits", [{}, {"page_records_max": 1}, {"page_records_max": 7}, {"page_bytes_max": 100}])
def test_pages_give_every_accepted_record_of_their_ranges_once_and_in_order(limits: dict[str, int]) -> None:
    room = Room(**limits)
    now(room.replica.join(Join("c-1", "n-1")))
    keys = [b"key%d" % number for number in range(120)]
    room.serve(*(room.accept(key) for key in keys))
    room.serve(*(Op(PREPARE, b"promise%d" % number, room.clock.tick()) for number in range(60)))
    ordered = sorted(keys, key=lambda key: (slot_of(key), key))
    assert paged(room, ALL) == ordered
    edge = slot_of(ordered[50])
    halves = [(0, edge), (edge + 1, SLOTS - 1)]
    assert paged(room, halves) == ordered
    # Ranges with holes, one of them of a single slot.
    ranges = [(0, 9_999), (edge, edge), (max(edge + 1, 40_000), SLOTS - 1)]
    wanted = [key for key in ordered if any(first <= slot_of(key) <= last for first, last in ranges)]
    assert paged(room, ranges) == sorted(wanted, key=lambda key: (slot_of(key), key))


def test_a_page_respects_its_limits_but_holds_one_record_at_least() -> None:
    room = Room(page_records_max=3, page_bytes_max=200)
    now(room.replica.join(Join("c-1", "n-1")))
    room.serve(*(room.accept(b"k%d" % number, bytes(500)) for number in range(4)))
    page = now(room.replica.page(PageRequest(ME, ALL)))
    assert len(page.rows) == 1
    assert page.after == (slot_of(page.rows[0].key), page.rows[0].key)
    assert len(paged(room, ALL)) == 4


def test_a_row_is_the_record_as_it_was_accepted_tombstones_included(room: Room) -> None:
    gone = room.accept(b"k", None)
    room.serve(gone)
    (row,) = now(room.replica.page(PageRequest(ME, ALL))).rows
    assert (row.key, row.ballot, row.record) == (b"k", gone.ballot, gone.record)


def test_a_page_of_nothing_is_the_last_one(room: Room) -> None:
    room.serve(*(Op(PREPARE, b"promise%d" % number, room.clock.tick()) for number in range(30)))
    page = now(room.replica.page(PageRequest(ME, ALL)))
    assert (page.rows, page.after) == ([], None)
    assert now(room.replica.page(PageRequest(ME, []))).rows == []


@pytest.mark.parametrize("wrong", [(-1, 5), (5, 4), (0, SLOTS), (SLOTS, SLOTS)])
def test_a_range_that_is_none_is_refused_before_anything_is_dropped(room: Room, wrong: tuple[int, int]) -> None:
    room.serve(room.accept(b"k"))
    with pytest.raises(MalformedBody):
        now(room.replica.page(PageRequest(ME, [wrong])))
    with pytest.raises(MalformedBody):
        now(room.replica.drop(DropRequest(ME, [*ALL, wrong])))
    assert room.keys() == [b"k"]


def test_drop_forgets_its_slots_promises_included_and_no_others(room: Room) -> None:
    keys = [b"key%d" % number for number in range(40)]
    room.serve(*(room.accept(key) for key in keys))
    room.serve(Op(PREPARE, b"promise", room.clock.tick()))
    dropped = [slot_of(b"promise"), *(slot_of(key) for key in keys[:20])]
    reply = now(room.replica.drop(DropRequest(ME, [(slot, slot) for slot in sorted(dropped)])))
    assert (reply.refusal, reply.epoch) == ("", 5)
    assert sorted(room.keys()) == sorted(key for key in keys if slot_of(key) not in dropped)
    assert room.engine.get(slot_of(b"promise"), Key(b"promise")) is None


def test_an_order_to_drop_that_comes_again_is_carried_out_again(room: Room) -> None:
    room.serve(room.accept(b"old"))
    order = DropRequest(ME, ALL)
    first = now(room.replica.drop(order))
    assert room.keys() == []
    assert now(room.replica.drop(order)) == first


def test_an_order_to_drop_of_an_older_epoch_is_refused_and_nothing_is_forgotten(room: Room) -> None:
    late = DropRequest(ME, ALL)
    room.serve(room.accept(b"filled since"), me=header(epoch=6))
    for replica in (room.replica, Room(room.engine).replica):
        reply = now(replica.drop(late))
        assert (reply.refusal, reply.epoch, reply.next) == (OLD_EPOCH, 6, None)
    assert room.keys() == [b"filled since"]


def test_a_drop_goes_in_parts_and_says_when_it_is_done() -> None:
    room = settled(Room(drop_cells_max=2))
    keys = [b"key%d" % number for number in range(5)]
    room.serve(*(room.accept(key) for key in keys))

    story = []
    for _ in range(9):
        reply = now(room.replica.drop(DropRequest(ME, ALL)))
        left = room.keys()
        story.append((reply.next is not None, len(left)))
        if reply.next is None:
            break
        assert all(slot_of(key) >= reply.next for key in left), "nothing is left before it"

    assert story == [(True, 3), (True, 1), (False, 0)]
    repeated = now(room.replica.drop(DropRequest(ME, ALL)))
    assert (repeated.refusal, repeated.next) == ("", None)


def test_a_drop_of_several_ranges_is_done_when_all_of_them_are() -> None:
    room = settled(Room(drop_cells_max=3))
    keys = [b"key%d" % number for number in range(8)]
    room.serve(*(room.accept(key) for key in keys))
    edge = sorted(slot_of(key) for key in keys)[3]
    ranges = [(0, edge), (edge + 1, SLOTS - 1)]

    left = []
    for _ in range(9):
        reply = now(room.replica.drop(DropRequest(ME, ranges)))
        left.append(len(room.keys()))
        if reply.next is None:
            break

    assert left[-1] == 0
    # An order forgets no more than its measure, however many ranges it names.
    assert left == [5, 2, 0]


def test_the_key_index_is_read_in_pages_with_prefix_and_expiry(room: Room) -> None:
    room.serve(
        room.accept(b"a1"),
        room.accept(b"a2", None),
        room.accept(b"a3", b"v", None, 99),
        room.accept(b"b1"),
        Op(PREPARE, b"a9", room.clock.tick()),
    )

    def page(prefix: bytes, after: bytes, limit: int) -> KeysPage:
        return now(room.replica.keys(KeysRequest(ME, prefix, after, limit)))

    rows = [KeyRow(b"a1", True, 0), KeyRow(b"a2", False, 0), KeyRow(b"a3", True, 99), KeyRow(b"b1", True, 0)]
    assert page(b"", b"", 9) == KeysPage(FORMAT, 5, rows, more=False)
    assert page(b"a", b"", 2) == KeysPage(FORMAT, 5, rows[:2], more=True)
    assert page(b"a", b"a2", 2).rows == rows[2:3]


def test_what_is_due_is_read_in_pages(room: Room) -> None:
    room.serve(*(room.accept(b"k%d" % at, b"v", None, at) for at in (30, 10, 20)), room.accept(b"stays"))

    def page(until_ms: int, after: tuple[int, bytes] | None, limit: int) -> DuePage:
        return now(room.replica.due(DueRequest(ME, until_ms, after, limit)))

    assert page(20, None, 9) == DuePage(FORMAT, 5, [(10, b"k10"), (20, b"k20")], more=False)
    assert page(99, None, 1) == DuePage(FORMAT, 5, [(10, b"k10")], more=True)
    assert page(99, (10, b"k10"), 9).rows == [(20, b"k20"), (30, b"k30")]


def test_pages_of_keys_have_a_size_of_their_own_whatever_is_asked() -> None:
    room = settled(Room(keys_page_max=2))
    room.serve(*(room.accept(b"k%d" % number, b"v", None, 7) for number in range(5)))

    for page in (
        now(room.replica.keys(KeysRequest(ME, b"", b"", 1_000))),
        now(room.replica.due(DueRequest(ME, 99, None, 1_000))),
    ):
        # What was cut here, and not by whoever asked, must not pass for the end.
        assert (len(page.rows), page.more) == (2, True)


@pytest.mark.parametrize(
    ("fields", "serves"), [({"epoch": 4}, False), ({"epoch": 6, "open": False}, False), ({}, True)]
)
def test_clients_listings_are_served_in_an_open_and_present_epoch_only(
    room: Room, fields: dict[str, object], serves: bool
) -> None:
    for asked in (
        lambda: room.replica.keys(KeysRequest(header(**fields), b"", b"", 9)),
        lambda: room.replica.due(DueRequest(header(**fields), 9, None, 9)),
    ):
        if serves:
            assert now(asked()).rows == []
        else:
            with pytest.raises(OtherEpoch):
                now(asked())


# What its disk does.


class Sick(MemoryEngine):
    """Suffers one ``trouble`` after another instead of changing something (None is none), and cannot read some keys."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: list[KvError | None] = []
        self.unreadable: set[bytes] = set()
        self.tried = 0

    def _suffer(self) -> None:
        self.tried += 1
        trouble = self.trouble.pop(0) if self.trouble else None
        if trouble is not None:
            raise trouble

    def get(self, slot: Slot, key: Key) -> Cell | None:
        if key in self.unreadable:
            raise Damaged(f"the checksum of the record under {key!r} fails")
        return super().get(slot, key)

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        return [
            Change(slot, key, UNREADABLE if key in self.unreadable else cell)
            for slot, key, cell in super().scan(first, last, after, limit, bytes_max)
        ]

    def apply(self, changes: Iterable[Change]) -> None:
        self._suffer()
        super().apply(changes)

    def drop(self, first: Slot, last: Slot, limit: int) -> int:
        self._suffer()
        return super().drop(first, last, limit)

    def write_note(self, name: str, value: bytes) -> None:
        self._suffer()
        super().write_note(name, value)


class SickRoom(Room):
    """A settled replica whose engine is sick, and whose failures of the disk are kept."""

    engine: Sick

    def __init__(self, commit: Commit | None = None) -> None:
        self.failures: list[Failure] = []
        super().__init__(Sick(), commit=commit, broken=self.failures.append)


@pytest.fixture
def sick() -> SickRoom:
    room = SickRoom()
    settled(room)
    room.serve(room.accept(b"before", b"1"))
    return room


FULL = DiskFull("there is no room left")
BUSY = DiskBusy("the disk is behind")
FAILED = DiskFailed("the disk has failed")


def test_a_replica_abstains_for_what_it_cannot_read_and_answers_the_rest_of_the_batch(sick: SickRoom) -> None:
    sick.serve(sick.accept(b"bad", b"1"))
    sick.engine.unreadable = {b"bad"}
    taken = sick.accept(b"good", b"2")

    replies = sick.serve(
        Op(READ, b"bad"),
        taken,
        Op(FETCH, b"bad"),
        Op(PREPARE, b"bad", sick.clock.tick()),
        sick.accept(b"bad", b"2"),
        Op(FETCH, b"good"),
    ).replies

    assert [reply is ABSTAIN for reply in replies] == [True, False, True, True, False, False]
    assert (replies[1].taken, replies[5].record) == (True, taken.record)
    assert replies[4].taken, "what is newer than all that it was ever shown takes the place of what is lost"
    sick.engine.unreadable = set()
    assert (sick.value(b"bad"), sick.value(b"good")) == (b"2", b"2")


def test_a_record_no_newer_than_what_was_shown_does_not_replace_what_cannot_be_read(sick: SickRoom) -> None:
    late = sick.accept(b"bad", b"0")
    sick.serve(sick.accept(b"bad", b"1"))
    sick.engine.unreadable = {b"bad"}

    (reply,) = sick.serve(late).replies

    assert (reply.taken, reply.promised > late.ballot) == (False, True)
    sick.engine.unreadable = set()
    assert sick.value(b"bad") == b"1"


def test_a_page_shows_that_there_is_something_that_cannot_be_read(sick: SickRoom) -> None:
    sick.engine.unreadable = {b"before"}

    (row,) = now(sick.replica.page(PageRequest(ME, ALL))).rows

    assert row == Row(b"before", NONE, b"", NONE)
    with pytest.raises(Damaged):
        now(sick.replica.read_local(Key(b"before")))


@pytest.mark.parametrize(("trouble", "refusal"), [(FULL, DISK_FULL), (BUSY, DISK_BUSY)])
def test_a_disk_that_takes_no_more_is_a_refusal_and_nothing_has_changed(
    sick: SickRoom, trouble: KvError, refusal: str
) -> None:
    for ask in (
        lambda: sick.serve(Op(READ, b"before"), sick.accept(b"k"), sick.accept(b"before", b"2")),
        lambda: sick.serve(me=header(epoch=6)),
        lambda: now(sick.replica.announce(Announcement(ME, b"state"))),
        lambda: now(sick.replica.drop(DropRequest(ME, ALL))),
    ):
        sick.engine.trouble = [trouble]
        reply = ask()
        assert (reply.refusal, reply.replies, reply.epoch, reply.detail) == (refusal, [], 5, trouble.detail)
    assert (sick.keys(), sick.value(b"before")) == ([b"before"], b"1")
    assert (sick.replica.epoch, sick.engine.read_note("state")) == (5, None)
    sick.engine.trouble = [trouble]
    with pytest.raises(type(trouble)):
        now(sick.replica.write_local(Key(b"k"), b"v"))
    # And it goes on as soon as the disk does.
    assert sick.serve(sick.accept(b"k")).refusal == ""
    assert now(sick.replica.drop(DropRequest(ME, ALL))).refusal == ""
    assert sick.keys() == []


def waiting(room: Room, *ops: Op, deadline_ms: int, epoch: int = 5) -> list[Any]:
    """Send a batch with a deadline; its answer comes into the list."""
    found: list[Any] = []
    room.replica.serve(Batch(header(deadline_ms=deadline_ms, epoch=epoch), list(ops))).addBoth(found.append)
    return found


def test_a_busy_disk_is_tried_again_while_the_sender_has_patience(sick: SickRoom) -> None:
    sick.engine.trouble = [BUSY] * 3
    found = waiting(sick, sick.accept(b"k"), deadline_ms=1_000)
    for _ in range(2):
        sick.reactor.advance(0.01)
        assert found == []

    sick.reactor.advance(0.01)

    assert [reply.taken for reply in found[0].replies] == [True]
    assert sick.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("deadline_ms", [0, 5, 10, 55, 100])
def test_a_disk_that_stays_busy_is_a_refusal_before_the_deadline(sick: SickRoom, deadline_ms: int) -> None:
    sick.engine.trouble = [BUSY] * 1_000
    found = waiting(sick, sick.accept(b"k"), deadline_ms=deadline_ms)

    while not found:
        sick.reactor.advance(0.01)

    assert found[0].refusal == DISK_BUSY
    assert sick.reactor.seconds() * 1000 <= deadline_ms
    assert sick.reactor.getDelayedCalls() == []
    assert sick.keys() == [b"before"]


def test_what_waits_for_a_busy_disk_is_judged_anew_each_time(sick: SickRoom) -> None:
    sick.engine.trouble = [BUSY]
    found = waiting(sick, sick.accept(b"k"), deadline_ms=1_000)
    now(sick.replica.announce(Announcement(header(epoch=6), b"state")))

    sick.reactor.advance(0.01)

    assert (found[0].refusal, found[0].epoch, found[0].state) == (OLD_EPOCH, 6, b"state")
    assert sick.keys() == [b"before"]


def test_what_waits_for_a_busy_disk_is_refused_when_the_replica_retires(sick: SickRoom) -> None:
    sick.engine.trouble = [BUSY]
    found = waiting(sick, sick.accept(b"k"), deadline_ms=1_000)
    sick.replica.retire()

    sick.reactor.advance(0.01)

    assert found[0].check(Stopping)
    assert sick.keys() == [b"before"]


def calls(room: Room) -> dict[str, Callable[[], Deferred[Any]]]:
    """Every call of a replica that gives a Deferred. Those that change something come first."""
    return {
        "accept": lambda: room.replica.serve(Batch(ME, [room.accept(b"k")])),
        "prepare": lambda: room.replica.serve(Batch(ME, [Op(PREPARE, b"k", room.clock.tick())])),
        "copy": lambda: room.replica.serve(Batch(ME, [room.accept(b"k")], True)),
        "write_local": lambda: room.replica.write_local(Key(b"k"), b"v"),
        "adopt": lambda: room.replica.page(PageRequest(header(epoch=9), ALL)),
        "announce": lambda: room.replica.announce(Announcement(ME, b"state")),
        "drop": lambda: room.replica.drop(DropRequest(ME, ALL)),
        "join": lambda: room.replica.join(Join("c-1", "n-1")),
        "read": lambda: room.replica.serve(Batch(ME, [Op(READ, b"before"), Op(FETCH, b"k")])),
        "page": lambda: room.replica.page(PageRequest(ME, ALL)),
        "keys": lambda: room.replica.keys(KeysRequest(ME, b"", b"", 9)),
        "due": lambda: room.replica.due(DueRequest(ME, 9, None, 9)),
        "read_local": lambda: room.replica.read_local(Key(b"before")),
    }


CLIENTS_CHANGES = ["accept", "prepare", "copy", "write_local"]
CHANGES = [*CLIENTS_CHANGES, "adopt", "announce", "drop"]
READS = ["read", "page", "keys", "due", "read_local"]
CALLS = [*CHANGES, "join", *READS]


def test_the_list_of_calls_is_whole(room: Room) -> None:
    assert list(calls(room)) == CALLS


@pytest.mark.parametrize("name", CHANGES)
def test_a_failed_disk_is_told_and_nothing_is_answered(sick: SickRoom, name: str) -> None:
    sick.engine.trouble = [FAILED]

    with pytest.raises(DiskFailed):
        now(calls(sick)[name]())

    assert [failure.value for failure in sick.failures] == [FAILED]
    assert sick.keys() == [b"before"]


@pytest.mark.parametrize("name", CALLS)
def test_without_room_values_are_refused_and_all_else_is_served(sick: SickRoom, name: str) -> None:
    sick.replica.full = True
    tried = sick.engine.tried
    found: list[Any] = []

    calls(sick)[name]().addBoth(found.append)

    if name == "accept":
        assert found[0].replies == [NO_ROOM]
    elif name == "copy":
        assert found[0].refusal == DISK_FULL
    elif name == "write_local":
        assert found[0].check(DiskFull)
    else:
        assert getattr(found[0], "refusal", "") == ""
    if name in ("accept", "copy", "write_local"):
        assert sick.engine.tried == tried
        assert sick.keys() == [b"before"]
    sick.replica.full = False
    assert sick.serve(sick.accept(b"later"), me=header(epoch=9)).refusal == ""


def test_without_room_a_batch_is_served_but_for_its_values(sick: SickRoom) -> None:
    sick.replica.full = True
    again, tombstone = sick.accept(b"before", b"2"), sick.accept(b"before", None)

    replies = sick.serve(again, Op(FETCH, b"before"), tombstone, sick.accept(b"other"), Op(FETCH, b"before")).replies

    assert (replies[0], replies[3]) == (NO_ROOM, NO_ROOM)
    assert [reply.taken for reply in replies] == [False, True, True, False, True]
    assert decode_record(replies[1].record).value == b"1"
    assert replies[4].record == tombstone.record
    assert sick.value(b"before") is None


@pytest.mark.parametrize("name", CALLS)
def test_a_replica_that_has_retired_does_nothing_any_more(sick: SickRoom, name: str) -> None:
    sick.replica.retire()
    tried = sick.engine.tried

    with pytest.raises(Stopping):
        now(calls(sick)[name]())

    assert sick.engine.tried == tried


# When its answers leave.


class SlowRoom(SickRoom):
    """A settled replica whose syncs end when the test says so."""

    def __init__(self) -> None:
        self.syncs: list[Deferred[None]] = []
        self.covered: object = None
        super().__init__(GroupCommit(Clock(), lambda: None, self._sync, Failure.raiseException, NodeMetrics()))
        self.replica.join(Join("c-1", "n-1"))
        self.replica.serve(Batch(ME, [self.accept(b"before", b"v", None, 7), self.accept(b"other", b"v", None, 99)]))
        self.end_syncs()

    def _sync(self, work: Callable[[], None]) -> Deferred[None]:
        self.covered = self.contents()
        self.syncs.append(Deferred())
        return self.syncs[-1]

    def contents(self) -> object:
        notes = {name: self.engine.read_note(name) for name in ("identity", "state")}
        return self.engine.scan(Slot(0), Slot(SLOTS - 1), None, 99), notes

    def end_syncs(self) -> None:
        while self.syncs:
            self.syncs.pop().callback(None)


@pytest.fixture
def slow() -> SlowRoom:
    return SlowRoom()


def leaving(answer: Deferred[Any]) -> list[Any]:
    found: list[Any] = []
    answer.addBoth(found.append)
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_change_is_answered_with_leaves_after_its_sync(slow: SlowRoom, name: str) -> None:
    found = leaving(calls(slow)[name]())
    assert (found, len(slow.syncs)) == ([], 1)

    slow.end_syncs()

    assert not isinstance(found[0], Failure)


@pytest.mark.parametrize("name", CHANGES)
def test_a_sync_begins_after_the_change_that_it_is_to_cover(slow: SlowRoom, name: str) -> None:
    before = slow.contents()

    leaving(calls(slow)[name]())
    slow.end_syncs()

    assert before != slow.covered == slow.contents()


@pytest.mark.parametrize("name", READS)
def test_whoever_reads_what_is_not_synced_waits(slow: SlowRoom, name: str) -> None:
    slow.replica.serve(Batch(ME, [slow.accept(b"before", b"new", None, 8)]))

    found = leaving(calls(slow)[name]())
    assert found == []
    slow.end_syncs()

    assert len(found) == 1


def test_whoever_reads_other_keys_does_not_wait(slow: SlowRoom) -> None:
    slow.replica.serve(Batch(ME, [slow.accept(b"before", b"new", None, 8)]))

    assert len(leaving(slow.replica.serve(Batch(ME, [Op(FETCH, b"other")])))) == 1
    assert len(leaving(slow.replica.keys(KeysRequest(ME, b"o", b"", 9)))) == 1
    assert len(leaving(slow.replica.due(DueRequest(ME, 99, (50, b""), 9)))) == 1
    assert len(leaving(slow.replica.page(PageRequest(ME, [(slot_of(b"other"), slot_of(b"other"))])))) == 1


@pytest.mark.parametrize("name", CALLS)
def test_nothing_leaves_that_may_tell_of_an_epoch_before_it_is_synced(slow: SlowRoom, name: str) -> None:
    slow.replica.announce(Announcement(header(epoch=6, open=False), b"state"))

    # Each of these is refused now, and says so: either with the epoch or with a sentence about it.
    found = leaving(calls(slow)[name]())
    assert found == []
    slow.end_syncs()

    assert len(found) == 1


def test_a_batch_that_is_malformed_but_shows_an_epoch_is_refused_after_that_is_synced(slow: SlowRoom) -> None:
    found = leaving(slow.replica.serve(Batch(header(epoch=6), [Op(4, b"k")])))
    assert found == []

    slow.end_syncs()

    assert found[0].check(MalformedBody)
    assert slow.replica.epoch == 6


def test_what_was_dropped_before_an_order_failed_is_not_shown_as_gone_before_that_is_synced(slow: SlowRoom) -> None:
    slots = sorted((int(slot_of(key)), int(slot_of(key))) for key in (b"before", b"other"))
    slow.engine.trouble = [None, BUSY]
    refused = leaving(slow.replica.drop(DropRequest(ME, slots)))
    compared = leaving(slow.replica.digests(DigestsRequest(ME, slots)))
    copied = leaving(slow.replica.page(PageRequest(ME, slots)))
    assert (refused, compared, copied) == ([], [], [])

    slow.end_syncs()

    assert refused[0].refusal == DISK_BUSY
    assert len(compared[0].digests) == len(copied[0].rows) == 1


# Identity.


def test_joining_gives_an_identity_and_joining_again_changes_nothing() -> None:
    room = Room()
    assert not room.replica.info().member
    info = now(room.replica.join(Join("c-1", "n-1")))
    assert (info.cluster, info.member, info.incarnation, info.epoch) == ("c-1", "n-1", "i-1", 0)
    room.serve(room.accept(b"k"))
    assert now(room.replica.join(Join("c-1", "n-1"))) == room.replica.info()
    assert (room.replica.epoch, room.keys()) == (5, [b"k"])


@pytest.mark.parametrize("join", [Join("c-2", "n-1"), Join("c-1", "n-2")])
def test_a_member_does_not_become_somebody_else(room: Room, join: Join) -> None:
    with pytest.raises(ForeignNode, match="member n-1 of cluster c-1"):
        now(room.replica.join(join))
    assert room.replica.info().member == "n-1"


def test_a_node_with_data_of_its_own_joins_nobody() -> None:
    room = Room()
    room.engine.apply(
        [Change(slot_of(b"mine"), Key(b"mine"), Cell(BALLOT, BALLOT, Record(Version(BALLOT), b"v").encode()))]
    )
    with pytest.raises(NodeHasData):
        now(room.replica.join(Join("c-1", "n-1")))
    assert (room.replica.info().member, room.value(b"mine")) == ("", b"v")


def test_identity_epoch_state_and_data_outlive_the_replica(room: Room) -> None:
    now(room.replica.announce(Announcement(header(epoch=6), b"state")))
    room.serve(room.accept(b"k"), me=header(epoch=6))
    again = Room(room.engine)
    assert again.replica.info() == room.replica.info()
    reply = again.serve(me=header(epoch=5))
    assert (reply.refusal, reply.state) == (OLD_EPOCH, b"state")
    assert again.value(b"k") == b"v"
    reborn = Room(room.engine, incarnation="i-2")
    assert reborn.serve(me=header(epoch=6)).refusal == OTHER_INCARNATION


def test_info_says_what_is_there(room: Room) -> None:
    room.serve(room.accept(b"k", b"v"), room.accept(b"gone", None))
    info = room.replica.info()
    assert (info.role, info.format, info.engine, info.keys, info.now_ms, info.version) == (
        "kvnode",
        FORMAT,
        "memory",
        1,
        NOW_MS,
        "0.1",
    )
    assert info.bytes == room.engine.totals().bytes


# The original's two calls.


def test_a_node_without_a_cluster_takes_no_write_that_would_keep_it_from_joining_one() -> None:
    room = Room()
    with pytest.raises(NotAMember):
        now(room.replica.write_local(Key(b"k"), b"v"))
    assert room.engine.totals().bytes == 0


def test_a_local_write_is_read_locally_and_replaces_the_one_before(room: Room) -> None:
    assert room.value(b"k") is None
    for value in (b"1", b"2", b""):
        now(room.replica.write_local(Key(b"k"), value))
        assert room.value(b"k") == value


def test_a_local_write_beats_an_earlier_promise_and_record_of_a_clock_far_ahead(room: Room) -> None:
    ahead = HybridClock(lambda: NOW_MS + 10**9, 99)
    record, promise = ahead.tick(), ahead.tick()
    room.serve(room.accept(b"k", b"old", record), Op(PREPARE, b"k", promise))
    now(room.replica.write_local(Key(b"k"), b"new"))
    assert room.value(b"k") == b"new"
    (shown,) = room.serve(Op(READ, b"k")).replies
    assert shown.accepted > promise
    assert decode_record(now(room.replica.read_local(Key(b"k")))).version == shown.accepted


def test_a_node_tells_how_long_it_is_up_and_what_room_there_is_and_all_else_where_that_fails() -> None:
    def gone() -> int:
        raise FileNotFoundError

    for look, room_left in ((lambda: 5, 5), (gone, None), (None, None)):
        clock = Clock()
        replica = Replica(
            clock,
            lambda: NOW_MS,
            1,
            MemoryEngine(),
            AtOnce(),
            "i-1",
            Limits(),
            NodeMetrics(),
            Failure.raiseException,
            sync="always",
            free_bytes=look,
        )
        clock.advance(12.0)
        info = replica.info()
        assert (info.uptime_s, info.free_bytes, info.sync) == (12.0, room_left, "always")
