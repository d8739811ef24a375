"""A node's answers to bundles: what a bundle's operations would have been answered one by one."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rooms.street import ops_of
from tests.rooms.test_replica import ME, Room, now, settled
from twisted_kv.errors import MalformedBody
from twisted_kv.names import Key
from twisted_kv.register import ACCEPT, AGAIN, FETCH, PREPARE, READ, Floor, Op, Reply
from twisted_kv.ring import slot_of
from twisted_kv.versions import NONE, Ballot, HybridClock, Record, Version
from twisted_kv.wire.batches import Batch, Bundle, BundleReply

KEYS = [Key(b"k%d" % number) for number in range(4)]


def ballot(ms: int) -> Ballot:
    return HybridClock(lambda: ms, 1).tick()


def record(ms: int, value: bytes | None = b"v") -> bytes:
    return Record(Version(ballot(ms)), value).encode()


def accept(key: Key, ms: int, value: bytes | None = b"v") -> Op:
    return Op(ACCEPT, key, ballot(ms), record(ms, value))


def prepare(key: Key, ms: int) -> Op:
    return Op(PREPARE, key, ballot(ms))


def serve(room: Room, *bundles: Bundle, ops: Sequence[Op] = ()) -> list[BundleReply]:
    return now(room.replica.serve(Batch(ME, list(ops), bundles=list(bundles)))).bundles


def plain(bundle: Bundle, answers: BundleReply) -> list[Reply]:
    """Give the answers to a bundle as those to its operations."""
    replies = []
    for place, op in enumerate(ops_of(bundle)):
        if op.verb == ACCEPT:
            reply = Reply(True, op.ballot, op.ballot)
        else:
            shown = answers.records[place] if bundle.verb == FETCH else b""
            reply = Reply(True, answers.ballots[place], NONE, shown)
        replies.append(answers.others.get(place, reply))
    return replies


def seen(reply: Reply) -> Reply:
    """Leave out what an answer says of promises, if it is no refusal: nobody looks at that."""
    return Reply(True, reply.accepted, NONE, reply.record) if reply.taken else reply


times = st.integers(1, 6)
keys = st.sampled_from(KEYS)
before = st.lists(st.one_of(st.builds(accept, keys, times), st.builds(prepare, keys, times)), max_size=8)
takes = st.lists(st.tuples(keys, times, st.sampled_from([b"v", None])), min_size=1, max_size=6)
accepts = takes.map(
    lambda drawn: Bundle(ACCEPT, [key for key, *_ in drawn], [record(ms, value) for _, ms, value in drawn])
)
looks = st.builds(Bundle, st.sampled_from([READ, FETCH]), st.lists(keys, min_size=1, max_size=6))


@given(before, st.lists(st.one_of(accepts, looks), min_size=1, max_size=3), st.booleans(), st.integers(40, 200))
def test_a_bundle_is_answered_as_its_operations_would_be_one_by_one(
    ops: list[Op], bundles: list[Bundle], floored: bool, room_bytes: int
) -> None:
    many, single = (settled(Room(reply_bytes_max=room_bytes)) for _ in range(2))
    for room in (many, single):
        for op in ops:
            room.serve(op)
        if floored:
            room.engine.set_floors({slot_of(KEYS[0]): Floor(ballot(3), ballot(2))})
    answers = serve(many, *bundles)
    replies = single.serve(*[op for bundle in bundles for op in ops_of(bundle)]).replies
    bundled = [reply for bundle, one in zip(bundles, answers, strict=True) for reply in plain(bundle, one)]
    assert list(map(seen, bundled)) == list(map(seen, replies))
    for key in KEYS:
        assert many.engine.get(slot_of(key), key) == single.engine.get(slot_of(key), key)


def test_a_bundle_sees_what_operations_and_bundles_before_it_in_the_batch_have_left() -> None:
    room = settled(Room())
    key = KEYS[0]
    first, second, third = serve(
        room,
        Bundle(ACCEPT, [key], [record(1)]),
        Bundle(ACCEPT, [key], [record(3, b"w")]),
        Bundle(FETCH, [key]),
        ops=[prepare(key, 2)],
    )
    assert first.others == {0: Reply(False, NONE, ballot(2))}
    assert second.others == {}
    assert third == BundleReply([ballot(3)], [record(3, b"w")])


def test_records_that_do_not_fit_into_the_answer_are_asked_again_and_the_first_is_always_shown() -> None:
    room = settled(Room(reply_bytes_max=250))
    serve(room, Bundle(ACCEPT, KEYS, [record(1, bytes(100))] * 4))
    [answers] = serve(room, Bundle(FETCH, KEYS))
    assert list(answers.others.values()) == [AGAIN, AGAIN, AGAIN]
    assert [len(shown) > 0 for shown in answers.records] == [True, False, False, False]


def test_without_room_values_of_a_bundle_are_refused_and_tombstones_taken() -> None:
    room = settled(Room())
    room.replica.full = True
    [answers] = serve(room, Bundle(ACCEPT, KEYS[:2], [record(1), record(1, None)]))
    assert list(answers.others) == [0]
    assert answers.others[0].abstains.startswith("disk-full")


@pytest.mark.parametrize(
    "wrong",
    [
        Bundle(ACCEPT, KEYS[:2], [record(1)]),
        Bundle(ACCEPT, [Key(b"")], [record(1)]),
        Bundle(ACCEPT, [KEYS[0]], [record(1)[:-1]]),
        Bundle(ACCEPT, [KEYS[0]], [record(1)[:20]]),
        Bundle(ACCEPT, [KEYS[0]], [Record(Version(NONE), b"v").encode()]),
        Bundle(ACCEPT, [KEYS[0]], [Record(Version(b"\xff" * 16), b"v").encode()]),
        Bundle(PREPARE, [KEYS[0]]),
        Bundle(9, [KEYS[0]]),
        Bundle(FETCH, [Key(bytes(2000))]),
    ],
    ids=lambda bundle: f"{bundle.verb}-{len(bundle.keys)}-{len(bundle.records)}",
)
def test_a_malformed_bundle_refuses_the_whole_batch_and_nothing_of_it_is_kept(wrong: Bundle) -> None:
    room = settled(Room())
    with pytest.raises(MalformedBody):
        serve(room, Bundle(ACCEPT, [KEYS[3]], [record(1)]), wrong, ops=[accept(KEYS[2], 1)])
    assert room.keys() == []


def test_records_of_any_bytes_are_refused_or_kept_as_they_are() -> None:
    random = Random(1)
    room = settled(Room())
    for _ in range(2000):
        spoilt = bytearray(record(random.randint(1, 9)))
        spoilt[random.randrange(len(spoilt))] = random.randrange(256)
        try:
            serve(room, Bundle(ACCEPT, [KEYS[0]], [bytes(spoilt)]))
        except MalformedBody:
            continue
        cell = room.engine.get(slot_of(KEYS[0]), KEYS[0])
        assert cell is not None
        assert NONE < cell.accepted < Ballot(b"\x80" + bytes(15))
