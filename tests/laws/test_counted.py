"""What happened between two looks at what proxies' processes have counted."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.counted import Counted, counted_by, quantile, rates
from twisted_kv.metrics import SECONDS, ProxyMetrics

BOUNDS = (1.0, 2.0, 4.0)


def after(metrics: ProxyMetrics, *operations: tuple[str, str, float], under_way: int = 0) -> Counted:
    for kind, outcome, seconds in operations:
        metrics.operations.counts[kind, "strong", outcome] += 1
        metrics.seconds.labels(kind, "strong").observe(seconds)
    return counted_by(metrics, under_way)


def test_what_was_counted_between_two_looks_is_told_by_the_second() -> None:
    metrics = ProxyMetrics()
    first = after(metrics, *[("read", "ok", 0.002)] * 50)
    metrics.hints.inc(6)
    second = after(
        metrics,
        *[("read", "ok", 0.0004)] * 8,
        ("write", "ok", 0.02),
        ("change", "ok", 0.02),
        ("change", "precondition-failed", 0.001),
        ("read", "overloaded", 0.0001),
        ("refill", "ok", 3.0),
        under_way=3,
    )

    found = rates({1: first}, {1: second}, 2.0)

    assert found is not None
    assert found.per_s == {"read": 4.0, "write": 1.0}
    assert (found.failed_per_s, found.refused_per_s) == (0.5, 0.5)
    assert (found.hints_left_per_s, found.hints_replayed_per_s, found.under_way) == (3.0, 0.0, 3)
    read_p99, write_p50 = found.p99_ms["read"], found.p50_ms["write"]
    assert read_p99 is not None
    assert read_p99 <= 0.5
    assert write_p50 is not None
    assert 10.0 < write_p50 <= 25.0
    assert found.lag_p99_ms is None


def test_several_processes_are_added_up_and_their_times_put_together() -> None:
    one, other = ProxyMetrics(), ProxyMetrics()
    before = {1: after(one), 2: after(other)}
    now = {1: after(one, *[("read", "ok", 0.0001)] * 99), 2: after(other, ("read", "ok", 4.0))}

    found = rates(before, now, 1.0)

    assert found is not None
    assert found.per_s["read"] == 100.0
    p99_ms = found.p99_ms["read"]
    assert p99_ms is not None
    assert p99_ms <= 0.5


def test_a_process_that_began_anew_counts_from_its_start() -> None:
    old = after(ProxyMetrics(), *[("write", "ok", 0.1)] * 100)
    new = after(ProxyMetrics(), *[("write", "ok", 0.1)] * 3)

    found = rates({1: old, 2: old}, {1: old, 2: new}, 1.0)

    assert found is not None
    assert found.per_s["write"] == 3.0


def test_one_that_is_seen_for_the_first_time_tells_nothing_yet() -> None:
    metrics = ProxyMetrics()
    told = after(metrics, *[("read", "ok", 0.1)] * 1_000)

    assert rates({}, {1: told}, 1.0) is None
    found = rates({1: told}, {1: told, 2: told}, 1.0)
    assert found is not None
    assert found.per_s["read"] == 0.0


def test_what_was_counted_travels_as_json() -> None:
    told = after(ProxyMetrics(), ("read", "ok", 0.1), under_way=2)
    assert msgspec.json.decode(msgspec.json.encode(told), type=Counted) == told


@pytest.mark.parametrize(
    ("counts", "part", "found"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([4, 0, 0, 0], 0.5, 0.5),
        ([0, 4, 0, 0], 0.5, 1.5),
        ([1, 0, 1, 0], 0.99, 3.96),
        ([0, 0, 0, 5], 0.5, 4.0),
        ([0, 0, 7, 0], 0.0, 2.0),
    ],
)
def test_a_quantile_lies_evenly_between_two_bounds(counts: list[int], part: float, found: float | None) -> None:
    assert quantile(BOUNDS, counts, part) == (found if found is None else pytest.approx(found))


@given(st.lists(st.integers(0, 1000), min_size=len(SECONDS) + 1, max_size=len(SECONDS) + 1))
def test_quantiles_rise_and_lie_within_the_bounds(counts: list[int]) -> None:
    found = [quantile(SECONDS, counts, part) for part in (0.01, 0.5, 0.9, 0.99, 1.0)]
    if not sum(counts):
        assert found == [None] * 5
        return
    told = [one for one in found if one is not None]
    assert len(told) == 5
    assert told == sorted(told)
    assert told[0] >= 0
    assert told[-1] <= SECONDS[-1]
