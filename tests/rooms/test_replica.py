"""One replica: whom it admits, what it keeps, and what it gives away."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_kv.commit import AtOnce
from twisted_kv.errors import ChangeUnderWay, ForeignNode, MalformedBody, NodeHasData, NotAMember, PeerRefused
from twisted_kv.limits import Limits
from twisted_kv.metrics import NodeMetrics
from twisted_kv.names import Key, Slot
from twisted_kv.register import ACCEPT, FETCH, PREPARE, READ, Cell, Op
from twisted_kv.replica import Replica
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.storage.engine import Change
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.versions import NONE, Ballot, HybridClock, Record, Version, decode_record
from twisted_kv.wire import (
    CLOSED_EPOCH,
    FORMAT,
    OLD_EPOCH,
    OTHER_CLUSTER,
    OTHER_INCARNATION,
    OTHER_MEMBER,
    UNKNOWN_FORMAT,
    Announcement,
    Batch,
    BatchReply,
    DropRequest,
    Header,
    Join,
    PageRequest,
)

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
    """A replica on an engine that the test can look into."""

    def __init__(self, engine: MemoryEngine | None = None, incarnation: str = "i-1", **limits: int) -> None:
        self.engine = engine or MemoryEngine()
        self.clock = HybridClock(lambda: NOW_MS, 77)
        self.reactor = Clock()
        self.replica = Replica(
            self.reactor,
            lambda: NOW_MS,
            1,
            self.engine,
            AtOnce(),
            incarnation,
            Limits(**limits),  # type: ignore[arg-type]
            NodeMetrics(),
            lambda failure: failure.raiseException(),
            "0.1",
        )

    def serve(self, *ops: Op, me: Header = ME, copying: bool = False) -> BatchReply:
        return now(self.replica.serve(Batch(me, list(ops), copying)))

    def accept(self, key: bytes, value: bytes | None = b"v", ballot: Ballot | None = None) -> Op:
        ballot = ballot or self.clock.tick()
        return Op(ACCEPT, key, ballot, Record(Version(ballot), value).encode())

    def value(self, key: bytes) -> bytes | None:
        record = now(self.replica.read_local(Key(key)))
        return decode_record(record).value if record else None

    def keys(self, page_of: int = 512) -> list[bytes]:
        found = self.engine.scan(Slot(0), Slot(SLOTS - 1), None, page_of)
        return [key for _, key, cell in found if cell.accepted != NONE]


@pytest.fixture
def room() -> Room:
    made = Room()
    now(made.replica.join(Join("c-1", "n-1")))
    made.serve()
    return made


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
        now(room.replica.drop(DropRequest(strange, ALL, 1))),
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
    now(room.replica.drop(DropRequest(header(epoch=8), [(0, 0)], 2)))
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
    assert now(room.replica.drop(DropRequest(closed, ALL, 3))).refusal == ""
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
    "an unknown verb": Op(4, b"k", BALLOT, GOOD),
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
        now(room.replica.drop(DropRequest(ME, [*ALL, wrong], 4)))
    assert room.keys() == [b"k"]


def test_drop_forgets_its_slots_promises_included_and_no_others(room: Room) -> None:
    keys = [b"key%d" % number for number in range(40)]
    room.serve(*(room.accept(key) for key in keys))
    room.serve(Op(PREPARE, b"promise", room.clock.tick()))
    dropped = [slot_of(b"promise"), *(slot_of(key) for key in keys[:20])]
    reply = now(room.replica.drop(DropRequest(ME, [(slot, slot) for slot in sorted(dropped)], 5)))
    assert (reply.refusal, reply.epoch) == ("", 5)
    assert sorted(room.keys()) == sorted(key for key in keys if slot_of(key) not in dropped)
    assert room.engine.get(slot_of(b"promise"), Key(b"promise")) is None


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
