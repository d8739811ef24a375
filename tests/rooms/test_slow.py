"""The slow-operation log: what is in a line, which operations get one, and how many lines there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from tests.rooms.street import SILENT, K, Outcome, Scene
from tests.strict_clock import StrictClock
from twisted_kv.limits import Limits
from twisted_kv.names import Key
from twisted_kv.quorum import Level
from twisted_kv.ring import fnv1a
from twisted_kv.slow import Sparing, named
from twisted_kv.tracing import Followed, Trace

TRACE = Trace("r-1", f"00-{'a' * 32}-{'b' * 16}-01")


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The lines that are written meanwhile, as events."""
    heard: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_namespace") == "twisted_kv.slow.SlowLog":
            heard.append(event)

    globalLogPublisher.addObserver(observe)
    yield heard
    globalLogPublisher.removeObserver(observe)


def slow_scene(**limits: float) -> Scene:
    scene = Scene(**limits)
    scene.street.hop_s = dict.fromkeys(map(str, scene.owners), 0.7)
    return scene


def test_a_write_that_took_long_says_who_answered_when(lines: list[dict[str, Any]]) -> None:
    scene = slow_scene()

    done = scene.put()
    scene.run(1)

    (line,) = lines
    assert (line["kind"], line["consistency"], line["operations"]) == ("write", "strong", 1)
    assert line["key_hash"] == fnv1a(K)
    assert line["seconds"] == pytest.approx(0.7)
    assert [step["what"] for step in line["steps"]] == ["agreed"] * 2
    assert {step["node"] for step in line["steps"]} < set(scene.owners)
    assert [step["trip_ms"] for step in line["steps"]] == [pytest.approx(700)] * 2
    assert done.result.request_id == line["request_id"]
    assert scene.metrics.registry.get_sample_value("kv_slow_operations_total", {"kind": "write"}) == 1
    scene.run(10)


def test_writes_that_go_together_have_one_line_and_one_id(lines: list[dict[str, Any]]) -> None:
    scene = slow_scene()

    done = [scene.put(key=Key(b"k%d" % number)) for number in range(50)]
    scene.run(1)

    (line,) = lines
    assert line["operations"] == 50
    assert {one.result.request_id for one in done} == {line["request_id"]}
    assert scene.metrics.registry.get_sample_value("kv_slow_operations_total", {"kind": "write"}) == 50
    scene.run(10)


@pytest.mark.parametrize("level", list(Level))
def test_what_was_fast_has_no_line_and_no_id(lines: list[dict[str, Any]], level: Level) -> None:
    scene = Scene()

    done = [scene.put(level=level)]
    scene.run(1)
    done.append(scene.get(level=level))
    scene.run(10)

    assert [one.result.request_id for one in done] == ["", ""]
    assert lines == []
    counted = scene.metrics.registry.get_sample_value
    for kind in ("read", "write"):
        assert counted("kv_operation_seconds_count", {"kind": kind, "level": level.value}) == 1
        seconds = counted("kv_operation_seconds_sum", {"kind": kind, "level": level.value})
        assert seconds is not None
        assert 0 < seconds < 0.1


@pytest.mark.parametrize("level", list(Level))
def test_what_failed_has_a_line_with_the_reason(lines: list[dict[str, Any]], level: Level) -> None:
    scene = Scene()
    scene.street.manner = dict.fromkeys(map(str, scene.owners), SILENT)

    failed = scene.get(level=level)
    scene.run(10)

    (line,) = lines
    assert (line["kind"], line["consistency"], line["detail"]) == ("read", level.value, failed.error.detail)
    assert failed.error.request_id == line["request_id"] != ""
    silent = {step["node"] for step in line["steps"] if "no answer" in step["what"]}
    assert silent == set(scene.owners) or level is not Level.ONE
    assert scene.metrics.registry.get_sample_value("kv_slow_operations_total", {"kind": "read"}) == 1


@pytest.mark.parametrize("level", list(Level))
def test_a_followed_operation_has_its_own_name_here_and_at_the_nodes(lines: list[dict[str, Any]], level: Level) -> None:
    scene = slow_scene()
    followed = [Followed(TRACE), Followed(TRACE)]

    outcomes = [Outcome(scene.coordinator.put(K, b"v", b"", level, followed=followed[0]), scene.clock)]
    scene.run(2)
    outcomes.append(Outcome(scene.coordinator.get(K, level, followed=followed[1]), scene.clock))
    scene.run(10)

    assert [line["request_id"] for line in lines] == ["r-1"] * len(lines)
    assert [line["traceparent"] for line in lines] == [TRACE.traceparent] * len(lines)
    assert len(lines) == 2
    assert [one.result.request_id for one in outcomes] == ["r-1", "r-1"]
    assert scene.street.traces == [{K: TRACE}] * len(scene.street.traces)
    assert len(scene.street.traces) >= 2
    assert all(one.steps for one in followed)
    assert scene.queues.transit.traced == 0


def test_nodes_hear_names_only_of_those_that_have_one() -> None:
    scene = Scene()

    scene.put(key=Key(b"plain"))
    Outcome(scene.coordinator.put(K, b"v", b"", Level.ALL, followed=Followed(TRACE)), scene.clock)
    Outcome(scene.coordinator.put(Key(b"other"), b"v", b"", Level.ALL), scene.clock)
    scene.run(1)
    mixed, scene.street.traces = scene.street.traces, []
    scene.put(key=Key(b"later"))
    scene.run(1)

    assert mixed == [{K: TRACE}] * len(scene.owners)
    assert scene.street.traces == [{}] * len(scene.owners)


def test_a_change_that_waited_for_another_one_says_so(lines: list[dict[str, Any]]) -> None:
    scene = slow_scene()
    followed = Followed(None, explains=True)

    scene.coordinator.change(K, lambda held: None, None)
    scene.coordinator.change(K, lambda held: None, None, 0, followed)
    scene.run(10)

    first, second = lines
    assert first["kind"] == second["kind"] == "change"
    assert second["seconds"] > first["seconds"]
    assert second["steps"] == followed.steps
    assert followed.steps[0]["at_ms"] == pytest.approx(first["seconds"] * 1000, abs=1)


def test_lines_beyond_a_few_are_counted_and_told_with_the_next_one() -> None:
    clock = StrictClock()
    sparing = Sparing(clock, Limits(slow_lines_max=2, slow_lines_s=10))

    first = [sparing.admits() for _ in range(5)]
    clock.advance(10)
    second = sparing.admits()

    assert (first, second) == ([True, True, False, False, False], True)
    assert sparing.kept_back() == {"suppressed": 3, "more": "; 3 such lines before it were left out"}
    assert sparing.kept_back() == {"suppressed": 0, "more": ""}


def test_a_node_names_a_few_requests_and_cuts_what_a_stranger_sent() -> None:
    assert named([]) == {"request_ids": [], "requests": ""}
    fields = named([TRACE, *[Trace("x" * 9_000, "y" * 9_000)] * 100])
    assert fields["request_ids"][:2] == ["r-1", "x" * 128]
    assert len(fields["request_ids"]) == 8
    assert max(map(len, fields["traceparents"])) == 55
