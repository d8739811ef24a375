"""At a node: names of requests that come with a batch, and the lines that name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from twisted.logger import globalLogPublisher

from tests.rooms.nodes import Spoilt
from tests.rooms.test_replica import ME, Room, header, now
from twisted_kv.names import Key
from twisted_kv.register import FETCH, READ, Op
from twisted_kv.tracing import Trace
from twisted_kv.web.node import Batches
from twisted_kv.wire.batches import OTHER_CLUSTER, Batch, Packed, PackedTraced, batch_decoder
from twisted_kv.wire.header import Header, encode
from twisted_kv.wire.joining import Join

TRACE = Trace("order-17", f"00-{'a' * 32}-{'b' * 16}-01")


class OldBatch(msgspec.Struct, array_like=True):
    """A batch as nodes know it that have heard of no names."""

    header: Header
    ops: list[Op]
    copying: bool = False
    bundles: list[msgspec.Raw] = []


@pytest.fixture
def said() -> Iterator[list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(heard.append)
    yield heard
    globalLogPublisher.removeObserver(heard.append)


def joined(room: Room) -> Room:
    now(room.replica.join(Join("c-1", "n-1")))
    return room


def named_in(events: list[dict[str, Any]]) -> list[tuple[str, list[str], list[str]]]:
    return [
        (event["log_format"].partition(" ")[0], event["request_ids"], event.get("traceparents", []))
        for event in events
        if "request_ids" in event
    ]


def packed(ops: list[Op], traces: dict[int, Trace] | None = None, me: Header = ME) -> bytes:
    if traces is None:
        return encode(Packed(me, ops, False, []))
    return encode(PackedTraced(me, ops, False, [], traces))


OPS = [Op(READ, Key(b"k")), Op(FETCH, Key(b"other"))]


def test_what_has_no_name_travels_as_it_always_did() -> None:
    assert packed(OPS) == encode(OldBatch(ME, OPS))
    assert batch_decoder.decode(packed(OPS)).traces == {}


def test_a_node_that_knows_no_names_reads_a_batch_that_has_them() -> None:
    assert msgspec.msgpack.decode(packed(OPS, {1: TRACE}), type=OldBatch) == OldBatch(ME, OPS)
    assert batch_decoder.decode(packed(OPS, {1: TRACE})) == Batch(ME, OPS, traces={1: TRACE})


def test_what_comes_after_names_in_a_later_version_is_skipped() -> None:
    later = [*msgspec.to_builtins(OldBatch(ME, OPS), builtin_types=(bytes,)), {1: ["r"]}, "later"]

    assert batch_decoder.decode(msgspec.msgpack.encode(later)).traces == {1: Trace("r")}


def test_a_refusal_names_the_requests_that_came_with_the_batch(said: list[dict[str, Any]]) -> None:
    room = Room()
    batches = Batches(room.replica, room.metrics)
    stranger = header(cluster="another")

    nameless = now(batches.serve(packed(OPS, None, stranger)))
    assert named_in(said) == []
    reply = now(batches.serve(packed(OPS, {0: TRACE}, stranger)))

    assert nameless.refusal == reply.refusal == OTHER_CLUSTER
    assert named_in(said) == [("refused", ["order-17"], [TRACE.traceparent])]


def test_refusals_beyond_a_few_are_left_out(said: list[dict[str, Any]]) -> None:
    room = Room(slow_lines_max=3)
    batches = Batches(room.replica, room.metrics)

    for _ in range(10):
        now(batches.serve(packed(OPS, {0: TRACE}, header(cluster="another"))))

    assert len(named_in(said)) == 3


def test_a_record_that_cannot_be_read_names_the_request_that_met_it_and_no_other(said: list[dict[str, Any]]) -> None:
    engine = Spoilt()
    room = joined(Room(engine))
    engine.unreadable.add(b"other")
    batches = Batches(room.replica, room.metrics)

    now(batches.serve(packed(OPS, {0: Trace("innocent"), 1: TRACE})))

    (line,) = [event for event in said if "to be repaired" in event.get("log_format", "")]
    assert line["request_ids"] == ["order-17"]


def test_a_batch_that_waits_for_the_disk_is_told(said: list[dict[str, Any]]) -> None:
    engine = Spoilt()
    room = joined(Room(engine, slow_operation_s=0.5, stall_retry_s=0.1))  # type: ignore[arg-type]
    batches = Batches(room.replica, room.metrics)
    engine.behind = 6
    found: list[Any] = []
    batches.serve(packed([room.accept(b"k")], {0: TRACE}, header(deadline_ms=4_000))).addCallback(found.append)
    for _ in range(10):
        room.reactor.advance(0.1)

    assert not found[0].refusal
    assert named_in(said) == [("slow:", ["order-17"], [TRACE.traceparent])]
    assert room.metrics.registry.get_sample_value("kv_node_slow_batches_total") == 1
    assert room.metrics.registry.get_sample_value("kv_node_stalled_batches_total") == 6


def test_names_of_places_where_nothing_is_are_nothing_to_a_node(said: list[dict[str, Any]]) -> None:
    engine = Spoilt()
    room = joined(Room(engine))
    engine.unreadable.add(b"other")

    reply = now(Batches(room.replica, room.metrics).serve(packed(OPS, {-1: TRACE, 10**9: TRACE})))

    assert [one.abstains != "" for one in reply.replies] == [False, True]
    (line,) = [event for event in said if "to be repaired" in event.get("log_format", "")]
    assert line["request_ids"] == []
