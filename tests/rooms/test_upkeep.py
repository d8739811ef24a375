"""The upkeep of one node: what it purges, what it notes for others, and what it does about what it cannot read."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from twisted.python.failure import Failure

from tests.rooms.nodes import LIFE, STATE, Nodes, Spoilt, ballot_at, record_of
from twisted_kv.commit import AtOnce
from twisted_kv.errors import Damaged, DiskBusy, DiskFull, KvError, MalformedBody, OtherEpoch, PeerRefused
from twisted_kv.membership import State
from twisted_kv.metrics import NodeMetrics
from twisted_kv.names import Key, NodeId, Slot
from twisted_kv.register import ABSTAIN, ACCEPT, FETCH, HINT, NO_FLOOR, PREPARE, READ, Floor, Op, Reply
from twisted_kv.replica import Replica
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.storage.engine import Inspection
from twisted_kv.versions import NONE, Ballot, decode_record
from twisted_kv.wire.upkeep import HintsPage, PurgeRequest

A, B = NodeId("a"), NodeId("b")
K, SLOT = b"k", slot_of(Key(b"k"))
FLOOR = ballot_at(10)


def neighbour_of(key: bytes) -> bytes:
    """Find another key of the same slot."""
    slot = slot_of(Key(key))
    return next(b"%d" % number for number in range(10**7) if slot_of(Key(b"%d" % number)) == slot)


L = neighbour_of(K)


class Node(Nodes):
    """One node, and what is asked of it; its marks and hints can be looked at."""

    def __init__(self) -> None:
        super().__init__(A)
        self.engine: Spoilt = self.engines[A]

    @property
    def replica(self) -> Replica:
        return self.replicas[A]

    def ask(self, *ops: Op) -> list[Reply]:
        return self.wait(self.control.ask(self.seats[A], STATE, list(ops)))

    def put(self, key: bytes, ms: int, value: bytes | None = b"v") -> bool:
        (reply,) = self.ask(Op(ACCEPT, key, ballot_at(ms), record_of(ms, value)))
        return reply.taken

    def fetch(self, key: bytes) -> Reply:
        (reply,) = self.ask(Op(FETCH, key))
        return reply

    def digest(self) -> int:
        return self.engine.digests(SLOT, SLOT)[0]

    def promise_floor(self, floor: Ballot = FLOOR, digest: int | None = None, state: State = STATE) -> list[int]:
        slots = [(int(SLOT), self.digest() if digest is None else digest)]
        return self.wait(self.control.purge(self.seats[A], state, floor, slots, final=False))

    def bury(self, floor: Ballot = FLOOR) -> list[int]:
        return self.wait(self.control.purge(self.seats[A], STATE, floor, [(int(SLOT), 0)], final=True))

    def floor(self) -> Floor:
        return self.engine.floor(SLOT)

    def hints(
        self, owner: str = B, after: bytes = b"", limit: int = 100, done: dict[bytes, int] | None = None
    ) -> HintsPage:
        has = [(key, bytes(ballot_at(ms))) for key, ms in (done or {}).items()]
        return self.wait(self.control.hints(self.seats[A], STATE, owner, after, limit, has))

    def marks(self, *done: int) -> list[int]:
        return self.wait(self.control.marks(self.seats[A], STATE, done))

    def counted(self, name: str) -> float | None:
        return self.replica._metrics.registry.get_sample_value(f"{name}_total")

    def restart(self) -> None:
        """Start again on the same engine."""
        self.replicas[A] = Replica(
            self.clock, lambda: 100, 2, self.engine, AtOnce(), LIFE, self.limits, NodeMetrics(), Failure.raiseException
        )


@pytest.fixture
def node() -> Node:
    return Node()


# Purging.


def test_a_slot_is_purged_in_two_steps(node: Node) -> None:
    node.put(K, 5, None)
    node.put(L, 6, b"stays")
    assert node.promise_floor() == [SLOT]
    assert node.floor() == Floor(FLOOR, NONE)
    assert node.cell(A, K).accepted == ballot_at(5), "nobody has forgotten anything yet"
    assert node.bury() == [SLOT]
    assert node.floor() == Floor(FLOOR, FLOOR)
    assert node.engine.get(SLOT, Key(K)) is None
    assert node.value(A, L) == b"stays"
    assert list(node.engine.graves(SLOT, SLOT)) == [0]


def test_a_purged_key_counts_as_deleted_at_the_floor(node: Node) -> None:
    node.put(K, 5, None)
    node.promise_floor()
    node.bury()
    shown = node.fetch(K)
    assert (shown.accepted, shown.promised) == (FLOOR, FLOOR)
    assert decode_record(shown.record).value is None


@pytest.mark.parametrize("buried", [False, True])
@pytest.mark.parametrize("key", [K, L])
def test_from_the_first_step_on_nothing_below_the_floor_is_taken_and_all_above_is(
    node: Node, key: bytes, buried: bool
) -> None:
    node.put(K, 5, None)
    node.promise_floor()
    if buried:
        node.bury()
    assert not node.put(key, 9)
    assert not node.ask(Op(PREPARE, key, ballot_at(9)))[0].taken
    assert node.put(key, 11, b"new")
    assert node.value(A, key) == b"new"


def test_a_slot_whose_digest_is_another_one_takes_no_floor(node: Node) -> None:
    node.put(K, 5, None)
    assert node.promise_floor(digest=node.digest() ^ 1) == []
    assert node.floor() == NO_FLOOR


def test_a_write_between_the_comparison_and_the_floor_keeps_the_floor_away(node: Node) -> None:
    node.put(K, 5, None)
    compared = node.digest()
    node.put(L, 6)
    assert node.promise_floor(digest=compared) == []


def test_a_slot_that_is_to_be_repaired_takes_no_floor(node: Node) -> None:
    node.put(K, 5, None)
    node.engine.unreadable.add(L)
    node.ask(Op(READ, L))
    assert node.marks() == [SLOT]
    assert node.promise_floor() == []
    node.marks(SLOT)
    assert node.promise_floor() == [SLOT]


def test_nothing_is_forgotten_below_a_floor_that_was_not_promised(node: Node) -> None:
    node.put(K, 5, None)
    assert node.bury() == []
    node.promise_floor(ballot_at(9))
    assert node.bury() == []
    assert node.cell(A, K).accepted == ballot_at(5)


def test_what_came_above_the_floor_after_it_was_promised_is_not_forgotten(node: Node) -> None:
    node.put(K, 5, None)
    node.promise_floor()
    node.put(K, 12, None)
    node.put(L, 13, b"v")
    node.bury()
    assert (node.cell(A, K).accepted, node.cell(A, L).accepted) == (ballot_at(12), ballot_at(13))


def test_a_promise_above_the_floor_outlives_its_tombstone(node: Node) -> None:
    node.put(K, 5, None)
    node.ask(Op(PREPARE, K, ballot_at(20)))
    node.promise_floor()
    node.bury()
    assert not node.put(K, 15)
    assert node.put(K, 20, b"v")


def test_a_lower_floor_is_no_step_back(node: Node) -> None:
    node.put(K, 5, None)
    node.promise_floor()
    node.bury()
    assert node.promise_floor(ballot_at(7)) == [SLOT]
    assert node.bury(ballot_at(7)) == [SLOT]
    assert node.floor() == Floor(FLOOR, FLOOR)


def test_orders_to_purge_that_come_again_change_nothing(node: Node) -> None:
    node.put(K, 5, None)
    for _ in range(2):
        node.promise_floor()
    for _ in range(2):
        assert node.bury() == [SLOT]
    assert node.floor() == Floor(FLOOR, FLOOR)


def test_a_purge_leaves_alone_what_cannot_be_read(node: Node) -> None:
    node.put(K, 5, None)
    node.put(L, 6, None)
    node.promise_floor()
    node.engine.unreadable.add(L)
    assert node.bury() == [SLOT]
    assert node.cell(A, L).accepted == ballot_at(6)
    assert node.ask(Op(READ, L)) == [ABSTAIN]


@pytest.mark.parametrize("floor", [NONE, b"", b"\xff" * 16, b"\x01" * 15])
def test_a_floor_that_no_clock_drew_is_refused(node: Node, floor: bytes) -> None:
    header = node.control.header(node.seats[A], STATE)
    with pytest.raises(MalformedBody):
        node.wait(node.replica.purge(PurgeRequest(header, floor, [(int(SLOT), node.digest())], False)))
    assert node.floor() == NO_FLOOR


def test_where_one_slot_is_none_no_floor_is_taken(node: Node) -> None:
    header = node.control.header(node.seats[A], STATE)
    with pytest.raises(MalformedBody):
        node.wait(node.replica.purge(PurgeRequest(header, FLOOR, [(int(SLOT), 0), (SLOTS, 0)], False)))
    assert node.floor() == NO_FLOOR


def test_an_order_to_purge_of_an_older_epoch_is_refused(node: Node) -> None:
    node.put(K, 5, None)
    with pytest.raises((OtherEpoch, PeerRefused)):
        node.promise_floor(state=State(1, "c-1", 1))
    assert node.floor() == NO_FLOOR


def test_floors_hold_after_a_restart(node: Node) -> None:
    node.put(K, 5, None)
    node.promise_floor()
    node.bury()
    node.restart()
    assert not node.put(K, 9)
    assert node.fetch(K).accepted == FLOOR


def test_a_slot_that_is_dropped_loses_its_floor_with_all_the_rest(node: Node) -> None:
    node.put(K, 5, None)
    node.promise_floor()
    node.bury()
    node.wait(node.control.drop(node.clock, node.seats[A], STATE, [(int(SLOT), int(SLOT))]))
    assert node.floor() == NO_FLOOR
    assert node.put(K, 9)


def test_a_local_write_goes_above_the_floor(node: Node) -> None:
    far = ballot_at(1_000_000)
    node.put(K, 5, None)
    node.promise_floor(far)
    node.bury(far)
    node.wait(node.replica.write_local(Key(K), b"new"))
    assert node.cell(A, K).accepted > far
    assert decode_record(node.wait(node.replica.read_local(Key(K)))).value == b"new"


# Hints for others.


def hint(key: bytes, ms: int, owner: bytes = b"b") -> Op:
    return Op(HINT, key, ballot_at(ms), owner)


def test_a_hint_is_noted_beside_a_write_and_shows_what_the_key_holds_when_it_is_read(node: Node) -> None:
    replies = node.ask(Op(ACCEPT, K, ballot_at(5), record_of(5)), hint(K, 5))
    assert [reply.taken for reply in replies] == [True, True]
    assert node.replica.info().hints == {"b": 1}
    node.put(K, 7, b"later")
    page = node.hints()
    assert [(row.key, row.ballot, row.record) for row in page.rows] == [(K, ballot_at(7), record_of(7, b"later"))]
    assert not page.more


def test_a_delete_that_was_missed_is_shown_as_one(node: Node) -> None:
    node.ask(Op(ACCEPT, K, ballot_at(5), record_of(5, None)), hint(K, 5))
    (row,) = node.hints().rows
    assert decode_record(row.record).value is None


@pytest.mark.parametrize("damaged", [False, True])
def test_a_key_that_is_not_held_any_more_or_cannot_be_read_is_shown_with_no_ballot(node: Node, damaged: bool) -> None:
    node.put(K, 5)
    node.ask(hint(K, 5))
    if damaged:
        node.engine.unreadable.add(K)
    else:
        node.wait(node.control.drop(node.clock, node.seats[A], STATE, [(0, SLOTS - 1)]))
    (row,) = node.hints().rows
    assert (row.key, row.ballot, row.record) == (K, NONE, b"")


def test_pages_of_hints_say_whether_there_are_more_and_none_is_larger_than_the_limit() -> None:
    node = Node()
    keys = [b"%d" % number for number in range(700)]
    node.ask(*(hint(key, 5) for key in keys))
    seen: list[bytes] = []
    page = node.hints(limit=10**9)
    while True:
        assert len(page.rows) <= node.limits.hints_page_max
        seen += [row.key for row in page.rows]
        if not page.more:
            break
        page = node.hints(after=seen[-1], limit=10**9)
    assert seen == sorted(keys)


def test_what_was_brought_is_forgotten_before_the_next_page_is_given(node: Node) -> None:
    node.ask(hint(K, 5), hint(L, 6))
    page = node.hints(done={K: 5, L: 5})
    assert [row.key for row in page.rows] == [L], "of the other one there is something newer"
    assert node.replica.info().hints == {"b": 1}


def test_hints_outlive_a_restart_on_the_same_engine(node: Node) -> None:
    node.put(K, 5)
    node.ask(hint(K, 5))
    node.restart()
    assert node.replica.info().hints == {"b": 1}
    assert [row.ballot for row in node.hints().rows] == [ballot_at(5)]


@pytest.mark.parametrize("owner", [b"", b"x" * 65])
def test_a_hint_for_nobody_refuses_its_batch(node: Node, owner: bytes) -> None:
    with pytest.raises(KvError):
        node.ask(Op(ACCEPT, K, ballot_at(5), record_of(5)), hint(K, 5, owner))
    assert node.cell(A, K).accepted == NONE
    assert node.replica.info().hints == {}


@pytest.mark.parametrize("trouble", [DiskFull("there is no room"), DiskBusy("it is behind"), Damaged("a block is bad")])
def test_a_hint_that_cannot_be_kept_hinders_no_write(
    node: Node, monkeypatch: pytest.MonkeyPatch, trouble: KvError
) -> None:
    def refuse(engine: Spoilt, rows: Mapping[bytes, bytes | None]) -> None:
        raise trouble

    monkeypatch.setattr(Spoilt, "write_side", refuse)
    replies = node.ask(Op(ACCEPT, K, ballot_at(5), record_of(5)), hint(K, 5))
    assert [reply.taken for reply in replies] == [True, True]
    assert node.value(A, K) == b"v"
    assert node.replica.info().hints == {}


# What cannot be read.


def test_a_record_that_cannot_be_read_has_its_slot_marked_once(node: Node) -> None:
    node.put(K, 5)
    node.engine.unreadable.add(K)
    for _ in range(3):
        assert node.ask(Op(FETCH, K)) == [ABSTAIN]
    assert node.replica.info().marks == 1
    assert node.marks() == [SLOT]
    assert node.marks(SLOT, 7) == []


def test_a_record_that_cannot_be_read_gives_way_to_one_above_all_ballots_of_its_node_and_to_no_other(
    node: Node,
) -> None:
    node.put(K, 5)
    node.put(b"elsewhere", 30)
    node.engine.unreadable.add(K)
    assert not node.put(K, 30, b"too old: it may have been promised not to be taken")
    assert not node.put(K, 20, b"too old")
    assert node.put(K, 31, b"new")
    node.engine.unreadable.clear()
    assert node.cell(A, K).accepted == ballot_at(31)
    assert node.value(A, K) == b"new"


def test_a_promise_counts_among_the_ballots_that_a_node_gave(node: Node) -> None:
    node.put(K, 5)
    node.ask(Op(PREPARE, K, ballot_at(40)))
    node.engine.unreadable.add(K)
    assert not node.put(K, 39)
    assert node.put(K, 41)


def test_scrubbing_marks_a_slot_that_holds_something_unreadable_and_no_other(node: Node) -> None:
    node.put(K, 5)
    node.put(b"elsewhere", 5)
    node.engine.unreadable.add(K)
    node.replica.scrub(slot_of(Key(b"elsewhere")))
    assert node.marks() == []
    node.replica.scrub(SLOT)
    assert node.marks() == [SLOT]
    assert not node.replica.info().spoiled


def test_scrubbing_puts_a_wrong_digest_right(node: Node) -> None:
    node.put(K, 5)
    right = node.digest()
    node.engine._digests[SLOT] += 1
    node.replica.scrub(SLOT)
    assert node.digest() == right
    assert node.counted("kv_node_scrubbed_slots") == node.counted("kv_node_mended_digests") == 1


class Torn(Spoilt):
    """An engine of which whole parts cannot be read."""

    __slots__ = ()

    def inspect(self, slot: Slot) -> Inspection:
        raise Damaged(f"no row of slot {slot} can be read")


def test_a_slot_of_which_nothing_can_be_read_is_marked_and_its_node_renewed_when_it_is_told_to(node: Node) -> None:
    renewals: list[None] = []
    node.replica.on_renewal = lambda: renewals.append(None)
    node.wait(node.control.renew(node.seats[A], STATE))
    assert renewals == [], "what can be read is not given up"
    node.engine.__class__ = Torn
    node.replica.scrub(SLOT)
    assert node.marks() == [SLOT]
    assert node.replica.info().spoiled
    with pytest.raises(PeerRefused):
        node.wait(node.control.renew(node.seats[A], State(1, "c-1", 1)))
    assert renewals == []
    node.wait(node.control.renew(node.seats[A], STATE))
    assert renewals == [None]


def test_who_asks_as_the_mover_does_gets_all_answers_though_one_answer_has_no_room_for_them() -> None:
    nodes = Nodes(A, reply_bytes_max=1)
    ops = [Op(ACCEPT, b"%d" % n, ballot_at(n + 1), record_of(n + 1, b"%d" % n)) for n in range(5)]
    nodes.wait(nodes.control.ask(nodes.seats[A], STATE, ops))
    nodes.asked.clear()
    replies = nodes.wait(nodes.control.ask(nodes.seats[A], STATE, [Op(FETCH, op.key) for op in ops]))
    assert [reply.record for reply in replies] == [op.record for op in ops]
    assert len(nodes.asked) == 5
