"""Those who watch: one look for all, only while somebody does, and nothing piles up for who does not read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from twisted_kv.errors import KvError, Overloaded, PeerSilent, Stopping
from twisted_kv.limits import Limits
from twisted_kv.tokens import Access, Keyring, Ticket, Tokens
from twisted_kv.web.viewers import GLANCES, HEARTBEAT, RETRY, Viewers, event

SECRET = "s" * 32


class Asked:
    """A request for the stream, as twisted.web has it, and its client."""

    method = b"GET"

    def __init__(self) -> None:
        self.responseHeaders = Headers()
        self.producer: Any = None
        self.written: list[bytes] = []
        self.aborted = self.ended = False
        self.transport = self
        self._finished: Deferred[None] = Deferred()

    def setHeader(self, name: bytes, value: bytes) -> None:
        self.responseHeaders.setRawHeaders(name, [value])

    def notifyFinish(self) -> Deferred[None]:
        return self._finished

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def abortConnection(self) -> None:
        self.aborted = True
        self.lose()

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def lose(self) -> None:
        self._finished.errback(ConnectionError("gone"))

    @property
    def heard(self) -> bytes:
        return b"".join(self.written)


class Scene:
    """Viewers on a simulated clock, who are told how many looks were taken."""

    def __init__(self, **limits: float) -> None:
        self.clock = Clock()
        self.limits = replace(Limits(), **limits)  # type: ignore[arg-type]
        self.looks = 0
        self.trouble: Exception | None = None
        self.stuck = False
        self.viewers = Viewers(self.clock, self.limits, self._look)

    async def _look(self) -> bytes:
        self.looks += 1
        if self.trouble is not None:
            raise self.trouble
        if self.stuck:
            await Deferred()
        return b"%d" % self.looks

    def watch(self, ticket: Ticket | None = None) -> Asked:
        request = Asked()
        request.failed = None  # type: ignore[attr-defined]

        def ended(result: object) -> None:
            request.ended = True
            request.failed = result if isinstance(result, Failure) else None  # type: ignore[attr-defined]

        ensureDeferred(self.viewers.watch(request, ticket)).addBoth(ended)
        return request

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)


@pytest.fixture
def scenes() -> Iterator[list[Scene]]:
    """Whoever watches goes in the end, and then nothing runs any more."""
    made: list[Scene] = []
    yield made
    for scene in made:
        scene.viewers.stop()
        scene.run(1)
        assert scene.clock.getDelayedCalls() == []
        assert scene.viewers._outs == {}


@pytest.fixture
def scene(scenes: list[Scene]) -> Scene:
    scenes.append(Scene())
    return scenes[-1]


def snapshots(request: Asked) -> list[int]:
    return [int(number) for number in re.findall(rb"event: snapshot\ndata: (\d+)\n\n", request.heard)]


def test_all_are_told_by_one_look_and_it_is_taken_once_a_second(scene: Scene) -> None:
    watching = [scene.watch() for _ in range(10)]
    scene.run(5)
    assert scene.looks in (5, 6)
    assert [snapshots(one) for one in watching] == [list(range(1, scene.looks + 1))] * 10
    assert watching[0].responseHeaders.getRawHeaders(b"content-type") == [b"text/event-stream"]
    # The very same bytes: they were encoded once.
    assert all(a is b for a, b in zip(watching[0].written[1:], watching[1].written[1:], strict=True))


def test_who_comes_later_is_told_at_once_what_the_others_know(scene: Scene) -> None:
    scene.watch()
    scene.run(3)
    newcomer = scene.watch()
    assert snapshots(newcomer) == [scene.looks]
    assert newcomer.heard.startswith(RETRY)


def test_nobody_looks_when_nobody_watches(scene: Scene) -> None:
    scene.run(5)
    assert scene.looks == 0
    watching = scene.watch()
    scene.run(3)
    watching.lose()
    scene.run(2)
    looks = scene.looks
    scene.run(60)
    assert scene.looks == looks
    assert watching.ended
    assert scene.clock.getDelayedCalls() == []


def test_who_comes_after_a_pause_is_not_told_what_is_old(scene: Scene) -> None:
    first = scene.watch()
    scene.run(3)
    first.lose()
    scene.run(60)
    second = scene.watch()
    assert second.heard == RETRY
    looks = scene.looks
    scene.run(1)
    assert snapshots(second)[0] == looks + 1


def test_who_does_not_read_is_told_the_newest_when_it_does_and_holds_nobody_up(scene: Scene) -> None:
    slow, quick = scene.watch(), scene.watch()
    scene.run(2)
    slow.producer.pauseProducing()
    had = len(slow.written)
    scene.run(60)
    assert len(slow.written) == had
    assert len(snapshots(quick)) == scene.looks
    slow.producer.resumeProducing()
    scene.run(1)
    assert len(slow.written) <= had + 2  # the newest, and one more since
    assert snapshots(slow)[-1] == scene.looks


def test_who_is_cut_off_since_it_does_not_read_leaves_a_request_that_can_be_finished(scene: Scene) -> None:
    stuck = scene.watch()
    scene.run(2)
    stuck.producer.pauseProducing()
    scene.run(2)
    stuck.producer.stopProducing()  # what a transport does that is aborted, before its connection is lost
    assert stuck.ended
    assert stuck.producer is None  # twisted.web refuses to finish a request that has one


def test_there_are_so_many_viewers_and_no_more_until_one_goes(scenes: list[Scene]) -> None:
    scene = Scene(viewers_max=3)
    scenes.append(scene)
    watching = [scene.watch() for _ in range(3)]
    refused = scene.watch()
    assert refused.failed.check(Overloaded)  # type: ignore[attr-defined]
    assert refused.written == []
    watching[1].lose()
    assert not scene.watch().ended
    assert len(scene.viewers) == 3


def test_the_end_lets_everybody_go_at_once_and_breaks_off_who_does_not_read(scene: Scene) -> None:
    watching, stuck = scene.watch(), scene.watch()
    scene.run(2)
    stuck.producer.pauseProducing()
    scene.run(2)
    scene.viewers.stop()
    assert watching.ended
    assert not watching.aborted
    assert stuck.aborted
    assert stuck.ended
    assert scene.clock.getDelayedCalls() == []
    late = scene.watch()
    assert late.failed.check(Stopping)  # type: ignore[attr-defined]


def test_who_waits_while_nothing_can_be_seen_is_told_that_it_is_not_forgotten(scene: Scene) -> None:
    scene.stuck = True
    watching = scene.watch()
    scene.run(scene.limits.events_heartbeat_s + 0.5)
    assert watching.heard == RETRY + HEARTBEAT
    scene.stuck = False
    scene.run(scene.limits.events_heartbeat_s + 2)  # the next look was stuck already
    assert snapshots(watching)


def test_trouble_is_told_and_the_next_look_comes_all_the_same(scene: Scene) -> None:
    scene.trouble = PeerSilent("the first worker is silent")
    watching = scene.watch()
    scene.run(1)
    assert b'event: trouble\ndata: {"detail":"the first worker is silent"}\n\n' in watching.heard
    scene.trouble = None
    scene.run(2)
    assert snapshots(watching)


def test_a_bug_in_a_look_is_logged_and_the_next_one_comes(
    scene: Scene, no_logged_failure: list[dict[str, Any]]
) -> None:
    scene.trouble = ZeroDivisionError()
    watching = scene.watch()
    scene.run(0.5)
    scene.trouble = None
    scene.run(2)
    assert [one["log_failure"].type for one in no_logged_failure] == [ZeroDivisionError]
    no_logged_failure.clear()
    assert snapshots(watching)


def test_a_token_that_holds_no_more_ends_the_stream(scene: Scene) -> None:
    keyring = Keyring(Tokens([(SECRET, Access.READ_ONLY)]))
    known, free = scene.watch(Ticket(keyring, SECRET.encode())), scene.watch()
    scene.run(3)
    assert len(snapshots(known)) >= 3
    keyring.tokens = Tokens([("x" * 32, Access.READ_ONLY)])
    told = len(snapshots(known))
    scene.run(2)
    assert known.ended
    assert len(snapshots(known)) == told
    assert not free.ended


def test_a_glance_keeps_looks_coming_for_a_while_and_is_never_old(scene: Scene) -> None:
    found: list[Any] = []
    ensureDeferred(scene.viewers.glance()).addBoth(found.append)
    scene.run(0.2)
    assert found == [b"1"]
    scene.run(1)
    ensureDeferred(scene.viewers.glance()).addBoth(found.append)
    assert found[1] == b"%d" % scene.looks
    scene.run(60)
    assert scene.looks <= 2 * GLANCES
    assert scene.clock.getDelayedCalls() == []


def test_a_glance_at_what_cannot_be_seen_is_refused_with_the_reason(scene: Scene) -> None:
    scene.trouble = PeerSilent("silent")
    found: list[Any] = []
    ensureDeferred(scene.viewers.glance()).addBoth(found.append)
    scene.run(0.2)
    assert isinstance(found[0].value, KvError)
    assert found[0].value.detail == "silent"
    found.clear()
    scene.viewers.stop()
    ensureDeferred(scene.viewers.glance()).addBoth(found.append)
    assert found[0].check(Stopping)


def test_a_head_is_answered_and_no_stream_begins(scene: Scene) -> None:
    request = Asked()
    request.method = b"HEAD"
    done: list[Any] = []
    ensureDeferred(scene.viewers.watch(request, None)).addBoth(done.append)
    assert done == [b""]
    assert scene.clock.getDelayedCalls() == []


def read_events(stream: bytes) -> list[tuple[str, bytes]]:
    """Read a stream as a browser does (HTML Living Standard, section 9.2.6); at its end nothing may be left."""
    found: list[tuple[str, bytes]] = []
    name, data = "", []
    for line in re.split(rb"\r\n|\n|\r", stream):
        if not line:
            if data:
                found.append((name, b"\n".join(data)))
            name, data = "", []
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data.append(value)
    return found


@given(st.lists(st.binary(max_size=50), max_size=4))
def test_an_event_s_data_comes_out_as_it_went_in_whatever_lines_it_has(datas: list[bytes]) -> None:
    stream = RETRY + b"".join(event("told", data) + HEARTBEAT for data in datas)
    lines = [re.sub(rb"\r\n|\r", b"\n", data) for data in datas]
    assert read_events(stream) == [("told", data) for data in lines]
