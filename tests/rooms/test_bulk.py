"""A bulk request's operations, and an answer that is written piece by piece, without sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from tests.rooms.street import Scene
from twisted_kv.errors import Unreached
from twisted_kv.quorum import Level
from twisted_kv.web.bulk import READ_WEIGHT, WEIGHT_MAX, WEIGHT_MIN, Bulk
from twisted_kv.web.outflow import Outflow


@pytest.fixture
def scene_of() -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(**limits: float) -> Scene:
        scenes.append(Scene(1, **limits))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.run(scene.limits.operation_timeout_s + scene.limits.batch_timeout_s + 1)
        assert scene.clock.getDelayedCalls() == []


def bulk_of(scene: Scene) -> Bulk:
    return Bulk(scene.coordinator, scene.now_ms, scene.limits, Level.STRONG, None, packed=False)


def puts(count: int, key: str = "one") -> list[bytes]:
    return [json.dumps({"op": "put", "key": key, "value": str(number)}).encode() for number in range(count)]


def run(scene: Scene, bulk: Bulk, lines: list[bytes]) -> list[dict[str, Any]]:
    """Begin all lines, whatever weight they have, and give their answers."""
    for line in lines:
        bulk.begin(line)
    answers: list[dict[str, Any]] = []

    async def take() -> None:
        while bulk.running:
            answers.extend(await bulk.ready())

    ensureDeferred(take())
    scene.run(10)
    assert bulk._behind == {}
    return answers


def test_operations_of_one_key_run_one_after_the_other(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    answers = run(scene, bulk_of(scene), puts(5))
    assert [answer["status"] for answer in answers] == [204] * 5
    etags = [answer["etag"] for answer in answers]
    assert etags == sorted(etags)
    assert scene.street.holders(b"4", b"one") == set("abc")


def test_a_thousand_that_are_turned_away_behind_one_of_their_key_are_all_told(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    bulk = bulk_of(scene)
    bulk.begin(puts(1)[0])
    scene.coordinator.limits = replace(scene.limits, operations_max=0)
    answers = run(scene, bulk, puts(999))
    assert [answer["status"] for answer in answers] == [204] + [429] * 999


def test_a_request_has_more_writes_than_reads_under_way(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    begun = []
    for lines in (puts(5_000), [b'{"op":"get","key":"one"}'] * 5_000, [b"no json"] * 5_000):
        bulk = bulk_of(scene)
        while not bulk.full:
            bulk.begin(lines[len(bulk._running)])
        begun.append(len(bulk._running))
        run(scene, bulk, [])
        assert not bulk.full
    assert begun == [WEIGHT_MAX, WEIGHT_MAX // READ_WEIGHT, WEIGHT_MAX]


def test_no_number_of_requests_takes_all_the_room_for_operations(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(operations_max=4_000)
    bulks = [bulk_of(scene) for _ in range(10)]
    for number, bulk in enumerate(bulks):
        while not bulk.full:
            bulk.begin(puts(1, f"{number}-{len(bulk._running)}")[0])
    assert len(bulks[0]._running) == 800
    assert all(len(bulk._running) >= WEIGHT_MIN for bulk in bulks)
    assert scene.coordinator.under_way < 3_600
    for bulk in bulks:
        run(scene, bulk, [])


class Asked:
    """A request whose client reads, or does not, or goes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.producer: Any = None
        self.aborted = False
        self.transport = self
        self._finished: Deferred[None] = Deferred()

    def notifyFinish(self) -> Deferred[None]:
        return self._finished

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def abortConnection(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def lose(self) -> None:
        self._finished.errback(ConnectionError("gone"))


class Piecewise:
    """Writes three pieces into an answer, the first when the gate is opened."""

    def __init__(self, trouble: Exception | None = None) -> None:
        self.request = Asked()
        self.gate: Deferred[None] = Deferred()
        self.ended: list[object] = []
        self._trouble = trouble
        ensureDeferred(self._write()).addBoth(self.ended.append)

    async def _write(self) -> None:
        async with Outflow(self.request) as out:
            await self.gate
            for piece in (b"1", b"2", b"3"):
                await out.write(piece)
            if self._trouble is not None:
                raise self._trouble


def test_an_answer_is_written_while_there_is_room_and_then_ended() -> None:
    answer = Piecewise()
    answer.gate.callback(None)
    assert (answer.request.written, answer.ended) == ([b"1", b"2", b"3"], [None])
    assert (answer.request.producer, answer.request.aborted) == (None, False)


def test_an_answer_waits_for_a_client_that_does_not_read() -> None:
    answer = Piecewise()
    answer.request.producer.pauseProducing()
    answer.gate.callback(None)
    assert (answer.request.written, answer.ended) == ([], [])
    answer.request.producer.resumeProducing()
    assert (answer.request.written, answer.ended) == ([b"1", b"2", b"3"], [None])


@pytest.mark.parametrize("reads", [True, False])
def test_an_answer_whose_client_goes_ends_quietly(reads: bool) -> None:
    answer = Piecewise()
    if not reads:
        answer.request.producer.pauseProducing()
        answer.gate.callback(None)
    answer.request.lose()
    if reads:
        answer.gate.callback(None)
    assert (answer.request.written, answer.ended, answer.request.aborted) == ([], [None], False)


def test_trouble_in_mid_answer_breaks_the_connection_off() -> None:
    answer = Piecewise(Unreached("too few"))
    answer.gate.callback(None)
    assert (answer.ended, answer.request.aborted, answer.request.producer) == ([None], True, None)


def test_a_bug_in_mid_answer_breaks_the_connection_off_and_is_logged(no_logged_failure: list[dict[str, Any]]) -> None:
    answer = Piecewise(ZeroDivisionError())
    answer.gate.callback(None)
    assert (answer.ended, answer.request.aborted) == ([None], True)
    assert [event["log_failure"].type for event in no_logged_failure] == [ZeroDivisionError]
    no_logged_failure.clear()


def test_expiry_and_content_type_come_with_a_value_and_can_be_given(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    line = {"op": "put", "key": "one", "value": "v", "ttl": 60, "content_type": "text/plain"}
    plain = {"op": "put", "key": "two", "value": "v"}
    gets = [{"op": "get", "key": key} for key in ("one", "two")]
    lines = [json.dumps(one).encode() for one in (line, plain, *gets)]
    put, _, one, two = run(scene, bulk_of(scene), lines)
    assert put["status"] == 204
    assert (one["content_type"], one["expires_ms"]) == ("text/plain", scene.now_ms() - 10_000 + 60_000)
    assert "expires_ms" not in two
    assert "content_type" not in two


def test_an_expiry_is_taken_to_the_millisecond_and_wins_over_a_time_to_live(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    expires_ms = scene.now_ms() + 123_456
    put = {"op": "put", "key": "one", "value": "v", "ttl": 5, "expires_ms": expires_ms}
    lines = [json.dumps(one).encode() for one in (put, {"op": "get", "key": "one"}, {**put, "expires_ms": 0})]
    _, found, refused = run(scene, bulk_of(scene), lines)
    assert found["expires_ms"] == expires_ms
    assert (refused["status"], refused["problem"]["type"]) == (400, "bad-parameter")


@pytest.mark.parametrize("given", ["text/plain\r\nSet-Cookie: a=b", "a\0", "text/\u0142", "x" * 5_000])
def test_a_content_type_that_no_header_may_hold_is_refused(scene_of: Callable[..., Scene], given: str) -> None:
    scene = scene_of()
    line = {"op": "put", "key": "one", "value": "v", "content_type": given}
    (answer,) = run(scene, bulk_of(scene), [json.dumps(line).encode()])
    assert (answer["status"], answer["problem"]["type"]) == (400, "bad-parameter")


@pytest.mark.parametrize("given", ["text/pl\u00e4in", "text/plain;\tx=1", "\x01\x7f\x85"])
def test_a_content_type_that_a_header_brought_can_be_put_back(scene_of: Callable[..., Scene], given: str) -> None:
    scene = scene_of()
    put = {"op": "put", "key": "one", "value": "v", "content_type": given}
    lines = [json.dumps(one).encode() for one in (put, {"op": "get", "key": "one"})]
    _, found = run(scene, bulk_of(scene), lines)
    assert found["content_type"] == given


def test_an_expiry_of_more_than_a_century_is_taken_whatever_the_time_to_live(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    put = {"op": "put", "key": "one", "value": "v", "ttl": 1e12, "expires_ms": (1 << 63) - 1}
    (answer,) = run(scene, bulk_of(scene), [json.dumps(put).encode()])
    assert answer["status"] == 204
