"""What nodes say that is well formed and not true: what comes of it, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from tests.contracts.test_lane import Port
from tests.rooms.street import K, Scene
from tests.streams import get
from tests.strict_clock import StrictClock
from twisted_kv.peers.peer import Answer
from twisted_kv.register import Reply
from twisted_kv.throttle import PAUSE_S_MAX, Throttle
from twisted_kv.versions import UNDRAWN, Ballot, HybridClock, Record, Version, decode_record
from twisted_kv.wire.batches import BatchReply, BundleReply, batch_decoder, batch_reply_decoder
from twisted_kv.wire.header import encode

LIAR = "a"
FAR = HybridClock(lambda: 100_000_000_000_000, 9).tick()
"""A ballot of the year 5138."""


class Lying:
    """A street one of whose owners says what a test wants."""

    def __init__(self, scene: Scene, says: Callable[[Reply], Reply]) -> None:
        self._street = scene.street
        self._says = says
        for queue in scene.queues.by_node.values():
            queue._transport = self

    def request(self, method: str, url: str, body: bytes, **how: Any) -> Deferred[Answer]:
        done: Deferred[Answer] = self._street.request(method, url, body, **how)
        return done.addCallback(self._lie) if batch_decoder.decode(body).header.member == LIAR else done

    def _lie(self, answer: Answer) -> Answer:
        reply: BatchReply = batch_reply_decoder.decode(answer.body)
        reply.replies = [self._says(one) for one in reply.replies]
        reply.bundles = [self._bundle(one) for one in reply.bundles]
        return Answer(answer.code, encode(reply))

    def _bundle(self, bundle: BundleReply) -> BundleReply:
        told = [self._says(Reply(True, ballot, ballot, b"")) for ballot in bundle.ballots]
        records = [self._says(Reply(True, UNDRAWN, UNDRAWN, record)).record for record in bundle.records]
        return BundleReply([one.accepted for one in told], records, bundle.others)


def scene_with(scene_of: Callable[..., Scene], says: Callable[[Reply], Reply]) -> Scene:
    scene = scene_of()
    for node in ("a", "b", "c"):
        scene.street.hold(node, b"true")
    Lying(scene, says)
    return scene


@pytest.fixture
def scene_of() -> Callable[..., Scene]:
    return Scene


IMPOSSIBLE: dict[str, Callable[[Reply], Reply]] = {
    "a ballot that no clock draws": lambda reply: replace(reply, accepted=UNDRAWN, promised=UNDRAWN),
    "a record that is none": lambda reply: replace(reply, record=b"none" if reply.record else b""),
    "a record that is not there": lambda reply: replace(reply, accepted=FAR, record=b""),
    "a promise that nobody can keep": lambda reply: replace(reply, taken=False, promised=Ballot(b"\xff" * 16)),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_is_silence_and_nobody_else_is_blamed(scene_of: Callable[..., Scene], name: str) -> None:
    """Written back, it would be refused by the honest, with all else in the same batch, and they would be avoided."""
    scene = scene_with(scene_of, IMPOSSIBLE[name])
    for number in range(20):
        got, put = scene.get(), scene.put(b"true", K)
        scene.run(3)
        assert got.value == b"true", number
        assert put.value == b"true"
    assert not {"b", "c"} & scene.queues.avoided()


def test_an_owner_that_makes_a_newer_record_up_is_believed(scene_of: Callable[..., Scene]) -> None:
    """A node that is given the nodes' token may write; the store is for nodes that crash, not for such that lie."""
    made_up = Record(Version(FAR), b"made up").encode()
    scene = scene_with(
        scene_of, lambda reply: replace(reply, accepted=FAR, promised=FAR, record=made_up if reply.record else b"")
    )
    values = set()
    for _ in range(10):
        got = scene.get()
        scene.run(3)
        values.add(got.value)
    assert b"made up" in values


def test_a_clock_follows_a_ballot_of_another_age_and_goes_on_to_write(scene_of: Callable[..., Scene]) -> None:
    scene = scene_with(scene_of, lambda reply: replace(reply, taken=False, promised=FAR))
    for _ in range(5):
        put = scene.put(b"new")
        scene.run(3)
        assert put.value == b"new"
    got = scene.get()
    scene.run(3)
    assert got.value == b"new"


@pytest.mark.parametrize("lane", [True, False])
def test_a_content_type_adds_no_field_to_an_answer(lane: bool) -> None:
    port = Port(lane)
    clock = HybridClock(lambda: 5, 1)
    record = Record(Version(clock.tick()), b"v", b"text/plain\r\nX-Made-Up: 1\nX-Two: 2\0").encode()
    assert decode_record(record).content_type.startswith(b"text/plain\r\n")
    port.shelf._records[b"a"] = record
    heads = port.send(get(b"/v1/kv/a")).partition(b"\r\n\r\n")[0]
    assert b"200 OK" in heads
    assert not [line for line in heads.split(b"\n") if line.startswith((b"X-Made-Up", b"X-Two"))]
    port.lose()


def test_a_piece_that_is_said_to_be_larger_than_all_there_is_stops_nothing_for_good() -> None:
    clock = StrictClock()
    throttle = Throttle(clock, 1_000_000, lambda: 0.0)
    for moved in (2**63 - 1, 10):
        ended: list[object] = []
        throttle.pause(moved, 0.1).addCallback(ended.append)
        clock.advance(PAUSE_S_MAX)
        assert ended == [None]
